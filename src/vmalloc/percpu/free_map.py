"""Which bytes of a unit are free: one bit per granule of four bytes, and hints that let a search skip.

Idea: all units of a chunk look alike, so one map serves all CPUs.  The map itself is the plainest thing there is, a bit
array searched first-fit; what makes it quick is that every 4 KiB of it (a *block*, whatever the machine's page is) keep
three numbers about their free runs: how long the one at the left edge is, the one at the right edge, and the longest.
A search looks into a block only when a fit may be inside, and joins edges to runs that cross blocks.

Invariants, each checked by ``validate.validate_free_map`` against the bits alone:

* ``left``, ``right`` and ``longest`` of a block are exact;
* ``nr_free`` is the number of free bits; bits behind the last granule are set, as if taken;
* no granule before block ``low`` is free.

Rejected: a tree of free runs.  It finds best fits, which nobody asks for, and an object of four bytes would cost a
record of forty.

Positions and lengths here are granules.
"""

from array import array

import cython

if not cython.compiled:
    NONE = 0xFFFFFFFF
    BLOCK_SHIFT = 10
    BLOCK = 1 << BLOCK_SHIFT
    ALL = 0xFFFFFFFFFFFFFFFF

    def lowest_bit(word):
        """The number of the lowest bit that is set; there must be one."""
        return (word & -word).bit_length() - 1


__all__ = ["BYTES_PER_GRANULE", "NOT_FOUND", "FreeMap"]

#: The unit of allocation: nothing is smaller, nothing less aligned.
BYTES_PER_GRANULE = 4

#: What ``find`` answers when there is no fit.
NOT_FOUND = 0xFFFFFFFF


