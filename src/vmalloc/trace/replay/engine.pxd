from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.trace.replay.corrections cimport Corrections
from vmalloc.trace.replay.schedule cimport (
    ALLOC,
    ALLOC_FAILED,
    FLUSH,
    FREE,
    LOST,
    PCPU_CREATE,
    PURGE,
    PURGES_BEGUN_BY_COUNT,
)

cdef enum:
    LARGE_TABLE = 32768   # rows; smaller tables are in the cache anyway
    FAR_AHEAD = 12        # events
    NEAR_AHEAD = 6

cdef class Engine(Corrections):
    cdef readonly bint correcting

    @cython.locals(i=uint32_t, kind=uint32_t, large=bint)
    cdef void run_events(self, uint32_t first, uint32_t last) noexcept nogil

    @cython.locals(j=uint32_t)
    cdef void look_ahead(self, uint32_t i) noexcept nogil

    cdef void allocate(self, uint32_t i) noexcept nogil

    @cython.locals(i=uint32_t)
    cdef void rerun(self, uint32_t first, uint32_t last) noexcept nogil
