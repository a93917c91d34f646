from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cimport cython

# One record of address space: 64 bytes, a cache line, so that a tree costs one miss per level. Indices instead of pointers:
# half the size, and the table may move as it grows.
cdef struct vmap_area:
    uint64_t va_start
    uint64_t va_end
    uint64_t left_max           # free tree: largest block in the left subtree, and
    uint64_t right_max          #   in the right one; otherwise unused
    uint32_t rb_parent          # free tree only
    uint32_t rb_left
    uint32_t rb_right
    uint32_t list_next          # pool list, purge list, list of spare rows
    uint32_t flags              # VMAP_RAM, VMAP_BLOCK, (node id + 1) << 8
    uint8_t color               # 0 black, 1 red
    uint8_t state
    uint16_t unused
    uint64_t reserved

# Mirrors states.py (tests/areas/test_states.py compares them).
cdef enum:
    NIL = 0
    UNUSED = 0
    LOOSE = 1
    FREE = 2
    BUSY = 3
    LAZY = 4
    PURGING = 5
    POOLED = 6
    MAX_POOL_PAGES = 256

# Elsewhere than in compiled code these do nothing (plain.py).
cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define vmalloc_prefetch(address) __builtin_prefetch(address)
    #else
    #define vmalloc_prefetch(address) ((void)(address))
    #endif
    """
    void vmalloc_prefetch(const void* address) noexcept nogil

@cython.final
cdef class AreaRows:
    cdef vmap_area* row
    cdef void* memory                 # what was allocated; row is the first cache line in it
    cdef readonly uint32_t capacity
    cdef readonly uint32_t used       # rows ever handed out, row 0 included
    cdef uint32_t spare               # head of the list of returned rows
    cdef readonly uint32_t live       # rows in use now

    @cython.locals(wanted=uint64_t, memory="void*", grown="vmap_area*", address=size_t)
    cdef int reserve(self, uint32_t count) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef uint32_t take(self, uint64_t start, uint64_t end) noexcept nogil

    cdef void release(self, uint32_t n) noexcept nogil
