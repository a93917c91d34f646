from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ADDRESS_MAX, EINVAL, ENOMEM, ERROR_VALUES, FreeTree
from vmalloc.areas.nodes cimport VmapNodes
from vmalloc.areas.pcpu_groups cimport PcpuGroups
from vmalloc.areas.pools cimport NO_CLASS, Pools
from vmalloc.areas.purge cimport Purge
from vmalloc.areas.rows cimport BUSY, LOOSE, MAX_POOL_PAGES, NIL, AreaRows, vmap_area

@cython.final
cdef class Allocator:
    cdef readonly AreaRows rows
    cdef readonly FreeTree free
    cdef readonly VmapNodes nodes
    cdef readonly Purge purge
    cdef readonly uint64_t vmalloc_start
    cdef readonly uint64_t vmalloc_end
    cdef readonly uint32_t page_shift
    cdef readonly uint64_t pool_hits
    cdef uint64_t chosen             # what choose() found: the address or error value,
    cdef uint32_t chosen_block       #   the free block it is in, or NIL,
    cdef uint32_t chosen_class       #   the pool it is the head of, or NO_CLASS,
    cdef uint32_t rotate_class       #   the pool whose misaligned head must move to the tail, or NO_CLASS,
    cdef uint32_t chosen_flags       #   and the node mark of the area

    cdef bint pooled_request(self, uint64_t vstart, uint64_t vend) noexcept nogil

    @cython.locals(node=uint32_t, c=uint32_t, head=uint32_t)
    cdef uint64_t choose(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                         uint32_t cpu, bint try_pool) noexcept nogil

    @cython.locals(v=uint32_t, flags=uint32_t)
    cdef uint64_t take_choice(self, uint64_t size, uint32_t va_flags) noexcept nogil

    cdef uint64_t attempt(self, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                          uint32_t cpu, uint32_t va_flags, bint try_pool) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef int place(self, uint64_t start, uint64_t end, uint32_t flags) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef int make_lazy(self, uint64_t address) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef int give_back(self, uint64_t address) noexcept nogil

    @cython.locals(base=uint64_t, g=uint32_t, v=uint32_t)
    cdef uint64_t take_groups(self, PcpuGroups groups) noexcept nogil
