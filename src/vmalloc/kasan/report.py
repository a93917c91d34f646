"""A report: what was done, to what, who is to blame, and the shadow around it (specification section 9.7).

Idea: a report is a value - facts that a program can test - and its text is made from it.  The text has the kernel's
layout, which people and tools know how to read, and three things more, because here they are known: who allocated and
who freed, in what the kernel prints for slab objects; which byte exactly is the first that may not be touched; and what
it is in relation to the areas around it.

``bug`` is the kernel's name for the bug and follows from the shadow byte alone: memory of the vmalloc range is
``vmalloc-out-of-bounds``, freed or not.  ``cause`` tells them apart.

Rows of shadow are named by the memory they describe, 16 bytes of shadow and 128 of memory each; what has no shadow is
shown as ``--``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vmalloc.kasan.layout import GRANULE, GRANULE_SHIFT
from vmalloc.kasan.tracks import Allocation, Stack, Track

__all__ = ["CAUSES", "KasanReport", "ROW_BYTES", "ROWS_AROUND"]

#: What is behind a report. ``out-of-bounds``: beside a live allocation, in its last granule, its last page or its
#: guard page; ``use-after-free``: addresses that were freed and are nobody's since; ``wild-access``: nobody's that
#: anybody remembers; and two wrong frees.
CAUSES = ("out-of-bounds", "use-after-free", "wild-access", "double-free", "invalid-free")

ROW_BYTES = 16
ROWS_AROUND = 2
_RULE = "=" * 66


@dataclass(frozen=True)
class KasanReport:
    """What KASAN has to say about one bad access, or one bad free.

    Attributes:
        bug: the kernel's name for it, such as ``"vmalloc-out-of-bounds"``.
        cause: one of ``CAUSES``.
        access: ``"read"``, ``"write"`` or ``"free"``. address: where it begins. size: bytes; 0 for a free.
        bad_address: the first byte of it that must not be touched.
        reported_address: the one that the kernel names: found by granules (section 9.6).
        shadow: the shadow byte of ``reported_address``; None where there is no shadow.
        where: the bad byte in relation to the areas around it, in words.
        allocation: what the bad byte belongs, or belonged, to; None for nothing.
        neighbour: the live allocation that begins closest behind it; None for none.
        symbol: the code that made the access. stack: how it came there.
        cpu, context: who ran. comm: the task's name.
        region: the kernel's line about the region; "" for none.
        page: the kernel's line about the physical page; "" when none is mapped there.
        rows: shadow around it: ``(address of memory, shadow bytes)``, None for those that are not there.
    """

    bug: str
    cause: str
    access: str
    address: int
    size: int
    bad_address: int
    reported_address: int
    shadow: int | None
    where: str
    allocation: Allocation | None
    neighbour: Allocation | None
    symbol: str
    stack: Stack
    cpu: int
    context: str
    comm: str
    region: str
    page: str
    rows: tuple[tuple[int, tuple[int | None, ...]], ...]

    def __str__(self) -> str:
        task = f"{self.comm}/{os.getpid()}"
        lines = [_RULE, f"BUG: KASAN: {self.bug} in {self.symbol}"]
        if self.access == "free":
            lines.append(f"Free of addr {self.address:016x} by task {task}")
        else:
            lines.append(f"{self.access.capitalize()} of size {self.size} at addr {self.address:016x} by task {task}")
        lines += ["", f"CPU: {self.cpu} PID: {os.getpid()} Comm: {self.comm} Context: {self.context}", "Call Trace:"]
        lines += [*self.stack.lines(), ""]
        lines += [f"First bad byte: {self.bad_address:016x}, {self.where} ({self.cause})", ""]
        if self.allocation is not None:
            lines += _told("Allocated", self.allocation.allocated)
            if self.allocation.freed is not None:
                lines += _told("Freed", self.allocation.freed)
        if self.region:
            lines.append(self.region)
        if self.page:
            lines += ["The buggy address belongs to the physical page:", self.page]
            lines.append("page dumped because: kasan: bad access detected")
        if self.region or self.page:
            lines.append("")
        lines += ["Memory state around the buggy address:", *self._state(), _RULE]
        return "\n".join(lines)

    def _state(self) -> list[str]:
        """The rows of shadow, the one of the bad byte marked, and a caret below that byte."""
        lines = []
        for start, shadow in self.rows:
            here = start <= self.reported_address < start + (ROW_BYTES << GRANULE_SHIFT)
            cells = " ".join("--" if byte is None else f"{byte:02x}" for byte in shadow)
            lines.append(f"{'>' if here else ' '}{start:016x}: {cells}")
            if here:
                column = len(f">{start:016x}: ") + 3 * ((self.reported_address - start) >> GRANULE_SHIFT)
                lines.append(" " * column + "^")
        return lines


def row_starts(address: int) -> list[int]:
    """The addresses of the rows around the one that describes ``address``; those that are addresses."""
    row = ROW_BYTES * GRANULE
    middle = address - address % row
    starts = [middle + row * k for k in range(-ROWS_AROUND, ROWS_AROUND + 1)]
    return [start for start in starts if 0 <= start < 1 << 64]


def _told(verb: str, track: Track) -> list[str]:
    """An event of an allocation, as the kernel tells it of slab objects."""
    return [f"{verb} on CPU {track.cpu} in {track.context} context:", *track.stack.lines(), ""]
