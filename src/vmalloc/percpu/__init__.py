"""The per-CPU allocator: small objects of which every CPU has a copy, on top of ``pcpu_get_vm_areas``."""
