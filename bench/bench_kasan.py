"""What KASAN costs on the simulated machine: the same calls with it and without.

    make bench ARGS='bench/bench_kasan.py'

Time as in ``bench_machine.py``; memory as shadow pages per page of areas.  Stacks are taken where the benchmark runs,
which is as deep as pytest is; a program that calls from its top level pays less.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from summary import Summary

from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.units import MIB

#: Size and pairs of calls in a round.
PAIRS = ((4096, 10_000), (2 * MIB, 500))
LOADS = 100_000
ROUNDS = 7
WARM = "warm: one round before; wall time, Python's loop included"


def timed(benchmark: BenchmarkFixture, work: Callable[[], Any], operations: int) -> list[float]:
    """Nanoseconds per operation, round by round."""
    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    return [seconds / operations * 1e9 for seconds in benchmark.stats.stats.data]


@pytest.fixture(params=[False, True], ids=["off", "on"])
def space(request: pytest.FixtureRequest) -> SimulatedSpace:
    """Four CPUs, 4 GiB, Linux 6.19 on x86-64."""
    return simulated("x86_64", kernel="6.19", cpus=4, memory="4GiB", kasan=request.param)


def state_of(space: SimulatedSpace) -> str:
    return "without KASAN" if space.kasan is None else "with KASAN"


@pytest.mark.parametrize(("size", "pairs"), PAIRS, ids=["1page", "2MiB"])
def test_kasan_vmalloc_and_vfree(
    benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None, size: int, pairs: int
) -> None:
    """Shadow is made, allowed, forbidden and given back; two stacks are taken."""

    def work() -> None:
        vmalloc, vfree = space.vmalloc, space.vfree
        for _ in range(pairs):
            vfree(vmalloc(size))

    found = timed(benchmark, work, pairs)
    space.validate()
    name = "1 page" if size == 4096 else "2 MiB"
    what = f"{state_of(space)}: vmalloc and vfree of {name}, purges included"
    summary.add(what, found, "ns per pair", state=WARM, test="kasan_vmalloc_and_vfree")


@pytest.mark.parametrize("size", [8, 4096])
def test_kasan_loads(
    benchmark: BenchmarkFixture, space: SimulatedSpace, summary: Summary, one_core: None, size: int
) -> None:
    """Each load reads one byte of shadow for eight of its own."""
    area = space.vzalloc(16 * 4096)
    addresses = [area.address + k * 4096 for k in range(16)]

    def work() -> None:
        load = space.load
        for _ in range(LOADS // len(addresses)):
            for address in addresses:
                load(address, size)

    found = timed(benchmark, work, LOADS)
    checks = 0 if space.kasan is None else space.kasan.checks
    assert checks == (0 if space.kasan is None else LOADS * (ROUNDS + 1))
    summary.add(f"{state_of(space)}: a load of {size} bytes", found, "ns", state=WARM, test="kasan_loads")
