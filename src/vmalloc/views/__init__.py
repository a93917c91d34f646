"""Read-only pictures of a ``VmallocState``: text, tables, counters; nothing here changes anything, or locks."""
