cimport cython

from vmalloc.percpu.chunk cimport PercpuObject

cdef class PerCpu:
    cdef readonly object space
    cdef readonly PercpuObject found
    cdef public bint owner
    cdef object __weakref__
