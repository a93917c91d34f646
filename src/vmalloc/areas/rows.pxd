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

# Memory for tables that grow: on cache-line boundaries; from 1 MiB on mapped, so that growing moves page tables instead of
# bytes (mremap), and in huge pages where the system has them, since a walk through many megabytes would miss the TLB at
# every step. A table is resized and freed with the size it has; the first `used` bytes survive.
cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #if defined(__GNUC__) || defined(__clang__)
    #define vmalloc_prefetch(address) __builtin_prefetch(address)
    #else
    #define vmalloc_prefetch(address) ((void)(address))
    #endif
    #ifdef _WIN32
    #include <malloc.h>
    #define vmalloc_aligned_new(size) _aligned_malloc((size), 64)
    #define vmalloc_aligned_free(table) _aligned_free(table)
    #else
    static inline void *vmalloc_aligned_new(size_t size)
    {
        void *table = NULL;
        return posix_memalign(&table, 64, size) == 0 ? table : NULL;
    }
    #define vmalloc_aligned_free(table) free(table)
    #endif
    #ifdef __linux__
    #include <sys/mman.h>
    #define VMALLOC_TABLE_MAPPED ((size_t)1 << 20)
    static inline void *vmalloc_table_resize(void *table, size_t old_size, size_t new_size, size_t used)
    {
        void *grown;
        if (new_size < VMALLOC_TABLE_MAPPED) {
            grown = vmalloc_aligned_new(new_size);
        } else if (old_size >= VMALLOC_TABLE_MAPPED) {
            grown = mremap(table, old_size, new_size, MREMAP_MAYMOVE);
            if (grown == MAP_FAILED)
                return NULL;
            madvise(grown, new_size, MADV_HUGEPAGE);
            return grown;
        } else {
            grown = mmap(NULL, new_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (grown == MAP_FAILED)
                return NULL;
            madvise(grown, new_size, MADV_HUGEPAGE);
        }
        if (grown != NULL && table != NULL) {
            memcpy(grown, table, used);
            vmalloc_aligned_free(table);
        }
        return grown;
    }
    static inline void vmalloc_table_free(void *table, size_t size)
    {
        if (size >= VMALLOC_TABLE_MAPPED)
            munmap(table, size);
        else
            vmalloc_aligned_free(table);
    }
    #else
    static inline void *vmalloc_table_resize(void *table, size_t old_size, size_t new_size, size_t used)
    {
        void *grown = vmalloc_aligned_new(new_size);
        (void)old_size;
        if (grown != NULL && table != NULL) {
            memcpy(grown, table, used);
            vmalloc_aligned_free(table);
        }
        return grown;
    }
    static inline void vmalloc_table_free(void *table, size_t size) { (void)size; vmalloc_aligned_free(table); }
    #endif
    """
    void vmalloc_prefetch(const void* address) noexcept nogil
    void* vmalloc_table_resize(void* table, size_t old_size, size_t new_size, size_t used) noexcept nogil
    void vmalloc_table_free(void* table, size_t size) noexcept nogil

@cython.final
cdef class AreaRows:
    cdef vmap_area* row
    cdef readonly uint32_t capacity
    cdef readonly uint32_t used       # rows ever handed out, row 0 included
    cdef uint32_t spare               # head of the list of returned rows
    cdef readonly uint32_t live       # rows in use now

    @cython.locals(wanted=uint64_t, grown="vmap_area*")
    cdef int reserve(self, uint32_t count) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef uint32_t take(self, uint64_t start, uint64_t end) noexcept nogil

    cdef void release(self, uint32_t n) noexcept nogil
