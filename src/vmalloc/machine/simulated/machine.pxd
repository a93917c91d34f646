from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.base cimport (
    TAKE_DMA32,
    TAKE_INTERLEAVED,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
    Machine,
)
from vmalloc.machine.simulated.frames.allocator cimport FrameAllocator
from vmalloc.machine.simulated.frames.contents cimport FrameContents
from vmalloc.machine.simulated.frames.table cimport ZEROED
from vmalloc.machine.simulated.mmu.mmu cimport Mmu
from vmalloc.machine.simulated.mmu.translator cimport OK, STALE
from vmalloc.machine.simulated.page_tables.store cimport EBUSY, MAX_WARNINGS
from vmalloc.machine.simulated.page_tables.tables cimport PageTables
from vmalloc.pages cimport Pages

# Mirrors flags.py and frames/states.py (tests/test_flags.py compares them).
cdef enum:
    TASK = 0
    NMI = 3
    ZONE_DMA32 = 0
    ZONE_NORMAL = 1

cdef class SimulatedMachine(Machine):
    cdef readonly object arch
    cdef readonly object kernel
    cdef readonly object frames             # PhysicalMemory
    cdef readonly FrameAllocator allocator
    cdef readonly FrameContents contents
    cdef readonly PageTables page_table
    cdef readonly Mmu mmu
    cdef readonly list tlbs
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t nr_cpus
    cdef readonly uint32_t nr_nodes
    cdef readonly uint64_t zeroed_pages
    cdef readonly object policy
    cdef readonly dict shared               # frame: references beside the first
    cdef readonly uint64_t nr_shared
    cdef readonly object queue
    cdef readonly uint64_t work_done
    cdef readonly uint64_t slab_requests
    cdef readonly set invalid_direct
    cdef readonly uint64_t direct_map_changes
    cdef readonly uint64_t direct_start
    cdef readonly uint64_t direct_end

    cdef int home_node(self) noexcept
    cdef int64_t take_from(self, uint32_t order, int node, uint32_t how) noexcept
    cdef int64_t take_by_policy(self, uint32_t order, uint32_t how) except? -100
    @cython.locals(i=uint64_t)
    cdef void zero_block(self, uint64_t pfn, uint64_t count) noexcept
    @cython.locals(first=uint64_t, taken=uint64_t, i=uint64_t, limit=uint32_t)
    cdef uint64_t bulk_from(self, Pages pages, uint64_t count, int node, uint32_t how) except? 99999999
    cdef uint64_t keep_local(self, Pages pages, uint64_t first, uint64_t taken, int node) except? 99999999
    cdef uint64_t bulk_by_policy(self, Pages pages, uint64_t count, uint32_t how) except? 99999999
    cdef bint let_go(self, uint64_t pfn) except -1
    cdef void place_tables(self) noexcept
    @cython.locals(last=uint32_t)
    cdef void undo_until_occupied(self, uint64_t address)

    @cython.locals(pfn=int64_t)
    cpdef int64_t take(self, uint32_t order, int node, uint32_t how) except? -100
    cpdef uint64_t take_bulk(self, Pages pages, uint64_t count, int node, uint32_t how) except? 99999999
    cpdef int split(self, uint64_t pfn, uint32_t order) except? -100
    cpdef int give(self, uint64_t pfn, uint32_t order) except? -100
    @cython.locals(i=uint64_t)
    cpdef uint64_t give_bulk(self, Pages pages, uint64_t first, uint64_t count) except? 99999999
    @cython.locals(code=int)
    cpdef object hold(self, uint64_t pfn)
    cpdef object why_not(self, uint64_t pfn, uint32_t order)
    cpdef int node_of(self, uint64_t pfn) except? -100
    cpdef bint slab(self, str what) except -1
    @cython.locals(code=int)
    cpdef int map_pages(self, uint64_t address, Pages pages, uint64_t first, uint64_t count, uint32_t prot) except? -100
    @cython.locals(code=int)
    cpdef int map_range(self, uint64_t address, uint64_t pfn, uint64_t size, uint32_t max_shift, uint32_t prot) except? -100
    cpdef int unmap(self, uint64_t start, uint64_t end) except? -100
    cpdef int flush(self, uint64_t start, uint64_t end) except? -100
    cpdef int64_t translate(self, uint64_t address) except? -100
    @cython.locals(i=uint64_t)
    cpdef int set_direct_map(self, Pages pages, uint64_t first, uint64_t count, bint valid) except? -100
    cpdef int set_scope(self, bint reclaim) except? -100
    @cython.locals(outcome=int, data=bytes)
    cpdef bytes load(self, uint64_t address, uint64_t size)
    @cython.locals(outcome=int)
    cpdef object store(self, uint64_t address, object data)
    cpdef bytes read_frame(self, uint64_t pfn, uint64_t offset, uint64_t size)
    cpdef object zero_frame(self, uint64_t pfn, uint64_t offset, uint64_t size)
    cpdef object copy_frame(self, uint64_t pfn, uint64_t source, uint64_t size)
    cpdef object defer(self, object work, uint32_t cpu)
    cpdef int run_deferred(self) except? -100
    cpdef bint has_deferred(self) except -1
    cpdef object trim(self)
    cpdef object validate(self)
