from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.calls.state cimport VmallocState
from vmalloc.machine.base cimport Machine
from vmalloc.percpu.chunk cimport GRANULE_SHIFT, Chunk
from vmalloc.percpu.populate cimport depopulate, destroy_frames, populate

# Mirrors flags.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0

cdef enum:
    NR_SLOTS = 33

cdef class Chunks:
    cdef readonly VmallocState state
    cdef readonly Machine machine
    cdef readonly object settings
    cdef readonly object layout
    cdef readonly tuple unit_offsets
    cdef readonly tuple nodes             # of each CPU
    cdef readonly list chunks
    cdef readonly Chunk reserved
    cdef readonly tuple first_units       # per CPU its first frame, or all its frames
    cdef readonly list first_areas
    cdef readonly list slots              # dicts of chunks, by the bits of their free granules
    cdef public int64_t nr_empty
    cdef public int64_t nr_populated
    cdef readonly uint64_t made
    cdef readonly uint64_t destroyed
    cdef readonly uint64_t pages_populated
    cdef readonly uint64_t pages_depopulated

    @cython.locals(whole=Chunk)
    cdef object set_up_paged(self)

    @cython.locals(dynamic=Chunk)
    cdef object adopt_first(self, object layout, object base, list areas)

    @cython.locals(chunk=Chunk, page=uint32_t, cpu=uint32_t, skip=uint32_t)
    cdef object fill_fixed(self, Chunk chunk, uint64_t base)

    @cython.locals(slot=int)
    cdef object place(self, Chunk chunk)

    cdef object add_chunk(self, Chunk chunk)

    @cython.locals(chunk=Chunk)
    cdef Chunk create_chunk(self, object size, object align)

    @cython.locals(pages=int64_t)
    cdef object destroy_chunk(self, Chunk chunk)

    @cython.locals(shift=uint32_t, end=uint32_t, page=uint32_t, stop=uint32_t, done=list)
    cdef object populate_range(self, Chunk chunk, uint32_t start, uint32_t granules, uint32_t gfp)

    @cython.locals(empty=int64_t)
    cdef object populate_pages(self, Chunk chunk, uint32_t first, uint32_t end, uint32_t gfp)

    cdef object depopulate_pages(self, Chunk chunk, uint32_t first, uint32_t end)

@cython.locals(slot=uint32_t)
cdef uint32_t slot_of(uint32_t granules) noexcept nogil
