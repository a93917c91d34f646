"""Orders that a trace permits: each is found, counted, and not found where the trace forbids it."""

from __future__ import annotations

import pytest
from scripted_kernel import MS, PAGE, US, Event, ScriptedKernel

from vmalloc.areas.validate import validate_allocator
from vmalloc.trace.events import ALLOC, FREE
from vmalloc.trace.replay.plan import make_plan
from vmalloc.trace.replay.replay import SLACK
from vmalloc.trace.replay.result import ReplayResult

pytestmark = pytest.mark.both_builds

KERNELS = pytest.mark.parametrize("version", ["6.12", "6.19"])


def whole(result: ReplayResult) -> bool:
    """Everything agreed and nothing was corrected."""
    return result.agreed == result.allocations and not result.corrected and not result.unexplained


def swapped(*, late: int = US, pids: tuple[int, int] = (100, 101), kernel: str = "6.12") -> ScriptedKernel:
    """Two allocations whose events changed places, the one that was first written ``late`` nanoseconds later."""
    machine = ScriptedKernel(kernel, cpus=2)
    machine.allocs(1)
    first, second = machine.alloc(1, cpu=1, pid=pids[1]), machine.alloc(1, cpu=0, pid=pids[0])
    machine.write(second)
    machine.wait(late - US)
    machine.write(first)
    machine.allocs(2, 1)
    return machine


# -- another allocation came first -----------------------------------------------------------------------------------


@KERNELS
def test_a_swapped_pair_on_two_cpus_is_put_in_order_and_counted(version: str) -> None:
    result = swapped(kernel=version).replay()
    assert whole(result)
    assert (result.reordered, result.assumptions) == (1, {})


def test_a_pair_may_be_apart_by_the_slack_but_not_by_more() -> None:
    assert whole(swapped(late=SLACK).replay())
    late = swapped(late=SLACK + US).replay()
    assert (late.reordered, late.agreed, late.mismatches) == (0, 3, {"unexplained": 1, "order": 1})


def test_without_slack_nothing_is_put_in_order() -> None:
    assert swapped().replay(slack=0).reordered == 0
    assert whole(swapped(late=3 * US).replay(slack=3 * US))
    assert not whole(swapped(late=3 * US).replay(slack=2 * US))


def test_the_order_of_one_task_is_certain() -> None:
    result = swapped(pids=(100, 100)).replay()
    assert result.reordered == 0
    assert not whole(result)


def test_equal_time_stamps_of_one_task_are_in_no_order() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    first, second = machine.alloc(1), machine.alloc(2)
    machine.write_at_once(second, first)
    result = machine.replay()
    assert whole(result)
    assert result.reordered == 1


def test_several_allocations_may_have_come_first() -> None:
    machine = ScriptedKernel(cpus=4)
    machine.allocs(1)
    events = [machine.alloc(1, cpu=cpu) for cpu in (1, 2, 3, 0)]
    machine.write(events[3], events[0], events[1], events[2])
    result = machine.replay()
    assert whole(result)
    assert result.reordered == 3


def test_an_allocation_that_takes_only_a_part_of_the_offer_may_have_come_first() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    first, second = machine.alloc(2, cpu=1), machine.alloc(9, cpu=0)
    assert first.pages[0] == 1
    machine.write(second, first)
    assert whole(machine.replay())


def test_an_allocation_that_begins_below_an_aligned_offer_may_have_come_first() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    first, second = machine.alloc(9, cpu=0), machine.alloc(5, cpu=1, align=4 * PAGE)
    assert (first.pages, second.pages) == (range(1, 10), range(12, 17))  # without the first: 4 to 9
    machine.write(second, first)
    result = machine.replay()
    assert whole(result)
    assert result.reordered == 1


def test_no_allocation_moves_across_a_free_of_the_range() -> None:
    machine = swapped()
    events = machine.trace.events
    assert list(events.kind[:3]) == [ALLOC] * 3
    # The address the one is offered, and the other takes, is freed in between: then the other cannot have come first.
    between = ScriptedKernel(cpus=2)
    between.allocs(1)
    first, second = between.alloc(1, cpu=1), between.alloc(1, cpu=0)
    between.write(second, Event(FREE, 0, 7, first.va_start, count=1), first)
    result = between.replay()
    assert result.reordered == 0
    assert not whole(result)


