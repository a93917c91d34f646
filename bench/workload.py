"""Synthetic traces whose every address is right: the allocator itself, run as if it were a kernel.

Idea: a benchmark of replay needs traces with a chosen number of live areas, and no recording has a million.  So a
``Kernel`` holds the package's own ``Allocator`` and does to it what a kernel's callers do - allocate, free, purge when
the lazy pages exceed the kernel's threshold - and a ``Recorder`` writes down each call as the event a kernel would
trace.  Replayed since boot, such a trace must agree completely (``Replay.check``): a benchmark of wrong answers would
be worth nothing.

Two ways to make events, because ten million Python steps are too slow and real callers do not come in batches:

* in batches (``populate``, ``Recorder.allocate``, ``free``): ``map`` over whole columns, 0.2 to 1 us per event; for
  bringing an address space to its size, and for the segments of one kind that ``bench_areas`` times;
* one by one (``Recorder.churn``): allocations and frees in random order on random CPUs, purges where they fall due.

The sizes are spread as in the recording ``h04_mix_2cpu``: 93 % of 2 to 9 pages, guard included, 5 % of 10 to 64, 1 % of
more; three in ten are kernel stacks (5 pages, aligned to 16 KiB), which are eight in ten there.  ``populate`` allocates
a quarter more than wanted and frees that quarter at random, so that with what alignment leaves over there are three
holes for every ten areas: a set of areas without holes would make every search trivial.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from vmalloc.areas.allocator import Allocator
from vmalloc.kernels import PROFILES, lazy_max_pages, nr_vmap_nodes
from vmalloc.trace.events import ALLOC, COLUMNS, FREE, PURGE, EventTable, Trace
from vmalloc.trace.replay.engine import Engine
from vmalloc.trace.replay.plan import make_plan
from vmalloc.trace.replay.replay import SLACK
from vmalloc.trace.replay.start import Start, make_allocator
from vmalloc.trace.replay.verdicts import AGREED
from vmalloc.units import ADDRESS_MAX, KIB, PAGE_SHIFT, PAGE_SIZE

__all__ = [
    "BATCH",
    "KERNEL",
    "STACK_ALIGN",
    "STACK_PAGES",
    "SURPLUS",
    "WINDOW",
    "Kernel",
    "Recorder",
    "Replay",
    "Requests",
    "Workload",
    "make_kernel",
    "mixed",
    "stacks",
    "steady",
    "unaligned",
]

KERNEL = "6.19"
#: The vmalloc range of x86-64 with four page-table levels, as tracepoints print it.
WINDOW = (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF)
STACK_PAGES, STACK_ALIGN = 5, 16 * KIB

#: Calls per batch: bounds the memory of the Python integers in between.
BATCH = 1 << 16
#: ``populate`` allocates this share more than it leaves live.
SURPLUS = 0.25

#: PID of the task that traces on CPU 0; CPU n has the n-th after it.  And of the worker that purges.
FIRST_PID, PURGE_PID = 1000, 11

Column = NDArray[np.uint64]


@dataclass(frozen=True)
class Requests:
    """A batch of requests: sizes and alignments in bytes, guard pages included."""

    size: Column
    align: Column

    def __len__(self) -> int:
        return len(self.size)


def stacks(_rng: np.random.Generator, count: int) -> Requests:
    """Kernel stacks only: 5 pages aligned to 16 KiB."""
    return Requests(
        np.full(count, STACK_PAGES << PAGE_SHIFT, dtype=np.uint64), np.full(count, STACK_ALIGN, dtype=np.uint64)
    )


def unaligned(rng: np.random.Generator, count: int) -> Requests:
    """Page-aligned requests: 90.5 % of 2 to 9 pages, 7.6 % of 10 to 64, 1.9 % of 65 to 513."""
    which = rng.random(count)
    pages = 1 + np.minimum(rng.geometric(0.35, count), 8)
    pages = np.where(which > 0.905, rng.integers(10, 65, count), pages)
    pages = np.where(which > 0.981, rng.integers(65, 514, count), pages)
    return Requests(pages.astype(np.uint64) << np.uint64(PAGE_SHIFT), np.ones(count, dtype=np.uint64))


def mixed(rng: np.random.Generator, count: int) -> Requests:
    """Three in ten ``stacks``, the others ``unaligned``."""
    stack = rng.random(count) < 0.3
    other, own = unaligned(rng, count), stacks(rng, count)
    return Requests(np.where(stack, own.size, other.size), np.where(stack, own.align, other.align))


class Kernel:
    """An allocator, and which areas its callers hold.

    Args:
        cpus: possible CPUs; with one there is one vmap node and no pool.
        room: the most areas that will be live at once.
        seed: of the choice of requests, CPUs and areas to free.

    Attributes:
        start, size: the live areas, in no order; only the first ``live`` entries count.
        lazy_max: pages; a purge is due above it.
    """

    def __init__(self, cpus: int, room: int, seed: int) -> None:
        self.cpus = cpus
        self.allocator = make_kernel(cpus)
        self.rng = np.random.default_rng(seed)
        # Filled, not only reserved: who measures memory wants these pages to be there before the first area.
        self.start = np.full(room, 1, dtype=np.uint64)
        self.size = np.full(room, 1, dtype=np.uint64)
        self.live = 0
        self.lazy_max = lazy_max_pages(cpus)

    @property
    def nr_lazy(self) -> int:
        """Pages freed but not purged."""
        return int(self.allocator.nodes.nr_lazy)

    def allocate(self, requests: Requests, cpu: NDArray[np.integer]) -> Column:
        """Makes the requests, each on its CPU; returns the addresses."""
        n = len(requests)
        found = np.fromiter(
            map(
                self.allocator.allocate, requests.size.tolist(), requests.align.tolist(), repeat(WINDOW[0]),
                repeat(WINDOW[1]), cpu.tolist(), repeat(0), repeat(True),
            ),
            dtype=np.uint64, count=n,
        )
        assert int(found.max(initial=0)) < WINDOW[1], "an allocation failed"
        self.start[self.live : self.live + n] = found
        self.size[self.live : self.live + n] = requests.size
        self.live += n
        return found

    def take(self, count: int) -> tuple[Column, Column]:
        """Chooses ``count`` live areas at random and takes them off the list; returns their addresses and sizes."""
        chosen = self.rng.choice(self.live, count, replace=False, shuffle=True)
        starts, sizes = self.start[chosen], self.size[chosen]
        rest = self.live - count
        tail = np.ones(count, dtype=bool)
        tail[chosen[chosen >= rest] - rest] = False
        gaps, movers = chosen[chosen < rest], rest + np.flatnonzero(tail)
        self.start[gaps], self.size[gaps] = self.start[movers], self.size[movers]
        self.live = rest
        return starts, sizes

    def free(self, starts: Column) -> None:
        """Frees areas lazily, in this order."""
        failed = sum(map(self.allocator.free_lazily, starts.tolist()))
        assert not failed, "an area to be freed was not busy"

    def purge(self) -> tuple[int, int, int]:
        """Purges as the drain worker does: ``(start, end, count)`` as the kernel traces it."""
        found: tuple[int, int, int] = self.allocator.run_purge(ADDRESS_MAX, 0, False)
        return found

    def random_cpus(self, count: int) -> NDArray[np.integer]:
        """A CPU for each of ``count`` calls."""
        return self.rng.integers(0, self.cpus, count)


def make_kernel(cpus: int) -> Allocator:
    """An allocator as it is at boot."""
    profile = PROFILES[KERNEL]
    return make_allocator(profile, WINDOW, nr_vmap_nodes(profile, cpus), PAGE_SHIFT, Start("boot"), 0, "workload")


class Recorder:
    """Lets a ``Kernel`` work and writes down the events it would trace.

    ``kernel`` may be worked with directly only before the first event.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.events = 0
        self._parts: dict[str, list[NDArray[np.generic]]] = {name: [] for name in COLUMNS}

    def populate(self, live: int) -> None:
        """Brings the address space to ``live`` areas with holes between them (see the module's opening)."""
        kernel = self.kernel
        for requests in batches(kernel.rng, int(live * (1 + SURPLUS))):
            self.allocate(requests)
        while kernel.live > live:
            self.free(min(kernel.live - live, 256))
            self.purge_if_due()

    def allocate(self, requests: Requests) -> None:
        """One allocation per request, on random CPUs."""
        cpu = self.kernel.random_cpus(len(requests))
        found = self.kernel.allocate(requests, cpu)
        end = found + requests.size
        self._write(len(requests), kind=ALLOC, cpu=cpu, va_start=found, va_end=end, align=requests.align)

    def free(self, count: int) -> None:
        """Frees ``count`` areas at random, on random CPUs."""
        lazy = self.kernel.nr_lazy
        starts, sizes = self.kernel.take(count)
        self.kernel.free(starts)
        nr_lazy = lazy + np.cumsum(sizes >> np.uint64(PAGE_SHIFT))
        self._write(count, kind=FREE, cpu=self.kernel.random_cpus(count), va_start=starts, count=nr_lazy)

    def purge_if_due(self) -> int:
        """Purges when the lazy pages exceed the threshold; returns the number of areas purged."""
        if self.kernel.nr_lazy <= self.kernel.lazy_max:
            return 0
        start, end, count = self.kernel.purge()
        self._write(1, kind=PURGE, pid=PURGE_PID, va_start=start, va_end=end, count=count)
        return count

    def churn(self, events: int) -> None:
        """At least ``events`` events one by one: allocations and frees in random order, purges when due.

        The number of live areas stays within a sixteenth of what it is now.
        """
        for first in range(0, events, BATCH):
            self._churn(min(BATCH, events - first), self.kernel.live)

    def _churn(self, events: int, live: int) -> None:
        """One batch of ``churn`` around ``live`` areas. A plain loop over lists: the fastest spelling in Python."""
        kernel = self.kernel
        allocate, free = kernel.allocator.allocate, kernel.allocator.free_lazily
        low, high = live - live // 16, live + live // 16
        wanted = mixed(kernel.rng, events)
        sizes, aligns, cpus = wanted.size.tolist(), wanted.align.tolist(), kernel.random_cpus(events).tolist()
        coins, picks = kernel.rng.random(events).tolist(), kernel.rng.random(events).tolist()
        starts, held = kernel.start[: kernel.live].tolist(), kernel.size[: kernel.live].tolist()
        lazy, lazy_max = kernel.nr_lazy, kernel.lazy_max
        rows: list[tuple[int, int, int, int, int, int, int]] = []  # kind, cpu, pid, va_start, va_end, count, align
        for size, align, cpu, coin, pick in zip(sizes, aligns, cpus, coins, picks, strict=True):
            n = len(starts)
            if n < low or (n <= high and coin < 0.5):
                start = allocate(size, align, WINDOW[0], WINDOW[1], cpu, 0, True)
                starts.append(start)
                held.append(size)
                rows.append((ALLOC, cpu, FIRST_PID + cpu, start, start + size, 0, align))
                continue
            chosen = int(pick * n)
            start = starts[chosen]
            lazy += held[chosen] // PAGE_SIZE
            starts[chosen], held[chosen] = starts[-1], held[-1]
            starts.pop()
            held.pop()
            free(start)
            rows.append((FREE, cpu, FIRST_PID + cpu, start, 0, lazy, 0))
            if lazy > lazy_max:
                lazy = 0
                hull_start, hull_end, count = kernel.purge()
                rows.append((PURGE, 0, PURGE_PID, hull_start, hull_end, count, 0))
        kernel.live = len(starts)
        kernel.start[: kernel.live], kernel.size[: kernel.live] = starts, held
        table = np.array(rows, dtype=np.uint64).T
        names = ("kind", "cpu", "pid", "va_start", "va_end", "count", "align")
        self._write(len(rows), **dict(zip(names, table, strict=True)))

    def _write(self, rows: int, /, **columns: object) -> None:
        """Adds ``rows`` rows; a column not given is 0, a single value is repeated."""
        if "pid" not in columns:
            columns["pid"] = FIRST_PID + np.asarray(columns["cpu"])
        for name, parts in self._parts.items():
            value = np.asarray(columns.get(name, 0)).astype(COLUMNS[name])
            parts.append(np.ascontiguousarray(np.broadcast_to(value, rows)))
        self.events += rows

    def trace(self) -> Trace:
        """The trace of all events so far; the recorder is empty afterwards."""
        events = EventTable()
        number = np.arange(self.events)
        self._parts["timestamp"] = [(number * 1000).astype(COLUMNS["timestamp"])]
        self._parts["line"] = [(number + 1).astype(COLUMNS["line"])]
        for name, code in COLUMNS.items():
            column = array(code)
            for part in self._parts.pop(name):
                column.frombytes(part.view(np.uint8).data)
            setattr(events, name, column)
        return Trace("synthetic", events, [WINDOW], cpus=self.kernel.cpus, source="tracepoints")


