"""Congruent areas for the per-CPU allocator: one base, several ranges at fixed offsets from it, all free at once.

Idea: a per-CPU chunk needs, for every group of CPUs, a range at ``base + offset[group]``.  ``find_base`` is the
kernel's search (specification section 7.1): it starts at the **top** of the vmalloc range, tries to satisfy the
groups round robin, and whenever one does not fit moves the base down to where that one fits and starts counting
again; it is done when all others were checked against the current base.

Sums that may wrap are masked to 64 bits, as the kernel's unsigned arithmetic does it silently.
"""

import cython

from vmalloc.areas.states import is_error_value

if not cython.compiled:
    from vmalloc.areas.states import NIL

    MAX_GROUPS = 64
    ADDRESS_MAX = 0xFFFFFFFFFFFFFFFF

__all__ = ["PcpuGroups"]


class PcpuGroups:
    """The geometry of a chunk: offsets and sizes of its groups, alignment, and the window it must lie in.

    Args:
        offsets, sizes: bytes, one each per group; disjoint ranges, all multiples of ``align``.
        align: bytes, a power of two.
        vstart, vend: the vmalloc range; an odd end is rounded down.

    Raises:
        ValueError: the geometry breaks a precondition (the kernel stops with BUG), or has more than 64 groups.
    """

    def __init__(self, offsets, sizes, align, vstart, vend):
        if not 1 <= len(offsets) == len(sizes) <= MAX_GROUPS:
            raise ValueError(f"{len(offsets)} offsets and {len(sizes)} sizes: need as many of each, 1 to {MAX_GROUPS}")
        if align <= 0 or align & (align - 1):
            raise ValueError(f"alignment {align:#x} is not a power of two")
        ranges = sorted(zip(offsets, sizes, strict=True))
        for offset, size in ranges:
            if offset % align or size % align or size <= 0:
                raise ValueError(f"offset {offset:#x} and size {size:#x} must be multiples of {align:#x}")
        for (start, size), (following, _size) in zip(ranges, ranges[1:], strict=False):
            if start + size > following:
                raise ValueError(f"group at offset {following:#x} overlaps the one at {start:#x} of {size:#x} bytes")
        if not cython.compiled:
            self.offset = [0] * MAX_GROUPS
            self.size = [0] * MAX_GROUPS
        for g in range(len(offsets)):
            self.offset[g] = offsets[g]
            self.size[g] = sizes[g]
        self.nr_groups = len(offsets)
        self.align = align
        self.low = (vstart + align - 1) & ~(align - 1)
        self.high = vend & ~(align - 1)
        highest, highest_size = max(ranges)
        self.last = offsets.index(highest)
        self.last_end = highest + highest_size
        self.block_end = 0

    def end_down(self, free, b):
        """From block ``b`` downwards, the first with an aligned end below ``high``; notes that end in ``block_end``."""
        row = free.rows.row
        while b != NIL:
            end = row[b].va_end & ~(self.align - 1)
            if end > self.high:
                end = self.high
            if row[b].va_start < end:
                self.block_end = end
                return b
            b = free.previous(b)
        self.block_end = 0
        return NIL

    def find_base(self, free):
        """The highest base the kernel's walk finds, or the error value of ``-ENOENT``; nothing is taken yet."""
        row = free.rows.row
        if self.high < self.low or self.high - self.low < self.last_end:
            return ADDRESS_MAX - 1
        i = self.last
        term = self.last
        s = self.offset[i]
        t = s + self.size[i]
        b = self.end_down(free, free.at_or_below(self.high))
        base = (self.block_end - t) & ADDRESS_MAX
        while True:
            if ((base + self.last_end) & ADDRESS_MAX) < ((self.low + self.last_end) & ADDRESS_MAX) or b == NIL:
                return ADDRESS_MAX - 1
            if ((base + t) & ADDRESS_MAX) > row[b].va_end:
                b = self.end_down(free, b)
                base = (self.block_end - t) & ADDRESS_MAX
                term = i
                continue
            if ((base + s) & ADDRESS_MAX) < row[b].va_start:
                b = self.end_down(free, free.previous(b))
                base = (self.block_end - t) & ADDRESS_MAX
                term = i
                continue
            i = (i + self.nr_groups - 1) % self.nr_groups
            if i == term:
                return base
            s = self.offset[i]
            t = s + self.size[i]
            b = free.at_or_below((base + t) & ADDRESS_MAX)

    def take(self, free):
        """Finds a base and clips every group's range out of the free tree; the base, or an error value."""
        if free.rows.reserve(self.nr_groups) != 0:  # a split takes one, so that no clip below can fail for want of it
            return ADDRESS_MAX - 11
        base = self.find_base(free)
        if base >= ADDRESS_MAX - 4094:
            return base
        for g in range(self.nr_groups):
            if free.carve(base + self.offset[g], base + self.offset[g] + self.size[g]) != 0:
                return ADDRESS_MAX - 11
        return base

    # Python's side.

    def claim(self, free):
        """``take`` for Python callers: the base, or None when no base was found."""
        base = self.take(free)
        if base == ADDRESS_MAX - 11:
            raise MemoryError("no memory for vmap_area records")
        return None if is_error_value(base) else base

    def groups(self):
        """The geometry as ``[(offset, size), ...]``."""
        return [(self.offset[g], self.size[g]) for g in range(self.nr_groups)]
