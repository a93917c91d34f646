"""A result's derived figures, and its form for machines."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from vmalloc.trace.replay.result import MachineResult, Mismatch, ReplayResult, SnapshotDifference


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


MACHINE = MachineResult(
    "x86_64", 2, 2, 1 << 30, entries=5, areas=2, page_table_bytes=8192, page_table_bytes_at_peak=4096,
    tables={"pgd": 1, "pte": 1}, mappings_made={4096: 12, 2 << 20: 1}, mappings={4096: 8}, huge_areas=1,
    huge_fallbacks=0, flushes=3, full_flushes=1, ranged_flushes=2, proven_flushes=0, flushed_pages=10, ipis=3,
    accesses=6, tlb_misses=6, stale_accesses=0, failed_accesses=0, frames_taken=524, frames_at_peak=(522, 4),
    frames_at_end=(6, 4), validated=True, seconds=1.5, validation_seconds=7.0,
)  # fmt: skip


def test_json_of_a_machine_is_plain_and_none_without_one() -> None:
    found = result(machine=MACHINE).as_json()
    assert json.loads(json.dumps(found)) == found
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert {field.name for field in fields(MachineResult)} == set(machine)
    assert (machine["mappings_made"], machine["frames_at_peak"]) == ({"4096": 12, "2097152": 1}, [522, 4])
    assert result().as_json()["machine"] is None


def test_the_machine_takes_its_time_but_its_checks_do_not_count() -> None:
    assert result(events=100, seconds=0.5, machine=MACHINE).events_per_second == 50
    assert result(events=100, seconds=0.5, machine=replace(MACHINE, seconds=0.0)).events_per_second == 200


@pytest.mark.parametrize("count", [0, 1])
def test_json_first_mismatch_is_null_when_there_is_none(count: int) -> None:
    assert result(allocations=count, agreed=count).as_json()["first_mismatch"] is None
