from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.table cimport (
    BAD_RANGE,
    FOREIGN,
    NEVER,
    NO_MEMORY,
    NO_ZONE,
    SECTION_FRAMES,
    SECTION_MASK,
    SECTION_SHIFT,
    STORED,
    USED,
    ZEROED,
    FrameTable,
    frame_row,
    frame_section,
)

@cython.final
cdef class FrameContents:
    cdef readonly FrameTable table
    cdef readonly uint32_t page_size
    cdef readonly uint8_t unwritten         # what a byte reads that was never stored

    cdef int bad_range(self, uint64_t pfn, uint64_t offset, uint64_t size) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t)
    cdef uint8_t* page_of(self, uint64_t pfn) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, page="uint8_t*")
    cdef uint8_t* page_to_store(self, uint64_t pfn) noexcept nogil

    @cython.locals(s="frame_section*")
    cdef uint8_t contents_of(self, uint64_t pfn) noexcept nogil

    @cython.locals(s="frame_section*")
    cdef int set_plain(self, uint64_t pfn, uint8_t contents) noexcept nogil

    cdef uint8_t plain_byte(self, uint64_t pfn) noexcept nogil

    @cython.locals(code=int, page="uint8_t*")
    cdef int get(self, uint64_t pfn, uint64_t offset, uint64_t size, uint8_t* out) noexcept nogil

    @cython.locals(code=int, page="uint8_t*")
    cdef int put(self, uint64_t pfn, uint64_t offset, uint64_t size, const uint8_t* data) noexcept nogil

    @cython.locals(code=int, page="uint8_t*")
    cdef int clear(self, uint64_t pfn, uint64_t offset, uint64_t size) noexcept nogil

    @cython.locals(code=int, page="uint8_t*", source_page="uint8_t*")
    cdef int move(self, uint64_t pfn, uint64_t offset, uint64_t source, uint64_t source_offset,
                  uint64_t size) noexcept nogil

    @cython.locals(s="frame_section*", i=uint32_t, end=uint32_t, held=bint, dropped=uint32_t)
    cdef uint32_t trim_section(self, uint32_t k) noexcept nogil

    @cython.locals(view=Py_buffer, code=int)
    cdef int get_into(self, object out, uint64_t pfn, uint64_t offset, uint64_t size) except -100

    @cython.locals(view=Py_buffer, code=int)
    cdef int put_from(self, object data, uint64_t pfn, uint64_t offset, uint64_t size) except -100
