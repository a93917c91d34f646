"""The table of page frames: one small record for each frame that somebody has touched.

Idea: records come in sections of 1024, one per block of the largest order, and a section is made when the first frame
of that block is needed.  A machine of 1 TiB is 262,144 empty pointers at first; a used frame costs 16 bytes.

What a record says is told in ``states``.  Every frame that is not the first of its block is ``INSIDE``, which is
also what fresh memory reads, so taking a block, splitting it and merging two touch first frames only.  The price: to
say what an ``INSIDE`` frame belongs to, one looks at the eleven places where its block may begin (``head_of``); only
error messages need that.

Invariants (``validate``): blocks are aligned to their size, inside their section and disjoint; records of frames
the machine does not have are ``INSIDE`` for ever, so that nothing merges with them.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.machine.simulated.frames.plain import Section, Sections, ZoneSpan
    from vmalloc.machine.simulated.frames.states import (
        DOUBLE_FREE,
        FOREIGN,
        INSIDE,
        INSIDE_BLOCK,
        MAX_ORDER,
        NO_FRAME,
        NO_ZONE,
        SECTION_FRAMES,
        SECTION_MASK,
        SECTION_SHIFT,
        USED,
        WRONG_ORDER,
    )

__all__ = ["FrameTable"]


class FrameTable:
    """The records of all frames of a machine.

    Args:
        layout: the zones (``layout``).
    """

    def __cinit__(self, layout):
        if self.reserve(len(layout.zones), (layout.end_pfn + SECTION_FRAMES - 1) >> SECTION_SHIFT) != 0:
            raise MemoryError(f"no memory for the table of {layout.end_pfn} frames")
        self.made = 0
        self.nr_pages = 0
        for z in range(self.nr_zones):
            self.span[z].start_pfn = layout.zones[z].start_pfn
            self.span[z].end_pfn = layout.zones[z].end_pfn

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            if self.section != cython.NULL:
                for k in range(self.nr_sections):
                    if self.section[k] != cython.NULL:
                        if self.section[k].page != cython.NULL:
                            for i in range(SECTION_FRAMES):
                                free(self.section[k].page[i])
                            free(self.section[k].page)
                        free(self.section[k])
            free(self.section)
            free(self.span)

    def reserve(self, nr_zones, nr_sections):
        """Makes the two tables; 0, or -1 when memory is exhausted."""
        self.nr_zones = nr_zones
        self.nr_sections = nr_sections
        if cython.compiled:
            self.section = cython.cast("frame_section**", calloc(nr_sections, cython.sizeof(cython.p_void)))
            self.span = cython.cast(cython.pointer(zone_span), calloc(nr_zones, cython.sizeof(zone_span)))
            if self.section == cython.NULL or self.span == cython.NULL:
                return -1
        else:
            self.section = Sections()
            self.span = [ZoneSpan() for _ in range(nr_zones)]
        return 0

    def zone_of(self, pfn):
        """The zone a frame is in; ``NO_ZONE`` for one that no node has."""
        for z in range(self.nr_zones):
            if self.span[z].start_pfn <= pfn and pfn < self.span[z].end_pfn:
                return z
        return NO_ZONE

    def make(self, k):
        """Section ``k``, made if it was not there; NULL (None) for frames that no node has, or without memory."""
        if self.section[k]:
            return self.section[k]
        z = self.zone_of(k << SECTION_SHIFT)
        if cython.compiled:
            if z == NO_ZONE:
                return cython.NULL
            s = cython.cast(cython.pointer(frame_section), calloc(1, cython.sizeof(frame_section)))
            if s == cython.NULL:
                return cython.NULL
        else:
            if z == NO_ZONE:
                return None
            s = Section()
        left = self.span[z].end_pfn - (k << SECTION_SHIFT)
        s.zone = z
        s.nr_frames = left if left < SECTION_FRAMES else SECTION_FRAMES
        self.section[k] = s
        self.made += 1
        return s

    def head_of(self, pfn):
        """First frame of the block that ``pfn`` is in; ``NO_FRAME`` where nothing was ever handed out."""
        s = self.section[pfn >> SECTION_SHIFT]
        if not s:
            return NO_FRAME
        i = pfn & SECTION_MASK
        for order in range(MAX_ORDER + 1):
            head = (i >> order) << order
            if s.row[head].state != INSIDE:  # the nearest one that may be; it is the block's, as blocks are aligned
                return pfn - i + head
        return NO_FRAME

    def diagnose(self, pfn, order):
        """Why ``pfn`` is not an allocation of this order: one of the error codes, or 0 when it is one."""
        if self.zone_of(pfn) == NO_ZONE:
            return FOREIGN
        head = self.head_of(pfn)
        if head == NO_FRAME:
            return DOUBLE_FREE
        s = self.section[head >> SECTION_SHIFT]
        i = head & SECTION_MASK
        if s.row[i].state != USED:
            return DOUBLE_FREE
        if head != pfn:
            return INSIDE_BLOCK
        return 0 if s.row[i].order == order else WRONG_ORDER

    # Python's side: for reports, validators and tests.

    def sections(self):
        """Numbers of the sections that have records, ascending."""
        return [k for k in range(self.nr_sections) if self.section[k]]

    def section_zone(self, k):
        """The zone that section ``k`` is in, as stored, and the frames it says it has."""
        return (self.section[k].zone, self.section[k].nr_frames)

    def rows(self, k):
        """Records of section ``k`` as ``(state, order, next, prev, owner, contents, whether it has a page)``."""
        found = []
        for i in range(SECTION_FRAMES):
            found.append(
                (
                    self.section[k].row[i].state,
                    self.section[k].row[i].order,
                    self.section[k].row[i].next,
                    self.section[k].row[i].prev,
                    self.section[k].row[i].owner,
                    self.section[k].row[i].contents,
                    True if self.section[k].page and self.section[k].page[i] else False,
                )
            )
        return found

    def poke(self, pfn, field, value):
        """Overwrites one field of a record: for the tests that break structures on purpose, and for nothing else."""
        k = pfn >> SECTION_SHIFT
        i = pfn & SECTION_MASK
        if field == "state":
            self.section[k].row[i].state = value
        elif field == "order":
            self.section[k].row[i].order = value
        elif field == "next":
            self.section[k].row[i].next = value
        elif field == "prev":
            self.section[k].row[i].prev = value
        elif field == "contents":
            self.section[k].row[i].contents = value
        elif field == "zone":
            self.section[k].zone = value
        elif field == "nr_frames":
            self.section[k].nr_frames = value
        elif field == "made":
            self.made = value
        elif field == "nr_pages":
            self.nr_pages = value
        else:
            raise KeyError(field)
