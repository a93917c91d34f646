from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.areas.ordered_map cimport OrderedMaps, ordered_block, ordered_map
from vmalloc.areas.pools cimport Pools, size_class
from vmalloc.areas.purge cimport Purge
from vmalloc.areas.rows cimport MAX_POOL_PAGES, AreaRows, vmap_area

@cython.locals(grown="void*")
cdef void* resized(void* pointer, size_t size) noexcept nogil

cdef struct saved_map:
    uint64_t offset         # where its first keys and block numbers begin in the two arrays
    uint32_t nr_blocks
    uint64_t count

@cython.final
cdef class Checkpoint:
    cdef readonly bint valid
    cdef vmap_area* row
    cdef uint64_t row_room
    cdef uint32_t rows_used
    cdef uint32_t rows_spare
    cdef uint32_t rows_live
    cdef ordered_block* block
    cdef uint64_t block_room
    cdef uint32_t blocks_used
    cdef uint32_t blocks_spare
    cdef saved_map* map
    cdef uint64_t map_room
    cdef uint64_t* first
    cdef uint64_t first_room
    cdef uint32_t* number
    cdef uint64_t number_room
    cdef size_class* pool
    cdef uint64_t pool_room
    cdef uint32_t* purge_list
    cdef uint64_t purge_room
    cdef uint32_t root
    cdef uint32_t count
    cdef uint64_t nr_lazy
    cdef uint64_t lazy_areas
    cdef uint64_t pool_hits
    cdef bint skip_populate
    cdef uint64_t purge_start
    cdef uint64_t purge_end
    cdef uint64_t purge_count
    cdef uint64_t overlaps
    cdef uint32_t moment            # of the ledger

    cdef int save(self, Allocator a) noexcept nogil
    cdef void restore(self, Allocator a) noexcept nogil

    cdef int save_rows(self, AreaRows rows) noexcept nogil
    cdef void restore_rows(self, AreaRows rows) noexcept nogil

    @cython.locals(m=uint32_t, k=uint32_t, total=uint64_t, room=uint64_t)
    cdef int save_maps(self, OrderedMaps maps) noexcept nogil
    @cython.locals(m=uint32_t, k=uint32_t)
    cdef void restore_maps(self, OrderedMaps maps) noexcept nogil

    @cython.locals(n=uint32_t, nr_nodes=uint32_t)
    cdef int save_lists(self, Allocator a) noexcept nogil
    @cython.locals(n=uint32_t, nr_nodes=uint32_t)
    cdef void restore_lists(self, Allocator a) noexcept nogil
