"""Groups of the per-CPU allocator, as a space hands them out (section 7.1)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadAddress, BadContext, BadSize, OutOfFrames
from vmalloc.flags import VM_ALLOC

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
