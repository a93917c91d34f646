"""Counting what a replay found: agreement, causes, assumptions, differences to snapshots.

Idea: the engine writes a verdict per event and counts what it assumed; this module makes the numbers of a
``ReplayResult`` from them.  It changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vmalloc.trace.events import FREE, PCPU_CREATE, PURGE, Trace
from vmalloc.trace.replay.engine import Engine
from vmalloc.trace.replay.markers import Reading, in_flight
from vmalloc.trace.replay.plan import Plan
from vmalloc.trace.replay.result import Mismatch, ReplayResult, SnapshotDifference
from vmalloc.trace.replay.verdicts import AGREED, COUNTERS, UNEXPLAINED, VERDICT_NAMES
from vmalloc.trace.vmallocinfo import Snapshot

__all__ = ["compare", "count"]


def compare(engine: Engine, trace: Trace, reading: Reading, snapshot: Snapshot, slack: int) -> SnapshotDifference:
    """Compares the model, which has just reached ``reading.begin``, with a snapshot.

    What moved while the snapshot was read, or is written up to ``slack`` nanoseconds later, is left out.
    """
    nodes, rows = engine.allocator.nodes, engine.allocator.rows

    def ranges(of: Callable[[int], list[int]]) -> set[tuple[int, int]]:
        found = (rows.get(v) for n in range(nodes.nr_nodes) for v in of(n))
        return {(row["va_start"], row["va_end"]) for row in found}

    moving, purged = in_flight(trace, reading, slack)
    busy, lazy = ranges(nodes.busy), ranges(nodes.lazy)
    shown_busy = {(area.start, area.end) for area in snapshot.busy}
    shown_lazy = {(area.start, area.end) for area in snapshot.unpurged}
    differences = (shown_busy - busy, busy - shown_busy, shown_lazy - lazy, lazy - shown_lazy)
    if purged:  # the lazy areas were listed before or after it, or in part
        moving |= {r[0] for d in differences[2:] for r in d}
    settled = [tuple(sorted(r for r in d if r[0] not in moving)) for d in differences]
    left_out = {r for d in differences for r in d if r[0] in moving}
    return SnapshotDifference(
        snapshot.name, reading.begin, settled[0], settled[1], settled[2], settled[3], len(left_out)
    )


def count(
    result: ReplayResult, trace: Trace, engine: Engine, plan: Plan, window: tuple[int, int], first: int
) -> None:
    """Fills the counts of ``result``; event ``first`` is the first that was replayed, ``window`` the vmalloc range."""
    kind = np.frombuffer(trace.events.kind, dtype=np.uint8)
    verdict = np.frombuffer(plan.verdict, dtype=np.uint8)
    counters = dict(zip(COUNTERS, plan.counter, strict=True))
    replayed = kind.copy()
    replayed[:first] = 0
    failures = counters.pop("failures_agreed") + counters["failures_wrong"]
    judged = np.bincount(verdict, minlength=UNEXPLAINED + 1)
    result.placements = int(judged[AGREED:].sum())
    result.allocations = result.placements + failures
    result.frees = int(np.count_nonzero(replayed == FREE))
    result.purges = int(np.count_nonzero(replayed == PURGE))
    result.agreed = int(judged[AGREED]) + failures - counters["failures_wrong"]
    result.mismatches = {VERDICT_NAMES[v]: int(judged[v]) for v in range(AGREED + 1, UNEXPLAINED + 1) if judged[v]}
    result.reordered = counters.pop("reordered")
    result.corrected = counters.pop("corrected")
    result.unexplained = int(judged[UNEXPLAINED]) + counters["failures_wrong"]
    result.assumptions = {name: count for name, count in counters.items() if count}
    result.first_mismatch = _first_mismatch(trace, engine.first_offer, verdict)
    bases = np.frombuffer(trace.events.va_start, dtype=np.uint64)[replayed == PCPU_CREATE]
    placed = np.frombuffer(plan.placed, dtype=np.uint64)[replayed == PCPU_CREATE]
    result.pcpu_chunks = len(bases)
    result.pcpu_chunks_hidden = int(np.count_nonzero(bases == 0))
    result.pcpu_chunks_agreed = int(np.count_nonzero((bases == placed) & (bases != 0)))
    result.peak_busy_bytes = engine.peak_busy_bytes
    low, high = window
    holes = [min(end, high + 1) - max(start, low) for start, end in engine.allocator.free.blocks()]
    holes = [hole for hole in holes if hole > 0]
    result.largest_hole, result.free_bytes = max(holes, default=0), sum(holes)


def _first_mismatch(trace: Trace, offered: int, verdict: np.ndarray) -> Mismatch | None:
    """The first allocation that was not placed at the recorded address."""
    wrong = np.flatnonzero(verdict > AGREED)
    if not len(wrong):
        return None
    i, events = int(wrong[0]), trace.events
    return Mismatch(
        i, events.line[i], events.timestamp[i], events.cpu[i], events.pid[i], events.va_end[i] - events.va_start[i],
        events.align[i], events.va_start[i], offered, VERDICT_NAMES[verdict[i]],
    )
