"""The validator of the frames: every free list, CPU list and record against each other, trusting none of them.

Three walks, each from stored numbers alone.  The free lists and the CPUs' lists are followed from their heads, and each
frame number is looked up only after it was found to have a record.  The records of each section are then read from its
first frame on, block by block: blocks that overlap, leave gaps or reach beyond the section show here, and so does a
free block that no list has.  At last the counters.

Raises ``ValidationError`` with the two parties that contradict each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.frames.allocator import FrameAllocator
from vmalloc.machine.simulated.frames.layout import Zone
from vmalloc.machine.simulated.frames.states import (
    FREE,
    INSIDE,
    LISTED,
    MAX_ORDER,
    NO_FRAME,
    SECTION_FRAMES,
    SECTION_SHIFT,
    STATE_NAMES,
    STORED,
    USED,
    ZONE_NAMES,
)

__all__ = ["validate_frames"]

NAME = "frames"


class Row(NamedTuple):
    """The record of one frame, read once."""

    state: int
    order: int
    next: int
    prev: int
    owner: int
    contents: int
    has_page: bool

    def __str__(self) -> str:
        state = STATE_NAMES[self.state] if self.state < len(STATE_NAMES) else f"in state {self.state}"
        return f"{state}, order {self.order}"


class Picture:
    """All records of a machine by frame number, its zones, and where each listed frame was found."""

    def __init__(self, frames: FrameAllocator) -> None:
        self.frames = frames
        self.zones: list[Zone] = list(frames.layout.zones)
        self.sections = {k: [Row(*row) for row in frames.table.rows(k)] for k in frames.table.sections()}
        self.where: dict[int, str] = {}

    def row(self, pfn: int, zone: Zone, whence: str) -> Row:
        """The record of a frame that ``whence`` names; it must be one of the zone."""
        if not zone.start_pfn <= pfn < zone.end_pfn:
            raise ValidationError(
                NAME, f"{whence} naming frame {pfn:#x}", f"{title(zone)}, {zone.start_pfn:#x}-{zone.end_pfn:#x}"
            )
        if pfn >> SECTION_SHIFT not in self.sections:
            raise ValidationError(NAME, f"{whence} naming frame {pfn:#x}", "that frame having no record")
        return self.sections[pfn >> SECTION_SHIFT][pfn % SECTION_FRAMES]

    def walk(self, head: int, zone: Zone, whence: str) -> Iterator[tuple[int, Row]]:
        """The frames of a list; each must be on this list alone, and say rightly which one comes before it."""
        pfn, before = head, NO_FRAME
        while pfn != NO_FRAME:
            row = self.row(pfn, zone, whence)
            if pfn in self.where:
                raise ValidationError(NAME, f"frame {pfn:#x} on {whence}", f"it being on {self.where[pfn]} already")
            if row.prev != before:
                raise ValidationError(
                    NAME, f"{name(row.prev)} written before {pfn:#x} on {whence}", f"{name(before)} being there"
                )
            self.where[pfn] = whence
            yield pfn, row
            pfn, before = row.next, pfn


def validate_frames(frames: FrameAllocator) -> None:
    """Checks the free lists, the CPUs' lists, the records, and the counters of all of them.

    Raises:
        ValidationError: two of them contradict each other.
    """
    picture = Picture(frames)
    for z, zone in enumerate(picture.zones):
        free = sum(check_free_list(picture, z, order) for order in range(MAX_ORDER + 1))
        check_lists(picture, z)
        untouched = check_untouched(picture, z)
        nr_free = free + untouched * SECTION_FRAMES
        written = frames.buddy.describe(z)[0]
        if nr_free != written:
            raise ValidationError(NAME, f"{nr_free} free frames in {title(zone)}", f"nr_free {written}")
    for k, rows in picture.sections.items():
        check_section(picture, k, rows)
    check_totals(picture)


def title(zone: Zone) -> str:
    return f"zone {ZONE_NAMES[zone.kind]} of node {zone.node}"


def name(pfn: int) -> str:
    return "no frame" if pfn == NO_FRAME else f"frame {pfn:#x}"


def check_free_list(picture: Picture, z: int, order: int) -> int:
    """Checks one free list and its count; the number of frames on it."""
    zone = picture.zones[z]
    whence = f"the free list of order {order} of {title(zone)}"
    _nr_free, _untouched, _end, heads, counts = picture.frames.buddy.describe(z)
    found = 0
    for pfn, row in picture.walk(heads[order], zone, whence):
        if row.state != FREE or row.order != order:
            raise ValidationError(NAME, f"frame {pfn:#x} on {whence}", f"its record: {row}")
        if pfn % (1 << order):
            raise ValidationError(NAME, f"frame {pfn:#x} on {whence}", "it not being a multiple of the block's size")
        found += 1
    if found != counts[order]:
        raise ValidationError(NAME, f"{found} blocks on {whence}", f"its count {counts[order]}")
    return found << order


def check_lists(picture: Picture, z: int) -> None:
    """Checks the lists that the CPUs have in one zone."""
    zone = picture.zones[z]
    lists = picture.frames.lists
    for cpu in range(lists.cpus):
        whence = f"the list of CPU {cpu} in {title(zone)}"
        head, tail, count = lists.describe(z, cpu)
        last, found = NO_FRAME, 0
        for pfn, row in picture.walk(head, zone, whence):
            if row.state != LISTED or row.order != 0:
                raise ValidationError(NAME, f"frame {pfn:#x} on {whence}", f"its record: {row}")
            last, found = pfn, found + 1
        if found != count:
            raise ValidationError(NAME, f"{found} frames on {whence}", f"its count {count}")
        if last != tail:
            raise ValidationError(NAME, f"{name(last)} being the last on {whence}", f"its tail {name(tail)}")
        if count > lists.high:
            raise ValidationError(NAME, f"{count} frames on {whence}", f"high {lists.high}")


def check_untouched(picture: Picture, z: int) -> int:
    """Checks the sections of a zone that were never handed out, and that all others have records; how many."""
    zone = picture.zones[z]
    _nr_free, start, end, _heads, _counts = picture.frames.buddy.describe(z)
    lowest, whole = zone.start_pfn >> SECTION_SHIFT, zone.end_pfn >> SECTION_SHIFT
    if not lowest <= start <= end or end != whole:
        raise ValidationError(
            NAME, f"untouched sections {start:#x}-{end:#x}", f"{title(zone)}, sections {lowest:#x}-{whole:#x}"
        )
    for k in range(start, end):
        if any(row.state != INSIDE for row in picture.sections.get(k, [])):
            raise ValidationError(NAME, f"section {k:#x} being untouched", "blocks in its records")
    for pfn in range(zone.start_pfn, zone.end_pfn, SECTION_FRAMES):
        k = pfn >> SECTION_SHIFT
        if not start <= k < end and k not in picture.sections:
            raise ValidationError(NAME, f"section {k:#x} being touched", "it having no records")
    return end - start


def check_section(picture: Picture, k: int, rows: list[Row]) -> None:
    """Checks that the records of a section are blocks side by side, each where it says it is."""
    z, nr_frames = picture.frames.table.section_zone(k)
    base = k << SECTION_SHIFT
    if z >= len(picture.zones) or not picture.zones[z].start_pfn <= base < picture.zones[z].end_pfn:
        raise ValidationError(NAME, f"section {k:#x} saying it is in zone {z}", "the frames of that zone")
    zone = picture.zones[z]
    if nr_frames != min(SECTION_FRAMES, zone.end_pfn - base):
        raise ValidationError(
            NAME, f"section {k:#x} saying it has {nr_frames} frames", f"{title(zone)} ending at {zone.end_pfn:#x}"
        )
    _nr_free, untouched, untouched_end, _heads, _counts = picture.frames.buddy.describe(z)
    i = nr_frames if untouched <= k < untouched_end else 0
    while i < nr_frames:
        i = check_block(picture, base, i, rows, nr_frames)
    for j in range(nr_frames, SECTION_FRAMES):
        if rows[j].state != INSIDE:
            raise ValidationError(NAME, f"frame {base + j:#x}, {rows[j]}", f"{title(zone)} ending at {zone.end_pfn:#x}")
    for j, row in enumerate(rows):
        if row.contents > STORED or (row.contents == STORED and not row.has_page):
            raise ValidationError(NAME, f"contents {row.contents} of frame {base + j:#x}", "it having no such page")


def check_block(picture: Picture, base: int, i: int, rows: list[Row], nr_frames: int) -> int:
    """Checks the block that must begin at place ``i`` of a section; the place behind it."""
    row, pfn = rows[i], base + i
    if row.state not in (FREE, LISTED, USED):
        raise ValidationError(NAME, f"frame {pfn:#x}, {row}", "the block before it, which ends there")
    if row.order > MAX_ORDER or pfn % (1 << row.order) or i + (1 << row.order) > nr_frames:
        raise ValidationError(NAME, f"frame {pfn:#x}, {row}", f"its place, {i} of {nr_frames} in its section")
    for j in range(i + 1, i + (1 << row.order)):
        if rows[j].state != INSIDE:
            raise ValidationError(NAME, f"frame {base + j:#x}, {rows[j]}", f"the block of frame {pfn:#x}, {row}")
    if (row.state != USED) != (pfn in picture.where):
        raise ValidationError(NAME, f"frame {pfn:#x}, {row}", f"it being on {picture.where.get(pfn, 'no list')}")
    buddy = i ^ (1 << row.order)
    if row.state == FREE and row.order < MAX_ORDER and (rows[buddy].state, rows[buddy].order) == (FREE, row.order):
        raise ValidationError(NAME, f"free frame {pfn:#x}, order {row.order}", f"its buddy {base + buddy:#x}, free too")
    return i + (1 << row.order)


def check_totals(picture: Picture) -> None:
    """Checks the counters that no single list has."""
    frames = picture.frames
    listed = sum(frames.lists.listed_in(z) for z in range(len(picture.zones)))
    if listed != frames.lists.listed:
        raise ValidationError(NAME, f"{listed} frames on lists of CPUs", f"listed {frames.lists.listed}")
    if len(picture.sections) != frames.table.made:
        raise ValidationError(NAME, f"{len(picture.sections)} sections with records", f"made {frames.table.made}")
    pages = sum(row.has_page for rows in picture.sections.values() for row in rows)
    if pages != frames.table.nr_pages:
        raise ValidationError(NAME, f"{pages} frames with a page of bytes", f"nr_pages {frames.table.nr_pages}")
    for z, zone in enumerate(picture.zones):
        used = sum(
            1 << row.order
            for k, rows in picture.sections.items()
            if zone.start_pfn <= k << SECTION_SHIFT < zone.end_pfn
            for row in rows
            if row.state == USED
        )
        rest = zone.nr_frames - frames.buddy.describe(z)[0] - frames.lists.listed_in(z)
        if used != rest:
            raise ValidationError(NAME, f"{used} used frames in {title(zone)}", f"{rest} neither free nor listed")
