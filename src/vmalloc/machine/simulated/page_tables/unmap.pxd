from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.table cimport STORED, frame_row
from vmalloc.machine.simulated.page_tables.reshape cimport TableShaper
from vmalloc.machine.simulated.page_tables.store cimport (
    BAD_ENTRY,
    BAD_LENGTH,
    CUT_GROUP,
    CUT_LEAF,
    ENTRY_GROUP,
    ENTRY_GROUP_SHIFT,
    ENTRY_PRESENT,
    group_row,
    level_row,
    narrow_row,
    wide_row,
)

cdef class Unmapper(TableShaper):
    cdef uint64_t cleared           # by the present call of unmap

    # Section 8.5: base pages cleared. Never frees tables.
    @cython.locals(size=uint64_t, key=uint64_t)
    cdef uint64_t unmap(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(piece=uint64_t, index=uint64_t, unit=uint64_t, found=uint64_t, page="uint8_t*")
    cdef void unmap_level(self, uint32_t depth, uint64_t table, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(unit=uint64_t, found=uint64_t)
    cdef void clear_upper(self, uint32_t depth, uint64_t table, uint64_t index, uint64_t address,
                          uint64_t piece) noexcept nogil

    cdef void count_cleared(self, uint64_t nr_cleared) noexcept nogil

    @cython.locals(index=uint64_t, first=uint64_t, end=uint64_t)
    cdef void clear_ptes(self, uint8_t* page, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(found=uint64_t, nr_cleared=uint64_t)
    cdef uint64_t clear_wide(self, uint64_t* row, uint64_t index, uint64_t end) noexcept nogil

    @cython.locals(found=uint32_t, nr_cleared=uint64_t)
    cdef uint64_t clear_narrow(self, uint32_t* row, uint64_t index, uint64_t end) noexcept nogil

    @cython.locals(g=uint32_t, base=uint64_t, k=uint64_t, n=uint64_t, found=uint64_t)
    cdef uint64_t clear_odd(self, uint8_t* page, uint64_t index, uint64_t first, uint64_t end,
                            uint64_t address) noexcept nogil
