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

cdef class Engine(Corrections):
    cdef readonly bint correcting

    @cython.locals(i=uint32_t, kind=uint32_t)
    cdef void run_events(self, uint32_t first, uint32_t last) noexcept nogil

    cdef void allocate(self, uint32_t i) noexcept nogil

    @cython.locals(i=uint32_t)
    cdef void rerun(self, uint32_t first, uint32_t last) noexcept nogil
