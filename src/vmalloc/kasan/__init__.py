"""KASAN, generic mode: shadow memory says which bytes of the vmalloc range may be touched (specification section 9)."""
