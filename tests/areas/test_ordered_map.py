"""Ordered maps: a dictionary and a sort, however the runs split and join."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.ordered_map import OrderedMaps
from vmalloc.areas.validate import RUN_CAPACITY, validate_ordered_maps

pytestmark = pytest.mark.both_builds

TOP = (1 << 64) - 1


class Twin:
    """One map of two, beside a dictionary; the other map holds what must not move."""

    def __init__(self) -> None:
        self.maps = OrderedMaps(2)
        self.maps.put(1, 5, 5)
        self.model: dict[int, int] = {}

    def put(self, key: int, value: int) -> None:
        assert self.maps.put(0, key, value) is (key not in self.model)
        self.model.setdefault(key, value)

    def pop(self, key: int) -> None:
        assert self.maps.pop(0, key) == self.model.pop(key, 0)

    def check(self, probes: list[int]) -> None:
        validate_ordered_maps(self.maps)
        keys = sorted(self.model)
        assert self.maps.items(0) == [(key, self.model[key]) for key in keys]
        assert self.maps.items(1) == [(5, 5)]
        assert self.maps.length(0) == len(keys)
        for probe in probes:
            below, above = bisect_right(keys, probe), bisect_left(keys, probe)
            assert self.maps.find(0, probe) == self.model.get(probe, 0)
            assert self.maps.floor(0, probe) == (self.model[keys[below - 1]] if below else 0)
            assert self.maps.ceiling(0, probe) == (self.model[keys[above]] if above < len(keys) else 0)


KEYS = st.one_of(st.integers(0, 60), st.integers(0, TOP))


@given(st.lists(st.tuples(st.booleans(), KEYS, st.integers(1, 1 << 31)), max_size=60), st.lists(KEYS, max_size=8))
def test_it_is_a_sorted_dictionary(steps: list[tuple[bool, int, int]], probes: list[int]) -> None:
    twin = Twin()
    for add, key, value in steps:
        twin.put(key, value) if add else twin.pop(key)
    twin.check([*probes, *(key for _add, key, _value in steps)])


@pytest.mark.parametrize("seed", range(6))
def test_many_runs_split_and_join(seed: int) -> None:
    """Grows to a dozen runs, shrinks, grows again: ascending, descending and at random."""
    draw = random.Random(seed)
    twin = Twin()
    keys = [key * 3 for key in range(1500)]
    if seed % 3 == 1:
        keys.reverse()
    elif seed % 3 == 2:
        draw.shuffle(keys)
    for key in keys:
        twin.put(key, key + 1)
    twin.check(draw.sample(range(4600), 100))
    most = len(twin.maps.blocks(0))
    assert most >= 12
    gone = keys if seed % 2 else draw.sample(keys, len(keys))
    for i, key in enumerate(gone[:1400]):
        twin.pop(key)
        if i % 100 == 0:
            twin.check(draw.sample(range(4600), 20))
    twin.check(draw.sample(range(4600), 100))
    assert len(twin.maps.blocks(0)) < most // 2
    used = twin.maps.blocks_used
    for key in draw.sample(keys, 400):
        twin.put(key, key + 2)
    twin.check(draw.sample(range(4600), 100))
    assert twin.maps.blocks_used == used  # spare runs serve first


def test_ascending_keys_leave_full_runs_behind() -> None:
    maps = OrderedMaps(1)
    for key in range(10 * RUN_CAPACITY):
        maps.put(0, key, 1)
    counts = [count for _number, count in maps.blocks(0)]
    assert min(counts[:-1]) >= RUN_CAPACITY - 1


def test_a_full_run_splits_in_the_middle() -> None:
    maps = OrderedMaps(1)
    for key in range(RUN_CAPACITY):
        maps.put(0, 10 * key, 1)
    maps.put(0, 5, 2)
    assert [count for _number, count in maps.blocks(0)] == [RUN_CAPACITY // 2 + 1, RUN_CAPACITY // 2]
    validate_ordered_maps(maps)


def test_the_first_run_may_empty_and_lower_keys_come_later() -> None:
    maps = OrderedMaps(1)
    for key in range(1000, 1000 + 2 * RUN_CAPACITY):
        maps.put(0, key, key)
    for key in range(1000, 1000 + RUN_CAPACITY):
        maps.pop(0, key)
        validate_ordered_maps(maps)
    assert maps.put(0, 1, 7)
    validate_ordered_maps(maps)
    assert (maps.find(0, 1), maps.floor(0, 999), maps.ceiling(0, 0)) == (7, 7, 7)


def test_an_empty_map_finds_nothing() -> None:
    maps = OrderedMaps(1)
    for probe in (0, 1, TOP):
        assert (maps.find(0, probe), maps.floor(0, probe), maps.ceiling(0, probe), maps.pop(0, probe)) == (0, 0, 0, 0)
    assert (maps.items(0), maps.length(0), maps.blocks(0)) == ([], 0, [])


def test_a_map_emptied_returns_its_runs() -> None:
    maps = OrderedMaps(1)
    for key in range(1000):
        maps.put(0, key, 1)
    for key in range(1000):
        maps.pop(0, key)
    assert maps.blocks(0) == []
    assert len(maps.spares()) == maps.blocks_used
    validate_ordered_maps(maps)


def test_a_key_that_is_there_keeps_its_value() -> None:
    maps = OrderedMaps(1)
    assert maps.put(0, 5, 1)
    assert not maps.put(0, 5, 2)
    assert maps.find(0, 5) == 1


def test_extreme_keys() -> None:
    maps = OrderedMaps(1)
    for key, value in ((TOP, 1), (0, 2), (1 << 63, 3)):
        maps.put(0, key, value)
    assert maps.items(0) == [(0, 2), (1 << 63, 3), (TOP, 1)]
    assert (maps.floor(0, TOP - 1), maps.ceiling(0, (1 << 63) + 1)) == (3, 1)
