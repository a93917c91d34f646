"""Layout of chunks: units, groups, allocs (section 7.2)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from vmalloc.errors import BadRequest
from vmalloc.machine.base import MachineInfo
from vmalloc.percpu.layout import (
    PercpuSettings,
    atom_size_of,
    cpu_to_node,
    make_layout,
    page_layout,
    units_per_alloc,
)
from vmalloc.space.simulated import simulated
from vmalloc.units import KIB, MIB


def info_of(arch: str = "x86_64", cpus: int = 4, nodes: int = 1) -> MachineInfo:
    found: MachineInfo = simulated(arch, cpus=cpus, nodes=nodes, memory="256MiB").machine.info
    return found


@pytest.mark.parametrize(
    ("cpus", "nodes", "upa", "unit_size", "group_sizes"),
    [
        # What boots of common x86-64 kernels print as "u": 2 MiB divided by the units in it.
        (1, 1, 1, 2 * MIB, (2 * MIB,)),
        (2, 1, 2, MIB, (2 * MIB,)),
        (3, 1, 4, 512 * KIB, (2 * MIB,)),
        (4, 1, 4, 512 * KIB, (2 * MIB,)),
        (4, 2, 2, MIB, (2 * MIB, 2 * MIB)),
        (5, 1, 2, MIB, (6 * MIB,)),
        (6, 1, 8, 256 * KIB, (2 * MIB,)),
        (8, 1, 8, 256 * KIB, (2 * MIB,)),
        (8, 8, 1, 2 * MIB, (2 * MIB,) * 8),
        (64, 1, 8, 256 * KIB, (16 * MIB,)),
        (64, 8, 8, 256 * KIB, (2 * MIB,) * 8),
    ],
)
def test_units_of_x86_64(
    cpus: int, nodes: int, upa: int, unit_size: int, group_sizes: tuple[int, ...]
) -> None:
    layout = make_layout(info_of(cpus=cpus, nodes=nodes), PercpuSettings())
    assert (layout.upa, layout.unit_size) == (upa, unit_size)
    assert layout.group_sizes == group_sizes


def slow_upa(alloc: int, min_unit: int, page_size: int, sizes: list[int]) -> int:
    """All that are possible and waste at most a third; of those the fewest allocs, of these the largest units.

    Wasted units are counted as in the text; from the largest upa on, allocs may not grow.
    """
    possible = [
        upa for upa in range(alloc // min_unit, 0, -1) if alloc % upa == 0 and alloc // upa % page_size == 0
    ]
    good = []
    for upa in possible:
        allocs = sum(-(-size // upa) for size in sizes)
        if upa == 1 or allocs * upa - sum(sizes) <= sum(sizes) // 3:
            good.append((allocs, upa))
    return min(good)[1]


def test_any_number_of_cpus_on_any_number_of_nodes() -> None:
    """Section 7.2: as few allocs as possible, at most a third of the CPUs wasted; every CPU has a unit of its own."""
    for cpus in range(1, 65):
        for nodes in (1, 2, 3, 5, 8):
            check_layout(cpus, nodes)


def check_layout(cpus: int, nodes: int) -> None:
    """The promises of section 7.2 for one machine."""
    info = MachineInfo(**{**vars(INFO), "cpus": cpus, "nodes": nodes})
    layout = make_layout(info, PercpuSettings())
    sizes = [len(group.cpus) for group in layout.groups]
    assert sum(sizes) == cpus
    assert [cpu for group in layout.groups for cpu in group.cpus] == list(range(cpus))
    assert all(cpu_to_node(cpu, cpus, nodes) == group.node for group in layout.groups for cpu in group.cpus)
    assert layout.upa == slow_upa(2 * MIB, layout.size_sum, 4096, sizes)
    assert layout.unit_size % 4096 == 0
    assert layout.unit_size >= layout.size_sum
    units = sorted(layout.unit_offsets)
    assert all(b - a >= layout.unit_size for a, b in pairwise(units))
    assert len(set(units)) == cpus
    for group, offset, size in zip(layout.groups, layout.group_offsets, layout.group_sizes, strict=True):
        assert offset % layout.atom_size == size % layout.atom_size == 0
        assert all(offset <= layout.unit_offsets[cpu] <= offset + size - layout.unit_size for cpu in group.cpus)
        assert group.nr_units % layout.upa == 0
    wasted = sum(group.nr_units for group in layout.groups) - cpus
    assert wasted <= cpus // 3 or layout.upa == 1


INFO = info_of()


@pytest.mark.parametrize(
    ("arch", "atom"),
    [
        ("x86_64", 2 * MIB),
        ("x86_64_la57", 2 * MIB),
        ("x86_32", 4 * KIB),
        ("x86_32_pae", 4 * KIB),
        ("ppc64_radix", MIB),
        ("arm64_4k", 4 * KIB),
        ("arm64_64k", 64 * KIB),
        ("s390x", 4 * KIB),
    ],
)
def test_atom_sizes(arch: str, atom: int) -> None:
    assert atom_size_of(info_of(arch)) == atom


def test_x86_64_without_large_pages_allots_pages() -> None:
    info = MachineInfo(**{**vars(INFO), "vmap_shifts": ()})
    assert atom_size_of(info) == 4096
    layout = make_layout(info, PercpuSettings())
    assert (layout.upa, layout.unit_size) == (1, layout.size_sum)


def test_units_are_never_below_32_kib() -> None:
    """Section 7.2: PCPU_MIN_UNIT_SIZE, so that an object of the largest size always fits."""
    settings = PercpuSettings(static_size=0, reserved_size=0, dynamic_size=0, atom_size=4096)
    layout = make_layout(INFO, settings)
    assert layout.size_sum == 20 * KIB  # PERCPU_DYNAMIC_EARLY_SIZE
    assert layout.unit_size == 32 * KIB
    assert units_per_alloc(2 * MIB, 32 * KIB, 4096, [64]) == 64


def test_the_other_layout_is_one_group_of_whole_pages() -> None:
    layout = page_layout(info_of(cpus=6, nodes=2), PercpuSettings())
    assert (layout.kind, layout.upa, layout.atom_size) == ("page", 1, 4096)
    assert layout.group_offsets == (0,)
    assert layout.unit_offsets == tuple(i * layout.unit_size for i in range(6))
    assert layout.span == 6 * layout.unit_size


def test_groups_elsewhere_move_their_units() -> None:
    layout = make_layout(info_of(cpus=4, nodes=2), PercpuSettings()).at((6 * MIB, 0))
    assert layout.unit_offsets == (6 * MIB, 7 * MIB, 0, MIB)
    assert (layout.lowest_unit, layout.highest_unit, layout.span) == (0, 7 * MIB, 8 * MIB)


@pytest.mark.parametrize(
    "wrong",
    [
        {"static_size": -8}, {"reserved_size": 12}, {"dynamic_size": 1 << 40}, {"atom_size": 12288},
        {"first_chunk": "here"}, {"unit_size": 4096},
    ],
)  # fmt: skip
def test_settings_that_are_none(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest, match=next(iter(wrong))):
        simulated(percpu=wrong)


def test_an_atom_below_the_page_is_refused() -> None:
    with pytest.raises(BadRequest, match="at least a page"):
        make_layout(info_of("arm64_64k"), PercpuSettings(atom_size=4096))
