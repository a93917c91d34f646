"""What the plan finds out before a replay: purges and what belongs to them, and retries."""

from __future__ import annotations

from scripted_kernel import MODULES, PAGE, WINDOW, Event, ScriptedKernel

from vmalloc.trace.events import FREE, PURGE, Trace
from vmalloc.trace.replay.plan import UNCOUNTED, make_plan


def purged(count: int, pid: int = 2) -> Event:
    return Event(PURGE, 0, pid, WINDOW[0], WINDOW[0] + PAGE, count)


def test_an_empty_trace_has_an_empty_plan() -> None:
    plan = make_plan(Trace("empty"))
    assert (plan.nr_purges, len(plan.done), list(plan.window_start)) == (0, 0, [0])


def test_windows_become_two_columns() -> None:
    plan = make_plan(ScriptedKernel().trace)
    assert (list(plan.window_start), list(plan.window_end)) == ([WINDOW[0], MODULES[0]], [WINDOW[1], MODULES[1]])


def test_a_purge_knows_its_event_its_flush_and_its_count() -> None:
    kernel = ScriptedKernel()
    kernel.allocs(1)
    kernel.flush(pid=2)
    kernel.allocs(1)
    kernel.write(purged(3))
    plan = make_plan(kernel.trace)
    assert (list(plan.purge_event), list(plan.purge_flush), list(plan.purge_count)) == ([3], [1], [3])
    assert list(plan.purge_full) == [0]


def test_the_last_flush_of_the_purging_task_is_the_one() -> None:
    kernel = ScriptedKernel()
    for pid in (2, 2, 3):
        kernel.flush(pid=pid)
    kernel.write(purged(1))
    assert list(make_plan(kernel.trace).purge_flush) == [1]


def test_a_flush_belongs_to_one_purge_only() -> None:
    kernel = ScriptedKernel()
    kernel.flush()
    kernel.write(purged(1), purged(1))
    assert list(make_plan(kernel.trace).purge_flush) == [0, -1]


def test_a_flush_from_before_the_previous_purge_belongs_to_none() -> None:
    kernel = ScriptedKernel()
    kernel.flush(pid=5)
    kernel.write(purged(1, pid=2), purged(1, pid=5))
    assert list(make_plan(kernel.trace).purge_flush) == [-1, -1]


def test_a_purge_that_took_nothing_did_not_flush() -> None:
    kernel = ScriptedKernel()
    kernel.flush()
    kernel.write(purged(0))
    assert list(make_plan(kernel.trace).purge_flush) == [-1]


def test_a_purge_began_after_the_purge_before_and_after_what_its_task_did_before() -> None:
    kernel = ScriptedKernel()
    kernel.allocs(1, 1)  # pid 100
    kernel.write(Event(FREE, 0, 7, WINDOW[0]))
    kernel.write(Event(FREE, 0, 100, WINDOW[0] + PAGE))
    kernel.write(purged(1, pid=7), purged(1, pid=100))
    assert list(make_plan(kernel.trace).purge_bound) == [2, 4]


def test_the_work_event_of_its_task_bounds_a_purge_and_its_flush_does_not() -> None:
    kernel = ScriptedKernel()
    kernel.work(pid=2)
    kernel.flush(pid=2)
    kernel.write(purged(1))
    assert list(make_plan(kernel.trace).purge_bound) == [0]


def test_kprobes_do_not_count_purged_areas() -> None:
    kernel = ScriptedKernel("6.1")
    kernel.write(purged(0))
    kernel.trace.source = "kprobes"
    assert list(make_plan(kernel.trace).purge_count) == [UNCOUNTED]


def overflow(kernel: ScriptedKernel, *, pid: int = 100) -> None:
    """A failed attempt, its full purge, and the second attempt."""
    kernel.write(kernel.alloc(100, pid=pid, window=MODULES))
    kernel.write(kernel.purge(full=True, pid=pid))
    kernel.write(kernel.alloc(100, pid=pid, window=MODULES, try_pool=False))


def test_a_purge_after_a_failed_attempt_of_its_task_empties_the_pools() -> None:
    kernel = ScriptedKernel()
    overflow(kernel)
    kernel.write(purged(1, pid=100))
    plan = make_plan(kernel.trace)
    assert list(plan.purge_full) == [1, 0]


def test_a_purge_by_another_task_does_not() -> None:
    kernel = ScriptedKernel()
    kernel.write(kernel.alloc(100, window=MODULES))
    kernel.write(purged(1, pid=2))
    assert list(make_plan(kernel.trace).purge_full) == [0]


def test_the_next_attempt_of_the_task_is_the_retry_and_only_that() -> None:
    kernel = ScriptedKernel()
    kernel.write(kernel.alloc(100, window=MODULES))  # 0: fails
    kernel.allocs(1, cpu=1)  # 1: another task
    kernel.write(kernel.purge(full=True, pid=100))  # 2
    kernel.write(kernel.alloc(100, window=MODULES))  # 3: the retry, which fails as well
    kernel.allocs(1, 1)  # 4, 5: what the task does next is no retry
    assert list(make_plan(kernel.trace).retry) == [0, 0, 0, 1, 0, 0]


def test_two_tasks_fail_and_retry_each_for_itself() -> None:
    kernel = ScriptedKernel()
    for pid in (7, 8):
        kernel.write(kernel.alloc(100, pid=pid, window=MODULES))
    for pid in (8, 7):
        kernel.write(kernel.alloc(1, pid=pid, window=MODULES))
    assert list(make_plan(kernel.trace).retry) == [0, 0, 1, 1]
