"""Where in a trace a snapshot was taken.

Idea: whoever records a trace can write markers into it (``tracing_mark_write``).  A pair ``snapshot-NAME begin`` and
``snapshot-NAME end`` encloses the reading of ``/proc/vmallocinfo`` into a file whose name contains NAME
(``x.before.vmallocinfo``, ``x.snap-3-bpfmap.vmallocinfo.zst``).  The reading takes milliseconds and is not atomic, so
areas that are made or freed inside the pair may or may not be in the file: they are *in flight*.

Without a marker a snapshot before is taken to be older than the first event, one after to be younger than the last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np

from vmalloc.trace.events import ALLOC, FREE, MARK, PCPU_CREATE, PURGE, Trace

__all__ = ["Reading", "in_flight", "locate"]

_MARK = re.compile(r"\bsnapshot-(\S+)\s+(begin|end)\b")


@dataclass(frozen=True)
class Reading:
    """The events between which a snapshot was read: it holds what was so after event ``begin`` and before ``end``."""

    begin: int
    end: int


def _readings(trace: Trace) -> dict[str, Reading]:
    """All marked readings of a trace, by name."""
    events = trace.events
    begun: dict[str, int] = {}
    found: dict[str, Reading] = {}
    for i in np.flatnonzero(np.frombuffer(events.kind, dtype=np.uint8) == MARK).tolist():
        match = _MARK.search(trace.marks[events.count[i]])
        if match and match[2] == "begin":
            begun[match[1]] = i
        elif match and match[1] in begun:
            found[match[1]] = Reading(begun.pop(match[1]), i)
    return found


def locate(trace: Trace, file: str, role: str) -> Reading:
    """Finds the reading that produced ``file``, a snapshot in the role ``"before"`` or ``"after"``."""
    readings = _readings(trace)
    name = PurePath(file).name
    fitting = [key for key in readings if re.search(rf"(^|[._-]){re.escape(key)}([._-]|$)", name)]
    if fitting:
        return readings[max(fitting, key=len)]
    if role in readings:
        return readings[role]
    return Reading(0, 0) if role == "before" else Reading(len(trace), len(trace))


def in_flight(trace: Trace, reading: Reading, slack: int) -> tuple[set[int], bool]:
    """What was going on while the snapshot was read, or may have been: events are written up to ``slack`` late.

    Returns the first addresses of areas that were made or freed, and whether a purge ended.
    """
    events = trace.events
    addresses: set[int] = set()
    purged = False
    for i in range(reading.begin, len(events)):
        if i >= reading.end and (reading.end >= len(events) or _after(trace, i, reading) > slack):
            break
        kind = events.kind[i]
        if kind in (ALLOC, FREE, PCPU_CREATE):
            addresses.add(events.va_start[i])
        purged = purged or kind == PURGE
    return addresses, purged


def _after(trace: Trace, i: int, reading: Reading) -> int:
    """Nanoseconds from the end of a reading to event ``i``."""
    return trace.events.timestamp[i] - trace.events.timestamp[reading.end]
