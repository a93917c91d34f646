"""Who allocated and who freed: stacks, the quarantine, and its validator on what was broken on purpose."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasan.rig import PAGE, checked
from vmalloc.errors import ValidationError
from vmalloc.kasan.tracks import MAX_DEPTH, MAX_FREED, Stack, Track, Tracks

pytestmark = pytest.mark.both_builds


def track(cpu: int = 0) -> Track:
    return Track(Tracks().stack(), cpu, "task")


def test_a_stack_begins_with_who_called_the_package_and_goes_outwards() -> None:
    space = checked()

    def inner() -> object:
        return space.vmalloc(10)

    def outer() -> object:
        return inner()

    area = outer()
    (found,) = space.kasan.tracks.live.values()
    assert found.start == area.address  # type: ignore[attr-defined]
    calls = list(found.allocated.stack)
    first = inner.__code__.co_firstlineno
    named = [(name.rpartition(".")[2], line) for name, _, line in calls]
    assert named[:2] == [("inner", first + 1), ("outer", first + 4)]
    assert calls[0][1] == __file__
    assert found.allocated.stack.lines()[0] == f" {calls[0][0]} ({__file__}:{first + 1})"


def test_equal_stacks_are_kept_once() -> None:
    tracks = Tracks()
    found = [tracks.stack() for _ in range(3)]
    assert found[0] is found[1] is found[2]
    assert tracks.stack() is not found[0]


def test_a_deep_stack_is_cut_at_its_outer_end() -> None:
    tracks = Tracks()

    def dive(depth: int) -> Stack:
        return tracks.stack() if depth == 0 else dive(depth - 1)

    found = list(dive(2 * MAX_DEPTH))
    assert len(found) == MAX_DEPTH
    assert {name.rpartition(".")[2] for name, _, _ in found} == {"dive"}


@pytest.mark.parametrize("copied", [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy])
def test_a_stack_survives_pickling_as_words(copied: Callable[[Stack], Stack]) -> None:
    stack = Tracks().stack()
    found = copied(stack)
    assert list(found) == list(stack)
    assert (found == stack, hash(found) == hash(stack)) == (True, True)
    assert (found != Tracks().stack(), found != "stack") == (True, True)
    assert pickle.loads(pickle.dumps(found)) == stack


def test_what_is_freed_is_remembered_until_its_addresses_are_somebodys() -> None:
    tracks = Tracks()
    for start in (0x1000, 0x3000, 0x6000):
        tracks.allocate(start, start + 0x2000, 5000, "area", track())
    tracks.free(0x3000, track(1))
    assert tracks.live_at(0x3000) is None
    found = tracks.freed_at(0x4FFF)
    assert found is not None
    assert found.freed is not None
    assert (found.start, found.freed.cpu) == (0x3000, 1)
    assert tracks.freed_at(0x5000) is tracks.freed_at(0x2FFF) is tracks.freed_at(0x10) is None
    assert tracks.at(0x1500) is tracks.live[0x1000]
    assert tracks.at(0x3000) is found
    tracks.allocate(0x4000, 0x5000, 1, "area", track())  # part of it is enough
    assert tracks.freed_at(0x3000) is None
    tracks.validate()


def test_freeing_what_is_not_known_does_nothing() -> None:
    tracks = Tracks()
    tracks.free(0x1000, track())
    assert (tracks.live, tracks.freed) == ({}, {})


def test_neighbours_are_the_closest_live_ones() -> None:
    tracks = Tracks()
    for start in (0x1000, 0x5000, 0x9000):
        tracks.allocate(start, start + 0x1000, 100, "area", track())
    tracks.free(0x5000, track())
    assert tracks.after(0x3000) is tracks.live[0x9000]
    assert tracks.before(0x7000) is tracks.live[0x1000]
    assert tracks.before(0x2000) is tracks.live[0x1000]
    assert tracks.after(0x9000) is tracks.before(0x1FFF) is None


def test_the_newest_of_nested_ones_is_meant() -> None:
    """A ``vm_map_ram`` range lies in a block that is an area's as a whole."""
    tracks = Tracks()
    tracks.allocate(0x1000, 0x9000, 0x8000, "area", track())
    tracks.allocate(0x3000, 0x4000, 0x1000, "vm_map_ram", track())
    assert tracks.live_at(0x3800) is tracks.live[0x3000]
    assert tracks.live_at(0x4000) is tracks.live[0x1000]
    tracks.validate()


def test_the_oldest_is_forgotten_when_there_are_too_many() -> None:
    assert MAX_FREED == Tracks().max_freed == 1 << 16
    tracks = Tracks(max_freed=3)
    order = [0x5000, 0x1000, 0x9000, 0x3000]
    for start in order:
        tracks.allocate(start, start + 0x1000, 1, "area", track())
    for start in order:
        tracks.free(start, track())
    assert sorted(tracks.freed) == [0x1000, 0x3000, 0x9000]
    assert tracks.freed_at(0x5000) is None
    tracks.validate()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 15), st.integers(1, 4)), max_size=40))
def test_the_quarantine_is_that_of_a_plain_model(steps: list[tuple[bool, int, int]]) -> None:
    tracks, live, freed, here = Tracks(max_freed=4), dict[int, int](), dict[int, int](), track()
    for allocate, start, size in steps:
        if allocate:
            if all(start + size <= s or s + n <= start for s, n in live.items()):
                tracks.allocate(start, start + size, size, "area", here)
                live[start] = size
                freed = {s: n for s, n in freed.items() if start + size <= s or s + n <= start}
        elif start in live:
            tracks.free(start, here)
            freed[start] = live.pop(start)
            if len(freed) > 4:
                del freed[next(iter(freed))]
        tracks.validate()
    for address in range(20):
        model = next((s for s, n in freed.items() if s <= address < s + n), None)
        found = tracks.freed_at(address)
        assert (None if found is None else found.start) == model


def broken_list(tracks: Tracks) -> None:
    tracks._starts.pop()


def broken_overlap(tracks: Tracks) -> None:
    tracks.freed[0x1000].end = 0x3001


def broken_live(tracks: Tracks) -> None:
    tracks.live[0x5000].start = 0x1800


@pytest.mark.parametrize("breaks", [broken_list, broken_overlap, broken_live])
def test_the_validator_sees_what_was_broken(breaks: Callable[[Tracks], None]) -> None:
    tracks = Tracks()
    for start in (0x1000, 0x3000, 0x5000):
        tracks.allocate(start, start + 0x1000, 1, "area", track())
    tracks.free(0x1000, track())
    tracks.free(0x3000, track())
    tracks.validate()
    breaks(tracks)
    with pytest.raises(ValidationError, match="quarantine"):
        tracks.validate()


def test_the_quarantine_of_a_space_may_be_shortened() -> None:
    """What fell out of it is a wild access, and a handle of it says that it was freed."""
    space = checked()
    space.kasan.tracks.max_freed = 2
    areas = [space.vmalloc(PAGE) for _ in range(4)]
    for area in areas:
        area.free()
    assert [area.address in space.kasan.tracks.freed for area in areas] == [False, False, True, True]
    space.validate()
