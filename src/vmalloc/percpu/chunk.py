"""A chunk: one unit of addresses per possible CPU, and which of its pages have frames.

Idea: an object lies at the same offset in every unit, so the chunk needs one map of free bytes (``free_map``) and one
of populated pages for all CPUs together: a page is populated for every CPU or for none.  Frames stand in one array,
page after page and in it CPU after CPU, because zeroing an object asks for the frames of one page.

``bound`` keeps searches short.  A chunk that could not serve ``size`` bytes at an alignment will not be able to before
something in it is freed: ``bound[k]`` is a length from which on that is known, for alignments of ``2**k`` granules.
Bounds only fall while nothing is freed, and a free raises them to the length of the run it made, no further.

A page is *empty* when it is populated and no object touches it: the reserve of atomic allocations, and what can be
given back.  The first chunk is *fixed*: its frames were there before the allocator and stay.

Offsets are bytes from the beginning of a unit.
"""

from array import array

import cython

from vmalloc.percpu.free_map import BYTES_PER_GRANULE, FreeMap

if not cython.compiled:
    from vmalloc.percpu.free_map import NOT_FOUND as NONE

    GRANULE_SHIFT = 2
    NR_BOUNDS = 16

__all__ = ["Chunk", "PercpuObject"]


class PercpuObject:
    """What was allocated: so many bytes at one offset of every unit.

    Attributes:
        chunk: where; offset, size, align: bytes, size as it was asked for.
        caller: who asked.
        live: False once it was freed.
    """

    def __init__(self, chunk, offset, size, align, caller):
        self.chunk = chunk
        self.offset = offset
        self.size = size
        self.align = align
        self.caller = caller
        self.live = True

    @property
    def base(self):
        """What the kernel's per-CPU pointer is: the address without the offset of a CPU's unit."""
        return self.chunk.base + self.offset

    def __repr__(self):
        state = "" if self.live else " freed"
        return f"<per-CPU object {self.base:#x}, {self.size} bytes{state}>"


