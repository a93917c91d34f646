from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.areas.vmap_blocks cimport VmapBlocks
from vmalloc.calls.vm_struct cimport VmStruct
from vmalloc.machine.base cimport Machine

@cython.final
cdef class VmallocState:
    cdef readonly Machine machine
    cdef readonly object info
    cdef readonly object kernel
    cdef readonly object policy
    cdef public object observer
    cdef readonly uint32_t page_shift
    cdef readonly uint64_t page_size
    cdef readonly uint32_t pointer_size
    cdef readonly uint64_t vmalloc_start
    cdef readonly uint64_t vmalloc_end
    cdef readonly int nr_nodes
    cdef readonly uint64_t total_pages
    cdef readonly object space
    cdef readonly Allocator allocator
    cdef public uint64_t lazy_max
    cdef readonly VmapBlocks blocks     # of vm_map_ram
    cdef readonly dict ram_ranges       # start: pages, of what vm_map_ram mapped in ranges of their own
    cdef readonly dict areas            # start: VmStruct
    cdef readonly dict contiguous       # permanent address: VmStruct of what kmalloc gave
    cdef public int64_t nr_vmalloc_pages
    cdef public int64_t percpu_pages    # frames of per-CPU objects, kept by the allocator of these
    cdef public bint drain_queued
    cdef readonly list deferred_frees
    cdef readonly list failed_areas
    cdef readonly list user_mappings
    cdef readonly dict rcu_waiting      # start: what waits for a grace period
    cdef readonly object rcu
    cdef public bint huge_vmalloc
    cdef public bint huge_ioremap
    cdef readonly uint64_t guard_size   # bytes behind an area that asks for a guard page
    cdef public bint init_on_alloc
    cdef public bint debug_pagealloc
    cdef public str comm
    cdef readonly object log
    cdef readonly set warned
    cdef public uint64_t failures
    cdef public uint64_t huge_fallbacks
    cdef public object unlock_for
    cdef readonly object kasan

    @cython.locals(row=uint32_t)
    cdef VmStruct find(self, uint64_t address)
