"""Programs that nobody should write, and that must not break anything."""

from __future__ import annotations

import dataclasses

import pytest

from vmalloc.errors import BadAddress, BadFree, BadRequest, BadSize, OutOfAddresses, VmallocError
from vmalloc.flags import VM_ALLOC, VM_UNINITIALIZED
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import SimulatedSpace, simulated

PAGE = 4096
pytestmark = pytest.mark.both_builds


def test_reserved_areas_without_guard_pages_are_sound_with_kasan() -> None:
    space = simulated(kasan=True, policy=["guard=off"])
    areas = [space.get_vm_area(PAGE, flags) for flags in (VM_ALLOC, 0, VM_UNINITIALIZED, VM_ALLOC | VM_UNINITIALIZED)]
    areas += space.pcpu_get_vm_areas([0], [2 * PAGE], PAGE)
    space.validate()
    del areas


@pytest.mark.parametrize("name", ["x86_64", "arm64_4k"])
def test_a_shadow_in_the_direct_map_is_refused(name: str) -> None:
    arch = ARCHITECTURES[name]
    offset = (arch.direct_map_start - (arch.vmalloc_start >> 3)) % 2**64
    with pytest.raises(BadRequest, match=r"KASAN: the shadow 0x.* lies in the direct map"):
        simulated(dataclasses.replace(arch, kasan_shadow_offset=offset), kasan=True, memory="64MiB")


def test_memory_that_goes_with_its_area_is_not_unmapped_piece_by_piece() -> None:
    space = simulated(percpu={"first_chunk": "page"})
    area, kept = space.vmalloc(2 * PAGE), space.alloc_percpu(64)
    chunk = kept.address(0) & -PAGE
    for start in (area.address, chunk):
        with pytest.raises(BadAddress):
            space.vunmap_range(start, start + PAGE)
        with pytest.raises(BadAddress):
            space.vmap_pages_range(start, start + PAGE, space.alloc_pages(1))
    assert kept.read(0, 0, 8) == bytes(8)
    space.validate()


def full(space: SimulatedSpace) -> list[object]:
    """Takes every address of a space."""
    taken: list[object] = []
    try:
        while True:
            taken.append(space.get_vm_area(1 << 20))
    except OutOfAddresses:
        return taken


def test_a_notifier_that_frees_the_area_that_is_being_resized() -> None:
    space = simulated("x86_32", memory="256MiB", cpus=1)
    area = space.vmalloc(PAGE)
    taken = full(space)

    def notifier() -> int:
        if not area.alive:
            return 0
        space.vfree(area)
        taken.clear()
        return 1

    space.register_purge_notifier(notifier)
    with pytest.raises(BadAddress, match="freed while the call asked for addresses"):
        space.vrealloc(area, 3 << 20)
    assert space.stats()["areas"] == 0
    space.validate()


def test_a_notifier_that_closes_the_space() -> None:
    space = simulated("x86_32", memory="256MiB", cpus=1)
    taken = full(space)
    space.register_purge_notifier(lambda: space.close() or 1)  # type: ignore[func-returns-value]
    with pytest.raises(BadRequest, match="closed while it asked"):
        space.vmalloc(3 << 20)
    assert not space.state.areas
    del taken


@pytest.mark.parametrize("kasan", [False, True])
@pytest.mark.parametrize("size", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_a_load_that_no_process_could_hold(size: int, kasan: bool) -> None:
    space = simulated(kasan=kasan)
    area = space.vmalloc(PAGE)
    with pytest.raises((BadSize, BadAddress) if not kasan else VmallocError):
        space.load(area.address, size)


def test_each_way_to_free_twice_is_reported() -> None:
    space = simulated(kasan=True)
    address = space.vm_map_ram(space.alloc_pages(2))
    space.vm_unmap_ram(address, 2)
    with pytest.raises(BadFree) as caught:
        space.vm_unmap_ram(address, 2)
    assert caught.value.report.cause == "double-free"
    area = space.vmalloc(PAGE)
    area.free()
    for free in (space.kvfree_rcu, space.kvfree_rcu_mightsleep):
        with pytest.raises(BadFree) as caught:
            free(area)
        assert caught.value.report.cause == "double-free"
    assert hash(caught.value.report) == hash(caught.value.report)


def test_mappings_that_close_takes_away_are_quarantined() -> None:
    space = simulated(kasan=True)
    space.vm_map_ram(space.alloc_pages(2))
    space.vm_map_ram(space.alloc_pages(100))
    space.close()
    assert not space.kasan.tracks.live
