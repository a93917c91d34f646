"""The life of an area after it was freed: lazy, purged, pooled, free again (section 4), on a whole space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from space.rig import ARCHES, KERNELS, settle, validate
from vmalloc.errors import OutOfAddresses
from vmalloc.flags import GFP_ATOMIC
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.machine.wrappers.counting import CountingMachine
from vmalloc.space.area import Area
from vmalloc.space.simulated import SimulatedSpace, simulated

P = 4096


def counted(kernel: str = "6.19", cpus: int = 1, observer: Any = None) -> tuple[SimulatedSpace, CountingMachine]:
    """A space whose flushes are counted, with their hulls."""
    machine = CountingMachine(
        FailingMachine(SimulatedMachine(ARCHITECTURES["x86_64"], PROFILES[kernel], cpus=cpus, nodes=(1 << 14,)))
    )
    return SimulatedSpace(machine, PROFILES[kernel], (), observer), machine


def state_of(space: SimulatedSpace, address: int) -> str:
    """``busy``, ``lazy``, ``pooled`` or ``free``."""
    known = [*space.state.space.busy(), *space.state.space.lazy(), *space.state.space.pooled()]
    return next((area.state for area in known if area.start <= address < area.end), "free")


def starts(areas: list[Any]) -> list[int]:
    return [area.start for area in areas]


class Events:
    """Keeps what the kernel would trace."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, /, **fields: Any) -> None:
        self.seen.append((event, fields))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in self.seen if event == name]


# -- the circle (section 4.1) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("cpus", [1, 4])
def test_an_area_goes_round(cpus: int, kernel: str) -> None:
    """Section 4.1: busy, lazy, then a pool (several nodes) or the free tree, and busy again."""
    space = simulated("x86_64", kernel, cpus=cpus, memory="16MiB")
    area = space.vmalloc(3 * P)
    address, frames = area.address, list(area.pages)
    assert state_of(space, address) == "busy"
    area.free()
    assert state_of(space, address) == "lazy"
    assert space.stats()["lazy_pages"] == 4  # the guard page counts
    assert space.vmalloc_to_pfn(address) is None  # unmapped at once
    assert all(space.machine.why_not(pfn, 0) for pfn in frames)  # and the frames are given back at once
    assert space.stats()["pages"] == 0
    space.purge()
    pools = kernel != "6.1" and cpus > 1
    assert state_of(space, address) == ("pooled" if pools else "free")
    assert space.stats()["lazy_pages"] == 0
    again = space.vmalloc(3 * P)
    assert again.address == address
    assert space.stats()["pool_hits"] == int(pools)
    again.free()
    space.purge(full=True)
    assert state_of(space, address) == "free"
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_lazy_hole_is_not_reused(kernel: str) -> None:
    """Appendix A.1: first fit goes behind it until the purge."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    base = space.state.vmalloc_start
    areas = [space.vmalloc(nr_pages * P) for nr_pages in (2, 1, 3)]
    assert [area.address - base for area in areas] == [0, 0x3000, 0x5000]
    areas[1].free()
    behind = space.vmalloc(P)
    assert behind.address - base == 0x9000
    assert (space.purge().start - base, space.purge().count) == (0x3000, 0)
    assert space.vmalloc(P).address - base == 0x3000


def test_6_1_merges_lazy_neighbours_and_6_12_does_not() -> None:
    """Appendix A.16 and section 1.4."""
    for kernel, expected in (("6.1", [(0, 0x4000)]), ("6.12", [(0, 0x2000), (0x2000, 0x4000)])):
        space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
        first, second = space.vmalloc(P), space.vmalloc(P)
        base = first.address
        first.free()
        second.free()
        assert [(area.start - base, area.end - base) for area in space.state.space.lazy()] == expected


# -- the threshold (section 4.3) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cpus", "limit"), [(1, 8192), (2, 16384), (3, 16384), (4, 24576), (8, 32768), (16, 40960)])
def test_the_threshold_goes_by_the_cpus(cpus: int, limit: int) -> None:
    """Section 4.3."""
    assert simulated("x86_64", cpus=cpus, memory="16MiB").stats()["lazy_max_pages"] == limit


def test_the_threshold_is_in_bytes() -> None:
    """Section 4.3: 32 MiB / P."""
    assert simulated("arm64_64k", cpus=1, memory="64MiB").stats()["lazy_max_pages"] == 512


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_threshold_is_strict_and_there_is_no_timer(kernel: str) -> None:
    """Section 4.3 and Appendix A.7: 8192 lazy pages of one CPU do not trigger, 8193 do."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    halves = [space.get_vm_area(4095 * P) for _ in range(2)]
    one = space.get_vm_area(P)
    for area in halves:
        area.free()
    assert space.stats()["lazy_pages"] == 8192
    assert space.run_deferred() == 0
    assert space.stats()["lazy_pages"] == 8192
    with pytest.raises(OutOfAddresses):
        # Even a call that looks for addresses leaves them alone, but for one that runs out.
        space.vmalloc_node_range(P, 1, halves[0].address, halves[0].address + P)
    assert space.stats()["lazy_pages"] == 0
    one.free()
    assert space.stats()["lazy_pages"] == 2
    assert space.run_deferred() == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_above_the_threshold_one_drain_is_queued(kernel: str) -> None:
    """Section 4.2 step 7: the single work item, no effect while it is queued; it purges everything lazy."""
    space, machine = counted(kernel)
    areas = [space.get_vm_area(2047 * P) for _ in range(4)] + [space.get_vm_area(P) for _ in range(3)]
    for area in areas[:4]:
        area.free()
    assert not machine.has_deferred()
    areas[4].free()
    assert space.stats()["lazy_pages"] == 8194
    assert len(machine.queue) == 1
    with space.in_context("softirq"):
        space.machine.defer(lambda: None, 0)
    assert len(machine.queue) == 2
    assert space.run_deferred() == 2
    assert space.stats()["lazy_pages"] == 0
    assert machine.counts["flush"] == 1
    assert machine.flush_hulls[0] == (areas[0].address, areas[4].vm.end)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_drain_that_was_queued_runs_before_the_next_allocation(kernel: str) -> None:
    space, machine = counted(kernel)
    area = space.get_vm_area(8192 * P)
    area.free()
    assert machine.counts["flush"] == 0
    space.find_vm_area(area.address)
    assert machine.counts["flush"] == 0  # a look does not let workers run
    space.vmalloc(P).free()
    assert machine.counts["flush"] == 1


