"""The first chunk: the per-CPU memory that a kernel has before there is an allocator (specification section 7.2).

Embedded, it lies in the permanent map: each group is one run of frames of its node, and its addresses are the permanent
addresses of these.  Nothing is mapped, and the distances between the groups are those of the memory - which all later
chunks repeat inside the vmalloc range.  That is the reason for this design over a first chunk that is a chunk like all
others: on machines of several nodes the distances *are* the geometry, and a chunk at the top of the vmalloc range would
shift every chunk that a real kernel places there.

Where that is not possible - no run of frames, memory beyond the permanent map (32 bits), groups too far apart - there
is the other placement: one group of all CPUs, mapped page by page in the vmalloc range.  The kernel warns when the
groups span more than three quarters of the range; so is it here, and the second placement is taken.

A computer is simulated from after its boot on, and most never ask for per-CPU memory.  So the first chunk is made when
it is first needed, as if by the boot: whoever runs then is not to be blamed for its context.
"""

from __future__ import annotations

from collections.abc import Sequence

from vmalloc.calls.state import VmallocState
from vmalloc.errors import OutOfFrames
from vmalloc.flags import TAKE_DMA32, TAKE_MAY_DRAIN
from vmalloc.percpu.chunk import Chunk
from vmalloc.percpu.layout import Layout, align_up_to
from vmalloc.units import align_down, align_up, format_size

__all__ = ["embed", "give_back_first", "span_is_too_large", "take_run", "usable_chunks"]

#: The largest block that frames are handed out in.
_MAX_ORDER = 10


def span_is_too_large(state: VmallocState, layout: Layout) -> bool:
    """Whether the groups span more than three quarters of the vmalloc range, which is warned about."""
    total = state.vmalloc_end - state.vmalloc_start
    if 4 * layout.span <= 3 * total:
        return False
    state.warn(f"percpu: max_distance={layout.span:#x} too large for vmalloc space {total:#x}")
    return True


def embed(state: VmallocState, layout: Layout) -> tuple[Layout, int, list[int]]:
    """Takes the frames of an embedded first chunk.

    Returns:
        The layout with the groups where their memory is, the base, and the first frame of each CPU's unit.

    Raises:
        OutOfFrames: no run of frames that has permanent addresses; nothing was changed.
    """
    info = state.info
    starts: list[int] = []
    counts: list[int] = []
    try:
        for group, size in zip(layout.groups, layout.group_sizes, strict=True):
            nr_pages = size >> info.page_shift
            starts.append(take_run(state, nr_pages, layout.atom_size >> info.page_shift, group.node))
            counts.append(nr_pages)
            if info.direct_map_start + ((starts[-1] + nr_pages) << info.page_shift) > info.direct_map_end:
                raise OutOfFrames("what was found for per-CPU memory has no permanent addresses", 0, group.node)
    except OutOfFrames:
        for start, count in zip(starts, counts, strict=False):
            _give(state, start, start + count)
        raise
    lowest = min(starts)
    placed = layout.at(tuple((start - lowest) << info.page_shift for start in starts))
    units = [lowest + (offset >> info.page_shift) for offset in placed.unit_offsets]
    return placed, info.direct_map_start + (lowest << info.page_shift), units


def trim_first(state: VmallocState, layout: Layout, units: Sequence[int]) -> None:
    """Gives back what the first chunk does not use: the ends of its units, and units that are nobody's."""
    used = layout.size_sum // layout.page_size
    unit = layout.unit_pages
    of_cpu = set(units)
    for group, offset in zip(layout.groups, layout.group_offsets, strict=True):
        start = min(units) + (offset - layout.lowest_unit) // layout.page_size
        for i in range(group.nr_units):
            begin = start + i * unit
            _give(state, begin + used if begin in of_cpu else begin, begin + unit)


def give_back_first(state: VmallocState, layout: Layout, units: Sequence[int]) -> None:
    """Gives back what ``trim_first`` left: a space is closed."""
    for start in units:
        _give(state, start, start + layout.size_sum // layout.page_size)


def take_run(state: VmallocState, nr_pages: int, align_pages: int, node: int) -> int:
    """Takes so many frames in a row, single frames from then on; the first one.

    One block where a block is large enough; otherwise blocks of the largest order until enough of them are neighbours,
    as they are on a machine whose memory is still whole.

    Raises:
        OutOfFrames: there is no such run; nothing was changed.
    """
    machine = state.machine
    how = TAKE_MAY_DRAIN | (TAKE_DMA32 if state.info.word_bits == 32 else 0)
    order = min((max(nr_pages, align_pages) - 1).bit_length(), _MAX_ORDER)
    wanted = align_up_to(nr_pages, 1 << order) >> order
    found: list[int] = []
    limit = 2 * wanted + 16
    first = -1
    while len(found) < limit and first < 0:
        pfn = machine.take(order, node, how)
        if pfn < 0:
            break
        found.append(pfn)
        first = _neighbours(found, wanted, order, align_pages)
    for pfn in found:
        if first <= pfn < first + (wanted << order) and first >= 0:
            if order:
                machine.split(pfn, order)
        else:
            machine.give(pfn, order)
    if first < 0:
        size = format_size(nr_pages << state.page_shift)
        raise OutOfFrames(f"no {size} of frames in a row for per-CPU memory of node {node}", order, node)
    _give(state, first + nr_pages, first + (wanted << order))
    return first


def _neighbours(blocks: list[int], wanted: int, order: int, align_pages: int) -> int:
    """The first frame of so many neighbouring blocks, aligned; -1 when there are none."""
    have = set(blocks)
    for block in blocks:
        run = range(block, block + (wanted << order), 1 << order)
        if block % align_pages == 0 and all(pfn in have for pfn in run):
            return block
    return -1


def _give(state: VmallocState, start: int, end: int) -> None:
    """Gives single frames back."""
    for pfn in range(start, end):
        state.machine.give(pfn, 0)


def usable_chunks(
    layout: Layout, base: int, page_shift: int, nr_cpus: int, areas: list[object]
) -> tuple[Chunk | None, Chunk]:
    """The parts of the first chunk that are allocated from: the reserved one, if there is any, and the dynamic one.

    They need not begin at a page: a page that two parts share belongs to both, and neither hands out the other's bytes.
    """
    page = 1 << page_shift

    def part(begin: int, end: int) -> Chunk:
        low, high = align_down(begin, page), align_up(end, page)
        nr_pages = (high - low) >> page_shift
        return Chunk(base + low, nr_pages, page_shift, nr_cpus, areas, True, begin - low, end - low)

    dynamic = layout.static_size + layout.reserved_size
    reserved = part(layout.static_size, dynamic) if layout.reserved_size else None
    return reserved, part(dynamic, layout.size_sum)
