"""``Worker``: a kernel thread that runs the cases one after the other, as the module's workers do.

A worker is a generator of steps; the scheduler decides when it makes the next one and on which CPU, and counts the time
of its steps (``spent``).  So what a worker measures is its own work, not that of the CPUs between its steps: on a
kernel those run at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from time import perf_counter_ns
from traceback import clear_frames
from typing import Any

from vmalloc.errors import VmallocError
from vmalloc.workloads.cases import Case
from vmalloc.workloads.job import Job
from vmalloc.workloads.meter import Meter
from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.result import CaseResult, WorkerResult

__all__ = ["Worker"]

_REASONS = 3


class Worker:
    """A kernel thread.

    Args:
        number: of the worker. cpu: where it runs.
        space: where it allocates.
        cases: what it runs.
        results: where it writes what it found, by case.
        meter: told which case it is in.
        seed: of its random numbers, together with its number.
        done: called after each repetition.

    Attributes:
        steps: the generator.
        case: the case it is in; None before the first and after the last.
        spent: nanoseconds of its finished slices. since: when its slice began.
    """

    def __init__(
        self,
        number: int,
        cpu: int,
        space: Any,
        cases: Sequence[Case],
        results: dict[Case, CaseResult],
        parameters: Parameters,
        meter: Meter,
        seed: int,
        done: Callable[[], None],
    ) -> None:
        self.number = number
        self.cpu = cpu
        self.case: Case | None = None
        self.spent = 0
        self.since = 0
        self._space = space
        self._cases = list(cases)
        self._results = results
        self._parameters = parameters
        self._meter = meter
        self._random = Random(f"{seed}/{number}")
        self._done = done
        self.steps = self._run()

    def clock(self) -> int:
        """Nanoseconds that this worker has run, the running slice included."""
        return self.spent + perf_counter_ns() - self.since

    def _run(self) -> Iterator[None]:
        if not self._parameters.sequential_test_order:
            self._random.shuffle(self._cases)
        for case in self._cases:
            found = WorkerResult(self.number, self.cpu)
            found.loops = self._parameters.test_loop_count if case.has_loops else 1
            self._results[case].workers.append(found)
            self.case = case
            self._meter.switch(case)
            for _ in range(self._parameters.test_repeat_count):
                yield from self._repetition(case, found)
                self._done()
            self._space.run_deferred()  # what it left for workers is done on its account, not on that of the next case
        self.case = None

    def _repetition(self, case: Case, found: WorkerResult) -> Iterator[None]:
        info = self._space.machine.info
        job = Job(
            self._space, self._parameters, self._random, self.clock, 1 << info.page_shift, info.cpus
        )
        began = self.clock()
        try:
            yield from case.run(job)
        except VmallocError as error:
            if case.fails:
                found.xfailed += 1
            else:
                found.failed += 1
            self._note(case, error)
            clear_frames(error.__traceback__)  # frees the areas of the case now, not when cycles are collected
        else:
            found.passed += 1
        ended = self.clock()
        found.nanoseconds += ended - began
        loops_ended = ended if job.loops_ended is None else job.loops_ended
        found.loop_nanoseconds += loops_ended - (began if job.loops_began is None else job.loops_began)

    def _note(self, case: Case, error: VmallocError) -> None:
        reasons, reason = self._results[case].reasons, f"{type(error).__name__}: {error}"
        if reason not in reasons and len(reasons) < _REASONS:
            reasons.append(reason)
