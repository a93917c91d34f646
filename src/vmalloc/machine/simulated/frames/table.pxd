from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

# Mirrors states.py (tests/machine/simulated/test_states.py compares them).
cdef enum:
    MAX_ORDER = 10
    SECTION_SHIFT = 10
    SECTION_FRAMES = 1024
    SECTION_MASK = 1023
    NR_KINDS = 2

cdef enum:
    NO_FRAME = 0xFFFFFFFF
    NO_ZONE = 0xFFFFFFFF

cdef enum:
    INSIDE = 0
    FREE = 1
    LISTED = 2
    USED = 3

cdef enum:
    NEVER = 0
    ZEROED = 1
    STORED = 2

cdef enum:
    FOREIGN = -1
    DOUBLE_FREE = -2
    WRONG_ORDER = -3
    INSIDE_BLOCK = -4
    BAD_RANGE = -5
    NO_MEMORY = -6

# One frame: 16 bytes.
cdef struct frame_row:
    uint32_t next           # FREE, LISTED: the frame number behind it on its list, or NO_FRAME
    uint32_t prev
    uint32_t owner          # USED: who holds it, as a number; 0 for nobody in particular
    uint8_t state
    uint8_t order           # of the block, unless INSIDE
    uint8_t contents
    uint8_t unused

# The frames of one block of the largest order.
cdef struct frame_section:
    uint32_t zone
    uint32_t nr_frames      # that the machine has; fewer than 1024 only where a node ends
    bint touched            # some frame may have contents other than NEVER
    uint8_t** page          # NULL, or 1024 pointers: the bytes of a frame, or NULL
    frame_row row[1024]

cdef struct zone_span:
    uint32_t start_pfn
    uint32_t end_pfn

@cython.final
cdef class FrameTable:
    cdef frame_section** section        # by frame number >> SECTION_SHIFT; NULL until something of it is needed
    cdef zone_span* span                # by zone
    cdef readonly uint32_t nr_sections
    cdef readonly uint32_t nr_zones
    cdef readonly uint32_t made         # sections that have records
    cdef readonly uint64_t nr_pages     # frames with a page of bytes behind them

    cdef int reserve(self, uint32_t nr_zones, uint32_t nr_sections) noexcept nogil

    @cython.locals(z=uint32_t)
    cdef uint32_t zone_of(self, uint64_t pfn) noexcept nogil

    @cython.locals(z=uint32_t, s="frame_section*", left=uint32_t)
    cdef frame_section* make(self, uint32_t k) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, order=uint32_t, head=uint32_t)
    cdef uint32_t head_of(self, uint64_t pfn) noexcept nogil

    @cython.locals(s="frame_section*", head=uint32_t, i=uint32_t)
    cdef int diagnose(self, uint64_t pfn, uint32_t order) noexcept nogil