def test_up_to_6_8_the_drain_repeats_until_below_the_threshold() -> None:
    """Section 4.4: [6.1] repeats while lazy pages exceed the limit; later one pass.

    What arrives while the drain runs: a flush takes long, and another CPU frees meanwhile.
    """
    for kernel, passes in (("6.1", 2), ("6.12", 1), ("6.19", 1)):
        late: list[Callable[[], None]] = []
        events = Events()

        def observe(event: str, /, late: Any = late, events: Any = events, **fields: Any) -> None:
            events(event, **fields)
            if event == "purge_vmap_area_lazy" and late:
                late.pop()()

        space, machine = counted(kernel, observer=observe)
        first, second = space.get_vm_area(8192 * P), space.get_vm_area(8192 * P)
        vm = second.vm
        second.owner = False

        def free_another(space: Any = space, vm: Any = vm) -> None:
            allocator = space.state.allocator
            assert allocator.free_lazily(vm.addr) == 0
            del space.state.areas[vm.addr]

        late.append(free_another)
        first.free()
        assert space.run_deferred() == 1
        assert len(events.of("purge_vmap_area_lazy")) == passes, kernel
        assert machine.counts["flush"] == passes
        assert (space.stats()["lazy_pages"] == 0) is (kernel == "6.1")


# -- one flush per purge (section 4.9) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_purge_owes_one_flush_of_the_hull(kernel: str) -> None:
    """Section 4.9: exactly one flush for everything, over all nodes."""
    events = Events()
    space, machine = counted(kernel, cpus=4, observer=events)
    areas = []
    for i in range(60):
        with space.on_cpu(i % 4):
            areas.append(space.vmalloc((1 + i % 5) * P))
    gone = areas[7:50:3]
    for i, area in enumerate(gone):
        with space.on_cpu((i + 1) % 4):
            area.free()
    purged = space.purge()
    hull = (gone[0].address, gone[-1].vm.end)
    assert list(machine.flush_hulls) == [hull]
    assert (purged.start, purged.end) == hull
    assert purged.count == len(gone)
    assert events.of("purge_vmap_area_lazy") == [{"start": hull[0], "end": hull[1], "num_purged": len(gone)}]
    space.purge()  # nothing is lazy: the event, and no flush
    assert machine.counts["flush"] == 1
    assert events.of("purge_vmap_area_lazy")[1] == {"start": (1 << 64) - 1, "end": 0, "num_purged": 0}
    validate(space)


