"""``remap_vmalloc_range`` (section 2.10)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.calls.remap import UserMapping
from vmalloc.errors import BadAddress, BadContext, BadRequest, BadSize
from vmalloc.flags import VM_DMA_COHERENT

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
USER = 0x7F00_0000_0000


@every_kernel
def test_pages_are_shared_and_go_with_the_last_holder(kernel: str) -> None:
    """Section 2.10: the mapping cannot grow and is not dumped; the frames outlive the area."""
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc_user(4 * PAGE)
    mapping = UserMapping(USER, 2 * PAGE, PAGE)
    space.remap_vmalloc_range(mapping, area, 1)
    assert mapping.pfns == list(area.pages)[1:3]
    assert mapping.dont_expand
    assert mapping.dont_dump
    used = space.stats()["frames_used"]
    area.free()
    assert space.stats()["frames_used"] == used - 2
    space.unmap_user(mapping)
    assert settled(space) == before
    space.validate()


@every_kernel
def test_all_that_is_einval_in_the_kernel(kernel: str) -> None:
    """Section 2.10, reason by reason."""
    space = make(kernel)
    area, plain = space.vmalloc_user(4 * PAGE), space.vmalloc(4 * PAGE)
    mapping = UserMapping(USER, 16 * PAGE, PAGE)

    def partial(user: int, address: int, pgoff: int, size: int) -> None:
        space.remap_vmalloc_range_partial(mapping, user, address, pgoff, size)

    with refused(space, BadAddress, f"{USER + 1:#018x}.*not page aligned"):
        partial(USER + 1, area.address, 0, PAGE)
    with refused(space, BadAddress, "not page aligned"):
        partial(USER, area.address + 1, 0, PAGE)
    with refused(space, BadAddress, "in no area"):
        partial(USER, area.address + (1 << 30), 0, PAGE)
    with refused(space, BadRequest, "not for user space"):
        partial(USER, plain.address, 0, PAGE)
    for pgoff, size in ((1 << 52, PAGE), (-1, PAGE), (0, 0), (0, -1), (0, 4 * PAGE + 1), (3, PAGE + 1), (4, PAGE)):
        with refused(space, BadSize, "exceed the 16384 bytes"):
            partial(USER, area.address, pgoff, size)
    for user in (USER - PAGE, USER + 16 * PAGE):
        with refused(space, BadSize, "is not in"):
            partial(user, area.address, 0, PAGE)
    with space.in_context("softirq"), refused(space, BadContext, "softirq"):
        partial(USER, area.address, 0, PAGE)
    assert mapping.pfns == []
    assert not mapping.dont_expand


@every_kernel
def test_the_bound_is_that_of_the_area_and_inserted_pages_stay(kernel: str) -> None:
    """Section 2.10: as if the address were the area's start; an insertion that fails keeps the earlier pages."""
    space = make(kernel)
    area = space.vmalloc_user(4 * PAGE)
    mapping = UserMapping(USER, 16 * PAGE, PAGE)
    with unchanged(space), pytest.raises(BadRequest, match="nothing is mapped"):
        space.remap_vmalloc_range_partial(mapping, USER, area.address + 2 * PAGE, 0, 4 * PAGE)
    assert mapping.pfns == list(area.pages)[2:]
    assert not mapping.dont_expand
    space.unmap_user(mapping)
    space.validate()


def test_dma_coherent_areas_are_for_user_space_too() -> None:
    """Section 1.3: VM_DMA_COHERENT."""
    space = make()
    area = space.vmap(space.alloc_pages(2), flags=VM_DMA_COHERENT, put_pages=True)
    mapping = UserMapping(USER, 2 * PAGE, PAGE)
    space.remap_vmalloc_range(mapping, area)
    assert len(mapping.pfns) == 2
    area.free()
    space.unmap_user(mapping)
    space.validate()


@pytest.mark.parametrize(("start", "size"), [(1, PAGE), (PAGE, 0), (PAGE, 1), (PAGE, -PAGE)])
def test_a_user_range_is_whole_pages(start: int, size: int) -> None:
    with pytest.raises(BadSize, match="whole pages"):
        UserMapping(start, size, PAGE)