class Chunk:
    """A chunk, empty and without frames.

    Args:
        base: address that the offsets of units are added to.
        nr_pages: pages of a unit.
        page_shift: log2 of the page.
        nr_cpus: how many units are in use.
        areas: its ``vm_struct``; none for one that lies in the permanent map.
        fixed: whether it is part of the first chunk.
        start, end: offsets between which objects may lie.
    """

    def __init__(self, base, nr_pages, page_shift, nr_cpus, areas, fixed, start, end):
        self.base = base
        self.nr_pages = nr_pages
        self.page_shift = page_shift
        self.nr_cpus = nr_cpus
        self.areas = areas
        self.fixed = fixed
        self.start = start
        self.end = end
        self.map = FreeMap((nr_pages << page_shift) >> GRANULE_SHIFT)
        self.populated = array("B", bytes(nr_pages))
        self.used = array("I", bytes(4 * nr_pages))
        self.pfn = array("Q", bytes(8 * nr_pages * nr_cpus))
        self.bound = array("I", bytes(4 * NR_BOUNDS))
        self.objects = {}
        self.slot = -1
        self.nr_populated = 0
        self.nr_empty = 0
        self.allocated = 0
        if start > 0:
            self.hide(0, start)
        size = nr_pages << page_shift
        if end < size:
            self.hide(end, size - end)
        self.capacity = self.map.nr_free
        for k in range(NR_BOUNDS):
            self.bound[k] = self.map.nr_free + 1

    def hide(self, offset, size):
        """Takes bytes that are no object's, for good."""
        self.map.take(offset >> GRANULE_SHIFT, size >> GRANULE_SHIFT)
        self.count_used(offset >> GRANULE_SHIFT, size >> GRANULE_SHIFT, 1)

    # -- bytes -----------------------------------------------------------------------------------------------------

    def may_fit(self, granules, order):
        """Whether a search is worth its while."""
        return granules < self.bound[order]

    def find(self, granules, order):
        """The lowest fit, aligned to ``2**order`` granules; ``NONE`` when there is none, which is remembered."""
        found = self.map.find(granules, 1 << order, 0)
        if found == NONE:
            for k in range(order, NR_BOUNDS):
                if self.bound[k] > granules:
                    self.bound[k] = granules
        return found

    def find_populated(self, granules, order):
        """The lowest fit all of whose pages are populated."""
        shift = self.page_shift - GRANULE_SHIFT
        at = 0
        while True:
            found = self.map.find(granules, 1 << order, at)
            if found == NONE:
                return NONE
            page = found >> shift
            last = (found + granules - 1) >> shift
            while page <= last and self.populated[page] != 0:
                page += 1
            if page > last:
                return found
            while page < self.nr_pages and self.populated[page] == 0:
                page += 1
            if page == self.nr_pages:
                return NONE
            at = page << shift

    def take(self, start, granules):
        """Takes what was found."""
        self.map.take(start, granules)
        self.count_used(start, granules, 1)
        self.allocated += granules << GRANULE_SHIFT

    def release(self, start, granules):
        """Frees what was taken."""
        self.map.release(start, granules)
        self.count_used(start, granules, -1)
        self.allocated -= granules << GRANULE_SHIFT
        run = self.map.run_around(start, granules)
        for k in range(NR_BOUNDS):
            if self.bound[k] <= run:
                self.bound[k] = run + 1

    def count_used(self, start, granules, sign):
        """Counts granules of pages as used, or not any more."""
        shift = self.page_shift - GRANULE_SHIFT
        end = start + granules
        while start < end:
            page = start >> shift
            stop = (page + 1) << shift
            if stop > end:
                stop = end
            was = self.used[page]
            if sign > 0:
                self.used[page] = was + (stop - start)
            else:
                self.used[page] = was - (stop - start)
            if self.populated[page] != 0:
                if was == 0:
                    self.nr_empty -= 1
                elif self.used[page] == 0:
                    self.nr_empty += 1
            start = stop

    # -- pages -----------------------------------------------------------------------------------------------------

    def first_missing(self, page, end):
        """The first page of ``[page, end)`` without frames, or ``end``."""
        while page < end and self.populated[page] != 0:
            page += 1
        return page

    def set_populated(self, first, end):
        """Notes that pages have frames."""
        for page in range(first, end):
            self.populated[page] = 1
            if self.used[page] == 0:
                self.nr_empty += 1
        self.nr_populated += end - first

    def clear_populated(self, first, end):
        """Notes that empty pages have none any more."""
        for page in range(first, end):
            self.populated[page] = 0
        self.nr_populated -= end - first
        self.nr_empty -= end - first

    def frame(self, page, cpu):
        """The frame of a populated page of a CPU's unit."""
        return self.pfn[page * self.nr_cpus + cpu]

    def set_frame(self, page, cpu, pfn):
        """Notes the frame of a page of a CPU's unit."""
        self.pfn[page * self.nr_cpus + cpu] = pfn

    # Python's side.

    def is_empty(self):
        """Whether no object lies in it."""
        return not self.objects

    def frames_of(self, page):
        """The frames of a page, CPU by CPU; none when it is not populated."""
        if self.first_missing(page, page + 1) == page:
            return []
        return [self.frame(page, cpu) for cpu in range(self.nr_cpus)]

    def missing_pages(self):
        """Pages without frames, ascending."""
        return [page for page in range(self.nr_pages) if not self.populated[page]]

    def empty_pages(self):
        """Pages with frames that no object touches, ascending."""
        return [page for page in range(self.nr_pages) if self.populated[page] and self.used[page] == 0]

    def free_bytes(self):
        """Bytes that are free."""
        return self.map.nr_free * BYTES_PER_GRANULE

    def longest_free(self):
        """Bytes of the longest free run."""
        return self.map.longest_run() * BYTES_PER_GRANULE

    def __repr__(self):
        many = f"{len(self.objects)} objects, {self.nr_populated} of {self.nr_pages} pages"
        return f"<per-CPU chunk {self.base:#x}: {many}{', fixed' if self.fixed else ''}>"
