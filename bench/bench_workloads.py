"""The kernel's own workloads on 1, 4, 16 and 64 simulated CPUs, beside what real kernels needed where that is known.

    make bench ARGS='bench/bench_workloads.py'

Two things are measured.  The runner itself: a loop of ``fix_size_alloc`` on one CPU against the same three calls in a
plain loop.  And every case on machines of 1 to 64 CPUs with a worker on each, once: host nanoseconds per loop, beside
the kernel's in emulated guests.  Those columns are not to be compared with each other - one is a model in Python, the
other a kernel on a processor in software - but rows within a column are: the second table has each case as a multiple
of ``fix_size_alloc`` on the same machine.  The third has what the model counts and a kernel does not tell.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import AT_MOST, Bar, Say, Summary

from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.workloads.figures import GUESTS, NATIVE, guest_figure
from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.result import CaseResult, RunResult
from vmalloc.workloads.runner import run_workloads

#: CPUs, loops of a worker, and how much smaller than the kernel's the set-ups are: runs of some seconds each.
MACHINES = ((1, 4000, 1), (4, 2000, 4), (16, 500, 32), (64, 120, 256))
KERNEL = "6.12"  # the last one that the guests have
OBJECTS = 2000
LOOPS = 100_000
ROUNDS = 7


def raw(space: SimulatedSpace) -> float:
    """Nanoseconds of allocating, touching and freeing a page, in a plain loop."""
    vmalloc, vfree, store = space.vmalloc, space.vfree, space.store
    began = perf_counter_ns()
    for _ in range(LOOPS):
        area = vmalloc(4096)
        store(area.address, b"\0")
        vfree(area)
    return (perf_counter_ns() - began) / LOOPS


def driven(space: SimulatedSpace) -> float:
    """The same as a worker's case; the scheduler's own time is in it."""
    result = run_workloads(space, Parameters(test_loop_count=LOOPS), workloads=["fix_size_alloc"])
    assert result.failed == 0
    return result.seconds * 1e9 / LOOPS


def test_the_runner_costs_little(benchmark: BenchmarkFixture, summary: Summary, one_core: None) -> None:
    """In turn with the plain loop, so that whatever disturbs one disturbs the other."""
    spaces = [simulated(cpus=1, memory="1GiB") for _ in range(2)]
    pairs: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: pairs.append((raw(spaces[0]), driven(spaces[1]))), rounds=ROUNDS, warmup_rounds=1)
    found = pairs[1:]
    for name, place in (("a plain loop", 0), ("the runner", 1)):
        summary.add(
            f"workloads: fix_size_alloc on 1 CPU, by {name}",
            [pair[place] for pair in found],
            "ns per loop",
            state="warm: one round before; wall time, in turn with each other",
            test="runner_costs_little",
        )
    summary.add(
        "workloads: the runner's loop, as a multiple of the plain one",
        [by_runner / plain for plain, by_runner in found],
        "",
        bar=Bar(AT_MOST, 2),
        state="warm: one round before; the two in turn",
        test="runner_costs_little",
    )


@pytest.fixture(scope="module")
def runs(say: Say) -> dict[int, RunResult]:
    """All cases on each machine, once."""
    found = {}
    for cpus, loops, divisor in MACHINES:
        say(f"workloads on {cpus} CPUs")
        space = simulated(kernel=KERNEL, cpus=cpus, memory=max(4 << 30, cpus << 29))
        how = Parameters(
            nr_threads=cpus, sequential_test_order=True, test_loop_count=loops, setup_divisor=divisor,
            nr_pcpu_objects=OBJECTS,
        )  # fmt: skip
        found[cpus] = run_workloads(space, how)
        space.validate()
        assert found[cpus].failed == 0
        assert found[cpus].end["pages"] == 0  # areas there may be: chunks of per-CPU objects are kept
    return found


def table(
    runs: dict[int, RunResult], ours: Callable[[CaseResult, RunResult], str], kernels: Callable[[str, int], str] | None
) -> list[list[str]]:
    """A row per case; a column per machine, and beside it the kernel's where there are any."""
    columns = [(cpus, False) for cpus in runs]
    if kernels is not None:
        columns += [(cpus, True) for cpus in runs if any(figure.cpus == cpus for figure in GUESTS)]
    rows = [["workload", *(f"{'guest' if real else 'here'} {cpus}" for cpus, real in columns)]]
    for place, case in enumerate(next(iter(runs.values())).cases):
        name = case.case.name
        cells = [
            kernels(name, cpus) if real and kernels is not None else ours(runs[cpus].cases[place], runs[cpus])
            for cpus, real in columns
        ]
        rows.append([name, *cells])
    return rows


