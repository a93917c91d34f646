"""Who gives blocks back, and who flushes parts of them (sections 4.4, 4.9, 4.11 and 5.6)."""

from __future__ import annotations

import pytest

from calls.ram import BLOCK, MAPPED, Watched
from calls.watch import KERNELS, PAGE
from vmalloc.errors import BadContext, Fault, OutOfAddresses
from vmalloc.flags import VM_FLUSH_RESET_PERMS

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
since_612 = pytest.mark.parametrize("kernel", KERNELS[1:])


def use_up(w: Watched, cpu: int = 0) -> list[int]:
    """A block whose every page is handed out, in sixteen pieces."""
    return [w.map(64, cpu) for _ in range(16)]


def starts(w: Watched) -> list[int]:
    blocks = w.space.state.blocks
    return sorted(blocks.get(b)["va_start"] for b in blocks.indexed())


# -- vm_unmap_aliases since 6.5 ----------------------------------------------------------------------------------------


@since_612
def test_dirty_ranges_of_all_cpus_are_one_hull_and_flushed_once(kernel: str) -> None:
    """Section 4.9 step 1: joined over all blocks, full ones included, and empty from then on."""
    w = Watched(kernel, cpus=3)
    full = use_up(w, cpu=2)
    first, second = w.map(8, cpu=0), w.map(4, cpu=1)
    w.unmap(full[3], 64, cpu=2)
    w.unmap(second, 4, cpu=0)
    hull = (full[3], second + 4 * PAGE)
    assert w.space.vm_unmap_aliases() == hull
    assert w.flushes() == [hull]
    assert [w.block(start)[2] for start in starts(w)] == [None] * 3
    assert w.space.vm_unmap_aliases() is None
    assert w.flushes() == []
    w.unmap(first, 8, cpu=1)
    assert w.space.vm_unmap_aliases() == (first, first + 8 * PAGE)
    w.space.validate()


@since_612
def test_lazy_areas_and_dirty_ranges_share_a_flush(kernel: str) -> None:
    """Section 4.9 step 3: the purge's hull begins as that of the dirty ranges."""
    w = Watched(kernel)
    address, area = w.map(2), w.space.vmalloc(PAGE)
    w.unmap(address, 2)
    area.free()
    w.events()
    hull = (address, area.vm.end)
    assert w.space.vm_unmap_aliases() == hull
    assert w.flushes() == [hull]
    assert w.events() == [("purge_vmap_area_lazy", {"start": hull[0], "end": hull[1], "num_purged": 1})]


@since_612
@pytest.mark.parametrize(("handed_out", "goes"), [(768, False), (769, True)])
def test_an_idle_block_goes_when_less_than_a_quarter_is_free(kernel: str, handed_out: int, goes: bool) -> None:
    """Section 5.6, the second row: free < VMAP_PURGE_THRESHOLD."""
    w = Watched(kernel, cpus=1)
    pieces = [(w.map(64), 64) for _ in range(12)]
    if handed_out > 768:
        pieces.append((w.map(1), 1))
    for address, count in pieces[:-1]:
        w.unmap(address, count)
    w.space.vm_unmap_aliases()
    assert starts(w) == [MAPPED]  # something is live
    w.unmap(*pieces[-1])
    w.space.vm_unmap_aliases()
    assert starts(w) == ([] if goes else [MAPPED])
    w.space.validate()