@pytest.mark.parametrize("arch", ARCHES)
def test_each_free_says_how_many_pages_are_lazy(arch: str) -> None:
    """Section 4.2 step 6: the trace event; the guard page is in the number."""
    events = Events()
    space = simulated(arch, cpus=2, memory="32MiB", observer=events)
    areas = [space.vmalloc(n * space.state.page_size) for n in (1, 4)]
    for area in areas:
        area.free()
    limit = space.stats()["lazy_max_pages"]
    assert events.of("free_vmap_area_noflush") == [
        {"va_start": areas[0].address, "nr_lazy": 2, "nr_lazy_max": limit},
        {"va_start": areas[1].address, "nr_lazy": 7, "nr_lazy_max": limit},
    ]


def test_lazy_areas_are_by_the_cpu_that_allocated() -> None:
    """Sections 4.2 step 5 and 4.7, Appendix A.8: not by the one that frees, nor by the address."""
    space = simulated("x86_64", "6.19", cpus=4, memory="16MiB")
    areas = []
    for cpu in (0, 0, 1, 1):
        with space.on_cpu(cpu):
            areas.append(space.vmalloc(P))
    addresses = [area.address for area in areas]
    with space.on_cpu(3):
        for area in (areas[0], areas[1], areas[3]):
            area.free()
    assert [(lazy.start, lazy.node) for lazy in space.state.space.lazy()] == [
        (addresses[0], 0), (addresses[1], 0), (addresses[3], 1),
    ]  # fmt: skip
    space.purge()
    assert [(area.start, area.node) for area in space.state.space.pooled()] == [
        (addresses[1], 0), (addresses[0], 0), (addresses[3], 1),
    ]  # fmt: skip
    got = {}
    for cpu in (2, 0, 1, 0):
        with space.on_cpu(cpu):
            area = space.vmalloc(P)
        area.detach()
        got.setdefault(cpu, []).append(area.address)
    assert got[0] == [addresses[1], addresses[0]]  # the highest first
    assert got[1] == [addresses[3]]
    assert got[2][0] not in addresses


# -- pools (section 4.8) -----------------------------------------------------------------------------------------------


