"""The figures by which two policies are compared, and how each is reckoned."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from vmalloc.trace.whatif.drains import DRAIN, FORCED, OVERFLOW, PurgeRecord

__all__ = ["RANGED_FLUSH_PAGES", "Figures", "LazyFigures", "PurgeFigures", "lazy_figures", "purge_figures"]

#: x86 flushes a range of up to so many pages one by one, and everything above that (section 4.12).
RANGED_FLUSH_PAGES = 33


@dataclass(frozen=True)
class PurgeFigures:
    """What purges did.

    Attributes:
        purges: in all; ``drains``, ``forced``, ``overflows``: by reason; ``empty``: those that took nothing.
        flushes: those that had something to flush; ``full_flushes``, ``ranged_flushes``: its two kinds (x86).
        flushed_bytes: of all hulls together.
        purged_areas, purged_pages: in all.
        longest_areas, longest_pages: most areas, and most pages, that one purge took.
    """

    purges: int
    drains: int
    forced: int
    overflows: int
    empty: int
    flushes: int
    full_flushes: int
    ranged_flushes: int
    flushed_bytes: int
    purged_areas: int
    purged_pages: int
    longest_areas: int
    longest_pages: int


@dataclass(frozen=True)
class LazyFigures:
    """Pages that were freed and not yet purged, over the time from the first event to the last.

    Attributes:
        mean_pages, p99_pages: weighted with the time they were held; ``max_pages``: the most.
    """

    mean_pages: float
    p99_pages: int
    max_pages: int


@dataclass(frozen=True)
class Figures:
    """One column of the comparison; None where it cannot be known.

    Attributes:
        allocations: requests; ``agreed``: those at the recorded address; ``failures``: those that got none;
            ``rescued``: those the recorded kernel refused and this one would not.
        largest_hole, free_bytes: of the vmalloc range at the end; ``smallest_largest_hole``: the least that the largest
            hole ever was.
        span_bytes: from the start of the vmalloc range to the highest end of an area, per-CPU chunks left out, which
            come from the top.
        peak_busy_bytes: most bytes busy at once.
        pool_hits: requests served by a pool.
        aligned_searches, aligned_visits: searches of the free tree for an alignment above a page, and the nodes they
            looked at.
        purges, lazy: see there.
        seconds: it took.
    """

    allocations: int
    agreed: int
    failures: int
    rescued: int | None
    largest_hole: int
    free_bytes: int
    smallest_largest_hole: int | None
    span_bytes: int
    peak_busy_bytes: int
    pool_hits: int | None
    aligned_searches: int | None
    aligned_visits: int | None
    purges: PurgeFigures
    lazy: LazyFigures
    seconds: float

    @property
    def agreement(self) -> float:
        """Share of the requests at the recorded address."""
        return self.agreed / self.allocations if self.allocations else 1.0

    @property
    def fragmentation(self) -> float:
        """``1 - largest hole / free bytes`` of the vmalloc range at the end."""
        return 1 - self.largest_hole / self.free_bytes if self.free_bytes else 0.0

    @property
    def visits_per_search(self) -> float | None:
        """Nodes of the free tree that an aligned search looked at, on average; None when there was none."""
        if not self.aligned_searches or self.aligned_visits is None:
            return None
        return self.aligned_visits / self.aligned_searches

    def as_json(self) -> dict[str, object]:
        """A dictionary of plain values."""
        derived = ("agreement", "fragmentation", "visits_per_search")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def purge_figures(purges: Iterable[PurgeRecord], page_size: int) -> PurgeFigures:
    """Adds up purges."""
    records = list(purges)
    hulls = [p.end - p.start for p in records if p.end > p.start]
    full = sum(size > RANGED_FLUSH_PAGES * page_size for size in hulls)
    why = [p.why for p in records]
    return PurgeFigures(
        len(records), why.count(DRAIN), why.count(FORCED), why.count(OVERFLOW), sum(not p.areas for p in records),
        len(hulls), full, len(hulls) - full, sum(hulls), sum(p.areas for p in records), sum(p.pages for p in records),
        max((p.areas for p in records), default=0), max((p.pages for p in records), default=0),
    )  # fmt: skip


def lazy_figures(time: array[int], pages: array[int], first: int, last: int) -> LazyFigures:
    """Figures of a step function: from ``time[n]`` on ``pages[n]`` are lazy, and none before; from first to last."""
    at = np.concatenate(([first], np.frombuffer(time, dtype=np.int64), [max(last, first)]))
    held = np.concatenate(([0], np.frombuffer(pages, dtype=np.int64)))
    # Events of several CPUs may cross by a little: a step back in time lasts for no time at all.
    weight = np.maximum(np.diff(np.maximum.accumulate(at)), 0)
    total = int(weight.sum())
    if total == 0:
        return LazyFigures(0.0, 0, int(held.max(initial=0)))
    order = np.argsort(held, kind="stable")
    reached = np.cumsum(weight[order])
    p99 = int(held[order][np.searchsorted(reached, 0.99 * total)])
    return LazyFigures(float((held * weight).sum() / total), p99, int(held.max()))
