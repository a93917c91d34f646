"""The text of a report, to the letter, and reports as values (section 9.7)."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import pytest

from vmalloc.kasan.report import CAUSES, ROW_BYTES, ROWS_AROUND, KasanReport, row_starts
from vmalloc.kasan.tracks import Allocation, Stack, Track

pytestmark = pytest.mark.both_builds


def stack(*calls: tuple[str, str, int]) -> Stack:
    return Stack((), calls)


START = 0xFFFFC90000001000
ALLOCATED = Track(stack(("load_table", "table.py", 12), ("main", "app.py", 3)), 1, "task")
FREED = Track(stack(("on_interrupt", "irq.py", 9)), 2, "hardirq")
OWNER = Allocation(START, START + 0x3000, 5001, "area", ALLOCATED)
CELLS = ((0,) * 16, (0,) * 16, (0, 1) + (0xF8,) * 14, (0xF8,) * 16, (0xF8,) * 16)
ROWS = tuple(zip(row_starts(START + 5000), CELLS, strict=True))
REPORT = KasanReport(
    bug="vmalloc-out-of-bounds", cause="out-of-bounds", access="read", address=START + 4998, size=8,
    bad_address=START + 5001, reported_address=START + 5000, shadow=1, where="right behind the area",
    allocation=OWNER, neighbour=None, symbol="peek+0x1c/0x40 [app]", stack=stack(("peek", "app.py", 44)), cpu=3,
    context="softirq", comm="python", region="The buggy address belongs to a 2-page vmalloc region starting at "
    "0xffffc90000001000 allocated at load+0x8/0x20 [table]", page="page: pfn:0x4b7 node:1", rows=ROWS,
)  # fmt: skip

TEXT = """\
==================================================================
BUG: KASAN: vmalloc-out-of-bounds in peek+0x1c/0x40 [app]
Read of size 8 at addr ffffc90000002386 by task python/{pid}

CPU: 3 PID: {pid} Comm: python Context: softirq
Call Trace:
 peek (app.py:44)

First bad byte: ffffc90000002389, right behind the area (out-of-bounds)

Allocated on CPU 1 in task context:
 load_table (table.py:12)
 main (app.py:3)

The buggy address belongs to a 2-page vmalloc region starting at 0xffffc90000001000 allocated at load+0x8/0x20 [table]
The buggy address belongs to the physical page:
page: pfn:0x4b7 node:1
page dumped because: kasan: bad access detected

Memory state around the buggy address:
 ffffc90000002280: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
 ffffc90000002300: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
>ffffc90000002380: 00 01 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8
                      ^
 ffffc90000002400: f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8
 ffffc90000002480: f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8
=================================================================="""


def test_the_text_of_a_report() -> None:
    assert str(REPORT) == TEXT.format(pid=os.getpid())


def test_a_freed_area_shows_who_freed_it() -> None:
    text = str(replace(REPORT, allocation=replace(OWNER, freed=FREED), access="write", cause="use-after-free"))
    told = "Freed on CPU 2 in hardirq context:\n on_interrupt (irq.py:9)\n\nThe buggy address belongs"
    assert told in text
    assert text.index("Allocated on CPU 1") < text.index(told)
    assert "\nWrite of size 8 at addr" in text


def test_a_free_has_no_size() -> None:
    text = str(replace(REPORT, access="free", bug="double-free", size=0))
    assert text.split("\n")[1:3] == [
        "BUG: KASAN: double-free in peek+0x1c/0x40 [app]",
        f"Free of addr ffffc90000002386 by task python/{os.getpid()}",
    ]


def test_what_is_not_known_is_left_out() -> None:
    text = str(replace(REPORT, allocation=None, region="", page=""))
    assert "Allocated" not in text
    assert "belongs" not in text
    assert text.count("\n\n") == 3
    assert "(out-of-bounds)\n\nMemory state around the buggy address:\n" in text


def test_shadow_that_is_not_there_is_shown_as_such() -> None:
    rows = tuple((start, (None,) * 16) for start, _ in ROWS)
    text = str(replace(REPORT, rows=rows, shadow=None))
    assert ">ffffc90000002380: -- -- --" in text


@pytest.mark.parametrize("place", range(16))
def test_the_caret_is_under_the_byte(place: int) -> None:
    """Section 9.7: of each granule of the row."""
    at = START + 0x1380 + 8 * place + 3
    lines = str(replace(REPORT, reported_address=at)).split("\n")
    row = next(i for i, line in enumerate(lines) if line.startswith(">"))
    caret = lines[row + 1]
    assert caret.strip() == "^"
    assert lines[row][caret.index("^") :].split(" ")[0] == lines[row].split(": ")[1].split(" ")[place]


def test_rows_are_two_before_and_two_behind_of_128_bytes_each() -> None:
    """Section 9.7."""
    assert (ROW_BYTES, ROWS_AROUND) == (16, 2)
    assert row_starts(START + 5) == [START - 256, START - 128, START, START + 128, START + 256]
    assert row_starts(130) == [0, 128, 256, 384]
    assert row_starts((1 << 64) - 1) == [(1 << 64) - 128 * k for k in (3, 2, 1)]
    assert row_starts(1 << 70) == []


def test_a_report_can_be_pickled() -> None:
    found = pickle.loads(pickle.dumps(REPORT))
    assert found == REPORT
    assert str(found) == str(REPORT)


def test_the_causes_are_those_there_are() -> None:
    assert CAUSES == ("out-of-bounds", "use-after-free", "wild-access", "double-free", "invalid-free")
