from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

# Mirrors states.py (tests/machine/simulated/mmu/test_states.py compares them).
cdef enum:
    LRU = 0
    FIFO = 1
    RANDOM = 2

cdef enum:
    MAX_CLASSES = 6

cdef enum:
    EMPTY = 0xFFFFFFFFFFFFFFFF

# What an entry says besides its tag and its stamp.
cdef struct tlb_entry:
    uint64_t pfn            # of its first frame
    uint64_t generation     # of the page tables when it was filled, or last found to be right
    uint32_t shift          # log2 of the bytes it translates
    uint32_t prot

# The entries of one page size. Set s is places [s * ways, (s + 1) * ways) of each table.
cdef struct tlb_class:
    uint64_t* tag           # virtual page number in units of this size, or EMPTY
    uint64_t* stamp         # the clock when the entry was filled; under LRU, when it was last used
    tlb_entry* entry
    uint64_t set_mask
    uint32_t shift
    uint32_t ways
    uint32_t nr_sets
    uint32_t count          # entries in use

@cython.final
cdef class Tlb:
    cdef tlb_class* sizes[6]            # by page size, smallest first
    cdef uint32_t nr_classes
    cdef uint8_t class_of[65]           # by shift of a mapping: the largest class that is not larger
    cdef readonly uint32_t page_shift
    cdef readonly uint32_t policy
    cdef uint64_t clock                 # stamps handed out
    cdef uint64_t dice                  # state of the random numbers
    cdef readonly uint64_t count        # entries in use, all sizes
    cdef readonly uint64_t hits
    cdef readonly uint64_t misses
    cdef readonly uint64_t fills
    cdef readonly uint64_t evictions    # entries that made room for others, or were filled again
    cdef readonly uint64_t flushed      # entries that flushes removed
    cdef readonly uint64_t range_flushes
    cdef readonly uint64_t full_flushes

    @cython.locals(c="tlb_class*")
    cdef int add_class(self, uint32_t shift, uint32_t nr_sets, uint32_t ways) except -1

    @cython.locals(w=uint32_t, found=uint32_t, first=uint32_t)
    cdef uint32_t way_of(self, tlb_class* c, uint64_t vpn) noexcept nogil

    # The entry that translates an address, counted as a hit or a miss; NULL for none. Of several sizes the smallest.
    @cython.locals(k=uint32_t, i=uint32_t, c="tlb_class*", e="tlb_entry*")
    cdef tlb_entry* lookup(self, uint64_t address) noexcept nogil

    # Fills: `pfn` is the frame of the base page that has `address`, `shift` that of the mapping it is part of.
    @cython.locals(i=uint32_t, c="tlb_class*", e="tlb_entry*", vpn=uint64_t)
    cdef void insert(self, uint64_t address, uint64_t pfn, uint32_t shift, uint32_t prot,
                     uint64_t generation) noexcept nogil

    @cython.locals(w=uint32_t, first=uint32_t, victim=uint32_t, stamp=uint64_t, oldest=uint64_t)
    cdef uint32_t place_for(self, tlb_class* c, uint64_t vpn) noexcept nogil

    @cython.locals(w=uint32_t)
    cdef uint32_t way_of_empty(self, tlb_class* c, uint32_t first) noexcept nogil

    cdef uint64_t throw(self) noexcept nogil

    # Removes every entry of any size that overlaps [start, end), and all; how many entries that were.
    @cython.locals(k=uint32_t, removed=uint64_t, c="tlb_class*")
    cdef uint64_t flush_range(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(i=uint32_t, first=uint64_t, last=uint64_t, vpn=uint64_t, removed=uint64_t)
    cdef uint64_t flush_class(self, tlb_class* c, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(k=uint32_t, i=uint32_t, removed=uint64_t, c="tlb_class*")
    cdef uint64_t flush_all(self) noexcept nogil

    @cython.locals(c="tlb_class*", e=tlb_entry)
    cdef object entry_at(self, uint32_t k, uint32_t i)
