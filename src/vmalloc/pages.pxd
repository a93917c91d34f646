from libc.stdint cimport uint32_t, uint64_t

cimport cython

@cython.final
cdef class Pages:
    cdef uint64_t* pfn
    cdef uint64_t one                 # where a single frame is kept
    cdef readonly uint64_t nr_pages
    cdef readonly uint64_t room       # for how many there is room
    cdef readonly uint32_t page_size

    cdef int reserve(self, uint64_t count) noexcept nogil
    cdef uint64_t number(self, uint64_t i) noexcept nogil
    cdef int copy_from(self, Pages source, uint64_t first, uint64_t count) noexcept nogil

@cython.locals(pages=Pages)
cdef Pages new_pages(uint64_t count, uint32_t page_size)
