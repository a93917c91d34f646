"""The buddy allocator: free blocks of 1, 2, 4 ... 1024 frames, per zone.

Idea: a free block of order ``o`` begins at a multiple of ``2**o`` frames, and its buddy is the block of the same order
with which it forms one of the next order: the frame number with bit ``o`` turned.  Taking splits the first block of the
smallest order that has one: the low half is handed out (or split on), the high half goes on its list.  Giving back
merges with the buddy for as long as that is free and whole, then puts the result on its list.  Lists are last in, first
out.

Shape: per zone and order a doubly linked list through the records (``next``, ``prev``), because a buddy is taken out of
the middle.  Blocks of the largest order that were never handed out are not on a list: they are sections ``[untouched,
untouched_end)`` of the zone, and are taken lowest first when the list of the largest order is empty - as if the list
had held them all in ascending order from the start.  That keeps a large idle machine free of records.

Invariants (``validate.validate_frames``): each block on a list is ``FREE``, of the list's order, aligned and
in the zone; two buddies of the same order are never both free; ``nr_free`` is the sum over all blocks.

Handing a block out is not finished here: the caller marks what it took (``USED`` or ``LISTED``), and gives back only
what is marked so.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.machine.simulated.frames.plain import ZoneLists
    from vmalloc.machine.simulated.frames.states import (
        FREE,
        INSIDE,
        MAX_ORDER,
        NO_FRAME,
        SECTION_MASK,
        SECTION_SHIFT,
    )

__all__ = ["Buddy"]


class Buddy:
    """The free blocks of every zone.

    Args:
        table: the records of the machine's frames, all of them untouched.
    """

    def __cinit__(self, table):
        self.table = table
        if cython.compiled:
            self.zone = cython.cast(
                cython.pointer(zone_lists), calloc(self.table.nr_zones, cython.sizeof(zone_lists))
            )
            if self.zone == cython.NULL:
                raise MemoryError(f"no memory for the free lists of {self.table.nr_zones} zones")
        else:
            self.zone = [ZoneLists() for _ in range(self.table.nr_zones)]
        for z in range(self.table.nr_zones):
            if self.fill_zone(z) != 0:
                raise MemoryError(f"no memory for the records of zone {z}")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.zone)

    def fill_zone(self, z):
        """Makes all frames of a zone free; 0, or -1 when memory is exhausted."""
        start = self.table.span[z].start_pfn
        end = self.table.span[z].end_pfn
        for order in range(MAX_ORDER + 1):
            self.zone[z].head[order] = NO_FRAME
        self.zone[z].nr_free = end - start
        self.zone[z].untouched = start >> SECTION_SHIFT
        self.zone[z].untouched_end = end >> SECTION_SHIFT
        if start == end:
            return 0  # it may lie behind the other zone of its node, in the middle of a section
        # What is left behind the last whole block: smaller ones, largest first, as alignment wants it.
        pfn = (end >> SECTION_SHIFT) << SECTION_SHIFT
        if pfn < end and not self.table.make(pfn >> SECTION_SHIFT):
            return -1
        for order in range(MAX_ORDER - 1, -1, -1):
            if (end >> order) & 1 and pfn < end:
                self.push(z, pfn, order)
                pfn += 1 << order
        return 0

    def push(self, z, pfn, order):
        """Puts a block at the head of its list."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        first = self.zone[z].head[order]
        s.row[i].state = FREE
        s.row[i].order = order
        s.row[i].next = first
        s.row[i].prev = NO_FRAME
        if first != NO_FRAME:
            self.table.section[first >> SECTION_SHIFT].row[first & SECTION_MASK].prev = pfn
        self.zone[z].head[order] = pfn
        self.zone[z].count[order] += 1

    def unlink(self, z, pfn, order):
        """Takes a block off its list; it is nobody's then, and its state is the caller's to set."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        behind = s.row[i].next
        before = s.row[i].prev
        if before == NO_FRAME:
            self.zone[z].head[order] = behind
        else:
            self.table.section[before >> SECTION_SHIFT].row[before & SECTION_MASK].next = behind
        if behind != NO_FRAME:
            self.table.section[behind >> SECTION_SHIFT].row[behind & SECTION_MASK].prev = before
        self.zone[z].count[order] -= 1

    def touch(self, z):
        """The lowest untouched block of a zone, touched by now; ``NO_FRAME`` when there is none, or no memory."""
        if self.zone[z].untouched == self.zone[z].untouched_end:
            return NO_FRAME
        if not self.table.make(self.zone[z].untouched):
            return NO_FRAME
        pfn = self.zone[z].untouched << SECTION_SHIFT
        self.zone[z].untouched += 1
        return pfn

    def take(self, z, order):
        """Takes ``2**order`` frames out of a zone; ``NO_FRAME``, and nothing changed, when it has no such block."""
        high = order
        while high <= MAX_ORDER and self.zone[z].head[high] == NO_FRAME:
            high += 1
        if high <= MAX_ORDER:
            pfn = self.zone[z].head[high]
            self.unlink(z, pfn, high)
        else:
            pfn = self.touch(z)
            if pfn == NO_FRAME:
                return NO_FRAME
            high = MAX_ORDER
        while high > order:
            high -= 1
            self.push(z, pfn + (1 << high), high)
        self.table.section[pfn >> SECTION_SHIFT].row[pfn & SECTION_MASK].order = order
        self.zone[z].nr_free -= 1 << order
        return pfn

    def give(self, z, pfn, order):
        """Puts ``2**order`` frames back into their zone, merged with what is free beside them."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        self.zone[z].nr_free += 1 << order
        while order < MAX_ORDER:
            buddy = i ^ (1 << order)
            if s.row[buddy].state != FREE or s.row[buddy].order != order:
                break
            self.unlink(z, pfn - (pfn & SECTION_MASK) + buddy, order)
            # The upper of the two stops being the first frame of a block.
            s.row[i | buddy].state = INSIDE
            i &= buddy
            order += 1
        self.push(z, pfn - (pfn & SECTION_MASK) + i, order)

    # Python's side: for reports, validators and tests.

    def describe(self, z):
        """``(nr_free, untouched, untouched_end, heads by order, counts by order)`` of a zone, as stored."""
        return (
            self.zone[z].nr_free,
            self.zone[z].untouched,
            self.zone[z].untouched_end,
            [self.zone[z].head[order] for order in range(MAX_ORDER + 1)],
            [self.zone[z].count[order] for order in range(MAX_ORDER + 1)],
        )

    def free_blocks(self, z):
        """Free blocks of a zone by order, the untouched ones counted as blocks of the largest."""
        counts = [self.zone[z].count[order] for order in range(MAX_ORDER + 1)]
        counts[MAX_ORDER] += self.zone[z].untouched_end - self.zone[z].untouched
        return counts

    def poke(self, z, field, value, order=0):
        """Overwrites one field of a zone: for the tests that break structures on purpose, and for nothing else."""
        if field == "nr_free":
            self.zone[z].nr_free = value
        elif field == "untouched":
            self.zone[z].untouched = value
        elif field == "untouched_end":
            self.zone[z].untouched_end = value
        elif field == "head":
            self.zone[z].head[order] = value
        elif field == "count":
            self.zone[z].count[order] = value
        else:
            raise KeyError(field)
