"""Which frames a machine has: nodes, the zones in them, and the order in which zones are asked.

Idea: everything that depends only on the machine's shape is computed here once, in plain Python, and handed to the
compiled modules as numbers.  Zone ``node * NR_KINDS + kind`` is the part of a node below the DMA32 limit (kind
``ZONE_DMA32``) or above it (``ZONE_NORMAL``); either may be empty.

Zones begin at a multiple of the largest block, so that no block and no section of records spans two; they may end
anywhere.  A node that ends in the middle of a block leaves the rest of it to nobody.

Order of asking: nodes by distance from the one asked for, then by number; in each node the Normal zone before DMA32, so
that the scarce kind is kept.  A node is always nearest to itself, so the zones of the node alone come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.frames.states import NO_FRAME, NR_KINDS, SECTION_FRAMES, ZONE_DMA32
from vmalloc.units import GIB, align_down, align_up

__all__ = ["DMA32_LIMIT", "LOCAL_DISTANCE", "REMOTE_DISTANCE", "Layout", "Zone", "layout_of"]

#: Distances in the unit of ACPI's SLIT table, for a machine that names none.
LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20

#: As many as any Linux.
MAX_NODES = 1024

#: What a 32-bit device reaches, in bytes.
DMA32_LIMIT = 4 * GIB


class Zone(NamedTuple):
    """Frames ``[start_pfn, end_pfn)`` of one node, all on one side of the DMA32 limit."""

    node: int
    kind: int
    start_pfn: int
    end_pfn: int

    @property
    def nr_frames(self) -> int:
        return self.end_pfn - self.start_pfn


class Layout(NamedTuple):
    """The shape of a machine's memory.

    Attributes:
        zones: ``NR_KINDS`` per node.
        distances: as given, or the default ones.
        asked: at ``node * NR_KINDS + zone_limit`` the numbers of the zones a request may ask, in order.
        near: at the same place, how many of those belong to the node itself.
    """

    zones: tuple[Zone, ...]
    distances: tuple[tuple[int, ...], ...]
    asked: tuple[tuple[int, ...], ...]
    near: tuple[int, ...]

    @property
    def nr_nodes(self) -> int:
        return len(self.distances)

    @property
    def end_pfn(self) -> int:
        return max(zone.end_pfn for zone in self.zones)


def layout_of(
    nodes: Iterable[int | tuple[int, int]],
    page_shift: int,
    distances: Sequence[Sequence[int]] | None = None,
    dma32_limit: int = DMA32_LIMIT,
) -> Layout:
    """Computes the zones of a machine and the order in which they are asked.

    Args:
        nodes: per node ``(start_pfn, nr_frames)``, or ``nr_frames`` alone for a node behind the one before it. A node
            may have no frames.
        page_shift: exponent of the page size.
        distances: square table; each node is nearest to itself. By default 10 to itself and 20 to all others.
        dma32_limit: bytes; frames below it form the DMA32 zones. 0: there are none.

    Raises:
        BadRequest: nodes overlap, are too many, begin inside a block of the largest order or have no frames at all; a
            frame number does not fit in 32 bits; distances that do not fit the nodes.
    """
    ranges = ranges_of(nodes)
    table = distances_of(distances, len(ranges))
    limit = align_down(dma32_limit >> page_shift, SECTION_FRAMES)
    zones: list[Zone] = []
    for node, (start, end) in enumerate(ranges):
        cut = min(max(limit, start), end)
        zones += [Zone(node, ZONE_DMA32, start, cut), Zone(node, ZONE_DMA32 + 1, cut, end)]
    asked, near = [], []
    for node in range(len(ranges)):
        for zone_limit in range(NR_KINDS):
            order = zones_in_order(zones, table[node], node, zone_limit)
            asked.append(tuple(order))
            near.append(sum(zones[z].node == node for z in order))
    return Layout(tuple(zones), table, tuple(asked), tuple(near))


def ranges_of(nodes: Iterable[int | tuple[int, int]]) -> list[tuple[int, int]]:
    """The frames of each node as ``[start, end)``, checked against each other."""
    ranges: list[tuple[int, int]] = []
    end = 0
    for node in nodes:
        start, nr_frames = (align_up(end, SECTION_FRAMES), node) if isinstance(node, int) else node
        end = start + nr_frames
        if start < 0 or nr_frames < 0 or end > NO_FRAME:
            raise BadRequest(f"frames {start:#x}-{end:#x} of node {len(ranges)}: frame numbers have 32 bits")
        if start % SECTION_FRAMES:
            raise BadRequest(f"node {len(ranges)} begins at frame {start:#x}, not at a multiple of {SECTION_FRAMES:#x}")
        ranges.append((start, end))
    filled = sorted((start, end, node) for node, (start, end) in enumerate(ranges) if start < end)
    if not filled:
        raise BadRequest("a machine without frames")
    if len(ranges) > MAX_NODES:
        raise BadRequest(f"{len(ranges)} nodes: at most {MAX_NODES}")
    for (_, end_below, below), (start, _, above) in pairwise(filled):
        if start < end_below:
            raise BadRequest(f"node {above} begins at frame {start:#x}, below {end_below:#x} where node {below} ends")
    return ranges


def distances_of(distances: Sequence[Sequence[int]] | None, nr_nodes: int) -> tuple[tuple[int, ...], ...]:
    if distances is None:
        return tuple(
            tuple(LOCAL_DISTANCE if a == b else REMOTE_DISTANCE for a in range(nr_nodes)) for b in range(nr_nodes)
        )
    table = tuple(tuple(row) for row in distances)
    if len(table) != nr_nodes or any(len(row) != nr_nodes for row in table):
        raise BadRequest(f"distances must be a table of {nr_nodes} x {nr_nodes}")
    for node, row in enumerate(table):
        if any(far <= row[node] for other, far in enumerate(row) if other != node):
            raise BadRequest(f"another node is as near to node {node} as itself: distances {row}")
    return table


def zones_in_order(zones: list[Zone], distances: tuple[int, ...], node: int, zone_limit: int) -> list[int]:
    """Numbers of the zones with frames that a request for ``node`` asks, nearest node first, highest kind first."""
    nodes = sorted(range(len(distances)), key=lambda other: (distances[other], other))
    order = [other * NR_KINDS + kind for other in nodes for kind in range(zone_limit, -1, -1)]
    return [z for z in order if zones[z].nr_frames]
