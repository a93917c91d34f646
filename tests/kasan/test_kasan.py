"""KASAN of a whole machine: reuse, resizing, logging, what it costs, and what it leaves alone."""

from __future__ import annotations

import gc
import os
import pickle
from typing import Any

import pytest

from calls.watch import KERNELS
from kasan.rig import PAGE, UNIT, checked, runs, shadow_mappings
from vmalloc.errors import BadAddress, BadFree, BadRequest, Fault
from vmalloc.kasan.report import KasanReport
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import SimulatedSpace, simulated

pytestmark = pytest.mark.both_builds

ARCHES = [name for name, arch in ARCHITECTURES.items() if arch.kasan_shadow_offset is not None]


def report_of(space: SimulatedSpace, address: int, size: int = 1) -> KasanReport:
    with pytest.raises(Fault) as caught:
        space.load(address, size)
    assert isinstance(caught.value.report, KasanReport)
    return caught.value.report


# -- machines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHES)
def test_every_architecture_with_an_offset_finds_the_same_bugs(arch: str) -> None:
    """Section 9.1: U differs with the page size."""
    page = ARCHITECTURES[arch].page_size
    space = simulated(arch, cpus=2, memory=4096 * page, kasan=True)
    area = space.vmalloc(page + 5)
    assert space.kasan.layout.unit == 8 * page
    assert space.load(area.address, page + 5) is not None
    found = report_of(space, area.address + page + 1, 8)
    assert (found.bad_address - area.address, found.reported_address - area.address) == (page + 5, page + 1)
    space.vfree(area)
    assert report_of(space, area.address).cause == "use-after-free"
    space.purge()
    space.validate()


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES if name not in ARCHES])
def test_an_architecture_without_an_offset_has_no_kasan(arch: str) -> None:
    with pytest.raises(BadRequest, match="no shadow offset is known"):
        simulated(arch, kasan=True)


def test_the_kernels_own_test() -> None:
    """Section 9.8: ``vmalloc(P/2 - G - 5)``; the byte before the end is fine, at it and five behind are not."""
    for kernel in KERNELS:
        space = checked(kernel)
        size = PAGE // 2 - 8 - 5
        area = space.vmalloc(size)
        space.load(area.address + size - 1, 1)
        for beyond in (size, size + 5):
            found = report_of(space, area.address + beyond)
            assert (found.bug, found.bad_address) == ("vmalloc-out-of-bounds", area.address + beyond)


def test_without_kasan_there_is_none_and_no_shadow() -> None:
    space = checked(kasan=False)
    area = space.vmalloc(5001)
    space.load(area.address + 5001, 100)
    assert space.kasan is None
    assert not [name for name in space.stats() if name.startswith("kasan")]
    space.vfree(area)
    with pytest.raises(BadAddress) as caught:
        area.read(0, 1)
    assert not isinstance(caught.value, Fault)


@pytest.mark.parametrize("kernel", KERNELS)
def test_addresses_are_those_of_a_machine_without(kernel: str) -> None:
    """Shadow takes frames, never addresses; purges in steps end as purges at once do."""
    spaces = [checked(kernel, kasan=kasan, cpus=4) for kasan in (False, True)]
    told = []
    for space in spaces:
        held: list[Any] = []
        events: list[object] = []
        for k in range(120):
            with space.on_cpu(k % 4):
                held.append(space.vmalloc(1 + k * 977 % 50_000))
                events.append(held[-1].address)
                if k % 3 == 0:
                    space.vfree(held.pop(k * 7 % len(held)))
                if k % 17 == 0:
                    events.append(str(space.purge(full=k % 2 == 0)))
        held.clear()
        gc.collect()
        numbers, names = space.stats(), ("purges", "flush_hulls", "flush_hull_bytes", "pooled_areas", "lazy_pages")
        events += [numbers[name] for name in names]
        told.append((events, space.areas().tolist(), space.vmallocinfo()))
    assert told[0] == told[1]


