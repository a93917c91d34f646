"""Callers' words: the same as ``str`` makes them, made once."""

from __future__ import annotations

import pytest

from vmalloc.calls.where import Caller
from vmalloc.views.callers import CallerTexts

pytestmark = pytest.mark.both_builds


class Words:
    """Something else than a ``Caller``, counting how often it is asked."""

    asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return "a driver"


def first() -> None: ...


def second() -> None: ...


def test_texts_are_those_of_str() -> None:
    texts = CallerTexts()
    callers = [Caller(code, offset) for code in (first.__code__, second.__code__) for offset in (0, 2, 0)]
    assert [texts.text(caller) for caller in callers] == [str(caller) for caller in callers]
    assert len({texts.text(caller) for caller in callers}) == 4


def test_one_place_has_one_text() -> None:
    texts = CallerTexts()
    assert texts.text(Caller(first.__code__, 4)) is texts.text(Caller(first.__code__, 4))


def test_nobody_and_free_text() -> None:
    texts = CallerTexts()
    words = Words()
    assert texts.text(None) == ""
    assert texts.text("my driver") == "my driver"
    assert texts.text(words) == "a driver"
    assert words.asked == 1
