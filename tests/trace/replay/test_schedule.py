"""Carrying events out: purges and their moments, frees around a detach, failures and retries, chunks, trials."""

from __future__ import annotations

import pytest
from scripted_kernel import MODULES, MS, PAGE, US, WINDOW, Event, ScriptedKernel

from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.validate import validate_allocator
from vmalloc.trace.events import FREE, PCPU_CREATE
from vmalloc.trace.replay import replay as module
from vmalloc.trace.replay.result import ReplayResult
from vmalloc.trace.replay.verdicts import COUNTERS

pytestmark = pytest.mark.both_builds

KERNELS = pytest.mark.parametrize("version", ["6.12", "6.19"])
CHUNK = PcpuGroups([0], [2 << 20], 2 << 20, *WINDOW)


def whole(result: ReplayResult) -> bool:
    """Everything agreed and nothing was corrected."""
    return result.agreed == result.allocations and not result.corrected and not result.unexplained


def engine_of(machine: ScriptedKernel, *, correcting: bool = False):
    """An engine at the trace's start, and its plan."""
    setting = module._setting(machine.trace, None, [], None, not correcting, module.SLACK, 1)
    return module._engine(machine.trace, setting, machine.kernel, 0)


def counted(plan) -> dict[str, int]:
    """The counters that counted something."""
    return {name: count for name, count in zip(COUNTERS, plan.counter, strict=True) if count}


# -- when a purge begins ---------------------------------------------------------------------------------------------


@KERNELS
@pytest.mark.parametrize("flushes", [True, False])
def test_a_purge_in_its_place_is_replayed_without_an_assumption(version: str, flushes: bool) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    areas = machine.allocs(2, 2, 5)
    machine.frees(*areas)
    machine.begin_purge()
    if flushes:
        machine.flush()
    machine.write(machine.finish_purge())
    hits = machine.allocs(2, 2, 5)
    assert [hit.va_start for hit in hits] == [areas[1].va_start, areas[0].va_start, areas[2].va_start]
    result = machine.replay()
    assert (whole(result), result.assumptions, result.purges) == (True, {}, 1)


def test_a_flush_event_begins_the_purge() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.frees(*machine.allocs(2))
    machine.begin_purge()
    machine.flush()
    machine.write(machine.finish_purge())
    engine, _ = engine_of(machine)
    engine.run(0, 3)
    assert (engine.begun, engine.allocator.nodes.lazy_areas) == (False, 1)
    engine.run(3, 4)
    assert (engine.begun, engine.allocator.nodes.lazy_areas, engine.k) == (True, 0, 0)
    engine.run(4, 5)
    assert (engine.begun, engine.k) == (False, 1)


@KERNELS
def test_a_purge_without_flush_event_begins_when_its_number_of_areas_is_lazy(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    areas = machine.allocs(2, 2, 2, cpu=1)
    machine.frees(*areas[:2], cpu=1)
    machine.begin_purge()
    machine.frees(areas[2], cpu=1)  # after the detach
    machine.write(machine.finish_purge())
    hits = machine.allocs(2, 2, 2, cpu=1)
    assert hits[2].va_start != areas[2].va_start
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {"purges_begun_by_count": 1})


def test_a_purge_that_only_decays_is_replayed() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 3)
    machine.purges()  # nothing is lazy; 6.12 empties a pool of three
    assert machine.pool(2) == []
    assert machine.allocs(1)[0].pages[0] == 1
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {})


@KERNELS
def test_pools_decay_by_the_rule_of_the_version(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 3)
    machine.fill_pool(3, 9)
    machine.purges()
    assert len(machine.pool(2)) == (0 if version == "6.12" else 3)
    assert len(machine.pool(3)) == 7
    machine.allocs(2, 2, 3, 3, 1, 1, 2, 2)
    assert whole(machine.replay())
    assert not whole(machine.replay(kernel="6.19" if version == "6.12" else "6.12"))


# -- frees around a detach -------------------------------------------------------------------------------------------


@KERNELS
def test_a_free_written_before_the_flush_may_come_after_the_detach(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    first, second = machine.allocs(2, 2, cpu=1)
    machine.frees(first, cpu=1)
    machine.begin_purge()
    machine.frees(second, cpu=1)
    machine.flush()
    machine.write(machine.finish_purge())
    machine.allocs(2, 2, cpu=1)
    machine.purges()
    machine.allocs(2, cpu=1)
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {"frees_late": 1})


@KERNELS
def test_a_free_written_after_the_flush_may_come_before_the_detach(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    first, second = machine.allocs(2, 2, cpu=1)
    machine.frees(first, cpu=1)
    late = machine.free(second, cpu=1)
    machine.begin_purge()
    machine.flush()
    machine.write(late)
    machine.write(machine.finish_purge())
    machine.allocs(2, 2, cpu=1)
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {"frees_early": 1})


