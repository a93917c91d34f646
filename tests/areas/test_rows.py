"""The table of records: handing out, taking back, growing."""

from __future__ import annotations

import pytest

from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.states import FREE, UNUSED

pytestmark = pytest.mark.both_builds

P = 0x1000


def filled(count: int) -> FreeTree:
    """A tree of ``count`` blocks that do not touch: rows are handed out and taken back through it."""
    tree = FreeTree(AreaRows(), P)
    for i in range(count):
        assert tree.add((2 * i + 1) * P, (2 * i + 2) * P)
    return tree


def test_a_new_table_hands_out_nothing_and_keeps_row_0() -> None:
    rows = AreaRows()
    assert (rows.used, rows.live, rows.spares()) == (1, 0, [])
    assert set(rows.get(0).values()) == {0}


def test_rows_are_numbered_from_1() -> None:
    tree = filled(3)
    assert (tree.rows.used, tree.rows.live) == (4, 3)
    assert [tree.rows.get(n)["va_start"] for n in (1, 2, 3)] == [P, 3 * P, 5 * P]


def test_a_returned_row_is_handed_out_again_last_in_first_out() -> None:
    tree = filled(4)
    for i in (1, 3):
        assert tree.remove((2 * i + 1) * P, (2 * i + 2) * P) == 0
    assert tree.rows.spares() == [4, 2]
    assert (tree.rows.used, tree.rows.live) == (5, 2)
    assert tree.rows.get(4)["state"] == UNUSED
    tree.add(0x100 * P, 0x101 * P)
    assert tree.rows.spares() == [2]
    row = tree.rows.get(4)
    assert (row["va_start"], row["va_end"], row["flags"], row["list_next"], row["state"]) == (
        0x100 * P,
        0x101 * P,
        0,
        0,
        FREE,
    )


def test_growing_keeps_what_is_there() -> None:
    tree = filled(5000)
    rows = tree.rows
    assert rows.capacity >= rows.used == 5001
    assert [rows.get(n)["va_start"] for n in range(1, 5001)] == [(2 * i + 1) * P for i in range(5000)]
    assert rows.capacity < 1.3 * rows.used  # at most a quarter is idle


@pytest.mark.parametrize(
    "field",
    ["va_start", "va_end", "left_max", "right_max", "parent", "left", "right", "list_next", "flags", "red", "state"],
)
def test_get_shows_what_poke_wrote(field: str) -> None:
    rows = filled(3).rows
    before = {n: rows.get(n) for n in range(4)}
    rows.poke(2, field, 1)
    derived = {"subtree_max_size"}  # the largest of size and maxima, not a field of its own
    after = rows.get(2)
    assert {k: v for k, v in after.items() if k not in derived} == {
        k: v for k, v in (before[2] | {field: 1}).items() if k not in derived
    }
    assert all(rows.get(n) == before[n] for n in (0, 1, 3))


def test_a_row_holds_the_largest_address() -> None:
    rows = filled(1).rows
    rows.poke(1, "va_end", (1 << 64) - 1)
    assert rows.get(1)["va_end"] == (1 << 64) - 1