def test_an_order_that_does_not_lead_to_the_address_is_undone() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    taker = machine.alloc(1, cpu=1)
    machine.allocator.put(taker.va_end, taker.va_end + PAGE, 0)  # nobody has recorded this one
    other = machine.alloc(1, cpu=0)
    machine.write(other, taker)
    engine, plan = engine_of(machine, correcting=False)
    engine.run(0, 2)
    validate_allocator(engine.allocator)
    assert engine.trials == 1
    assert list(plan.done) == [1, 1, 0]
    assert plan.placed[1] == taker.va_start  # in open loop the area is where the model puts it
    assert list(plan.counter) == [0] * len(plan.counter)


def engine_of(machine: ScriptedKernel, *, correcting: bool):
    """An engine that starts at boot, and its plan."""
    from vmalloc.trace.replay import replay as module

    setting = module._setting(machine.trace, None, [], None, not correcting, SLACK, 1)
    engine, plan = module._engine(machine.trace, setting, machine.kernel, 0)
    assert make_plan(machine.trace).nr_purges == plan.nr_purges
    return engine, plan


# -- the task moved --------------------------------------------------------------------------------------------------


@KERNELS
def test_a_task_that_moved_is_served_by_the_pool_it_looked_at(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 4, cpu=0)
    hit = machine.alloc(2, cpu=0)
    machine.write(Event(ALLOC, 1, 100, hit.va_start, hit.va_end, align=1))  # written on CPU 1
    machine.write(machine.alloc(2, cpu=0))
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"cpu_moved": 1}


@pytest.mark.xfail(reason="the begin of a purge is tried first, and accepted against its number of areas", strict=True)
def test_a_purge_has_not_begun_before_a_free_that_it_counts() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 4, cpu=0)
    hit = machine.alloc(2, cpu=0)
    moved = machine.write(Event(ALLOC, 1, 100, hit.va_start, hit.va_end, align=1))
    machine.frees(moved, cpu=1)
    machine.purges()
    result = machine.replay()
    assert (whole(result), result.assumptions) == (True, {"cpu_moved": 1})


# -- a purge was further than its events say -------------------------------------------------------------------------


@KERNELS
def test_a_pool_is_refilled_before_the_purge_event_is_written(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.frees(*machine.allocs(2, 2, 2))
    machine.begin_purge()
    machine.flush()
    for _ in range(2):
        machine.allocator.purge.do_step(0)
    hit = machine.write(machine.alloc(2))
    assert hit.pages[0] == 3  # the second of three: the third is not in the pool yet
    machine.write(machine.finish_purge())
    machine.allocs(2, 2)
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"populated_early": 1}


@KERNELS
def test_a_purge_without_a_flush_event_began_when_an_allocation_shows_it(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.frees(*machine.allocs(2, 2, 2))
    purge = machine.purge()
    hit = machine.write(machine.alloc(2))
    assert hit.pages[0] == 5
    machine.write(purge)
    machine.allocs(2, 2)
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"purges_begun_early": 1, "populated_early": 1}


def test_a_decay_shows_that_a_purge_has_begun() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 2)  # fewer than four entries: 6.12 decays all of them
    machine.frees(*machine.allocs(3))
    machine.begin_purge()
    early = machine.write(machine.alloc(1))
    assert early.pages[0] == 1  # where a pool entry was
    machine.write(machine.finish_purge())
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"purges_begun_early": 1}


def test_a_decay_that_takes_the_head_away_shows_it_too() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    pool = machine.fill_pool(2, 4)
    machine.frees(*machine.allocs(3))
    machine.begin_purge()
    second = machine.write(machine.alloc(2))
    assert second.va_start == pool[1].va_start
    machine.write(machine.finish_purge())
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"purges_begun_early": 1}


