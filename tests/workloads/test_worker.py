"""A worker: the order of cases, repetitions, and times that are its own."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns

from vmalloc.errors import BadSize
from vmalloc.workloads.cases import Case
from vmalloc.workloads.job import CaseFailed, Job
from vmalloc.workloads.meter import Meter
from vmalloc.workloads.result import CaseResult
from vmalloc.workloads.worker import Worker
from workloads.rig import make, small


def worker_of(
    cases: list[Case], number: int = 0, seed: int = 0, **more: object
) -> tuple[Worker, dict[Case, CaseResult]]:
    space = make()
    results = {case: CaseResult(case) for case in cases}
    return Worker(number, 0, space, cases, results, small(**more), Meter(space.state), seed, lambda: None), results


def run(worker: Worker) -> None:
    for _ in worker.steps:
        pass


def test_workers_shuffle_each_for_itself() -> None:
    """Section 11.1: without ``sequential_test_order`` each has an order of its own, the same for the same seed."""

    def order(number: int, seed: int, sequential: bool = False) -> list[int]:
        ran: list[int] = []

        def steps(place: int) -> Case:
            def body(job: Job) -> Iterator[None]:
                ran.append(place)
                yield

            return Case(f"case {place}", 1 << place, "", body)

        run(worker_of([steps(place) for place in range(10)], number, seed, sequential_test_order=sequential)[0])
        return ran

    assert order(0, 1, True) == order(5, 2, True) == list(range(10))
    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(number, 1)) for number in range(4)}) == 4
    assert sorted(order(0, 1)) == list(range(10))


def test_failures_are_counted_and_explained() -> None:
    def fails(job: Job) -> Iterator[None]:
        yield
        raise CaseFailed("as always")

    def fails_sometimes(job: Job) -> Iterator[None]:
        yield
        if job.below(2):
            raise BadSize("unlucky")

    always, expected = Case("a", 1, "", fails), Case("b", 2, "", fails, fails=True)
    chance = Case("c", 4, "", fails_sometimes)
    worker, results = worker_of([always, expected, chance], test_repeat_count=20)
    run(worker)
    counts = [[getattr(results[case].workers[0], name) for name in ("passed", "failed", "xfailed")] for case in results]
    assert counts[:2] == [[0, 20, 0], [0, 0, 20]]
    assert counts[2][0] + counts[2][1] == 20
    assert counts[2][0] > 2
    assert counts[2][1] > 2
    assert results[always].reasons == ["CaseFailed: as always"]
    assert results[chance].reasons == ["BadSize: unlucky"]


def test_time_between_its_steps_is_not_its_own() -> None:
    """A scheduler says when a slice begins and ends; here nothing is counted outside of slices."""

    def busy(nanoseconds: int) -> None:
        until = perf_counter_ns() + nanoseconds
        while perf_counter_ns() < until:
            pass

    def body(job: Job) -> Iterator[None]:
        busy(2_000_000)  # set-up
        yield
        for _ in job.loops:
            busy(1_000_000)
            yield
        job.end_loops()
        busy(3_000_000)
        yield

    case = Case("a", 1, "", body)
    worker, results = worker_of([case], test_loop_count=3)
    while True:
        worker.since = perf_counter_ns()
        try:
            next(worker.steps)
        except StopIteration:
            break
        finally:
            worker.spent += perf_counter_ns() - worker.since
        busy(5_000_000)  # somebody else
    found = results[case].workers[0]
    assert 3_000_000 <= found.loop_nanoseconds < 8_000_000
    assert 8_000_000 <= found.nanoseconds < 25_000_000  # 35 ms passed at least
    assert found.nanoseconds - found.loop_nanoseconds >= 5_000_000
