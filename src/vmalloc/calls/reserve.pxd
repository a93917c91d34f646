from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.areas.free_tree cimport ADDRESS_MAX, EINVAL, ENOMEM, ERROR_VALUES
from vmalloc.areas.pools cimport NO_CLASS
from vmalloc.calls.state cimport VmallocState
from vmalloc.calls.vm_struct cimport VM_ALLOC, VM_IOREMAP, VM_NO_GUARD, VmStruct

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    GFP_DIRECT_RECLAIM = 0x400

@cython.locals(requested=uint64_t, unit=uint64_t, guard_size=uint64_t, vm=VmStruct)
cpdef VmStruct get_vm_area_node(VmallocState state, uint64_t size, uint64_t align, uint32_t shift, uint32_t flags,
                                uint64_t start, uint64_t end, int node, uint32_t gfp, object caller)

cpdef object free_vm_area_unmapped(VmallocState state, VmStruct vm)

@cython.locals(address=uint64_t)
cpdef object alloc_vmap_area(VmallocState state, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                             uint32_t gfp, VmStruct vm)

@cython.locals(end=uint64_t, waits=bint)
cpdef object populate_shadow(VmallocState state, uint64_t address, uint64_t size, uint32_t gfp)
cpdef object allow_access(VmallocState state, VmStruct vm)
cpdef object forbid_access(VmallocState state, VmStruct vm)

@cython.locals(address=uint64_t)
cdef uint64_t alloc_vmap_range(VmallocState state, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                               uint32_t gfp, uint32_t va_flags) except? 1

@cython.locals(allocator=Allocator, address=uint64_t)
cdef uint64_t attempt(VmallocState state, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                      uint32_t va_flags, bint try_pool) except? 1

@cython.locals(purged=bint)
cdef uint64_t alloc_vmap_area_overflow(VmallocState state, uint64_t size, uint64_t align, uint64_t vstart, uint64_t vend,
                                       uint32_t gfp, uint32_t va_flags, uint64_t error) except? 1
