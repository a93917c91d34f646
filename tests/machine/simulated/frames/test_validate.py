"""The validator: silent about healthy frames, and right about the culprit in every way to break them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.frames.states import FREE, INSIDE, LISTED, NO_FRAME, STORED, USED, ZEROED
from vmalloc.machine.simulated.frames.validate import validate_frames

pytestmark = pytest.mark.both_builds

#: The zone of all frames of node 0, and the one of node 1.
Z, Y = 1, 3


def healthy() -> PhysicalMemory:
    """Frames 0 to 31 used as a block; 32 used; 33, 34 and 35 listed; 36 to 39 free, and so on up; 1024 on untouched.

    Node 1 begins at 2048 and has 100 frames, all free: 64, 32 and 4.
    """
    memory = PhysicalMemory([2048, 100], cpus=2, batch=4, high=8, dma32_limit=0)
    assert memory.allocate(5) == 0
    assert memory.allocate() == 32
    memory.contents.store(32, 0, b"data")
    memory.validate()
    return memory


def refused(memory: PhysicalMemory) -> str:
    with pytest.raises(ValidationError) as complaint:
        validate_frames(memory.frames)
    assert complaint.value.structure == "frames"
    return str(complaint.value)


@pytest.mark.parametrize(
    ("pfn", "field", "value", "complaint"),
    [
        (36, "state", INSIDE, "frame 0x24 on the free list of order 2 of zone Normal of node 0 contradicts its record"),
        (36, "state", USED, "contradicts its record: used, order 2"),
        (36, "state", LISTED, "contradicts its record: listed, order 2"),
        (36, "state", 77, "contradicts its record: in state 77, order 2"),
        (36, "order", 1, "contradicts its record: free, order 1"),
        (36, "prev", 40, "frame 0x28 written before 0x24"),
        (36, "next", 36, "it being on the free list of order 2 of zone Normal of node 0 already"),
        (36, "next", 40, "no frame written before 0x28 on the free list of order 2"),
        (36, "next", 1500, "that frame having no record"),
        (36, "next", 2048, "naming frame 0x800 contradicts zone Normal of node 0, 0x0-0x800"),
        (36, "next", 1 << 31, "naming frame 0x80000000 contradicts zone"),
        (33, "state", FREE, "frame 0x21 on the list of CPU 0 in zone Normal of node 0 contradicts its record: free"),
        (33, "state", USED, "contradicts its record: used, order 0"),
        (33, "order", 1, "contradicts its record: listed, order 1"),
        (34, "prev", NO_FRAME, "no frame written before 0x22"),
        (34, "next", 33, "it being on the list of CPU 0 in zone Normal of node 0 already"),
        (34, "next", NO_FRAME, "2 frames on the list of CPU 0 in zone Normal of node 0 contradicts its count 3"),
        (32, "state", FREE, "frame 0x20, free, order 0 contradicts it being on no list"),
        (32, "state", LISTED, "frame 0x20, listed, order 0 contradicts it being on no list"),
        (32, "state", INSIDE, "frame 0x20, inside, order 0 contradicts the block before it, which ends there"),
        (32, "state", 9, "frame 0x20, in state 9, order 0 contradicts the block before it"),
        (32, "order", 1, "frame 0x21, listed, order 0 contradicts the block of frame 0x20, used, order 1"),
        (0, "order", 4, "frame 0x10, inside, order 0 contradicts the block before it, which ends there"),
        (0, "order", 6, "frame 0x20, used, order 0 contradicts the block of frame 0x0, used, order 6"),
        (0, "order", 11, "frame 0x0, used, order 11 contradicts its place, 0 of 1024 in its section"),
        (5, "state", USED, "frame 0x5, used, order 0 contradicts the block of frame 0x0"),
        (2148, "state", USED, "frame 0x864, used, order 0 contradicts zone Normal of node 1 ending at 0x864"),
        (7, "contents", STORED, "contents 2 of frame 0x7 contradicts it having no such page"),
        (7, "contents", 3, "contents 3 of frame 0x7"),
        (7, "zone", Y, "section 0x0 saying it is in zone 3"),
        (7, "zone", 99, "section 0x0 saying it is in zone 99"),
        (7, "nr_frames", 1000, "section 0x0 saying it has 1000 frames contradicts zone Normal of node 0 ending at"),
        (2048, "nr_frames", 1024, "section 0x2 saying it has 1024 frames"),
        (0, "made", 3, "2 sections with records contradicts made 3"),
        (0, "nr_pages", 0, "1 frames with a page of bytes contradicts nr_pages 0"),
    ],
)
def test_a_broken_record_is_named(pfn: int, field: str, value: int, complaint: str) -> None:
    memory = healthy()
    memory.frames.table.poke(pfn, field, value)
    assert complaint in refused(memory)


@pytest.mark.parametrize(
    ("field", "value", "order", "complaint"),
    [
        ("nr_free", 5, 0, "2012 free frames in zone Normal of node 0 contradicts nr_free 5"),
        ("count", 2, 2, "1 blocks on the free list of order 2 of zone Normal of node 0 contradicts its count 2"),
        ("count", 1, 10, "0 blocks on the free list of order 10 of zone Normal of node 0 contradicts its count 1"),
        ("head", NO_FRAME, 2, "0 blocks on the free list of order 2"),
        ("head", 36, 3, "frame 0x24 on the free list of order 3"),
        ("head", 33, 2, "frame 0x21 on the free list of order 2 of zone Normal of node 0"),
        ("head", 5000, 2, "naming frame 0x1388"),
        ("untouched", 0, 0, "section 0x0 being untouched contradicts blocks in its records"),
        ("untouched", 2, 0, "section 0x1 being touched contradicts it having no records"),
        ("untouched", 3, 0, "untouched sections 0x3-0x2 contradicts zone Normal of node 0, sections 0x0-0x2"),
        ("untouched_end", 1, 0, "untouched sections 0x1-0x1 contradicts"),
        ("untouched_end", 3, 0, "untouched sections 0x1-0x3 contradicts"),
    ],
)
def test_a_broken_free_list_is_named(field: str, value: int, order: int, complaint: str) -> None:
    memory = healthy()
    memory.frames.buddy.poke(Z, field, value, order)
    assert complaint in refused(memory)


@pytest.mark.parametrize(
    ("cpu", "field", "value", "complaint"),
    [
        (0, "count", 4, "3 frames on the list of CPU 0 in zone Normal of node 0 contradicts its count 4"),
        (0, "head", NO_FRAME, "0 frames on the list of CPU 0"),
        (0, "tail", 34, "frame 0x23 being the last on the list of CPU 0 in zone Normal of node 0 contradicts its tail"),
        (1, "tail", 34, "no frame being the last on the list of CPU 1"),
        (1, "head", 33, "it being on the list of CPU 0 in zone Normal of node 0 already"),
        (1, "head", 32, "frame 0x20 on the list of CPU 1"),
        (1, "head", 36, "it being on the free list of order 2"),
        (1, "head", 9999, "naming frame 0x270f"),
        (0, "listed", 4, "3 frames on lists of CPUs contradicts listed 4"),
    ],
)
def test_a_broken_list_of_a_cpu_is_named(cpu: int, field: str, value: int, complaint: str) -> None:
    memory = healthy()
    memory.frames.lists.poke(Z, cpu, field, value)
    assert complaint in refused(memory)


def free_two_buddies(memory: PhysicalMemory) -> None:
    """Makes frame 36 and its buddy at 40 free blocks of order 2, each rightly on the list."""
    table, buddy = memory.frames.table, memory.frames.buddy
    buddy.poke(Z, "head", NO_FRAME, 3)
    buddy.poke(Z, "count", 0, 3)
    for pfn, state in ((40, FREE), (44, FREE)):
        table.poke(pfn, "state", state)
        table.poke(pfn, "order", 2)
    table.poke(36, "next", 40)
    table.poke(40, "prev", 36)
    table.poke(40, "next", 44)
    table.poke(44, "prev", 40)
    table.poke(44, "next", NO_FRAME)
    buddy.poke(Z, "count", 3, 2)


def misaligned(memory: PhysicalMemory) -> None:
    """Moves the free block of order 2 from 36 to 37."""
    table = memory.frames.table
    table.poke(36, "state", INSIDE)
    for field, value in (("state", FREE), ("order", 2), ("next", NO_FRAME), ("prev", NO_FRAME)):
        table.poke(37, field, value)
    memory.frames.buddy.poke(Z, "head", 37, 2)


def too_long(memory: PhysicalMemory) -> None:
    """Splits the free block of 16 frames at 48 up on the CPU's list."""
    table, lists = memory.frames.table, memory.frames.lists
    memory.frames.buddy.poke(Z, "head", NO_FRAME, 4)
    memory.frames.buddy.poke(Z, "count", 0, 4)
    memory.frames.buddy.poke(Z, "nr_free", 2012 - 16)
    table.poke(35, "next", 48)
    for pfn in range(48, 64):
        before, behind = pfn - 1 if pfn > 48 else 35, pfn + 1 if pfn < 63 else NO_FRAME
        for field, value in (("state", LISTED), ("order", 0), ("prev", before), ("next", behind)):
            table.poke(pfn, field, value)
    lists.poke(Z, 0, "tail", 63)
    lists.poke(Z, 0, "count", 19)
    lists.poke(Z, 0, "listed", 19)