def test_a_late_free_belongs_to_the_next_purge() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    first, second = machine.allocs(2, 2, cpu=1)
    machine.frees(first, cpu=1)
    machine.begin_purge()
    machine.frees(second, cpu=1)
    machine.flush()
    machine.write(machine.finish_purge())
    engine, plan = engine_of(machine)
    engine.run(0, len(machine.trace))
    validate_allocator(engine.allocator)
    assert engine.allocator.nodes.lazy_areas == 1
    assert counted(plan) == {"frees_late": 1}


def test_the_purging_tasks_own_frees_are_in_order() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    first, second = machine.allocs(2, 2)
    machine.write(machine.free(first, pid=2))
    machine.begin_purge()
    machine.write(machine.free(second, pid=2))  # by the purging task, which cannot be
    machine.flush()
    machine.write(machine.finish_purge())
    result = machine.replay()
    assert result.assumptions == {"purge_counts_wrong": 1}


def test_a_missing_free_is_not_looked_for_among_areas_that_do_not_exist_yet() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.allocator.put(WINDOW[0] + 64 * PAGE, WINDOW[0] + 66 * PAGE, 0)
    machine.free(WINDOW[0] + 64 * PAGE)  # freed without an event
    machine.purges()
    later = machine.allocs(3, 3, 3, cpu=1)
    machine.frees(*later, cpu=1)
    result = machine.replay()
    assert result.assumptions == {"purge_counts_wrong": 1}
    assert result.frees == 3


@KERNELS
def test_a_missing_free_is_the_next_thing_its_task_did(version: str) -> None:
    machine = ScriptedKernel(version, cpus=4)
    machine.allocs(1)
    first, wrong, right = machine.allocs(2, 2, 2, cpu=1)
    machine.frees(first, cpu=1)
    late = machine.free(right, cpu=1, pid=7)
    machine.begin_purge()
    machine.flush()
    machine.write(machine.finish_purge())
    machine.allocs(5, cpu=3)  # pid 103 allocates after the purge, so it cannot have freed before it
    machine.write(machine.free(wrong, cpu=3))
    machine.write(late)
    machine.allocs(2, 2, 2, cpu=1)
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {"frees_early": 1})


@pytest.mark.parametrize("version", ["6.12", "6.19"])
def test_one_missed_moment_does_not_shift_all_later_purges(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    large, _ = machine.allocs(300, 2)
    machine.frees(large)
    purge = machine.purge()
    machine.write(machine.alloc(300), purge)  # before its purge event, and without a flush event
    old = machine.allocs(2, 2)
    for _ in range(20):
        new = machine.allocs(2, 2)
        machine.frees(*old)
        old = new
        machine.purges()
    result = machine.replay(open_loop=False)
    assert result.agreed >= result.allocations - 1
    assert result.assumptions.get("frees_early", 0) == result.assumptions.get("unknown_frees", 0) == 0


def test_a_free_of_an_unknown_area_is_counted() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    machine.write(Event(FREE, 0, 5, WINDOW[0] + 77 * PAGE, count=1))
    assert machine.replay().assumptions == {"unknown_frees": 1}


# -- failed attempts -------------------------------------------------------------------------------------------------


@KERNELS
def test_a_failed_attempt_its_purge_and_its_retry(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    areas = [machine.write(machine.alloc(20, window=MODULES)) for _ in range(3)]
    machine.frees(areas[1])
    machine.write(machine.alloc(10, window=MODULES))
    machine.write(machine.purge(full=True, pid=100))
    retry = machine.write(machine.alloc(10, window=MODULES, try_pool=False))
    assert retry.va_start == areas[1].va_start
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {})
    assert (result.allocations, result.placements) == (6, 5)


@KERNELS
def test_the_purge_after_a_failed_attempt_empties_the_pools_and_the_retry_ignores_them(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 8)
    machine.frees(*machine.allocs(3))
    huge = (WINDOW[1] - WINDOW[0]) // PAGE
    machine.write(machine.alloc(huge))
    machine.write(machine.purge(full=True, pid=100))
    assert machine.pool(2) == machine.pool(3) == []
    machine.write(machine.alloc(huge, try_pool=False))
    machine.allocs(2, 3, 2)
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {})


def test_a_retry_searches_the_tree_although_the_pool_would_serve() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    machine.write(machine.alloc(100, window=MODULES))
    machine.write(machine.purge(full=True, pid=100))
    machine.fill_pool(2, 4, cpu=1)  # another task fills the pool of the retry's CPU meanwhile
    retry = machine.write(machine.alloc(2, cpu=1, pid=100, try_pool=False))
    assert retry.pages[0] not in (1, 3, 5, 7)
    assert whole(machine.replay())


def test_a_failed_attempt_that_finds_room_is_unexplained_and_takes_nothing() -> None:
    machine = ScriptedKernel("6.19")
    machine.allocs(1)
    machine.allocator.put(*MODULES, 0)  # nobody has recorded this
    machine.write(machine.alloc(4, window=MODULES))
    result = machine.replay()
    assert (result.unexplained, result.assumptions) == (1, {"failures_wrong": 1})
    assert (result.agreed, result.allocations, result.placements) == (1, 2, 1)
    engine, _ = engine_of(machine)
    engine.run(0, len(machine.trace))
    validate_allocator(engine.allocator)
    assert engine.allocator.find_busy(MODULES[0]) == 0


