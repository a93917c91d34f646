"""What an architecture answers: its arithmetic against counting, its records by release, the direct map."""

from __future__ import annotations

import doctest
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.simulated.arch.known import KNOWN, MIDDLE, NEW, OLD
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES, LEVEL_NAMES, Arch, HugeUse, model
from vmalloc.units import GIB, KIB, MIB


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ARCHITECTURES["x86_64"].page_shift = 13  # type: ignore[misc]


def test_the_examples_in_the_docstrings() -> None:
    results = doctest.testmod(model)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("x86_64", [4 * KIB] * 4),
        ("x86_32", [4 * KIB] * 2),
        ("x86_32_pae", [32, 4 * KIB, 4 * KIB]),
        ("arm32", [16 * KIB, 4 * KIB]),
        ("arm64_64k", [512, 64 * KIB, 64 * KIB]),
        ("ppc64_radix", [64 * KIB, 4 * KIB, 4 * KIB, 256]),
        ("s390x", [16 * KIB, 16 * KIB, 16 * KIB, 16 * KIB, 2 * KIB]),
    ],
)
def test_memory_of_a_table(name: str, sizes: list[int]) -> None:
    arch = ARCHITECTURES[name]
    assert [arch.table_size(level) for level in arch.levels] == sizes


# -- arithmetic against counting ---------------------------------------------------------------------------------------


def address_in(arch: Arch) -> st.SearchStrategy[int]:
    """Addresses of the kernel range, often at the edges of what an entry maps."""
    anywhere = st.integers(arch.kernel_start, arch.kernel_end - 1)
    near_an_edge = st.builds(
        lambda address, level, step: (address >> level.shift << level.shift) + step,
        anywhere,
        st.sampled_from(arch.levels),
        st.integers(-1, 1),
    ).filter(lambda address: arch.kernel_start <= address < arch.kernel_end)
    return anywhere | near_an_edge


arch_and_address = st.sampled_from(list(KNOWN.values())).flatmap(
    lambda arch: st.tuples(st.just(arch), address_in(arch))
)


@given(pair=arch_and_address)
def test_a_walk_by_index_is_a_walk_by_counting(pair: tuple[Arch, int]) -> None:
    arch, address = pair
    base = arch.kernel_start - arch.kernel_start % 2**arch.address_bits
    for level in arch.levels:
        entries = range(base, base + level.span, level.size)
        holding = [i for i, start in enumerate(entries) if start <= address < start + level.size]
        assert holding == [arch.index(level, address)]
        base = entries[holding[0]]
    assert base == address - address % arch.page_size


@given(pair=arch_and_address, other=st.data())
def test_different_pages_have_different_walks(pair: tuple[Arch, int], other: st.DataObject) -> None:
    arch, first = pair
    second = other.draw(address_in(arch))
    walks = [[arch.index(level, address) for level in arch.levels] for address in (first, second)]
    assert (walks[0] == walks[1]) == (first >> arch.page_shift == second >> arch.page_shift)


@given(arch=st.sampled_from(list(KNOWN.values())), name=st.sampled_from(LEVEL_NAMES))
def test_a_level_is_found_at_or_above_its_name(arch: Arch, name: str) -> None:
    candidates = [level for level in arch.levels if LEVEL_NAMES.index(level.name) <= LEVEL_NAMES.index(name)]
    assert arch.level(name) == min(candidates, key=lambda level: level.shift)


def test_a_level_the_kernel_does_not_have() -> None:
    with pytest.raises(ValueError, match="no level 'p5d'; the kernel's are pgd, p4d"):
        ARCHITECTURES["x86_64"].level("p5d")


@given(arch=st.sampled_from(list(KNOWN.values())), kernel=st.sampled_from([OLD, MIDDLE, NEW]))
def test_leaves_descend_and_vmalloc_accepts_no_more_than_vmap(arch: Arch, kernel: Any) -> None:
    vmap, vmalloc = (arch.leaf_shifts(kernel, use) for use in (HugeUse.VMAP, HugeUse.VMALLOC))
    assert list(vmap) == sorted(set(vmap), reverse=True)
    assert set(vmalloc) <= set(vmap)
    assert all(shift > arch.page_shift for shift in vmap)


# -- the direct map ----------------------------------------------------------------------------------------------------


def test_highmem_is_not_in_the_direct_map() -> None:
    arch = ARCHITECTURES["x86_32"]
    assert arch.direct_map_end(512 * MIB) == 0xE000_0000
    assert arch.direct_map_end(896 * MIB) == 0xF800_0000
    assert arch.direct_map_end(2 * GIB) == 0xF800_0000


@pytest.mark.parametrize(
    ("name", "room", "text"),
    [
        ("s390x", 0x37F_E000_0000, "3.5 TiB"),  # up to the vmalloc range
        ("ppc64_radix", 2**51, "2048 TiB"),
        ("riscv64_sv39", 2**64 - 0xFFFF_FFD6_0000_0000, "168 GiB"),  # up to the end of the kernel range
        ("loongarch64", 0x6FFF_8000_0000_0000, "TiB"),  # up to the kernel range
    ],
)
def test_more_memory_than_the_direct_map_has_room_for(name: str, room: int, text: str) -> None:
    arch = ARCHITECTURES[name]
    assert arch.direct_map_end(room) == arch.direct_map_start + room
    with pytest.raises(BadRequest, match=f"{name} has .*{text} of addresses for memory"):
        arch.direct_map_end(room + arch.page_size)


@given(arch=st.sampled_from(list(KNOWN.values())), size=st.integers(0, 32 * GIB))
def test_the_direct_map_is_as_long_as_low_memory_and_beside_the_vmalloc_range(arch: Arch, size: int) -> None:
    start, end = arch.direct_map_start, arch.direct_map_end(size)
    assert end - start == (size if arch.word_bits == 64 else min(size, arch.lowmem_limit or 0))
    assert end <= arch.vmalloc_start or start >= arch.vmalloc_end
