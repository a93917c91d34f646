from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.ordered_map cimport OrderedMaps
from vmalloc.areas.rows cimport NIL

cdef enum:
    BLOCK_WORDS = 16             # of 64 bits: 1024 pages, the largest block

cdef struct vmap_block:
    uint64_t va_start
    uint64_t used[16]            # pages that are mapped (used_map)
    uint64_t first[16]           # of those, the first of each piece
    uint32_t free                # pages never handed out
    uint32_t dirty               # pages handed out and returned
    uint32_t dirty_min           # returned and not yet flushed: pages [dirty_min, dirty_max)
    uint32_t dirty_max
    uint32_t cpu                 # whose queue
    uint32_t next                # in the queue; of spare records, the next spare one
    uint32_t previous
    uint32_t queued

cdef struct block_queue:
    uint32_t head
    uint32_t tail

@cython.locals(nr_pages=uint32_t)
cdef uint32_t rounded(uint64_t count) noexcept nogil

@cython.final
cdef class VmapBlocks:
    cdef vmap_block* block
    cdef readonly uint32_t capacity      # records there is room for, record 0 included
    cdef readonly uint32_t used_records  # ever handed out, record 0 included
    cdef uint32_t spare                  # head of the list of returned records
    cdef readonly uint32_t nr_blocks
    cdef block_queue* queue              # per CPU
    cdef readonly OrderedMaps index      # per slot: key -> record
    cdef readonly uint32_t nr_cpus
    cdef readonly uint32_t nr_slots
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t max_alloc
    cdef readonly uint32_t block_pages
    cdef readonly uint32_t purge_threshold
    cdef readonly uint64_t block_size
    cdef readonly uint64_t base          # where keys count from

    @cython.locals(wanted=uint32_t, grown="vmap_block*")
    cdef int grow(self) noexcept nogil

    cdef uint64_t key_of(self, uint64_t address) noexcept nogil

    cdef uint32_t slot_of(self, uint64_t address) noexcept nogil

    cdef uint32_t find(self, uint64_t address) noexcept nogil

    @cython.locals(b=uint32_t)
    cdef uint32_t choose(self, uint32_t cpu, uint32_t nr_pages) noexcept nogil

    @cython.locals(b=uint32_t, w=uint32_t)
    cdef uint32_t add(self, uint64_t start, uint32_t cpu) noexcept nogil

    cdef void enter_queue(self, uint32_t b, uint32_t cpu) noexcept nogil

    @cython.locals(cpu=uint32_t, next=uint32_t, previous=uint32_t)
    cdef void leave_queue(self, uint32_t b) noexcept nogil

    @cython.locals(offset=uint32_t, i=uint32_t, bit=uint64_t)
    cdef uint64_t take(self, uint32_t b, uint32_t count) noexcept nogil

    @cython.locals(bit=uint64_t)
    cdef bint is_used(self, uint32_t b, uint32_t page) noexcept nogil

    @cython.locals(bit=uint64_t)
    cdef bint is_first(self, uint32_t b, uint32_t page) noexcept nogil

    @cython.locals(count=uint32_t)
    cdef uint32_t piece_pages(self, uint32_t b, uint32_t page) noexcept nogil

    @cython.locals(i=uint32_t, bit=uint64_t, nr_pages=uint32_t)
    cdef bint give(self, uint32_t b, uint32_t page, uint32_t count) noexcept nogil

    cdef bint is_purgeable(self, uint32_t b) noexcept nogil

    cdef void remove(self, uint32_t b) noexcept nogil