def per_unit(case: CaseResult) -> float:
    """Nanoseconds of a loop on average; of an object where a case has no loops but objects."""
    return case.mean_ns_per_loop / (OBJECTS if case.case.name == "pcpu_alloc" else 1)


def guest_per_unit(case: str, cpus: int) -> float | None:
    """The same of a guest."""
    figure = guest_figure(case, KERNEL, cpus)
    return None if figure is None else figure.mean_ns / (35_000 if case == "pcpu_alloc" else 1)


def test_workloads_beside_the_kernels(
    benchmark: BenchmarkFixture, summary: Summary, runs: dict[int, RunResult]
) -> None:
    """Tables only: there is no bar for what a model costs."""
    benchmark.pedantic(lambda: runs, rounds=1)

    def ours(case: CaseResult, run: RunResult) -> str:
        return "n/a" if case.missing else f"{per_unit(case):,.0f}"

    def ours_relative(case: CaseResult, run: RunResult) -> str:
        return "n/a" if case.missing else f"{per_unit(case) / per_unit(run.cases[0]):,.2f}"

    def kernels(case: str, cpus: int) -> str:
        found = guest_per_unit(case, cpus)
        return "-" if found is None else f"{found:,.0f}"

    def kernels_relative(case: str, cpus: int) -> str:
        found, base = guest_per_unit(case, cpus), guest_per_unit("fix_size_alloc", cpus)
        return "-" if found is None or base is None else f"{found / base:,.2f}"

    about = f"Linux {KERNEL}; worker per CPU; guests are emulated (TCG), with set-ups in full_fit and long_busy_list"
    summary.tables[f"workloads: ns per loop, mean of the workers (pcpu_alloc: per object). {about}"] = table(
        runs, ours, kernels
    )
    summary.tables["workloads: the same as multiples of fix_size_alloc in the same column"] = table(
        runs, ours_relative, kernels_relative
    )
    native = [["case", "pages", "kernel", "ns per loop", "on"]]
    native += [[f.case, str(f.nr_pages), f.kernel, f"{f.best_ns:,.0f}", f.machine] for f in NATIVE]
    summary.tables["workloads: kernels on hardware"] = native


def test_what_the_machine_counts(benchmark: BenchmarkFixture, summary: Summary, runs: dict[int, RunResult]) -> None:
    """Per 1,000 loops of all workers together, so that machines of different size compare."""
    benchmark.pedantic(lambda: runs, rounds=1)

    def per_thousand(name: str) -> Callable[[CaseResult, RunResult], str]:
        def cell(case: CaseResult, run: RunResult) -> str:
            loops = sum(worker.loops * worker.repeat for worker in case.workers)
            return "n/a" if not loops else f"{1000 * case.costs[name] / loops:,.2f}"

        return cell

    for name, title in (
        ("purges", "purges"),
        ("ipis", "interrupts for flushes"),
        ("pool_hits", "allocations served by a pool"),
    ):
        summary.tables[f"workloads: {title} per 1,000 loops"] = table(runs, per_thousand(name), None)
    rows = [["at the end", *(f"{cpus} CPUs" for cpus in runs)]]
    for name in ("fragmentation", "largest_free", "free_blocks", "lazy_pages", "pooled_pages", "page_table_bytes"):
        values = [run.end[name] for run in runs.values()]
        rows.append([name, *(f"{value:.2e}" if isinstance(value, float) else f"{value:,}" for value in values)])
    summary.tables["workloads: the space at the end"] = rows
    assert all(run.end["lazy_pages"] >= 0 for run in runs.values())
