from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.base cimport TAKE_DMA32, TAKE_MAY_DRAIN, TAKE_STRICT, Machine
from vmalloc.pages cimport Pages, new_pages
from vmalloc.percpu.chunk cimport Chunk

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    GFP_DMA32 = 0x04
    GFP_DIRECT_RECLAIM = 0x400
    GFP_THISNODE = 0x200000

cdef enum:
    PROT_RW = 3

@cython.locals(how=uint32_t, count=uint32_t, cpu=uint32_t, i=uint32_t, address=uint64_t, pages=Pages, taken=list)
cpdef object populate(Machine machine, Chunk chunk, tuple unit_offsets, tuple nodes, uint32_t first, uint32_t end,
                      uint32_t gfp)

@cython.locals(pfn=int64_t)
cdef bint take_for(Machine machine, Pages pages, uint32_t count, int node, uint32_t how) except -1

@cython.locals(pages=Pages)
cdef object give_back(Machine machine, list lists)
cdef object give_list(Machine machine, Pages pages)

@cython.locals(cpu=uint32_t, begin=uint64_t)
cdef object unmap_units(Machine machine, Chunk chunk, tuple unit_offsets, uint32_t first, uint32_t end,
                        uint32_t nr_cpus)

@cython.locals(low=uint64_t, high=uint64_t)
cdef object flush_units(Machine machine, Chunk chunk, tuple unit_offsets, uint32_t first, uint32_t end)

cpdef object depopulate(Machine machine, Chunk chunk, tuple unit_offsets, uint32_t first, uint32_t end)

@cython.locals(page=uint32_t)
cpdef object destroy_frames(Machine machine, Chunk chunk)

@cython.locals(page=uint32_t, cpu=uint32_t)
cdef object release_frames(Machine machine, Chunk chunk, uint32_t first, uint32_t end)

@cython.locals(end=uint32_t, page=uint32_t, inside=uint32_t, piece=uint32_t, cpu=uint32_t)
cdef object zero_object(Machine machine, Chunk chunk, uint32_t offset, uint32_t size)
