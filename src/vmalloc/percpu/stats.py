"""``percpu_stats``: what the per-CPU allocator has and did, as numbers.

*Fragmentation* is the share of the free bytes of all chunks that do not lie in the longest free run of their chunk: 0
when each chunk has one hole, near 1 when what is free is crumbs.  ``bytes_allocated`` are those of one CPU's copies,
rounded to the granule; ``memory`` is what all copies together have in frames, empty pages included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmalloc.percpu.allocator import PercpuAllocator

__all__ = ["percpu_stats"]


def percpu_stats(allocator: PercpuAllocator) -> dict[str, int | float]:
    """Counters and sizes of a per-CPU allocator; bytes unless the name says otherwise.

    Before the first allocation there is no chunk and no layout: sizes are 0.
    """
    layout, chunks, reserved = allocator.layout, allocator.chunks, allocator.reserved
    free = sum(chunk.free_bytes() for chunk in chunks)
    longest = [chunk.longest_free() for chunk in chunks]
    page_size = allocator.state.page_size
    return {
        "units": len(allocator.unit_offsets),
        "groups": len(layout.groups) if layout else 0,
        "unit_size": layout.unit_size if layout else 0,
        "atom_size": layout.atom_size if layout else 0,
        "chunks": len(chunks),
        "chunks_created": allocator.made,
        "chunks_destroyed": allocator.destroyed,
        "objects": allocator.nr_objects,
        "allocations": allocator.allocations,
        "failures": allocator.failures,
        "bytes_allocated": sum(chunk.allocated for chunk in chunks),
        "bytes_free": free,
        "max_contiguous_free": max(longest, default=0),
        "fragmentation": 1 - sum(longest) / free if free else 0.0,
        "pages_populated": allocator.nr_populated,
        "pages_empty": allocator.nr_empty,
        "memory": allocator.state.percpu_pages * page_size,
        "populations": allocator.pages_populated,
        "depopulations": allocator.pages_depopulated,
        "reserved_objects": len(reserved.objects) if reserved is not None else 0,
        "reserved_bytes_free": reserved.free_bytes() if reserved is not None else 0,
        "balance_runs": allocator.balances,
    }
