"""The recording inside the package."""

from __future__ import annotations

from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.shipped import shipped_snapshots, shipped_trace
from vmalloc.trace.vmallocinfo import read_snapshot


def test_the_trace_and_its_snapshots_are_files_of_the_package() -> None:
    assert shipped_trace().is_file()
    assert [path.name.split(".")[1] for path in shipped_snapshots()] == [
        "snap-0-boot", "snap-1-mods", "snap-2-fork", "snap-3-bpfmap", "snap-4-mix", "snap-5-tv", "snap-6-end",
    ]  # fmt: skip


def test_both_can_be_read() -> None:
    trace = read_trace(shipped_trace())
    assert (len(trace), trace.cpus, trace.source) == (321_191, 1, "tracepoints")
    assert (trace.lost_events, trace.overwritten) == (0, 0)
    assert all(read_snapshot(path).areas for path in shipped_snapshots())
    assert len([mark for mark in trace.marks if "snapshot-" in mark]) == 2 * len(shipped_snapshots())
