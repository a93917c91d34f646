"""Pools: last in, first out, by exact size, and only the head is looked at (section 4.8)."""

from __future__ import annotations

import pytest

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.states import POOLED
from vmalloc.areas.validate import validate_pools

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x10000000


def pooled(*sizes: int, cpus: int = 2, cpu: int = 1, kernel: str = "6.19") -> tuple[AddressSpace, list[int]]:
    """A space in which areas of these page counts were allocated by one CPU, freed and drained."""
    space = AddressSpace(START, END, cpus=cpus, kernel=kernel)
    addresses = [space.alloc(size * P, cpu=cpu) for size in sizes]
    for address in addresses:
        space.free(address)
    space.purge()
    validate_pools(space.allocator.nodes.pools)
    return space, addresses


def starts(space: AddressSpace, node: int, nr_pages: int) -> list[int]:
    pools = space.allocator.nodes.pools
    return [pools.rows.get(row)["va_start"] for row in pools.entries(node, nr_pages)]


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_reuse_is_last_in_first_out(kernel: str) -> None:
    space, (a, b, c) = pooled(3, 3, 3, kernel=kernel)
    assert starts(space, 1, 3) == [c, b, a]
    assert [space.alloc(3 * P, cpu=1) for _ in range(3)] == [c, b, a]
    assert space.stats()["pool_hits"] == 3
    assert space.allocator.nodes.pools.description(1, 3) == (0, 0, 0)


def test_a_pool_serves_its_exact_size_only() -> None:
    space, addresses = pooled(1, 2, 4)
    assert space.alloc(3 * P, cpu=1) not in addresses
    assert space.alloc(2 * P, cpu=1) == addresses[1]


def test_a_pool_serves_the_cpus_of_its_node_only() -> None:
    space, (address,) = pooled(2)
    assert space.alloc(2 * P, cpu=0) != address
    assert space.alloc(2 * P, cpu=1) == address


def test_another_window_does_not_look_at_pools() -> None:
    space, (address,) = pooled(2)
    assert space.alloc(2 * P, 1, START, END - P, cpu=1) != address
    assert space.alloc(2 * P, 1, START, END, cpu=1) == address


def test_an_area_of_another_window_is_not_pooled() -> None:
    space = AddressSpace(START, END, cpus=2)
    address = space.alloc(2 * P, 1, START, END - P, cpu=1)
    space.free(address)
    space.purge()
    assert space.pooled() == []
    assert space.alloc(2 * P, cpu=1) == address


@pytest.mark.parametrize(("nr_pages", "pooled_areas"), [(1, 1), (255, 1), (256, 1), (257, 0)])
def test_the_largest_pooled_area_has_256_pages(nr_pages: int, pooled_areas: int) -> None:
    space, (address,) = pooled(nr_pages)
    assert len(space.pooled()) == pooled_areas
    assert space.alloc(nr_pages * P, cpu=1) == address
    assert space.stats()["pool_hits"] == pooled_areas


def test_one_node_never_pools() -> None:
    space, _addresses = pooled(1, 2, cpus=1, cpu=0)
    assert space.pooled() == []
    space, _addresses = pooled(1, 2, cpus=4, kernel="6.1")
    assert space.pooled() == []


def test_a_misaligned_head_moves_to_the_tail_even_when_the_attempt_fails() -> None:
    space, addresses = pooled(2, 2, 2)
    assert starts(space, 1, 2) == addresses[::-1]
    with pytest.raises(MemoryError):
        space.alloc_nowait(2 * P, 1 << 40, cpu=1)
    assert starts(space, 1, 2) == [addresses[1], addresses[0], addresses[2]]
    validate_pools(space.allocator.nodes.pools)


def test_a_single_misaligned_entry_stays() -> None:
    space, (first, address) = pooled(1, 2)
    assert address == START + P
    assert space.alloc(2 * P, 2 * P, cpu=1) != address
    assert starts(space, 1, 2) == [address]
    validate_pools(space.allocator.nodes.pools)
    assert space.alloc(2 * P, P, cpu=1) == address
    assert starts(space, 1, 1) == [first]


def test_a_second_attempt_does_not_look_at_pools() -> None:
    space, (address,) = pooled(2)
    assert space.alloc_again(2 * P, cpu=1) != address
    assert starts(space, 1, 2) == [address]


def test_pooled_rows_say_so_and_are_in_no_other_structure() -> None:
    space, addresses = pooled(2, 2)
    rows = space.allocator.rows
    assert [rows.get(n)["state"] for n in space.allocator.nodes.pools.entries(1, 2)] == [POOLED, POOLED]
    assert (space.busy(), space.lazy(), space.nr_lazy) == ([], [], 0)
    assert all(space.find(address) is None for address in addresses)


def test_a_pooled_area_takes_the_flags_of_its_next_user() -> None:
    space, (address,) = pooled(2)
    space.alloc(2 * P, cpu=1, flags=1)
    area = space.find(address)
    assert area is not None
    assert area.flags == 0x201