def batches(rng: np.random.Generator, count: int) -> list[Requests]:
    """``count`` mixed requests in batches."""
    return [mixed(rng, min(BATCH, count - first)) for first in range(0, count, BATCH)]


@dataclass(frozen=True)
class Workload:
    """A trace, and which of its events are to be timed.

    Attributes:
        trace: since boot.
        cpus: possible CPUs.
        live: areas live in the timed part, about.
        first: the first event of the timed part, which lasts to the end; what is before brings the space to its size.
        held: addresses of the areas live at the end.
    """

    trace: Trace
    cpus: int
    live: int
    first: int
    held: Column = field(repr=False)


def steady(live: int, events: int, cpus: int, seed: int = 1) -> Workload:
    """``live`` areas, and then about ``events`` events that keep their number."""
    kernel = Kernel(cpus, int(live * (1 + SURPLUS)) + BATCH, seed)
    recorder = Recorder(kernel)
    recorder.populate(live)
    first = recorder.events
    recorder.churn(events)
    return Workload(recorder.trace(), cpus, live, first, kernel.start[: kernel.live].copy())


class Replay:
    """A workload on the replay's engine, from boot and open loop: nothing is ever corrected."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.plan = make_plan(workload.trace)
        self.engine = Engine(make_kernel(workload.cpus), workload.trace, self.plan, None, SLACK, True, True, False)

    def run(self, first: int, last: int) -> None:
        """Replays the events ``[first, last)``."""
        self.engine.run(first, last)

    def check(self) -> None:
        """Compares: every allocation of the trace must be at its recorded address.

        Raises:
            AssertionError: one is not, or was not replayed.
        """
        kind = np.frombuffer(self.workload.trace.events.kind, dtype=np.uint8)
        allocations = int(np.count_nonzero(kind == ALLOC))
        agreed = int(np.count_nonzero(np.frombuffer(self.plan.verdict, dtype=np.uint8) == AGREED))
        assert agreed == allocations, f"{agreed:,} of {allocations:,} allocations at their recorded address"
