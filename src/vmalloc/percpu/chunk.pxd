from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.percpu.free_map cimport NONE, FreeMap

cdef enum:
    GRANULE_SHIFT = 2
    NR_BOUNDS = 16                    # alignments of 4 bytes to 128 KiB

@cython.final
cdef class PercpuObject:
    cdef readonly Chunk chunk
    cdef readonly uint32_t offset
    cdef readonly uint32_t size
    cdef readonly uint32_t align
    cdef readonly object caller
    cdef public bint live

@cython.final
cdef class Chunk:
    cdef readonly uint64_t base
    cdef readonly uint32_t nr_pages
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t nr_cpus
    cdef readonly list areas
    cdef readonly bint fixed
    cdef readonly uint32_t start
    cdef readonly uint32_t end
    cdef readonly FreeMap map
    cdef readonly uint8_t[::1] populated   # per page
    cdef readonly uint32_t[::1] used       # granules of a page that are taken
    cdef readonly uint64_t[::1] pfn        # page by page, in it CPU by CPU
    cdef readonly uint32_t[::1] bound      # from so many granules on, a search is known to fail
    cdef readonly dict objects             # offset: PercpuObject
    cdef public int slot                   # of the allocator's; -1 for none
    cdef public uint32_t nr_populated
    cdef public uint32_t nr_empty          # populated pages that no object touches
    cdef public uint64_t allocated         # bytes of objects, rounded up
    cdef readonly uint32_t capacity        # granules for objects

    cdef void hide(self, uint32_t offset, uint32_t size) noexcept nogil
    cdef bint may_fit(self, uint32_t granules, uint32_t order) noexcept nogil
    @cython.locals(found=uint32_t, k=uint32_t)
    cdef uint32_t find(self, uint32_t granules, uint32_t order) noexcept nogil
    @cython.locals(shift=uint32_t, at=uint32_t, found=uint32_t, page=uint32_t, last=uint32_t)
    cdef uint32_t find_populated(self, uint32_t granules, uint32_t order) noexcept nogil
    cdef void take(self, uint32_t start, uint32_t granules) noexcept nogil
    @cython.locals(run=uint32_t, k=uint32_t)
    cdef void release(self, uint32_t start, uint32_t granules) noexcept nogil
    @cython.locals(shift=uint32_t, end=uint32_t, page=uint32_t, stop=uint32_t, was=uint32_t)
    cdef void count_used(self, uint32_t start, uint32_t granules, int sign) noexcept nogil
    cdef uint32_t first_missing(self, uint32_t page, uint32_t end) noexcept nogil
    @cython.locals(page=uint32_t)
    cdef void set_populated(self, uint32_t first, uint32_t end) noexcept nogil
    @cython.locals(page=uint32_t)
    cdef void clear_populated(self, uint32_t first, uint32_t end) noexcept nogil
    cdef uint64_t frame(self, uint32_t page, uint32_t cpu) noexcept nogil
    cdef void set_frame(self, uint32_t page, uint32_t cpu, uint64_t pfn) noexcept nogil
