"""The free set: every range that is neither allocated, nor lazy, nor pooled; and the search for a block in it.

Idea: one red-black tree of disjoint, never adjacent blocks (``rbtree``), searched with the subtree maxima for the block
that Linux would choose.  ``search`` is the kernel's ``find_vmap_lowest_match`` (specification section 1.7), ``clip``
its four fits (1.8), ``give`` its merge (1.9).

What a reader has to know before changing anything here:

* For ``align <= page`` the search is exact: the lowest block that fits.  For larger alignments it looks for
  ``size + align - 1`` bytes, prunes by the maxima, and so **depends on the shape of the tree**; it need not return the
  lowest fit, and may fail although a block fits.  That is the kernel's behaviour, and recorded addresses can be met
  only by keeping it.  ``lowest_fit`` asks for the other thing (``search_lowest``): always the lowest address.
* The record of a block keeps its place when the block shrinks or grows.  In a split in the middle the old record
  becomes the *right* part and a new record the left one; in a merge on both sides the *lower* record survives.
* The free space is not limited to the vmalloc range: it starts as ``[1, 2**64 - 1)`` (1.5), and the low block and the
  tail block stay in the tree for ever and shape it.

Wrapping: the kernel lets ``start + size`` wrap and tests for it.  Here no sum is formed that could wrap, so that the
uncompiled integers, which do not wrap, give the same answers.
"""

import cython

from vmalloc.areas.rbtree import RbTree

if not cython.compiled:
    from vmalloc.areas.states import EINVAL, ENOENT, ENOMEM, ERANGE, FREE, NIL

    LANES = 16

ADDRESS_MAX = 0xFFFFFFFFFFFFFFFF
ERROR_VALUES = 0xFFFFFFFFFFFFF001

__all__ = ["FreeTree"]


