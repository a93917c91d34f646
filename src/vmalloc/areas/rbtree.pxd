from libc.stdint cimport uint32_t, uint64_t

cimport cython

from vmalloc.areas.rows cimport NIL, AreaRows, vmap_area

cdef enum:
    BLACK = 0
    RED = 1

cdef class RbTree:
    cdef readonly AreaRows rows
    cdef readonly uint32_t root
    cdef readonly uint32_t count

    @cython.final
    @cython.locals(row="vmap_area*", biggest=uint64_t)
    cdef uint64_t largest_below(self, uint32_t n) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", p=uint32_t, biggest=uint64_t)
    cdef void propagate(self, uint32_t n) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", p=uint32_t)
    cdef void climb(self, uint32_t n) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*")
    cdef void replace_child(self, uint32_t parent, uint32_t old, uint32_t new) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", y=uint32_t)
    cdef void rotate_left(self, uint32_t x) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", y=uint32_t)
    cdef void rotate_right(self, uint32_t x) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*")
    cdef void link(self, uint32_t z, uint32_t parent, bint left) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", p=uint32_t, g=uint32_t, uncle=uint32_t)
    cdef void fix_after_insert(self, uint32_t z) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", x=uint32_t, y=uint32_t, start=uint32_t, color=uint32_t)
    cdef void erase(self, uint32_t z) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", p=uint32_t, s=uint32_t)
    cdef void fix_after_erase(self, uint32_t x) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*", n=uint32_t)
    cdef uint32_t lowest(self) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*")
    cdef uint32_t next(self, uint32_t n) noexcept nogil

    @cython.final
    @cython.locals(row="vmap_area*")
    cdef uint32_t previous(self, uint32_t n) noexcept nogil
