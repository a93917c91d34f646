from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ERROR_VALUES
from vmalloc.areas.ledger cimport NOW_PROVEN
from vmalloc.areas.pools cimport NO_CLASS
from vmalloc.areas.rows cimport LAZY, LOOSE, MAX_POOL_PAGES, NIL, POOLED, PURGING, vmap_area
from vmalloc.trace.replay.hypotheses cimport Hypotheses
from vmalloc.trace.replay.schedule cimport (
    ALIASES,
    CORRECTED,
    DEMOTED,
    EVICTED,
    HIDDEN,
    HIDES,
    NOT_PLACED,
    ORDER,
    POOL_STATE,
    PURGE_MOMENT,
    REJECTIONS,
    TREE_SHAPE,
    UNEXPLAINED,
)

cdef enum:
    PATIENCE = 2        # how often a wrong offer is believed before the state is edited
    MOST_MOVED = 64

cdef class Corrections(Hypotheses):
    cdef readonly uint64_t first_offer   # what the model chose at the first mismatch; 0: there was none
    cdef bint drifted           # a mismatch has happened: from now on the state is no longer exactly known
    cdef uint32_t own_class     # the pool the mismatched allocation looked at, or NO_CLASS
    cdef uint32_t head          # the entry it would have taken from there, or NIL
    cdef uint32_t found         # the row that holds the recorded range, or NIL
    cdef uint32_t above[64]
    cdef uint32_t found_class   # the pool that row is in, or NO_CLASS

    @cython.locals(row="vmap_area*", node=uint32_t)
    cdef void survey(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, c=uint32_t, v=uint32_t)
    cdef void find_range(self, uint32_t i) noexcept nogil

    @cython.locals(verdict=uint32_t)
    cdef void mismatch(self, uint32_t i, bint correct) noexcept nogil

    @cython.locals(row="vmap_area*")
    cdef uint32_t judge(self, uint32_t i) noexcept nogil

    @cython.locals(start=uint64_t)
    cdef void go_astray(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", flags=uint32_t)
    cdef void correct(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", c=uint32_t, n=uint32_t, v=uint32_t, w=uint32_t)
    cdef void clear_range(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(row="vmap_area*")
    cdef void was_flushed(self, uint32_t v) noexcept nogil

    cdef void expect_one_less(self) noexcept nogil

    cdef bint settle(self, uint32_t i, uint32_t v, uint32_t flags) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, v=uint32_t)
    cdef void take_from_pool(self, uint32_t i, uint32_t flags) noexcept nogil

    @cython.locals(row="vmap_area*")
    cdef void reject_head(self) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint too_often(self, uint64_t address) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, start=uint64_t, tries=uint32_t, want=uint64_t)
    cdef void demote(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", n=uint32_t, start=uint64_t, end=uint64_t)
    cdef void hide_offer(self, uint32_t i) noexcept nogil

    @cython.locals(v=uint32_t)
    cdef bint hide(self, uint64_t start, uint64_t end) noexcept nogil

    @cython.locals(row="vmap_area*", v=uint32_t)
    cdef void unhide(self, uint64_t start, uint64_t end) noexcept nogil
