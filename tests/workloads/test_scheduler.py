"""The scheduler: any order of two CPUs' steps, the same one for the same seed, slices, ticks, idle CPUs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest

from vmalloc.workloads.meter import Meter
from vmalloc.workloads.scheduler import SLICE, Scheduler
from workloads.rig import Other, make

pytestmark = pytest.mark.both_builds


class Thread:
    """A worker that only writes down when it ran, and on which CPU."""

    def __init__(self, name: str, cpu: int, steps: int, log: list[tuple[str, int]], space: Any) -> None:
        self.name, self.cpu, self.case = name, cpu, None
        self.spent = self.since = 0
        self.steps = self._run(steps, log, space)

    def _run(self, steps: int, log: list[tuple[str, int]], space: Any) -> Iterator[None]:
        for _ in range(steps):
            log.append((self.name, space.machine.running.cpu))
            yield


def run(threads: dict[str, tuple[int, int]], cpus: int, seed: int = 0) -> tuple[list[str], list[tuple[int, ...]]]:
    """Runs ``name: (cpu, steps)``; the names in the order of their steps, and the CPUs that ticks named."""
    ticks: list[tuple[int, ...]] = []
    inner = make(cpus=cpus)
    space = Other(inner, rcu_quiescent=lambda *named: ticks.append(named))
    log: list[tuple[str, int]] = []
    workers: Any = [Thread(name, cpu, steps, log, inner) for name, (cpu, steps) in threads.items()]
    inner.machine.running.cpu = cpus - 1
    Scheduler(space, workers, Meter(inner.state), seed).run()
    assert inner.machine.running.cpu == cpus - 1  # as before
    assert Counter(name for name, _ in log) == {name: steps for name, (_, steps) in threads.items()}
    assert all(cpu == threads[name][0] for name, cpu in log)
    assert all(worker.spent > 0 for worker in workers)
    return [name for name, _ in log], ticks


def test_the_same_seed_gives_the_same_order() -> None:
    threads = {"a": (0, 200), "b": (1, 200), "c": (2, 150)}
    first, _ = run(threads, 3, seed=7)
    assert run(threads, 3, seed=7)[0] == first
    assert run(threads, 3, seed=8)[0] != first


def test_any_short_order_of_two_cpus_happens() -> None:
    order, _ = run({"a": (0, 2000), "b": (1, 2000)}, 2)
    short = Counter("".join(order[at : at + 4]) for at in range(3000))
    assert len(short) == 16
    assert min(short.values()) > 100


def test_workers_of_one_cpu_take_turns_of_a_slice() -> None:
    order, ticks = run({"a": (0, 2 * SLICE + 5), "b": (0, SLICE), "c": (0, 1)}, 1)
    runs = [(name, len(list(steps))) for name, steps in groupby(order)]
    assert runs == [("a", SLICE), ("b", SLICE), ("c", 1), ("a", SLICE + 5)]
    assert ticks[:2] == [(0,), (0,)]


def test_every_slice_is_a_tick_and_idle_cpus_are_quiescent() -> None:
    steps = 5 * SLICE
    order, ticks = run({"a": (0, steps), "b": (2, steps)}, 4)
    assert len(order) == 2 * steps
    both = [named for named in ticks if named[0] in (0, 2) and named[1:] == (1, 3)]
    assert len(both) >= 6
    last = ticks[-1]  # all have ended
    assert sorted(last) == [0, 1, 2, 3]


@pytest.mark.parametrize("cpus", [1, 64])
def test_nobody_at_all_is_no_work(cpus: int) -> None:
    assert run({}, cpus) == ([], [])
