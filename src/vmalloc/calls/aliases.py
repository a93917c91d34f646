"""Old translations of ``vm_map_ram`` blocks: who gives blocks back, and who flushes parts of them (sections 4.9, 5.6).

A returned page of a block is not lazy: its block is busy.  So whoever wants every translation of freed memory to be
gone must look at the blocks, too (``unmap_aliases``), and whoever runs out of addresses can have the blocks in which
nothing is live (``reclaim_and_purge``).

===================== ====================================================== =========================================
who                   which blocks are given back                            what of the others is flushed
===================== ====================================================== =========================================
overflow, full purge  every one in which nothing is live, queue by queue     nothing
``unmap_aliases``     those of them with less than a quarter free, in the    the dirty range of each, which is empty
                      order of the index                                     from then on
the same, up to 6.4   as on overflow                                         the dirty ranges of those in queues, each
                                                                             time again; others are missed
===================== ====================================================== =========================================

The last line is a fault of those kernels (section 12, "stale TLBs of fully used blocks"): kept, because it can be seen.

A block that is given back goes through the lazy stage, and the purge that follows takes it.
"""

from __future__ import annotations

from vmalloc.areas.address_space import Purged
from vmalloc.calls.lazy import free_vmap_area_noflush
from vmalloc.calls.state import VmallocState

__all__ = ["destroy_block", "purge_fragmented_blocks", "reclaim_and_purge", "unmap_aliases"]


def destroy_block(state: VmallocState, start: int) -> None:
    """Gives a block back in which nothing is mapped: its addresses become lazy (``free_vmap_block``)."""
    free_vmap_area_noflush(state, start)
    state.blocks.drop(start)


def purge_fragmented_blocks(state: VmallocState) -> int:
    """Gives back every block in which nothing is live, however much of it is free; how many (section 5.6)."""
    starts = state.blocks.fragmented()
    for start in starts:
        destroy_block(state, start)
    return len(starts)


def reclaim_and_purge(state: VmallocState) -> Purged:
    """What can be done when addresses run out: fragmented blocks, then everything lazy, pools emptied (section 4.4)."""
    purge_fragmented_blocks(state)
    return state.space.purge(full=True)


def unmap_aliases(
    state: VmallocState, start: int | None = None, end: int = 0, flush: bool = False
) -> tuple[int, int] | None:
    """Flushes every translation of what was unmapped (``_vm_unmap_aliases``, section 4.9).

    Args:
        start, end: what the caller has to flush besides; nothing by default.
        flush: whether that must be flushed even where nothing else has to be.

    Returns:
        The range that was flushed, or None.
    """
    blocks = state.blocks
    if state.kernel.aliases_purge_all:
        dirty = blocks.dirty_ranges_queued()
        given_back = blocks.fragmented()
    else:
        given_back = blocks.worn_out()
        dirty = [found for found in blocks.dirty_ranges() if blocks.block_start(found[0]) not in given_back]
    for block in given_back:
        destroy_block(state, block)
    lowest = min([low for low, _ in dirty], default=state.space.address_max)
    first = lowest if start is None else min(start, lowest)
    last = max([high for _, high in dirty], default=0)
    flushed = state.space.unmap_aliases(first, max(end, last), flush or bool(dirty))
    if not state.kernel.aliases_purge_all:
        blocks.forget_dirty_ranges()
    return flushed
