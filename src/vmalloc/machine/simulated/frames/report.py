"""What the frames of a machine are doing, in words: counts per node and zone, and who holds what.

Read from the counters and records as they are; nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from vmalloc.machine.simulated.frames.allocator import FrameAllocator
from vmalloc.machine.simulated.frames.states import MAX_ORDER, SECTION_SHIFT, USED, ZONE_NAMES

__all__ = ["Held", "NodeStats", "ZoneStats", "buddyinfo", "held", "node_stats"]


class Held(NamedTuple):
    """One allocation: its first frame, its order, and its owner's number."""

    pfn: int
    order: int
    owner: int


@dataclass(frozen=True, slots=True)
class ZoneStats:
    """Frames of one zone, or of all zones of a node together.

    Attributes:
        nr_frames: in all.
        free: in free blocks.
        pcp: on lists of CPUs.
        free_blocks: free blocks by order, as ``/proc/buddyinfo`` counts them.
    """

    nr_frames: int
    free: int
    pcp: int
    free_blocks: tuple[int, ...]

    @property
    def used(self) -> int:
        """Frames that somebody holds."""
        return self.nr_frames - self.free - self.pcp


@dataclass(frozen=True, slots=True)
class NodeStats(ZoneStats):
    """Frames of one node.

    Attributes:
        node: its number.
        zones: the same by name of the zone; zones without frames are left out.
    """

    node: int
    zones: dict[str, ZoneStats]


def node_stats(frames: FrameAllocator) -> list[NodeStats]:
    """The frames of every node."""
    found = []
    for node in range(frames.nr_nodes):
        zones = {
            ZONE_NAMES[zone.kind]: ZoneStats(
                zone.nr_frames,
                frames.buddy.describe(z)[0],
                frames.lists.listed_in(z),
                tuple(frames.buddy.free_blocks(z)),
            )
            for z, zone in enumerate(frames.layout.zones)
            if zone.node == node and zone.nr_frames
        }
        parts = list(zones.values())
        blocks = tuple(sum(part.free_blocks[order] for part in parts) for order in range(MAX_ORDER + 1))
        nr_frames, free = sum(part.nr_frames for part in parts), sum(part.free for part in parts)
        found.append(NodeStats(nr_frames, free, sum(part.pcp for part in parts), blocks, node, zones))
    return found


def buddyinfo(frames: FrameAllocator) -> str:
    """Free blocks by order, one line per zone that has frames, in the form of ``/proc/buddyinfo``."""
    lines = []
    for node in node_stats(frames):
        for name, zone in node.zones.items():
            counts = "".join(f"{count:6d} " for count in zone.free_blocks)
            lines.append(f"Node {node.node}, zone {name:>8} {counts}\n")
    return "".join(lines)


def held(frames: FrameAllocator) -> Iterator[Held]:
    """Every allocation, ascending by frame number."""
    for k in frames.table.sections():
        for i, (state, order, _next, _prev, owner, _contents, _page) in enumerate(frames.table.rows(k)):
            if state == USED:
                yield Held((k << SECTION_SHIFT) + i, order, owner)
