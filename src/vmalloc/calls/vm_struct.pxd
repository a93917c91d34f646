from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.pages cimport Pages

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    VM_IOREMAP = 0x0001
    VM_ALLOC = 0x0002
    VM_MAP = 0x0004
    VM_USERMAP = 0x0008
    VM_DMA_COHERENT = 0x0010
    VM_UNINITIALIZED = 0x0020
    VM_NO_GUARD = 0x0040
    VM_KASAN = 0x0080
    VM_FLUSH_RESET_PERMS = 0x0100
    VM_MAP_PUT_PAGES = 0x0200
    VM_ALLOW_HUGE_VMAP = 0x0400
    VM_DEFER_KMEMLEAK = 0x0800
    VM_SPARSE = 0x1000

@cython.final
cdef class VmStruct:
    cdef public uint64_t addr
    cdef public uint64_t size
    cdef public uint32_t flags
    cdef public Pages pages
    cdef public uint64_t nr_pages
    cdef public uint32_t page_order
    cdef public uint64_t phys_addr
    cdef public object caller
    cdef public uint64_t requested_size
    cdef public int node
    cdef public uint64_t align
    cdef public VmStruct array_area
    cdef public uint32_t guard_size
    cdef public bint live
    cdef public bint is_array

    cdef uint64_t size_without_guard(self) noexcept
