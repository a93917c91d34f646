from cpython.buffer cimport PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.frames.contents cimport FrameContents
from vmalloc.machine.simulated.mmu.device cimport HOST_MEMORY, DeviceMemory
from vmalloc.machine.simulated.mmu.translator cimport (
    BUS_ERROR,
    NR_OUTCOMES,
    OK,
    READONLY,
    STALE,
    UNMAPPED,
    Translator,
    translation,
)

# Mirrors vmalloc/flags.py.
cdef enum:
    PROT_SPECIAL = 8

# Inherited and of use to a compiled caller: translate, switch_to, flush_cache_vmap, flush, flush_all, flush_local,
# may_fault, and the counters.
@cython.final
cdef class Mmu(Translator):
    cdef readonly FrameContents contents
    cdef readonly DeviceMemory device
    cdef public bint follow_stale           # whether a load or store goes through a stale translation, as hardware does
    cdef readonly uint64_t failed_address   # where the last load, store or zero that did not end with OK failed
    cdef readonly uint64_t stale_uses       # pages loaded from or stored to through a stale translation
    cdef translation* plan                  # the pages of a store, translated before the first byte is written
    cdef uint64_t plan_size
    cdef uint64_t page_size

    cdef int reserve(self, uint64_t nr_pages) noexcept nogil

    cdef translation* planned(self, uint64_t k) noexcept nogil

    # Bytes [address, address + size) as a CPU sees them. OK, or what happened at `failed_address`; STALE with
    # `follow_stale` says that all went well otherwise. A load that fails has filled `out` up to there; a store that
    # fails has written nothing (HOST_MEMORY alone can come too late for that).
    @cython.locals(at=uint64_t, left=uint64_t, piece=uint64_t, code=int, outcome=int)
    cdef int load(self, uint32_t cpu, uint64_t address, uint64_t size, uint8_t* out) noexcept nogil

    @cython.locals(done=uint64_t, piece=uint64_t, k=uint64_t, code=int, outcome=int)
    cdef int store(self, uint32_t cpu, uint64_t address, uint64_t size, const uint8_t* data) noexcept nogil

    @cython.locals(done=uint64_t, piece=uint64_t, k=uint64_t, code=int, outcome=int)
    cdef int zero(self, uint32_t cpu, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(at=uint64_t, left=uint64_t, piece=uint64_t, k=uint64_t, code=int, outcome=int)
    cdef int plan_store(self, uint32_t cpu, uint64_t address, uint64_t size) noexcept nogil

    cdef uint64_t piece_at(self, uint64_t address, uint64_t left) noexcept nogil

    cdef uint64_t behind(self, uint64_t address, uint64_t size) noexcept nogil

    @cython.locals(outcome=int)
    cdef int reach(self, uint32_t cpu, uint64_t address, bint write, translation* t) noexcept nogil

    cdef int get(self, translation* t, uint64_t offset, uint64_t size, uint8_t* out) noexcept nogil

    cdef int put(self, translation* t, uint64_t offset, uint64_t size, const uint8_t* data) noexcept nogil

    cdef int clear(self, translation* t, uint64_t offset, uint64_t size) noexcept nogil

    # Runs accesses through a CPU's TLB, failing or not: the index of the first that fails, or -1.
    @cython.locals(i=int64_t, first=int64_t)
    cdef int64_t run(self, uint32_t cpu, const uint64_t* addresses, int64_t count, bint write) noexcept nogil

    @cython.locals(view=Py_buffer, buffer="const uint64_t*", count=int64_t, first=int64_t)
    cdef int64_t run_buffer(self, uint32_t cpu, object addresses, bint write) except? -100

    @cython.locals(view=Py_buffer, code=int)
    cdef int load_into(self, uint32_t cpu, uint64_t address, uint64_t size, object out) except -100

    @cython.locals(view=Py_buffer, code=int)
    cdef int store_from(self, uint32_t cpu, uint64_t address, uint64_t size, object data) except -100
