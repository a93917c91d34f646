"""A recorder of interleavings: a small simulated kernel with several CPUs, whose traces come with the truth.

Real recordings show few of the orders that several CPUs can produce.  Here tasks run on CPUs as generators; each
``yield`` is a place where other CPUs may act, because the kernel holds no lock there:

* an allocation looks at its pool, and later searches the free tree; a free makes its area lazy; *later still* the event
  is written, by the CPU the task is on then;
* a purge decays and detaches node by node, flushes (``FLUSH`` events may be recorded or not), and refills area by area;
* a task can be preempted at any of these places by another task of its CPU, move to another CPU, or sleep; a CPU can
  pause, as emulated CPUs do.

What decides addresses is the package's own ``Allocator``, which other tests hold against an oracle and against real
kernels: it is the *order* that is on trial here.  A trace is wholly determined by its ``Load``, seed included.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace

from scripted_kernel import MODULES, MS, PAGE, US, WINDOW, Event, ScriptedKernel

from vmalloc.areas.states import NIL
from vmalloc.trace.events import ALLOC_FAILED, FLUSH, KIND_NAMES, PURGE, PURGE_BEGIN, QUEUE_DRAIN
from vmalloc.units import ADDRESS_MAX


@dataclass(frozen=True)
class Load:
    """What runs, and how concurrently; times are means in nanoseconds.

    Attributes:
        kernel, cpus, seed: the machine.
        tasks_per_cpu: tasks that allocate and free.
        operations: allocations and frees in all.
        think: pause of a task between two calls.
        gap: between two steps inside a call.
        late: between an operation and its event.
        very_late: share of events that are up to ``longest`` late.
        longest: the longest delay of an event.
        preempt, migrate, pause: chance, at each step, that another task of the CPU runs, that the task moves to another
            CPU, that the whole CPU stops for up to ``longest``.
        flush_events: ``csd_queue_cpu`` is recorded.
        work_events: the workqueue's events are recorded.
        lazy_max: pages; a drain is queued above it.
        sizes: ``(pages, align)`` of requests, guard included.
        modules: share of requests for the small window.
        aliases: share of operations that are ``vm_unmap_aliases()``.
        busy: areas a task holds on average.
    """

    kernel: str = "6.12"
    cpus: int = 2
    seed: int = 0
    tasks_per_cpu: int = 2
    operations: int = 2000
    think: int = 200 * US
    gap: int = 300
    late: int = 500
    very_late: float = 0.0
    longest: int = 3 * MS
    preempt: float = 0.0
    migrate: float = 0.0
    pause: float = 0.0
    flush_events: bool = True
    work_events: bool = True
    lazy_max: int = 128
    sizes: tuple[tuple[int, int], ...] = (
        (2, 1), (2, 1), (3, 1), (5, 4 * PAGE), (5, 4 * PAGE), (9, 1), (33, 1), (300, 1),
    )  # fmt: skip
    modules: float = 0.0
    aliases: float = 0.0
    busy: int = 8


#: Calls seldom meet, and events are hardly late: what most recordings of real machines look like.
MILD = Load(think=2000 * US, gap=100, late=100, lazy_max=1000)
#: Calls meet now and then, and one call in seven is followed by a purge.
BUSY = Load()
#: Calls meet all the time; events are late by milliseconds, tasks are preempted and moved, CPUs pause.
STRONG = replace(BUSY, think=5 * US, gap=1 * US, late=3 * US, very_late=0.02, preempt=0.02, migrate=0.002, pause=0.001)

Steps = Generator[tuple[str, int], None, None]


@dataclass
class Task:
    """A task: its generator, where it is, and the areas it holds."""

    pid: int
    cpu: int
    steps: Steps | None = None
    areas: list[int] = field(default_factory=list)


class SimulatedKernel(ScriptedKernel):
    """One run; ``trace`` is what ftrace would show, ``allocator`` the true state at the end."""

    def __init__(self, load: Load) -> None:
        super().__init__(load.kernel, load.cpus)
        self.load = load
        self.random = random.Random(repr(load))
        self.trace.nr_lazy_max = load.lazy_max
        self.operations = 0
        #: What happened when, as ``(time, pid, text)``: the true order, for whoever studies a failure.
        self.history: list[tuple[int, int, str]] = []
        self._running: list[Task | None] = [None] * load.cpus
        self._ready: list[deque[Task]] = [deque() for _ in range(load.cpus)]
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._purging = False
        self._waiting: deque[Task] = deque()
        self._drain_queued = False
        self._worker = Task(2, 0)
        self._worker_sleeps = False

    # -- the scheduler ----------------------------------------------------------------------------------------------

    def run(self) -> SimulatedKernel:
        """Runs the load to its end."""
        first = Task(1, 0)
        for _ in self._alloc(first, 2, 1, WINDOW):
            self.now += US
        self._worker.steps = self._drain(self._worker)
        self._start(self._worker)
        for number in range(self.load.cpus * self.load.tasks_per_cpu):
            task = Task(100 + number, number % self.load.cpus)
            task.steps = self._work(task)
            self._start(task)
        while self._agenda:
            self.now, _, act = heapq.heappop(self._agenda)
            act()
        return self

    def _at(self, time: int, act: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._agenda, (time, self._sequence, act))

    def _start(self, task: Task) -> None:
        """Makes a task ready to run on its CPU."""
        self._ready[task.cpu].append(task)
        if self._running[task.cpu] is None:
            self._next_task(task.cpu)

    def _next_task(self, cpu: int) -> None:
        self._running[cpu] = self._ready[cpu].popleft() if self._ready[cpu] else None
        if self._running[cpu] is not None:
            self._at(self.now + self._span(self.load.gap), lambda: self._step(cpu))

    def _step(self, cpu: int) -> None:
        """Lets the running task of a CPU take one step."""
        task = self._running[cpu]
        assert task is not None
        assert task.steps is not None
        try:
            what, span = next(task.steps)
        except StopIteration:
            self._next_task(cpu)
            return
        if what == "sleep":
            self._at(self.now + span, lambda: self._start(task))
            self._next_task(cpu)
        elif what == "block":  # somebody else starts it again
            self._next_task(cpu)
        elif self.random.random() < self.load.migrate and self.load.cpus > 1:
            task.cpu = (cpu + self.random.randrange(1, self.load.cpus)) % self.load.cpus
            self._next_task(cpu)
            self._at(self.now + span, lambda: self._start(task))
        elif self._ready[cpu] and self.random.random() < self.load.preempt:
            self._ready[cpu].append(task)
            self._next_task(cpu)
        else:
            if self.random.random() < self.load.pause:
                span += self.random.randrange(self.load.longest)
            self._at(self.now + span, lambda: self._step(cpu))

    def _span(self, mean: int) -> int:
        return int(self.random.expovariate(1 / mean)) + 1 if mean else 0

    def _late(self) -> int:
        """How long after an operation its event is written."""
        if self.random.random() < self.load.very_late:
            return self.random.randrange(self.load.longest)
        return self._span(self.load.late)

    # -- what tasks do ----------------------------------------------------------------------------------------------

    def _work(self, task: Task) -> Steps:
        """A task's life: it allocates and frees until the operations are used up."""
        load, draw = self.load, self.random
        while self.operations < load.operations:
            self.operations += 1
            yield "sleep", self._span(load.think)
            if draw.random() < load.aliases:
                yield from self._purge(task, full=False)
            elif draw.random() * 2 * load.busy >= len(task.areas):
                pages, align = draw.choice(load.sizes)
                window = MODULES if draw.random() < load.modules else WINDOW
                if window == MODULES:
                    pages, align = min(pages, 9), 1
                yield from self._alloc(task, pages, align, window)
            else:
                yield from self._free(task, task.areas.pop(draw.randrange(len(task.areas))))

    def _alloc(self, task: Task, pages: int, align: int, window: tuple[int, int]) -> Steps:
        cpu = task.cpu
        pooled = self.nodes > 1 and window == WINDOW and pages <= 256
        hit = pooled and self.allocator.nodes.pools.description(cpu % self.nodes, pages)[0] != NIL
        if not hit:
            yield "go", self._span(self.load.gap)
        event = self.alloc(pages, cpu=cpu, align=align, window=window, try_pool=hit)
        self._note(task, f"alloc {pages} pages at {event.va_start:#x}{' (pool)' if hit else ''} for CPU {cpu}")
        yield "go", self._late()
        self._write(task, event)
        if event.kind == ALLOC_FAILED:
            yield from self._purge(task, full=True)
            event = self.alloc(pages, cpu=task.cpu, align=align, window=window, try_pool=False)
            self._note(task, f"retry of {pages} pages: {event.va_start:#x}")
            yield "go", self._late()
            self._write(task, event)
            if event.kind == ALLOC_FAILED:
                return
        task.areas.append(event.va_start)

    def _free(self, task: Task, start: int) -> Steps:
        yield "go", self._span(self.load.gap)
        event = self.free(start)
        self._note(task, f"free {start:#x}")
        yield "go", self._late()
        self._write(task, event)
        if event.count > self.load.lazy_max and not self._drain_queued:
            self._drain_queued = True
            if self.load.work_events:
                self._write(task, Event(QUEUE_DRAIN, 0, 0))
            if self._worker_sleeps:
                self._worker_sleeps = False
                self._worker.cpu = task.cpu
                self._start(self._worker)

    def _drain(self, task: Task) -> Steps:
        """The kernel worker: drains when told to."""
        while True:
            if not self._drain_queued:
                self._worker_sleeps = True
                yield "block", 0
                continue
            self._drain_queued = False
            if self.load.work_events:
                self._write(task, Event(PURGE_BEGIN, 0, 0))
            yield from self._purge(task, full=False)

    def _purge(self, task: Task, *, full: bool) -> Steps:
        """A purge in the kernel's steps (specification section 4.9), under its mutex."""
        while self._purging:
            self._waiting.append(task)
            yield "block", 0
        self._purging = True
        purge, load = self.allocator.purge, self.load
        purge.do_begin(ADDRESS_MAX, 0, full)
        marked = []
        for node in range(self.nodes):
            purge.do_decay(node, full)
            self._note(task, f"decayed node {node}")
            yield "go", self._span(load.gap)
            if purge.do_detach(node) != NIL:
                marked.append(node)
            self._note(task, f"detached node {node}")
            yield "go", self._span(load.gap)
        if marked:
            yield from self._flush(task)
        for node in marked:
            while purge.do_step(node):
                yield "go", self._span(load.gap // 4)
            purge.do_finish(node)
            self._note(task, f"refilled node {node}")
            yield "go", self._span(load.gap)
        yield "go", self._late()
        self._write(task, Event(PURGE, 0, 0, purge.start, purge.end, purge.count))
        self._purging = False
        if self._waiting:
            self._start(self._waiting.popleft())

    def _flush(self, task: Task) -> Steps:
        for _ in range(self.load.cpus - 1):
            if self.load.flush_events:
                self._write(task, Event(FLUSH, 0, 0))
            yield "go", self._span(self.load.gap // 4)
        yield "go", self._span(10 * self.load.gap)

    # -- the recording ----------------------------------------------------------------------------------------------

    def _note(self, task: Task, text: str) -> None:
        self.history.append((self.now, task.pid, text))

    def _write(self, task: Task, event: Event) -> None:
        """Writes an event of ``task``, on the CPU it is on now; the clock of a trace shows microseconds."""
        exact, self.now = self.now, self.now // US * US
        self._append(replace(event, cpu=task.cpu, pid=task.pid))
        self.now = exact
        self._note(task, f"  event {len(self.trace) - 1}, {KIND_NAMES[event.kind]} {event.va_start:#x}")


def record(load: Load) -> SimulatedKernel:
    """Runs a load and returns the kernel with its trace."""
    return SimulatedKernel(load).run()
