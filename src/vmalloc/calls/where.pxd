cimport cython

@cython.final
cdef class Caller:
    cdef readonly object code
    cdef readonly int offset

cpdef Caller caller_of(int depth)
