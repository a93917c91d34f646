"""Reads snapshots: recorded files of ``/proc/vmallocinfo``, one line per area that is busy or waits for a purge.

How a line is read and written stands in ``views.vmallocinfo_line``; here is what makes a file of them good.

A kernel with several vmap nodes writes busy areas node by node, so lines are kept in the order of the file and are not
sorted (specification section 10.1).  Each line says its size twice, as a range and as a number: that tells a damaged
line from a good one, and hashed addresses, whose differences are random, from real ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from vmalloc.errors import TraceError
from vmalloc.trace.quote import quote
from vmalloc.trace.source import Paths, Source
from vmalloc.units import ADDRESS_MAX, PAGE_SIZE, format_range
from vmalloc.views.vmallocinfo_line import UNPURGED, SnapshotArea, format_line, parse_line

# Whoever works with snapshots needs the lines in them, too.
__all__ = ["UNPURGED", "Snapshot", "SnapshotArea", "format_line", "read_snapshot"]

_TRACE = re.compile(r"# tracer:|cpus=\d+\s*$|.{10,}\[\d{3,}\].*\d: \w+: ", re.ASCII)
_HOW = (
    "the addresses are hashed or zeroed: record as root with `sysctl kernel.kptr_restrict=1`, "
    "and boot with no_hash_pointers if they still are"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All lines of ``/proc/vmallocinfo``, in file order.

    Attributes:
        name: what the user called the file.
        areas: the lines.
    """

    name: str
    areas: list[SnapshotArea]

    @property
    def busy(self) -> list[SnapshotArea]:
        """The areas in use, ``vm_map_ram`` among them."""
        return [area for area in self.areas if area.kind != UNPURGED]

    @property
    def unpurged(self) -> list[SnapshotArea]:
        """The areas that are freed but wait for a purge."""
        return [area for area in self.areas if area.kind == UNPURGED]


def read_snapshot(path: Paths) -> Snapshot:
    """Reads a snapshot, plain or compressed, ``"-"`` for standard input.

    Raises:
        TraceError: the file cannot be read, is empty, is no snapshot, has a damaged line, hides the addresses, or two
            of its busy areas overlap.
    """
    with Source(path) as source:
        data = b"".join(source)
    name = source.name
    if not data:
        raise TraceError(name, 0, "is empty")
    lines = data.decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    areas = [_read_line(name, number, text) for number, text in enumerate(lines, 1)]
    _check_sizes(name, areas, lines)
    snapshot = Snapshot(name, areas)
    _check_overlaps(name, snapshot.busy)
    return snapshot


def _read_line(name: str, number: int, text: str) -> SnapshotArea:
    area = parse_line(text)
    if area is None:
        what = "this is a recording of ftrace, not a snapshot" if _TRACE.match(text) else "no line of /proc/vmallocinfo"
        raise TraceError(name, number, f"{what}: {quote(text.encode('utf-8', 'replace'))}")
    return area


def _fits(area: SnapshotArea) -> bool:
    aligned = area.start % PAGE_SIZE == 0 and area.end % PAGE_SIZE == 0
    return aligned and 0 < area.size <= ADDRESS_MAX and area.end - area.start == area.size


def _check_sizes(name: str, areas: list[SnapshotArea], lines: list[str]) -> None:
    """Compares every range with its size: most lines off means hashed addresses, a few mean damage."""
    wrong = [number for number, area in enumerate(areas, 1) if not _fits(area)]
    if 2 * len(wrong) > len(areas):
        raise TraceError(name, wrong[0], _HOW)
    if wrong:
        area = areas[wrong[0] - 1]
        raise TraceError(
            name,
            wrong[0],
            f"damaged line: {format_range(area.start, area.end)} is not a page-aligned range of {area.size} bytes: "
            f"{quote(lines[wrong[0] - 1].encode('utf-8', 'replace'))}",
        )


def _check_overlaps(name: str, busy: list[SnapshotArea]) -> None:
    """Checks that no address belongs to two busy areas."""
    ordered = sorted(busy, key=lambda area: area.start)
    for left, right in pairwise(ordered):
        if right.start < left.end:
            raise TraceError(
                name,
                0,
                f"busy areas overlap: {format_range(left.start, left.end)} ({left.caller or left.kind}) "
                f"and {format_range(right.start, right.end)} ({right.caller or right.kind})",
            )
