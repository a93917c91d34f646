"""Leaves split, empty tables freed, everything freed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machine.simulated.page_tables.rig import EBUSY, EINVAL, ENOMEM, RX, Rig
from vmalloc.machine.simulated.arch import ARCHITECTURES, Leaf, LeafNeed

pytestmark = pytest.mark.both_builds

K, M, G = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("arch", "size", "steps"),
    [
        ("x86_64", G, [{21: 512}, {12: 512, 21: 511}]),
        ("arm64_4k", 2 * M, [{16: 32}, {12: 16, 16: 31}]),
        ("arm64_16k", 32 * M, [{21: 16}, {14: 128, 21: 15}]),
        ("ppc64_radix", 2 * M, [{16: 32}]),
        ("x86_32_pae", 2 * M, [{12: 512}]),
    ],
)
def test_a_split_maps_the_same_by_the_next_smaller_size(arch: str, size: int, steps: list[dict[int, int]]) -> None:
    rig = Rig(arch)
    pages = size // rig.page
    assert rig.map_range(rig.base, 3 * pages, size, prot=RX) == 0
    address = rig.base + size // 2 + 5
    for expected in steps:
        generation = rig.tables.generation
        assert rig.tables.do_split(address) == 0
        assert rig.tables.generation == generation + 1
        assert rig.tables.leaves_by_shift() == expected
        for k in (0, 1, pages // 2, pages - 1):
            for root in range(3):
                pfn, _shift, prot = rig.walk(rig.base + k * rig.page, root)
                assert (pfn, prot) == (3 * pages + k, RX)
        rig.validate()
    assert rig.tables.do_split(address) == EINVAL, "a page cannot be split"
    assert rig.unmap(rig.base, size) == pages
    rig.validate()


def test_a_split_without_a_frame_changes_nothing() -> None:
    rig = Rig("x86_64")
    assert rig.map_range(rig.base, 0, 2 * M) == 0
    rig.exhaust()
    generation = rig.tables.generation
    assert rig.tables.do_split(rig.base) == ENOMEM
    assert rig.tables.leaves_by_shift() == {21: 1}
    assert rig.tables.generation == generation
    rig.validate()


def test_a_group_is_split_without_a_frame() -> None:
    rig = Rig("arm64_4k")
    assert rig.map_range(rig.base, 0, 64 * K) == 0
    rig.exhaust()
    assert rig.tables.do_split(rig.base + 60 * K) == 0
    assert rig.tables.leaves_by_shift() == {12: 16}
    assert rig.tables.mask == 16
    rig.validate()


@pytest.mark.parametrize(("accepted", "expected"), [((14, 19), {14: 32}), ((19,), {12: 128})])
def test_a_group_becomes_groups_of_the_next_smaller_size_that_is_accepted(
    accepted: tuple[int, ...], expected: dict[int, int]
) -> None:
    leaves = tuple(Leaf(shift) for shift in accepted)
    rig = Rig(replace(ARCHITECTURES["x86_32"], pte_groups=(14, 19), huge_vmap=leaves))
    assert rig.map_range(rig.base, 256, 512 * K) == 0
    assert rig.tables.leaves_by_shift() == {19: 1}
    assert rig.tables.do_split(rig.base + 100 * K) == 0
    assert rig.tables.leaves_by_shift() == expected
    assert rig.walk(rig.base + 511 * K)[0] == 256 + 127
    rig.validate()


def test_what_cannot_be_split_is_refused() -> None:
    rig = Rig("x86_64", missing=frozenset({LeafNeed.PSE}))
    assert rig.tables.do_split(rig.base) == EINVAL, "nothing is mapped"
    assert rig.tables.do_split(0) == EINVAL, "not an address of the kernel"
    assert rig.map_range(rig.base, 0, G) == 0
    assert rig.tables.leaves_by_shift() == {30: 1}
    assert rig.tables.do_split(rig.base) == EINVAL, "there are no leaves of 2 MiB on this machine"
    rig.validate()


def test_empty_tables_are_freed_and_others_stay() -> None:
    """Section 8.6: unmapping frees no tables; this does, and the kernel does not."""
    rig = Rig("x86_64", nr_roots=1)
    boot = rig.tables.table_bytes
    for at in (0, 2 * M, G):
        assert rig.map(rig.base + at, 1) == 0
    assert rig.tables.table_bytes == boot + 5 * 4096
    rig.unmap(rig.base + 2 * M, 2 * M)
    assert rig.tables.table_bytes == boot + 5 * 4096
    assert rig.tables.free_empty_tables() == 4096, "the PTE table behind 2 MiB"
    assert rig.walk(rig.base)[0] == rig.walk(rig.base + G)[0] == 1
    rig.validate()
    rig.unmap(rig.base, 2 * G)
    rig.tables.free_empty_tables()
    assert rig.tables.table_bytes == boot
    assert rig.tables.free_empty_tables() == 0
    rig.validate()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_freed_table_is_not_used_any_more(arch: str) -> None:
    """The tables used last are remembered; freeing must end that."""
    rig = Rig(arch)
    start = rig.arch.vmalloc_start
    assert rig.map(start, 1) == 0
    assert rig.walk(start)[0] == 1
    rig.unmap(start, rig.page)
    rig.tables.free_empty_tables()
    rig.memory.drain()
    taken = [rig.memory.allocate() for _ in range(8)]
    for pfn in taken:
        rig.memory.contents.store(pfn, 0, b"\xff" * rig.page)
    assert rig.walk(start) is None
    assert rig.map(start, 2, 3) == 0
    assert rig.walk(start + rig.page)[0] == 3
    assert rig.map(start, 2) == EBUSY
    rig.validate()
    assert all(rig.memory.contents.load(pfn) == b"\xff" * rig.page for pfn in taken)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_closing_frees_every_table_whatever_it_maps(arch: str) -> None:
    rig = Rig(arch)
    assert rig.map(rig.base, 1, 2, 3) == 0
    assert rig.map_range(rig.base + rig.arch.levels[-2].size, 0, rig.arch.levels[-2].size) == 0
    rig.tables.close()
    assert rig.memory.outstanding("page tables") == []
    assert (rig.tables.table_bytes, rig.tables.leaves_by_shift()) == (0, {})
    rig.validate()
    assert rig.walk(rig.base) is None
    assert rig.map(rig.base, 1) == EINVAL
    assert rig.map_range(rig.base, 1, rig.page) == EINVAL
    assert rig.tables.do_split(rig.base) == EINVAL
    assert rig.unmap(rig.base, rig.page) == 0
    assert rig.tables.free_empty_tables() == 0
    rig.tables.close()
