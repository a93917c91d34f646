from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cimport cython

# Mirrors states.py (tests/areas/test_ledger.py compares them).
cdef enum:
    NOW_BUSY = 1
    NOW_GONE = 2
    NOW_FLUSHED = 3
    NOW_PROVEN = 4

# What happened to a range. Uncompiled: plain.Happening.
cdef struct happening:
    uint64_t start
    uint64_t end
    uint32_t previous       # the entry before it; 0 for none
    uint16_t cpu
    uint8_t kind

cdef enum:
    MOST_ENTRIES = 0xFFFFFFFE

@cython.final
cdef class Ledger:
    cdef happening* entry
    cdef readonly uint32_t used         # entries ever written, and entry 0
    cdef readonly uint32_t capacity
    cdef readonly uint32_t tip          # the last entry of the history
    cdef readonly uint64_t lost         # entries for which there was no memory

    @cython.locals(wanted=uint64_t, grown="void*")
    cdef int grow(self) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef void write(self, uint32_t kind, uint64_t start, uint64_t end, uint32_t cpu) noexcept nogil

    @cython.locals(n=uint32_t, at=uint32_t, following=uint32_t, before=uint32_t)
    cdef void straighten(self) noexcept nogil
