cimport cython

from vmalloc.calls.state cimport VmallocState
# Under other names than the methods have: in a class of C the two would meet.
from vmalloc.calls.vfree cimport free_area
from vmalloc.calls.vfree cimport free_vm_area as free_reserved
from vmalloc.calls.vfree cimport vfree as free_address
from vmalloc.calls.vfree cimport vfree_atomic as free_later
from vmalloc.calls.vfree cimport vunmap as unmap_address
from vmalloc.calls.vm_map_ram cimport vm_map_ram as map_ram
from vmalloc.calls.vm_map_ram cimport vm_unmap_ram as unmap_ram
from vmalloc.calls.vm_struct cimport VM_ALLOW_HUGE_VMAP, VM_USERMAP, VmStruct
from vmalloc.calls.vmalloc cimport vmalloc_node_range as allocate_range
from vmalloc.calls.where cimport Caller, caller_of
from vmalloc.machine.base cimport Machine
from vmalloc.percpu.allocator cimport PercpuAllocator
from vmalloc.percpu.chunk cimport PercpuObject
from vmalloc.space.area cimport Area

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    NMI = 3
    GFP_DMA32 = 0x04
    GFP_ZERO = 0x100
    GFP_DIRECT_RECLAIM = 0x400
    GFP_KERNEL = 0xcc0

cdef class VmallocSpace:
    cdef readonly Machine machine
    cdef readonly VmallocState state
    cdef readonly object kasan
    cdef readonly PercpuAllocator percpu
    cdef readonly object lock
    cdef object acquire
    cdef object unlock
    cdef object is_finalizing
    cdef readonly object dropped
    cdef readonly bint closed
    cdef object __weakref__

    cdef object lock_space(self)
    cdef object enter(self)
    cdef object look(self)
    cdef object free_dropped(self)
    @cython.locals(state=VmallocState, vm=VmStruct)
    cdef Area allocate(self, object size, object align, object gfp, object vm_flags, object node, object prot=*)
