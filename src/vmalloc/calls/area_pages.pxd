from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.calls.state cimport VmallocState
from vmalloc.calls.vm_struct cimport VM_MAP_PUT_PAGES, VmStruct
from vmalloc.machine.base cimport (
    TAKE_DMA32,
    TAKE_INTERLEAVED,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
    Machine,
)
from vmalloc.pages cimport Pages, new_pages

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    GFP_DMA32 = 0x04
    GFP_ZERO = 0x100
    GFP_DIRECT_RECLAIM = 0x400
    GFP_THISNODE = 0x200000
    GFP_ACCOUNT = 0x400000

cdef enum:
    NUMA_NO_NODE = -1
    BATCH = 100                 # frames of one request for a batch
    MAX_PAGE_ORDER = 10         # of the largest block

cdef uint32_t how_of(uint32_t gfp) noexcept

@cython.locals(wanted=uint64_t, pages=Pages, machine=Machine, how=uint32_t)
cpdef int64_t take_area_pages(VmallocState state, VmStruct vm, uint32_t gfp, uint32_t order, int node) except? -100

@cython.locals(cap=uint32_t, largest=uint32_t, pfn=int64_t)
cdef int take_large_blocks(Machine machine, Pages pages, uint64_t wanted, uint32_t order, int node,
                           uint32_t how) except? -100

@cython.locals(count=uint64_t, i=uint64_t)
cdef int add_block(Machine machine, Pages pages, uint64_t pfn, uint32_t order) except? -100

@cython.locals(request=uint64_t)
cdef int take_batches(Machine machine, Pages pages, uint64_t wanted, int node, uint32_t how, uint64_t batch) except? -100

@cython.locals(pfn=int64_t)
cdef int take_singles(Machine machine, Pages pages, uint64_t wanted, uint32_t order, int node, uint32_t how) except? -100

@cython.locals(pages=Pages, done=uint64_t)
cpdef object release_area_pages(VmallocState state, VmStruct vm)
