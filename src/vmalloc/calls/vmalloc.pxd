from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.calls.area_pages cimport release_area_pages, take_area_pages
from vmalloc.calls.reserve cimport allow_access, get_vm_area_node
from vmalloc.calls.state cimport VmallocState
from vmalloc.calls.vfree cimport remove_vm_area
from vmalloc.calls.vm_struct cimport VM_ALLOC, VM_ALLOW_HUGE_VMAP, VM_UNINITIALIZED, VmStruct
from vmalloc.machine.base cimport Machine

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    NUMA_NO_NODE = -1
    PROT_READ = 1
    PROT_WRITE = 2
    GFP_DMA = 0x01
    GFP_HIGHMEM = 0x02
    GFP_DMA32 = 0x04
    GFP_ZERO = 0x100
    GFP_DIRECT_RECLAIM = 0x400
    GFP_RECLAIM = 0xc00
    GFP_NOWARN = 0x2000
    GFP_NOFAIL = 0x8000

@cython.locals(shift=uint32_t)
cpdef VmStruct vmalloc_node_range(VmallocState state, object size, uint64_t align, uint64_t start, uint64_t end,
                                  uint32_t gfp, uint32_t prot, uint32_t vm_flags, object node, object caller)

cpdef object checked_size(VmallocState state, object size, uint32_t gfp)

cpdef object checked_node(VmallocState state, object node)

@cython.locals(per_node=uint64_t)
cpdef uint32_t huge_shift(VmallocState state, uint64_t size, int node) except? 99

@cython.locals(vm=VmStruct, wanted=uint64_t, retries=bint)
cpdef VmStruct build(VmallocState state, uint64_t size, uint64_t align, uint32_t shift, uint64_t start, uint64_t end,
                     uint32_t gfp, uint32_t prot, uint32_t vm_flags, int node, object caller)

cdef VmStruct reserve(VmallocState state, uint64_t size, uint64_t align, uint32_t shift, uint64_t start, uint64_t end,
                      uint32_t gfp, uint32_t vm_flags, int node, object caller)

@cython.locals(nested=uint32_t, array_size=uint64_t, order=uint32_t, missing=int64_t)
cdef object take(VmallocState state, VmStruct vm, uint32_t gfp, uint32_t shift, int node)

@cython.locals(machine=Machine, waits=bint, result=int)
cdef object map_area(VmallocState state, VmStruct vm, uint32_t gfp, uint32_t shift, uint32_t prot)

@cython.locals(per_block=uint64_t, address=uint64_t, i=uint64_t, result=int)
cdef int map_blocks(VmallocState state, VmStruct vm, uint32_t shift, uint32_t prot) except? -100

cpdef object destroy(VmallocState state, VmStruct vm)

@cython.locals(array_area=VmStruct)
cpdef object take_apart(VmallocState state, VmStruct vm)
