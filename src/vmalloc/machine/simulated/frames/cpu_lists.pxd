from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.buddy cimport Buddy
from vmalloc.machine.simulated.frames.table cimport (
    LISTED,
    NO_FRAME,
    SECTION_MASK,
    SECTION_SHIFT,
    FrameTable,
    frame_row,
    frame_section,
)

cdef struct cpu_list:
    uint32_t head           # frame number of the one handed out next, or NO_FRAME
    uint32_t tail           # of the one that goes back to the buddy first
    uint32_t count

@cython.final
cdef class CpuLists:
    cdef readonly FrameTable table
    cdef readonly Buddy buddy
    cdef cpu_list* list     # nr_zones x cpus
    cdef readonly uint32_t cpus
    cdef readonly uint32_t batch
    cdef readonly uint32_t high
    cdef readonly uint64_t listed       # frames on all lists together

    @cython.locals(c=uint32_t, pfn=uint32_t, behind=uint32_t)
    cdef uint32_t pop(self, uint32_t z, uint32_t cpu) noexcept nogil

    @cython.locals(n=uint32_t, pfn=uint32_t, tail=uint32_t, s="frame_section*", i=uint32_t)
    cdef uint32_t refill(self, uint32_t z, uint32_t c) noexcept nogil

    @cython.locals(c=uint32_t, s="frame_section*", i=uint32_t, first=uint32_t)
    cdef void push(self, uint32_t z, uint32_t cpu, uint32_t pfn) noexcept nogil

    @cython.locals(n=uint32_t, pfn=uint32_t, before=uint32_t)
    cdef void spill(self, uint32_t z, uint32_t c, uint32_t nr_frames) noexcept nogil

    @cython.locals(z=uint32_t, c=uint32_t, before=uint64_t)
    cdef uint64_t drain(self, uint32_t cpu) noexcept nogil

    @cython.locals(cpu=uint32_t, drained=uint64_t)
    cdef uint64_t drain_all(self) noexcept nogil

    cdef uint64_t within_reach(self, uint32_t z, uint32_t cpu) noexcept nogil
