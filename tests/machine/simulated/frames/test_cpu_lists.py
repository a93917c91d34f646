"""The lists of the CPUs: refills in order, newest first, oldest back, and nobody else's."""

from __future__ import annotations

import pytest

from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.frames.states import NO_FRAME

pytestmark = pytest.mark.both_builds


def machine(batch: int = 4, high: int = 8, cpus: int = 2) -> PhysicalMemory:
    return PhysicalMemory([2048], cpus=cpus, batch=batch, high=high, dma32_limit=0)


def on_list(memory: PhysicalMemory, cpu: int) -> list[int]:
    """The frames on a CPU's list of the one zone (number 1), newest first."""
    memory.validate()
    found = []
    pfn, _tail, count = memory.frames.lists.describe(1, cpu)
    while pfn != NO_FRAME:
        found.append(pfn)
        pfn = memory.frames.table.rows(pfn >> 10)[pfn % 1024][2]
    assert len(found) == count
    return found


def test_a_refill_is_handed_out_in_the_order_it_came() -> None:
    memory = machine()
    assert memory.allocate() == 0
    assert on_list(memory, 0) == [1, 2, 3]
    assert [memory.allocate() for _ in range(4)] == [1, 2, 3, 4]
    assert on_list(memory, 0) == [5, 6, 7]


def test_each_cpu_has_its_own() -> None:
    memory = machine()
    assert [memory.allocate(cpu=0), memory.allocate(cpu=1), memory.allocate(cpu=0)] == [0, 4, 1]
    memory.release(0, cpu=1)
    assert on_list(memory, 1) == [0, 5, 6, 7]
    assert on_list(memory, 0) == [2, 3]
    assert memory.allocate(cpu=1) == 0


def test_the_newest_is_handed_out_next() -> None:
    memory = machine()
    taken = [memory.allocate() for _ in range(4)]
    for pfn in taken:
        memory.release(pfn)
    assert [memory.allocate() for _ in range(4)] == taken[::-1]


def test_a_list_that_grows_too_long_gives_its_oldest_back() -> None:
    memory = machine()
    taken = [memory.allocate() for _ in range(12)]
    for pfn in taken[:8]:
        memory.release(pfn)
    assert on_list(memory, 0) == taken[7::-1]
    memory.release(taken[8])
    assert on_list(memory, 0) == [8, 7, 6, 5, 4]
    assert memory.stats()[0].free_blocks[2] == 2  # frames 0 to 3 merged; 12 to 15 never left


def test_the_last_frames_make_a_short_refill() -> None:
    memory = PhysicalMemory([3], batch=4, high=8, dma32_limit=0)
    assert sorted(memory.allocate() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(MemoryError):
        memory.allocate()
    memory.validate()


def test_draining_one_cpu_leaves_the_others() -> None:
    memory = machine()
    memory.allocate(cpu=0)
    memory.allocate(cpu=1)
    assert memory.drain(0) == 3
    assert (on_list(memory, 0), on_list(memory, 1)) == ([], [5, 6, 7])
    assert memory.drain() == 3
    assert memory.drain() == 0
    assert memory.frames.lists.listed == 0


def test_everything_freed_and_drained_is_whole_again() -> None:
    memory = machine(cpus=3)
    taken = [memory.allocate(cpu=i % 3) for i in range(2048 - 16)]
    for i, pfn in enumerate(taken):
        memory.release(pfn, cpu=i % 2)
    memory.drain()
    memory.validate()
    assert memory.stats()[0].free_blocks == (0,) * 10 + (2,)


def test_without_lists_single_frames_are_the_buddys() -> None:
    memory = machine(batch=0, high=0)
    pfn = memory.allocate()
    assert memory.frames.lists.listed == 0
    memory.release(pfn)
    assert memory.stats()[0].free_blocks == (0,) * 10 + (2,)


def test_blocks_do_not_go_through_lists() -> None:
    memory = machine()
    pfn = memory.allocate(1)
    memory.release(pfn, 1)
    assert memory.frames.lists.listed == 0


def test_a_list_that_holds_nothing_back() -> None:
    """``high`` equal to ``batch``: the frame above it sends the oldest away at once."""
    memory = machine(batch=1, high=1)
    taken = [memory.allocate() for _ in range(3)]
    for pfn in taken:
        memory.release(pfn)
        assert on_list(memory, 0) == [pfn]
