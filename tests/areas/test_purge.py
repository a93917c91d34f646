"""A purge: decay, detach, one hull, then pools ascending and the free tree descending (section 4.9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.address_space import AddressSpace, Purged
from vmalloc.policy import Policy

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x4000000
TOP = (1 << 64) - 1


def with_pool(count: int, kernel: str, nr_pages: int = 1) -> AddressSpace:
    """A space with ``count`` pooled areas of node 1."""
    space = AddressSpace(START, END, cpus=2, kernel=kernel)
    for address in [space.alloc(nr_pages * P, cpu=1) for _ in range(count)]:
        space.free(address)
    space.purge()
    assert space.shrinker_count() == count
    return space


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 31, 100])
def test_a_partial_decay_takes_a_quarter_from_the_head(kernel: str, count: int) -> None:
    space = with_pool(count, kernel)
    before = [area.start for area in space.pooled()]
    removed = count // 4
    if removed == 0 and kernel == "6.12":
        removed = count
    assert space.purge() == Purged(TOP, 0, 0)
    assert [area.start for area in space.pooled()] == before[removed:]
    space.validate()


def test_decay_runs_before_the_lazy_areas_are_taken() -> None:
    space = with_pool(8, "6.19")
    extra = space.alloc_again(P, cpu=1)
    space.free(extra)
    before = [area.start for area in space.pooled()]
    assert space.purge().count == 1
    assert [area.start for area in space.pooled()] == [extra, *before[2:]]


def test_each_size_and_each_node_decays_for_itself() -> None:
    space = AddressSpace(START, END, cpus=2)
    areas = [space.alloc(nr_pages * P, cpu=cpu) for cpu in (0, 1) for nr_pages in (1, 2) for _ in range(4)]
    for address in areas:
        space.free(address)
    space.purge()
    space.purge()
    counts = [len(space.allocator.nodes.pools.entries(node, nr_pages)) for node in (0, 1) for nr_pages in (1, 2)]
    assert counts == [3, 3, 3, 3]


def test_a_full_purge_empties_the_pools_and_fills_none() -> None:
    space = with_pool(6, "6.19")
    address = space.alloc_again(P, cpu=1)
    space.free(address)
    assert space.purge(full=True) == Purged(address, address + P, 1)
    assert space.pooled() == []
    assert [(b.start, b.end) for b in space.free_blocks()] == [(1, TOP)]


def test_the_shrinker_leaves_lazy_areas_alone() -> None:
    space = with_pool(6, "6.19")
    address = space.alloc_again(P, cpu=1)
    space.free(address)
    assert space.shrink() == 6
    assert [area.start for area in space.lazy()] == [address]
    assert (space.pooled(), space.nr_lazy, space.shrinker_count()) == ([], 1, 0)
    space.validate()


def test_areas_enter_their_pool_in_ascending_order_whatever_the_frees() -> None:
    space = AddressSpace(START, END, cpus=2)
    a, b, c = [space.alloc(P, cpu=1) for _ in range(3)]
    for address in (b, c, a):
        space.free(address)
    space.purge()
    assert [area.start for area in space.pooled()] == [c, b, a]


def root_after(kernel: str) -> int:
    """Frees four ranges that touch nothing in one purge; tells which of them became the root of the tree."""
    space = AddressSpace(START, END, kernel=kernel)
    areas = [space.alloc(P) for _ in range(9)]
    for address in areas[1::2]:
        space.free(address)
    space.purge()
    tree = space.allocator.free
    found: int = tree.rows.get(tree.root)["va_start"]
    return (found - START) // P


def test_areas_return_to_the_tree_descending_and_before_6_9_ascending() -> None:
    assert root_after("6.12") == root_after("6.19") == 7
    assert root_after("6.1") == 1


def test_the_hull_spans_all_nodes_and_what_the_caller_hands_in() -> None:
    space = AddressSpace(START, END, cpus=4)
    areas = [space.alloc(16 * P, cpu=cpu) for cpu in (0, 1, 2, 3)]
    space.free(areas[2])
    space.free(areas[1])
    assert space.unmap_aliases(areas[3], areas[3] + P) == (areas[1], areas[3] + P)
    space.free(areas[0])
    assert space.unmap_aliases(START - P, START) == (START - P, areas[0] + 16 * P)


def test_an_empty_purge_with_a_range_flushes_it_only_when_asked() -> None:
    space = AddressSpace(START, END)
    assert space.unmap_aliases(START, START + P) is None
    assert space.unmap_aliases(START, START + P, flush=True) == (START, START + P)
    assert space.unmap_aliases() is None


@given(st.data())
def test_pages_are_counted_until_they_are_purged(data: st.DataObject) -> None:
    space = AddressSpace(START, END, cpus=data.draw(st.sampled_from([1, 3])))
    sizes = data.draw(st.lists(st.integers(1, 300), max_size=8))
    addresses = [space.alloc(size * P, cpu=i % space.cpus) for i, size in enumerate(sizes)]
    for i, address in enumerate(addresses):
        space.free(address)
        assert space.nr_lazy == sum(sizes[: i + 1])
    assert space.purge(data.draw(st.booleans())).count == len(sizes)
    assert space.nr_lazy == 0
    assert space.allocator.purge.overlaps == 0
    space.validate()


def test_a_record_that_overlaps_a_free_block_is_lost_and_counted() -> None:
    """The kernel warns and leaks; nothing else may be harmed."""
    space = AddressSpace(START, END)
    a, b = space.alloc(P), space.alloc(P)
    space.free(a)
    space.allocator.free.add(a, a + P)  # somebody gave the range away twice
    free = space.allocator.free.blocks()
    assert space.purge().count == 1
    assert space.allocator.purge.overlaps == 1
    assert space.allocator.free.blocks() == free
    assert [area.start for area in space.busy()] == [b]
    space.validate()


# -- other rules than the kernel's ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 31])
@pytest.mark.parametrize(("decay", "divisor"), [("none", None), ("all", 1), ("half", 2), ("1/3", 3), ("1/4", 4)])
def test_a_policy_chooses_the_part_that_decays(kernel: str, count: int, decay: str, divisor: int | None) -> None:
    """Section 4.9 with another number; the quirk of 6.12 belongs to the kernel's quarter only."""
    space = AddressSpace(START, END, cpus=2, kernel=kernel, policy=Policy(decay=decay))
    for address in [space.alloc(P, cpu=1) for _ in range(count)]:
        space.free(address)
    space.purge()
    before = [area.start for area in space.pooled()]
    assert len(before) == count
    space.purge()
    assert [area.start for area in space.pooled()] == before[count // divisor if divisor else 0 :]
    space.validate()


def test_without_pools_purged_areas_are_free_and_merge() -> None:
    space = AddressSpace(START, END, cpus=2, policy=Policy(pools=False))
    for address in [space.alloc(P, cpu=cpu) for cpu in (0, 1, 0, 1)]:
        space.free(address)
    assert space.purge().count == 4
    assert space.pooled() == []
    assert [(b.start, b.end) for b in space.free_blocks()] == [(1, TOP)]
    assert (space.alloc(P, cpu=1), space.stats()["pool_hits"]) == (START, 0)
    space.validate()