class FreeMap:
    """The free granules of a unit; all of them, at first.

    Args:
        nr_granules: how many there are.
    """

    def __init__(self, nr_granules):
        self.nr_granules = nr_granules
        self.nr_blocks = (nr_granules + BLOCK - 1) >> BLOCK_SHIFT
        self.words = array("Q", bytes(self.nr_blocks * BLOCK // 8))
        self.left = array("H", bytes(2 * self.nr_blocks))
        self.right = array("H", bytes(2 * self.nr_blocks))
        self.longest = array("H", bytes(2 * self.nr_blocks))
        self.nr_free = self.nr_blocks * BLOCK
        self.low = 0
        for b in range(self.nr_blocks):
            self.refresh(b)
        if nr_granules < self.nr_blocks * BLOCK:
            self.take(nr_granules, self.nr_blocks * BLOCK - nr_granules)

    def next_free(self, at, end):
        """The first free granule of ``[at, end)``, or ``end``."""
        word = at >> 6
        bits = ALL
        bits = (bits << (at & 63)) & ALL & ~self.words[word]
        while bits == 0:
            word += 1
            if word << 6 >= end:
                return end
            bits = ~self.words[word] & ALL
        found = (word << 6) + lowest_bit(bits)
        return found if found < end else end

    def next_taken(self, at, end):
        """The first granule of ``[at, end)`` that is taken, or ``end``."""
        word = at >> 6
        bits = ALL
        bits = (bits << (at & 63)) & self.words[word]
        while bits == 0:
            word += 1
            if word << 6 >= end:
                return end
            bits = self.words[word]
        found = (word << 6) + lowest_bit(bits)
        return found if found < end else end

    def find(self, size, align, start):
        """The lowest position from ``start`` on, aligned, with ``size`` free granules; ``NONE`` when there is none.

        Args:
            align: granules, a power of two.
        """
        b = start >> BLOCK_SHIFT
        if b < self.low:
            b = self.low
            start = b << BLOCK_SHIFT
        run = start
        open_run = False  # whether [run, beginning of block b) is free
        while b < self.nr_blocks:
            begin = b << BLOCK_SHIFT
            if open_run:
                first = (run + align - 1) & ~(align - 1)
                if first + size <= begin + self.left[b]:
                    return first
                if self.left[b] == BLOCK:
                    b += 1
                    continue
            if self.longest[b] >= size:
                first = self.find_inside(begin if begin > start else start, begin + BLOCK, size, align)
                if first != NONE:
                    return first
            open_run = self.right[b] != 0
            run = begin + BLOCK - self.right[b]
            if run < start:
                run = start
            b += 1
        return NONE

    def find_inside(self, at, end, size, align):
        """``find`` within ``[at, end)``, a part of one block."""
        at = self.next_free(at, end)
        while at < end:
            stop = self.next_taken(at, end)
            first = (at + align - 1) & ~(align - 1)
            if first + size <= stop:
                return first
            if stop == end:
                return NONE
            at = self.next_free(stop, end)
        return NONE

    def fill(self, start, size, taken):
        """Sets or clears the bits of a range, and makes the hints of its blocks exact again."""
        end = start + size
        at = start
        while at < end:
            word = at >> 6
            mask = ALL
            mask = (mask << (at & 63)) & ALL
            at = (word + 1) << 6
            if at > end:
                mask = (mask << (at - end) & ALL) >> (at - end)
            if taken:
                self.words[word] |= mask
            else:
                self.words[word] &= ~mask & ALL
        for b in range(start >> BLOCK_SHIFT, ((end - 1) >> BLOCK_SHIFT) + 1):
            self.refresh(b)

    def refresh(self, b):
        """Computes the hints of a block from its bits."""
        begin = b << BLOCK_SHIFT
        end = begin + BLOCK
        best = 0
        last = 0
        at = self.next_taken(begin, end)
        self.left[b] = at - begin
        while at < end:
            at = self.next_free(at, end)
            if at == end:
                last = 0
                break
            stop = self.next_taken(at, end)
            last = stop - at
            if last > best:
                best = last
            at = stop
            if stop < end:
                last = 0
        if self.left[b] == BLOCK:
            last = BLOCK
        self.right[b] = last
        self.longest[b] = best if best > self.left[b] else self.left[b]

    def take(self, start, size):
        """Takes free granules."""
        self.fill(start, size, True)
        self.nr_free -= size
        while self.low < self.nr_blocks and self.longest[self.low] == 0:
            self.low += 1

    def release(self, start, size):
        """Makes granules free again that were taken."""
        self.fill(start, size, False)
        self.nr_free += size
        if self.low > start >> BLOCK_SHIFT:
            self.low = start >> BLOCK_SHIFT

    def run_around(self, start, size):
        """The length of the free run that a free range is part of, as far as it lies in the blocks that touch it.

        Whole free blocks beyond are counted too, until the first block that is not wholly free.
        """
        b = start >> BLOCK_SHIFT
        begin = b << BLOCK_SHIFT
        low = start
        at = begin
        while at < start:  # the last run before start
            at = self.next_free(at, start)
            low = at
            at = self.next_taken(at, start) if at < start else start
        while low == begin and b > 0:
            b -= 1
            low = begin - self.right[b]
            begin = b << BLOCK_SHIFT
        b = (start + size - 1) >> BLOCK_SHIFT
        end = (b + 1) << BLOCK_SHIFT
        high = self.next_taken(start + size, end) if start + size < end else end
        while high == end and b + 1 < self.nr_blocks:
            b += 1
            high = end + self.left[b]
            end += BLOCK
        return high - low

    # Python's side.

    def first_fit(self, size, align=1, start=0):
        """``find`` for Python callers; None when there is none."""
        found = self.find(size, align, start)
        return None if found == NOT_FOUND else found

    def mark_taken(self, start, size):
        """``take`` for Python callers."""
        self.take(start, size)

    def mark_free(self, start, size):
        """``release`` for Python callers."""
        self.release(start, size)

    def run_length(self, start, size):
        """``run_around`` for Python callers."""
        return self.run_around(start, size)

    def bits(self):
        """The map as a list: True for granules that are taken."""
        return [bool(self.words[i >> 6] >> (i & 63) & 1) for i in range(self.nr_granules)]

    def longest_run(self):
        """The longest free run, joined over blocks."""
        best = run = 0
        for b in range(self.nr_blocks):
            best = max(best, run + self.left[b], self.longest[b])
            run = run + BLOCK if self.left[b] == BLOCK else self.right[b]
        return max(best, run)
