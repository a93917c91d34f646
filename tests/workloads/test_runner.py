"""A run of the workloads: repeatable, on 1 to 64 CPUs, with costs that add up to what the machine counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest

from vmalloc.errors import BadRequest
from vmalloc.space.simulated import simulated
from vmalloc.views.counters import Counters
from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.result import RunResult
from vmalloc.workloads.runner import run_workloads
from workloads.rig import PAGE, PLAIN, Other, make, small


def without_times(value: Any) -> Any:
    """What must not depend on how fast this computer is."""
    if isinstance(value, dict):
        times = ("nanoseconds", "seconds", "ns_per_loop", "usec", "summary")
        return {name: without_times(part) for name, part in value.items() if not name.endswith(times)}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def go(cpus: int = 4, seed: int = 0, **more: Any) -> RunResult:
    """A worker per CPU runs the plain cases on a fresh machine, which is sound afterwards."""
    space = make(cpus=cpus)
    result = run_workloads(space, small(**{"nr_threads": cpus} | more), workloads=PLAIN, seed=seed)
    space.validate()
    return result


@pytest.mark.parametrize("order", [True, False], ids=["in-order", "shuffled"])
def test_the_same_seed_gives_the_same_run(order: bool) -> None:
    first, again, other = (go(seed=seed, sequential_test_order=order) for seed in (3, 3, 4))
    assert without_times(first.as_json()) == without_times(again.as_json())
    assert without_times(first.as_json()) != without_times(other.as_json())


_PROGRAM = """
import json
from vmalloc.space.simulated import simulated
from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.runner import run_workloads
how = Parameters(nr_threads=3, test_loop_count=40, setup_divisor=1000, test_repeat_count=2)
names = ["fix_size_alloc", "full_fit_alloc", "random_size_align_alloc", "kvfree_rcu_2_arg"]
print(json.dumps(run_workloads(simulated(cpus=2, memory="64MiB"), how, workloads=names, seed=5).as_json()))
"""


def test_both_builds_give_the_same_run(
    run_pure: Callable[..., CompletedProcess[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(_PROGRAM, "program", "exec"), {})
    compiled = without_times(json.loads(capsys.readouterr().out))
    assert without_times(json.loads(run_pure("-c", _PROGRAM).stdout)) == compiled


@pytest.mark.parametrize("cpus", [1, 2, 64])
def test_costs_and_what_is_outside_are_all_that_was_counted(cpus: int) -> None:
    space = make(cpus=cpus, memory="1GiB")
    space.purge()
    counters = Counters(space.state)
    before = counters.read()
    how = small(nr_threads=cpus, sequential_test_order=False, test_loop_count=8)
    result = run_workloads(space, how, workloads=PLAIN)
    changes = [now - then for now, then in zip(counters.read(), before, strict=True)]
    grown = dict(zip(counters.names, changes, strict=True))
    parts = [*(case.costs for case in result.cases), result.outside]
    assert {name: sum(part[name] for part in parts) for name in counters.names} == grown
    assert grown["page_walks"] > 0
    assert result.failed == 0
    space.validate()


def test_costs_belong_to_the_case_that_ran() -> None:
    result = go(cpus=2, test_loop_count=300)
    costs = {case.case.name: case.costs for case in result.cases}
    loops = 2 * 300
    assert costs["fix_size_alloc"]["page_walks"] == loops  # the first touch of each area
    assert costs["long_busy_list_alloc"]["page_walks"] == 2 * loops
    assert costs["align_shift_alloc"]["page_walks"] == 0
    assert costs["fix_size_alloc"]["rcu_grace_periods"] == 0
    assert costs["kvfree_rcu_1_arg"]["rcu_grace_periods"] > 10
    assert costs["random_size_alloc"]["purges"] == costs["random_size_alloc"]["tlb_full_flushes"] > 0
    assert costs["random_size_alloc"]["ipis"] == costs["random_size_alloc"]["purges"]  # one other CPU


def test_cpus_meet_in_pools_and_translations() -> None:
    """What one CPU frees is purged by another one's call, and every CPU is interrupted for it."""
    result = go(cpus=16, test_loop_count=200)
    found = {case.case.name: case.costs for case in result.cases}["random_size_alloc"]
    assert found["purges"] > 0
    assert found["ipis"] == 15 * found["purges"]
    assert found["pool_hits"] > 0


def test_each_worker_runs_each_case_on_its_cpu() -> None:
    result = go(cpus=2, nr_threads=5, test_repeat_count=3, sequential_test_order=False)
    for case in result.cases:
        assert [(worker.worker, worker.cpu) for worker in case.workers] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
        assert all(worker.repeat == 3 for worker in case.workers)
    assert len(result.total_nanoseconds) == 5
    for number, total in enumerate(result.total_nanoseconds):
        own = [worker for case in result.cases for worker in case.workers if worker.worker == number]
        assert sum(worker.nanoseconds for worker in own) <= total
        assert all(0 < worker.loop_nanoseconds <= worker.nanoseconds for worker in own)


def test_a_space_keeps_what_it_had() -> None:
    space = make()
    with space.on_cpu(1):
        area = space.vmalloc(PAGE)
        area.write(0, b"mine")
        result = run_workloads(space, small(), workloads=PLAIN)
        assert area.read(0, 4) == b"mine"
        assert space.machine.running.cpu == 1
    assert result.end["areas"] == 1
    assert result.end == {name: space.stats()[name] for name in result.end}


def test_progress_ends_at_all_repetitions() -> None:
    seen: list[tuple[int, int | None]] = []
    how = small(nr_threads=3, test_repeat_count=2)
    run_workloads(make(), how, workloads=PLAIN[:2], progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 12) for done in range(1, 13)]


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_every_case_of_a_kernel_runs_on_a_simulated_machine(kernel: str) -> None:
    space = simulated(kernel=kernel, cpus=4, memory="512MiB")
    result = run_workloads(space, small(nr_threads=4, run_test_mask=(1 << 13) - 1, nr_pcpu_objects=200))
    assert [case.case.name for case in result.cases if case.missing or not case.workers] == []
    assert result.failed == 0
    assert result.end["areas"] <= 1  # a per-CPU chunk is kept
    space.validate()


def test_cases_that_cannot_run_are_told_and_the_others_run() -> None:
    space = Other(make(), hidden=("vm_map_ram", "alloc_percpu"))
    result = run_workloads(space, small(run_test_mask=1 | 128 | 1024))
    assert [(case.case.bit, case.missing) for case in result.cases] == [
        (1, []), (128, ["alloc_percpu", "free_percpu"] if not hasattr(make(), "free_percpu") else ["alloc_percpu"]),
        (1024, ["vm_map_ram", "vm_unmap_ram"] if not hasattr(make(), "vm_unmap_ram") else ["vm_map_ram"]),
    ]  # fmt: skip
    assert result.cases[0].total("passed") == 2
    with pytest.raises(BadRequest, match="workload 'none': one of"):
        run_workloads(space, Parameters(), workloads=["none"])
