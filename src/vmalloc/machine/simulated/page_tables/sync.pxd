from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.page_tables.store cimport ENTRY_LEAF, ENTRY_PRESENT, TableStore, level_row

# Mirrors entries.py.
cdef enum:
    CARE_ONE_TABLE = 0
    CARE_SHARED = 1
    CARE_HOOK = 2
    CARE_SEQUENCE = 3
    CARE_FAULT = 4

cdef enum:
    PGD_MODIFIED = 1
    P4D_MODIFIED = 2

cdef struct root_row:
    uint64_t table              # frame of its top table
    uint64_t sequence           # the number it was brought up to date at

cdef struct range_row:
    uint64_t start
    uint64_t size

cdef class SyncedTables(TableStore):
    cdef root_row* root
    cdef range_row* shared
    cdef readonly uint32_t nr_roots
    cdef readonly uint32_t nr_shared        # ranges
    cdef readonly uint32_t care
    cdef readonly uint32_t sync_mask
    cdef readonly uint32_t share_depth      # the level whose entries are copied between roots
    cdef readonly uint32_t boot_depth       # tables of levels 1 to this one are made at boot for `shared`
    cdef readonly bint has_faults           # the fault handler fills in missing entries
    cdef readonly bint hook_on_populate
    cdef readonly uint64_t sequence
    cdef readonly uint64_t hook_runs
    cdef readonly uint64_t entries_copied
    cdef readonly uint64_t vmalloc_faults   # faults that copied an entry
    cdef readonly uint64_t generation
    cdef readonly uint32_t mask

    @cython.locals(r=uint32_t)
    cdef int set_up_roots(self, uint32_t nr_roots, object shared_ranges) except -1

    @cython.locals(r=uint32_t, table=int64_t, made=uint32_t)
    cdef int boot_tables(self) except -2

    cdef void give_up(self, uint32_t made) noexcept nogil

    @cython.locals(table=uint64_t, depth=uint32_t, index=uint64_t, found=uint64_t, made=int64_t)
    cdef int boot_path(self, uint32_t r, uint64_t address) noexcept nogil

    cdef bint is_boot_table(self, uint32_t depth, uint64_t address) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint in_shared(self, uint64_t address, uint32_t shift) noexcept nogil

    @cython.locals(table=uint64_t, depth=uint32_t, found=uint64_t)
    cdef int64_t share_table(self, uint32_t r, uint64_t address) noexcept nogil

    @cython.locals(here=int64_t, there=int64_t, index=uint64_t, found=uint64_t)
    cdef uint64_t copy_entry(self, uint32_t r, uint64_t address) noexcept nogil

    @cython.locals(nr_entries=uint64_t, copied=uint64_t, shift=uint32_t, k=uint64_t)
    cdef uint64_t copy_range(self, uint32_t r, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(r=uint32_t)
    cdef void hook(self, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(r=uint32_t, there=int64_t)
    cdef void clear_copies(self, uint64_t address) noexcept nogil

    # Copies the entry that is missing in a root from the reference: 1 when that helped, else 0.
    cdef int fault(self, uint32_t root, uint64_t address) noexcept nogil

    # What a CPU does when it begins to use a root: entries copied.
    @cython.locals(n=uint32_t, copied=uint64_t)
    cdef uint64_t context_switch(self, uint32_t root) noexcept nogil

    @cython.locals(r=uint32_t)
    cdef void free_roots(self) noexcept nogil

    @cython.locals(index=uint64_t, found=uint64_t)
    cdef void free_tree(self, uint64_t table, uint32_t depth, uint32_t deepest) noexcept nogil