def pool_of(space: SimulatedSpace, nr_pages: int, count: int) -> list[int]:
    """Fills the pool of CPU 0 with areas of so many data pages; their addresses, the next to be reused first."""
    areas = [space.vmalloc(nr_pages * P) for _ in range(count)]
    addresses = [area.address for area in areas]
    for area in areas:
        area.free()
    space.purge()
    return addresses[::-1]


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_pools_are_last_in_first_out_by_exact_size(kernel: str) -> None:
    """Section 4.8: a different size never uses another class."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    addresses = pool_of(space, 1, 3)
    other = space.vmalloc(2 * P)
    assert other.address not in addresses
    kept = [space.vmalloc(P) for _ in range(4)]
    assert [area.address for area in kept[:3]] == addresses
    assert kept[3].address not in addresses
    assert space.stats()["pool_hits"] == 3


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
@pytest.mark.parametrize(("nr_pages", "pooled"), [(255, True), (256, False)])
def test_the_largest_pooled_vmalloc_has_255_pages(kernel: str, nr_pages: int, pooled: bool) -> None:
    """Section 4.8: 256 pages with the guard."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    space.vmalloc(nr_pages * P).free()
    space.purge()
    assert bool(space.stats()["pooled_areas"]) is pooled


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_one_node_never_pools(kernel: str) -> None:
    """Section 4.5: with one node the pools are never used."""
    for arch, cpus in (("x86_64", 1), ("x86_32_pae", 4), ("arm32", 4)):
        space = simulated(arch, kernel, cpus=cpus, memory="16MiB")
        space.vmalloc(P).free()
        space.purge()
        assert space.stats()["pooled_areas"] == 0


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_a_misaligned_head_is_turned_away(kernel: str) -> None:
    """Section 4.8 and Appendix A.9: moved to the tail, and a global allocation, although others would do."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    addresses = pool_of(space, 1, 4)
    assert [address % 0x4000 for address in addresses] == [0x2000, 0, 0x2000, 0]
    aligned = space.vmalloc_node(P, None, align=0x4000)
    assert aligned.address not in addresses
    assert aligned.address % 0x4000 == 0
    assert starts(space.state.space.pooled()) == [*addresses[1:], addresses[0]]


@pytest.mark.parametrize(("kernel", "left"), [("6.19", [7, 6, 5, 4, 3, 3, 3]), ("6.12", [7, 6, 5, 4, 3, 0, 0])])
def test_pools_decay_by_a_quarter(kernel: str, left: list[int]) -> None:
    """Section 4.9 and Appendix A.13: from the head; 6.12 empties a pool of fewer than four, later kernels never do."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    addresses = pool_of(space, 1, 9)
    found = []
    for _ in left:
        space.purge()
        pooled = starts(space.state.space.pooled())
        assert pooled == addresses[len(addresses) - len(pooled) :]
        found.append(len(pooled))
    assert found == left
    validate(space)


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_the_shrinker_empties_pools_and_leaves_lazy_areas(kernel: str) -> None:
    """Sections 4.4 and 4.10."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    kept = space.vmalloc(P)
    pool_of(space, 1, 5)
    kept.free()
    assert space.shrink() == 5
    assert space.stats()["pooled_areas"] == 0
    assert space.stats()["lazy_areas"] == 1
    settle(space)
    free = [(area.start, area.end) for area in space.state.space.free_blocks()]
    assert free == [(1, (1 << 64) - 1)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_areas_of_a_window_are_never_pooled(kernel: str) -> None:
    """Section 4.7: the node is only recorded for requests for exactly the whole range."""
    space = simulated("x86_64", kernel, cpus=4, memory="16MiB")
    start, end = space.state.vmalloc_start, space.state.vmalloc_end
    space.vmalloc_node_range(P, 1, start, end - P).free()
    space.purge()
    assert space.stats()["pooled_areas"] == 0
    space.vmalloc_node_range(P, 1, start, end).free()
    space.purge()
    assert space.stats()["pooled_areas"] == (0 if kernel == "6.1" else 1)


# -- aliases, reclaim, overflow (sections 4.9, 4.10 and 1.10) ----------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_unmap_aliases_purges_what_is_lazy_and_says_what_it_flushed(kernel: str) -> None:
    """Section 4.9: partial decay; without anything lazy nothing is flushed."""
    space, machine = counted(kernel, cpus=2)
    assert space.vm_unmap_aliases() is None
    assert machine.counts["flush"] == 0
    area = space.vmalloc(P)
    hull = (area.address, area.vm.end)
    area.free()
    assert space.vm_unmap_aliases() == hull
    assert list(machine.flush_hulls) == [hull]
    assert space.stats()["lazy_pages"] == 0
    assert space.stats()["pooled_areas"] == (0 if kernel == "6.1" else 1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_permission_reset_flushes_the_direct_map_with_everything_lazy(kernel: str) -> None:
    """Section 4.11: one flush whose hull covers the lazy areas and the permanent addresses of the frames."""
    space, machine = counted(kernel)
    older, area = space.vmalloc(P), space.vmalloc(2 * P)
    space.set_vm_flush_reset_perms(area)
    start = machine.info.direct_map_start
    permanent = [start + pfn * P for pfn in area.pages]
    lazy = older.address, area.vm.end
    older.free()
    area.free()
    assert machine.counts["flush"] == 1
    assert machine.flush_hulls[0] == (min(*permanent, lazy[0]), max(max(permanent) + P, lazy[1]))
    assert machine.counts["set_direct_map"] == 2  # invalid, and back to normal
    assert not machine.invalid_direct
    assert space.stats()["lazy_pages"] == 0
    assert space.load(permanent[0], 1)
    validate(space)


def window_of(space: SimulatedSpace, nr_pages: int) -> tuple[int, int]:
    start = space.state.vmalloc_start + (1 << 30)
    return start, start + nr_pages * P


def fill(space: SimulatedSpace, window: tuple[int, int]) -> list[Area]:
    """Areas of one data page side by side until the window is full."""
    areas = []
    for _ in range((window[1] - window[0]) // (2 * P)):
        areas.append(space.vmalloc_node_range(P, 1, *window))
    return areas


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_overflow_purges_once_and_tries_again(kernel: str) -> None:
    """Section 1.10 step 11 and Appendix A.14: one flush of the hull; then it fits."""
    events = Events()
    space, machine = counted(kernel, observer=events)
    window = window_of(space, 16)
    areas = fill(space, window)
    for i in (1, 2, 4):
        areas[i].free()
    events.seen.clear()
    area = space.vmalloc_node_range(3 * P, 1, *window)
    assert area.address == areas[1].address
    assert list(machine.flush_hulls) == [(areas[1].address, areas[4].vm.end)]
    order = [event for event, _ in events.seen]
    assert order == ["alloc_vmap_area", "purge_vmap_area_lazy", "alloc_vmap_area"]
    failed, tried = events.of("alloc_vmap_area")
    assert (failed["failed"], tried["failed"]) == (1, 0)
    assert failed["va_start"] == ((1 << 64) - 34 if kernel == "6.19" else window[1])  # -ERANGE, or the window's end
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_notifiers_are_asked_after_the_purge_and_then_it_begins_again(kernel: str) -> None:
    """Sections 1.10 and 4.10: what a callee freed is lazy, so the purge comes again on the next failure."""
    events = Events()
    space, machine = counted(kernel, observer=events)
    window = window_of(space, 16)
    areas = fill(space, window)
    asked = []

    def give_one() -> int:
        asked.append(len(events.of("purge_vmap_area_lazy")))
        if len(asked) > 2:
            return 0
        areas[len(asked)].free()  # calls the space again: the lock is not held
        return 1

    unregister = space.register_purge_notifier(give_one)
    area = space.vmalloc_node_range(P, 1, *window)
    assert area.address == areas[1].address
    assert asked == [1]
    other = space.vmalloc_node_range(P, 1, *window)
    assert other.address == areas[2].address
    assert len(asked) == 2
    with pytest.raises(OutOfAddresses) as caught:
        space.vmalloc_node_range(P, 1, *window)
    assert len(asked) == 3
    assert "failed" in caught.value.__notes__[0]
    unregister()
    with pytest.raises(OutOfAddresses):
        space.vmalloc_node_range(P, 1, *window)
    assert len(asked) == 3
    assert machine.counts["flush"] == 2
    settle(space)
    validate(space)


def test_who_must_not_wait_gets_one_attempt() -> None:
    """Sections 1.10 step 7 and 2.1 (6.19): no purge, no notifier; the lazy areas stay."""
    space, machine = counted("6.19")
    window = window_of(space, 16)
    areas = fill(space, window)
    areas[0].free()
    asked: list[int] = []
    space.register_purge_notifier(lambda: asked.append(1) or 1)
    with pytest.raises(OutOfAddresses, match="must not wait"):
        space.vmalloc_node_range(P, 1, *window, gfp=GFP_ATOMIC)
    assert machine.counts["flush"] == 0
    assert not asked
    assert space.stats()["lazy_areas"] == 1
    space.vmalloc_node_range(P, 1, *window).free()
    assert machine.counts["flush"] == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_overflow_empties_the_pools(kernel: str) -> None:
    """Section 4.4: overflow: emptied completely, and nothing goes to a pool."""
    space = simulated("x86_64", kernel, cpus=2, memory="16MiB")
    pool_of(space, 1, 5)
    space.vmalloc(P).free()
    window = window_of(space, 2)
    full = space.vmalloc_node_range(P, 1, *window)
    with pytest.raises(OutOfAddresses):
        space.vmalloc_node_range(P, 1, *window)
    assert space.stats()["pooled_areas"] == space.stats()["lazy_areas"] == 0
    full.free()


def test_debug_pagealloc_flushes_each_range_as_it_is_freed() -> None:
    """Section 4.2 step 2: the range, guard included; lazy book-keeping unchanged."""
    space, machine = counted()
    space.state.debug_pagealloc = True
    area = space.vmalloc(2 * P)
    hull = (area.address, area.vm.end)
    area.free()
    assert list(machine.flush_hulls) == [hull]
    assert space.stats()["lazy_pages"] == 3
    space.purge()
    assert list(machine.flush_hulls) == [hull, hull]


@pytest.mark.parametrize("kernel", KERNELS)
def test_unmapping_never_frees_tables(kernel: str) -> None:
    """Section 8.6: they only grow; ``trim``, which no kernel has, gives them back."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    before = space.stats()["page_table_bytes"]
    area = space.vmalloc(600 * P)
    grown = space.stats()["page_table_bytes"]
    assert grown > before
    area.free()
    settle(space)
    assert space.stats()["page_table_bytes"] == grown
    assert space.trim() > 0
    assert space.stats()["page_table_bytes"] == before
    validate(space)
