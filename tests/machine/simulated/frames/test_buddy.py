"""The buddy allocator: which block is taken, what a split leaves behind, what merges, what is never touched."""

from __future__ import annotations

import pytest

from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.frames.states import MAX_ORDER

pytestmark = pytest.mark.both_builds


def machine(nr_frames: int = 4096, **more: int) -> PhysicalMemory:
    """One node, one zone, no lists of CPUs: every call is the buddy's."""
    return PhysicalMemory([nr_frames], batch=0, high=0, dma32_limit=0, **more)


def blocks(memory: PhysicalMemory) -> list[int]:
    memory.validate()
    return list(memory.stats()[0].free_blocks)


def test_untouched_blocks_are_taken_from_the_lowest_on() -> None:
    memory = machine()
    assert [memory.allocate(MAX_ORDER) for _ in range(4)] == [0, 1024, 2048, 3072]
    assert blocks(memory) == [0] * 11


def test_a_split_hands_out_the_low_half_and_keeps_the_high_one() -> None:
    memory = machine()
    assert memory.allocate(7) == 0
    assert blocks(memory) == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 3]
    assert memory.allocate(7) == 128
    assert memory.allocate(9) == 512
    assert memory.allocate(0) == 256
    assert blocks(memory) == [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 3]


def test_the_smallest_block_that_does_is_split() -> None:
    memory = machine()
    first, *_ = [memory.allocate(10) for _ in range(4)]
    memory.split(first, 10)
    for pfn in (8, 9, 10, 11, 64, 65):
        memory.release(pfn)
    assert memory.allocate(1) == 64
    assert memory.allocate(0) == 8


def test_lists_are_last_in_first_out() -> None:
    memory = machine()
    memory.split(memory.allocate(10), 10)
    for pfn in (2, 40, 20, 60):
        memory.release(pfn)
    assert [memory.allocate() for _ in range(4)] == [60, 20, 40, 2]


@pytest.mark.parametrize("order", range(MAX_ORDER))
def test_two_buddies_merge_whichever_comes_last(order: int) -> None:
    for upper_first in (False, True):
        memory = machine(1024)
        before = blocks(memory)
        pair = [memory.allocate(order), memory.allocate(order)]
        assert pair == [0, 1 << order]
        for pfn in reversed(pair) if upper_first else pair:
            memory.release(pfn, order)
            memory.validate()
        assert blocks(memory) == before


def test_neighbours_that_are_no_buddies_do_not_merge() -> None:
    memory = machine(1024)
    memory.split(memory.allocate(10), 10)
    memory.release(1)
    memory.release(2)
    assert blocks(memory)[:2] == [2, 0]
    memory.release(3)
    assert blocks(memory)[:2] == [1, 1]
    memory.release(0)
    assert blocks(memory)[:3] == [0, 0, 1]


def test_a_buddy_in_smaller_pieces_does_not_merge() -> None:
    memory = machine(1024)
    a, b, c = memory.allocate(1), memory.allocate(0), memory.allocate(0)
    assert (a, b, c) == (0, 2, 3)
    memory.release(b)
    memory.release(a, 1)
    assert blocks(memory)[:2] == [1, 1]
    memory.release(c)
    assert blocks(memory) == [0] * 10 + [1]


def test_blocks_of_the_largest_order_never_merge() -> None:
    memory = machine(2048)
    pair = [memory.allocate(10), memory.allocate(10)]
    for pfn in pair:
        memory.release(pfn, 10)
    assert blocks(memory) == [0] * 10 + [2]
    assert memory.allocate(10) == pair[1]


def test_a_freed_block_is_preferred_to_an_untouched_one() -> None:
    memory = machine()
    memory.allocate(10)
    memory.release(0, 10)
    assert memory.allocate(10) == 0
    assert memory.frames.table.made == 1


@pytest.mark.parametrize("nr_frames", [1, 2, 3, 1000, 1023, 1025, 2047, 3000])
def test_what_is_left_behind_the_last_whole_block_is_in_smaller_ones(nr_frames: int) -> None:
    memory = machine(nr_frames)
    whole, rest = divmod(nr_frames, 1024)
    assert blocks(memory) == [rest >> order & 1 for order in range(10)] + [whole]
    taken = sorted(memory.allocate() for _ in range(nr_frames))
    assert taken == list(range(nr_frames))
    for pfn in taken:
        memory.release(pfn)
    assert blocks(memory) == [rest >> order & 1 for order in range(10)] + [whole]


def test_zones_do_not_merge_across_their_border() -> None:
    memory = PhysicalMemory([2048, 1024], batch=0, high=0, dma32_limit=1024 << 12)
    for node, count in ((0, 2048), (1, 1024)):
        taken = [memory.allocate_strict(node=node) for _ in range(count)]
        for pfn in taken:
            memory.release(pfn)
    memory.validate()
    assert [zone.free_blocks[10] for node in memory.stats() for zone in node.zones.values()] == [1, 1, 1]
