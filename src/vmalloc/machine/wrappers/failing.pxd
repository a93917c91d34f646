from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.wrappers.wrapper cimport Wrapper
from vmalloc.pages cimport Pages

# Places in ``FAILING``, as bits (tests/machine/wrappers/test_failing.py compares them).
cdef enum:
    FAIL_TAKE = 1
    FAIL_TAKE_BULK = 2
    FAIL_SLAB = 4
    FAIL_MAP_PAGES = 8
    FAIL_MAP_RANGE = 16
    FAIL_PAGE_TABLE = 32
    FAIL_FLUSH = 64

# Mirrors areas/states.py.
cdef enum:
    ENOMEM = 12

@cython.final
cdef class Plan:
    cdef readonly int64_t after
    cdef readonly int64_t times
    cdef readonly object what

cdef class FailingMachine(Wrapper):
    cdef readonly dict plans                # operation: list of Plan
    cdef uint32_t armed                     # operations that may fail, as bits
    cdef readonly uint64_t failures
    cdef readonly double probability
    cdef object draw
    cdef uint32_t page_shift
    cdef uint32_t table_shift               # log2 of the bytes that one page table of the lowest level maps

    cdef bint fails(self, str operation, str what) except -1
    @cython.locals(plan=Plan, hit=bint)
    cdef bint plan_fails(self, str operation, str what) except -1
    @cython.locals(reach=uint64_t, table_size=uint64_t, piece=uint64_t)
    cdef uint64_t size_before_failure(self, uint64_t address, uint64_t size) except? 99999999

    cpdef int64_t take(self, uint32_t order, int node, uint32_t how) except? -100
    cpdef uint64_t take_bulk(self, Pages pages, uint64_t count, int node, uint32_t how) except? 99999999
    cpdef bint slab(self, str what) except -1
    @cython.locals(size=uint64_t, part=uint64_t, code=int)
    cpdef int map_pages(self, uint64_t address, Pages pages, uint64_t first, uint64_t count, uint32_t prot) except? -100
    @cython.locals(part=uint64_t, code=int)
    cpdef int map_range(self, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift, uint32_t prot) except? -100
    cpdef int flush(self, uint64_t start, uint64_t end) except? -100
