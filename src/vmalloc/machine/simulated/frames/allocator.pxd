from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.buddy cimport Buddy
from vmalloc.machine.simulated.frames.cpu_lists cimport CpuLists
from vmalloc.machine.simulated.frames.table cimport (
    MAX_ORDER,
    NEVER,
    NO_FRAME,
    NR_KINDS,
    SECTION_MASK,
    SECTION_SHIFT,
    USED,
    FrameTable,
    frame_row,
    frame_section,
)

# The zones one kind of request asks: zones[first], ... ; the first `near` of them are on the node itself.
cdef struct zone_order:
    uint32_t first
    uint32_t near
    uint32_t all

@cython.final
cdef class FrameAllocator:
    cdef readonly FrameTable table
    cdef readonly Buddy buddy
    cdef readonly CpuLists lists
    cdef readonly object layout
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t cpus
    cdef readonly uint32_t nr_nodes
    cdef zone_order* asked          # by node x NR_KINDS + zone_limit
    cdef uint32_t* zones

    cdef int reserve(self, uint32_t nr_requests, uint32_t nr_zones) noexcept nogil

    @cython.locals(w=uint32_t)
    cdef int64_t alloc(self, uint32_t order, uint32_t node, uint32_t zone_limit, uint32_t cpu) noexcept nogil

    @cython.locals(w=uint32_t)
    cdef int64_t alloc_strict(self, uint32_t order, uint32_t node, uint32_t zone_limit, uint32_t cpu) noexcept nogil

    @cython.locals(pfn=int64_t)
    cdef int64_t alloc_draining(self, uint32_t order, uint32_t node, uint32_t zone_limit, uint32_t cpu) noexcept nogil

    @cython.locals(k=uint32_t, z=uint32_t, pfn=uint32_t)
    cdef int64_t alloc_from(self, uint32_t first, uint32_t nr_zones, uint32_t order, uint32_t cpu) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, k=uint32_t)
    cdef void hand_out(self, uint32_t pfn, uint32_t order) noexcept nogil

    @cython.locals(w=uint32_t, k=uint32_t, z=uint32_t, pfn=int64_t)
    cdef uint32_t alloc_bulk(self, uint32_t node, uint32_t count, uint64_t* out,
                             uint32_t zone_limit, uint32_t cpu) noexcept nogil

    @cython.locals(n=uint32_t, pfn=uint32_t)
    cdef uint32_t take_batch(self, uint32_t z, uint32_t count, uint64_t* out, uint32_t cpu) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t)
    cdef int check(self, uint64_t pfn, uint32_t order) noexcept nogil

    @cython.locals(code=int, z=uint32_t)
    cdef int free(self, uint64_t pfn, uint32_t order, uint32_t cpu) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef uint32_t free_bulk(self, uint64_t* pfns, uint32_t count, uint32_t cpu) noexcept nogil

    @cython.locals(code=int, s="frame_section*", i=uint32_t, k=uint32_t)
    cdef int split(self, uint64_t pfn, uint32_t order) noexcept nogil

    cdef void set_owner(self, uint64_t pfn, uint32_t owner) noexcept nogil

    @cython.locals(view=Py_buffer)
    cdef uint32_t bulk_into(self, object out, uint32_t node, uint32_t count, uint32_t zone_limit, uint32_t cpu) except? 0

    @cython.locals(view=Py_buffer)
    cdef uint32_t bulk_from(self, object pfns, uint32_t count, uint32_t cpu) except? 0
