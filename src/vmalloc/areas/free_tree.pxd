from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.rbtree cimport RbTree
from vmalloc.areas.rows cimport FREE, NIL, AreaRows, vmalloc_prefetch, vmap_area

# Mirrors states.py.
cdef enum:
    ENOENT = 2
    ENOMEM = 12
    EBUSY = 16
    EINVAL = 22
    ERANGE = 34

cdef enum:
    LANES = 16     # walks side by side in warm()

cdef uint64_t ADDRESS_MAX
cdef uint64_t ERROR_VALUES

@cython.final
cdef class FreeTree(RbTree):
    cdef uint64_t warm_start[16]
    cdef uint32_t warm_node[16]
    cdef readonly uint64_t page_size
    cdef readonly bint lowest_fit
    cdef readonly uint64_t visits             # nodes looked at by all searches
    cdef readonly uint64_t aligned_searches   # those for an alignment above a page,
    cdef readonly uint64_t aligned_visits     #   and the nodes they looked at
    cdef uint32_t chosen         # block of the last choose(), or NIL
    cdef uint32_t gap_parent     # answers of locate()
    cdef bint gap_left
    cdef uint32_t gap_previous
    cdef uint32_t gap_next

    @cython.locals(a=uint64_t)
    cdef bint fits(self, uint32_t n, uint64_t vstart, uint64_t size, uint64_t align) noexcept nogil

    cdef uint64_t candidate(self, uint32_t n, uint64_t vstart, uint64_t align) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, want=uint64_t, steer=uint64_t, visits=uint64_t)
    cdef uint32_t search(self, uint64_t size, uint64_t align, uint64_t vstart, bint adjust) noexcept nogil

    @cython.locals(n=uint32_t, before=uint64_t)
    cdef uint32_t search_aligned(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, p=uint32_t, rising=bint)
    cdef uint32_t search_lowest(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, m=uint32_t, found=uint64_t)
    cdef uint64_t largest_within(self, uint64_t low, uint64_t high) noexcept nogil

    @cython.locals(start=uint64_t, end=uint64_t)
    cdef uint64_t piece(self, uint32_t n, uint64_t low, uint64_t high) noexcept nogil

    @cython.locals(n=uint32_t, start=uint64_t)
    cdef uint64_t choose(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend) noexcept nogil

    @cython.locals(start=uint64_t, result=int)
    cdef uint64_t take(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend) noexcept nogil

    @cython.locals(row="vmap_area*", left=uint32_t, end=uint64_t)
    cdef int clip(self, uint32_t n, uint64_t start, uint64_t size) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t)
    cdef uint32_t locate(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(row="vmap_area*", clash=uint32_t, previous=uint32_t, following=uint32_t, merged=bint)
    cdef int give(self, uint32_t v) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, found=uint32_t)
    cdef uint32_t at_or_below(self, uint64_t address) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint holds(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef int carve(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, v=uint32_t, k=uint32_t, lanes=uint32_t, moving=bint)
    cdef uint32_t warm(self, uint32_t first) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, last=uint32_t, first=uint32_t)
    cdef uint32_t drain(self) noexcept nogil
