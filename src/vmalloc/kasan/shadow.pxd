from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ADDRESS_MAX, ENOMEM
from vmalloc.machine.base cimport TAKE_MAY_DRAIN, Machine
from vmalloc.pages cimport Pages, new_pages

# Mirrors layout.py and flags.py (tests/kasan/test_layout.py compares them).
cdef enum:
    GRANULE_SHIFT = 3
    INVALID = 0xF8
    PROT_RW = 3
    AT_ONCE = 1 << 20

cdef class Shadow:
    cdef readonly Machine machine
    cdef readonly object layout
    cdef readonly bint in_bulk
    cdef readonly uint32_t page_shift
    cdef readonly uint64_t page_size
    cdef readonly uint64_t offset
    cdef readonly uint64_t start
    cdef readonly uint64_t end
    cdef readonly uint64_t kernel_start
    cdef readonly uint64_t kernel_end
    cdef readonly set present
    cdef readonly object bad
    cdef readonly object reported
    cdef readonly uint64_t checks
    cdef readonly uint64_t unchecked
    cdef readonly uint64_t populated
    cdef readonly uint64_t released
    cdef readonly uint64_t peak
    cdef readonly uint64_t flushes

    @cython.locals(first=uint64_t, last=uint64_t, s=uint64_t, e=uint64_t)
    cpdef tuple pages_of(self, uint64_t start, uint64_t end)
    cpdef int populate(self, uint64_t start, uint64_t end, bint waits) except? -100
    @cython.locals(pages=Pages)
    cdef int make_pages(self, list missing, bint waits) except? -100
    @cython.locals(pages=Pages, pfn=int64_t, how=uint32_t)
    cdef Pages take_frames(self, uint64_t count, bint waits)
    @cython.locals(first=uint64_t, behind=uint64_t, address=uint64_t, end=uint64_t)
    cdef uint64_t map_runs(self, list missing, Pages pages) except? 99999999
    @cython.locals(unit=uint64_t, low=uint64_t, high=uint64_t, aligned_low=uint64_t, aligned_high=uint64_t)
    cpdef tuple releasable(self, uint64_t start, uint64_t end, uint64_t free_start, uint64_t free_end)
    @cython.locals(count=uint64_t, shadow=uint64_t, piece=uint64_t)
    cdef int write_shadow(self, uint64_t start, uint64_t size, int value) except -1
    @cython.locals(part=uint64_t)
    cpdef object unpoison(self, uint64_t start, uint64_t size)
    cpdef object poison(self, uint64_t start, uint64_t size)
    @cython.locals(shadow=uint64_t, at=uint64_t, piece=uint64_t, address=uint64_t)
    cdef list cells(self, uint64_t start, uint64_t count)
    cdef bint has_shadow(self, uint64_t address) except -1
    @cython.locals(behind=uint64_t, first_page=uint64_t, last_page=uint64_t, page=uint64_t, start=uint64_t, count=uint64_t, place=uint64_t, granule=uint64_t, bad=uint64_t, missing=uint64_t, value=uint8_t, data=bytes)
    cdef bint forbids_range(self, uint64_t address, uint64_t last) except -1
    @cython.locals(i=uint64_t, raw="const uint8_t*")
    cdef uint64_t first_set(self, bytes data, uint64_t count) noexcept
    cdef bint forbidden(self, object bad, object reported) except -1
