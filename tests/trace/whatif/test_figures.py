"""The figures: purges added up, and lazy pages weighted with the time they were held."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.trace.whatif.drains import DRAIN, FORCED, OVERFLOW, PurgeRecord
from vmalloc.trace.whatif.figures import RANGED_FLUSH_PAGES, lazy_figures, purge_figures

PAGE = 4096


def test_purges_are_added_up_by_reason_and_flush() -> None:
    """Section 4.12: up to 33 pages are flushed one by one, more all at once; an empty hull is no flush."""
    limit = RANGED_FLUSH_PAGES * PAGE
    records = [
        PurgeRecord(DRAIN, 3, 30, PAGE, PAGE + limit),
        PurgeRecord(DRAIN, 2, 90, PAGE, 2 * PAGE + limit),
        PurgeRecord(FORCED, 0, 0, (1 << 64) - 1, 0),
        PurgeRecord(OVERFLOW, 7, 8, 0, PAGE),
    ]
    found = purge_figures(records, PAGE)
    assert (found.purges, found.drains, found.forced, found.overflows, found.empty) == (4, 2, 1, 1, 1)
    assert (found.flushes, found.full_flushes, found.ranged_flushes) == (3, 1, 2)
    assert found.flushed_bytes == 2 * limit + 2 * PAGE
    assert (found.purged_areas, found.purged_pages, found.longest_areas, found.longest_pages) == (12, 128, 7, 90)
    assert purge_figures([], PAGE).longest_areas == 0


STEPS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), max_size=30)


@given(steps=STEPS, tail=st.integers(0, 20))
def test_lazy_pages_are_weighted_with_time(steps: list[tuple[int, int]], tail: int) -> None:
    """Against the plainest reckoning: what is lazy at each nanosecond."""
    first, now, held = 100, 100, 0
    at_each: list[int] = []
    times, pages = array("q"), array("q")
    for pause, number in steps:
        at_each += [held] * pause
        now += pause
        held = number
        times.append(now)
        pages.append(number)
    at_each += [held] * tail
    found = lazy_figures(times, pages, first, now + tail)
    assert found.max_pages == max([0, *pages])
    if at_each:
        assert found.mean_pages == pytest.approx(sum(at_each) / len(at_each))
        ordered = sorted(at_each)
        assert sum(n <= found.p99_pages for n in ordered) >= 0.99 * len(ordered)
        assert sum(n < found.p99_pages for n in ordered) < 0.99 * len(ordered)
    else:
        assert (found.mean_pages, found.p99_pages) == (0.0, 0)


def test_a_step_back_in_time_lasts_for_no_time() -> None:
    found = lazy_figures(array("q", [10, 8, 20]), array("q", [5, 7, 0]), 0, 30)
    assert (found.mean_pages, found.max_pages) == (pytest.approx(70 / 30), 7)
