"""How fast recordings are replayed: parsed events per second, parsing, and a file to its report.

    VMALLOC_STORM=part00.zst:part01.zst VMALLOC_STORM_BEFORE=before.zst make bench ARGS='-k file'

measures a real recording beside the stand-in; several files, joined as in PATH, are the parts of one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from storm import StormFiles
from summary import AT_LEAST, AT_MOST, Bar, Say, Summary
from workload import KERNEL, Replay, Workload, steady

from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import replay

#: Events of the timed part.
EVENTS = 1_000_000
ENGINE_ROUNDS, WHOLE_ROUNDS, READ_ROUNDS, PROCESS_ROUNDS = 7, 3, 5, 7
MILLION = 1e6

#: Million events per second, by number of live areas.
BARS = {1_000: Bar(AT_LEAST, 5), 1_000_000: Bar(AT_LEAST, 2)}
UNIT = "million events per second"
ONE_CORE = "processor time of one thread kept on one core"


CASES = [(1_000, 1), (1_000, 2), (1_000_000, 1), (1_000_000, 2)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}cpu")
def workload(request: pytest.FixtureRequest, say: Say) -> Workload:
    """Live areas and CPUs; made once for all tests of a parameter."""
    live, cpus = request.param
    began = time.perf_counter()
    made = steady(live, EVENTS, cpus)
    say(f"{live:,} live areas on {_cpus(cpus)}: {len(made.trace):,} events made in {time.perf_counter() - began:.1f} s")
    return made


@pytest.mark.benchmark(group="replay of parsed events, engine alone", timer=time.thread_time)
def test_engine(benchmark: BenchmarkFixture, workload: Workload, summary: Summary, one_core: None) -> None:
    """The steady state on an allocator that already holds the live areas."""
    made: list[Replay] = []

    def prepare() -> tuple[tuple[int, int], dict[str, Any]]:
        made[:] = [Replay(workload)]
        made[0].run(0, workload.first)
        return (workload.first, len(workload.trace)), {}

    def steady_state(first: int, last: int) -> None:
        made[0].run(first, last)

    benchmark.pedantic(steady_state, setup=prepare, rounds=ENGINE_ROUNDS, warmup_rounds=1)
    made[0].check()
    events = len(workload.trace) - workload.first
    summary.add(
        f"replay of parsed events: {workload.live:,} live areas, {_cpus(workload.cpus)}",
        [events / seconds / MILLION for seconds in benchmark.stats.stats.data],
        UNIT,
        bar=BARS[workload.live],
        state=f"warm: events in memory, areas live before the clock starts; {ONE_CORE}",
        test=_test("engine", workload),
        note=f"{events:,} events of the steady state, every address as recorded",
    )


@pytest.mark.benchmark(group="replay of parsed events, replay()", timer=time.thread_time)
def test_whole(benchmark: BenchmarkFixture, workload: Workload, summary: Summary, one_core: None) -> None:
    """``replay()`` from a trace in memory to its result, the growth from nothing to the live areas included."""

    def whole() -> None:
        result = replay(workload.trace, kernel=KERNEL, cpus=workload.cpus)
        assert result.agreed == result.allocations

    benchmark.pedantic(whole, rounds=WHOLE_ROUNDS)
    summary.add(
        f"replay() from trace to result: {workload.live:,} live areas, {_cpus(workload.cpus)}",
        [len(workload.trace) / seconds / MILLION for seconds in benchmark.stats.stats.data],
        UNIT,
        state=f"warm: events in memory; cold: an empty address space; {ONE_CORE}",
        test=_test("whole", workload),
        note=f"{len(workload.trace):,} events since boot, planning and counting included",
    )


@pytest.mark.benchmark(group="reading")
@pytest.mark.parametrize("form", ["plain", "zstd"])
def test_read(benchmark: BenchmarkFixture, storm: StormFiles, form: str, summary: Summary) -> None:
    """Text to events, from the page cache."""
    paths = [str(storm.plain)] if form == "plain" else [str(path) for path in storm.parts]
    trace = benchmark.pedantic(read_trace, args=(paths,), rounds=READ_ROUNDS, warmup_rounds=1)
    assert len(trace) >= storm.events
    summary.add(
        f"reading ftrace text, {'plain' if form == 'plain' else 'two zstd parts'}",
        [storm.text_bytes / seconds / MILLION for seconds in benchmark.stats.stats.data],
        "MB of text per second",
        state="warm: files in the page cache; wall time, two threads (one decompresses)",
        test=f"read and {form}",
        note=f"{storm.text_bytes / MILLION:.0f} MB of text, {len(trace) / MILLION:.2f} million events",
    )


def _commands(storm: StormFiles) -> dict[str, list[str]]:
    """The command lines to time, by name; the recordings to replay come first."""
    vmalloc = [sys.executable, "-m", "vmalloc"]
    found = {"stand-in for h14_storm_1M": [*vmalloc, "replay", *map(str, storm.parts), "--before", str(storm.before)]}
    if parts := os.environ.get("VMALLOC_STORM"):
        real = [*vmalloc, "replay", *parts.split(os.pathsep)]
        if before := os.environ.get("VMALLOC_STORM_BEFORE"):
            real += ["--before", before]
        found[f"recording {Path(parts.split(os.pathsep)[0]).name}"] = real
    return found


@pytest.mark.benchmark(group="file to report: one round of all commands")
def test_file_to_report(benchmark: BenchmarkFixture, storm: StormFiles, summary: Summary) -> None:
    """The whole command as a process of its own, and what a start of the interpreter costs; in turn."""
    commands = _commands(storm)
    timed = {**commands, "start of the command": [sys.executable, "-m", "vmalloc", "replay", "--help"]}
    walls: dict[str, list[float]] = {name: [] for name in timed}

    def all_in_turn() -> None:
        for name, command in timed.items():
            began = time.perf_counter()
            done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            walls[name].append(time.perf_counter() - began)
            assert done.returncode in (0, 1), f"{name}: exit status {done.returncode}"

    benchmark.pedantic(all_in_turn, rounds=PROCESS_ROUNDS)
    for name, command in timed.items():
        replayed = name in commands
        summary.add(
            f"file to report: {name}" if replayed else "of which: the interpreter, imports, arguments (--help)",
            walls[name],
            "s",
            bar=Bar(AT_MOST, 3) if replayed else None,
            state="cold: a new process each time; warm: files and modules in the page cache; wall time",
            test="file",
            note=_breakdown(command) if replayed else "",
        )


def _breakdown(command: list[str]) -> str:
    """What the command itself says about its time and its agreement, from one further run."""
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
    told = json.loads(done.stdout)
    return (
        f"{told['events']:,} events, {told['agreement']:.4%} at the recorded address; "
        f"read in {told['read_seconds']:.2f} s, replayed in {told['seconds']:.2f} s; "
        "most of the rest finds the kernel's version and the shape of its free tree"
    )


def _cpus(count: int) -> str:
    return "1 CPU" if count == 1 else f"{count} CPUs with pools"


def _test(name: str, workload: Workload) -> str:
    return f"{name} and {workload.live}-{workload.cpus}cpu"
