"""How fast a recording goes through the whole machine: frames, page tables and TLBs behind every address.

Areas alone and the machine in turn, so that both meet the same load of the computer.  A replay first looks for the
kernel's version and the shape of its free tree, on areas alone; the figure is that of the replay proper, engine and
machine together, which is what the command reports.  The checks at the end are not in it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import AT_LEAST, Bar, Summary

from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.replay.result import ReplayResult
from vmalloc.trace.shipped import shipped_trace
from vmalloc.trace.vmallocinfo import read_snapshot

RECORDED = Path(__file__).resolve().parent.parent / "tests" / "recorded"
ROUNDS = 7
THOUSAND = 1e3
UNIT = "thousand events per second"

#: Recordings: a fork storm, whose areas are small; BPF maps, whose areas are large; a boot with all kinds of them.
BARS = {"h12_fork_1cpu": Bar(AT_LEAST, 300), "h02_bpfmap_1cpu": None, "g612_1cpu_cont": None}


@pytest.mark.benchmark(group="replay of recordings: areas and the whole machine, in turn")
@pytest.mark.parametrize("name", BARS)
def test_machine(benchmark: BenchmarkFixture, name: str, summary: Summary, one_core: None) -> None:
    """A recording on areas alone, and on the simulated machine."""
    files = sorted(RECORDED.glob(f"{name}.trace.zst")) or [shipped_trace()]
    trace = read_trace([str(path) for path in files])
    before = [read_snapshot(str(path)) for path in sorted(RECORDED.glob(f"{name}.before.*"))]
    found: dict[str, list[ReplayResult]] = {"areas": [], "simulated": []}

    def both_in_turn() -> None:
        for machine, results in found.items():
            results.append(replay(trace, before=before[0] if before else None, machine=machine, shapes=4))

    benchmark.pedantic(both_in_turn, rounds=ROUNDS, warmup_rounds=1)
    for machine, results in found.items():
        result = results[-1]
        note = f"{result.events:,} events, {result.agreement:.4%} at the recorded address"
        if result.machine is not None:
            met = result.machine
            assert met.stale_accesses == met.failed_accesses == 0
            note += f"; {met.frames_taken:,} frames, {met.flushes:,} flushes; checked in {met.validation_seconds:.2f} s"
        summary.add(
            f"replay of {name}, {'areas alone' if machine == 'areas' else 'the simulated machine'}",
            [result.events_per_second / THOUSAND for result in results[1:]],
            UNIT,
            bar=BARS[name] if machine == "simulated" else None,
            state="warm: events in memory; cold: a new machine each time; wall time",
            test=f"machine and {name}",
            note=note,
        )
