"""The map of free granules: exactly what a list of booleans answers (section 7.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percpu.twins import SlowFreeMap
from vmalloc.percpu.free_map import FreeMap
from vmalloc.percpu.validate import validate_free_map

pytestmark = pytest.mark.both_builds

BLOCK = 1024
#: Whole blocks, parts of them, and less than a word.
LENGTHS = (5, 64, 1024, 1500, 4096)


def test_a_new_map_is_free_from_end_to_end() -> None:
    for length in LENGTHS:
        free_map = FreeMap(length)
        validate_free_map(free_map)
        assert free_map.nr_free == free_map.longest_run() == length
        assert free_map.first_fit(length) == 0
        assert free_map.first_fit(length + 1) is None


def test_a_fit_may_cross_words_and_blocks() -> None:
    free_map = FreeMap(4 * BLOCK)
    free_map.mark_taken(0, 1000)
    assert free_map.first_fit(2 * BLOCK) == 1000
    free_map.mark_taken(3 * BLOCK, 10)
    assert free_map.first_fit(3 * BLOCK - 1000) == 1000
    assert free_map.first_fit(3 * BLOCK - 999) is None
    assert free_map.run_length(2000, 1) == 3 * BLOCK - 1000
    validate_free_map(free_map)


def test_alignment_moves_a_fit_up_and_may_leave_a_run_unused() -> None:
    free_map = FreeMap(2 * BLOCK)
    free_map.mark_taken(0, 1)
    assert free_map.first_fit(8, 8) == 8
    free_map.mark_taken(12, 4)
    assert free_map.first_fit(8, 8) == 16
    assert free_map.first_fit(4, 8) == 8
    assert free_map.first_fit(8, BLOCK) == BLOCK


def test_a_search_may_begin_in_the_middle() -> None:
    free_map = FreeMap(3 * BLOCK)
    assert free_map.first_fit(10, 1, 17) == 17
    free_map.mark_taken(BLOCK, 5)
    assert free_map.first_fit(10, 4, BLOCK - 9) == BLOCK + 8
    assert free_map.first_fit(10, 1, 3 * BLOCK - 9) is None


@given(
    length=st.sampled_from(LENGTHS),
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(1, 1300), st.integers(0, 10), st.integers(0, 4095)), max_size=40
    ),
)
def test_every_answer_is_that_of_a_list(length: int, steps: list[tuple[bool, int, int, int]]) -> None:
    fast, slow = FreeMap(length), SlowFreeMap(length)
    live: list[tuple[int, int]] = []
    for freeing, size, order, at in steps:
        if freeing and live:
            start, count = live.pop(at % len(live))
            fast.mark_free(start, count)
            slow.mark(start, count, False)
            here = next(run for run in slow.runs() if run[0] <= start < run[1])
            assert fast.run_length(start, count) == here[1] - here[0]
        else:
            start = at % length
            assert fast.first_fit(size, 1 << order, start) == slow.first_fit(size, 1 << order, start)
            found = fast.first_fit(size, 1 << order)
            assert found == slow.first_fit(size, 1 << order)
            if found is not None:
                fast.mark_taken(found, size)
                slow.mark(found, size, True)
                live.append((found, size))
        assert fast.bits() == slow.bits
        assert fast.longest_run() == max((end - begin for begin, end in slow.runs()), default=0)
        validate_free_map(fast)
