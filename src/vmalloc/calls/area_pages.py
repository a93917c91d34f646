"""Get the frames of an area, one by one, and give them back (specification section 3.3).

Step two of an allocation.  The order in which frames are asked for is the kernel's:

1. since 6.19: **large blocks**, as large as what remains, smaller ones when there are none, each split at once;
2. **batches** of single frames, up to 100 at a time, until one comes short;
3. **one by one**, at the order of the mapping size: for a huge area every request is a huge page.

Nothing is promised about contiguity: what step 1 happens to find together is mapped page by page all the same.

The list of frames itself takes memory: up to a page of it comes from the slab, a longer one is an area of its own,
reserved **after** the area it belongs to and therefore usually right behind it.

Frames that were found count (``nr_vmalloc_pages``) before it is known whether they are enough, as in the kernel; what
``release_area_pages`` takes back is what was counted.
"""

import cython

from vmalloc.errors import OutOfFrames
from vmalloc.units import format_size

if not cython.compiled:
    from vmalloc.flags import (
        GFP_ACCOUNT,
        GFP_DIRECT_RECLAIM,
        GFP_DMA32,
        GFP_THISNODE,
        GFP_ZERO,
        TAKE_DMA32,
        TAKE_INTERLEAVED,
        TAKE_MAY_DRAIN,
        TAKE_STRICT,
        TAKE_ZERO,
        VM_MAP_PUT_PAGES,
    )
    from vmalloc.pages import new_pages

    BATCH = 100
    MAX_PAGE_ORDER = 10
    NUMA_NO_NODE = -1

__all__ = ["release_area_pages", "take_area_pages"]


def how_of(gfp):
    """What a machine is asked for by a gfp mask."""
    how = 0
    if gfp & GFP_DIRECT_RECLAIM:
        how |= TAKE_MAY_DRAIN
    if gfp & GFP_ZERO:
        how |= TAKE_ZERO
    if gfp & GFP_DMA32:
        how |= TAKE_DMA32
    if gfp & GFP_THISNODE:
        how |= TAKE_STRICT
    return how


def take_area_pages(state, vm, gfp, order, node):
    """Fills ``vm.pages`` with as many frames as there are, up to all; how many are missing.

    Args:
        order: log2 of the mapping size in pages; frames are asked for in blocks of that order.
        node: where from, or ``NUMA_NO_NODE``.
    """
    wanted = vm.size_without_guard() >> state.page_shift
    pages = new_pages(wanted, state.page_size)
    if pages is None:
        raise MemoryError(f"no memory for a list of {wanted} page frames")
    vm.pages = pages
    machine = state.machine
    how = how_of(gfp)
    if wanted == 1:
        # What most areas of a kernel are; the steps below come to the same.
        take_singles(machine, pages, 1, 0, node, how)
    else:
        if state.kernel.takes_large_blocks:
            take_large_blocks(machine, pages, wanted, order, node, how & ~TAKE_MAY_DRAIN)
        if order == 0:
            take_batches(machine, pages, wanted, node, how, 1 if gfp & GFP_ACCOUNT else BATCH)
        take_singles(machine, pages, wanted, order, node, how)
    vm.nr_pages = pages.nr_pages
    if not vm.flags & VM_MAP_PUT_PAGES:
        state.nr_vmalloc_pages += vm.nr_pages
    return wanted - vm.nr_pages


def take_large_blocks(machine, pages, wanted, order, node, how):
    """Step 1: blocks above ``order``, largest first, without making anybody wait."""
    cap = MAX_PAGE_ORDER
    while pages.nr_pages < wanted:
        largest = 0
        while largest < cap and (wanted - pages.nr_pages) >> (largest + 1) != 0:
            largest += 1
        if largest <= order:
            return 0
        pfn = machine.take(largest, node, how)
        if pfn < 0:
            cap = largest - 1
            continue
        add_block(machine, pages, pfn, largest)


def add_block(machine, pages, pfn, order):
    """Splits a block and adds its frames, ascending."""
    if order != 0:
        machine.split(pfn, order)
    count = pages.nr_pages
    for i in range(1 << order):
        pages.pfn[count + i] = pfn + i
    pages.nr_pages = count + (1 << order)


def take_batches(machine, pages, wanted, node, how, batch):
    """Step 2: single frames, many at a time, until a batch comes short."""
    if node == NUMA_NO_NODE:
        how |= TAKE_INTERLEAVED
    while pages.nr_pages < wanted:
        request = min(batch, wanted - pages.nr_pages)
        if machine.take_bulk(pages, request, node, how) < request:
            return 0


def take_singles(machine, pages, wanted, order, node, how):
    """Step 3: block after block of the mapping's order, until there are enough or none."""
    while pages.nr_pages < wanted:
        pfn = machine.take(order, node, how)
        if pfn < 0:
            return 0
        add_block(machine, pages, pfn, order)


def release_area_pages(state, vm):
    """Gives the frames of an area back, one reference each; undoes ``take_area_pages``.

    A frame that cannot be given back - somebody else gave it away while it was in the area - is left as it is and
    reported in the kernel's words, as the kernel does; the others are given back.
    """
    pages = vm.pages
    if pages is None:
        return
    done = 0
    while done < vm.nr_pages:
        done += state.machine.give_bulk(pages, done, vm.nr_pages - done)
        if done < vm.nr_pages:
            state.warn(f"BUG: Bad page state: frame {pages[done]:#x}: {state.machine.why_not(pages[done], 0)}")
            done += 1
    if not vm.flags & VM_MAP_PUT_PAGES:
        state.nr_vmalloc_pages -= vm.nr_pages
    vm.pages = None
    vm.nr_pages = 0


def out_of_frames(state, vm, missing, order, node):
    """The error of an area that is ``missing`` frames."""
    size = vm.usable_size
    wanted = size >> state.page_shift
    where = "" if node == NUMA_NO_NODE else f" from node {node} on"
    return OutOfFrames(
        f"{missing} of {wanted} page frames are missing for {size} bytes ({format_size(size)}){where}", order,
        None if node == NUMA_NO_NODE else node,
    )
