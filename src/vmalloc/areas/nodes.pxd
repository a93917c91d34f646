from libc.stdint cimport int32_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.ledger cimport NOW_BUSY, NOW_GONE, Ledger
from vmalloc.areas.ordered_map cimport OrderedMaps, ordered_block, ordered_map
from vmalloc.areas.pools cimport Pools
from vmalloc.areas.rows cimport BUSY, LAZY, LOOSE, NIL, PURGING, AreaRows, vmalloc_prefetch, vmap_area

@cython.final
cdef class VmapNodes:
    cdef readonly AreaRows rows
    cdef readonly uint32_t nr_nodes
    cdef readonly uint64_t zone_size
    cdef readonly uint32_t page_shift
    cdef readonly bint merges_lazy
    cdef readonly int walk_step
    cdef readonly OrderedMaps maps       # map n: busy of node n; map nr_nodes + n: lazy of node n
    cdef readonly Pools pools
    cdef readonly uint64_t nr_lazy       # pages in lazy maps, and on purge lists until they are processed
    cdef readonly uint64_t lazy_areas    # records in lazy maps
    cdef readonly Ledger ledger          # where to write what happens to ranges, or None
    cdef public uint32_t cpu             # who acts, for the ledger

    cdef void note(self, uint32_t kind, uint64_t start, uint64_t end) noexcept nogil

    cdef uint32_t moment(self) noexcept nogil

    cdef void go_back(self, uint32_t moment) noexcept nogil

    cdef uint32_t addr_to_node(self, uint64_t address) noexcept nogil

    @cython.locals(encoded=uint32_t)
    cdef uint32_t home(self, uint32_t v) noexcept nogil

    cdef int insert_busy(self, uint32_t v) noexcept nogil

    @cython.locals(node=uint32_t, k=uint32_t, v=uint32_t)
    cdef uint32_t find(self, uint64_t address) noexcept nogil

    @cython.locals(node=uint32_t)
    cdef void fetch_run(self, uint64_t start) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef void fetch_row(self, uint64_t start) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef uint32_t unlink(self, uint64_t address) noexcept nogil

    cdef uint32_t unlink_exact(self, uint64_t start) noexcept nogil

    cdef int insert_lazy(self, uint32_t v) noexcept nogil

    @cython.locals(m=uint32_t, near=uint32_t, pages=uint64_t)
    cdef int merge_lazy(self, uint32_t v) noexcept nogil

    cdef uint32_t unlink_lazy(self, uint32_t v) noexcept nogil

    @cython.locals(m=uint32_t, i=uint32_t, k=uint32_t, b=uint32_t, v=uint32_t, first=uint32_t, last=uint32_t)
    cdef uint32_t detach(self, uint32_t node) noexcept nogil