@since_612
def test_blocks_are_given_back_in_the_order_of_the_index(kernel: str) -> None:
    """Sections 4.9 and 5.3: slot by slot, which is seen in the order in which they become lazy."""
    w = Watched(kernel, cpus=3)
    made = [[w.map(64, cpu) for _ in range(13)] for cpu in range(3)]
    for pieces in made:
        for address in pieces:
            w.unmap(address, 64)
    w.events()
    assert w.space.vm_unmap_aliases() == (MAPPED, MAPPED + 3 * BLOCK)
    lazy = [fields["va_start"] for event, fields in w.events() if event == "free_vmap_area_noflush"]
    assert [start // BLOCK % 3 for start in lazy] == [0, 1, 2]
    assert lazy == [MAPPED + 2 * BLOCK, MAPPED, MAPPED + BLOCK]
    w.space.validate()


# -- and in 6.1 --------------------------------------------------------------------------------------------------------


def test_6_1_misses_full_blocks_and_flushes_the_same_range_again() -> None:
    """Sections 4.9, 12 and 13: only the free lists are scanned, and dirty ranges are not reset."""
    w = Watched("6.1", cpus=1)
    full = use_up(w)
    address = w.map(4)
    w.space.store(full[0], b"x")
    w.unmap(full[0], 64)
    assert w.space.vm_unmap_aliases() is None
    with pytest.raises(Fault) as caught:
        w.space.load(full[0], 1)
    assert caught.value.kind == "stale_tlb"  # the fault of those kernels
    w.map(1)
    w.unmap(address, 4)
    for _ in range(2):
        assert w.space.vm_unmap_aliases() == (address, address + 4 * PAGE)
    assert w.flushes() == [(address, address + 4 * PAGE)] * 2
    w.space.validate()


def test_6_1_gives_back_every_idle_block_first() -> None:
    """Section 5.6, the third row: forced, on all CPUs, however much is free."""
    w = Watched("6.1", cpus=3)
    pieces = [w.map(1, cpu) for cpu in range(3)]
    for cpu in (2, 0):
        w.unmap(pieces[cpu], 1, cpu=1)
    w.events()
    assert w.space.vm_unmap_aliases() == (MAPPED, MAPPED + 3 * BLOCK)
    assert starts(w) == [pieces[1]]
    assert [fields["va_start"] for event, fields in w.events() if "free" in event] == [pieces[0], pieces[2]]


# -- overflow, full purges, permissions --------------------------------------------------------------------------------


@every_kernel
def test_who_takes_idle_blocks(kernel: str) -> None:
    """Section 4.4, the table: a plain purge and the shrinker do not, a full purge and trimming take all."""
    for take, left in (("purge", 1), ("shrink", 1), ("full", 0), ("trim", 0)):
        w = Watched(kernel, cpus=1)
        w.unmap(w.map(1), 1)
        {
            "purge": w.space.purge,
            "shrink": w.space.shrink,
            "full": lambda w=w: w.space.purge(full=True),
            "trim": w.space.trim,
        }[take]()
        assert w.space.stats()["ram_blocks"] == left, take
        w.space.validate()


@every_kernel
def test_an_overflow_takes_idle_blocks_queue_by_queue(kernel: str) -> None:
    """Section 5.6, the first row: no threshold; a block with a live page stays, and so does what is free in it."""
    w = Watched(kernel, cpus=4)
    pieces = [w.map(2, cpu) for cpu in (3, 1, 0, 2)]
    for address in (pieces[0], pieces[1], pieces[3]):
        w.unmap(address, 2)
    held = [w.space.get_vm_area((16 - 4) * BLOCK - 2 * PAGE)]
    w.events()
    held.append(w.space.get_vm_area(2 * BLOCK - PAGE))
    assert held[1].address == MAPPED
    assert [fields["va_start"] for event, fields in w.events() if "free" in event] == [
        pieces[1], pieces[3], pieces[0],
    ]  # fmt: skip
    assert starts(w) == [pieces[2]]
    w.space.validate()


@every_kernel
def test_per_cpu_areas_take_idle_blocks_when_they_find_no_base(kernel: str) -> None:
    """Sections 4.4 and 7.1: purge once, with the blocks, and try again; then fail."""
    w = Watched(kernel, cpus=1)
    w.unmap(w.map(1), 1)
    held = w.space.get_vm_area(15 * BLOCK - PAGE)
    w.events()
    areas = w.space.pcpu_get_vm_areas([0, BLOCK // 2], [BLOCK // 4, BLOCK // 4], BLOCK // 4)
    assert [area.address for area in areas] == [MAPPED + BLOCK // 4, MAPPED + 3 * BLOCK // 4]
    assert [event for event, _fields in w.events()] == ["free_vmap_area_noflush", "purge_vmap_area_lazy"]
    with pytest.raises(OutOfAddresses, match="even after a purge"):
        w.space.pcpu_get_vm_areas([0], [BLOCK], BLOCK)
    assert [event for event, _fields in w.events()] == ["purge_vmap_area_lazy"]
    assert held.alive
    w.space.validate()


@since_612
def test_resetting_permissions_flushes_dirty_ranges_too(kernel: str) -> None:
    """Section 4.11: as vm_unmap_aliases, with the direct map of the frames in the hull."""
    w = Watched(kernel)
    address, area = w.map(3), w.space.vmalloc(PAGE)
    w.space.set_vm_flush_reset_perms(area)
    assert area.flags & VM_FLUSH_RESET_PERMS
    first = w.space.machine.info.direct_map_start + (area.pages[0] << 12)
    w.unmap(address, 3)
    area.free()
    assert w.flushes() == [(address, first + PAGE)]
    assert w.block(MAPPED)[2] is None


@every_kernel
def test_aliases_are_not_unmapped_in_an_interrupt(kernel: str) -> None:
    w = Watched(kernel)
    with w.space.in_context("softirq"), pytest.raises(BadContext):
        w.space.vm_unmap_aliases()
