from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.areas.rows cimport NIL
from vmalloc.areas.vmap_blocks cimport VmapBlocks, rounded
from vmalloc.calls.lazy cimport free_vmap_area_noflush
from vmalloc.calls.reserve cimport alloc_vmap_range
from vmalloc.calls.state cimport VmallocState
from vmalloc.pages cimport Pages

# Mirrors flags.py (tests/test_flags.py compares them) and areas/states.py.
cdef enum:
    TASK = 0
    PROT_READ = 1
    PROT_WRITE = 2
    GFP_KERNEL = 0xcc0
    VMAP_RAM = 0x1
    VMAP_BLOCK = 0x2

@cython.locals(i=uint64_t, count=uint64_t, address=uint64_t)
cpdef object vm_map_ram(VmallocState state, Pages pages, object node)

@cython.locals(start=uint64_t, nr_pages=uint64_t, block=uint32_t)
cpdef object vm_unmap_ram(VmallocState state, object address, object count)

@cython.locals(page=uint32_t)
cdef bint is_live(VmallocState state, uint32_t block, uint64_t address, uint64_t count) except -1

@cython.locals(blocks=VmapBlocks, block=uint32_t, address=uint64_t, result=int)
cdef uint64_t map_piece(VmallocState state, Pages pages, uint64_t count) except? 1

@cython.locals(blocks=VmapBlocks, block=uint32_t, start=uint64_t)
cdef uint32_t new_block(VmallocState state) except? 0

@cython.locals(end=uint64_t, page=uint32_t)
cdef object unmap_piece(VmallocState state, uint32_t block, uint64_t address, uint64_t count)

@cython.locals(address=uint64_t, result=int)
cdef uint64_t map_range(VmallocState state, Pages pages, uint64_t count) except? 1

@cython.locals(end=uint64_t)
cdef object unmap_range(VmallocState state, uint64_t address, uint64_t count)
