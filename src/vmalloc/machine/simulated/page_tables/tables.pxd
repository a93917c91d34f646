from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.table cimport SECTION_MASK, SECTION_SHIFT, STORED, frame_row, frame_section
from vmalloc.machine.simulated.page_tables.store cimport (
    EBUSY,
    EINVAL,
    ENTRY_GROUP,
    ENTRY_GROUP_SHIFT,
    ENTRY_LEAF,
    ENTRY_PRESENT,
    ENTRY_PROT_SHIFT,
    OCCUPIED,
    PROT_ALL,
    group_row,
    level_row,
    narrow_row,
    wide_row,
)
from vmalloc.machine.simulated.page_tables.unmap cimport Unmapper

# What a walk found. Uncompiled: plain.LeafFound.
cdef struct leaf_found:
    uint64_t pfn            # frame of the base page that holds the address (inside a larger leaf: the base page inside it)
    uint32_t shift          # log2 of the bytes of the mapping it is part of (base page, PTE group, PMD, PUD)
    uint32_t prot           # PROT_* bits of vmalloc/flags.py

# Inherited and of use to a compiled caller: generation, mask, table_node, table_cpu, may_drain, owed_flush_start,
# owed_flush_end, settle_flush, map_range, split, fault, context_switch, hook_runs, entries_copied, vmalloc_faults.
@cython.final
cdef class PageTables(Unmapper):
    # Base pages only, one PTE each, in order: 0, -EBUSY, -ENOMEM, -EINVAL; what was mapped before the error stays.
    @cython.locals(done=uint64_t, n=uint64_t, filled=uint64_t, here=uint64_t, index=uint64_t, code=int, page="uint8_t*",
                   flags=uint64_t)
    cdef int map_pages(self, uint64_t address, const uint64_t* pfns, uint64_t count, uint32_t prot) noexcept nogil

    @cython.locals(depth=uint32_t, table=int64_t, key=uint64_t, page="uint8_t*", s="frame_section*")
    cdef uint8_t* pte_page(self, uint64_t address) noexcept nogil

    @cython.locals(k=uint64_t, shift=uint32_t, limit=uint64_t)
    cdef uint64_t fill_wide(self, uint64_t* row, const uint64_t* pfns, uint64_t first, uint64_t index, uint64_t count,
                            uint64_t flags) noexcept nogil

    @cython.locals(k=uint64_t, shift=uint32_t, limit=uint64_t)
    cdef uint64_t fill_narrow(self, uint32_t* row, const uint64_t* pfns, uint64_t first, uint64_t index, uint64_t count,
                              uint64_t flags) noexcept nogil

    # Through the table of a root: 1 found, 0 not mapped.
    @cython.locals(depth=uint32_t, table=uint64_t, index=uint64_t, found=uint64_t, key=uint64_t, page="uint8_t*",
                   s="frame_section*", i=uint32_t, piece=uint64_t)
    cdef int walk(self, uint32_t root, uint64_t address, leaf_found* out) noexcept nogil

    @cython.locals(g=uint32_t)
    cdef int translate_pte(self, uint64_t found, leaf_found* out) noexcept nogil

    @cython.locals(leaf=leaf_found)
    cdef object walk_from(self, uint64_t address, uint32_t root)

    @cython.locals(view=Py_buffer, code=int)
    cdef int map_from(self, uint64_t address, object pfns, uint64_t count, uint32_t prot) except 1
