from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.table cimport (
    FREE,
    INSIDE,
    MAX_ORDER,
    NO_FRAME,
    SECTION_FRAMES,
    SECTION_MASK,
    SECTION_SHIFT,
    FrameTable,
    frame_row,
    frame_section,
)

cdef struct zone_lists:
    uint64_t nr_free            # frames in free blocks, the untouched ones included
    uint32_t untouched          # sections [untouched, untouched_end) are free blocks that were never handed out
    uint32_t untouched_end
    uint32_t head[11]           # frame number of the first block of each order, or NO_FRAME
    uint32_t count[11]          # blocks on the list of each order; the untouched ones are on none

@cython.final
cdef class Buddy:
    cdef readonly FrameTable table
    cdef zone_lists* zone

    @cython.locals(start=uint32_t, end=uint32_t, pfn=uint32_t, order=uint32_t)
    cdef int fill_zone(self, uint32_t z) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, first=uint32_t)
    cdef void push(self, uint32_t z, uint32_t pfn, uint32_t order) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, behind=uint32_t, before=uint32_t)
    cdef void unlink(self, uint32_t z, uint32_t pfn, uint32_t order) noexcept nogil

    @cython.locals(pfn=uint32_t)
    cdef uint32_t touch(self, uint32_t z) noexcept nogil

    @cython.locals(pfn=uint32_t, high=uint32_t)
    cdef uint32_t take(self, uint32_t z, uint32_t order) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, buddy=uint32_t)
    cdef void give(self, uint32_t z, uint32_t pfn, uint32_t order) noexcept nogil
