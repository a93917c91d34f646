cimport cython

from vmalloc.calls.vm_struct cimport VmStruct

cdef class Area:
    cdef readonly object space
    cdef readonly VmStruct vm
    cdef public bint owner
    cdef object __weakref__
