from libc.stdint cimport uint16_t, uint32_t, uint64_t

cimport cython

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define vmalloc_lowest_bit(word) ((uint32_t)__builtin_ctzll(word))
    #else
    static inline uint32_t vmalloc_lowest_bit(uint64_t word)
    {
        uint32_t n = 0;
        while ((word & 1) == 0) { word >>= 1; n++; }
        return n;
    }
    #endif
    """
    uint32_t lowest_bit "vmalloc_lowest_bit"(uint64_t word) noexcept nogil

cdef enum:
    NONE = 0xFFFFFFFF
    BLOCK_SHIFT = 10
    BLOCK = 1024                      # granules: 4 KiB

cdef enum:
    ALL = 0xFFFFFFFFFFFFFFFF

@cython.final
cdef class FreeMap:
    cdef readonly uint32_t nr_granules
    cdef readonly uint32_t nr_blocks
    cdef readonly uint64_t[::1] words     # a set bit: taken
    cdef readonly uint16_t[::1] left      # free granules at the left edge of a block
    cdef readonly uint16_t[::1] right     # at its right edge
    cdef readonly uint16_t[::1] longest   # its longest free run
    cdef public uint32_t nr_free
    cdef public uint32_t low              # no block before this one has a free granule

    @cython.locals(word=uint32_t, bits=uint64_t, found=uint32_t)
    cdef uint32_t next_free(self, uint32_t at, uint32_t end) noexcept nogil

    @cython.locals(word=uint32_t, bits=uint64_t, found=uint32_t)
    cdef uint32_t next_taken(self, uint32_t at, uint32_t end) noexcept nogil

    @cython.locals(b=uint32_t, run=uint32_t, open_run=bint, begin=uint32_t, first=uint32_t)
    cdef uint32_t find(self, uint32_t size, uint32_t align, uint32_t start) noexcept nogil

    @cython.locals(stop=uint32_t, first=uint32_t)
    cdef uint32_t find_inside(self, uint32_t at, uint32_t end, uint32_t size, uint32_t align) noexcept nogil

    @cython.locals(at=uint32_t, end=uint32_t, word=uint32_t, mask=uint64_t, b=uint32_t)
    cdef void fill(self, uint32_t start, uint32_t size, bint taken) noexcept nogil

    @cython.locals(begin=uint32_t, end=uint32_t, at=uint32_t, best=uint32_t, last=uint32_t, stop=uint32_t)
    cdef void refresh(self, uint32_t b) noexcept nogil

    cdef void take(self, uint32_t start, uint32_t size) noexcept nogil
    cdef void release(self, uint32_t start, uint32_t size) noexcept nogil

    @cython.locals(b=uint32_t, begin=uint32_t, low=uint32_t, at=uint32_t, end=uint32_t, high=uint32_t)
    cdef uint32_t run_around(self, uint32_t start, uint32_t size) noexcept nogil
