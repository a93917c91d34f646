"""Groups of the per-CPU allocator, as a space hands them out (section 7.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadAddress, BadContext, BadSize, OutOfAddresses, OutOfFrames
from vmalloc.flags import VM_ALLOC
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.area import Area
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
GROUP = ([0, 0x20000], [0x8000, 0x10000], 0x8000)


@every_kernel
def test_a_group_has_no_guard_pages_and_lies_at_the_top(kernel: str) -> None:
    """Section 7.1, and the trap of 1.2: usable_size is one page too small."""
    space = make(kernel)
    before = settled(space)
    areas = space.pcpu_get_vm_areas(*GROUP)
    assert areas[1].address - areas[0].address == 0x20000
    assert areas[1].address + 0x10000 == space.state.vmalloc_end & ~0x7FFF
    assert [area.vm.size for area in areas] == [0x8000, 0x10000]
    assert [area.size for area in areas] == [0x7000, 0xF000]
    assert all(area.flags == VM_ALLOC and area.pages is None for area in areas)
    space.validate()
    space.pcpu_free_vm_areas(areas)
    assert space.stats()["lazy_areas"] == 2
    assert settled(space) == before


@every_kernel
def test_what_is_refused(kernel: str) -> None:
    space = make(kernel)
    geometries = [([0], [PAGE], 3), ([0], [PAGE, PAGE], PAGE), ([], [], PAGE), ([0], [0], PAGE), ([1], [PAGE], PAGE)]
    for geometry in geometries:
        with refused(space, BadSize, "."):
            space.pcpu_get_vm_areas(*geometry)
    for after in range(4):
        space.machine.fail_next("slab", after=after)
        with refused(space, OutOfFrames, "records of per-CPU areas"):
            space.pcpu_get_vm_areas(*GROUP)
    areas, other, vmap = space.pcpu_get_vm_areas(*GROUP), space.vmalloc(PAGE), space.get_vm_area(PAGE)
    for wrong in ([areas[0], areas[0]], [areas[0], other], [areas[1], vmap]):
        with refused(space, BadAddress, "no area of a per-CPU group, or stands in the list twice"):
            space.pcpu_free_vm_areas(wrong)
    foreign = make(kernel).vmalloc(1)
    with refused(space, BadAddress, "another space"):
        space.pcpu_free_vm_areas([foreign])
    for context in ("softirq", "hardirq", "nmi"):
        with space.in_context(context):
            with refused(space, BadContext, context):
                space.pcpu_get_vm_areas(*GROUP)
            with refused(space, BadContext, context):
                space.pcpu_free_vm_areas(areas)
    space.pcpu_free_vm_areas(areas)
    with refused(space, BadAddress, "freed already"):
        space.pcpu_free_vm_areas(areas)


def small_range(kernel: str) -> tuple[SimulatedSpace, int]:
    """A space whose vmalloc range is that of A.15, moved to where kernel addresses are; by how much."""
    start = 0xFFFFC90000100000
    arch = replace(ARCHITECTURES["x86_64"], vmalloc_start=start, vmalloc_end=start + 0x80000)
    return make(kernel, arch=arch), start - 0x100000


def free_ranges(space: SimulatedSpace, moved: int) -> list[tuple[int, int]]:
    """Free ranges inside the vmalloc range, as the appendix writes them."""
    low, high = space.state.vmalloc_start, space.state.vmalloc_end
    blocks = [(max(block.start, low), min(block.end, high)) for block in space.state.space.free_blocks()]
    return [(start - moved, end - moved) for start, end in blocks if start < end]


@every_kernel
def test_a15_on_a_machine(kernel: str) -> None:
    """A.15 and section 7.1: from the top down, past obstacles, into a hole that fits exactly."""
    space, moved = small_range(kernel)
    group = ([0, 0x20000], [0x8000, 0x8000], 0x8000)

    def starts(areas: list[Area]) -> list[int]:
        return [area.address - moved for area in areas]

    first = space.pcpu_get_vm_areas(*group)
    assert starts(first) == [0x158000, 0x178000]
    assert free_ranges(space, moved) == [(0x100000, 0x158000), (0x160000, 0x178000)]
    obstacle = space.get_vm_area(3 * PAGE, start=moved + 0x168000)  # and the guard page
    assert obstacle.address == moved + 0x168000
    second = space.pcpu_get_vm_areas(*group)
    assert starts(second) == [0x150000, 0x170000]
    assert free_ranges(space, moved) == [(0x100000, 0x150000), (0x160000, 0x168000), (0x16C000, 0x170000)]
    assert space.get_vm_area(PAGE).detach() == moved + 0x100000
    third = space.pcpu_get_vm_areas(*group)
    assert starts(third) == [0x140000, 0x160000]
    assert free_ranges(space, moved) == [(0x102000, 0x140000), (0x148000, 0x150000), (0x16C000, 0x170000)]
    space.validate()


@every_kernel
def test_a15_again_after_a_purge(kernel: str) -> None:
    """Sections 7.1 and 4.4: what is lazy is purged once when no base is found, and then no more is tried."""
    space, moved = small_range(kernel)
    group = ([0, 0x20000], [0x8000, 0x8000], 0x8000)
    first = space.pcpu_get_vm_areas(*group)
    second = space.pcpu_get_vm_areas(*group)
    filling = [space.get_vm_area(0x7000, start=space.state.vmalloc_start) for _ in range(12)]
    assert not free_ranges(space, moved)
    with refused(space, OutOfAddresses, "even after a purge"):
        space.pcpu_get_vm_areas(*group)
    space.pcpu_free_vm_areas(second)
    flushes = space.stats()["tlb_flushes"]
    again = space.pcpu_get_vm_areas(*group)
    assert [area.address for area in again] == [area.address for area in second]
    assert space.stats()["tlb_flushes"] == flushes + 1
    assert len(filling) + len(first) == 14
    space.validate()
