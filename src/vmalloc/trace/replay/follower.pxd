from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.ledger cimport NOW_BUSY, NOW_FLUSHED, NOW_GONE, NOW_PROVEN, Ledger, happening
from vmalloc.calls.area_pages cimport BATCH, NUMA_NO_NODE, take_batches, take_large_blocks, take_singles
from vmalloc.machine.base cimport TAKE_MAY_DRAIN
from vmalloc.machine.simulated.machine cimport SimulatedMachine
from vmalloc.pages cimport Pages, new_pages

# Mirrors flags.py.
cdef enum:
    READ_WRITE = 3

@cython.final
cdef class Follower:
    cdef readonly SimulatedMachine machine
    cdef readonly Ledger ledger
    cdef readonly dict areas                # start: Pages
    cdef readonly uint32_t page_shift
    cdef readonly bint takes_large_blocks
    cdef readonly list shifts               # of huge mappings, largest first
    cdef readonly list leaves               # made, per shift of `shifts`; the last place: base pages
    cdef readonly uint64_t base_leaves
    cdef readonly uint32_t done             # entries of the ledger
    cdef readonly uint64_t frames_taken
    cdef readonly uint64_t huge_areas
    cdef readonly uint64_t huge_fallbacks
    cdef readonly uint64_t proven_flushes
    cdef readonly uint64_t accesses
    cdef uint64_t touched[2]

    @cython.locals(e="happening*", kind=uint32_t, start=uint64_t, end=uint64_t)
    cdef int apply(self, uint32_t n) except -1

    @cython.locals(size=uint64_t, pages=Pages, shift=uint32_t)
    cdef int build(self, uint64_t start, uint64_t end) except -1

    cdef uint64_t mapped_size(self, uint64_t start, uint64_t end) noexcept

    @cython.locals(shift=uint32_t)
    cdef uint32_t huge_shift(self, uint64_t start, uint64_t size) except? 99

    @cython.locals(pages=Pages)
    cdef Pages take_pages(self, uint64_t nr_pages, uint32_t order)

    @cython.locals(pages=Pages, code=int)
    cdef Pages build_base(self, uint64_t start, uint64_t size)

    @cython.locals(pages=Pages, block=uint64_t, i=uint64_t, address=uint64_t, code=int)
    cdef Pages build_huge(self, uint64_t start, uint64_t size, uint32_t shift)

    cdef int undo(self, uint64_t start, uint64_t size, Pages pages) except -1

    @cython.locals(count=int64_t)
    cdef int touch(self, uint64_t start, uint64_t size) except -1

    @cython.locals(pages=Pages)
    cdef int take_apart(self, uint64_t start) except -1

    @cython.locals(i=uint64_t)
    cdef uint64_t disagrees(self, uint64_t start, Pages pages) except? 1
