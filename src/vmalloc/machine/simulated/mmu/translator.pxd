from libc.stdint cimport uint8_t, uint32_t, uint64_t

cimport cython

from vmalloc.machine.simulated.mmu.tlb cimport Tlb, tlb_entry
from vmalloc.machine.simulated.page_tables.tables cimport PageTables, leaf_found

# Mirrors states.py (tests/machine/simulated/mmu/test_states.py compares them).
cdef enum:
    OK = 0
    UNMAPPED = 1
    READONLY = 2
    STALE = 3
    BUS_ERROR = 4

cdef enum:
    NR_OUTCOMES = 6
    NR_INVALID = 64
    INVALID_MASK = 63

cdef enum:
    EMPTY = 0xFFFFFFFFFFFFFFFF

# Mirrors vmalloc/flags.py.
cdef enum:
    PROT_READ = 1
    PROT_WRITE = 2

# What an access goes to. Uncompiled: plain.Translation.
cdef struct translation:
    uint64_t pfn            # the frame of the base page that has the address
    uint32_t shift          # log2 of the bytes of the entry or leaf that said so
    uint32_t prot

# One CPU.
cdef struct mmu_cpu:
    void* tlb               # a Tlb; `tlbs` holds the reference
    uint32_t root           # of the page tables that it runs on
    bint fence              # its next fault makes it forget which pages were invalid
    uint64_t invalid[64]    # pages that it found invalid, by number modulo 64; or EMPTY

cdef class Translator:
    cdef readonly PageTables tables
    cdef readonly object tlbs           # list of Tlb, one per CPU
    cdef readonly uint32_t nr_cpus
    cdef readonly uint32_t page_shift
    cdef readonly uint64_t kernel_start
    cdef readonly uint64_t kernel_size
    cdef mmu_cpu** cpus
    cdef leaf_found leaf                # what the last walk found
    cdef readonly bint caches_invalid   # care FENCE
    cdef readonly bint by_broadcast     # flushes need no interrupts
    cdef readonly uint64_t max_ranged   # pages that are flushed one by one at most
    cdef public bint may_fault          # whether the vmalloc fault handler may run: not in NMI
    cdef readonly uint64_t walks
    cdef readonly uint64_t rechecks     # walks of the model's own, to see whether an old entry is still right
    cdef readonly uint64_t vmalloc_faults
    cdef readonly uint64_t spurious_faults
    cdef readonly uint64_t fences
    cdef uint64_t outcomes[6]           # translations by outcome
    cdef readonly uint64_t flushes      # of all CPUs: range_flushes + full_flushes
    cdef readonly uint64_t range_flushes
    cdef readonly uint64_t full_flushes
    cdef readonly uint64_t local_flushes    # of one CPU
    cdef readonly uint64_t flushed_pages    # one by one, on each CPU, by flushes of all CPUs
    cdef readonly uint64_t ipis

    @cython.locals(c="mmu_cpu*", k=uint32_t)
    cdef int set_up(self, object tables, object tlbs, object arch, object sync) except -1

    @cython.locals(c="mmu_cpu*", k=uint32_t)
    cdef int add_cpu(self, object tlb) except -1

    # What an access by a CPU goes to: OK, UNMAPPED, READONLY or STALE. `out` is filled unless UNMAPPED.
    @cython.locals(e="tlb_entry*", c="mmu_cpu*", outcome=int)
    cdef int translate(self, uint32_t cpu, uint64_t address, bint write, translation* out) noexcept nogil

    cdef bint fill(self, mmu_cpu* c, uint64_t address, translation* out) noexcept nogil

    cdef bint recheck(self, mmu_cpu* c, uint64_t address, tlb_entry* e, translation* out) noexcept nogil

    cdef bint find(self, mmu_cpu* c, uint64_t address) noexcept nogil

    @cython.locals(page=uint64_t, k=uint64_t)
    cdef bint find_or_fence(self, mmu_cpu* c, uint64_t address) noexcept nogil

    cdef bint walk(self, uint32_t root, uint64_t address) noexcept nogil

    cdef bint look(self, uint32_t root, uint64_t address) noexcept nogil

    # Settings of a CPU.

    # Makes a CPU run on a root of the page tables: top entries that the switch copied. The TLB keeps all.
    cdef uint64_t switch_to(self, uint32_t cpu, uint32_t root) noexcept nogil

    # To be called after mapping. Where cores cache invalid entries: each CPU fences at its next fault.
    @cython.locals(k=uint32_t)
    cdef void flush_cache_vmap(self) noexcept nogil

    # Flushes of every CPU, of a range or all; how many entries went. An empty range is no flush.
    @cython.locals(removed=uint64_t, k=uint32_t, nr_pages=uint64_t)
    cdef uint64_t flush(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(removed=uint64_t, k=uint32_t)
    cdef uint64_t flush_all(self) noexcept nogil

    # The same for one CPU alone, without interrupts.
    cdef uint64_t flush_local(self, uint32_t cpu, uint64_t start, uint64_t end) noexcept nogil

    cdef uint64_t nr_pages_of(self, uint64_t start, uint64_t end) noexcept nogil

    cdef uint64_t flush_cpu(self, mmu_cpu* c, uint64_t start, uint64_t end) noexcept nogil

    cdef uint64_t flush_cpu_all(self, mmu_cpu* c) noexcept nogil

    @cython.locals(k=uint32_t)
    cdef void forget_invalid(self, mmu_cpu* c, uint64_t start, uint64_t last) noexcept nogil

    cdef void count_flush(self) noexcept nogil
