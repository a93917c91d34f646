"""Vmap nodes: the busy set by address, the lazy set by allocating CPU, and the walk between them (4.5-4.7, 1.12)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.nodes import VmapNodes, encode_node, zone_of
from vmalloc.areas.rows import AreaRows

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x4000000


def nodes_of(count: int) -> VmapNodes:
    return VmapNodes(AreaRows(), count, 12, False, -1)


def test_zones_are_16_pages_dealt_round_robin() -> None:
    nodes = nodes_of(4)
    assert nodes.zone_size == 0x10000
    assert [nodes.node_of_address(START + zone * 0x10000) for zone in range(6)] == [0, 1, 2, 3, 0, 1]
    assert nodes.node_of_address(START + 0xFFFF) == 0
    assert nodes_of(3).node_of_address((1 << 64) - 1) == ((1 << 64) - 1) // 0x10000 % 3


def test_one_node_has_zone_1_and_everything() -> None:
    assert zone_of(1, 12) == 1
    assert zone_of(2, 16) == 16 << 16
    assert nodes_of(1).node_of_address(0xDEADBEEF000) == 0


def test_the_mark_of_a_node_is_its_number_plus_1() -> None:
    assert [encode_node(n) for n in (0, 1, 127)] == [0x100, 0x200, 0x8000]


@pytest.mark.parametrize(
    ("flags", "home"), [(0, 1), (0x100, 0), (0x400, 3), (0x403, 3), (0x500, 1), (0xFF00, 1), (3, 1)]
)
def test_a_row_goes_home_to_its_mark_and_without_a_valid_one_to_its_address(flags: int, home: int) -> None:
    space = AddressSpace(START, END, cpus=4)
    address = START + 0x10000
    space.allocator.put(address, address + P, flags)
    assert space.allocator.nodes.home_of(space.allocator.find_busy(address)) == home
    space.free(address)
    assert [(area.node, area.start) for area in space.lazy()] == [(home, address)]
    space.validate()


def test_the_mark_is_of_the_allocating_cpu_not_of_the_address() -> None:
    space = AddressSpace(START, END, cpus=3)
    for cpu in (2, 1, 0, 2):
        area = space.find(space.alloc(P, cpu=cpu))
        assert area is not None
        assert area.flags == (cpu + 1) << 8
        assert area.node == area.start // 0x10000 % 3


def test_no_mark_with_another_window_or_one_node() -> None:
    for cpus, window in ((4, (START, END - P)), (1, (START, END))):
        space = AddressSpace(START, END, cpus=cpus)
        area = space.find(space.alloc(P, 1, *window, cpu=cpus - 1))
        assert area is not None
        assert area.flags == 0


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=12), cpus=st.integers(1, 6))
def test_every_address_finds_its_area_whatever_zone_it_is_in(kernel: str, sizes: list[int], cpus: int) -> None:
    space = AddressSpace(START, END, cpus=cpus, kernel=kernel)
    for i, size in enumerate(sizes):
        start = space.alloc(size * P, cpu=i % cpus)
        for inner in {start, start + 1, start + size * P // 2, start + size * P - 1}:
            area = space.find(inner)
            assert area is not None
            assert (area.start, area.size) == (start, size * P)
    assert space.find(START - 1) is None
    assert space.find(START + sum(sizes) * P) is None


def test_the_nodes_are_walked_down_since_6_17_and_up_before() -> None:
    assert AddressSpace(START, END, cpus=4, kernel="6.19").allocator.nodes.walk_step == -1
    assert AddressSpace(START, END, cpus=4, kernel="6.12").allocator.nodes.walk_step == 1


def test_busy_areas_of_all_nodes_in_the_order_of_vmallocinfo() -> None:
    space = AddressSpace(START, END, cpus=2)
    starts = [space.alloc(12 * P) for _ in range(6)]
    by_node = sorted(starts, key=lambda a: (a // 0x10000 % 2, a))
    assert [area.start for area in space.busy()] == by_node
    assert by_node != starts


def test_lazy_areas_are_not_merged_since_6_9() -> None:
    space = AddressSpace(START, END, kernel="6.12")
    for address in [space.alloc(P) for _ in range(4)]:
        space.free(address)
    assert len(space.lazy()) == 4


@given(st.permutations(range(8)), st.integers(1, 8))
def test_lazy_neighbours_merge_in_6_1(order: list[int], count: int) -> None:
    space = AddressSpace(START, END, kernel="6.1")
    for _ in range(8):
        space.alloc(2 * P)
    for i in order[:count]:
        space.free(START + i * 2 * P)
        space.validate()
    merged: list[list[int]] = []
    for i in sorted(order[:count]):
        if merged and merged[-1][1] == i:
            merged[-1][1] = i + 1
        else:
            merged.append([i, i + 1])
    assert [(a.start, a.end) for a in space.lazy()] == [(START + s * 2 * P, START + e * 2 * P) for s, e in merged]
    assert space.nr_lazy == 2 * count
    assert space.stats()["lazy_areas"] == len(merged)
