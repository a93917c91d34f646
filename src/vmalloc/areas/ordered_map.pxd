from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.rows cimport vmalloc_prefetch, vmalloc_table_free, vmalloc_table_resize

cdef enum:
    BLOCK_CAPACITY = 128
    NO_BLOCK = 0x7FFFFFFF
    LARGE_MAP = 64         # runs; a larger map is worth fetching ahead

cdef struct ordered_block:
    uint32_t count
    uint32_t next_spare
    uint64_t keys[128]
    uint32_t values[128]

cdef struct ordered_map:
    uint64_t* first        # lowest key each block may hold, ascending; first[0] is 0
    uint32_t* block        # numbers of the blocks
    uint32_t nr_blocks
    uint32_t capacity
    uint64_t count

@cython.final
cdef class OrderedMaps:
    cdef ordered_map* map
    cdef readonly uint32_t nr_maps
    cdef ordered_block* block
    cdef readonly uint32_t block_capacity
    cdef readonly uint32_t blocks_used
    cdef uint32_t spare

    @cython.locals(fresh="ordered_map*")
    cdef int add_maps(self, uint32_t nr_maps) noexcept nogil

    @cython.locals(n=uint32_t, wanted=uint32_t, grown="ordered_block*")
    cdef uint32_t take_block(self) noexcept nogil

    @cython.locals(wanted=uint32_t, first="uint64_t*", numbers="uint32_t*")
    cdef int widen(self, uint32_t m) noexcept nogil

    @cython.locals(first="uint64_t*", keys="uint64_t*", low=uint32_t, length=uint32_t, half=uint32_t)
    cdef uint32_t find_block(self, uint32_t m, uint64_t key) noexcept nogil

    @cython.locals(keys="uint64_t*", low=uint32_t, length=uint32_t, half=uint32_t)
    cdef uint32_t lower_bound(self, uint32_t b, uint64_t key) noexcept nogil

    cdef void shift(self, uint32_t b, uint32_t source, uint32_t target, uint32_t count) noexcept nogil

    @cython.locals(i=uint32_t, b=uint32_t, position=uint32_t)
    cdef int insert(self, uint32_t m, uint64_t key, uint32_t value) noexcept nogil

    @cython.locals(b=uint32_t, fresh=uint32_t, half=uint32_t, moved=uint32_t, k=uint32_t, j=uint32_t)
    cdef int split(self, uint32_t m, uint32_t i, uint32_t keep) noexcept nogil

    @cython.locals(i=uint32_t, b=uint32_t, position=uint32_t, value=uint32_t)
    cdef uint32_t remove(self, uint32_t m, uint64_t key) noexcept nogil

    @cython.locals(a=uint32_t, b=uint32_t, k=uint32_t)
    cdef void join(self, uint32_t m, uint32_t i) noexcept nogil

    @cython.locals(b=uint32_t, j=uint32_t)
    cdef void drop_block(self, uint32_t m, uint32_t i) noexcept nogil

    @cython.locals(i=uint32_t, b=uint32_t, position=uint32_t)
    cdef uint32_t at_or_below(self, uint32_t m, uint64_t key) noexcept nogil

    @cython.locals(i=uint32_t, b=uint32_t, position=uint32_t)
    cdef uint32_t at_or_above(self, uint32_t m, uint64_t key) noexcept nogil

    cdef uint32_t get(self, uint32_t m, uint64_t key) noexcept nogil

    @cython.locals(i=uint32_t)
    cdef void clear(self, uint32_t m) noexcept nogil
