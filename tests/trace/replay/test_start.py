"""The state a replay starts from, and the geometry of per-CPU chunks."""

from __future__ import annotations

import pytest
from scripted_kernel import MODULES, PAGE, WINDOW, Event, ScriptedKernel, page

from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.validate import validate_allocator
from vmalloc.errors import TraceError
from vmalloc.kernels import PROFILES
from vmalloc.trace.events import ALLOC, FREE, PCPU_CREATE, Trace
from vmalloc.trace.replay.start import (
    Start,
    chunk_groups,
    make_allocator,
    rewound_areas,
    since_boot,
    vmalloc_window,
)
from vmalloc.trace.vmallocinfo import UNPURGED, Snapshot, SnapshotArea

pytestmark = pytest.mark.both_builds

MIB = 1 << 20


def area(start: int, pages: int, kind: str = "area", caller: str = "") -> SnapshotArea:
    return SnapshotArea(page(start), page(start + pages), pages * PAGE, caller=caller, kind=kind)


def allocator(*areas: SnapshotArea, version: str = "6.12", nodes: int = 2, shape: int = 0):
    made = make_allocator(PROFILES[version], WINDOW, nodes, 12, Start("snapshot", areas), shape, "x.trace")
    validate_allocator(made)
    return made


# -- which start -----------------------------------------------------------------------------------------------------


def test_the_widest_window_is_the_vmalloc_range() -> None:
    trace = Trace("x", windows=[MODULES, WINDOW, (WINDOW[0], WINDOW[0] + PAGE)])
    assert vmalloc_window(trace) == WINDOW
    with pytest.raises(TraceError, match="no allocation in this trace"):
        vmalloc_window(Trace("x"))


def test_a_trace_since_boot_begins_at_the_first_suitable_address() -> None:
    machine = ScriptedKernel()
    machine.write(machine.alloc(1, window=MODULES))
    machine.allocs(3, align=1)
    assert since_boot(machine.trace, WINDOW)
    machine.trace.overwritten = 1
    assert not since_boot(machine.trace, WINDOW)


def test_a_later_trace_begins_elsewhere_or_with_a_free() -> None:
    late = ScriptedKernel()
    late.alloc(1)
    late.allocs(1)
    assert not since_boot(late.trace, WINDOW)
    freeing = ScriptedKernel()
    freeing.write(Event(FREE, 0, 1, page(9)))
    freeing.allocs(1)
    assert not since_boot(freeing.trace, WINDOW)
    assert not since_boot(ScriptedKernel().trace, WINDOW)


def test_alignment_moves_the_first_suitable_address() -> None:
    trace = ScriptedKernel().trace
    trace.windows[0] = (WINDOW[0] + PAGE, WINDOW[1])
    trace.events.append(ALLOC, va_start=WINDOW[0] + 4 * PAGE, va_end=WINDOW[0] + 9 * PAGE, align=4 * PAGE)
    assert since_boot(trace, trace.windows[0])


# -- from a snapshot -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [0, 1, 2, 3, 4, 31])
def test_every_shape_has_the_same_free_blocks(shape: int) -> None:
    areas = [area(0, 4), area(9, 1), area(30, 2), area(40, 300), area(700, 5)]
    assert allocator(*areas, shape=shape).free.blocks() == allocator(*areas).free.blocks()


def test_shapes_differ_in_shape() -> None:
    areas = [area(10 * i, 1 + i % 5) for i in range(40)]
    roots = {shape: allocator(*areas, shape=shape) for shape in range(8)}
    assert len({made.free.rows.get(made.free.root)["va_start"] for made in roots.values()}) > 1


def test_a_shape_is_the_same_every_time() -> None:
    areas = [area(10 * i, 1) for i in range(40)]
    first, second = allocator(*areas, shape=17), allocator(*areas, shape=17)
    assert first.free.rows.get(first.free.root) == second.free.rows.get(second.free.root)


def test_lazy_areas_are_listed_node_by_node() -> None:
    made = allocator(area(0, 1), area(4, 1, UNPURGED), area(9, 1, UNPURGED), area(2, 1, UNPURGED), area(6, 1, UNPURGED))
    rows = made.rows
    assert [[rows.get(v)["va_start"] for v in made.nodes.lazy(node)] for node in (0, 1)] == [
        [page(4), page(9)],
        [page(2), page(6)],
    ]


def test_with_one_node_lazy_areas_bear_no_mark() -> None:
    made = allocator(area(4, 1, UNPURGED), area(2, 1, UNPURGED), nodes=1, version="6.1")
    assert [made.rows.get(v)["flags"] for v in made.nodes.lazy(0)] == [0, 0]


def test_more_steps_back_than_nodes_stay_on_the_last_node() -> None:
    made = allocator(*[area(start, 1, UNPURGED) for start in (8, 6, 4, 2)])
    assert [len(made.nodes.lazy(node)) for node in (0, 1)] == [1, 3]


def test_overlapping_areas_are_refused_with_the_trace_named() -> None:
    with pytest.raises(TraceError, match=r"^x\.trace: area 0x\w+-0x\w+ overlaps the one before it"):
        allocator(area(0, 4), area(3, 2, UNPURGED))


# -- rewound ---------------------------------------------------------------------------------------------------------


def test_what_the_trace_did_not_allocate_was_there_before() -> None:
    machine = ScriptedKernel("6.1")
    old = machine.alloc(2)
    new, freed = machine.allocs(3, 4)
    machine.frees(freed)
    after = machine.snapshot("after")
    areas = rewound_areas(machine.trace, after, len(machine.trace))
    assert [(a.start, a.end) for a in areas] == [(old.va_start, old.va_end)]
    assert new.va_start not in {a.start for a in areas}


