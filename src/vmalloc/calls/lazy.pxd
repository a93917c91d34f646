from libc.stdint cimport uint64_t

cimport cython

from vmalloc.areas.allocator cimport Allocator
from vmalloc.calls.state cimport VmallocState

cpdef object free_vmap_area_noflush(VmallocState state, uint64_t address)

@cython.locals(lazy=uint64_t)
cpdef object became_lazy(VmallocState state, uint64_t address)
