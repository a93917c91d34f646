"""``replay`` as a whole: what it finds out about the recording, what it counts, and what it refuses."""

from __future__ import annotations

import pytest
from scripted_kernel import MODULES, PAGE, Event, ScriptedKernel, page

from vmalloc.errors import TraceError
from vmalloc.trace.events import ALLOC, FREE, Trace
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.vmallocinfo import Snapshot, SnapshotArea

pytestmark = pytest.mark.both_builds


def telling(version: str, cpus: int = 2) -> ScriptedKernel:
    """A machine whose purges tell its version from the others."""
    machine = ScriptedKernel(version, cpus)
    machine.allocs(1)
    for _ in range(3):
        machine.fill_pool(2, 3)
        machine.fill_pool(3, 5)
        machine.purges()
        machine.allocs(2, 3, 1)
    return machine


# -- the recorded machine --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.1", "6.12", "6.19"])
def test_the_version_is_the_one_that_agrees_best(version: str) -> None:
    result = replay(telling(version).trace)
    assert result.kernel == version
    assert result.agreed == result.allocations
    assert "agrees best" in result.kernel_from


def test_a_failed_attempt_that_prints_an_errno_is_new() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    machine.allocs(1)
    machine.write(machine.alloc(100, window=MODULES))
    result = replay(machine.trace)
    assert (result.kernel, result.kernel_from) == ("6.19", "failed attempts print an errno")


def test_a_failed_attempt_that_prints_the_windows_end_is_old() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1)
    machine.write(machine.alloc(100, window=MODULES))
    assert replay(machine.trace).kernel in ("6.12", "6.1")


def test_probes_are_of_kernels_without_tracepoints() -> None:
    machine = ScriptedKernel("6.1")
    machine.allocs(1)
    machine.trace.source = "kprobes"
    assert replay(machine.trace).kernel == "6.1"


@pytest.mark.parametrize(("asked", "profile"), [("6.8", "6.1"), ("6.9", "6.12"), ("6.18.44", "6.19"), ("7.2", "6.19")])
def test_a_given_version_is_not_doubted(asked: str, profile: str) -> None:
    result = replay(telling("6.12").trace, kernel=asked)
    assert (result.kernel, result.kernel_from) == (profile, "given")


def test_nodes_follow_the_cpus() -> None:
    machine = telling("6.12", cpus=3)
    assert (machine.replay().cpus, machine.replay().nodes) == (3, 3)
    assert machine.replay(cpus=200).nodes == 128
    assert machine.replay(kernel="6.1").nodes == 1


def test_cpus_are_those_of_the_header_or_of_the_events_whichever_are_more() -> None:
    machine = ScriptedKernel("6.12", cpus=4)
    machine.allocs(1, cpu=0)
    machine.allocs(1, cpu=3)
    machine.trace.cpus = 0
    assert machine.replay().cpus == 4
    machine.trace.cpus = 6
    assert machine.replay().cpus >= 6


@pytest.mark.parametrize("cpus", [0, -1])
def test_a_machine_has_at_least_one_cpu(cpus: int) -> None:
    with pytest.raises(ValueError, match=f"at least one CPU, got {cpus}"):
        telling("6.12").replay(cpus=cpus)


def test_the_wrong_number_of_nodes_shows() -> None:
    machine = ScriptedKernel("6.12", cpus=4)
    machine.allocs(1)
    machine.fill_pool(2, 4, cpu=1)
    machine.fill_pool(2, 4, cpu=3)
    machine.allocs(2, 2, cpu=1)
    machine.allocs(2, 2, cpu=3)
    assert machine.replay(cpus=4).agreement == 1
    assert machine.replay(cpus=2).agreement < 1


def test_a_32_bit_machine_has_one_node() -> None:
    trace = Trace("x", windows=[(0xF0000000, 0xFF000000)], cpus=4, source="tracepoints")
    trace.events.append(ALLOC, va_start=0xF0000000, va_end=0xF0003000, align=1)
    assert replay(trace, kernel="6.12").nodes == 1


@pytest.mark.parametrize(("size", "page_size"), [(4096, 4096), (3 << 14, 16384), (5 << 16, 65536)])
def test_the_page_size_is_the_largest_that_divides_every_size(size: int, page_size: int) -> None:
    trace = Trace("x", windows=[(1 << 40, 1 << 41)], cpus=1, source="tracepoints")
    for number in range(3):
        trace.events.append(ALLOC, va_start=(1 << 40) + number * size, va_end=(1 << 40) + (number + 1) * size, align=1)
    result = replay(trace)
    assert (result.page_size, result.agreement) == (page_size, 1)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="not a kernel version"):
        telling("6.12").replay(kernel="newest")


