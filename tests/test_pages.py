"""Lists of page frames: sequences of numbers with a fixed length."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds

PFNS = st.lists(st.integers(0, (1 << 64) - 1), max_size=40)


@given(PFNS)
def test_it_is_the_sequence_it_was_made_of(pfns: list[int]) -> None:
    pages = Pages(iter(pfns))
    assert len(pages) == pages.nr_pages == len(pfns)
    assert list(pages) == pfns
    assert [pages[i] for i in range(len(pfns))] == pfns
    assert [pages[i - len(pfns)] for i in range(len(pfns))] == pfns
    assert pages.size == 4096 * len(pfns)


@given(PFNS, st.slices(40))
def test_a_slice_is_a_list_of_its_own(pfns: list[int], part: slice) -> None:
    pages = Pages(pfns, 65536)
    piece = pages[part]
    assert isinstance(piece, Pages)
    assert list(piece) == pfns[part]
    assert piece.page_size == 65536
    assert list(pages) == pfns


@given(PFNS, PFNS)
def test_lists_are_compared_added_and_hashed_as_numbers(first: list[int], second: list[int]) -> None:
    assert (Pages(first) == Pages(second)) is (first == second)
    assert hash(Pages(first)) == hash(Pages(list(first)))
    both = Pages(first, 16384) + Pages(second)
    assert list(both) == first + second
    assert both.page_size == 16384
    assert list(Pages(first) + second) == first + second


def test_a_list_is_no_other_thing() -> None:
    assert Pages([1, 2]) != [1, 2]
    assert Pages() != 0


def test_a_frame_is_looked_for() -> None:
    pages = Pages([7, 3, 7])
    assert 3 in pages
    assert 4 not in pages
    assert 3 not in Pages()


@pytest.mark.parametrize("index", [3, -4, 1 << 70])
def test_a_place_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match=f"page {index} of a list of 3"):
        Pages([7, 3, 7])[index]


def test_an_index_is_an_integer() -> None:
    with pytest.raises(AttributeError):
        Pages([1])["0"]


@pytest.mark.parametrize("pfn", [-1, 1 << 64])
def test_a_number_that_is_no_frame_is_refused(pfn: int) -> None:
    with pytest.raises(ValueError, match="no number of 64 bits"):
        Pages([1, pfn])


def test_room_is_for_those_who_fill_it() -> None:
    assert Pages([1, 2, 3]).room == 3
    assert Pages([1, 2, 3], room=2).room == 3
    assert Pages([1], room=10).room == 10
    assert len(Pages([1], room=10)) == 1
    assert Pages().room <= 1


def test_a_list_too_large_for_any_memory_is_refused() -> None:
    with pytest.raises((MemoryError, OverflowError)):
        Pages(room=1 << 58)


def test_a_long_list_is_shown_by_its_beginning() -> None:
    assert repr(Pages([16, 17])) == "<Pages 2 (8 KiB): 0x10, 0x11>"
    assert repr(Pages(range(100))) == "<Pages 100 (400 KiB): 0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, ...>"
    assert repr(Pages()).startswith("<Pages 0 (")


def test_lists_of_every_length_come_and_go() -> None:
    for length in (0, 1, 2, 1000):
        many = [Pages(range(length)) for _ in range(200)]
        assert all(list(pages) == list(range(length)) for pages in many)
        del many
        gc.collect()
