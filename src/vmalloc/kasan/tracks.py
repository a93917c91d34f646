"""Who allocated and who freed: what a report can say about memory beyond its shadow.

Idea: shadow bytes say *that* an access is wrong, and for the vmalloc range nothing more - freed and never allocated
look the same (specification section 9.3).  So each allocation leaves a ``Track`` here, a Python stack and who ran, and
each free a second one.  What was freed stays in **quarantine** until its addresses are handed out again, which the lazy
stage puts off anyway: an access after free is told from one beside an area for as long as the addresses are nobody's.

Stacks are kept as code objects and instruction offsets, each distinct stack once; words and line numbers are made when
somebody looks.  Frames of this package are left out: they are the allocator, and their number differs between builds.

Invariants (``validate``): live and freed ranges are disjoint; the list of freed starts is sorted.

Protected by the lock of the space.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass, field
from itertools import pairwise
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from vmalloc.errors import ValidationError
from vmalloc.units import format_range

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_DEPTH", "MAX_FREED", "Allocation", "Stack", "Track", "Tracks"]

#: How many calls of a stack are kept, the innermost ones.
MAX_DEPTH = 64

#: How many freed allocations are remembered, the newest ones.
MAX_FREED = 1 << 16

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """A Python stack, innermost call first. Two are equal that read the same.

    Attributes:
        calls: code objects with the offset of the instruction.
        told: what ``__iter__`` gives, instead of calls: of a stack that was pickled, which code objects cannot be.
    """

    calls: tuple[tuple[CodeType, int], ...]
    told: tuple[tuple[str, str, int], ...] = ()

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Stack) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __reduce__(self) -> tuple[type[Stack], tuple[object, ...]]:
        return Stack, ((), tuple(self))

    def __iter__(self) -> Iterator[tuple[str, str, int]]:
        """Yields ``(function, file, line)`` of each call; line 0 where the code does not know it."""
        yield from self.told
        for code, offset in self.calls:
            line = next((line for start, end, line in code.co_lines() if start <= offset < end and line), 0)
            yield code.co_qualname, code.co_filename, line

    def lines(self) -> list[str]:
        """One line per call, as a kernel prints a stack trace: function and place."""
        return [f" {function} ({file}:{line})" for function, file, line in self]


class Track(NamedTuple):
    """An event in the life of an allocation: where in the program, and on which CPU."""

    stack: Stack
    cpu: int
    context: str


@dataclass(slots=True, unsafe_hash=True)
class Allocation:
    """Memory that somebody was given.

    Attributes:
        start, end: its addresses; the guard page belongs to it.
        size: bytes that may be touched, from ``start`` on.
        what: ``"area"``, ``"vm_map_ram"``.
        allocated: the track of its allocation; ``freed``: that of its free, None while it lives.
    """

    start: int
    end: int
    size: int
    what: str
    allocated: Track
    freed: Track | None = None


@dataclass(slots=True)
class Tracks:
    """What lives, and what was freed and is still nobody else's.

    Attributes:
        max_freed: how many freed ones are remembered.
        live, freed: by start.
    """

    max_freed: int = MAX_FREED
    live: dict[int, Allocation] = field(default_factory=dict)
    freed: dict[int, Allocation] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)
    _depot: dict[tuple[int, ...], Stack] = field(default_factory=dict)

    def stack(self) -> Stack:
        """The stack of who called the package."""
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back  # type: ignore[assignment]
        codes: list[CodeType] = []
        offsets: list[int] = []
        while frame is not None and len(codes) < MAX_DEPTH:
            codes.append(frame.f_code)
            offsets.append(frame.f_lasti)
            frame = frame.f_back  # type: ignore[assignment]
        # By identity: to hash a code object is to hash all that is in it. The depot keeps it, so it stays the same one.
        key = (*map(id, codes), *offsets)
        found = self._depot.get(key)
        if found is None:
            found = self._depot[key] = Stack(tuple(zip(codes, offsets, strict=True)))
        return found

    def allocate(self, start: int, end: int, size: int, what: str, track: Track) -> None:
        """Notes an allocation; what was freed at its addresses is forgotten."""
        if self._starts:
            for old in list(self._freed_in(start, end)):
                self._forget(old)
        self.live[start] = Allocation(start, end, size, what, track)

    def free(self, start: int, track: Track) -> None:
        """Puts an allocation into quarantine; nothing happens when none starts there."""
        found = self.live.pop(start, None)
        if found is None:
            return
        found.freed = track
        self.freed[start] = found
        insort(self._starts, start)
        if len(self._starts) > self.max_freed:
            self._forget(next(iter(self.freed)))

    def at(self, address: int) -> Allocation | None:
        """The allocation that has an address, guard page included: a live one, else one in quarantine."""
        return self.live_at(address) or self.freed_at(address)

    def live_at(self, address: int) -> Allocation | None:
        """The live allocation that has an address; the newest and smallest one, where one lies in another."""
        around = [found for found in self.live.values() if found.start <= address < found.end]
        return min(around, key=lambda found: found.end - found.start, default=None)

    def freed_at(self, address: int) -> Allocation | None:
        """The allocation in quarantine that had an address."""
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return None
        found = self.freed[self._starts[place]]
        return found if address < found.end else None

    def before(self, address: int) -> Allocation | None:
        """The live allocation that ends closest below an address."""
        below = [found for found in self.live.values() if found.end <= address]
        return max(below, key=lambda found: found.end, default=None)

    def after(self, address: int) -> Allocation | None:
        """The live allocation that begins closest above an address."""
        above = [found for found in self.live.values() if found.start > address]
        return min(above, key=lambda found: found.start, default=None)

    def _freed_in(self, start: int, end: int) -> Iterator[int]:
        """The starts of what in quarantine overlaps a range."""
        place = max(bisect_right(self._starts, start) - 1, 0)
        for old in self._starts[place : bisect_left(self._starts, end)]:
            if self.freed[old].end > start:
                yield old

    def _forget(self, start: int) -> None:
        del self.freed[start]
        del self._starts[bisect_left(self._starts, start)]

    def validate(self) -> None:
        """Checks that ranges in quarantine are disjoint, from each other and from live areas.

        Raises:
            ValidationError: two of them contradict each other.
        """
        if sorted(self.freed) != self._starts:
            raise ValidationError("quarantine", f"{len(self.freed)} ranges", f"a list of {len(self._starts)} starts")
        everything = [*self.freed.values(), *(found for found in self.live.values() if found.what == "area")]
        everything.sort(key=lambda found: found.start)
        for found, following in pairwise(everything):
            if following.start < found.end and following.what == found.what == "area":
                raise ValidationError(
                    "quarantine", f"range {format_range(found.start, found.end)}",
                    f"range {format_range(following.start, following.end)}",
                )
