from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.allocator cimport FrameAllocator
from vmalloc.machine.simulated.frames.contents cimport FrameContents
from vmalloc.machine.simulated.frames.table cimport (
    SECTION_MASK,
    SECTION_SHIFT,
    STORED,
    FrameTable,
    frame_row,
    frame_section,
)

# Mirrors entries.py (tests/machine/simulated/page_tables/test_entries.py compares them).
cdef enum:
    ENTRY_PRESENT = 1
    ENTRY_PROT_SHIFT = 1
    ENTRY_PROT = 0x1E
    ENTRY_LEAF = 0x20
    ENTRY_GROUP_SHIFT = 6
    ENTRY_GROUP = 0x1C0

cdef enum:
    PROT_ALL = 15

cdef enum:
    MAX_LEVELS = 5
    MAX_GROUPS = 7
    MAX_WARNINGS = 64

cdef enum:
    BAD_ENTRY = 0
    CUT_LEAF = 1
    CUT_GROUP = 2
    OCCUPIED = 3
    BAD_LENGTH = 4

cdef enum:
    EBUSY = 16
    ENOMEM = 12
    EINVAL = 22

# One level of tables, from the top; the last one has the PTEs.
cdef struct level_row:
    uint64_t nr_tables
    uint64_t nr_leaves          # last level: pages mapped one by one
    uint64_t pending            # removed tables that wait for a flush: the first one, as `link` writes it; 0 for none
    uint32_t shift
    uint32_t index_mask         # entries of a table - 1
    uint32_t order              # frames of a table
    uint32_t modified           # its bit in a modification mask
    bint leaf                   # a leaf is accepted here (above the last level)

# A size of contiguous groups of PTEs.
cdef struct group_row:
    uint64_t nr_groups
    uint32_t shift
    uint32_t nr_ptes
    bint accepted

cdef struct warning_row:
    uint64_t address
    uint32_t kind

# The entries of a frame. Uncompiled: plain.py.
cdef inline uint64_t* wide_row(uint8_t* page) noexcept nogil:
    return <uint64_t*>page

cdef inline uint32_t* narrow_row(uint8_t* page) noexcept nogil:
    return <uint32_t*>page

cdef class TableStore:
    cdef readonly FrameAllocator frames
    cdef readonly FrameContents contents
    cdef readonly object arch
    cdef readonly object kernel
    cdef FrameTable rows
    cdef level_row level[5]
    cdef group_row group[7]
    cdef warning_row warned[64]
    cdef readonly uint32_t nr_levels
    cdef readonly uint32_t last             # number of the last level
    cdef readonly uint32_t nr_groups        # sizes of groups
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t span_shift       # log2 of the bytes that a PTE table maps
    cdef readonly uint32_t frame_index_shift    # log2 of the entries that one frame holds
    cdef readonly uint32_t frame_index_mask
    cdef readonly bint wide                 # entries of 8 bytes, else 4
    cdef readonly uint32_t owner            # number of the owner that frames of tables are tagged with
    cdef readonly uint64_t pfn_limit        # the first frame number that an entry cannot hold
    cdef readonly uint64_t kernel_start     # addresses that the tables translate
    cdef readonly uint64_t kernel_size
    cdef readonly uint64_t untranslated     # the bits of a kernel address that no table sees
    cdef readonly uint64_t table_frames     # frames that tables have, those that wait for a flush included
    cdef readonly uint64_t warnings
    cdef readonly uint64_t nr_pending       # tables that wait for a flush
    cdef uint64_t cursor_key                # which PTE table was used last through the reference, if cursor_page
    cdef uint8_t* cursor_page
    cdef frame_row* cursor_row
    cdef uint64_t seen_key                  # the same for walks, through any root
    cdef uint32_t seen_root
    cdef uint8_t* seen_page
    cdef frame_row* seen_row
    cdef public uint32_t table_node         # where frames for tables are asked for, and by which CPU
    cdef public uint32_t table_cpu
    cdef public bint may_drain              # a request that fails may empty the CPUs' lists and ask again

    cdef int set_up_store(self, object frames, object contents, object arch, object kernel, uint32_t owner,
                          object missing) except -1

    cdef void forget_cursors(self) noexcept nogil

    cdef bint inside(self, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t)
    cdef uint8_t* page(self, uint64_t pfn) noexcept nogil

    @cython.locals(page="uint8_t*")
    cdef uint64_t entry(self, uint64_t table, uint64_t index) noexcept nogil

    @cython.locals(page="uint8_t*")
    cdef uint8_t* page_to_write(self, uint64_t pfn) noexcept nogil

    @cython.locals(page="uint8_t*")
    cdef void set_entry(self, uint64_t table, uint64_t index, uint64_t value) noexcept nogil

    @cython.locals(pfn=int64_t, order=uint32_t, k=uint32_t)
    cdef int64_t make_table(self, uint32_t depth) noexcept nogil

    cdef void free_table(self, uint64_t table, uint32_t depth) noexcept nogil

    cdef void link(self, uint64_t table, uint32_t depth) noexcept nogil

    @cython.locals(d=uint32_t, link=uint64_t, table=uint64_t)
    cdef void free_pending(self) noexcept nogil

    @cython.locals(index=uint64_t, found=uint64_t)
    cdef bint is_empty(self, uint64_t table, uint32_t depth) noexcept nogil

    cdef bint is_table(self, uint64_t found, uint32_t depth) noexcept nogil

    cdef void warn(self, uint32_t kind, uint64_t address) noexcept nogil
