"""The event table: typed columns of equal length, and names for every kind."""

from __future__ import annotations

import pytest

from vmalloc.trace import events
from vmalloc.trace.events import COLUMNS, KIND_NAMES, EventTable, Trace


def test_every_row_has_all_columns() -> None:
    table = EventTable()
    table.append(
        events.ALLOC, cpu=3, pid=-1, timestamp=5, va_start=1 << 63, va_end=7, count=8, align=16, window=2, line=9
    )
    table.append(events.FREE)
    assert len(table) == 2
    assert [getattr(table, name)[0] for name in COLUMNS] == [events.ALLOC, 3, -1, 5, 1 << 63, 7, 8, 16, 2, 9]
    assert [getattr(table, name)[1] for name in COLUMNS] == [events.FREE] + [0] * 9
    assert {name: getattr(table, name).typecode for name in COLUMNS} == COLUMNS


def test_a_value_that_does_not_fit_its_column_is_refused() -> None:
    with pytest.raises(OverflowError):
        EventTable().append(events.ALLOC, va_start=1 << 64)


def test_kinds_are_distinct_and_all_have_a_name() -> None:
    kinds = {name: value for name, value in vars(events).items() if name.isupper() and isinstance(value, int)}
    assert sorted(kinds.values()) == list(range(1, len(kinds) + 1))
    assert set(KIND_NAMES) == set(kinds.values())
    assert len(set(KIND_NAMES.values())) == len(kinds)


def test_a_trace_is_as_long_as_its_events() -> None:
    trace = Trace("x")
    assert len(trace) == 0
    trace.events.append(events.MARK)
    assert len(trace) == 1
    assert Trace("y").events is not trace.events
