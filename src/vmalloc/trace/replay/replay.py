"""``replay``: a recorded trace goes in, and how well the model agrees with the kernel comes out.

Told from top to bottom: find out what was recorded (range, page size, CPUs, kernel version), bring an allocator into
the state the trace starts from, run the engine - stopping where a snapshot was read, to compare - and count.

The kernel version is not in a trace.  The 6.1 probes give themselves away, and so does the address of a failed attempt;
otherwise a piece of the trace is replayed with every profile and the one that agrees best is taken: the profiles differ
in where purged areas go, so a few purges tell them apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vmalloc.areas.allocator import Allocator
from vmalloc.areas.ledger import Ledger
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.states import is_error_value
from vmalloc.errors import BadRequest
from vmalloc.kernels import PROFILES, KernelProfile, nr_vmap_nodes, profile
from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FREE, PURGE, Trace
from vmalloc.trace.replay.counts import compare, count
from vmalloc.trace.replay.engine import Engine
from vmalloc.trace.replay.markers import Reading, locate
from vmalloc.trace.replay.plan import Plan, make_plan
from vmalloc.trace.replay.result import MachineResult, ReplayResult
from vmalloc.trace.replay.start import (
    Start,
    chunk_groups,
    make_allocator,
    rewound_areas,
    since_boot,
    vmalloc_window,
)
from vmalloc.trace.replay.verdicts import AGREED, COUNTERS
from vmalloc.trace.vmallocinfo import Snapshot

__all__ = ["Opening", "find_opening", "replay"]

#: How much later than it happened an event may be written, in nanoseconds (a CPU that pauses between the two).
SLACK = 20_000_000

#: Events between two calls of ``progress``.
STEP = 1 << 16

#: How much of a trace is replayed per profile to find the kernel version: purges that took something, and events.
PROBE_PURGES = 16
PROBE_EVENTS = 200_000

#: Below this share of agreement on that piece, other numbers of possible CPUs are tried, these.
ENOUGH = 0.9
MORE_CPUS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

#: How many shapes of the free tree are tried for a start whose shape is not known, and on how many events at most
#: (half as many of a long trace, which is waited for).
SHAPES = 32
SHAPE_EVENTS = 60_000
LONG_TRACE = 500_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Setting:
    """What a replay needs to know beside the trace."""

    window: tuple[int, int]
    page_shift: int
    cpus: int
    start: Start
    before: Reading
    snapshots: list[Snapshot]
    open_loop: bool
    slack: int
    shapes: int


def replay(
    trace: Trace,
    *,
    before: Snapshot | None = None,
    after: Sequence[Snapshot] = (),
    kernel: str | None = None,
    cpus: int | None = None,
    open_loop: bool = False,
    slack: int = SLACK,
    shapes: int = SHAPES,
    shape: int | None = None,
    machine: str = "areas",
    arch: str | None = None,
    numa_nodes: int | None = None,
    progress: Progress | None = None,
    machine_progress: Progress | None = None,
) -> ReplayResult:
    """Replays a trace on the address-space allocator and compares every address with the recorded one.

    Args:
        trace: from ``ftrace.read_trace``.
        before: the snapshot the trace starts from; without one the start is found out (``start``).
        after: snapshots to compare with, each at the moment it was read (``markers``).
        kernel: version such as ``"6.12"``; None finds it out.
        cpus: possible CPUs of the recorded machine; None takes the trace's header.
        open_loop: never correct the state to the recorded address.
        slack: how much later than it happened an event may be written, in nanoseconds; 0 takes the events as they come.
        shapes: how many shapes of the free tree are tried when the one at the start is not known.
        shape: the number of the shape to take, if it has been found out before (``find_opening``).
        machine: ``"areas"``: addresses alone; ``"simulated"``: frames, page tables and TLBs, too.
        arch: architecture of the simulated machine; None takes one that has the recorded vmalloc range.
        numa_nodes: NUMA nodes of the simulated machine; None for one.
        progress: called with (events done, events in all) now and then.
        machine_progress: the same for the simulated machine, which does its part when the events are done.

    Raises:
        TraceError: nothing to replay, or snapshots that contradict the trace.
        ValueError: an unknown kernel version, or not at least one CPU.
        BadRequest: no such machine or architecture, or one that cannot have the recorded range.
    """
    setting = _setting(trace, before, after, cpus, open_loop, slack, shapes)
    machine_of = _machine(machine, arch, numa_nodes, setting)
    version, setting, known_from = _identify(trace, setting, kernel, cpus is not None)
    if shape is None:
        shape = _shape(trace, setting, version)
    result = ReplayResult(
        trace=trace.name, kernel=version.name, kernel_from=known_from, cpus=setting.cpus,
        nodes=_nodes(version, setting), page_size=1 << setting.page_shift,
        vmalloc_start=setting.window[0], vmalloc_end=setting.window[1], start=setting.start.kind, shape=shape,
        open_loop=open_loop,
        lost_events=trace.lost_events, overwritten=trace.overwritten,
    )
    began = time.perf_counter()
    engine, plan = _engine(trace, setting, version, shape)
    ledger = Ledger()
    if machine_of is not None:
        engine.allocator.nodes.attach_ledger(ledger)
    skipped = int(np.count_nonzero(np.frombuffer(plan.done, dtype=np.uint8))) if len(trace) else 0
    stops = sorted(((locate(trace, s.name, "after"), s) for s in after), key=lambda stop: stop[0].begin)
    at = 0
    for reading, snapshot in stops:
        at = _run(engine, at, max(at, reading.begin), len(trace), progress)
        result.snapshots.append(compare(engine, trace, reading, snapshot, SLACK))
    _run(engine, at, len(trace), len(trace), progress)
    result.seconds = time.perf_counter() - began
    result.skipped_events = skipped
    result.events = len(trace) - skipped
    count(result, trace, engine, plan, setting.window, setting.before.begin)
    if machine_of is not None:
        result.machine = machine_of(engine.allocator, ledger, version, setting.cpus, machine_progress)
    return result


@dataclass(frozen=True)
class Opening:
    """How a recording begins: what ``replay`` finds out before the first event, for others who follow one.

    Attributes:
        kernel, known_from: the version profile, and how it is known; cpus: possible CPUs.
        window: the vmalloc range; page_shift: log2 of the base page.
        start, shape: the state at the start, and the assumed shape of its free tree.
        groups: geometry of per-CPU chunks, or None.
        plan: of the events; those that the start contains already are done.
    """

    kernel: KernelProfile
    known_from: str
    cpus: int
    window: tuple[int, int]
    page_shift: int
    start: Start
    shape: int
    groups: PcpuGroups | None
    plan: Plan


def find_opening(
    trace: Trace,
    *,
    before: Snapshot | None = None,
    after: Sequence[Snapshot] = (),
    kernel: str | None = None,
    cpus: int | None = None,
    shapes: int = SHAPES,
) -> Opening:
    """Finds out what ``replay`` finds out, by the same rules and with the same errors."""
    setting = _setting(trace, before, after, cpus, True, SLACK, shapes)
    version, setting, known_from = _identify(trace, setting, kernel, cpus is not None)
    shape = _shape(trace, setting, version)
    plan = make_plan(trace)
    _skip_before(trace, plan, setting)
    return Opening(
        version, known_from, setting.cpus, setting.window, setting.page_shift, setting.start, shape,
        chunk_groups(trace, setting.window, setting.snapshots), plan,
    )


def _machine(
    machine: str, arch: str | None, numa_nodes: int | None, setting: _Setting
) -> Callable[[Allocator, Ledger, KernelProfile, int, Progress | None], MachineResult] | None:
    """What follows the allocator on a simulated machine; None for areas alone. Refuses before anything is replayed."""
    if machine == "areas":
        if arch is not None or numa_nodes is not None:
            raise BadRequest("an architecture and NUMA nodes are those of the simulated machine; areas have neither")
        return None
    if machine != "simulated":
        raise BadRequest(f"no machine {machine!r}; a replay knows areas and simulated")
    from vmalloc.trace.replay.machine import choose_arch, follow

    chosen = choose_arch(arch, setting.window, setting.page_shift)

    def followed(
        allocator: Allocator, ledger: Ledger, kernel: KernelProfile, cpus: int, progress: Progress | None
    ) -> MachineResult:
        return follow(allocator, ledger, kernel, chosen, cpus, 1 if numa_nodes is None else numa_nodes, progress)

    return followed


def _setting(
    trace: Trace, before: Snapshot | None, after: Sequence[Snapshot], cpus: int | None, open_loop: bool, slack: int,
    shapes: int,
) -> _Setting:
    """Finds out what was recorded."""
    window = vmalloc_window(trace)
    if cpus is not None and cpus < 1:
        raise ValueError(f"a machine needs at least one CPU, got {cpus}")
    highest = max(trace.events.cpu, default=0) + 1
    number = cpus if cpus is not None else max(trace.cpus, highest)
    reading = Reading(0, 0)
    if before is not None:
        start = Start("snapshot", tuple(before.areas))
        reading = locate(trace, before.name, "before")
    elif since_boot(trace, window):
        start = Start("boot")
    elif after:
        first = min(after, key=lambda s: locate(trace, s.name, "after").begin)
        start = Start("rewound", rewound_areas(trace, first, locate(trace, first.name, "after").begin))
    else:
        start = Start("unknown")
    snapshots = ([before] if before is not None else []) + list(after)
    return _Setting(window, _page_shift(trace), number, start, reading, snapshots, open_loop, slack, shapes)


def _page_shift(trace: Trace) -> int:
    """log2 of the base page: the largest of 64, 16 and 4 KiB that divides every size."""
    events = trace.events
    kind = np.frombuffer(events.kind, dtype=np.uint8)
    chosen = kind == ALLOC
    start = np.frombuffer(events.va_start, dtype=np.uint64)[chosen]
    bits = start | np.frombuffer(events.va_end, dtype=np.uint64)[chosen]
    union = int(np.bitwise_or.reduce(bits)) if len(bits) else 4096
    return next((shift for shift in (16, 14) if union % (1 << shift) == 0), 12)


def _nodes(kernel: KernelProfile, setting: _Setting) -> int:
    """Vmap nodes of the recorded kernel."""
    return nr_vmap_nodes(kernel, setting.cpus, word_bits=64 if setting.window[1] >> 32 else 32)


def _identify(
    trace: Trace, setting: _Setting, asked: str | None, cpus_given: bool
) -> tuple[KernelProfile, _Setting, str]:
    """The version profile, the setting with the number of possible CPUs, and how the version is known.

    The header of a trace tells the CPUs that are online; the number of vmap nodes follows the possible ones. Where the
    header's number agrees badly, larger ones are tried.
    """
    names, reason = _candidates(trace, asked)
    last = _probe_end(trace)
    if len(names) == 1 and (cpus_given or not PROFILES[names[0]].has_nodes):
        return PROFILES[names[0]], setting, reason
    scores = {name: _probe(trace, setting, PROFILES[name], 0, last) for name in names}
    best = max(scores, key=lambda name: scores[name])
    score = scores[best]
    tried = int(np.count_nonzero(np.frombuffer(trace.events.kind, dtype=np.uint8)[:last] == ALLOC))
    if not cpus_given and score[0] < ENOUGH * tried:
        for name in (n for n in names if PROFILES[n].has_nodes):
            for number in (n for n in MORE_CPUS if n > setting.cpus):
                larger = replace(setting, cpus=number)
                other = _probe(trace, larger, PROFILES[name], 0, last)
                if other > score and other[0] >= score[0] + tried // 20:
                    best, score, found = name, other, larger
                    reason = f"it agrees best on the first {last:,} events, with {number} possible CPUs"
        if score != scores[best]:
            return PROFILES[best], found, reason
    return PROFILES[best], setting, reason or f"it agrees best on the first {last:,} events"


def _candidates(trace: Trace, asked: str | None) -> tuple[tuple[str, ...], str]:
    """The profiles that are possible, and the reason when there is only one."""
    if asked is not None:
        return (profile(asked).name,), "given"
    if trace.source == "kprobes":
        return ("6.1",), "the probes are those of kernels without tracepoints"
    kind = np.frombuffer(trace.events.kind, dtype=np.uint8)
    failures = np.flatnonzero(kind == ALLOC_FAILED).tolist()
    if any(is_error_value(trace.events.va_start[i]) for i in failures):
        return ("6.19",), "failed attempts print an errno"
    return (("6.12", "6.1") if failures else ("6.19", "6.12", "6.1")), ""


def _shape(trace: Trace, setting: _Setting, kernel: KernelProfile) -> int:
    """The shape of the free tree at the start that agrees best with a piece of the trace; 0 when it is known."""
    if setting.start.kind not in ("snapshot", "rewound"):
        return 0
    last = min(_probe_end(trace), SHAPE_EVENTS if len(trace) <= LONG_TRACE else SHAPE_EVENTS // 2)
    perfect = int(np.count_nonzero(np.frombuffer(trace.events.kind, dtype=np.uint8)[:last] == ALLOC))
    best, best_score = 0, (-1, 0)
    for shape in range(setting.shapes):
        score = _probe(trace, setting, kernel, shape, last)
        if score > best_score:
            best, best_score = shape, score
        if score[0] == perfect:
            break
    return best


def _probe(trace: Trace, setting: _Setting, kernel: KernelProfile, shape: int, last: int) -> tuple[int, int]:
    """How well the first ``last`` events agree: (agreed, minus the reorderings that took)."""
    engine, plan = _engine(trace, setting, kernel, shape)
    engine.run(0, last)
    verdict = np.frombuffer(plan.verdict, dtype=np.uint8)
    return int(np.count_nonzero(verdict == AGREED)), -plan.counter[COUNTERS.index("reordered")]


def _probe_end(trace: Trace) -> int:
    """The event up to which the trace is replayed to find its kernel version."""
    kind = np.frombuffer(trace.events.kind, dtype=np.uint8)
    count = np.frombuffer(trace.events.count, dtype=np.uint64)
    purges = np.flatnonzero((kind == PURGE) & (count > 0))
    last = int(purges[PROBE_PURGES - 1]) + 4096 if len(purges) >= PROBE_PURGES else len(kind)
    return min(len(kind), last, PROBE_EVENTS)


def _engine(trace: Trace, setting: _Setting, kernel: KernelProfile, shape: int) -> tuple[Engine, Plan]:
    """An engine in the start state, with the events before the snapshot already done."""
    allocator = make_allocator(
        kernel, setting.window, _nodes(kernel, setting), setting.page_shift, setting.start, shape, trace.name
    )
    plan = make_plan(trace)
    plan.busy_bytes = sum(area.end - area.start for area in setting.start.areas if area.kind != "unpurged")
    _skip_before(trace, plan, setting)
    groups = chunk_groups(trace, setting.window, setting.snapshots)
    exact = setting.start.kind == "boot" and not trace.lost_events
    counted = exact or (setting.start.kind == "snapshot" and _lazy_pages_agree(trace, plan, setting))
    return Engine(allocator, trace, plan, groups, setting.slack, exact, counted, not setting.open_loop), plan


def _lazy_pages_agree(trace: Trace, plan: Plan, setting: _Setting) -> bool:
    """Tells whether the first free finds as many lazy pages as the snapshot shows: nothing was freed in between."""
    events = trace.events
    size = {area.start: area.end - area.start for area in setting.start.areas}
    lazy = sum(area.end - area.start for area in setting.start.areas if area.kind == "unpurged")
    for i in range(len(events)):
        if events.kind[i] == ALLOC:
            size[events.va_start[i]] = events.va_end[i] - events.va_start[i]
        elif events.kind[i] == FREE and not plan.done[i]:
            freed = size.get(events.va_start[i])
            return freed is not None and lazy + freed == events.count[i] << setting.page_shift
        elif events.kind[i] == PURGE and not plan.done[i]:
            return True
    return True


def _skip_before(trace: Trace, plan: Plan, setting: _Setting) -> None:
    """Marks what the snapshot before already contains as done: older events, and areas in flight that it shows."""
    events = trace.events
    reading = setting.before
    busy = {area.start for area in setting.start.areas if area.kind != "unpurged"}
    for i in range(reading.begin):
        plan.done[i] = 1
    for i in range(reading.begin, reading.end):
        kind, start = events.kind[i], events.va_start[i]
        if (kind == ALLOC and start in busy) or (kind == FREE and start not in busy):
            plan.done[i] = 1
    done = sum(1 for event in plan.purge_event if event < reading.begin)
    for column in (plan.purge_event, plan.purge_flush, plan.purge_bound, plan.purge_count, plan.purge_full):
        del column[:done]


def _run(engine: Engine, first: int, last: int, total: int, progress: Progress | None) -> int:
    """Runs the events ``[first, last)`` in steps; returns ``last``."""
    while first < last:
        upto = min(last, first + STEP)
        engine.run(first, upto)
        first = upto
        if progress is not None:
            progress(first, total)
    return last
