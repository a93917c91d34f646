"""What one operation costs, and one area, from a thousand live areas to ten million.

``VMALLOC_BENCH_LIVE`` limits the largest size, for machines with less than 8 GiB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from growth import KINDS, LOGARITHM, MEANING, Growth, make_space, measure, plot
from pytest_benchmark.fixture import BenchmarkFixture
from summary import AT_LEAST, AT_MOST, Bar, Say, Summary

LARGEST = int(os.environ.get("VMALLOC_BENCH_LIVE", "10_000_000"))
SIZES = [live for live in (1_000, 10_000, 100_000, 1_000_000, 10_000_000) if live <= LARGEST]

#: Live areas and CPUs.
MEMORY_CASES = ((1_000_000, 1), (1_000_000, 2), (10_000_000, 1))
MEMORY_BAR = Bar(AT_MOST, 128)


def test_growth(benchmark: BenchmarkFixture, summary: Summary, out: Path, say: Say, one_core: None) -> None:
    """Time per operation at each size, in turn, and the law it follows."""
    spaces = []
    for live in SIZES:
        began = time.perf_counter()
        spaces.append(make_space(live))
        say(f"{live:,} live areas, {spaces[-1].holes:,} holes, made in {time.perf_counter() - began:.1f} s")
    growth = benchmark.pedantic(measure, args=(spaces,), rounds=1)
    summary.files += plot(growth, out)
    benchmark.extra_info.update(growth.as_json())
    _tell(growth, summary)


def _tell(growth: Growth, summary: Summary) -> None:
    """The summary's rows and table."""
    span = f"{growth.sizes[0]:,} to {growth.sizes[-1]:,} live areas"
    counted = "nothing is timed: blocks passed on the way to 1,000 areas, mean"
    _judge(growth, summary, f"levels of the free tree, {span}", growth.levels, "levels", counted)
    timed = "warm: areas live before, 20 rounds uncounted per visit; all sizes in turn; wall time, medians"
    _judge(growth, summary, f"time per operation, {span}", growth.median["operation"], "ns", timed)
    table = [["nanoseconds, median", *(f"{live:,}" for live in growth.sizes)]]
    table += [[MEANING[kind], *(f"{value:,.0f}" for value in growth.median[kind])] for kind in KINDS]
    table.append(["levels of the free tree", *(f"{levels:.1f}" for levels in growth.levels)])
    table.append(["holes between the areas", *(f"{holes:,}" for holes in growth.holes)])
    summary.tables["time per operation by live areas, 1 CPU"] = table


def _judge(growth: Growth, summary: Summary, what: str, values: list[float], unit: str, state: str) -> None:
    """A row for a law of growth: the logarithm must explain ``values`` better than the powers tried."""
    laws = growth.laws(values)
    logarithm = laws.pop(LOGARITHM)
    best = max(laws, key=lambda law: laws[law])
    a, b, _ = growth.fit(values)
    summary.add(
        f"{what}: R² of {LOGARITHM}",
        [logarithm],
        "",
        bar=Bar(AT_LEAST, laws[best]),
        state=state,
        test="growth",
        note=f"the bar is the R² of {best}; fit {a:.3g} + {b:.3g} log2(n) {unit}; "
        f"exponent of n^p between the ends {growth.exponent(values):.2f}",
    )


@pytest.mark.parametrize(("live", "cpus"), [case for case in MEMORY_CASES if case[0] <= LARGEST])
def test_memory(benchmark: BenchmarkFixture, live: int, cpus: int, summary: Summary, say: Say) -> None:
    """Resident memory per live area, each in a process of its own."""
    say(f"memory of {live:,} live areas")
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), str(live), str(cpus)]
    options = {"stdout": subprocess.PIPE, "check": True}
    done = benchmark.pedantic(subprocess.run, args=(command,), kwargs=options, rounds=1)
    told = json.loads(done.stdout)
    benchmark.extra_info.update(told)
    summary.add(
        f"memory: {live:,} live areas, {'1 CPU' if cpus == 1 else f'{cpus} CPUs'}",
        [told["thinned"]],
        "bytes per live area",
        bar=MEMORY_BAR,
        state="cold: a new process; resident memory after less resident memory before",
        test=f"memory and {live}-{cpus}",
        note=f"{told['grown']:.0f} before the first free; asked for, used or not: {told['tables']:.0f}; "
        f"{told['holes']:.2f} holes and {told['rows_used']:.2f} rows per live area, "
        f"{told['keys_per_run']:.0f} keys per run",
    )
