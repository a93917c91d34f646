from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ADDRESS_MAX, FreeTree
from vmalloc.areas.ledger cimport NOW_FLUSHED
from vmalloc.areas.nodes cimport VmapNodes
from vmalloc.areas.rows cimport LOOSE, MAX_POOL_PAGES, NIL, AreaRows, vmap_area

@cython.final
cdef class Purge:
    cdef readonly AreaRows rows
    cdef readonly FreeTree free
    cdef readonly FreeTree scratch
    cdef readonly VmapNodes nodes
    cdef readonly bint small_pools_drain
    cdef readonly bint returns_ascending
    cdef readonly uint32_t decay_divisor
    cdef readonly bint populates
    cdef uint32_t* pending           # per node: purge list not yet processed
    cdef uint32_t* returning         # per node: processed, not poolable, head first
    cdef readonly bint skip_populate
    cdef readonly uint64_t start     # hull of the running or last purge
    cdef readonly uint64_t end
    cdef readonly uint64_t count     # areas processed so far
    cdef readonly uint64_t overlaps  # records lost because they overlapped a free block; 0 unless something is broken

    cdef void begin(self, uint64_t start, uint64_t end, bint full) noexcept nogil

    @cython.locals(length=uint32_t, amount=uint32_t)
    cdef uint32_t decay_amount(self, uint32_t c, bint full) noexcept nogil

    @cython.locals(pages=uint32_t, c=uint32_t, k=uint32_t, amount=uint32_t, v=uint32_t, following=uint32_t)
    cdef void decay(self, uint32_t node, bint full) noexcept nogil

    @cython.locals(first=uint32_t)
    cdef uint32_t detach(self, uint32_t node) noexcept nogil

    cdef void widen(self, uint32_t v) noexcept nogil

    @cython.locals(v=uint32_t, c=uint32_t, encoded=uint32_t, pages=uint64_t)
    cdef bint step(self, uint32_t node) noexcept nogil

    @cython.locals(v=uint32_t, following=uint32_t)
    cdef void finish(self, uint32_t node) noexcept nogil

    @cython.locals(warmed=uint32_t, following=uint32_t)
    cdef void give_list(self, uint32_t v) noexcept nogil

    cdef void give(self, uint32_t v) noexcept nogil

    @cython.locals(node=uint32_t)
    cdef uint64_t run(self, uint64_t start, uint64_t end, bint full) noexcept nogil

    @cython.locals(node=uint32_t)
    cdef void shrink(self) noexcept nogil