@KERNELS
def test_a_range_too_large_for_a_pool_is_free_before_the_purge_event_is_written(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    large, _ = machine.allocs(300, 2)
    machine.frees(large)
    machine.begin_purge()
    machine.flush()
    machine.allocator.purge.do_finish(0)
    again = machine.write(machine.alloc(300))
    assert again.va_start == large.va_start
    machine.write(machine.finish_purge())
    result = machine.replay()
    assert whole(result)
    assert result.assumptions == {"populated_early": 1}


def test_a_purge_that_ends_long_after_the_allocation_explains_nothing() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.frees(*machine.allocs(2, 2))
    purge = machine.purge()
    machine.write(machine.alloc(2))
    machine.wait(6 * SLACK)
    machine.write(purge)
    result = machine.replay()
    assert result.mismatches == {"purge moment unknown": 1}


def test_a_purge_cannot_have_begun_before_its_task_did_something_else() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    machine.frees(*machine.allocs(2, 2))
    purge = machine.purge()
    machine.write(machine.alloc(2))
    machine.work()  # only now does the purging task begin
    machine.write(purge)
    assert machine.replay().mismatches == {"purge moment unknown": 1}


# -- orders that the trace permits and the replay does not try yet ----------------------------------------------------

NOT_TRIED = "a permitted order that no hypothesis tries yet"


@KERNELS
def test_an_allocation_made_before_a_purge_may_be_written_after_its_flush(version: str) -> None:
    machine = ScriptedKernel(version, cpus=2)
    machine.allocs(1)
    machine.fill_pool(2, 4)
    machine.frees(*machine.allocs(7))
    head = machine.alloc(2)
    machine.begin_purge()
    machine.flush()
    machine.write(head)
    machine.write(machine.finish_purge())
    assert whole(machine.replay())


@pytest.mark.parametrize("flushes", [True, False])
def test_an_allocation_made_before_a_refill_may_be_written_after_the_purge_event(flushes: bool) -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    freed, _ = machine.allocs(2, 2)
    machine.frees(freed)
    early = machine.alloc(2)
    machine.begin_purge()
    if flushes:
        machine.flush()
    machine.write(machine.finish_purge())
    machine.write(early)
    assert whole(machine.replay())


@pytest.mark.parametrize(("version", "cpus"), [("6.1", 1), ("6.12", 1), ("6.12", 2), ("6.19", 2)])
def test_a_range_that_enters_no_pool_shows_that_a_purge_without_flush_event_has_ended(version: str, cpus: int) -> None:
    machine = ScriptedKernel(version, cpus)
    machine.allocs(1)
    large, _ = machine.allocs(300, 2)
    machine.frees(large)
    purge = machine.purge()
    machine.write(machine.alloc(300))
    machine.write(purge)
    assert whole(machine.replay())


def test_an_allocation_may_fall_between_the_decays_of_two_nodes() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    one, zero = machine.allocs(2, cpu=1), machine.allocs(2, cpu=0)
    machine.allocs(1)
    machine.frees(*one, cpu=1)
    machine.frees(*zero, cpu=0)
    machine.purges()
    purge = machine.allocator.purge
    purge.do_begin((1 << 64) - 1, 0, False)
    purge.do_decay(0, False)
    purge.do_detach(0)
    between = machine.alloc(1)
    assert between.pages[0] == 3  # node 1 still has pages 1 and 2 in its pool
    purge.do_decay(1, False)
    purge.do_detach(1)
    machine.flush()
    machine.write(between)
    machine.write(machine.finish_purge())
    assert whole(machine.replay())


@pytest.mark.xfail(reason=NOT_TRIED, strict=True)
def test_a_free_may_be_written_after_its_range_was_allocated_again() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    area, _ = machine.allocs(2, 2)
    freed = machine.free(area, pid=7)
    purge = machine.purge()
    machine.write(machine.alloc(2), purge, freed)
    assert whole(machine.replay())


@pytest.mark.xfail(reason=NOT_TRIED, strict=True)
def test_a_failed_attempt_may_be_written_before_what_was_in_its_way() -> None:
    from scripted_kernel import MODULES

    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    machine.write(machine.alloc(60, window=MODULES))
    blocker = machine.alloc(4, cpu=1, window=MODULES)
    failed = machine.alloc(4, cpu=0, window=MODULES)
    machine.write(failed, blocker)
    assert whole(machine.replay())


def test_the_idle_tasks_of_two_cpus_are_two_tasks() -> None:
    assert whole(swapped(pids=(0, 0)).replay())


def test_slack_is_twenty_milliseconds() -> None:
    assert SLACK == 20 * MS
