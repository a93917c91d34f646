"""A result's derived figures, and its form for machines."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from vmalloc.trace.replay.result import Mismatch, ReplayResult, SnapshotDifference


def result(**values: object) -> ReplayResult:
    known = {
        "trace": "x", "kernel": "6.12", "kernel_from": "given", "cpus": 1, "nodes": 1, "page_size": 4096,
        "vmalloc_start": 0xFFFFC90000000000, "vmalloc_end": 0xFFFFE8FFFFFFFFFF, "start": "boot", "shape": 0,
        "open_loop": True,
    }  # fmt: skip
    return ReplayResult(**(known | values))  # type: ignore[arg-type]


def difference(**ranges: tuple[tuple[int, int], ...]) -> SnapshotDifference:
    names = ("busy_missing", "busy_extra", "lazy_missing", "lazy_extra")
    return SnapshotDifference("s", 3, *(ranges.get(name, ()) for name in names), in_flight=2)


def test_shares_and_rates() -> None:
    found = result(allocations=8, agreed=6, seconds=0.5, events=100, largest_hole=30, free_bytes=40)
    assert (found.agreement, found.events_per_second, found.fragmentation) == (0.75, 200, 0.25)


def test_nothing_replayed_divides_nothing_by_nothing() -> None:
    assert (result().agreement, result().events_per_second, result().fragmentation) == (1.0, 0.0, 0.0)


def test_no_snapshot_is_told_from_no_difference() -> None:
    assert result().after_snapshot_differences is None
    assert result(snapshots=[difference()]).after_snapshot_differences == 0
    both = [difference(busy_extra=((1, 2), (3, 4))), difference(lazy_missing=((5, 6),))]
    assert result(snapshots=both).after_snapshot_differences == 3


def test_json_holds_every_field_and_every_derived_figure() -> None:
    found = result().as_json()
    assert {field.name for field in fields(ReplayResult)} <= set(found)
    assert {"agreement", "fragmentation", "events_per_second", "after_snapshot_differences"} <= set(found)
    assert json.loads(json.dumps(found)) == found


def test_json_prints_addresses_in_hexadecimal() -> None:
    first = Mismatch(7, 8, 9, 1, 2, 4096, 1, 0xFFFFC90000000000, 0xFFFFC90000001000, "order")
    found = result(first_mismatch=first, snapshots=[difference(busy_extra=((0x1000, 0x3000),))]).as_json()
    assert found["vmalloc_start"] == "0xffffc90000000000"
    assert found["first_mismatch"] == {
        "event": 7, "line": 8, "timestamp": 9, "cpu": 1, "pid": 2, "size": 4096, "align": 1,
        "recorded": "0xffffc90000000000", "modelled": "0xffffc90000001000", "cause": "order",
    }  # fmt: skip
    assert found["snapshots"] == [
        {
            "snapshot": "s", "event": 3, "in_flight": 2, "differences": 1, "busy_missing": [],
            "busy_extra": ["0x1000-0x3000"], "lazy_missing": [], "lazy_extra": [],
        }
    ]  # fmt: skip


@pytest.mark.parametrize("count", [0, 1])
def test_json_first_mismatch_is_null_when_there_is_none(count: int) -> None:
    assert result(allocations=count, agreed=count).as_json()["first_mismatch"] is None
