"""Simulated kernels with several CPUs: the replay must find the true order behind the written one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_kernel import BUSY, MILD, STRONG, Load, SimulatedKernel, record

from vmalloc.areas.validate import validate_allocator
from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FREE, PURGE
from vmalloc.trace.replay import replay as module

VERSIONS = pytest.mark.parametrize("version", ["6.12", "6.19"])
FLUSHES = pytest.mark.parametrize("flushes", [True, False], ids=["flush-events", "no-flush-events"])


def chosen(load: Load, version: str, cpus: int, seed: int, flushes: bool) -> SimulatedKernel:
    return record(replace(load, kernel=version, cpus=cpus, seed=seed, flush_events=flushes))


def ranges(kernel: SimulatedKernel) -> list[tuple[int, int]]:
    """What is busy in truth."""
    nodes, rows = kernel.allocator.nodes, kernel.allocator.rows
    found = (rows.get(v) for node in range(nodes.nr_nodes) for v in nodes.busy(node))
    return sorted((row["va_start"], row["va_end"]) for row in found)


# -- the recorder itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [MILD, BUSY, STRONG], ids=["mild", "busy", "strong"])
def test_the_recorder_records_what_its_kernel_did(load: Load) -> None:
    kernel = chosen(replace(load, operations=600, modules=0.2, aliases=0.02), "6.19", 4, 1, True)
    validate_allocator(kernel.allocator)
    events = kernel.trace.events
    kinds = list(events.kind)
    assert kinds.count(ALLOC) - kinds.count(FREE) == len(ranges(kernel))
    assert all(kinds.count(kind) for kind in (ALLOC, FREE, PURGE))
    assert kinds.count(ALLOC_FAILED) > 0
    assert list(events.timestamp) == sorted(events.timestamp)


def test_a_recording_is_determined_by_its_load() -> None:
    first, second = (chosen(STRONG, "6.12", 4, 3, True) for _ in range(2))
    other = chosen(STRONG, "6.12", 4, 4, True)
    assert list(first.trace.events.va_start) == list(second.trace.events.va_start) != list(other.trace.events.va_start)


def test_a_strong_load_writes_in_another_order_than_it_acts() -> None:
    kernel = chosen(STRONG, "6.12", 4, 0, True)
    acts = [int(text.split(" at 0x")[1][:16], 16) for _, _, text in kernel.history if text.startswith("alloc")]
    events = kernel.trace.events
    written = [events.va_start[i] for i in range(len(events)) if events.kind[i] == ALLOC]
    assert written != acts[: len(written)]


# -- the replay ------------------------------------------------------------------------------------------------------


@VERSIONS
@FLUSHES
@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_mild_concurrency_is_replayed_whole_in_open_loop(version: str, cpus: int, flushes: bool) -> None:
    for seed in range(5):
        kernel = chosen(MILD, version, cpus, seed, flushes)
        result = kernel.replay()
        assert (result.agreed, result.mismatches, result.unexplained) == (result.allocations, {}, 0), seed
        after = kernel.replay(after=[kernel.snapshot("after")])
        assert after.after_snapshot_differences == 0


@VERSIONS
def test_the_version_of_a_mild_recording_is_found_out(version: str) -> None:
    kernel = chosen(MILD, version, 2, 0, True)
    assert kernel.replay(kernel=None).kernel == version


@VERSIONS
def test_a_mild_load_that_overflows_a_window_is_replayed_whole(version: str) -> None:
    result = chosen(replace(MILD, modules=0.15, aliases=0.02), version, 2, 0, True).replay()
    assert result.allocations > result.placements
    assert (result.agreed, result.unexplained) == (result.allocations, 0)


@VERSIONS
@FLUSHES
@pytest.mark.parametrize("cpus", [2, 4, 8])
def test_a_busy_load_stays_on_course_when_corrected(version: str, cpus: int, flushes: bool) -> None:
    for seed in range(3):
        result = chosen(BUSY, version, cpus, seed, flushes).replay(open_loop=False)
        assert result.agreement >= 0.95, (seed, result.mismatches)


@VERSIONS
@FLUSHES
def test_a_busy_load_on_two_cpus_is_replayed_whole_open_loop(version: str, flushes: bool) -> None:
    for seed in range(6):
        result = chosen(BUSY, version, 2, seed, flushes).replay()
        assert (result.agreed, result.unexplained) == (result.allocations, 0), seed


@VERSIONS
@FLUSHES
@pytest.mark.parametrize("cpus", [2, 8])
def test_strong_concurrency_keeps_a_floor_when_corrected(version: str, cpus: int, flushes: bool) -> None:
    shares = [chosen(STRONG, version, cpus, seed, flushes).replay(open_loop=False).agreement for seed in range(5)]
    assert sorted(shares)[2] >= 0.7, shares


@FLUSHES
@pytest.mark.parametrize("open_loop", [True, False], ids=["open-loop", "corrected"])
@pytest.mark.parametrize("load", [BUSY, STRONG], ids=["busy", "strong"])
def test_whatever_happens_the_structures_stay_valid(load: Load, open_loop: bool, flushes: bool) -> None:
    for version in ("6.12", "6.19"):
        kernel = chosen(replace(load, operations=500, modules=0.1, aliases=0.02), version, 4, 5, flushes)
        setting = module._setting(kernel.trace, None, [], None, open_loop, module.SLACK, 1)
        engine, plan = module._engine(kernel.trace, setting, kernel.kernel, 0)
        for first in range(0, len(kernel.trace), 40):
            engine.run(first, min(first + 40, len(kernel.trace)))
            validate_allocator(engine.allocator)
        assert all(plan.done)


LOADS = st.builds(
    Load,
    kernel=st.sampled_from(["6.1", "6.12", "6.19"]),
    cpus=st.integers(1, 6),
    seed=st.integers(0, 1000),
    tasks_per_cpu=st.integers(1, 4),
    operations=st.integers(1, 300),
    think=st.sampled_from([1000, 20_000, 500_000]),
    gap=st.sampled_from([100, 1000]),
    late=st.sampled_from([100, 5000]),
    very_late=st.sampled_from([0.0, 0.05]),
    preempt=st.sampled_from([0.0, 0.1]),
    migrate=st.sampled_from([0.0, 0.05]),
    pause=st.sampled_from([0.0, 0.01]),
    flush_events=st.booleans(),
    work_events=st.booleans(),
    lazy_max=st.sampled_from([0, 20, 300]),
    modules=st.sampled_from([0.0, 0.3]),
    aliases=st.sampled_from([0.0, 0.1]),
    busy=st.integers(1, 12),
)


def every_load_is_replayed(load: Load) -> None:
    """Nothing is lost, nothing breaks, corrected mode ends with what is busy in truth unless it had to evict."""
    kernel = record(load)
    validate_allocator(kernel.allocator)
    for open_loop in (True, False):
        setting = module._setting(kernel.trace, None, [], None, open_loop, module.SLACK, 1)
        engine, plan = module._engine(kernel.trace, setting, kernel.kernel, 0)
        engine.run(0, len(kernel.trace))
        validate_allocator(engine.allocator)
        assert all(plan.done)
    result = kernel.replay(open_loop=False)
    missed = sum(result.mismatches.values()) + result.assumptions.get("failures_wrong", 0)
    assert result.agreed + missed == result.allocations


@given(LOADS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_any_load_is_replayed_without_breaking_anything(load: Load) -> None:
    every_load_is_replayed(load)


@pytest.mark.campaign
@given(LOADS)
def test_campaign_of_loads(load: Load) -> None:
    every_load_is_replayed(load)


@pytest.mark.campaign
@VERSIONS
@FLUSHES
@pytest.mark.parametrize("cpus", [2, 4, 8])
@pytest.mark.parametrize("load", [MILD, BUSY, STRONG], ids=["mild", "busy", "strong"])
def test_campaign_of_agreement(load: Load, version: str, cpus: int, flushes: bool) -> None:
    """Prints the distribution (``-s``), and holds floors over many seeds."""
    kernels = [chosen(load, version, cpus, seed, flushes) for seed in range(40)]
    opened = sorted(kernel.replay().agreement for kernel in kernels)
    corrected = sorted(kernel.replay(open_loop=False).agreement for kernel in kernels)
    whole = sum(share == 1 for share in opened)
    least, median = (opened[0], corrected[0]), (opened[20], corrected[20])
    print(f"{whole} of 40 whole; open loop and corrected: least {least}, median {median}")
    assert corrected[20] >= {MILD: 1.0, BUSY: 0.99, STRONG: 0.7}[load]


def test_one_cpu_and_no_preemption_needs_no_assumption() -> None:
    for version in ("6.1", "6.12", "6.19"):
        result = record(replace(BUSY, kernel=version, cpus=1, tasks_per_cpu=1, flush_events=False)).replay()
        assert (result.agreed, result.reordered) == (result.allocations, 0)