# -- chunks ----------------------------------------------------------------------------------------------------------


def test_a_chunk_is_carved_out_at_the_top() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.write(machine.chunk(CHUNK))
    machine.write(machine.chunk(CHUNK))
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {})
    assert result.largest_hole < WINDOW[1] - WINDOW[0] - 2 * (2 << 20)


def test_a_chunk_elsewhere_is_counted_and_the_models_base_is_kept() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    first = machine.write(machine.chunk(CHUNK))
    wrong = machine.write(Event(PCPU_CREATE, 0, 100, first.va_start - (8 << 20)))
    engine, plan = engine_of(machine)
    engine.run(0, len(machine.trace))
    assert counted(plan) == {"chunks_wrong": 1}
    assert plan.placed[2] == first.va_start - (2 << 20) != wrong.va_start


def test_a_chunk_whose_base_is_hashed_takes_its_place_unseen() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    machine.write(machine.chunk(CHUNK))
    machine.chunk(CHUNK)
    machine.write(Event(PCPU_CREATE, 0, 100, 0))
    machine.write(machine.chunk(CHUNK))
    result = machine.replay()
    assert result.assumptions == {}


def test_a_chunk_is_freed_like_any_area() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    chunk = machine.write(machine.chunk(CHUNK))
    machine.frees(chunk)
    machine.purges()
    assert machine.write(machine.chunk(CHUNK)).va_start == chunk.va_start
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {})


# -- lost events -----------------------------------------------------------------------------------------------------


def test_lost_events_end_the_certainty() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    lost = machine.alloc(1)
    machine.lose(1)
    machine.allocs(1)
    machine.frees(lost)
    result = machine.replay(open_loop=False)
    assert (result.lost_events, result.unexplained) == (1, 0)
    assert result.mismatches == {"pool state unknown": 1}
    assert result.assumptions["unknown_frees"] == 1


def test_after_a_loss_counts_are_not_relied_on_until_the_next_purge() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    areas = machine.allocs(2, 2, 2)
    machine.lose(0)
    machine.frees(*areas[:2])
    machine.free(areas[2])  # its event is lost
    machine.purges()
    engine, plan = engine_of(machine)
    assert engine.counts_known == engine.state_known
    engine.run(0, 5)
    assert not engine.counts_known
    engine.run(5, len(machine.trace))
    assert engine.counts_known
    assert counted(plan) == {"purge_counts_wrong": 1}


# -- bookkeeping -----------------------------------------------------------------------------------------------------


def test_peak_busy_counts_bytes_over_time() -> None:
    machine = ScriptedKernel()
    areas = machine.allocs(4, 4, 4)
    machine.frees(*areas[:2])
    machine.allocs(1)
    assert machine.replay().peak_busy_bytes == 12 * PAGE


def test_events_in_steps_or_at_once_give_the_same() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 6)
    machine.frees(*machine.allocs(2, 2, 9))
    machine.purges()
    machine.allocs(2, 9, 1)
    once, whole_plan = engine_of(machine)
    once.run(0, len(machine.trace))
    steps, step_plan = engine_of(machine)
    for i in range(len(machine.trace)):
        steps.run(i, i + 1)
        validate_allocator(steps.allocator)
    assert list(whole_plan.placed) == list(step_plan.placed)
    assert once.allocator.free.blocks() == steps.allocator.free.blocks() == machine.allocator.free.blocks()


def test_a_trial_that_is_undone_leaves_no_trace() -> None:
    """A later purge is tried, because the recorded range is lazy; the pool's head is another one, so it is undone."""
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    first, second = machine.allocs(2, 2)
    machine.frees(first, second)
    purge = machine.purge()
    machine.alloc(2)  # the head; its event is never written
    wrong = machine.alloc(2)
    assert wrong.va_start == first.va_start
    machine.write(wrong, purge)
    twin = ScriptedKernel("6.19", cpus=2)
    twin.allocs(1)
    twin.frees(*twin.allocs(2, 2))
    engine, _ = engine_of(machine)
    before, _ = engine_of(twin)
    before.run(0, len(twin.trace))
    engine.run(0, 5)
    assert engine.allocator.free.blocks() == before.allocator.free.blocks()
    engine.run(5, 6)
    assert engine.trials >= 1
    validate_allocator(engine.allocator)


def test_time_between_events_does_not_matter_without_other_cpus() -> None:
    machine = ScriptedKernel()
    for gap in (0, US, MS, 1000 * MS):
        machine.wait(gap)
        machine.frees(*machine.allocs(3, 2)[:1])
    machine.purges()
    machine.allocs(3, 1)
    result = machine.replay()
    assert (whole(result), result.reordered, result.assumptions) == (True, 0, {})
