"""Snapshots: files of lines as the kernel writes them, and every way to be wrong."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.errors import TraceError
from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.vmallocinfo import Snapshot, SnapshotArea, format_line, read_snapshot

DATA = Path(__file__).parent / "data"

GOOD = """\
0xffffc90000005000-0xffffc90000007000    8192 acpi_os_map_iomem+0x1a9/0x1e0 phys=0x000000007ffe2000 ioremap
0xffffc90000200000-0xffffc90000a01000 8392704 large_system_hash+0x15c/0x2c0 pages=2048 vmalloc vpages N0=1024 N1=1024
0xffffc900017c1000-0xffffc900017c3000    8192 full_fit_alloc_test+0x9f/0x180 [test_vmalloc] pages=1 vmalloc N1=1
0xffffc90002c00000-0xffffc90003000000 4194304 vm_map_ram
0xffffe8ffffc00000-0xffffe8ffffe00000 2097152 pcpu_get_vm_areas+0x0/0x1080 vmalloc
0xffffc90000010000-0xffffc90000012000    8192
0xffffc90000138000-0xffffc9000013d000   20480 unpurged vm_area
"""


def snapshot(tmp_path: Path, text: str) -> Snapshot:
    path = tmp_path / "x.vmallocinfo"
    path.write_text(text)
    return read_snapshot(path)


def error(tmp_path: Path, text: str) -> TraceError:
    with pytest.raises(TraceError) as caught:
        snapshot(tmp_path, text)
    return caught.value


@pytest.mark.parametrize("name", ["numa.vmallocinfo", "ram_blocks.vmallocinfo"])
def test_recorded_lines_are_written_back_byte_for_byte(name: str) -> None:
    areas = read_snapshot(DATA / name).areas
    assert "".join(format_line(area) + "\n" for area in areas) == (DATA / name).read_text()


def test_every_item_of_a_line_is_read(tmp_path: Path) -> None:
    areas = snapshot(tmp_path, GOOD).areas
    assert areas[0] == SnapshotArea(
        0xFFFFC90000005000, 0xFFFFC90000007000, 8192, "acpi_os_map_iomem+0x1a9/0x1e0", phys=0x7FFE2000,
        words=("ioremap",),
    )  # fmt: skip
    assert areas[1] == SnapshotArea(
        0xFFFFC90000200000, 0xFFFFC90000A01000, 8392704, "large_system_hash+0x15c/0x2c0", pages=2048,
        words=("vmalloc", "vpages"), nodes={0: 1024, 1: 1024},
    )  # fmt: skip
    assert (areas[2].caller, areas[2].module) == ("full_fit_alloc_test+0x9f/0x180", "test_vmalloc")
    assert [area.kind for area in areas] == ["area", "area", "area", "vm_map_ram", "area", "area", "unpurged"]
    assert areas[5].caller == ""


def test_lines_stay_in_the_order_of_the_file_and_split_into_busy_and_unpurged(tmp_path: Path) -> None:
    found = snapshot(tmp_path, GOOD)
    assert found.name == str(tmp_path / "x.vmallocinfo")
    assert "".join(format_line(area) + "\n" for area in found.areas) == GOOD
    assert found.busy == found.areas[:6]
    assert found.unpurged == found.areas[6:]


def test_a_compressed_snapshot_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert len(read_snapshot(path).areas) == 7


HASHED = """\
0x00000000d5c3901a-0x000000004c650e5b    8192 irq_init_percpu_irqstack+0xf4/0x130 vmap
0x00000000b9f83093-0x0000000012345678   20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4
"""
ZEROED = """\
0x0000000000000000-0x0000000000000000    8192 irq_init_percpu_irqstack+0xf4/0x130 vmap
0x0000000000000000-0x0000000000000000   20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4
"""


@pytest.mark.parametrize("text", [HASHED, ZEROED])
def test_hidden_addresses_say_how_to_record_real_ones(tmp_path: Path, text: str) -> None:
    reason = error(tmp_path, text).reason
    assert "sysctl kernel.kptr_restrict=1" in reason
    assert "no_hash_pointers" in reason
    assert "as root" in reason


@pytest.mark.parametrize(
    "damage",
    [("    8192 full_fit", "    8193 full_fit"), ("c900017c3000", "c900017c4000"), ("c90000138000", "c90000138001")],
)
def test_one_wrong_line_among_good_ones_is_damage(tmp_path: Path, damage: tuple[str, str]) -> None:
    failure = error(tmp_path, GOOD.replace(*damage))
    assert failure.line == (7 if "138" in damage[0] else 3)
    assert "damaged line" in failure.reason


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (GOOD[:-12], 7),
        (GOOD + "\n", 8),
        (GOOD.replace("vpages N0", "vpages, N0"), 2),
        (GOOD.replace("0xffffc900017c1000", "0xgfffc900017c1000"), 3),
        ("total 12\n", 1),
    ],
)
def test_lines_of_another_format_are_named(tmp_path: Path, text: str, line: int) -> None:
    failure = error(tmp_path, text)
    assert failure.line == line
    assert "no line of /proc/vmallocinfo" in failure.reason


def test_overlapping_busy_areas_are_both_named(tmp_path: Path) -> None:
    text = GOOD + "0xffffc90000006000-0xffffc90000008000    8192 second+0x1/0x2 vmap\n"
    reason = error(tmp_path, text).reason
    assert "0xffffc90000005000-0xffffc90000007000 (acpi_os_map_iomem+0x1a9/0x1e0)" in reason
    assert "0xffffc90000006000-0xffffc90000008000 (second+0x1/0x2)" in reason


def test_an_unpurged_area_may_overlap_a_busy_one(tmp_path: Path) -> None:
    # The two lists are walked one after the other: what was reused in between is in both.
    text = GOOD + "0xffffc90000005000-0xffffc90000007000    8192 unpurged vm_area\n"
    assert len(snapshot(tmp_path, text).unpurged) == 2


def test_empty_input_is_an_error(tmp_path: Path) -> None:
    assert error(tmp_path, "").reason == "is empty"


def test_a_recording_given_as_snapshot_is_told(tmp_path: Path) -> None:
    for name in ("two_cpus.trace", "report.txt"):
        with pytest.raises(TraceError, match="this is a recording of ftrace, not a snapshot"):
            read_snapshot(DATA / name)
    bare = (DATA / "two_cpus.trace").read_text().splitlines(keepends=True)[12:]
    assert "recording of ftrace" in error(tmp_path, "".join(bare)).reason


def test_a_snapshot_given_as_recording_is_told() -> None:
    with pytest.raises(TraceError, match=r"this is a snapshot \(/proc/vmallocinfo\), not a recording"):
        read_trace(DATA / "numa.vmallocinfo")


@given(st.binary(max_size=200))
def test_any_bytes_give_a_trace_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.vmallocinfo"
    path.write_bytes(data)
    with pytest.raises(TraceError):
        read_snapshot(path)


@given(changes=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_bytes_give_a_snapshot_or_a_trace_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray((DATA / "ram_blocks.vmallocinfo").read_bytes())
    for offset, byte in changes:
        data[min(offset, len(data) - 1)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.vmallocinfo"
    path.write_bytes(data)
    with contextlib.suppress(TraceError):
        assert read_snapshot(path).areas
