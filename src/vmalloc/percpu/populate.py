"""Frames for pages of a chunk, and back: for all possible CPUs, or not at all (specification section 7.2).

A page of an object must exist in every CPU's unit before the object is handed out, also for CPUs that never look at
it: nobody may have to allocate when he first touches his copy.  So frames come CPU by CPU, each from its CPU's node, as
base pages; then they are mapped, unit by unit; whatever runs short, everything is taken back.

Flushing: a range of pages is flushed once, from the lowest unit to the highest, however far these lie apart - on a
machine of several nodes that is everything in between.  A chunk that is destroyed is not flushed: its addresses become
lazy, and the purge that makes them usable again flushes them.
"""

import cython

from vmalloc.errors import OutOfFrames

if not cython.compiled:
    from vmalloc.flags import GFP_DIRECT_RECLAIM, GFP_DMA32, GFP_THISNODE, TAKE_DMA32, TAKE_MAY_DRAIN, TAKE_STRICT
    from vmalloc.pages import new_pages

    PROT_RW = 3

__all__ = ["depopulate", "destroy_frames", "populate"]


def populate(machine, chunk, unit_offsets, nodes, first, end, gfp):
    """Gives pages ``[first, end)`` of a chunk frames, and maps them.

    Args:
        unit_offsets, nodes: of each CPU.
        gfp: ``GFP_*``; says whether frames may be waited for.

    Raises:
        OutOfFrames: for a page, or for a page table; nothing was changed.
    """
    how = 0
    if gfp & GFP_DIRECT_RECLAIM:
        how |= TAKE_MAY_DRAIN
    if gfp & GFP_DMA32:
        how |= TAKE_DMA32
    if gfp & GFP_THISNODE:
        how |= TAKE_STRICT
    count = end - first
    taken = []
    for cpu in range(chunk.nr_cpus):
        pages = new_pages(count, 1 << chunk.page_shift)
        if pages is None:
            give_back(machine, taken)
            raise MemoryError(f"no memory for a list of {count} page frames")
        taken.append(pages)
        if not take_for(machine, pages, count, nodes[cpu], how):
            give_back(machine, taken)
            raise OutOfFrames(
                f"no frame for CPU {cpu} of {chunk.nr_cpus}: pages {first} to {end} of {chunk!r}", 0, nodes[cpu]
            )
    for cpu in range(chunk.nr_cpus):
        pages = taken[cpu]
        address = chunk.base + unit_offsets[cpu] + (first << chunk.page_shift)
        if machine.map_pages(address, pages, 0, count, PROT_RW) != 0:
            unmap_units(machine, chunk, unit_offsets, first, end, cpu + 1)
            flush_units(machine, chunk, unit_offsets, first, end)
            give_back(machine, taken)
            raise OutOfFrames(f"no frame for a page table to map pages {first} to {end} of {chunk!r}", 0, nodes[cpu])
    for cpu in range(chunk.nr_cpus):
        pages = taken[cpu]
        for i in range(count):
            chunk.set_frame(first + i, cpu, pages.pfn[i])
    chunk.set_populated(first, end)


def take_for(machine, pages, count, node, how):
    """Takes single frames from a node on; False when one is missing, and the list has what was found."""
    while pages.nr_pages < count:
        pfn = machine.take(0, node, how)
        if pfn < 0:
            return False
        pages.pfn[pages.nr_pages] = pfn
        pages.nr_pages += 1
    return True


def give_back(machine, lists):
    """Gives the frames of lists back."""
    for pages in lists:
        give_list(machine, pages)


def give_list(machine, pages):
    """Gives the frames of a list back, which nobody else can have given."""
    machine.give_bulk(pages, 0, pages.nr_pages)


def unmap_units(machine, chunk, unit_offsets, first, end, nr_cpus):
    """Unmaps pages of the first so many units."""
    for cpu in range(nr_cpus):
        begin = chunk.base + unit_offsets[cpu]
        machine.unmap(begin + (first << chunk.page_shift), begin + (end << chunk.page_shift))


def flush_units(machine, chunk, unit_offsets, first, end):
    """One flush, from the lowest unit's pages to the highest unit's."""
    low = min(unit_offsets)
    high = max(unit_offsets)
    machine.flush(chunk.base + low + (first << chunk.page_shift), chunk.base + high + (end << chunk.page_shift))


def depopulate(machine, chunk, unit_offsets, first, end):
    """Takes the frames of empty pages ``[first, end)`` away from a chunk that lives on."""
    unmap_units(machine, chunk, unit_offsets, first, end, chunk.nr_cpus)
    flush_units(machine, chunk, unit_offsets, first, end)
    release_frames(machine, chunk, first, end)
    chunk.clear_populated(first, end)


def destroy_frames(machine, chunk):
    """Gives all frames of a chunk back that is no more: unmapped already, and flushed by a purge to come."""
    page = 0
    while page < chunk.nr_pages:
        if chunk.populated[page] != 0:
            release_frames(machine, chunk, page, page + 1)
            chunk.clear_populated(page, page + 1)
        page += 1


def release_frames(machine, chunk, first, end):
    """Gives the frames of pages back."""
    for page in range(first, end):
        for cpu in range(chunk.nr_cpus):
            machine.give(chunk.frame(page, cpu), 0)
            chunk.set_frame(page, cpu, 0)


def zero_object(machine, chunk, offset, size):
    """Zeroes an object's bytes in every unit."""
    end = offset + size
    while offset < end:
        page = offset >> chunk.page_shift
        inside = offset - (page << chunk.page_shift)
        piece = (1 << chunk.page_shift) - inside
        if piece > end - offset:
            piece = end - offset
        for cpu in range(chunk.nr_cpus):
            machine.zero_frame(chunk.frame(page, cpu), inside, piece)
        offset += piece

