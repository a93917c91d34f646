from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.calls.state cimport VmallocState
from vmalloc.percpu.chunk cimport GRANULE_SHIFT, Chunk, PercpuObject
from vmalloc.percpu.chunks cimport NR_SLOTS, Chunks, slot_of
from vmalloc.percpu.free_map cimport NONE
from vmalloc.percpu.populate cimport zero_object

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    NMI = 3
    GFP_DIRECT_RECLAIM = 0x400
    GFP_NOWARN = 0x2000

cdef enum:
    MAX_SIZE = 32768                  # bytes of one object
    EMPTY_LOW = 2                     # as in layout.py (tests/percpu/test_allocator.py compares them)
    EMPTY_HIGH = 4

cdef class PercpuAllocator(Chunks):
    cdef uint32_t found                   # the granule where the last search ended
    cdef public uint64_t nr_objects
    cdef public bint balance_queued
    cdef public bint stuck                # the balance work could not fill the reserve
    cdef public uint32_t wanted_pages     # what an atomic caller missed
    cdef readonly uint64_t allocations
    cdef readonly uint64_t failures
    cdef readonly uint64_t balances

    @cython.locals(atomic=bint, granules=uint32_t, order=uint32_t, chunk=Chunk, state=VmallocState)
    cpdef PercpuObject alloc(self, object size, object align, uint32_t gfp, bint reserved, object caller)

    @cython.locals(chunk=Chunk)
    cdef Chunk reserved_with_room(self, object size, object align, uint32_t granules, uint32_t order)

    @cython.locals(chunk=Chunk)
    cdef Chunk chunk_with_room(self, uint64_t size, object align, uint32_t granules, uint32_t order, bint atomic,
                               uint32_t gfp)

    @cython.locals(slot=uint32_t, chunk=Chunk)
    cdef Chunk search(self, uint32_t granules, uint32_t order, bint atomic)

    cdef bint fits(self, Chunk chunk, uint32_t granules, uint32_t order, bint atomic)

    @cython.locals(start=uint32_t, offset=uint32_t, empty=int64_t, found=PercpuObject)
    cdef PercpuObject take(self, Chunk chunk, uint32_t size, uint32_t align, uint32_t granules, uint32_t gfp,
                           bint reserved, bint atomic, object caller)

    @cython.locals(chunk=Chunk, empty=int64_t)
    cpdef object free(self, PercpuObject found)

    cdef object queue_balance(self)

    cdef bint gives_back(self, Chunk chunk) noexcept nogil

    @cython.locals(excess=int64_t, page=uint32_t, end=uint32_t)
    cdef object give_back_pages(self, Chunk chunk)

    @cython.locals(done=uint32_t, page=uint32_t, end=uint32_t)
    cdef uint32_t populate_some(self, Chunk chunk, uint32_t wanted) except? 99999999

    @cython.locals(missing=int64_t, chunk=Chunk, slot=uint32_t)
    cdef object fill_reserve(self)
