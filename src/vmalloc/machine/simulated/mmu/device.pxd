from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

# Mirrors states.py (tests/machine/simulated/mmu/test_states.py compares them).
cdef enum:
    EMPTY = 0xFFFFFFFFFFFFFFFF

cdef enum:
    HOST_MEMORY = 5

@cython.final
cdef class DeviceMemory:
    cdef uint64_t* number               # frame numbers, or EMPTY
    cdef uint8_t** page                 # beside its number
    cdef uint64_t mask                  # places of both tables, less one
    cdef readonly uint32_t page_size
    cdef readonly uint64_t nr_pages     # pages that something was stored to

    @cython.locals(number="uint64_t*", page="uint8_t**")
    cdef int reserve(self, uint64_t nr_places) noexcept nogil

    @cython.locals(i=uint64_t)
    cdef uint64_t place_of(self, uint64_t pfn) noexcept nogil

    @cython.locals(i=uint64_t, k=uint64_t, places=uint64_t, number="uint64_t*", page="uint8_t**")
    cdef int grow(self) noexcept nogil

    @cython.locals(i=uint64_t, page="uint8_t*")
    cdef uint8_t* page_to_store(self, uint64_t pfn) noexcept nogil

    # As in FrameContents; 0 or HOST_MEMORY. The range lies in the page: the caller has seen to that.
    @cython.locals(i=uint64_t)
    cdef int get(self, uint64_t pfn, uint64_t offset, uint64_t size, uint8_t* out) noexcept nogil

    @cython.locals(page="uint8_t*")
    cdef int put(self, uint64_t pfn, uint64_t offset, uint64_t size, const uint8_t* data) noexcept nogil

    @cython.locals(page="uint8_t*")
    cdef int clear(self, uint64_t pfn, uint64_t offset, uint64_t size) noexcept nogil

    @cython.locals(view=Py_buffer)
    cdef int get_into(self, object out, uint64_t pfn, uint64_t offset, uint64_t size) except -100

    @cython.locals(view=Py_buffer, code=int)
    cdef int put_from(self, object data, uint64_t pfn, uint64_t offset, uint64_t size) except -100