def test_a_freed_area_whose_end_is_recorded_was_there_before() -> None:
    machine = ScriptedKernel("6.1")
    machine.write(Event(FREE, 0, 1, page(5), page(8)))  # 6.1 records the end
    machine.write(Event(FREE, 0, 1, page(20)))  # 6.12 does not
    areas = rewound_areas(machine.trace, Snapshot("after", []), 2)
    assert [(a.start, a.end, a.size) for a in areas] == [(page(5), page(8), 3 * PAGE)]


def test_events_after_the_snapshot_do_not_count() -> None:
    machine = ScriptedKernel("6.1")
    (one,) = machine.allocs(2)
    after = machine.snapshot("after")
    assert rewound_areas(machine.trace, after, 0)[0].start == one.va_start
    assert rewound_areas(machine.trace, after, 1) == ()


# -- chunks ----------------------------------------------------------------------------------------------------------


def chunks(*bases: int, snapshots: tuple[Snapshot, ...] = (), groups: list | None = None) -> tuple[object, ...] | None:
    """The geometry found for chunks at these bases, as ``(offsets, sizes, align)``."""
    trace = Trace("x", windows=[WINDOW], pcpu_groups=groups or [])
    for base in bases:
        trace.events.append(PCPU_CREATE, va_start=base)
    found = chunk_groups(trace, WINDOW, list(snapshots))
    if found is None:
        return None
    made = make_allocator(PROFILES["6.12"], WINDOW, 1, 12, Start("boot"), 0, "x")
    base = made.claim_groups(found)
    areas = sorted((row["va_start"], row["va_end"]) for row in map(made.rows.get, made.nodes.busy(0)))
    return [start - base for start, _ in areas], [end - start for start, end in areas], base


TOP = WINDOW[1] & ~(2 * MIB - 1)


def test_without_chunks_there_is_no_geometry() -> None:
    assert chunks() is None


def test_the_first_base_tells_the_size_of_a_single_group() -> None:
    assert chunks(TOP - 2 * MIB) == ([0], [2 * MIB], TOP - 2 * MIB)
    assert chunks(TOP - 8 * MIB) == ([0], [8 * MIB], TOP - 8 * MIB)


def test_a_first_base_far_below_the_top_means_two_groups() -> None:
    far = TOP - (1 << 32)
    assert chunks(far) == ([0, (1 << 32) - 2 * MIB], [2 * MIB, 2 * MIB], far)


def test_a_hashed_or_odd_first_base_is_taken_for_the_usual_chunk() -> None:
    assert chunks(0) == ([0], [2 * MIB], TOP - 2 * MIB)
    assert chunks(TOP - 3 * MIB + PAGE) == ([0], [2 * MIB], TOP - 2 * MIB)


def test_the_probes_of_61_tell_the_groups() -> None:
    groups = [([0, 4 * MIB], [2 * MIB, MIB], MIB)]
    high = WINDOW[1] & ~(MIB - 1)
    assert chunks(TOP, groups=groups) == ([0, 4 * MIB], [2 * MIB, MIB], high - 5 * MIB)


def pcpu_snapshot(*ranges: tuple[int, int]) -> Snapshot:
    caller = "pcpu_get_vm_areas+0x0/0xc40"
    return Snapshot("s", [SnapshotArea(start, start + size, size, caller=caller) for start, size in ranges])


def test_a_snapshot_tells_the_groups_of_a_chunk() -> None:
    base = TOP - 64 * MIB
    snapshot = pcpu_snapshot((base, 4 * MIB), (base + 32 * MIB, 4 * MIB))
    assert chunks(base, snapshots=(snapshot,)) == ([0, 32 * MIB], [4 * MIB, 4 * MIB], TOP - 36 * MIB)


def test_a_snapshot_tells_the_size_when_every_chunk_has_one_group() -> None:
    bases = [TOP - 4 * MIB, TOP - 8 * MIB]
    snapshot = pcpu_snapshot(*((base, 4 * MIB) for base in bases))
    assert chunks(*bases, snapshots=(snapshot,)) == ([0], [4 * MIB], TOP - 4 * MIB)


def test_a_snapshot_without_the_traces_chunks_tells_nothing() -> None:
    snapshot = pcpu_snapshot((TOP - 100 * MIB, 8 * MIB))
    assert chunks(TOP - 2 * MIB, snapshots=(snapshot,)) == ([0], [2 * MIB], TOP - 2 * MIB)


def test_a_snapshot_with_several_chunks_tells_all_their_groups() -> None:
    first, second = TOP - 64 * MIB, TOP - 68 * MIB
    ranges = [(base + offset, 4 * MIB) for base in (first, second) for offset in (0, 32 * MIB)]
    found = chunks(first, second, snapshots=(pcpu_snapshot(*ranges),))
    assert found is not None
    assert found[:2] == ([0, 32 * MIB], [4 * MIB, 4 * MIB])


def test_a_chunk_of_two_groups_replays_as_it_was_made() -> None:
    machine = ScriptedKernel(cpus=2)
    machine.allocs(1)
    groups = PcpuGroups([0, 1 << 30], [2 * MIB, 2 * MIB], 2 * MIB, *WINDOW)
    machine.write(machine.chunk(groups))
    machine.write(machine.chunk(groups))
    result = machine.replay()
    assert result.assumptions == {}
    snapshot = machine.snapshot("after")
    assert machine.replay(after=[snapshot]).after_snapshot_differences == 0
