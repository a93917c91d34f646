"""The command ``vmalloc bench``: its arguments, its report, its exit status."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from cli.test_replay import on_terminal
from vmalloc.cli import bench, main
from vmalloc.policy import Policy
from vmalloc.space import simulated as space_module
from vmalloc.workloads.cases import CASES

FEW = ("--loops", "5", "setup_divisor=2000", "nr_pcpu_objects=5")


def bench_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """Runs the command; what it printed."""
    assert main(["bench", *arguments]) == status
    printed = capsys.readouterr()
    if status < 2:
        assert printed.err == ""
        return printed.out
    assert printed.out == ""
    return printed.err


def answer(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    """Runs the command with ``--json``; the object."""
    found: dict[str, Any] = json.loads(bench_of(capsys, "--json", *arguments, status=status))
    return found


def test_a_quick_look_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--cpus", "2", "--workload", "fix_size_alloc")
    assert found["machine"] == {
        "machine": "simulated", "arch": "x86_64", "kernel": "6.19", "cpus": 2, "nodes": 1, "memory_bytes": 4 << 30,
        "page_size": 4096,
    }  # fmt: skip
    how = found["parameters"]
    assert (how["nr_threads"], how["sequential_test_order"], how["test_loop_count"]) == (2, True, 1000)
    assert (how["setup_divisor"], how["nr_pcpu_objects"]) == (16, 2000)
    case = found["workloads"][0]
    assert (case["name"], case["passed"], case["failed"]) == ("fix_size_alloc", 2, 0)
    assert case["best_ns_per_loop"] > 100
    assert case["costs"]["page_walks"] == 2000
    assert found["end"]["fragmentation"] >= 0
    assert found["end"]["page_table_bytes"] > 0


def test_all_cases_of_the_kernel_run_without_workload(capsys: pytest.CaptureFixture[str]) -> None:
    names = [case["name"] for case in answer(capsys, *FEW, "--kernel", "6.1")["workloads"]]
    assert names == [case.name for case in CASES if case.bit < 1024]


def test_the_machine_and_the_parameters_are_as_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "--arch", "arm64_4k", "--kernel", "6.12", "--cpus", "3", "--nodes", "2", "--memory", "64MiB", "--seed",
        "9", "--preset", "smoke", "--loops", "7", "nr_threads=4", "nr_pages=3", "--workload", "fix_size_alloc",
        "--workload", "random_size_align_alloc_test",
    )  # fmt: skip
    assert found["machine"] | {"memory_bytes": 0} == {
        "machine": "simulated", "arch": "arm64_4k", "kernel": "6.12", "cpus": 3, "nodes": 2, "memory_bytes": 0,
        "page_size": 4096,
    }  # fmt: skip
    assert found["machine"]["memory_bytes"] == 64 << 20
    how = found["parameters"]
    assert (how["test_repeat_count"], how["test_loop_count"], how["nr_threads"], how["nr_pages"]) == (10, 7, 4, 3)
    assert (how["setup_divisor"], how["sequential_test_order"], found["seed"]) == (1, False, 9)
    assert [case["name"] for case in found["workloads"]] == ["fix_size_alloc", "random_size_align_alloc"]
    assert [worker["cpu"] for worker in found["workloads"][0]["workers"]] == [0, 1, 2, 0]


def test_many_cpus_come_with_more_memory(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, *FEW, "--cpus", "64", "--workload", "fix_size_alloc")
    assert found["machine"]["memory_bytes"] == 32 << 30
    assert found["parameters"]["nr_threads"] == 64


def test_the_report_has_the_modules_lines_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = bench_of(capsys, *FEW, "--cpus", "2", "run_test_mask=0x41").split("\n")
    summary = "passed: 1 failed: 0 xfailed: 0 repeat: 1 loops: 5 avg: "
    assert [line.startswith(f"Summary: fix_size_alloc {summary}") for line in lines[:6]] == [True, False, False] * 2
    assert lines[2].startswith("All test took worker0=")
    text = "\n".join(lines)
    assert "machine  x86_64, Linux 6.19, 2 CPUs, 1 NUMA node, 4 GiB" in text
    assert "run      2 workers, 1 x 5 loops, in order, set-ups 1/2000 of the kernel's, seed 0" in text
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["workload"][:5] == ["workload", "result", "best", "ns/loop", "mean"]
    assert "fallbacks" not in rows["workload"]  # there were none
    assert rows["fix_size_alloc"][1:3] == ["2", "passed"]
    assert "align_shift_alloc failed as expected: OutOfAddresses: no free range" in text
    assert "largest hole 32.0 TiB, fragmentation 0.0000%" in text


def test_many_summary_lines_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    text = bench_of(capsys, *FEW, "--cpus", "64", "--workload", "fix_size_alloc")
    assert text.count("Summary: ") == 30
    assert "(68 lines more of other workers; --json has them)" in text


def test_a_case_that_fails_is_a_bad_answer(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--memory", "4MiB", "--cpus", "1", "--loops", "5", "--workload", "long_busy_list_alloc", "setup_divisor=1")
    found = answer(capsys, *small, status=1)
    assert found["failed"] == found["workloads"][0]["failed"] == 1
    text = bench_of(capsys, *small, status=1)
    assert "long_busy_list_alloc FAILED: OutOfFrames" in text
    assert "1 FAILED" in text


def test_the_list_of_cases(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {line.split()[0]: line for line in bench_of(capsys, "--list").strip().split("\n")}
    assert set(rows) == {"workload", *(case.name for case in CASES)}
    assert rows["vm_map_ram"].split() == ["vm_map_ram", "1024", "blocks", "6.12", "6.19", "to", "pass"]
    assert rows["align_shift_alloc"].endswith("to fail ") or rows["align_shift_alloc"].endswith("to fail")
    found = json.loads(bench_of(capsys, "--list", "--json"))
    assert [case["bit"] for case in found] == [case.bit for case in CASES]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "fix"], "workload 'fix': one of fix_size_alloc"),
        (["nr_thread=3"], "'nr_thread=3' is no parameter"),
        (["--kernel", "6.1", "--workload", "vm_map_ram"], "Linux 6.1 and its like has no case vm_map_ram"),
        (["run_test_mask=0"], "has none of the cases"),
        (["--arch", "pdp11"], "architecture 'pdp11': one of"),
        (["--cpus", "0"], "0 CPUs: between 1 and 4096"),
        (["--loops", "-3"], "test_loop_count=-3: at least 0"),
        (["--memory", "much"], "not a size: 'much'"),
        (["nr_pages=3", "--cpus", "1", "nr_pages"], "'nr_pages' is no parameter"),
    ],
)
def test_a_bad_request_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    text = bench_of(capsys, *arguments, status=2)
    assert text.startswith("vmalloc: ")
    assert message in text
    assert text.count("\n") == 1


def test_parameters_may_stand_anywhere_and_options_may_not_be_made_up(capsys: pytest.CaptureFixture[str]) -> None:
    how = answer(capsys, "nr_pages=2", *FEW, "--cpus", "1", "use_huge=n", "--workload", "fix_size_alloc")["parameters"]
    assert (how["nr_pages"], how["setup_divisor"], how["test_loop_count"], how["use_huge"]) == (2, 2000, 5, False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", *FEW, "--turbo"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --turbo" in capsys.readouterr().err


def test_knobs_and_kasan_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the machine: what it is made with."""
    made: dict[str, Any] = {}
    monkeypatch.setattr(space_module, "simulated", lambda arch, **how: made.update(how, arch=arch))
    arguments = {
        "arch": "s390x", "kernel": "6.12", "cpus": 2, "nodes": 1, "memory": None, "seed": 4, "kasan": False, "set": [],
    }  # fmt: skip
    bench.machine_for(SimpleNamespace(**arguments))  # type: ignore[arg-type]
    plain = {"arch": "s390x", "kernel": "6.12", "cpus": 2, "nodes": 1, "memory": 4 << 30, "seed": 4}
    assert made == plain
    made.clear()
    more = {"set": ["guard=off", "fit=lowest"], "kasan": True}
    bench.machine_for(SimpleNamespace(**arguments | more))  # type: ignore[arg-type]
    assert made == plain | {"policy": Policy(guard=False, fit="lowest"), "kasan": True}


def test_knobs_and_kasan_change_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (*FEW, "--cpus", "2", "--workload", "fix_size_alloc")
    few = [answer(capsys, *arguments, *more)["end"] for more in ((), ("--set", "lazy_max_pages=0"), ("--kasan",))]
    assert few[0]["lazy_pages"] > few[1]["lazy_pages"]
    assert few[2]["frames_used"] > few[0]["frames_used"]


def test_on_a_terminal_a_bar_shows_the_progress() -> None:
    status, output, terminal = on_terminal("bench", "--json", "--workload", "random_size_alloc", "--cpus", "1", *FEW)
    assert status == 0
    assert json.loads(output)["failed"] == 0
    assert "running" in terminal
    assert "\x1b[" in terminal
