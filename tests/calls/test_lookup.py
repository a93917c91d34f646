"""Look-ups (sections 1.12 and 2.8)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, unchanged
from vmalloc.errors import BadAddress
from vmalloc.kernels import profile
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_every_address_of_an_area_finds_it_guard_included(kernel: str) -> None:
    """Section 1.12: in any node; what is found is not freed with the object."""
    space = make(kernel)
    area = space.vmalloc(100 * PAGE)
    with unchanged(space):
        for offset in (0, 1, 17 * PAGE, 50 * PAGE + 5, 99 * PAGE, 100 * PAGE, 101 * PAGE - 1):
            found = space.find_vm_area(area.address + offset)
            assert found == area
            assert not found.owner
        for address in (area.address - 1, area.address + 101 * PAGE, 0, -1, 1 << 64, 1 << 70):
            assert space.find_vm_area(address) is None


def test_the_range_is_half_open() -> None:
    """Section 2.8: is_vmalloc_addr, on x86-64 with its odd end."""
    space = make()
    start, end = space.state.vmalloc_start, space.state.vmalloc_end
    assert [space.is_vmalloc_addr(at) for at in (start - 1, start, end - 1, end)] == [False, True, True, False]
    assert space.is_vmalloc_addr(space.vmalloc(1))
    assert not space.is_vmalloc_addr(-1)
    assert not space.is_vmalloc_addr(1 << 70)


@every_kernel
def test_a_page_inside_a_large_mapping_is_found(kernel: str) -> None:
    """Section 2.8: vmalloc_to_page, vmalloc_to_pfn, is_vm_area_hugepages, get_vm_area_page_order."""
    space = make(kernel)
    huge, small = space.vmalloc_huge(4 * MIB), space.vmalloc(PAGE)
    for i in (0, 1, 511, 512, 1023):
        assert space.vmalloc_to_pfn(huge.address + i * PAGE + 9) == huge.pages[i]
    assert list(space.vmalloc_to_page(small)) == [small.pages[0]]
    assert space.vmalloc_to_page(small.end) is None
    assert space.is_vm_area_hugepages(huge.address + MIB)
    assert not space.is_vm_area_hugepages(small)
    assert huge.vm.page_order == 9
    assert space.vmalloc_nr_pages() == 1024 + 2 + 1  # the list of 1024 frames takes two
    for address in (-1, 1 << 64, 1 << 70):
        assert space.vmalloc_to_pfn(address) is None
    with refused(space, BadAddress, "in no area"):
        space.is_vm_area_hugepages(small.address + MIB)


@every_kernel
def test_dump_obj_looks_into_one_node_only(kernel: str) -> None:
    """Section 2.8: rounds up, looks in the node of that address; misses the middle of long areas."""
    space = make(kernel)
    area = space.vmalloc(20 * PAGE)
    text = f" 20-page vmalloc region starting at {area.address:#x} allocated at {area.caller}"
    assert space.vmalloc_dump_obj(area.address) == text
    assert space.vmalloc_dump_obj(area.address + 1) == text
    middle = space.vmalloc_dump_obj(area.address + 16 * PAGE)
    assert middle == (None if profile(kernel).has_nodes else text)
    for address in (area.address + MIB, -1, 0, 1 << 64, 1 << 70):
        assert space.vmalloc_dump_obj(address) is None
    assert space.vmalloc_dump_obj(space.get_vm_area(PAGE).address).startswith(" 0-page")
