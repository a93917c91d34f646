from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.checkpoint cimport Checkpoint

@cython.final
cdef class Moment:
    cdef readonly Checkpoint checkpoint
    cdef bint valid
    cdef uint32_t event           # the event that was about to be carried out
    cdef uint32_t journal         # how long the journal was
    cdef uint32_t k
    cdef bint begun
    cdef uint32_t nr_detached
    cdef bint counts_known
    cdef uint64_t busy_bytes
    cdef uint64_t peak_busy_bytes
    cdef uint64_t recent_frees
    cdef uint64_t counter[17]
