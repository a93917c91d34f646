"""The table of ``vmap_area`` records.

Idea: a record is a row number, not an object.  Every range of address space the allocator knows - free, busy, lazy or
pooled - is one 64-byte row of one table; trees and lists are built from row numbers stored in the rows.  The same row
travels busy -> lazy -> pool or free tree, as the kernel's slab object does (specification section 1.1), and is released
when it is merged away or consumed.

Why rows and not Python objects: the compiled allocator runs without the interpreter lock and touches one cache line per
tree level; a million areas cost 64 MB instead of several hundred.

Invariants: row 0 (``NIL``) is never handed out; it is black with both maxima 0, so that trees need no test for
a missing child.  A released row has state ``UNUSED`` and is on the list of spare rows exactly once.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.string import memset
else:
    from vmalloc.areas.plain import VmapArea, extend
    from vmalloc.areas.states import LOOSE, NIL, UNUSED

__all__ = ["AreaRows"]


class AreaRows:
    """A growing table of ``vmap_area`` rows with a list of spare ones."""

    def __cinit__(self):
        if not cython.compiled:
            self.row = []
        self.capacity = 0
        self.used = 1
        self.spare = NIL
        self.live = 0
        if self.reserve(64) != 0:
            raise MemoryError("no memory for the table of vmap_area records")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            vmalloc_table_free(self.row, self.capacity * cython.sizeof(vmap_area))

    def reserve(self, count):
        """Makes room for ``count`` further rows, so that the table does not move while they are taken.

        Returns 0, or -1 without any change when memory is exhausted.
        """
        wanted = self.used + count
        if wanted <= self.capacity:
            return 0
        # A quarter more each time: amortised constant, and at most a fifth of the table idle.
        wanted += wanted >> 2
        if cython.compiled:
            if wanted > 0x7FFFFFFF:
                return -1
            grown = cython.cast(
                "vmap_area*",
                vmalloc_table_resize(
                    self.row,
                    self.capacity * cython.sizeof(vmap_area),
                    wanted * cython.sizeof(vmap_area),
                    self.used * cython.sizeof(vmap_area),
                ),
            )
            if grown == cython.NULL:
                return -1
            # Only row 0 is cleared: a row is filled when it is taken, and memory that was never written costs nothing.
            if self.row == cython.NULL:
                memset(grown, 0, cython.sizeof(vmap_area))
            self.row = grown
        else:
            extend(self.row, wanted, VmapArea)
        self.capacity = wanted
        return 0

    def take(self, start, end):
        """Hands out a ``LOOSE`` row for ``[start, end)``; ``NIL`` when memory is exhausted."""
        n = self.spare
        if n != NIL:
            self.spare = self.row[n].list_next
        else:
            if self.used == self.capacity and self.reserve(1) != 0:
                return NIL
            n = self.used
            self.used += 1
        self.live += 1
        self.row[n].va_start = start
        self.row[n].va_end = end
        self.row[n].flags = 0
        self.row[n].color = 0
        self.row[n].rb_parent = NIL
        self.row[n].rb_left = NIL
        self.row[n].rb_right = NIL
        self.row[n].left_max = 0
        self.row[n].right_max = 0
        self.row[n].list_next = NIL
        self.row[n].state = LOOSE
        return n

    def release(self, n):
        """Returns a row to the spare ones; its range must be accounted for elsewhere by now."""
        self.row[n].state = UNUSED
        self.row[n].list_next = self.spare
        self.spare = n
        self.live -= 1

    def get(self, n):
        """Returns row ``n`` as a dictionary of its fields, for validators, tests and printing."""
        return {
            "va_start": self.row[n].va_start,
            "va_end": self.row[n].va_end,
            "left_max": self.row[n].left_max,
            "right_max": self.row[n].right_max,
            "subtree_max_size": max(
                self.row[n].va_end - self.row[n].va_start, self.row[n].left_max, self.row[n].right_max
            ),
            "parent": self.row[n].rb_parent,
            "left": self.row[n].rb_left,
            "right": self.row[n].rb_right,
            "list_next": self.row[n].list_next,
            "flags": self.row[n].flags,
            "red": self.row[n].color != 0,
            "state": self.row[n].state,
        }

    def poke(self, n, field, value):
        """Overwrites one field of row ``n``: for the tests that break structures on purpose, and for nothing else."""
        if field == "va_start":
            self.row[n].va_start = value
        elif field == "va_end":
            self.row[n].va_end = value
        elif field == "left_max":
            self.row[n].left_max = value
        elif field == "right_max":
            self.row[n].right_max = value
        elif field == "parent":
            self.row[n].rb_parent = value
        elif field == "left":
            self.row[n].rb_left = value
        elif field == "right":
            self.row[n].rb_right = value
        elif field == "list_next":
            self.row[n].list_next = value
        elif field == "flags":
            self.row[n].flags = value
        elif field == "red":
            self.row[n].color = 1 if value else 0
        elif field == "state":
            self.row[n].state = value
        else:
            raise KeyError(field)

    def spares(self):
        """Row numbers of the list of spare rows, next one first; a broken list is cut off where it breaks."""
        found = []
        n = self.spare
        while n != NIL:
            found.append(n)
            if n >= self.used or len(found) > self.used:
                break  # out of the table, or in a circle: the validator reports it
            n = self.row[n].list_next
        return found
