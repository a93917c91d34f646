"""The experiments of ``docs/experiments.md`` measure what they say, on demands small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace

from experiments import Recording, confined, in_range, least_range, markdown, peak, search
from scripted_kernel import PAGE, ScriptedKernel

from vmalloc.policy import Policy
from vmalloc.trace.replay.replay import find_opening
from vmalloc.trace.whatif.demand import read_demand

KERNEL, LOWEST = Policy(), Policy(fit="lowest")


def recorded(kernel: ScriptedKernel) -> Recording:
    opening = find_opening(kernel.trace, kernel=kernel.kernel.name)
    return Recording("made", opening, read_demand(kernel.trace, opening))


def fragmented() -> Recording:
    """Appendix A.4's second history: the aligned hole is a leaf that the kernel's search prunes."""
    kernel = ScriptedKernel()
    a, s, b, t, c = kernel.allocs(4, 4, 4, 1, 3)
    for area in (t, s):
        kernel.frees(area)
        kernel.purges()
    kernel.allocs(4, align=0x4000)
    assert a.va_start < b.va_start < c.va_start
    return recorded(kernel)


def test_the_least_range_is_exact() -> None:
    recording = fragmented()
    demand = confined(recording, aligned_only=False)
    most = peak(demand)
    assert most == 16 * PAGE  # while all five live; later 15
    # The kernel cannot use the hole while the range ends behind the areas; it needs four aligned pages more.
    forced = replace(demand, op=recording.demand.op, time=recording.demand.time, area=recording.demand.area,
                     cpu=recording.demand.cpu)  # fmt: skip
    assert least_range(recording, forced, LOWEST, most) == 16 * PAGE
    assert least_range(recording, forced, KERNEL, most) == 20 * PAGE
    assert in_range(recording, forced, KERNEL, 19 * PAGE, until_failure=False).failures == 1
    assert in_range(recording, forced, KERNEL, 20 * PAGE, until_failure=False).failures == 0


def test_a_confined_demand_has_no_chunks_no_purges_and_no_giants() -> None:
    kernel = ScriptedKernel()
    small, aligned, giant = kernel.alloc(2), kernel.alloc(2, align=0x4000), kernel.alloc(2, align=1 << 30)
    kernel.write(small, aligned, giant)
    kernel.frees(small, aligned, giant)
    kernel.purges()
    recording = recorded(kernel)
    assert list(confined(recording, aligned_only=False).area) == [0, 1, 0, 1]
    assert list(confined(recording, aligned_only=True).area) == [1, 1]
    assert peak(confined(recording, aligned_only=True)) == 2 * PAGE


def test_the_search_table_compares_both_fits() -> None:
    (row,) = search(fragmented())
    assert (row["requests"], row["aligned"], row["elsewhere"]) == (6, 1, 1)
    assert row["span_kernel"] == 20 * PAGE
    assert row["span_lowest"] == 16 * PAGE
    assert "| made | 6 |" in markdown([row])