def lost(memory: PhysicalMemory) -> None:
    """Takes the free block at 36 off its list and out of every count, as if somebody had forgotten it."""
    memory.frames.buddy.poke(Z, "head", NO_FRAME, 2)
    memory.frames.buddy.poke(Z, "count", 0, 2)
    memory.frames.buddy.poke(Z, "nr_free", 2012 - 4)


def block_in_an_untouched_section(memory: PhysicalMemory) -> None:
    memory.contents.store(1030, 0, b"early")
    memory.validate()
    memory.frames.table.poke(1030, "state", USED)


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (free_two_buddies, "free frame 0x28, order 2 contradicts its buddy 0x2c, free too"),
        (misaligned, "frame 0x25 on the free list of order 2 of zone Normal of node 0 contradicts it not being"),
        (too_long, "19 frames on the list of CPU 0 in zone Normal of node 0 contradicts high 8"),
        (lost, "frame 0x24, free, order 2 contradicts it being on no list"),
        (block_in_an_untouched_section, "section 0x1 being untouched contradicts blocks in its records"),
    ],
)
def test_what_takes_several_lies_is_found(break_it: Callable[[PhysicalMemory], None], complaint: str) -> None:
    memory = healthy()
    break_it(memory)
    assert complaint in refused(memory)


def test_zeroed_needs_no_page() -> None:
    memory = healthy()
    memory.frames.table.poke(7, "contents", ZEROED)
    memory.validate()


def test_an_unknown_field_cannot_be_poked() -> None:
    memory = healthy()
    with pytest.raises(KeyError):
        memory.frames.table.poke(7, "colour", 1)
    with pytest.raises(KeyError):
        memory.frames.buddy.poke(Z, "colour", 1)
    with pytest.raises(KeyError):
        memory.frames.lists.poke(Z, 0, "colour", 1)