# -- resizing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
@pytest.mark.parametrize(
    "sizes", [(9000, 8995), (9000, 5001), (9000, 8), (9000, 1), (9000, 7, 8), (9000, 3, 4090), (9000, 5001, 9000),
              (9000, 8999, 9000), (16, 9, 12), (12288, 100, 12288), (4096, 4096), (5000, 5000)],
)  # fmt: skip
def test_vrealloc_in_place_allows_the_new_size_exactly(kernel: str, sizes: tuple[int, ...]) -> None:
    """Section 9.5: shrinking and growing, with and without a part of a granule at either end."""
    space = checked(kernel)
    area = space.vmalloc(sizes[0])
    address, whole = area.address, area.vm.size
    for size in sizes[1:]:
        area = space.vrealloc(area, size)
        assert area.address == address
        cells = bytes(space.kasan.bytes_of(address, whole >> 3))
        assert cells == space.kasan.expected(size).ljust(whole >> 3, b"\xf8")
        assert space.kasan.tracks.live[address].size == size
        space.load(address, size)
        assert report_of(space, address, size + 1).bad_address == address + size
        space.validate()


def test_a_failed_vrealloc_leaves_shadow_as_it_was() -> None:
    """Section 9.5."""
    space = checked()
    area = space.vmalloc(100)
    before = space.kasan.bytes_of(area.address, 1024)
    space.machine.fail_next("slab")
    with pytest.raises(MemoryError):
        space.vrealloc(area, 50_000)
    assert space.kasan.bytes_of(area.address, 1024) == before
    space.load(area.address, 100)
    space.validate()


# -- reuse -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("full", [False, True])
def test_who_gets_the_addresses_next_has_them_to_himself(kernel: str, full: bool) -> None:
    space = checked(kernel)
    old = space.vmalloc(9000)
    old.write(0, b"old")
    start = old.address
    space.vfree(old)
    space.purge(full=full)
    new = space.vmalloc(8193)
    assert new.address == start
    space.store(start, bytes(8193))
    assert report_of(space, start + 8193).cause == "out-of-bounds"
    found = space.kasan.tracks.at(start)
    assert found is not None
    assert (found.size, found.freed) == (8193, None)
    with pytest.raises(BadAddress, match="this area was freed") as caught:
        old.read(0, 3)  # not the new owner's bytes
    assert not isinstance(caught.value, Fault)
    with pytest.raises(BadFree) as freed:
        old.free()
    assert freed.value.report.cause == "double-free"  # type: ignore[attr-defined]
    assert freed.value.report.allocation is None  # type: ignore[attr-defined]
    assert new.alive
    space.validate()


def test_a_handle_of_what_was_freed_reads_into_a_report() -> None:
    space = checked()
    area = space.vmalloc(100)
    area.free()
    with pytest.raises(Fault) as caught:
        area.read(0, 1)
    assert caught.value.kind == "kasan"
    with pytest.raises(Fault):
        area.write(5, b"x")


