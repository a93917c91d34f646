"""The state a replay starts from.

Idea: four kinds of start, from best to worst known:

* **boot**: the trace holds every event since the first allocation; the free space is ``[1, 2**64 - 1)`` and nothing
  else exists.  Recognised by the first allocation of the vmalloc range landing on its first suitable address.
* **snapshot**: ``/proc/vmallocinfo`` tells the busy and the lazy areas.  What lies between them is taken as free; the
  shape of that tree, what was pooled, and to which node a busy area will return are not in it.  Several shapes are
  tried on a piece of the trace, and the one that agrees best is taken (``replay``).
* **rewound**: there is only a snapshot of the end.  Areas in it that the trace never allocated were busy at the start,
  and so were areas that the trace frees without having allocated them (where their end was recorded, as in 6.1).
* **unknown**: an empty space; every free of an older area is counted as unknown.

Lazy areas are listed node by node, ascending within each (specification section 10.1): a step back in address is the
next node.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from vmalloc.areas.allocator import Allocator
from vmalloc.areas.nodes import encode_node
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.errors import TraceError
from vmalloc.kernels import KernelProfile
from vmalloc.policy import Policy
from vmalloc.trace.events import ALLOC, FREE, PCPU_CREATE, Trace
from vmalloc.trace.vmallocinfo import Snapshot, SnapshotArea
from vmalloc.units import ADDRESS_MAX, align_up, format_range

__all__ = ["Start", "chunk_groups", "make_allocator", "rewound_areas", "since_boot", "vmalloc_window"]


@dataclass(frozen=True)
class Start:
    """A start state: how it is known, and what was busy or lazy.

    Attributes:
        kind: ``"boot"``, ``"snapshot"``, ``"rewound"`` or ``"unknown"``.
        areas: busy and lazy areas, in the order of the snapshot.
    """

    kind: str
    areas: tuple[SnapshotArea, ...] = ()


def vmalloc_window(trace: Trace) -> tuple[int, int]:
    """The vmalloc range of the recorded kernel: the widest window that any request was restricted to."""
    if not trace.windows:
        raise TraceError(trace.name, 0, "no allocation in this trace, so its vmalloc range is unknown")
    return max(trace.windows, key=lambda window: window[1] - window[0])


def since_boot(trace: Trace, window: tuple[int, int]) -> bool:
    """Tells whether the first allocation in ``window`` got the first suitable address of an empty range."""
    events = trace.events
    number = trace.windows.index(window)
    for i in range(len(events)):
        if events.kind[i] == FREE:
            return False
        if events.kind[i] == ALLOC and events.window[i] == number:
            return events.va_start[i] == align_up(window[0], events.align[i]) and not trace.overwritten
    return False


def rewound_areas(trace: Trace, after: Snapshot, last: int) -> tuple[SnapshotArea, ...]:
    """The areas that must have been busy at the start, from the snapshot ``after`` taken at event ``last``."""
    events = trace.events
    older: dict[int, SnapshotArea] = {}
    born: set[int] = set()
    for i in range(last):
        start = events.va_start[i]
        if events.kind[i] == ALLOC:
            born.add(start)
        elif events.kind[i] == FREE:
            if start in born:
                born.discard(start)
            elif events.va_end[i] > start:
                older.setdefault(start, SnapshotArea(start, events.va_end[i], events.va_end[i] - start))
        elif events.kind[i] == PCPU_CREATE:
            born.add(start)
    for area in after.busy:
        if area.start not in born:
            older.setdefault(area.start, area)
    areas: list[SnapshotArea] = []
    for area in sorted(older.values(), key=lambda area: area.start):
        if not areas or area.start >= areas[-1].end:
            areas.append(area)
    return tuple(areas)


def make_allocator(
    kernel: KernelProfile, window: tuple[int, int], nr_nodes: int, page_shift: int, start: Start, shape: int, file: str,
    policy: Policy | None = None,
) -> Allocator:
    """Builds the allocator of a recorded kernel in the given start state.

    ``shape`` chooses the order in which the gaps between the areas enter the free tree, and so its shape: 0
    ascending, 1 descending, 2 smallest first, 3 largest first, others shuffled with ``shape`` as the seed.  ``policy``
    has the rules that differ from the kernel's, if any.

    Raises:
        TraceError: areas of the start overlap; ``file`` is named.
    """
    rules = Policy() if policy is None else policy
    allocator = Allocator(
        window[0], window[1], nr_nodes, page_shift,
        kernel.merges_lazy, kernel.small_pools_drain and rules.decay_is_kernels, kernel.returns_ascending,
        kernel.walk_step, rules.lowest_fit, rules.decay_divisor, rules.pools,
    )
    gaps = []
    at = 1
    for area in sorted(start.areas, key=lambda area: area.start):
        if area.start < at:
            raise TraceError(file, 0, f"area {format_range(area.start, area.end)} overlaps the one before it")
        if area.start > at:
            gaps.append((at, area.start))
        at = area.end
    gaps.append((at, ADDRESS_MAX))
    for low, high in _ordered(gaps, shape):
        allocator.free.add(low, high)
    node, previous = 0, 0
    for area in start.areas:
        flags = 0
        if area.kind == "unpurged":
            if area.start < previous:
                node = min(node + 1, nr_nodes - 1)
            previous = area.start
            flags = encode_node(node) if nr_nodes > 1 else 0
        allocator.adopt(area.start, area.end, flags, area.kind == "unpurged")
    return allocator


def _ordered(gaps: list[tuple[int, int]], shape: int) -> list[tuple[int, int]]:
    """The gaps in the order that ``shape`` names."""
    if shape == 1:
        return gaps[::-1]
    if shape in (2, 3):
        return sorted(gaps, key=lambda gap: gap[1] - gap[0], reverse=shape == 3)
    if shape > 3:
        random.Random(shape).shuffle(gaps)
    return gaps


def chunk_groups(trace: Trace, window: tuple[int, int], snapshots: list[Snapshot]) -> PcpuGroups | None:
    """The geometry of per-CPU chunks: from a snapshot's ``pcpu_get_vm_areas`` lines, the 6.1 probes, or the first base.

    A chunk's base is in the trace, its groups are not.  Without a snapshot the first chunk of an empty range tells
    how far its last group ends above the base; a distance beyond 64 MiB is taken for two groups of one ``align`` each.
    Returns None when the trace creates no chunk.
    """
    events = trace.events
    chunks = np.flatnonzero(np.frombuffer(events.kind, dtype=np.uint8) == PCPU_CREATE).tolist()
    if not chunks:
        return None
    bases = {events.va_start[i] for i in chunks if events.va_start[i]}
    for snapshot in snapshots:
        groups = _groups_of(snapshot, bases, window)
        if groups is not None:
            return groups
    align = 2 << 20
    if trace.pcpu_groups and trace.pcpu_groups[0][0]:
        offsets, sizes, align = trace.pcpu_groups[0]
        return PcpuGroups(offsets, sizes, align, *window)
    high = window[1] & ~(align - 1)
    reach = high - events.va_start[chunks[0]] if events.va_start[chunks[0]] else align
    if reach <= 0 or reach % align:
        reach = align
    if reach <= 64 << 20:
        return PcpuGroups([0], [reach], align, *window)
    return PcpuGroups([0, reach - align], [align, align], align, *window)


def _groups_of(snapshot: Snapshot, bases: set[int], window: tuple[int, int]) -> PcpuGroups | None:
    """The groups of one chunk in ``snapshot`` whose base is known, if there is one."""
    areas = sorted((a for a in snapshot.busy if a.caller.startswith("pcpu_get_vm_areas")), key=lambda a: a.start)
    starts = {area.start for area in areas}
    known = sorted(bases & starts)
    if not known:
        return None
    # Chunks interleave on several nodes. An offset belongs to a chunk if an area lies there above every base.
    base = known[0]
    members = [a for a in areas if a.start >= base and all(b + a.start - base in starts for b in known)]
    align = 2 << 20
    while any(area.start % align or area.size % align for area in members) and align > 4096:
        align >>= 1
    return PcpuGroups([area.start - base for area in members], [area.size for area in members], align, *window)
