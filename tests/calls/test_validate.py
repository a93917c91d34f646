"""The validator of areas against addresses and memory finds each structure that is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from space.rig import KERNELS
from vmalloc.calls.validate import validate_areas, validate_shadow
from vmalloc.errors import ValidationError
from vmalloc.flags import VM_SPARSE, VM_UNINITIALIZED
from vmalloc.pages import Pages
from vmalloc.space.area import Area
from vmalloc.space.simulated import SimulatedSpace, simulated

P = 4096


def populated(kernel: str = "6.19") -> tuple[SimulatedSpace, list[Area]]:
    """A space with one area of each kind, a lazy range and a pooled one."""
    space = simulated("x86_64", kernel, cpus=2, memory="32MiB")
    gone = [space.vmalloc(P), space.vmalloc(2 * P)]
    gone[0].free()
    space.purge()
    gone[1].free()
    frames = space.alloc_pages(3)
    areas = [
        space.vmalloc(3 * P),
        space.vmalloc(600 * P),
        space.vmalloc_huge(2 << 20),
        space.vmap(frames),
        space.vmap(frames),
        space.vmap(space.alloc_pages(2), put_pages=True),
        space.get_vm_area(4 * P),
        space.ioremap(1 << 40, 3 * P),
        *space.pcpu_get_vm_areas([0, 0x40000], [0x8000, 0x8000], 0x8000),
    ]
    if space.state.kernel.has_sparse:
        sparse = space.get_vm_area(8 * P, VM_SPARSE)
        space.vm_area_map_pages(sparse, sparse.address + P, sparse.address + 3 * P, space.alloc_pages(2))
        areas.append(sparse)
    return space, areas


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_space_that_is_well_passes(kernel: str) -> None:
    space, _areas = populated(kernel)
    space.validate()
    validate_areas(space.state)


def wrong_place(space: SimulatedSpace, area: Area) -> None:
    space.state.areas[area.address + P] = space.state.areas.pop(area.address)


def dead(space: SimulatedSpace, area: Area) -> None:
    area.vm.live = False


def not_busy(space: SimulatedSpace, area: Area) -> None:
    space.machine.unmap(area.address, area.end)
    space.state.allocator.free_lazily(area.address)


def wrong_size(space: SimulatedSpace, area: Area) -> None:
    area.vm.size += P


def wrong_count(space: SimulatedSpace, area: Area) -> None:
    area.vm.nr_pages -= 1


def missing_pages(space: SimulatedSpace, area: Area) -> None:
    area.vm.pages = Pages(list(area.pages)[:-1])
    area.vm.nr_pages -= 1


def pages_without_a_list(space: SimulatedSpace, area: Area) -> None:
    area.vm.pages = None


def miscounted(space: SimulatedSpace, area: Area) -> None:
    space.state.nr_vmalloc_pages += 1


def frame_given_away(space: SimulatedSpace, area: Area) -> None:
    space.machine.give(area.pages[1], 0)


def frame_of_another(space: SimulatedSpace, area: Area) -> None:
    other = space.vmalloc(3 * P)
    other.detach()
    other.vm.pages = Pages([other.pages[0], area.pages[0], other.pages[2]])


def frames_in_another_order(space: SimulatedSpace, area: Area) -> None:
    area.vm.pages = Pages(list(area.pages)[::-1])


def not_mapped(space: SimulatedSpace, area: Area) -> None:
    space.machine.unmap(area.address + P, area.address + 2 * P)


def guard_mapped(space: SimulatedSpace, area: Area) -> None:
    space.machine.map_pages(area.end, Pages([area.pages[0]]), 0, 1, 3)


def lazy_mapped(space: SimulatedSpace, area: Area) -> None:
    lazy = space.state.space.lazy()[0]
    space.machine.map_pages(lazy.start, Pages([area.pages[0]]), 0, 1, 3)


def pooled_mapped(space: SimulatedSpace, area: Area) -> None:
    pooled = space.state.space.pooled()[0]
    space.machine.map_pages(pooled.start, Pages([area.pages[0]]), 0, 1, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (wrong_place, "its place under"),
        (dead, "only live ones"),
        (not_busy, "busy ranges, where none starts"),
        (wrong_size, "the busy range"),
        (wrong_count, "a list of 3"),
        (missing_pages, "2 frames"),
        (pages_without_a_list, "without a list of frames"),
        (miscounted, "nr_vmalloc_pages"),
        (frame_given_away, "its frame"),
        (frame_of_another, "which has frame"),
        (frames_in_another_order, "which is mapped at"),
        (not_mapped, "which is mapped at"),
        (guard_mapped, "the guard page of"),
        (lazy_mapped, "lazy"),
        (pooled_mapped, "pooled"),
    ],
)
def test_what_is_broken_is_found_and_named(damage: Callable[[SimulatedSpace, Area], None], words: str) -> None:
    space, areas = populated()
    damage(space, areas[0])
    with pytest.raises(ValidationError, match=words) as caught:
        validate_areas(space.state)
    assert caught.value.structure == "areas"
    assert all(caught.value.parties)
    for area in areas:
        area.owner = False  # nobody shall try to free what is broken


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_area_that_waits_for_its_worker_is_told_apart(kernel: str) -> None:
    """Section 3.5: half built: frames without a mapping, or a list without all frames."""
    space, _areas = populated(kernel)
    for operation in ("map_pages", "take"):
        space.machine.fail_next(operation, times=None)
        space.machine.fail_next("take_bulk", times=None)
        with pytest.raises(MemoryError):
            space.vmalloc(5 * P)
        space.machine.clear()
        space.validate()
    space.run_deferred()
    space.validate()


def range_forgotten(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.ram_ranges.pop(large)


def range_of_another_size(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.ram_ranges[large] += 1


def range_on_a_block(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.ram_ranges[piece] = 1


def block_not_busy(space: SimulatedSpace, piece: int, large: int) -> None:
    space.machine.unmap(piece, piece + 3 * P)
    space.state.allocator.free_lazily(piece)


def block_unmarked(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.allocator.rows.poke(space.state.allocator.find_busy(piece), "flags", 0x101)


def range_unmarked(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.allocator.rows.poke(space.state.allocator.find_busy(large), "flags", 0x100)


def piece_not_mapped(space: SimulatedSpace, piece: int, large: int) -> None:
    space.machine.unmap(piece + P, piece + 2 * P)


def mapped_beside_a_piece(space: SimulatedSpace, piece: int, large: int) -> None:
    space.machine.map_pages(piece + 3 * P, space.alloc_pages(1), 0, 1, 3)


def range_not_mapped(space: SimulatedSpace, piece: int, large: int) -> None:
    space.machine.unmap(large + 64 * P, large + 65 * P)


def blocks_broken(space: SimulatedSpace, piece: int, large: int) -> None:
    space.state.blocks.poke(1, "free", 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (range_forgotten, "marked VMAP_RAM contradicts what vm_map_ram has"),
        (range_of_another_size, "contradicts the busy range"),
        (range_on_a_block, "the block that begins there"),
        (block_not_busy, "the busy ranges without an area"),
        (block_unmarked, "flags 0x3 contradicts flags 0x1"),
        (range_unmarked, "flags 0x1 contradicts flags 0x0"),
        (piece_not_mapped, "in use: True contradicts the page table, mapped: False"),
        (mapped_beside_a_piece, "in use: False contradicts the page table, mapped: True"),
        (range_not_mapped, "in use: True contradicts the page table, mapped: False"),
        (blocks_broken, "vm_map_ram blocks: "),
    ],
)
def test_what_vm_map_ram_has_is_held_against_addresses_and_page_tables(
    damage: Callable[[SimulatedSpace, int, int], None], words: str
) -> None:
    """Sections 5.2 and 5.4."""
    space, areas = populated()
    frames = space.alloc_pages(65)
    piece, large = space.vm_map_ram(frames[:3]), space.vm_map_ram(frames)
    space.validate()
    damage(space, piece, large)
    with pytest.raises(ValidationError, match=words):
        validate_areas(space.state)
    for area in areas:
        area.owner = False  # nobody shall try to free what is broken


# -- shadow ------------------------------------------------------------------------------------------------------------


def checked(kernel: str = "6.19") -> tuple[SimulatedSpace, list[Area]]:
    """A space with KASAN: areas, a lazy range, a pooled one, a per-CPU area that was freed."""
    space = simulated("x86_64", kernel, cpus=2, memory="32MiB", kasan=True)
    gone = [space.vmalloc(P), space.vmalloc(2 * P), space.pcpu_get_vm_areas([0], [2 * P], P)[0]]
    gone[0].free()
    space.purge()
    gone[1].free()
    space.pcpu_free_vm_areas([gone[2]])
    areas = [space.vmalloc(5001), space.vmalloc(100_000), space.vmap(space.alloc_pages(2)), space.vmalloc(600 * P)]
    return space, areas


def write(space: SimulatedSpace, address: int, value: int) -> None:
    space.machine.store(space.kasan.layout.shadow(address), bytes([value]))


def one_byte_too_many(space: SimulatedSpace, area: Area) -> None:
    write(space, area.address + 5000, 2)


def one_byte_too_few(space: SimulatedSpace, area: Area) -> None:
    write(space, area.address + 4992, 7)


def slack_allowed(space: SimulatedSpace, area: Area) -> None:
    write(space, area.end - 8, 0)


def guard_allowed(space: SimulatedSpace, area: Area) -> None:
    write(space, area.end, 0)


def other_poison(space: SimulatedSpace, area: Area) -> None:
    write(space, area.end, 0xFF)


def lazy_allowed(space: SimulatedSpace, area: Area) -> None:
    write(space, space.state.space.lazy()[0].start, 0)


def pooled_allowed(space: SimulatedSpace, area: Area) -> None:
    write(space, space.state.space.pooled()[0].start, 5)


def free_allowed(space: SimulatedSpace, area: Area) -> None:
    write(space, max(vm.end for vm in space.state.areas.values()) + 8, 0)


def incomplete_allowed(space: SimulatedSpace, area: Area) -> None:
    area.vm.flags |= VM_UNINITIALIZED


def another_size(space: SimulatedSpace, area: Area) -> None:
    area.vm.requested_size = 5009


def tracked_size(space: SimulatedSpace, area: Area) -> None:
    space.kasan.tracks.live[area.address].size = 5000


def untracked(space: SimulatedSpace, area: Area) -> None:
    del space.kasan.tracks.live[area.address]


def page_unmapped(space: SimulatedSpace, area: Area) -> None:
    at = space.kasan.layout.shadow(area.address) & -P
    space.machine.unmap(at, at + P)


def page_forgotten(space: SimulatedSpace, area: Area) -> None:
    space.kasan.present.remove(space.kasan.layout.shadow(area.address) >> 12)


def frame_twice(space: SimulatedSpace, area: Area) -> None:
    first, second = sorted(space.kasan.present)[:2]
    pfn = space.machine.translate(first << 12)
    space.machine.unmap(second << 12, (second + 1) << 12)
    space.machine.map_pages(second << 12, Pages([pfn]), 0, 1, 3)


def frame_free(space: SimulatedSpace, area: Area) -> None:
    space.machine.give(space.machine.translate(space.kasan.layout.shadow(area.address)), 0)


def miscounted_shadow(space: SimulatedSpace, area: Area) -> None:
    extra = max(space.kasan.present) + 9
    at = extra << 12
    pages = space.alloc_pages(1)
    space.machine.map_pages(at, pages, 0, 1, 3)
    space.kasan.present.add(extra)


def broken_tracks(space: SimulatedSpace, area: Area) -> None:
    space.kasan.tracks._starts.append(1)


@pytest.mark.parametrize("kernel", KERNELS)
def test_shadow_that_is_well_passes(kernel: str) -> None:
    space, _areas = checked(kernel)
    validate_shadow(space.state)
    assert space.kasan.left_open
    space.purge(full=True)
    validate_shadow(space.state)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (one_byte_too_many, "of 5001 bytes.*shadow byte 2 of .*, not 1"),
        (one_byte_too_few, "shadow byte 7 of .*, not 0"),
        (slack_allowed, "of 5001 bytes.*shadow byte 0"),
        (guard_allowed, "of 5001 bytes.*shadow byte 0"),
        (other_poison, "of 5001 bytes.*shadow byte 255"),
        (lazy_allowed, "what is nobody's.*shadow byte 0"),
        (pooled_allowed, "what is nobody's.*shadow byte 5"),
        (free_allowed, "what is nobody's.*shadow byte 0"),
        (incomplete_allowed, "who allocated it"),
        (another_size, "who allocated it"),
        (tracked_size, "who allocated it"),
        (untracked, "who allocated it: None"),
        (page_unmapped, "which map nothing there"),
        (page_forgotten, "which is missing|shadow pages"),
        (frame_twice, "another one with the same frame"),
        (frame_free, "its frame"),
        (miscounted_shadow, "made and"),
        (broken_tracks, "quarantine|starts"),
    ],
)
def test_shadow_that_is_broken_is_found_and_named(damage: Callable[[SimulatedSpace, Area], None], words: str) -> None:
    space, areas = checked()
    damage(space, areas[0])
    with pytest.raises(ValidationError, match=words):
        validate_shadow(space.state)
    for area in areas:
        area.owner = False
