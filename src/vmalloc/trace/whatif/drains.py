"""When the recorded kernel purged and why, how long after the threshold was crossed, and what was lazy meanwhile.

Idea: a free that finds more lazy pages than the threshold queues the drain work; a worker begins some time later,
takes ("detaches") what is lazy at that moment, flushes, and hands the areas on; then the purge event is written.  A
trace shows these moments, so each drain has a **lag**, from the crossing to the detaching, and a **span**, from there
to the event.  A model that decides on its own when to purge needs both, for drains that the recorded kernel never had;
``Drains.near`` gives those of the recorded drain that is nearest in time, because what delays a worker is what else the
machine does then.

Why a purge happened:

* ``OVERFLOW``: between a failed attempt and its repetition (``plan``): addresses had run out;
* ``DRAIN``: the work item ran, as its event says where workqueue events were recorded; otherwise when a free since the
  last detaching had found the threshold exceeded.  Frees between a detaching and the end of that purge still count what
  is being purged, and queue the work again: the second drain right behind the first;
* ``FORCED``: none of these, or the flushed range begins below the vmalloc range, which only a caller's own can.

When it detached: at its flush event, if recorded; else with as many frees as the event counts areas; else at its event.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from vmalloc import kernels
from vmalloc.trace.events import PURGE_BEGIN, Trace
from vmalloc.trace.replay.replay import Opening

__all__ = ["DRAIN", "FORCED", "OVERFLOW", "TYPICAL_LAG", "DrainReader", "Drains", "PurgeRecord"]

DRAIN, FORCED, OVERFLOW = "drain", "forced", "overflow"

#: Lag and span of a drain where none was recorded, in nanoseconds: the usual ones of recordings on real hardware.
TYPICAL_LAG, TYPICAL_SPAN = 500_000, 1_000_000


@dataclass(frozen=True, slots=True)
class PurgeRecord:
    """One purge, recorded or modelled.

    Attributes:
        why: ``DRAIN``, ``FORCED`` or ``OVERFLOW``.
        areas, pages: how many it took.
        start, end: the hull that was flushed; ``start >= end`` when there was nothing to flush.
    """

    why: str
    areas: int
    pages: int
    start: int
    end: int


@dataclass
class Drains:
    """What a recording shows of its purges.

    Attributes:
        threshold: the recorded ``lazy_max_pages``.
        crossed, lag, span: per drain whose crossing was seen: when the threshold was crossed, and the two times (ns).
        purges: every purge, in order.
        lazy_time, lazy_pages: lazy pages as a step function: from this time on, so many.
    """

    threshold: int = 0
    crossed: array[int] = field(default_factory=lambda: array("q"))
    lag: array[int] = field(default_factory=lambda: array("q"))
    span: array[int] = field(default_factory=lambda: array("q"))
    purges: list[PurgeRecord] = field(default_factory=list)
    lazy_time: array[int] = field(default_factory=lambda: array("q"))
    lazy_pages: array[int] = field(default_factory=lambda: array("q"))

    def near(self, time: int) -> tuple[int, int]:
        """Lag and span of the recorded drain whose crossing was nearest to ``time``."""
        if not self.crossed:
            return TYPICAL_LAG, TYPICAL_SPAN
        n = bisect_left(self.crossed, time)
        if n == len(self.crossed) or (n > 0 and time - self.crossed[n - 1] <= self.crossed[n] - time):
            n -= 1
        return self.lag[n], self.span[n]


class _Free(NamedTuple):
    """A lazy area: the event of its free, when, its start and pages, and how many pages were lazy then."""

    event: int
    time: int
    start: int
    pages: int
    found: int


def _merged(frees: list[_Free], page_size: int) -> int:
    """Number of areas when lazy neighbours merge with each other (up to 6.8)."""
    ends = {free.start + free.pages * page_size for free in frees}
    return sum(free.start not in ends for free in frees)


class DrainReader:
    """Is told the frees and purges of a trace in order, and makes its ``Drains``."""

    def __init__(self, trace: Trace, opening: Opening) -> None:
        self.trace = trace
        self.plan = opening.plan
        self.low = opening.window[0]
        self.merges = opening.kernel.merges_lazy
        self.counted = trace.source == "tracepoints"  # frees tell how many pages are lazy, purges how many areas
        page_size = 1 << opening.page_shift
        self.found = Drains(trace.nr_lazy_max or kernels.lazy_max_pages(opening.cpus, page_size))
        self.works = self.counted and PURGE_BEGIN in trace.events.kind
        self.begun: dict[int, int] = {}  # task: event at which its drain work began
        self.k = 0
        self.page_size = page_size
        self.pending: deque[_Free] = deque()  # lazy areas in the order of their frees; older ones have event -1
        for area in opening.start.areas:
            if area.kind == "unpurged":
                self.pending.append(_Free(-1, 0, area.start, (area.end - area.start) // page_size, 0))
        self.nr_lazy = sum(free.pages for free in self.pending)
        self.purged = False  # a purge ended and no free has told since what is lazy now

    def free(self, i: int, time: int, start: int, pages: int) -> None:
        """Free ``i`` made an area of ``pages`` at ``start`` lazy."""
        if self.counted:
            told = self.trace.events.count[i]
            if self.purged:  # what was left after the purge is now known
                self.found.lazy_pages[-1] = max(0, told - pages)
                self.purged = False
            self.nr_lazy = told
        else:
            self.nr_lazy += pages
        self.pending.append(_Free(i, time, start, pages, self.nr_lazy))
        self._step(time)

    def unknown(self, i: int, time: int, start: int) -> None:
        """Free ``i`` of an area nobody knows: one page, as far as anybody knows, unless its count says more."""
        before = self.nr_lazy
        told = self.trace.events.count[i] - before if self.counted else 1
        self.free(i, time, start, max(1, min(told, 1 << 20)))

    def other(self, i: int, kind: int) -> None:
        """Any other event."""
        if kind == PURGE_BEGIN and self.works:
            self.begun[self.trace.events.pid[i]] = i

    def purge(self, i: int, time: int) -> str:
        """Purge event ``i``; returns why it happened."""
        events, plan, k = self.trace.events, self.plan, self.k
        self.k += 1
        flush = plan.purge_flush[k]
        begun = self.begun.pop(events.pid[i], None)
        areas = plan.purge_count[k]
        taken = self._detach(i, flush, areas)
        at = events.timestamp[flush] if flush >= 0 else (taken[-1].time if taken and areas >= 0 else time)
        crossing = next((free for free in taken if free.found > self.found.threshold), None)
        why = self._why(k, begun is not None, crossing is not None, events.va_start[i], events.va_end[i])
        if why == DRAIN and crossing is not None and crossing.event >= 0:
            self.found.crossed.append(crossing.time)
            self.found.lag.append(max(0, at - crossing.time))
            self.found.span.append(max(0, time - at))
        count = areas if areas >= 0 else _merged(taken, self.page_size)
        pages = sum(free.pages for free in taken)
        self.found.purges.append(PurgeRecord(why, count, pages, events.va_start[i], events.va_end[i]))
        self.nr_lazy = sum(free.pages for free in self.pending)
        self._step(time)
        self.purged = True
        return why

    def _detach(self, i: int, flush: int, areas: int) -> list[_Free]:
        """Takes what purge ``i`` took off ``pending``."""
        taken: list[_Free] = []
        last = flush if flush >= 0 else i
        by_count = areas >= 0 and not self.merges
        while self.pending and (len(taken) < areas if by_count else self.pending[0].event <= last):
            taken.append(self.pending.popleft())
        return taken

    def _why(self, k: int, begun: bool, crossed: bool, start: int, end: int) -> str:
        if self.plan.purge_full[k]:
            return OVERFLOW
        if self.works:
            return DRAIN if begun else FORCED
        return DRAIN if crossed and not (start < self.low and start < end) else FORCED

    def _step(self, time: int) -> None:
        self.found.lazy_time.append(time)
        self.found.lazy_pages.append(self.nr_lazy)

    def finish(self) -> Drains:
        """What was found; crossings ascending."""
        found = self.found
        order = sorted(range(len(found.crossed)), key=lambda n: found.crossed[n])
        found.crossed = array("q", [found.crossed[n] for n in order])
        found.lag = array("q", [found.lag[n] for n in order])
        found.span = array("q", [found.span[n] for n in order])
        return found
