"""The scheduler: which CPU makes the next step, and which of its workers.

Idea: on a kernel the CPUs run at the same time; here one of them makes one step, then another one, drawn at random, so
that any order of two CPUs' steps can happen, and the same seed gives the same order again.  What belongs to a CPU - its
pool, its lists of frames, its TLB, its waiting frees - is thus used in turn with that of the others.  A CPU with
several workers gives each a slice of ``SLICE`` steps.  At the end of a slice comes a tick: the CPU passes a quiescent
state of RCU, and so do those that are idle.

A CPU that is the only one left needs no drawing and runs slice by slice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from random import Random
from time import perf_counter_ns
from typing import Any

from vmalloc.workloads.meter import Meter
from vmalloc.workloads.worker import Worker

__all__ = ["SLICE", "Scheduler"]

#: Steps that a worker makes before its CPU ticks.
SLICE = 64


class _Cpu:
    """A CPU and its workers; the first one runs."""

    __slots__ = ("left", "number", "worker", "workers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.workers: deque[Worker] = deque()
        self.worker: Any = None
        self.left = SLICE


class Scheduler:
    """Runs workers to their ends.

    Args:
        space: whose machine has the CPUs.
        workers: each on its ``cpu``.
        meter: told which case runs.
        seed: of the order.
    """

    def __init__(self, space: Any, workers: Iterable[Worker], meter: Meter, seed: int) -> None:
        self._running = space.machine.running
        self._quiescent = space.rcu_quiescent
        self._meter = meter
        self._draw = Random(f"{seed}/order").random
        cpus = [_Cpu(number) for number in range(space.machine.info.cpus)]
        for worker in workers:
            cpus[worker.cpu].workers.append(worker)
        self._active = [cpu for cpu in cpus if cpu.workers]
        self._idle = [cpu.number for cpu in cpus if not cpu.workers]
        for cpu in self._active:
            cpu.worker = cpu.workers[0]

    def run(self) -> None:
        """Runs until every worker has ended."""
        before = self._running.cpu
        try:
            while len(self._active) > 1:
                self._run_drawn()
            while self._active:
                self._run_alone(self._active[0])
        finally:
            self._running.cpu = before
        self._meter.switch(None)

    def _run_drawn(self) -> None:
        """Draws CPUs until one has nothing left to do."""
        active, running, meter, draw, now = self._active, self._running, self._meter, self._draw, perf_counter_ns
        count = len(active)
        while True:
            cpu = active[int(draw() * count)]
            worker = cpu.worker
            running.cpu = cpu.number
            if worker.case is not meter.case:
                meter.switch(worker.case)
            worker.since = now()
            try:
                next(worker.steps)
            except StopIteration:
                worker.spent += now() - worker.since
                if self._end(cpu):
                    return
                continue
            worker.spent += now() - worker.since
            cpu.left -= 1
            if cpu.left == 0:
                self._tick(cpu)

    def _run_alone(self, cpu: _Cpu) -> None:
        """Runs a slice of the only CPU that has something to do."""
        worker = cpu.worker
        self._running.cpu = cpu.number
        self._meter.switch(worker.case)
        made = 0
        worker.since = perf_counter_ns()
        for _ in islice(worker.steps, SLICE):
            made += 1
        worker.spent += perf_counter_ns() - worker.since
        if made < SLICE:
            self._end(cpu)
        else:
            self._tick(cpu)

    def _end(self, cpu: _Cpu) -> bool:
        """The worker of a CPU has ended; whether it was the last one there."""
        cpu.workers.popleft()
        if cpu.workers:
            cpu.worker = cpu.workers[0]
            return False
        self._active.remove(cpu)
        self._idle.append(cpu.number)
        self._quiescent(*self._idle)
        return True

    def _tick(self, cpu: _Cpu) -> None:
        """Ends a slice: the next worker's turn."""
        cpu.left = SLICE
        cpu.workers.rotate(-1)
        cpu.worker = cpu.workers[0]
        self._quiescent(cpu.number, *self._idle)
