"""Counting: what a verdict, a marker and a hole become in a result."""

from __future__ import annotations

from scripted_kernel import PAGE, WINDOW, ScriptedKernel, page

from vmalloc.trace.replay.counts import compare
from vmalloc.trace.replay.engine import Engine
from vmalloc.trace.replay.markers import Reading
from vmalloc.trace.replay.plan import make_plan
from vmalloc.trace.replay.replay import SLACK
from vmalloc.trace.replay.start import Start, make_allocator
from vmalloc.trace.vmallocinfo import Snapshot, SnapshotArea


def replayed(kernel: ScriptedKernel) -> Engine:
    """An engine that has replayed the whole trace of a kernel."""
    known = make_allocator(kernel.kernel, WINDOW, kernel.nodes, 12, Start("boot"), 0, "hand-made")
    engine = Engine(known, kernel.trace, make_plan(kernel.trace), None, SLACK, True, True, False)
    engine.run(0, len(kernel.trace))
    return engine


def test_a_snapshot_of_the_same_areas_has_no_difference() -> None:
    kernel = ScriptedKernel()
    areas = kernel.allocs(2, 3, 4)
    kernel.frees(areas[1])
    end = len(kernel.trace)
    found = compare(replayed(kernel), kernel.trace, Reading(end, end), kernel.snapshot("same"), SLACK)
    assert (found.snapshot, found.event, found.count, found.in_flight) == ("same", end, 0, 0)


def test_what_only_one_side_has_is_told_by_kind() -> None:
    kernel = ScriptedKernel()
    areas = kernel.allocs(2, 3)
    kernel.frees(areas[1])
    end = len(kernel.trace)
    other = Snapshot("other", [SnapshotArea(page(50), page(51), PAGE), SnapshotArea(page(60), page(62), 2 * PAGE)])
    found = compare(replayed(kernel), kernel.trace, Reading(end, end), other, SLACK)
    assert found.busy_missing == ((page(50), page(51)), (page(60), page(62)))
    assert found.busy_extra == ((page(0), page(2)),)
    assert (found.lazy_missing, found.lazy_extra) == ((), ((page(2), page(5)),))


def test_counts_are_those_of_the_trace_and_holes_lie_inside_the_window() -> None:
    kernel = ScriptedKernel()
    areas = kernel.allocs(2, 3)
    kernel.frees(areas[0])
    kernel.purges()
    result = kernel.replay()
    assert (result.allocations, result.placements, result.frees, result.purges) == (2, 2, 1, 1)
    assert (result.agreed, result.mismatches, result.first_mismatch) == (2, {}, None)
    assert result.peak_busy_bytes == 5 * PAGE
    assert result.largest_hole == WINDOW[1] + 1 - page(5)
    assert result.free_bytes == result.largest_hole + 2 * PAGE
