from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport cython

from vmalloc.areas.free_tree cimport ERROR_VALUES
from vmalloc.areas.pools cimport NO_CLASS
from vmalloc.areas.rows cimport MAX_POOL_PAGES, NIL, vmap_area
from vmalloc.trace.replay.schedule cimport (
    AGREED,
    ALIASES,
    ALLOC,
    CPU_MOVED,
    FLUSH,
    FREE,
    POPULATED_EARLY,
    PURGES_BEGUN_EARLY,
    RECENT,
    REORDERED,
    Schedule,
)

cdef enum:
    LONGEST_REORDER = 64

cdef class Hypotheses(Schedule):
    cdef bint agrees(self, uint32_t i) noexcept nogil

    cdef void agree(self, uint32_t i) noexcept nogil

    cdef bint explain(self, uint32_t i) noexcept nogil

    cdef bint try_purge(self, uint32_t i) noexcept nogil

    cdef bint advance(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", v=uint32_t)
    cdef uint32_t purge_row(self, uint32_t i) noexcept nogil

    @cython.locals(node=uint32_t, v=uint32_t)
    cdef bint populate(self, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint holds(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*")
    cdef bint overlaps(self, uint32_t v, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint finish_holder(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", start=uint64_t, node=uint32_t, n=uint32_t, c=uint32_t, v=uint32_t, k=uint32_t,
                   full=bint)
    cdef bint purge_shows(self, uint32_t i) noexcept nogil

    @cython.locals(row="vmap_area*", start=uint64_t, c=uint32_t, v=uint32_t, k=uint32_t, full=bint)
    cdef bint decay_frees(self, uint32_t i) noexcept nogil

    @cython.locals(j=uint32_t, n=uint32_t)
    cdef bint try_reorder(self, uint32_t i) noexcept nogil

    @cython.locals(start=uint64_t, size=uint64_t, j=uint32_t)
    cdef uint32_t taker(self, uint32_t i) noexcept nogil

    @cython.locals(node=uint32_t, own=uint32_t)
    cdef bint try_other_cpu(self, uint32_t i) noexcept nogil

    @cython.locals(last=uint32_t, n=uint32_t, ok=bint)
    cdef bint try_before_purge(self, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef bint task_acted_since(self, uint32_t i) noexcept nogil

    @cython.locals(n=uint32_t)
    cdef void reopen_flushes(self, uint32_t i, uint32_t done) noexcept nogil

    @cython.locals(j=uint32_t)
    cdef void redo_notes(self, uint32_t n) noexcept nogil

    cdef void rerun(self, uint32_t first, uint32_t last) noexcept nogil
