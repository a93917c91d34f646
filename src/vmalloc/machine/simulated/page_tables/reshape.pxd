from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.page_tables.ranges cimport RangeMapper
from vmalloc.machine.simulated.page_tables.store cimport (
    EINVAL,
    ENOMEM,
    ENTRY_GROUP,
    ENTRY_GROUP_SHIFT,
    ENTRY_LEAF,
    ENTRY_PRESENT,
    ENTRY_PROT,
    group_row,
    level_row,
)

cdef class TableShaper(RangeMapper):
    # Makes a leaf a table of the next smaller leaves, a group of PTEs smaller ones: 0, -ENOMEM, -EINVAL.
    @cython.locals(depth=uint32_t, table=uint64_t, index=uint64_t, found=uint64_t, code=int)
    cdef int split(self, uint64_t address) noexcept nogil

    @cython.locals(made=int64_t, k=uint64_t, flags=uint64_t, pfn=uint64_t, g=uint64_t,
                   unit=uint64_t)
    cdef int split_leaf(self, uint32_t depth, uint64_t table, uint64_t index, uint64_t found) noexcept nogil

    @cython.locals(g=uint64_t, smaller=uint64_t, first=uint64_t, k=uint64_t, entry=uint64_t)
    cdef int split_group(self, uint64_t table, uint64_t index, uint64_t found) noexcept nogil

    # Frees the tables that map nothing, except those made at boot: bytes.
    cdef uint64_t free_empty(self) noexcept nogil

    @cython.locals(index=uint64_t, found=uint64_t, child=uint64_t, here=uint64_t, nr_frames=uint64_t)
    cdef uint64_t free_empty_below(self, uint64_t table, uint32_t depth, uint64_t address) noexcept nogil
