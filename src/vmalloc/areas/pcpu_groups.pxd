from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ADDRESS_MAX, FreeTree
from vmalloc.areas.rows cimport NIL, vmap_area

cdef enum:
    MAX_GROUPS = 64

@cython.final
cdef class PcpuGroups:
    cdef uint64_t offset[64]
    cdef uint64_t size[64]
    cdef readonly uint32_t nr_groups
    cdef readonly uint64_t align
    cdef readonly uint64_t low
    cdef readonly uint64_t high
    cdef readonly uint32_t last
    cdef readonly uint64_t last_end
    cdef uint64_t block_end          # answer of end_down()

    @cython.locals(row="vmap_area*", end=uint64_t)
    cdef uint32_t end_down(self, FreeTree free, uint32_t b) noexcept nogil

    @cython.locals(row="vmap_area*", i=uint32_t, term=uint32_t, b=uint32_t, s=uint64_t, t=uint64_t, base=uint64_t)
    cdef uint64_t find_base(self, FreeTree free) noexcept nogil

    @cython.locals(base=uint64_t, g=uint32_t)
    cdef uint64_t take(self, FreeTree free) noexcept nogil
