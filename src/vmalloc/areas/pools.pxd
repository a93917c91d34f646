from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.rows cimport BUSY, MAX_POOL_PAGES, NIL, POOLED, AreaRows, vmap_area

cdef enum:
    NO_CLASS = 0x7FFFFFFF

cdef struct size_class:
    uint32_t head
    uint32_t tail
    uint32_t length

@cython.final
cdef class Pools:
    cdef readonly AreaRows rows
    cdef readonly uint32_t nr_nodes
    cdef readonly uint32_t page_shift
    cdef size_class* pool           # nr_nodes x MAX_POOL_PAGES

    @cython.locals(nr_pages=uint64_t)
    cdef uint32_t class_of(self, uint32_t node, uint64_t size) noexcept nogil

    cdef void push(self, uint32_t c, uint32_t v) noexcept nogil

    cdef uint32_t pop(self, uint32_t c) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef void rotate(self, uint32_t c) noexcept nogil

    @cython.locals(v=uint32_t, before=uint32_t)
    cdef bint remove(self, uint32_t c, uint32_t wanted) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef uint32_t find(self, uint32_t c, uint64_t start) noexcept nogil

    @cython.locals(before=uint32_t, after=uint32_t)
    cdef void insert_by_address(self, uint32_t c, uint32_t v) noexcept nogil
