"""``alloc_pages`` and ``free_pages``: frames for ``vmap`` to map, owned by the caller.

Frames come in blocks of ``2**order`` that are split at once: the result is a list of base pages, each block contiguous
in it, and each frame is given back for itself.
"""

from __future__ import annotations

from vmalloc.calls.state import VmallocState
from vmalloc.calls.vmalloc import checked_node
from vmalloc.errors import BadFrame, BadRequest, BadSize, ExceedsMemory, OutOfFrames
from vmalloc.flags import (
    GFP_DIRECT_RECLAIM,
    GFP_DMA32,
    GFP_THISNODE,
    GFP_ZERO,
    NMI,
    TAKE_DMA32,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
)
from vmalloc.pages import Pages

__all__ = ["alloc_pages", "free_pages"]

_MAX_PAGE_ORDER = 10


def alloc_pages(state: VmallocState, count: int, node: int | None, order: int, gfp: int) -> Pages:
    """Allocates ``count`` blocks of ``2**order`` frames; all or none.

    Raises:
        BadContext: in an NMI.
        BadSize: no block. BadRequest: an order or a node that does not exist. ExceedsMemory: more than the machine has.
        OutOfFrames: not enough.
    """
    if state.machine.running.context == NMI:
        raise state.refuse("alloc_pages", "the page allocator takes locks")
    if count <= 0:
        raise BadSize(f"{count} blocks of frames: at least one")
    if not 0 <= order <= _MAX_PAGE_ORDER:
        raise BadRequest(f"order {order}: between 0 and {_MAX_PAGE_ORDER}")
    if count << order > state.total_pages:
        raise ExceedsMemory(f"{count << order} frames exceed the {state.total_pages} of the machine")
    where = checked_node(state, node)
    how = _how(gfp)
    found: list[int] = []
    for _ in range(count):
        pfn = state.machine.take(order, where, how)
        if pfn < 0:
            for taken in found:
                state.machine.give(taken, 0)
            got = len(found) >> order
            raise OutOfFrames(f"{got} of {count} blocks of order {order}, then none was left", order, node)
        if order:
            state.machine.split(pfn, order)
        found.extend(range(pfn, pfn + (1 << order)))
    return Pages(found, state.page_size)


def _how(gfp: int) -> int:
    return (
        (TAKE_MAY_DRAIN if gfp & GFP_DIRECT_RECLAIM else 0)
        | (TAKE_ZERO if gfp & GFP_ZERO else 0)
        | (TAKE_DMA32 if gfp & GFP_DMA32 else 0)
        | (TAKE_STRICT if gfp & GFP_THISNODE else 0)
    )


def free_pages(state: VmallocState, pages: Pages) -> None:
    """Gives frames back; all or none.

    Raises:
        BadContext: in an NMI.
        BadFrame: one that nobody has, or that stands in the list twice; nothing was given back.
    """
    if state.machine.running.context == NMI:
        raise state.refuse("free_pages", "the page allocator takes locks")
    seen: set[int] = set()
    for pfn in pages:
        why = "it is in the list twice" if pfn in seen else state.machine.why_not(pfn, 0)
        if why:
            raise BadFrame(pfn, why)
        seen.add(pfn)
    for pfn in pages:
        state.machine.give(pfn, 0)
