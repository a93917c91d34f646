"""When and why a recorded kernel purged: lags, spans, reasons, and what was lazy meanwhile."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_kernel import MODULES, US, Event, ScriptedKernel

from vmalloc.trace.events import FLUSH, PURGE
from vmalloc.trace.replay.replay import find_opening
from vmalloc.trace.whatif.demand import read_demand
from vmalloc.trace.whatif.drains import DRAIN, FORCED, OVERFLOW, TYPICAL_LAG, Drains

LIMIT = 10


def drains_of(kernel: ScriptedKernel) -> Drains:
    kernel.trace.nr_lazy_max = LIMIT
    return read_demand(kernel.trace, find_opening(kernel.trace, kernel=kernel.kernel.name)).drains


def crossing(kernel: ScriptedKernel) -> None:
    """Three areas are freed: the last free finds 12 lazy pages. Six events."""
    kernel.frees(*kernel.allocs(3, 4, 5))


def test_lag_and_span_are_measured_at_the_flush() -> None:
    kernel = ScriptedKernel()
    crossing(kernel)
    kernel.wait(300 * US)
    kernel.begin_purge()
    kernel.flush()
    kernel.wait(50 * US)
    kernel.write(kernel.finish_purge())
    drains = drains_of(kernel)
    assert (list(drains.crossed), list(drains.lag), list(drains.span)) == ([6 * US], [301 * US], [51 * US])
    (purge,) = drains.purges
    assert (purge.why, purge.areas, purge.pages) == (DRAIN, 3, 12)
    assert drains.threshold == LIMIT


def test_without_flush_events_the_number_of_areas_tells_the_moment() -> None:
    kernel = ScriptedKernel(cpus=2)
    other = kernel.alloc(1)
    kernel.write(other)
    crossing(kernel)  # events 2 to 7
    kernel.wait(100 * US)
    kernel.begin_purge()
    kernel.wait(100 * US)
    kernel.frees(other, cpu=1)  # while the purge is running
    kernel.write(kernel.finish_purge())
    drains = drains_of(kernel)
    assert (list(drains.lag), list(drains.span)) == ([0], [202 * US])
    assert drains.purges[0].pages == 12


def test_a_free_during_a_purge_queues_the_next_one() -> None:
    """Pages that are being purged count as lazy until they are handed on (section 4.9)."""
    kernel = ScriptedKernel(cpus=2)
    other = kernel.write(kernel.alloc(1))
    crossing(kernel)
    kernel.begin_purge()
    kernel.frees(other, cpu=1)
    kernel.write(kernel.finish_purge())
    kernel.write(kernel.purge())
    assert [(purge.why, purge.areas) for purge in drains_of(kernel).purges] == [(DRAIN, 3), (DRAIN, 1)]


def test_below_the_threshold_somebody_forced_it() -> None:
    kernel = ScriptedKernel()
    kernel.frees(*kernel.allocs(3, 5))
    kernel.purges()
    kernel.purges()
    drains = drains_of(kernel)
    assert [(purge.why, purge.areas, purge.pages) for purge in drains.purges] == [(FORCED, 2, 8), (FORCED, 0, 0)]
    assert not drains.lag


def test_a_hull_from_below_the_range_was_handed_in() -> None:
    kernel = ScriptedKernel()
    crossing(kernel)
    purged = kernel.purge()
    kernel.write(Event(PURGE, 0, 9, 0xFFFF888000000000, purged.va_end, purged.count))
    assert [purge.why for purge in drains_of(kernel).purges] == [FORCED]


def test_where_the_work_was_recorded_it_tells_the_reason() -> None:
    kernel = ScriptedKernel()
    kernel.frees(*kernel.allocs(3, 5))
    kernel.work()
    kernel.purges()  # the work runs although nothing is above the threshold any more
    crossing(kernel)
    kernel.write(kernel.purge(pid=9))  # and somebody else purges before it can
    assert [purge.why for purge in drains_of(kernel).purges] == [DRAIN, FORCED]


def test_a_purge_between_an_attempt_and_its_repetition_is_an_overflow() -> None:
    kernel = ScriptedKernel()
    full = kernel.write(kernel.alloc(64, window=MODULES))
    kernel.frees(full)
    kernel.write(kernel.alloc(1, window=MODULES))
    kernel.write(kernel.purge(full=True, pid=100))
    kernel.write(kernel.alloc(1, window=MODULES, try_pool=False))
    assert [purge.why for purge in drains_of(kernel).purges] == [OVERFLOW]


def test_lazy_pages_are_a_step_function() -> None:
    kernel = ScriptedKernel(cpus=2)
    other = kernel.write(kernel.alloc(1))
    crossing(kernel)
    kernel.begin_purge()
    kernel.frees(other, cpu=1)
    kernel.write(kernel.finish_purge())
    drains = drains_of(kernel)
    assert list(drains.lazy_pages) == [3, 7, 12, 13, 1]
    assert list(drains.lazy_time) == [5 * US, 6 * US, 7 * US, 8 * US, 9 * US]


@given(times=st.lists(st.integers(0, 1000), min_size=1, unique=True).map(sorted), at=st.integers(-100, 1100))
def test_the_nearest_drain_is_found(times: list[int], at: int) -> None:
    drains = Drains(crossed=array("q", times), lag=array("q", times), span=array("q", times))
    lag, span = drains.near(at)
    assert lag == span
    assert abs(lag - at) == min(abs(time - at) for time in times)


def test_where_no_drain_was_recorded_the_usual_times_are_taken() -> None:
    lag, span = Drains().near(5)
    assert lag == TYPICAL_LAG
    assert span > 0


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_kernels_of_every_profile_are_read(kernel: str) -> None:
    found = ScriptedKernel(kernel)
    crossing(found)
    found.begin_purge()
    found.write(Event(FLUSH, 0, 2), found.finish_purge())
    drains = drains_of(found)
    # 6.1 merges lazy neighbours: the event counts one area, whose pages are those of all three frees.
    assert [(purge.areas, purge.pages) for purge in drains.purges] == [(1 if kernel == "6.1" else 3, 12)]
