"""What can be worked out about a trace before replaying it: which events belong to which purge, which are retries.

Idea: the replay's loop must not search backwards.  One pass over the few events that matter (purges, flushes, failed
attempts) finds, for every purge event, the flush inside it, the earliest event it may have begun at, how many areas it
took, and whether it emptied the pools; and for every allocation that follows a failed attempt of the same task, that it
is a retry, which does not look at the pools again (specification section 1.10, steps 5 and 11).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FLUSH, PURGE, PURGE_BEGIN, Trace
from vmalloc.trace.replay.verdicts import COUNTERS

__all__ = ["Plan", "make_plan"]

#: ``purge_count`` of a purge whose number of areas was not recorded (6.1).
UNCOUNTED = -1

#: How many events after a failed attempt its retry is looked for.
RETRY_WITHIN = 65536


@dataclass
class Plan:
    """Columns beside the event table, and the columns the replay writes.

    Attributes:
        window_start, window_end: ``Trace.windows`` as two columns, bytes.
        retry: per event, 1 for an attempt that is a retry after a purge.
        purge_event, purge_flush, purge_bound, purge_count, purge_full: per purge, its event; its flush event or -1; an
            event it began after; the areas it took or ``UNCOUNTED``; 1 if it emptied the pools.
        done, placed, verdict: per event, written by the replay.
        counter: written by the replay, see ``verdicts.COUNTERS``.
        busy_bytes: bytes busy at the start.
    """

    window_start: array[int]
    window_end: array[int]
    retry: array[int]
    purge_event: array[int]
    purge_flush: array[int]
    purge_bound: array[int]
    purge_count: array[int]
    purge_full: array[int]
    done: array[int]
    placed: array[int]
    verdict: array[int]
    counter: array[int]
    busy_bytes: int = 0

    @property
    def nr_purges(self) -> int:
        """Number of purge events."""
        return len(self.purge_event)


def make_plan(trace: Trace) -> Plan:
    """Reads ``trace`` once and returns its plan, with nothing done yet."""
    n = len(trace)
    plan = Plan(
        window_start=array("Q", [start for start, _end in trace.windows] or [0]),
        window_end=array("Q", [end for _start, end in trace.windows] or [0]),
        retry=array("B", bytes(n)),
        purge_event=array("I"),
        purge_flush=array("q"),
        purge_bound=array("q"),
        purge_count=array("q"),
        purge_full=array("B"),
        done=array("B", bytes(n)),
        placed=array("Q", bytes(8 * n)),
        verdict=array("B", bytes(n)),
        counter=array("Q", bytes(8 * len(COUNTERS))),
    )
    if n:
        _plan_purges(trace, plan)
    return plan


def _plan_purges(trace: Trace, plan: Plan) -> None:
    """Fills the purge columns and ``retry``."""
    events = trace.events
    kind = np.frombuffer(events.kind, dtype=np.uint8)
    pid = np.frombuffer(events.pid, dtype=np.int32)
    uncounted = trace.source == "kprobes"
    flush: dict[int, int] = {}
    begin: dict[int, int] = {}
    failed: dict[int, int] = {}
    last_end = -1
    retries = _retries(kind, pid, plan)
    for i in np.flatnonzero(np.isin(kind, (PURGE, PURGE_BEGIN, FLUSH, ALLOC_FAILED))).tolist():
        task = int(pid[i])
        if kind[i] == FLUSH:
            flush[task] = i
        elif kind[i] == PURGE_BEGIN:
            begin[task] = i
        elif kind[i] == ALLOC_FAILED:
            failed[task] = i
        else:
            areas = UNCOUNTED if uncounted else events.count[i]
            # The previous event of the same task, and the previous purge: it cannot have begun before either.
            bound = max(last_end, begin.pop(task, -1), _previous_of(pid, kind, task, i))
            inside = flush.pop(task, -1) if areas else -1
            plan.purge_event.append(i)
            plan.purge_flush.append(inside if inside > last_end else -1)
            plan.purge_bound.append(bound)
            plan.purge_count.append(areas)
            plan.purge_full.append(1 if task in failed and retries.get(failed[task], i) > i else 0)
            last_end = i


def _previous_of(pid: np.ndarray, kind: np.ndarray, task: int, i: int) -> int:
    """The last event of ``task`` before ``i`` that is not a flush, looked for among the last few thousand; or -1."""
    low = max(0, i - 4096)
    near = np.flatnonzero((pid[low:i] == task) & (kind[low:i] != FLUSH))
    return low + int(near[-1]) if len(near) else -1


def _retries(kind: np.ndarray, pid: np.ndarray, plan: Plan) -> dict[int, int]:
    """Marks retries in ``plan.retry``; returns, per failed attempt that is retried, the event of the retry."""
    retried: dict[int, int] = {}
    tries = (kind == ALLOC) | (kind == ALLOC_FAILED)
    for i in np.flatnonzero(kind == ALLOC_FAILED).tolist():
        if plan.retry[i]:
            continue
        near = slice(i + 1, i + 1 + RETRY_WITHIN)
        mine = np.flatnonzero(tries[near] & (pid[near] == pid[i]))
        if len(mine):
            again = i + 1 + int(mine[0])
            plan.retry[again] = 1
            retried[i] = again
    return retried
