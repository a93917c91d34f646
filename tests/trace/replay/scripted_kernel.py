"""A kernel whose every step, and every event, is written down by a test: traces with known truth, made by hand.

A step happens when its method is called, on the package's own ``Allocator``; the event it causes is returned and goes
into the trace only with ``write``, so a test chooses both orders freely::

    kernel = ScriptedKernel(cpus=2)
    early = kernel.alloc(1, cpu=1)
    late = kernel.alloc(1, cpu=0)
    kernel.write(late, early)          # the events change places

Each event is written one microsecond after the one before; ``wait`` lets more time pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmalloc.areas.allocator import Allocator
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.states import is_error_value
from vmalloc.kernels import nr_vmap_nodes, profile
from vmalloc.trace.events import (
    ALLOC,
    ALLOC_FAILED,
    FLUSH,
    FREE,
    LOST,
    MARK,
    PCPU_CREATE,
    PURGE,
    PURGE_BEGIN,
    Trace,
)
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.replay.result import ReplayResult
from vmalloc.trace.vmallocinfo import UNPURGED, Snapshot, SnapshotArea
from vmalloc.units import ADDRESS_MAX

PAGE = 4096
US = 1000
MS = 1000 * US
WINDOW = (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF)
#: A second window, as that of modules: it has no pools, and it is small enough to overflow.
MODULES = (0xFFFFFFFFC0000000, 0xFFFFFFFFC0000000 + 64 * PAGE)


def page(number: int) -> int:
    """The address of page ``number`` of the vmalloc range."""
    return WINDOW[0] + number * PAGE


@dataclass(frozen=True)
class Event:
    """An event that has happened and may be written."""

    kind: int
    cpu: int
    pid: int
    va_start: int = 0
    va_end: int = 0
    count: int = 0
    align: int = 0
    window: tuple[int, int] = WINDOW

    @property
    def pages(self) -> range:
        """Page numbers of an allocation in the vmalloc range."""
        return range((self.va_start - WINDOW[0]) // PAGE, (self.va_end - WINDOW[0]) // PAGE)


class ScriptedKernel:
    """A machine; a task's pid is 100 plus its CPU unless the test says otherwise, and a purge is run by pid 2."""

    def __init__(self, kernel: str = "6.12", cpus: int = 1) -> None:
        self.kernel = profile(kernel)
        self.nodes = nr_vmap_nodes(self.kernel, cpus)
        self.cpus = cpus
        known = self.kernel
        self.allocator = Allocator(
            *WINDOW, self.nodes, 12,
            known.merges_lazy, known.small_pools_drain, known.returns_ascending, known.walk_step,
        )
        self.allocator.free.add(1, ADDRESS_MAX)
        self.trace = Trace("hand-made", windows=[WINDOW, MODULES], cpus=cpus, source="tracepoints")
        self.now = 0

    # -- what happens -----------------------------------------------------------------------------------------------

    def alloc(
        self, pages: int, *, cpu: int = 0, pid: int | None = None, align: int = 1, window: tuple[int, int] = WINDOW,
        try_pool: bool = True,
    ) -> Event:
        """One attempt to allocate; the event says whether it failed."""
        size = pages * PAGE
        start = self.allocator.allocate(size, align, *window, cpu, 0, try_pool)
        pid = 100 + cpu if pid is None else pid
        if is_error_value(start):
            printed = start if self.kernel.failure_is_errno else window[1]
            return Event(ALLOC_FAILED, cpu, pid, printed, size, align=align, window=window)
        return Event(ALLOC, cpu, pid, start, start + size, align=align, window=window)

    def free(self, area: Event | int, *, cpu: int = 0, pid: int | None = None) -> Event:
        """Makes an area lazy."""
        start = area if isinstance(area, int) else area.va_start
        assert self.allocator.free_lazily(start) == 0
        pid = 100 + cpu if pid is None else pid
        return Event(FREE, cpu, pid, start, count=self.allocator.nodes.nr_lazy)

    def begin_purge(self, *, full: bool = False) -> None:
        """Decays and detaches on every node."""
        self.allocator.purge.do_begin(ADDRESS_MAX, 0, full)
        for node in range(self.nodes):
            self.allocator.purge.do_decay(node, full)
            self.allocator.purge.do_detach(node)

    def finish_purge(self, *, cpu: int = 0, pid: int = 2) -> Event:
        """Refills and gives back what is left of every node."""
        purge = self.allocator.purge
        for node in range(self.nodes):
            purge.do_finish(node)
        return Event(PURGE, cpu, pid, purge.start, purge.end, purge.count)

    def purge(self, *, full: bool = False, cpu: int = 0, pid: int = 2) -> Event:
        """A whole purge."""
        self.begin_purge(full=full)
        return self.finish_purge(cpu=cpu, pid=pid)

    def chunk(self, groups: PcpuGroups, *, cpu: int = 0) -> Event:
        """Creates a per-CPU chunk."""
        base = self.allocator.claim_groups(groups)
        assert not is_error_value(base)
        return Event(PCPU_CREATE, cpu, 100 + cpu, base)

    # -- what is recorded -------------------------------------------------------------------------------------------

    def write(self, *events: Event) -> Event:
        """Writes events, one microsecond apart; returns the last."""
        for event in events:
            self.now += US
            self._append(event)
        return events[-1]

    def write_at_once(self, *events: Event) -> None:
        """Writes events with one and the same time stamp."""
        self.now += US
        for event in events:
            self._append(event)

    def flush(self, *, cpu: int = 0, pid: int = 2) -> None:
        """Writes the flush inside a purge."""
        self.write(Event(FLUSH, cpu, pid))

    def work(self, *, cpu: int = 0, pid: int = 2) -> None:
        """Writes that the drain work starts."""
        self.write(Event(PURGE_BEGIN, cpu, pid))

    def mark(self, text: str) -> None:
        """Writes a marker."""
        self.trace.marks.append(text)
        self.write(Event(MARK, 0, 1, count=len(self.trace.marks) - 1))

    def lose(self, count: int) -> None:
        """Writes that events were lost."""
        self.trace.lost_events += count
        self.write(Event(LOST, 0, 0, count=count))

    def wait(self, nanoseconds: int) -> None:
        """Lets time pass."""
        self.now += nanoseconds

    def _append(self, event: Event) -> None:
        self.trace.events.append(
            event.kind, cpu=event.cpu, pid=event.pid, timestamp=self.now, va_start=event.va_start, va_end=event.va_end,
            count=event.count, align=event.align, window=self.trace.windows.index(event.window),
            line=len(self.trace) + 1,
        )

    # -- shortcuts --------------------------------------------------------------------------------------------------

    def allocs(self, *pages: int, cpu: int = 0, align: int = 1) -> list[Event]:
        """Allocates and records areas one after the other."""
        return [self.write(self.alloc(number, cpu=cpu, align=align)) for number in pages]

    def frees(self, *areas: Event, cpu: int = 0) -> None:
        """Frees and records areas one after the other."""
        for area in areas:
            self.write(self.free(area, cpu=cpu))

    def purges(self, *, full: bool = False) -> None:
        """Runs and records a purge, without a flush event."""
        self.write(self.purge(full=full))

    def fill_pool(self, pages: int, count: int, *, cpu: int = 0) -> list[Event]:
        """Allocates, frees and purges ``count`` areas; returns what the pool holds now, head first."""
        areas = self.allocs(*[pages] * count, cpu=cpu)
        self.frees(*areas, cpu=cpu)
        self.purges()
        return areas[::-1]

    def pool(self, pages: int, *, cpu: int = 0) -> list[int]:
        """Page numbers at which the entries of a pool start, head first."""
        nodes, rows = self.allocator.nodes, self.allocator.rows
        entries = (rows.get(v) for v in nodes.pools.entries(cpu % self.nodes, pages))
        return [(row["va_start"] - WINDOW[0]) // PAGE for row in entries]

    def snapshot(self, name: str) -> Snapshot:
        """What ``/proc/vmallocinfo`` would show now: busy areas, then lazy ones node by node."""
        nodes, rows = self.allocator.nodes, self.allocator.rows
        found = []
        for kind, rows_of in (("area", nodes.busy), (UNPURGED, nodes.lazy)):
            for node in range(self.nodes):
                for row in (rows.get(v) for v in rows_of(node)):
                    start, end = row["va_start"], row["va_end"]
                    found.append(SnapshotArea(start, end, end - start, kind=kind))
        return Snapshot(name, found)

    def replay(self, **settings: object) -> ReplayResult:
        """Replays the trace, in open loop with the right version unless told otherwise."""
        settings = {"kernel": self.kernel.name, "open_loop": True} | settings
        return replay(self.trace, **settings)  # type: ignore[arg-type]