def test_a_trace_without_allocations_is_refused() -> None:
    trace = Trace("empty.trace")
    trace.events.append(FREE, va_start=page(0))
    with pytest.raises(TraceError, match=r"^empty\.trace: no allocation in this trace"):
        replay(trace)


# -- snapshots -------------------------------------------------------------------------------------------------------


def test_a_snapshot_after_is_compared_at_its_marker() -> None:
    machine = ScriptedKernel(cpus=2)
    areas = machine.allocs(1, 2, 3)
    machine.frees(areas[1])
    machine.mark("snapshot-one begin")
    one = machine.snapshot("one.vmallocinfo")
    machine.mark("snapshot-one end")
    machine.purges()
    machine.allocs(5)
    two = machine.snapshot("two")
    result = machine.replay(after=[two, one])
    assert [(found.snapshot, found.count, found.event) for found in result.snapshots] == [
        ("one.vmallocinfo", 0, 4), ("two", 0, 8),
    ]  # fmt: skip
    assert result.after_snapshot_differences == 0


def test_every_way_to_differ_is_told() -> None:
    machine = ScriptedKernel(cpus=2)
    busy, lazy = machine.allocs(1, 2)
    machine.frees(lazy)
    wrong = Snapshot("wrong", [
        SnapshotArea(page(50), page(52), 2 * PAGE), SnapshotArea(page(60), page(61), PAGE, kind="unpurged"),
    ])  # fmt: skip
    (found,) = machine.replay(after=[wrong]).snapshots
    assert found.busy_missing == ((page(50), page(52)),)
    assert found.busy_extra == ((busy.va_start, busy.va_end),)
    assert found.lazy_missing == ((page(60), page(61)),)
    assert found.lazy_extra == ((lazy.va_start, lazy.va_end),)
    assert found.count == 4


def test_areas_in_flight_are_left_out_and_counted() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    (old,) = machine.allocs(2)
    machine.mark("snapshot-x begin")
    machine.allocs(3)
    x = machine.snapshot("x")
    machine.frees(old)
    machine.mark("snapshot-x end")
    (found,) = machine.replay(after=[x]).snapshots
    assert (found.count, found.in_flight) == (0, 1)


def test_a_purge_during_the_reading_is_no_difference() -> None:
    machine = ScriptedKernel(cpus=2)
    (area, _) = machine.allocs(2, 1)
    machine.frees(area)
    machine.mark("snapshot-x begin")
    machine.purges()
    x = machine.snapshot("x")
    machine.mark("snapshot-x end")
    assert machine.replay(after=[x]).after_snapshot_differences == 0


def test_an_allocation_during_the_reading_may_be_written_after_it() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(2)
    machine.mark("snapshot-x begin")
    late = machine.alloc(3, cpu=1)
    x = machine.snapshot("x")
    machine.mark("snapshot-x end")
    machine.write(late)
    assert machine.replay(after=[x]).after_snapshot_differences == 0


def from_the_middle(version: str = "6.19") -> tuple[ScriptedKernel, Snapshot]:
    """A recording with a snapshot in the middle: what came before it must not be replayed again."""
    machine = ScriptedKernel(version, cpus=2)
    areas = machine.allocs(1, 2, 3, 4)
    machine.frees(areas[1])
    machine.mark("snapshot-before begin")
    before = machine.snapshot("x.before")
    machine.mark("snapshot-before end")
    return machine, before


def test_events_before_the_snapshot_are_skipped() -> None:
    machine, before = from_the_middle()
    machine.allocs(2)
    result = machine.replay(before=before)
    assert (result.start, result.skipped_events, result.events) == ("snapshot", 5, 3)
    assert (result.allocations, result.agreed, result.frees) == (1, 1, 0)


def test_a_purge_before_the_snapshot_is_skipped_with_its_areas() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    areas = machine.allocs(1, 2, 300)
    machine.frees(areas[2])
    machine.purges()
    machine.mark("snapshot-before begin")
    before = machine.snapshot("x.before")
    machine.mark("snapshot-before end")
    machine.frees(areas[1])
    machine.purges()
    machine.allocs(2)
    result = machine.replay(before=before)
    assert (result.purges, result.agreed, result.allocations, result.assumptions) == (1, 1, 1, {})


