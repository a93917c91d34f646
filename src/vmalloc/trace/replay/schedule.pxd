from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.areas.free_tree cimport ERROR_VALUES
from vmalloc.areas.ordered_map cimport OrderedMaps
from vmalloc.areas.pcpu_groups cimport PcpuGroups
from vmalloc.areas.rows cimport LAZY, LOOSE, NIL, vmap_area
from vmalloc.trace.replay.moment cimport Moment

# Mirrors trace/events.py.
cdef enum:
    ALLOC = 1
    ALLOC_FAILED = 2
    FREE = 3
    PURGE = 4
    PURGE_BEGIN = 5
    FLUSH = 6
    PCPU_CREATE = 7
    LOST = 12

# Mirrors verdicts.py.
cdef enum:
    NOT_JUDGED = 0
    AGREED = 1
    TREE_SHAPE = 2
    POOL_STATE = 3
    PURGE_MOMENT = 4
    ORDER = 5
    UNEXPLAINED = 6

# Indices into COUNTERS of verdicts.py.
cdef enum:
    REORDERED = 0
    CPU_MOVED = 1
    FREES_EARLY = 2
    FREES_LATE = 3
    PURGES_BEGUN_EARLY = 4
    PURGES_BEGUN_BY_COUNT = 5
    POPULATED_EARLY = 6
    UNKNOWN_FREES = 7
    PURGE_COUNTS_WRONG = 8
    CHUNKS_WRONG = 9
    FAILURES_AGREED = 10
    FAILURES_WRONG = 11
    CORRECTED = 12
    NOT_PLACED = 13
    EVICTED = 14
    DEMOTED = 15
    HIDDEN = 16
    NR_COUNTERS = 17

cdef enum:
    RECENT = 4096
    MOST_PULLED = 16
    LARGEST_REDO = 262144   # rows; copying more before every purge would cost more than it explains
    ALIASES = 0       # maps of Schedule.notes
    HIDES = 1
    REJECTIONS = 2

cdef class Schedule:
    cdef readonly Allocator allocator
    cdef readonly PcpuGroups groups
    cdef readonly bint state_known
    cdef readonly bint counts_known
    cdef readonly int64_t slack            # how much later an event may be written than it happened
    cdef readonly OrderedMaps notes

    # The events, and what the plan says about them.
    cdef readonly uint32_t nr_events
    cdef uint8_t[::1] kind
    cdef uint16_t[::1] cpu
    cdef int32_t[::1] pid
    cdef int64_t[::1] timestamp
    cdef uint64_t[::1] va_start
    cdef uint64_t[::1] va_end
    cdef uint64_t[::1] align
    cdef uint16_t[::1] window
    cdef uint64_t[::1] window_start
    cdef uint64_t[::1] window_end
    cdef uint8_t[::1] retry
    cdef uint32_t[::1] purge_event
    cdef int64_t[::1] purge_flush
    cdef int64_t[::1] purge_bound
    cdef int64_t[::1] purge_count
    cdef uint8_t[::1] purge_full
    cdef readonly uint32_t nr_purges

    # What the replay writes.
    cdef uint8_t[::1] done
    cdef uint64_t[::1] placed
    cdef uint8_t[::1] verdict
    cdef uint64_t[::1] counter
    cdef readonly uint32_t k               # the purge that is running or comes next
    cdef readonly bint begun              # from start_purge to end_purge
    cdef readonly uint32_t nr_detached    # nodes that purge k has detached
    cdef readonly uint64_t busy_bytes
    cdef readonly uint64_t peak_busy_bytes
    cdef uint32_t recent_event[4096]       # the last frees, a ring
    cdef uint32_t recent_row[4096]
    cdef uint64_t recent_frees
    cdef uint32_t late_row[4096]           # frees kept out of a detach, to be made lazy again after it
    cdef uint32_t nr_late

    # Going back: the running trial, the moment before the last purge, and the present while a redo is tried.
    cdef readonly Moment trial
    cdef readonly Moment before
    cdef readonly Moment present
    cdef bint stored_in_trial
    cdef bint redoing
    cdef bint redo_failed
    cdef bint many_cpus
    cdef readonly uint64_t trials
    cdef uint32_t nr_journal
    cdef uint32_t journal_event[4096]
    cdef uint32_t journal_alias[4096]

    cdef void happened(self, uint32_t i, uint32_t alias) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint store(self, Moment moment, uint32_t i) noexcept nogil

    cdef bint checkpoint_of(self, Moment moment) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef void load(self, Moment moment) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef void undo(self, uint32_t first, uint32_t last) noexcept nogil

    cdef bint mark(self) noexcept nogil

    cdef void keep(self) noexcept nogil

    cdef void roll_back(self) noexcept nogil

    cdef bint same_task(self, uint32_t i, uint32_t j) noexcept nogil

    cdef uint64_t size_of(self, uint32_t i) noexcept nogil

    @cython.locals(w=uint32_t)
    cdef uint64_t choose(self, uint32_t i, uint32_t cpu) noexcept nogil

    @cython.locals(start=uint64_t)
    cdef uint64_t take(self, uint32_t i) noexcept nogil

    cdef void count_busy(self, uint32_t i) noexcept nogil

    @cython.locals(start=uint64_t, moment=uint32_t)
    cdef void fail(self, uint32_t i) noexcept nogil

    @cython.locals(address=uint64_t, alias=uint32_t, v=uint32_t)
    cdef bint free(self, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint may_pull(self, uint32_t i, uint32_t j) noexcept nogil

    @cython.locals(address=uint64_t, alias=uint32_t)
    cdef bint is_busy(self, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint due_by_count(self, uint32_t i) noexcept nogil

    @cython.locals(excess=int64_t)
    cdef void start_purge(self, uint32_t i) noexcept nogil

    cdef void remember_before(self, uint32_t i) noexcept nogil

    @cython.locals(j=uint32_t)
    cdef void detach_next(self) noexcept nogil

    cdef void begin_purge(self, uint32_t i) noexcept nogil

    @cython.locals(back=uint64_t, slot=uint32_t, event=uint32_t, v=uint32_t, end=uint32_t)
    cdef void keep_late_frees(self, int64_t excess) noexcept nogil

    @cython.locals(j=uint32_t, end=uint32_t)
    cdef void pull_early_frees(self, uint32_t i, int64_t missing) noexcept nogil

    @cython.locals(node=uint32_t)
    cdef void end_purge(self, uint32_t i) noexcept nogil

    @cython.locals(base=uint64_t)
    cdef void create_chunk(self, uint32_t i) noexcept nogil
