"""Reads and writes snapshots: ``/proc/vmallocinfo``, one line per area that is busy or waits for a purge.

::

    0xffffc90000005000-0xffffc90000007000    8192 acpi_os_map_iomem+0x1a9/0x1e0 phys=0x000000007ffe2000 ioremap
    0xffffc90000200000-0xffffc90000a01000 8392704 alloc_large_system_hash+0x15c/0x2c0 pages=2048 vmalloc vpages N0=2048
    0xffffc90002c00000-0xffffc90003000000 4194304 vm_map_ram
    0xffffc90000138000-0xffffc9000013d000   20480 unpurged vm_area

A kernel with several vmap nodes writes busy areas node by node, so lines are kept in the order of the file and are not
sorted (specification section 10.1).  Each line says its size twice, as a range and as a number: that tells a damaged
line from a good one, and hashed addresses, whose differences are random, from real ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

from vmalloc.errors import TraceError
from vmalloc.trace.quote import quote
from vmalloc.trace.source import Paths, Source
from vmalloc.units import ADDRESS_MAX, PAGE_SIZE, format_range

__all__ = ["Snapshot", "SnapshotArea", "format_line", "read_snapshot"]

AREA = "area"
VM_MAP_RAM = "vm_map_ram"
UNPURGED = "unpurged"

#: The flag words in the order the kernel prints them.
WORDS = ("ioremap", "sparse", "vmalloc", "vmap", "user", "dma-coherent", "vpages")

_WORD = "|".join(WORDS)
_LINE = re.compile(
    r"0x(?P<start>[0-9a-f]{1,16})-0x(?P<end>[0-9a-f]{1,16}) +(?P<size>[0-9]{1,20})"
    r"(?:(?P<ram> vm_map_ram)|(?P<unpurged> unpurged vm_area)|"
    r"(?P<caller> (?:\S+\+0x[0-9a-f]+/0x[0-9a-f]+|0x[0-9a-f]+)(?: \[(?P<module>[^\]\s]+)\])?)?"
    r"(?: pages=(?P<pages>[0-9]{1,20}))?(?: phys=0x(?P<phys>[0-9a-f]{1,16}))?"
    rf"(?P<words>(?: (?:{_WORD}))*)(?P<nodes>(?: N[0-9]{{1,4}}=[0-9]{{1,20}})*))\s*",
    re.ASCII,
)
_TRACE = re.compile(r"# tracer:|cpus=\d+\s*$|.{10,}\[\d{3,}\].*\d: \w+: ", re.ASCII)
_HOW = (
    "the addresses are hashed or zeroed: record as root with `sysctl kernel.kptr_restrict=1`, "
    "and boot with no_hash_pointers if they still are"
)


@dataclass(frozen=True, slots=True)
class SnapshotArea:
    """One line of a snapshot.

    Attributes:
        start, end: the range ``[start, end)``, guard page included.
        size: ``end - start`` in bytes, as the line says.
        caller: who asked for the area, as ``symbol+0xoffset/0xsize``; empty when not recorded.
        module: the module ``caller`` is in, or empty.
        pages: number of pages behind the area, 0 when not printed.
        phys: physical address of an ``ioremap``, or ``None``.
        words: the flags printed, in the kernel's order.
        nodes: pages per memory node.
        kind: ``"area"``, ``"vm_map_ram"`` or ``"unpurged"``.
    """

    start: int
    end: int
    size: int
    caller: str = ""
    module: str = ""
    pages: int = 0
    phys: int | None = None
    words: tuple[str, ...] = ()
    nodes: dict[int, int] = field(default_factory=dict)
    kind: str = AREA


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


def format_line(area: SnapshotArea) -> str:
    """Writes an area as ``/proc/vmallocinfo`` does, without the newline."""
    words = [f"0x{area.start:016x}-0x{area.end:016x} {area.size:7d}"]
    if area.kind == VM_MAP_RAM:
        words.append("vm_map_ram")
    elif area.kind == UNPURGED:
        words.append("unpurged vm_area")
    else:
        words += [area.caller] if area.caller else []
        words += [f"[{area.module}]"] if area.module else []
        words += [f"pages={area.pages}"] if area.pages else []
        words += [f"phys=0x{area.phys:016x}"] if area.phys is not None else []
        words += area.words
        words += [f"N{node}={pages}" for node, pages in area.nodes.items()]
    return " ".join(words)


def _read_line(name: str, number: int, text: str) -> SnapshotArea:
    found = _LINE.fullmatch(text)
    if not found:
        what = "this is a recording of ftrace, not a snapshot" if _TRACE.match(text) else "no line of /proc/vmallocinfo"
        raise TraceError(name, number, f"{what}: {quote(text.encode('utf-8', 'replace'))}")
    nodes = (word[1:].split("=") for word in (found["nodes"] or "").split())
    return SnapshotArea(
        start=int(found["start"], 16),
        end=int(found["end"], 16),
        size=int(found["size"]),
        caller=(found["caller"] or "").lstrip().partition(" ")[0],
        module=found["module"] or "",
        pages=int(found["pages"] or 0),
        phys=int(found["phys"], 16) if found["phys"] else None,
        words=tuple((found["words"] or "").split()),
        nodes={int(node): int(pages) for node, pages in nodes},
        kind=VM_MAP_RAM if found["ram"] else UNPURGED if found["unpurged"] else AREA,
    )


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
