"""The simulated machine through its public calls, from Python: what one call, one access and one area cost.

    make bench ARGS='bench/bench_machine.py'

Everything is timed as a user meets it: a loop in Python around ``space.vmalloc``, ``space.vfree`` and ``space.load``,
the loop included; ``space.access`` with an array of addresses.  Rounds are long enough for purges to happen in each:
what freeing defers is in the figure.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import AT_LEAST, AT_MOST, Bar, Row, Summary

from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.units import GIB, MIB

#: Size, pairs of calls in a round, microseconds at most.
PAIRS = ((4096, 50_000, 3.0), (2 * MIB, 1_000, 20.0))
LOADS = 300_000
PERCPU_OBJECTS = 35_000
ACCESSES = 1 << 20
#: Pages that fit into a TLB of 1536 entries, and pages that do not.
HIT_PAGES, MISS_PAGES = 1024, 1 << 16
ROUNDS = 9

#: The first round is not counted: it makes page tables, fills the lists of frames and warms the caches.
WARM = "warm: one round before; wall time, Python's loop included"


@pytest.fixture
def space() -> SimulatedSpace:
    """Four CPUs, 4 GiB, Linux 6.19 on x86-64."""
    return simulated("x86_64", kernel="6.19", cpus=4, memory="4GiB")


def timed(benchmark: BenchmarkFixture, work: Callable[[], Any], operations: int) -> list[float]:
    """Seconds per operation, round by round."""
    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["operations"] = operations
    return [seconds / operations for seconds in benchmark.stats.stats.data]


def per_second(found: list[float]) -> list[float]:
    return [1 / seconds for seconds in found]


def unit(size: int) -> str:
    return "1 page" if size == 4096 else f"{size // MIB} MiB"


@pytest.mark.parametrize(("size", "pairs", "bar"), PAIRS, ids=[unit(size) for size, *_ in PAIRS])
def test_vmalloc_and_vfree(
    benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None, size: int, pairs: int,
    bar: float,
) -> None:  # fmt: skip
    """Each area is freed before the next is allocated; the purges that this makes necessary are part of it."""

    def work() -> None:
        vmalloc, vfree = space.vmalloc, space.vfree
        for _ in range(pairs):
            vfree(vmalloc(size))

    found = timed(benchmark, work, pairs)
    purges = space.stats()["purges"]
    assert purges > ROUNDS  # else the figure is not the one it is said to be
    space.validate()
    summary.add(
        f"simulated machine: vmalloc and vfree of {unit(size)}, purges included",
        [seconds * 1e6 for seconds in found],
        "us per pair",
        bar=Bar(AT_MOST, bar),
        state=WARM,
        test=f"vmalloc_and_vfree and {unit(size).split()[1]}",
        note=f"one purge in {pairs * (ROUNDS + 1) / purges:,.0f} pairs",
    )


def test_percpu_objects(benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None) -> None:
    """The per-CPU case of the kernel's test module: 35,000 objects of random sizes and alignments, then all freed.

    Chunks are made, populated for four CPUs, and given back in each round.
    """
    draw = random.Random(1)
    requests = [(draw.randint(1, 1024), 1 << draw.randint(1, 11)) for _ in range(PERCPU_OBJECTS)]

    def work() -> None:
        alloc, free = space.alloc_percpu, space.free_percpu
        for p in [alloc(size, align) for size, align in requests]:
            free(p)

    found = timed(benchmark, work, PERCPU_OBJECTS)
    stats = space.percpu_stats()
    assert stats["chunks_destroyed"] > 10 * ROUNDS  # else the figure is not the one it is said to be
    space.validate()
    summary.add(
        "simulated machine: alloc_percpu and free_percpu, chunks and pages included",
        [seconds * 1e6 for seconds in found],
        "us per pair",
        bar=Bar(AT_MOST, 5.0),
        state=WARM,
        test="percpu_objects",
        note=f"{stats['populations'] / stats['allocations']:.2f} pages populated per object, for each of 4 CPUs",
    )


def test_single_loads(benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None) -> None:
    """Eight bytes at a time, all from one area: the translation is in the TLB."""
    area = space.vzalloc(16 * 4096)
    addresses = [area.address + k * 8 for k in range(0, 16 * 512, 7)]
    repeat = LOADS // len(addresses)

    def work() -> None:
        load = space.load
        for _ in range(repeat):
            for address in addresses:
                load(address, 8)

    found = timed(benchmark, work, repeat * len(addresses))
    summary.add(
        "simulated machine: single loads of 8 bytes from Python",
        per_second(found),
        "per second",
        bar=Bar(AT_LEAST, 3e6),
        state=WARM,
        test="single_loads",
    )


@pytest.mark.parametrize(
    ("pages", "order", "bar"),
    [(HIT_PAGES, "at random", 20e6), (MISS_PAGES, "at random", 5e6), (MISS_PAGES, "in order", 5e6)],
    ids=["hits", "misses-random", "misses-ordered"],
)
def test_accesses(
    benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None, pages: int, order: str,
    bar: float,
) -> None:  # fmt: skip
    """An array of addresses; no byte is moved, everything else of an access is done."""
    area = space.vmalloc(pages * 4096)
    chosen = np.arange(ACCESSES) % pages
    if order == "at random":
        chosen = np.random.default_rng(1).permutation(chosen)
    addresses = np.uint64(area.address) + chosen.astype(np.uint64) * np.uint64(4096)
    counts: Any = None

    def work() -> None:
        nonlocal counts
        counts = space.access(addresses)

    found = timed(benchmark, work, ACCESSES)
    hit = pages == HIT_PAGES
    share = counts.hits / ACCESSES
    assert share > 0.99 if hit else share < 0.05
    row: Row = summary.add(
        f"simulated machine: access() of {ACCESSES:,} addresses in {pages:,} pages, {order}",
        per_second(found),
        "per second",
        bar=Bar(AT_LEAST, bar),
        state="warm: one round before; wall time",
        test=f"accesses and {'hits' if hit else 'misses-random' if order == 'at random' else 'misses-ordered'}",
        note=f"{share:.1%} found in the TLB, the others walk four levels of tables",
    )
    assert row.rounds == ROUNDS


def test_a_large_machine(benchmark: BenchmarkFixture, summary: Summary) -> None:
    """1 TiB and a million areas, in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("machine_memory.py")), "1000000", "1TiB"]
    options = {"stdout": subprocess.PIPE, "check": True}
    done = benchmark.pedantic(subprocess.run, args=(command,), kwargs=options, rounds=1)
    told = json.loads(done.stdout)
    benchmark.extra_info.update(told)
    summary.add(
        "simulated machine: a computer with 1 TiB and 1,000,000 live areas",
        [told["whole"] / GIB],
        "GiB resident",
        bar=Bar(AT_MOST, 2),
        state="cold: a new process; all of its resident memory, the interpreter and the handles included",
        test="a_large_machine",
        note=f"{told['machine'] / MIB:,.0f} MiB before the first area; then {told['per_area']:,.0f} bytes per area of "
        f"2.5 pages on average; modelled page tables {told['page_table_bytes'] / MIB:,.0f} MiB",
    )
