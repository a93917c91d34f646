from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.calls.area_pages cimport release_area_pages
from vmalloc.calls.lazy cimport became_lazy
from vmalloc.calls.reserve cimport forbid_access
from vmalloc.calls.state cimport VmallocState
from vmalloc.calls.vm_struct cimport VM_FLUSH_RESET_PERMS, VM_MAP_PUT_PAGES, VmStruct

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    NMI = 3

@cython.locals(vm=VmStruct)
cpdef object vfree(VmallocState state, object address, str call=*)

@cython.locals(array_area=VmStruct)
cpdef object free_area(VmallocState state, VmStruct vm)

@cython.locals(vm=VmStruct)
cpdef VmStruct find_area_to_free(VmallocState state, object address, str call)

cpdef object expect_not_waiting(VmallocState state, VmStruct vm, object address)

@cython.locals(vm=VmStruct, end=uint64_t)
cpdef VmStruct remove_vm_area(VmallocState state, uint64_t address)

@cython.locals(vm=VmStruct)
cpdef object vfree_atomic(VmallocState state, object address, str call=*)

@cython.locals(vm=VmStruct)
cpdef object vunmap(VmallocState state, object address)

@cython.locals(array_area=VmStruct)
cpdef object free_vm_area(VmallocState state, VmStruct vm, str call=*)
