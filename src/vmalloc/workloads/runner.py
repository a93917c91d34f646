"""``run_workloads``: the kernel's test module on a space.

It is the module's ``init``: workers on the CPUs in turn, each with the same cases, until all have ended; then what is
left to free is freed, and the space is looked at.  It knows of a space what its public calls say, so any machine will
do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from vmalloc.workloads.cases import cases_of, missing_calls
from vmalloc.workloads.meter import Meter
from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.result import CaseResult, RunResult
from vmalloc.workloads.scheduler import Scheduler
from vmalloc.workloads.worker import Worker

__all__ = ["run_workloads"]

#: What is told of the space at the end, by the names of ``stats``.
END = (
    "fragmentation", "largest_free", "free_blocks", "lazy_areas", "lazy_pages", "pooled_areas", "pooled_pages", "areas",
    "busy_areas", "pages", "page_table_bytes", "frames_used", "rcu_waiting",
)  # fmt: skip


def run_workloads(
    space: Any,
    parameters: Parameters | None = None,
    *,
    workloads: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> RunResult:
    """Runs cases on a space.

    Args:
        space: any; it keeps what it had.
        parameters: the module's; by default its own defaults.
        workloads: names of cases; by default those of ``parameters.run_test_mask``.
        seed: of sizes, orders, and the interleaving; the same seed gives the same run on the same machine.
        progress: told how many repetitions are done, and of how many.

    Returns:
        What was found. A case whose calls the space has not says which, and was not run.

    Raises:
        BadRequest: no such case, or no case at all.
    """
    settings = Parameters() if parameters is None else parameters
    found = [CaseResult(case) for case in cases_of(space.state.kernel, settings.run_test_mask, list(workloads))]
    for entry in found:
        entry.missing = missing_calls(space, entry.case)
    runnable = [entry.case for entry in found if not entry.missing]
    result = RunResult(_machine(space), settings, seed, found)
    of, done = settings.nr_threads * len(runnable) * settings.test_repeat_count, 0

    def repetition_done() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, of)

    meter = Meter(space.state)
    results = {entry.case: entry for entry in found}
    workers = [
        Worker(
            number, number % space.machine.info.cpus, space, runnable, results, settings, meter, seed, repetition_done
        )
        for number in range(settings.nr_threads)
    ]
    began = perf_counter()
    Scheduler(space, workers, meter, seed).run()
    if space.stats()["rcu_waiting"]:
        space.rcu_barrier()
    space.run_deferred()
    result.seconds = perf_counter() - began
    _collect(result, meter, workers)
    end = space.stats()
    result.end = {name: end[name] for name in END if name in end}
    return result


def _collect(result: RunResult, meter: Meter, workers: list[Worker]) -> None:
    """Writes down costs and times."""
    meter.switch(result.cases[0].case)  # so that what came last is on nobody's account
    for entry in result.cases:
        entry.costs = meter.costs(entry.case)
        entry.workers.sort(key=lambda worker: worker.worker)
    result.outside = meter.costs(None)
    result.total_nanoseconds = [worker.spent for worker in workers]


def _machine(space: Any) -> dict[str, Any]:
    """What the cases run on."""
    info = space.machine.info
    return {
        "machine": info.name,
        "arch": info.arch,
        "kernel": space.state.kernel.name,
        "cpus": info.cpus,
        "nodes": info.nodes,
        "memory_bytes": info.nr_pages << info.page_shift,
        "page_size": 1 << info.page_shift,
    }
