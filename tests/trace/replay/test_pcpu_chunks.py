"""Per-CPU chunks of recorded kernels: each at the recorded base, of the geometry that section 7.2 says."""

from __future__ import annotations

import re

import pytest
from recordings import SHIPPED, known, load, names

from vmalloc.cli.report import print_report
from vmalloc.machine.base import MachineInfo
from vmalloc.percpu.layout import PercpuSettings, make_layout
from vmalloc.space.simulated import simulated
from vmalloc.trace.events import PCPU_CREATE
from vmalloc.trace.replay.start import chunk_groups, vmalloc_window

#: Chunks made in a recording, and those of them whose base was printed as a hash; all others made none.
CHUNKS = {
    SHIPPED: (17, 0),
    "g612_4cpu_cont": (1, 0),
    "g612_numa2_4cpu": (1, 0),
    "g612_4cpu_la57_boot": (1, 1),
    "g61_1cpu_boot": (1, 0),
}
#: CPUs and NUMA nodes of those machines.
MACHINES = {
    SHIPPED: (1, 1),
    "g612_4cpu_cont": (4, 1),
    "g612_numa2_4cpu": (4, 2),
    "g612_4cpu_la57_boot": (4, 1),
    "g61_1cpu_boot": (1, 1),
}


@pytest.mark.parametrize("name", names())
def test_the_table_of_this_file_has_every_chunk_of_every_recording(name: str) -> None:
    trace, _, _ = load(name)
    bases = [trace.events.va_start[i] for i in range(len(trace.events)) if trace.events.kind[i] == PCPU_CREATE]
    assert (len(bases), bases.count(0)) == CHUNKS.get(name, (0, 0))


@pytest.mark.parametrize("name", list(CHUNKS))
def test_every_recorded_chunk_is_at_its_recorded_base(name: str) -> None:
    """Section 7.1: the search from the top, on the recorded kernel's free space, open loop."""
    result = known(name, open_loop=True)
    made, hidden = CHUNKS[name]
    assert (result.pcpu_chunks, result.pcpu_chunks_hidden) == (made, hidden)
    assert result.pcpu_chunks_agreed == made - hidden
    assert "chunks_wrong" not in result.assumptions


def test_a_base_that_was_hashed_is_where_the_snapshot_shows_the_chunk() -> None:
    """Its address is not in the event; the snapshot after has it, and agrees with the model in every area."""
    name = "g612_4cpu_la57_boot"
    _, _, after = load(name)
    shown = [area for area in after[-1].busy if area.caller.startswith("pcpu_get_vm_areas")]
    assert len(shown) == 1
    assert known(name, open_loop=True).after_snapshot_differences == 0


def info_of(cpus: int, nodes: int) -> MachineInfo:
    found: MachineInfo = simulated("x86_64", cpus=cpus, nodes=nodes, memory="64MiB").machine.info
    return found


@pytest.mark.parametrize("name", list(CHUNKS))
def test_groups_of_recorded_chunks_are_those_of_the_layout(name: str) -> None:
    """Section 7.2: the recorded kernel's group sizes and alignment follow from its CPUs and nodes alone."""
    trace, before, after = load(name)
    snapshots = [*([before] if before else []), *after]
    found = chunk_groups(trace, vmalloc_window(trace), snapshots)
    assert found is not None
    layout = make_layout(info_of(*MACHINES[name]), PercpuSettings())
    assert tuple(size for _, size in found.groups()) == layout.group_sizes
    assert found.align == layout.atom_size
    offsets = [offset for offset, _ in found.groups()]
    assert offsets[0] == 0
    assert all(offset % layout.atom_size == 0 for offset in offsets)


def test_the_distance_of_groups_on_two_nodes_is_that_of_their_memory() -> None:
    """Section 7.2: gigabytes apart, where a space of one node has them side by side."""
    trace, before, after = load("g612_numa2_4cpu")
    found = chunk_groups(trace, vmalloc_window(trace), [*([before] if before else []), *after])
    assert found is not None
    assert [offset for offset, _ in found.groups()] == [0, 3 << 30]


def test_without_a_snapshot_the_first_base_tells_the_same_geometry() -> None:
    for name in CHUNKS:
        trace, before, after = load(name)
        window = vmalloc_window(trace)
        with_snapshots = chunk_groups(trace, window, [*([before] if before else []), *after])
        alone = chunk_groups(trace, window, [])
        assert with_snapshots is not None
        assert alone is not None
        assert alone.groups() == with_snapshots.groups()


def test_a_chunk_elsewhere_is_not_counted_as_agreed() -> None:
    from vmalloc.trace.replay.replay import replay

    trace, before, after = load("g61_1cpu_boot")
    chunk = next(i for i in range(len(trace.events)) if trace.events.kind[i] == PCPU_CREATE)
    trace.events.va_start[chunk] -= 4 << 20
    result = replay(trace, before=before, after=after, open_loop=True)
    assert (result.pcpu_chunks, result.pcpu_chunks_agreed) == (1, 0)
    assert result.assumptions["chunks_wrong"] == 1


def test_the_report_and_json_have_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(known("g61_1cpu_boot", open_loop=True))
    print_report(known("g612_4cpu_la57_boot", open_loop=True))
    print_report(known("h01_fork_short", open_loop=True))
    text = capsys.readouterr().out
    assert re.findall(r"^ *(\d+) +of (\d+) per-CPU chunks? at", text, re.MULTILINE) == [("1", "1"), ("0", "1")]
    assert "(1 of them recorded with a hashed base)" in text
    found = known("g61_1cpu_boot", open_loop=True).as_json()
    assert (found["pcpu_chunks"], found["pcpu_chunks_agreed"], found["pcpu_chunks_hidden"]) == (1, 1, 0)
