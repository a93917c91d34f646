"""One allocator over one machine: what users hold."""