def test_an_area_in_flight_that_the_snapshot_shows_is_there_already() -> None:
    machine = ScriptedKernel("6.19", cpus=2)
    (old, _) = machine.allocs(1, 2)
    machine.mark("snapshot-before begin")
    new = machine.alloc(3)
    freed = machine.free(old)
    before = machine.snapshot("x.before")
    machine.write(new, freed)
    unseen = machine.write(machine.alloc(4))
    machine.mark("snapshot-before end")
    machine.allocs(1)
    assert unseen.va_start not in {area.start for area in before.areas}
    after = machine.snapshot("x.after")
    result = machine.replay(before=before, after=[after])
    assert (result.agreed, result.allocations, result.after_snapshot_differences) == (2, 2, 0)
    assert result.assumptions == {}


def test_busy_and_lazy_areas_of_the_start_are_freed_and_purged() -> None:
    machine, before = from_the_middle("6.1")
    machine.frees(*[Event(ALLOC, 0, 0, area.start) for area in before.busy[:1]])
    machine.purges()
    machine.allocs(2, 1)
    after = machine.snapshot("x.after")
    result = machine.replay(before=before, after=[after])
    assert (result.agreed, result.allocations, result.after_snapshot_differences) == (2, 2, 0)


def test_without_a_before_the_start_is_rewound_from_the_first_after() -> None:
    machine = ScriptedKernel("6.1")
    machine.alloc(2)
    machine.allocs(3, 4)
    after = machine.snapshot("after")
    result = machine.replay(after=[after])
    assert (result.start, result.agreed, result.after_snapshot_differences) == ("rewound", 2, 0)


def test_without_any_snapshot_the_start_is_unknown() -> None:
    machine = ScriptedKernel("6.1")
    old = machine.alloc(2)
    machine.allocs(3)
    machine.frees(old)
    result = machine.replay(open_loop=False)
    assert (result.start, result.unexplained) == ("unknown", 0)
    assert result.assumptions["unknown_frees"] == 1


def test_a_snapshot_that_overlaps_itself_is_refused() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    areas = [SnapshotArea(page(0), page(4), 4 * PAGE), SnapshotArea(page(2), page(3), PAGE, kind="unpurged")]
    with pytest.raises(TraceError, match="overlaps the one before it"):
        machine.replay(before=Snapshot("x.before", areas))


# -- counts ----------------------------------------------------------------------------------------------------------


def test_attempts_are_placements_and_failures() -> None:
    machine = ScriptedKernel("6.12", cpus=2)
    machine.allocs(1, 2)
    machine.write(machine.alloc(100, window=MODULES))
    machine.write(machine.purge(full=True, pid=100))
    machine.write(machine.alloc(100, window=MODULES, try_pool=False))
    result = machine.replay()
    assert (result.allocations, result.placements, result.agreed, result.purges) == (4, 2, 4, 1)


def test_what_ftrace_lost_is_reported() -> None:
    machine = ScriptedKernel()
    machine.allocs(1)
    machine.lose(7)
    machine.trace.overwritten = 3
    result = machine.replay()
    assert (result.lost_events, result.overwritten) == (7, 3)


def test_progress_is_told_up_to_the_end() -> None:
    machine = telling("6.12")
    told: list[tuple[int, int]] = []
    machine.replay(progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (len(machine.trace), len(machine.trace))


def test_holes_are_measured_inside_the_range() -> None:
    trace = Trace("x", windows=[(1 << 40, (1 << 40) + 64 * PAGE - 1)], cpus=1, source="tracepoints")
    for start, end in ((0, 4), (4, 8), (8, 9)):
        trace.events.append(ALLOC, va_start=(1 << 40) + start * PAGE, va_end=(1 << 40) + end * PAGE, align=1)
    trace.events.append(FREE, va_start=(1 << 40) + 4 * PAGE, count=4)
    from vmalloc.trace.events import PURGE

    trace.events.append(PURGE, va_start=(1 << 40) + 4 * PAGE, va_end=(1 << 40) + 8 * PAGE, count=1)
    result = replay(trace, kernel="6.1")
    assert (result.largest_hole, result.free_bytes) == (55 * PAGE, 59 * PAGE)
    assert result.fragmentation == pytest.approx(4 / 59)
    assert (result.agreed, result.peak_busy_bytes) == (3, 9 * PAGE)