class FreeTree(RbTree):
    """The tree of free blocks.

    Args:
        rows: the table the blocks are rows of.
        page_size: base page in bytes; alignments above it widen the search.
        lowest_fit: whether those take the lowest address that fits, instead of the kernel's choice.
    """

    def __init__(self, rows, page_size, lowest_fit=False):
        RbTree.__init__(self, rows)
        self.page_size = page_size
        self.lowest_fit = lowest_fit
        self.visits = self.aligned_searches = self.aligned_visits = 0
        self.gap_parent = self.gap_previous = self.gap_next = NIL
        self.gap_left = False
        self.chosen = NIL

    def candidate(self, n, vstart, align):
        """The first address in block ``n`` at or above ``vstart`` with ``align``; 0 when aligning would wrap."""
        if self.rows.row[n].va_start > vstart:
            vstart = self.rows.row[n].va_start
        if vstart > ADDRESS_MAX - (align - 1):
            return 0
        return (vstart + (align - 1)) & ~(align - 1)

    def fits(self, n, vstart, size, align):
        """Tells whether block ``n`` really holds ``size`` aligned bytes at or above ``vstart``."""
        a = self.candidate(n, vstart, align)
        return a >= vstart and a <= self.rows.row[n].va_end and self.rows.row[n].va_end - a >= size

    def search(self, size, align, vstart, adjust):
        """The kernel's lowest match (section 1.7): a block that fits, or ``NIL``.

        ``adjust`` widens what the maxima are compared with to ``size + align - 1``; the fit itself is always tested
        with the real size.
        """
        row = self.rows.row
        want = size
        if adjust:
            want = size + (align - 1) if size <= ADDRESS_MAX - (align - 1) else ADDRESS_MAX
        steer = vstart
        visits = 0
        n = self.root
        while n != NIL:
            visits += 1
            if row[n].left_max >= want and steer < row[n].va_start:
                n = row[n].rb_left
                continue
            if self.fits(n, steer, size, align):
                break
            if row[n].right_max >= want:
                n = row[n].rb_right
                continue
            # A dead end: climb. The shifted lower bound keeps the walk out of a right subtree it has seen; it steers
            # only, the address finally used starts from the caller's vstart again.
            n = row[n].rb_parent
            while n != NIL:
                visits += 1
                if self.fits(n, steer, size, align):
                    self.visits += visits
                    return n
                if row[n].right_max >= want and steer <= row[n].va_start:
                    steer = row[n].va_start + 1
                    n = row[n].rb_right
                    break
                n = row[n].rb_parent
        self.visits += visits
        return n

    def search_aligned(self, size, align, vstart, vend):
        """The search for an alignment above a page, by the kernel's rule or for the lowest address; its cost is noted.

        ``aligned_searches`` and ``aligned_visits``: such searches, and nodes they looked at.
        """
        before = self.visits
        if self.lowest_fit:
            n = self.search_lowest(size, align, vstart, vend)
        else:
            n = self.search(size, align, vstart, True)
        self.aligned_searches += 1
        self.aligned_visits += self.visits - before
        return n

    def search_lowest(self, size, align, vstart, vend):
        """The block with the lowest address at which ``size`` aligned bytes fit, or ``NIL``.

        An in-order walk that enters no subtree whose largest block is too small, none below ``vstart``, and stops at
        ``vend``. What it looks at in vain are blocks that are large enough and lie wrongly.
        """
        row = self.rows.row
        n = self.root
        rising = False
        while n != NIL:
            self.visits += 1
            if not rising and row[n].left_max >= size and vstart < row[n].va_start:
                n = row[n].rb_left
                continue
            if row[n].va_start >= vend:
                return NIL
            if self.fits(n, vstart, size, align):
                return n
            if row[n].right_max >= size:
                n = row[n].rb_right
                rising = False
                continue
            p = row[n].rb_parent
            while p != NIL and row[p].rb_right == n:
                self.visits += 1
                n = p
                p = row[n].rb_parent
            n = p
            rising = True
        return NIL

    def largest_within(self, low, high):
        """Bytes of the largest piece of a free block that lies in ``[low, high)``: two walks down the edges."""
        row = self.rows.row
        n = self.root
        while n != NIL and (row[n].va_end <= low or row[n].va_start >= high):
            n = row[n].rb_right if row[n].va_end <= low else row[n].rb_left
        if n == NIL:
            return 0
        found = self.piece(n, low, high)
        m = row[n].rb_left
        while m != NIL:
            if row[m].va_end > low:
                found = max(found, self.piece(m, low, high), row[m].right_max)
                m = row[m].rb_left
            else:
                m = row[m].rb_right
        m = row[n].rb_right
        while m != NIL:
            if row[m].va_start < high:
                found = max(found, self.piece(m, low, high), row[m].left_max)
                m = row[m].rb_right
            else:
                m = row[m].rb_left
        return found

    def piece(self, n, low, high):
        """Bytes of block ``n`` that lie in ``[low, high)``; the two must meet."""
        start = self.rows.row[n].va_start
        end = self.rows.row[n].va_end
        if start < low:
            start = low
        if end > high:
            end = high
        return end - start

    def choose(self, size, align, vstart, vend):
        """The address the kernel's ``va_alloc`` would take (section 1.8), or an error value; nothing is taken.

        ``-ENOENT`` no block; ``-ERANGE`` the block found ends beyond ``vend`` (no second one is tried). The block is
        noted in ``chosen``.
        """
        if align > self.page_size and vend - vstart != size:
            n = self.search_aligned(size, align, vstart, vend)
        else:
            n = self.search(size, align, vstart, False)
        self.chosen = n
        if n == NIL:
            return ADDRESS_MAX - ENOENT + 1
        start = self.candidate(n, vstart, align)
        if start > vend or vend - start < size:
            return ADDRESS_MAX - ERANGE + 1
        return start

    def take(self, size, align, vstart, vend):
        """Searches a block and clips ``[start, start + size)`` out of it; the start, or an error value unchanged.

        ``-ENOMEM``: no record for a split. ``-EINVAL``: aligning wrapped round to address 0, which a window from 0
        allows.
        """
        start = self.choose(size, align, vstart, vend)
        if start >= ERROR_VALUES:
            return start
        result = self.clip(self.chosen, start, size)
        if result != 0:
            return ADDRESS_MAX + result + 1
        return start

    def clip(self, n, start, size):
        """Takes ``[start, start + size)`` out of block ``n``: full, left edge, right edge or no edge (section 1.8).

        Returns 0, ``-EINVAL`` when the range is not inside the block, ``-ENOMEM`` when a split got no record.
        """
        end = start + size
        if start < self.rows.row[n].va_start or end > self.rows.row[n].va_end or end < start:
            return -EINVAL
        if start == self.rows.row[n].va_start:
            if end == self.rows.row[n].va_end:
                self.erase(n)
                self.rows.release(n)
                return 0
            self.rows.row[n].va_start = end
            self.propagate(n)
            return 0
        if end == self.rows.row[n].va_end:
            self.rows.row[n].va_end = start
            self.propagate(n)
            return 0
        left = self.rows.take(self.rows.row[n].va_start, start)
        if left == NIL:
            return -ENOMEM
        row = self.rows.row
        row[n].va_start = end
        self.propagate(n)
        row[left].state = FREE
        # The left part becomes the in-order predecessor of its right part.
        if row[n].rb_left == NIL:
            self.link(left, n, True)
        else:
            n = row[n].rb_left
            while row[n].rb_right != NIL:
                n = row[n].rb_right
            self.link(left, n, False)
        return 0

    def locate(self, start, end):
        """Finds the gap ``[start, end)`` belongs to and notes parent, side and neighbours in ``gap_*``.

        Returns ``NIL``, or the block that overlaps the range.
        """
        row = self.rows.row
        self.gap_parent = NIL
        self.gap_previous = NIL
        self.gap_next = NIL
        self.gap_left = False
        n = self.root
        while n != NIL:
            self.gap_parent = n
            if end <= row[n].va_start:
                self.gap_next = n
                self.gap_left = True
                n = row[n].rb_left
            elif start >= row[n].va_end:
                self.gap_previous = n
                self.gap_left = False
                n = row[n].rb_right
            else:
                return n
        return NIL

    def give(self, v):
        """Adds the range of row ``v`` to the free set, merging it with what it touches (section 1.9).

        Returns 0; -1 when it overlaps a free block (the kernel warns and loses the record; here nothing changes and the
        row stays the caller's).
        """
        clash = self.locate(self.rows.row[v].va_start, self.rows.row[v].va_end)
        if clash != NIL:
            return -1
        row = self.rows.row
        previous = self.gap_previous
        following = self.gap_next
        merged = False
        if following != NIL and row[following].va_start == row[v].va_end:
            row[following].va_start = row[v].va_start
            self.rows.release(v)
            v = following
            merged = True
        if previous != NIL and row[previous].va_end == row[v].va_start:
            if merged:
                self.erase(v)
            row[previous].va_end = row[v].va_end
            self.rows.release(v)
            v = previous
            merged = True
        if not merged:
            row[v].state = FREE
            self.link(v, self.gap_parent, self.gap_left)
            return 0
        self.propagate(v)
        return 0

    def at_or_below(self, address):
        """The highest block with ``va_start <= address``, or ``NIL`` (``below`` of section 7.1)."""
        row = self.rows.row
        n = self.root
        found = NIL
        while n != NIL:
            if row[n].va_start <= address:
                found = n
                n = row[n].rb_right
            else:
                n = row[n].rb_left
        return found

    def holds(self, start, end):
        """Tells whether all of ``[start, end)`` is free."""
        n = self.at_or_below(start)
        return n != NIL and end <= self.rows.row[n].va_end

    def carve(self, start, end):
        """Takes exactly ``[start, end)``; 0, or a negative errno without change."""
        n = self.at_or_below(start)
        if n == NIL:
            return -EINVAL
        return self.clip(n, start, end - start)

    def warm(self, first):
        """Fetches into the cache what giving the next 16 rows of the list ``first`` will touch; returns the 17th.

        One insertion waits for a chain of cache misses, a level of the tree each; sixteen walks side by side wait for
        one miss per level together. Only a hint: nothing is changed, and uncompiled nothing is done.
        """
        if not cython.compiled:
            return NIL
        row = self.rows.row
        lanes = 0
        v = first
        while v != NIL and lanes < LANES:
            self.warm_start[lanes] = row[v].va_start
            self.warm_node[lanes] = self.root
            lanes += 1
            v = row[v].list_next
        moving = True
        while moving:
            moving = False
            for k in range(lanes):
                n = self.warm_node[k]
                if n == NIL:
                    continue
                n = row[n].rb_left if self.warm_start[k] < row[n].va_start else row[n].rb_right
                self.warm_node[k] = n
                if n != NIL:
                    vmalloc_prefetch(cython.address(row[n]))
                    moving = True
        return v

    def drain(self):
        """Empties the tree and returns its rows as a list joined by ``list_next``, in ascending order."""
        row = self.rows.row
        first = self.lowest()
        n = first
        while n != NIL:
            last = n
            n = self.next(n)
            row[last].list_next = n
        self.root = NIL
        self.count = 0
        return first

    # Python's side of the tree: for tests, validators and printing.

    def add(self, start, end):
        """Adds ``[start, end)`` to the free set; True, or False when it overlaps a free block."""
        n = self.rows.take(start, end)
        if n == NIL:
            raise MemoryError("no memory for a vmap_area record")
        if self.give(n) != 0:
            self.rows.release(n)
            return False
        return True

    def allocate(self, size, align, vstart, vend):
        """``take`` for Python callers: the address or the error value."""
        return self.take(size, align, vstart, vend)

    def remove(self, start, end):
        """``carve`` for Python callers."""
        return self.carve(start, end)

    def block_of(self, address):
        """The free block that contains ``address``, as ``(start, end)``; None when it is not free."""
        n = self.at_or_below(address)
        if n == NIL or address >= self.rows.row[n].va_end:
            return None
        return (self.rows.row[n].va_start, self.rows.row[n].va_end)

    def blocks(self):
        """All free blocks in ascending order, as ``(start, end)``."""
        found = []
        n = self.lowest()
        while n != NIL:
            found.append((self.rows.row[n].va_start, self.rows.row[n].va_end))
            n = self.next(n)
        return found

    def largest(self):
        """Size of the largest free block in bytes."""
        return self.largest_below(self.root)

    def largest_in(self, low, high):
        """``largest_within`` for Python callers."""
        return self.largest_within(low, high)
