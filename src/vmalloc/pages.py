"""An ordered list of page frames: what ``alloc_pages`` gives, ``vmap`` maps and an area holds.

Idea: the kernel passes ``struct page **`` around; here it is one object that owns its array.  It says which frames, in
which order, and nothing about who holds them: that is the machine's record.  So it may name a frame twice, frames of
several areas, and frames that were freed meanwhile - as an array of pointers may.

Shape: frame numbers of 64 bits in one C array; a single one lives in the object itself, because most areas of a kernel
are small and a second piece of memory per area would cost more than the area.

Fixed length: only the call that fills a new list writes to it (``fill`` says how far it came).
"""

import cython

from vmalloc.errors import BadFrame
from vmalloc.units import format_size

if cython.compiled:
    from cython.cimports.libc.stdlib import free, malloc
    from cython.cimports.libc.string import memcpy

__all__ = ["Pages"]


class Pages:
    """Page frames, in order: a sequence of frame numbers.

    Args:
        pfns: the numbers, any iterable.
        page_size: bytes per page, for ``size``.
        room: for how many frames there shall be room at least; ``take_bulk`` of a machine appends.

    >>> pages = Pages([7, 3, 7])
    >>> len(pages), pages[1], list(pages[:2])
    (3, 3, [7, 3])
    """

    def __cinit__(self):
        if cython.compiled:
            self.room = 1
            self.pfn = cython.address(self.one)  # not in __init__: a list that is filled by the machine never runs it

    def __init__(self, pfns=(), page_size=4096, room=0):
        self.page_size = page_size
        self.nr_pages = 0
        numbers = list(pfns)
        if self.reserve(max(len(numbers), room)) != 0:
            raise MemoryError(f"no memory for a list of {max(len(numbers), room)} page frames")
        for i in range(len(numbers)):
            if not 0 <= numbers[i] < 1 << 64:
                raise BadFrame(numbers[i], "it is no number of 64 bits")
            self.pfn[i] = numbers[i]
        self.nr_pages = len(numbers)

    def __dealloc__(self):
        if cython.compiled and self.pfn != cython.address(self.one):
            free(self.pfn)

    def reserve(self, count):
        """Makes room for ``count`` frames in an empty list; 0, or -1 when memory is exhausted."""
        if cython.compiled:
            if count <= 1:
                self.pfn = cython.address(self.one)
            else:
                self.pfn = cython.cast("uint64_t*", malloc(count * 8))
                if self.pfn == cython.NULL:
                    self.pfn = cython.address(self.one)
                    return -1
                self.room = count
        else:
            self.pfn = [0] * count
            self.room = count
        return 0

    @property
    def size(self):
        """Bytes."""
        return self.nr_pages * self.page_size

    def __len__(self):
        return self.nr_pages

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Pages([self.number(i) for i in range(*index.indices(self.nr_pages))], self.page_size)
        i = index.__index__()
        if i < 0:
            i += self.nr_pages
        if not 0 <= i < self.nr_pages:
            raise IndexError(f"page {index} of a list of {self.nr_pages}")
        return self.number(i)

    def __iter__(self):
        return iter(self.numbers())

    def __contains__(self, pfn):
        return pfn in self.numbers()

    def __add__(self, other):
        return Pages([*self.numbers(), *other], self.page_size)

    def __eq__(self, other):
        if not isinstance(other, Pages):
            return NotImplemented
        return self.numbers() == other.numbers()

    def __hash__(self):
        return hash(tuple(self.numbers()))

    def __repr__(self):
        shown = ", ".join([f"{pfn:#x}" for pfn in self.numbers(8)])
        more = ", ..." if self.nr_pages > 8 else ""
        return f"<Pages {self.nr_pages} ({format_size(self.size)}): {shown}{more}>"

    def number(self, i):
        """The frame at place ``i``, which must exist."""
        return self.pfn[i]

    def numbers(self, limit=None):
        """The frames as a list of integers, at most ``limit`` of them."""
        count = self.nr_pages if limit is None else min(limit, self.nr_pages)
        return [self.number(i) for i in range(count)]

    def copy_from(self, source, first, count):
        """Makes this new list a copy of ``count`` frames of another from place ``first`` on; 0, or -1 for no memory."""
        if self.reserve(count) != 0:
            return -1
        if cython.compiled:
            memcpy(self.pfn, source.pfn + first, count * 8)
        else:
            self.pfn[:] = source.pfn[first : first + count]
        self.nr_pages = count
        return 0


def new_pages(count, page_size):
    """An empty list with room for ``count`` frames; None when memory is exhausted."""
    pages = Pages.__new__(Pages) if cython.compiled else Pages()
    pages.page_size = page_size
    if pages.reserve(count) != 0:
        return None
    return pages
