from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.pages cimport Pages

# Mirrors flags.py: a sum of these says how frames are taken (tests/test_flags.py compares them).
cdef enum:
    TAKE_STRICT = 1
    TAKE_DMA32 = 2
    TAKE_MAY_DRAIN = 4
    TAKE_INTERLEAVED = 8
    TAKE_ZERO = 16

@cython.final
cdef class Running:
    cdef public uint32_t cpu
    cdef public uint32_t context

# cpdef: the calls come here a million times a second, tests and machines written in Python by name.
cdef class Machine:
    cdef public object info
    cdef public Running running

    cpdef int64_t take(self, uint32_t order, int node, uint32_t how) except? -100
    cpdef uint64_t take_bulk(self, Pages pages, uint64_t count, int node, uint32_t how) except? 99999999
    cpdef int split(self, uint64_t pfn, uint32_t order) except? -100
    cpdef int give(self, uint64_t pfn, uint32_t order) except? -100
    cpdef uint64_t give_bulk(self, Pages pages, uint64_t first, uint64_t count) except? 99999999
    cpdef object hold(self, uint64_t pfn)
    cpdef object why_not(self, uint64_t pfn, uint32_t order)
    cpdef int node_of(self, uint64_t pfn) except? -100
    cpdef bint slab(self, str what) except -1

    cpdef int map_pages(self, uint64_t address, Pages pages, uint64_t first, uint64_t count, uint32_t prot) except? -100
    cpdef int map_range(self, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift, uint32_t prot) except? -100
    cpdef int unmap(self, uint64_t start, uint64_t end) except? -100
    cpdef int flush(self, uint64_t start, uint64_t end) except? -100
    cpdef int64_t translate(self, uint64_t address) except? -100
    cpdef int set_direct_map(self, Pages pages, uint64_t first, uint64_t count, bint valid) except? -100
    cpdef int set_scope(self, bint reclaim) except? -100

    cpdef bytes load(self, uint64_t address, uint64_t size)
    cpdef object store(self, uint64_t address, object data)
    cpdef bytes read_frame(self, uint64_t pfn, uint64_t offset, uint64_t size)
    cpdef object zero_frame(self, uint64_t pfn, uint64_t offset, uint64_t size)
    cpdef object copy_frame(self, uint64_t pfn, uint64_t source, uint64_t size)

    cpdef object defer(self, object work, uint32_t cpu)
    cpdef int run_deferred(self) except? -100
    cpdef bint has_deferred(self) except -1

    cpdef object trim(self)
    cpdef object validate(self)
