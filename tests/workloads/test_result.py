"""Results: the lines that the kernel's module prints, and plain values."""

from __future__ import annotations

import json

from vmalloc.workloads.parameters import Parameters
from vmalloc.workloads.result import CaseResult, RunResult, WorkerResult
from workloads.rig import case


def result() -> RunResult:
    found = RunResult({"arch": "x86_64"}, Parameters(), 3)
    first = WorkerResult(0, 0, passed=2, loops=1000, nanoseconds=9_000_999, loop_nanoseconds=4_000_000)
    second = WorkerResult(1, 1, passed=1, failed=1, loops=1000, nanoseconds=12_000_000, loop_nanoseconds=8_000_000)
    found.cases = [
        CaseResult(case("fix_size_alloc"), [first, second], {"purges": 1}, ["OutOfFrames: none"]),
        CaseResult(case("align_shift_alloc"), [WorkerResult(0, 0, xfailed=2), WorkerResult(1, 1, xfailed=2)]),
        CaseResult(case("pcpu_alloc"), missing=["alloc_percpu"]),
    ]
    found.total_nanoseconds = [10_000_000, 13_000_000]
    return found


def test_summary_lines_are_the_modules() -> None:
    """Section 11.1: a line per case and worker; ``avg`` is of one repetition."""
    assert result().summary_lines() == [
        "Summary: fix_size_alloc passed: 2 failed: 0 xfailed: 0 repeat: 2 loops: 1000 avg: 4500 usec",
        "Summary: align_shift_alloc passed: 0 failed: 0 xfailed: 2 repeat: 2 loops: 1 avg: 0 usec",
        "All test took worker0=10000000 ns",
        "Summary: fix_size_alloc passed: 1 failed: 1 xfailed: 0 repeat: 2 loops: 1000 avg: 6000 usec",
        "Summary: align_shift_alloc passed: 0 failed: 0 xfailed: 2 repeat: 2 loops: 1 avg: 0 usec",
        "All test took worker1=13000000 ns",
    ]


def test_times_per_loop_leave_the_set_up_out() -> None:
    found = result().cases[0]
    assert [worker.ns_per_loop for worker in found.workers] == [2000, 4000]
    assert (found.best_ns_per_loop, found.mean_ns_per_loop) == (2000, 3000)
    nothing = CaseResult(case("pcpu_alloc"))
    assert (nothing.best_ns_per_loop, nothing.mean_ns_per_loop) == (0, 0)


def test_everything_is_plain_values() -> None:
    found = result()
    read = json.loads(json.dumps(found.as_json()))
    assert read == found.as_json()
    assert (read["failed"], read["seed"], read["parameters"]["nr_threads"]) == (1, 3, 1)
    first = read["workloads"][0]
    assert (first["name"], first["bit"], first["passed"], first["costs"]) == ("fix_size_alloc", 1, 3, {"purges": 1})
    assert first["workers"][1]["avg_usec"] == 6000
    assert read["workloads"][2]["missing_calls"] == ["alloc_percpu"]
