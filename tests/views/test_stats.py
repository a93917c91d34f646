"""``stats``: each number against the thing it counts, and the same names whatever happened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vmalloc.errors import Fault, OutOfFrames
from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import CountingMachine, Wrapper
from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.space.space import VmallocSpace
from vmalloc.units import MIB
from vmalloc.views import stats as module
from vmalloc.views.stats import stats

pytestmark = pytest.mark.both_builds

PAGE = 4096


def changes(space: VmallocSpace, before: dict[str, int | float]) -> dict[str, int | float]:
    """What changed since, sizes of free space left out: they change with everything."""
    return {
        name: value - before[name]
        for name, value in stats(space.state).items()
        if value != before[name] and not re.match("frames|free_|largest|fragmentation|page_table", name)
    }


@contextmanager
def fault(kind: str) -> Iterator[None]:
    with pytest.raises(Fault) as caught:
        yield
    assert caught.value.kind == kind


def test_an_empty_space_counts_nothing_but_its_machine() -> None:
    found = stats(simulated(nodes=2, memory="1GiB").state)
    assert found["frames"] == 1 << 18
    assert found["frames"] == found["frames_free"] + found["frames_cached"] + found["frames_used"]
    assert found["free_bytes"] == found["largest_free"] == (1 << 45) - 1
    assert found["lazy_max_pages"] == 3 * 8192
    others = [name for name in found if not re.match("frames|free_|largest|lazy_max|page_table", name)]
    assert {name: found[name] for name in others if found[name]} == {}


def test_names_never_depend_on_what_happened() -> None:
    space = simulated(nodes=2)
    before = stats(space.state)
    areas = [space.vmalloc_huge(5 * MIB), space.vmalloc(PAGE), space.ioremap(1 << 40, 4 * MIB)]
    areas[1].free()
    with fault("unmapped"):
        space.load(0xFFFFC90000000000 + (1 << 40), 1)
    space.purge()
    assert list(stats(space.state)) == list(before)


def test_every_name_is_documented_and_every_documented_name_is_there() -> None:
    text = module.__doc__ or ""
    found = stats(simulated(nodes=1, kasan=True).state)
    without_number = {re.sub(r"_node0$|(?<=shift)\d+$|(?<=page_tables_)\w+$", "", name) for name in found}
    documented = {re.sub(r"_node0$|(?<=shift)\d+$|(?<=page_tables_)\w+$", "", name)
                  for quoted in re.findall(r"``([\w, ]+)``", text) for name in quoted.split(", ")}  # fmt: skip
    assert without_number <= documented
    assert documented - without_number == {"stats", "vm_struct", "kvmalloc", "vm_map_ram", "nr_vmalloc_pages"}


def test_areas_pages_and_mappings_are_counted() -> None:
    space = simulated()
    before = stats(space.state)
    small = space.vmalloc(3 * PAGE)
    assert changes(space, before) == {
        "areas": 1, "busy_areas": 1, "busy_bytes": 4 * PAGE, "pages": 3, "mappings_shift12": 3,
    }  # fmt: skip
    before = stats(space.state)
    huge = space.vmalloc_huge(4 * MIB)
    found = changes(space, before)
    # The list of 1024 frames is an area of two pages.
    assert (found["areas"], found["pages"]) == (2, 1026)
    assert (found["mappings_shift21"], found["mappings_shift12"]) == (2, 2)
    assert small.alive
    assert huge.alive


def test_a_free_makes_pages_lazy_a_purge_flushes_once_and_fills_pools() -> None:
    space = simulated(cpus=4)
    area = space.vmalloc(3 * PAGE)
    before = stats(space.state)
    area.free()
    found = changes(space, before)
    assert (found["lazy_areas"], found["lazy_pages"], found["pages"]) == (1, 4, -3)
    assert "tlb_flushes" not in found
    before = stats(space.state)
    space.purge()
    found = changes(space, before)
    assert (found["purges"], found["flush_hulls"], found["flush_hull_bytes"]) == (1, 1, 4 * PAGE)
    assert (found["tlb_flushes"], found["tlb_range_flushes"], found["ipis"]) == (1, 1, 3)
    assert (found["lazy_pages"], found["pooled_areas"], found["pooled_pages"]) == (-4, 1, 4)
    before = stats(space.state)
    again = space.vmalloc(3 * PAGE)
    assert changes(space, before)["pool_hits"] == 1
    assert again.alive


def test_accesses_and_faults_are_counted_by_kind() -> None:
    space = simulated(cpus=2)
    area = space.vmalloc(PAGE)
    only_read = space.vmap([area], prot="r")
    before = stats(space.state)
    space.load(area.address, 8)
    space.load(area.address, 8)
    found = changes(space, before)
    assert (found["tlb_misses"], found["tlb_hits"], found["page_walks"]) == (1, 1, 1)
    before = stats(space.state)
    with fault("readonly"):
        space.store(only_read.address, b"x")
    with fault("guard"):
        space.load(area.address + PAGE, 1)
    address = area.address
    area.detach()
    only_read.free()
    space.vfree(address)
    with fault("stale_tlb"):
        space.load(address, 1)
    found = changes(space, before)
    assert (found["faults_readonly"], found["faults_unmapped"], found["faults_stale_tlb"]) == (1, 1, 1)


def test_frames_and_page_tables_are_those_of_the_machine() -> None:
    space = simulated(nodes=2, cpus=2)
    areas = [space.vmalloc_node(100 * PAGE, 1), space.vmalloc(PAGE)]
    found = stats(space.state)
    for node in space.machine.frames.stats():
        for name, value in (("free", node.free), ("cached", node.pcp), ("used", node.used)):
            assert found[f"frames_{name}_node{node.node}"] == value
        assert found[f"frames_node{node.node}"] == node.nr_frames
    for name in ("frames", "frames_free", "frames_cached", "frames_used"):
        assert found[name] == found[f"{name}_node0"] + found[f"{name}_node1"]
    tables = sum(value for name, value in found.items() if name.startswith("page_tables_"))
    assert found["page_table_bytes"] == tables * PAGE == space.machine.page_table.table_bytes
    assert found["frames_used"] == found["pages"] + tables
    assert all(area.alive for area in areas)


def test_failures_fallbacks_and_messages_are_counted() -> None:
    space = simulated(kernel="6.19")
    before = stats(space.state)
    space.machine.fail_next("map_range")
    huge = space.vmalloc_huge(2 * MIB)
    found = changes(space, before)
    assert (found["failures"], found["huge_fallbacks"], found["failed_areas"]) == (1, 1, 1)
    assert "messages" not in found
    before = stats(space.state)
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(PAGE)
    assert changes(space, before)["messages"] == 1
    space.run_deferred()
    assert stats(space.state)["failed_areas"] == 0
    assert stats(space.state)["deferred_done"] > before["deferred_done"]
    assert huge.alive


def test_deferred_frees_wait_and_are_done() -> None:
    space = simulated()
    areas = [space.vmalloc(PAGE) for _ in range(3)]
    with space.in_context("hardirq"):
        for area in areas:
            space.vfree(area)
    assert stats(space.state)["deferred_frees"] == 3
    space.run_deferred()
    assert stats(space.state)["deferred_frees"] == 0
    assert stats(space.state)["deferred_done"] == 1


def test_contiguous_blocks_are_no_areas() -> None:
    space = simulated()
    block = space.kvmalloc(PAGE)
    found = stats(space.state)
    assert (found["contiguous_blocks"], found["areas"], found["pages"]) == (1, 0, 0)
    assert block.alive


class Bare(Wrapper):
    """A machine that has operations, and no parts to look at."""

    def __getattribute__(self, name: str) -> object:
        if name in {"frames", "page_table", "mmu", "zeroed_pages", "direct_map_changes", "work_done"}:
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)


def machine() -> SimulatedMachine:
    return SimulatedMachine(ARCHITECTURES["x86_64"], profile("6.19"), cpus=2, nodes=[1 << 16])


def test_a_machine_without_parts_has_the_counters_of_areas() -> None:
    space = VmallocSpace(Bare(machine()), profile("6.19"))
    area = space.vmalloc(PAGE)
    found = stats(space.state)
    assert (found["areas"], found["pages"]) == (1, 1)
    assert set(found) < set(stats(simulated().state))
    assert not [name for name in found if re.match("frames|page_table|tlb|faults|ipis", name)]
    assert area.alive


def test_parts_are_found_through_wrappers() -> None:
    bare, wrapped = (VmallocSpace(m, profile("6.19")) for m in (machine(), CountingMachine(CountingMachine(machine()))))
    areas = [space.vmalloc(3 * PAGE) for space in (bare, wrapped)]
    assert stats(bare.state) == stats(wrapped.state)
    assert all(area.alive for area in areas)


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_levels_and_mapping_sizes_are_those_of_the_architecture(arch: str) -> None:
    space: SimulatedSpace = simulated(arch, memory="512MiB")
    area = space.vmalloc(space.state.page_size)
    found = stats(space.state)
    info = space.machine.info
    shifts = {int(name[14:]) for name in found if name.startswith("mappings_shift")}
    assert shifts >= {info.page_shift, *info.vmap_shifts, *info.vmalloc_shifts}
    assert found[f"mappings_shift{info.page_shift}"] == 1
    levels = [name[12:] for name in found if name.startswith("page_tables_")]
    assert levels == [level.name for level in ARCHITECTURES[arch].levels]
    assert area.alive