def test_what_was_forgotten_is_a_wild_access() -> None:
    space = checked()
    space.kasan.tracks.max_freed = 1
    first, second = space.vmalloc(UNIT), space.vmalloc(UNIT)
    first.free()
    second.free()
    assert report_of(space, second.address).cause == "use-after-free"
    assert report_of(space, first.address).cause == "wild-access"
    with pytest.raises(BadAddress, match="this area was freed"):
        first.read(0, 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_of_a_deferred_free_may_be_touched_until_the_worker_runs(kernel: str) -> None:
    space = checked(kernel)
    area = space.vmalloc(100)
    with space.in_context("hardirq"):
        space.vfree(area)
        space.load(area.address, 100)
    space.run_deferred()
    found = report_of(space, area.address)
    assert found.allocation is not None
    assert found.allocation.freed is not None
    assert found.allocation.freed.context == "hardirq"


# -- logging -----------------------------------------------------------------------------------------------------------


def test_only_the_first_report_is_printed_unless_all_are_wanted() -> None:
    """Section 9.7."""
    space = checked()
    area = space.vmalloc(5001)
    first = report_of(space, area.address + 5001)
    assert space.dmesg() == str(first).split("\n")
    second = report_of(space, area.address + 5002)
    assert (len(space.dmesg()), space.kasan.reports, space.kasan.last) == (len(str(first).split("\n")), 2, second)
    space.kasan.multi_shot = True
    third = report_of(space, area.address + 5003)
    assert space.dmesg() == [*str(first).split("\n"), *str(third).split("\n")]


@pytest.mark.parametrize("context", ["softirq", "hardirq", "nmi"])
def test_a_report_says_in_what_context_it_happened(context: str) -> None:
    space = checked()
    area = space.vmalloc(5001)
    with space.on_cpu(1), space.in_context(context):
        found = report_of(space, area.address + 5001)
    assert (found.cpu, found.context) == (1, context)
    assert f"CPU: 1 PID: {os.getpid()} Comm: python Context: {context}" in str(found)


def test_the_fault_of_a_report_can_be_pickled() -> None:
    space = checked()
    area = space.vmalloc(5001)
    with pytest.raises(Fault) as caught:
        space.load(area.address + 5000, 8)
    with pytest.raises(BadFree) as freed:
        space.vfree(area.address + 8)
    for error in (caught.value, freed.value):
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert (str(found), found.address, found.kind, found.cpu) == (str(error), error.address, "kasan", 0)
        assert found.report == error.report
        assert str(found.report) == str(error.report)


# -- what has no shadow ------------------------------------------------------------------------------------------------


def test_a_window_outside_the_range_has_no_shadow() -> None:
    """Modules have addresses of their own; vmalloc's KASAN does not know them."""
    space = checked()
    area = space.vmalloc_node_range(100, 1, 0xFFFFFFFFA0000000, 0xFFFFFFFFFF000000)
    assert not space.kasan.covers(area.address, area.address + area.vm.size)
    assert not space.kasan.present
    before = space.kasan.unchecked
    space.load(area.address + 100, 8)
    assert space.kasan.unchecked == before + 1
    space.validate()
    space.vfree(area)
    space.purge(full=True)
    space.validate()
    with pytest.raises(BadFree):
        area.free()


def test_contiguous_memory_is_not_checked() -> None:
    """The direct map: poisoning it is the page allocator's part, which is not modelled."""
    space = checked()
    area = space.kvmalloc(100)
    assert not area.is_vmalloc
    space.load(area.address, PAGE)
    area.free()
    with pytest.raises(BadFree) as caught:
        area.free()
    assert caught.value.report.cause == "double-free"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kernel", KERNELS)
def test_early_areas_have_shadow_from_the_start(kernel: str) -> None:
    start = ARCHITECTURES["x86_64"].vmalloc_start
    space = checked(kernel, early=[(start, start + 3 * PAGE), (start + 2 * UNIT, start + 3 * UNIT)])
    assert len(space.kasan.present) == 2
    assert runs(space, start, 4 * PAGE) == [(0, 3 * 512), (0xF8, 512)]
    found = space.kasan.tracks.live_at(start + PAGE)
    assert found is not None
    assert (found.start, found.size) == (start, 3 * PAGE)
    space.validate()
    area = space.vmalloc(5001)
    assert area.address == start + 3 * PAGE
    space.validate()
    space.trim()
    assert len(space.kasan.present) == 2


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_trim_and_close_give_the_shadow_back(kernel: str) -> None:
    space = checked(kernel)
    used = space.stats()["frames_used"]
    kept = space.vmalloc(5001)
    for size in (100, UNIT, 9 * UNIT + 5, 3 * PAGE):
        space.vfree(space.vmalloc(size))
    space.trim()
    assert len(space.kasan.present) == 1
    assert shadow_mappings(space) == set(space.kasan.present)
    space.load(kept.address, 5001)
    space.validate()
    space.close()
    assert (len(space.kasan.present), space.kasan.released) == (0, space.kasan.populated)
    space.state.validate()
    numbers = space.machine.frames.stats()
    tables = space.machine.page_table.table_bytes // PAGE
    assert sum(node.used for node in numbers) - tables <= used


def test_the_counters_say_what_it_costs() -> None:
    space = checked("6.12")
    names = [name for name in space.stats() if name.startswith("kasan_")]
    area = space.vmalloc(3 * UNIT)
    with pytest.raises(Fault):
        space.load(area.address + 3 * UNIT, 1)
    area.free()
    space.purge()
    found = {name: space.stats()[name] for name in names}
    assert found == {
        "kasan_shadow_pages": 1, "kasan_shadow_pages_peak": 4, "kasan_shadow_bytes": PAGE, "kasan_populated": 4,
        "kasan_released": 3, "kasan_shadow_flushes": 1, "kasan_checks": 1, "kasan_unchecked": 0,
        "kasan_quarantined": 1, "kasan_reports": 1,
    }  # fmt: skip
    assert names == [name for name in space.stats() if name.startswith("kasan_")]
