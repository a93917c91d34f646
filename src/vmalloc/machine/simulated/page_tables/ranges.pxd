from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.page_tables.store cimport (
    BAD_ENTRY,
    BAD_LENGTH,
    EBUSY,
    EINVAL,
    ENOMEM,
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
from vmalloc.machine.simulated.page_tables.sync cimport P4D_MODIFIED, PGD_MODIFIED, SyncedTables

# Mirrors entries.py.
cdef enum:
    REPLACE_NEVER = 0
    REPLACE_PAGE_FLUSH = 1
    REPLACE_WALK_CACHE_FLUSH = 2

cdef class RangeMapper(SyncedTables):
    cdef readonly uint32_t replacement
    cdef readonly uint64_t owed_flush_start     # what must be flushed before removed tables may be given back; 0, 0: nothing
    cdef readonly uint64_t owed_flush_end
    cdef readonly uint64_t tables_replaced
    cdef int error                              # why `child_table` gave no table

    cdef int set_up_ranges(self) except -1

    # Physical-range mapper of section 3.4. 0, -EBUSY (occupied), -ENOMEM (no frame for a table), -EINVAL.
    @cython.locals(code=int, flags=uint64_t, nr_pages=uint64_t)
    cdef int map_range(self, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift,
                       uint32_t prot) noexcept nogil

    @cython.locals(code=int, piece=uint64_t, index=uint64_t, unit=uint64_t, below=int64_t)
    cdef int map_level(self, uint32_t depth, uint64_t table, uint64_t address, uint64_t pfn, uint64_t size,
                       uint32_t max_shift, uint64_t flags) noexcept nogil

    @cython.locals(unit=uint64_t, index=uint64_t, found=uint64_t)
    cdef bint map_leaf(self, uint32_t depth, uint64_t table, uint64_t address, uint64_t pfn, uint64_t piece,
                       uint32_t max_shift, uint64_t flags) noexcept nogil

    @cython.locals(g=uint64_t, n=uint64_t, k=uint64_t, index=uint64_t, found=uint64_t, page="uint8_t*")
    cdef int map_ptes(self, uint64_t table, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift,
                      uint64_t flags) noexcept nogil

    @cython.locals(g=uint32_t)
    cdef uint32_t group_for(self, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift) noexcept nogil

    @cython.locals(found=uint64_t, made=int64_t)
    cdef int64_t child_table(self, uint32_t depth, uint64_t table, uint64_t index, uint64_t address) noexcept nogil

    @cython.locals(child=uint64_t, found=uint64_t, unit=uint64_t, spare=int64_t)
    cdef bint remove_table(self, uint32_t depth, uint64_t table, uint64_t index, uint64_t address) noexcept nogil

    @cython.locals(index=uint64_t, found=uint64_t)
    cdef void detach(self, uint64_t table, uint32_t depth) noexcept nogil

    cdef void owe_flush(self, uint64_t start, uint64_t end) noexcept nogil

    # To be called when what is owed has been flushed: gives the removed tables back.
    cdef void settle_flush(self) noexcept nogil
