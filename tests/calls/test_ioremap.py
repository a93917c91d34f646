"""``get_vm_area`` and ``ioremap`` (sections 1.11, 2.4, 2.7)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadAddress, BadContext, BadRequest, BadSize, OutOfAddresses, OutOfFrames
from vmalloc.flags import VM_IOREMAP
from vmalloc.units import GIB, MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
DEVICE = 1 << 40


@every_kernel
def test_a_reserved_area_maps_nothing_and_names_who_asked(kernel: str) -> None:
    """Section 2.7: get_vm_area, get_vm_area_caller, __get_vm_area_caller."""
    space = make(kernel)
    area = space.get_vm_area(PAGE + 1, caller="driver+0x10/0x20")
    assert (area.size, area.requested_size, area.pages, area.nr_pages) == (2 * PAGE, PAGE + 1, None, 0)
    assert area.caller == "driver+0x10/0x20"
    assert "test_a_reserved_area" in space.get_vm_area(1).caller
    assert space.vmalloc_to_pfn(area.address) is None
    start = area.address + GIB
    inside = space.get_vm_area(PAGE, start=start, end=start + 2 * PAGE)
    assert inside.address == start
    with pytest.raises(OutOfAddresses, match=f"{start:#x}"):  # after a purge, which changes what is lazy
        space.get_vm_area(PAGE, start=start, end=start + 2 * PAGE)
    for call in (space.free_vm_area, space.remove_vm_area):
        again = space.get_vm_area(PAGE)
        call(again)
        assert not again.alive
    assert again.requested_size == PAGE


@every_kernel
def test_device_memory_is_mapped_with_the_largest_entries_that_fit(kernel: str) -> None:
    """Section 2.4: vmap_page_range; nohugeiomap turns that off."""
    space = make(kernel)
    area = space.ioremap(DEVICE, GIB + 2 * MIB + PAGE)
    assert area.address % GIB == 0
    assert area.phys_addr == DEVICE
    stats = space.stats()
    assert (stats["mappings_shift30"], stats["mappings_shift21"], stats["mappings_shift12"]) == (1, 1, 1)
    assert space.vmalloc_to_pfn(area.address + GIB + 5 * PAGE) == (DEVICE + GIB) // PAGE + 5
    space.iounmap(area)
    space.state.huge_ioremap = False
    area = space.ioremap(DEVICE, 2 * MIB)
    assert space.stats()["mappings_shift12"] == 512
    space.validate()


@every_kernel
def test_a_device_keeps_what_is_stored_and_any_address_of_its_first_page_ends_it(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    area = space.ioremap(DEVICE + 0x123, 100)
    assert area.phys_addr == DEVICE
    space.store(area.address + 0x123, b"reg")
    assert space.load(area.address + 0x123, 3) == b"reg"
    assert space.vread(area.address + 0x123, 3) == bytes(3)
    space.iounmap(area.address + 0x123)
    assert not area.alive
    assert settled(space) == before


@every_kernel
def test_what_ioremap_refuses(kernel: str) -> None:
    space = make(kernel)
    end = space.state.info.phys_end
    for phys, size in ((DEVICE, 0), (DEVICE, -1), (-PAGE, PAGE), (end, 1), (end - 1, 2)):
        with refused(space, BadSize, "bytes|physical"):
            space.ioremap(phys, size)
    for phys, size in ((0, 1), (64 * MIB - 1, 1), (64 * MIB - 1, 2)):
        with refused(space, BadAddress, f"ioremap on RAM at {phys:#x}-{phys + size - 1:#x}"):
            space.ioremap(phys, size)
    assert len(space.dmesg()) == 3
    area = space.vmalloc(PAGE)
    for address in (area.address, area.address + MIB, -PAGE, 1 << 70):
        with refused(space, BadAddress, "iounmap: bad address"):
            space.iounmap(address)


@every_kernel
@pytest.mark.parametrize("operation", ["map_range", "page_table", "slab"])
def test_a_mapping_that_fails_leaves_nothing(kernel: str, operation: str) -> None:
    space = make(kernel)
    before = settled(space)
    space.machine.fail_next(operation, after=1 if operation == "page_table" else 0)
    with pytest.raises(OutOfFrames):
        space.ioremap(DEVICE + 3 * PAGE, 4 * MIB)
    assert settled(space) == before
    space.validate()


@every_kernel
def test_ioremap_page_range_wants_exactly_an_io_area(kernel: str) -> None:
    """Section 2.4: -EINVAL, -ERANGE; a second mapping is refused, and the first stays."""
    space = make(kernel)
    area, plain = space.get_vm_area(3 * PAGE, VM_IOREMAP), space.get_vm_area(PAGE)
    start, end = area.address, area.end
    with refused(space, BadRequest, "no I/O area"):
        space.ioremap_page_range(plain.address, plain.end, DEVICE)
    with refused(space, BadRequest, "no I/O area"):
        space.ioremap_page_range(end + GIB, end + GIB + PAGE, DEVICE)
    for first, last in ((start, end - PAGE), (start + PAGE, end), (start, end + PAGE)):
        with refused(space, BadAddress, "ioremap_page_range of"):
            space.ioremap_page_range(first, last, DEVICE)
    for phys in (DEVICE + 1, -PAGE, space.state.info.phys_end - PAGE):
        with refused(space, BadAddress, "physical"):
            space.ioremap_page_range(start, end, phys)
    space.ioremap_page_range(start, end, DEVICE)
    with refused(space, BadAddress, "mapped in .* already"):
        space.ioremap_page_range(start, end, DEVICE + GIB)
    assert space.vmalloc_to_pfn(start + PAGE) == DEVICE // PAGE + 1
    space.validate()


@every_kernel
def test_what_get_vm_area_refuses(kernel: str) -> None:
    """Section 2.7: sizes, windows, flags."""
    space = make(kernel)
    low, high = space.state.vmalloc_start, space.state.vmalloc_end
    for size in (0, -1):
        with refused(space, BadSize, "at least one byte"):
            space.get_vm_area(size)
    for size in (1 << 46, 1 << 64, 1 << 70):
        with refused(space, BadSize, "do not fit in 0xffffc90000000000"):
            space.get_vm_area(size)
    for start, end in ((low + 1, high), (-PAGE, high), (0, high), (low, low), (high - 4095, low), (low, 1 << 70)):
        with refused(space, BadAddress, "no window ends at"):
            space.get_vm_area(PAGE, start=start, end=end)
    for flags in (-1, 1 << 32):
        with refused(space, BadRequest, "32 bits"):
            space.get_vm_area(PAGE, flags)
    with refused(space, TypeError, "float"):
        space.get_vm_area(1.5)


@every_kernel
@pytest.mark.parametrize("context", ["softirq", "hardirq", "nmi"])
def test_task_context_only(kernel: str, context: str) -> None:
    """Section 1.11 step 1."""
    space = make(kernel)
    area = space.ioremap(DEVICE, PAGE)
    with space.in_context(context):
        for call, arguments in (
            (space.get_vm_area, (PAGE,)),
            (space.ioremap, (DEVICE, PAGE)),
            (space.iounmap, (area,)),
            (space.free_vm_area, (area,)),
            (space.remove_vm_area, (area,)),
            (space.ioremap_page_range, (area.address, area.end, DEVICE)),
        ):
            with refused(space, BadContext, f"in {context} context"):
                call(*arguments)


def test_a_window_is_among_the_addresses_of_the_kernel() -> None:
    space = make()
    for window in ((0x1000, 0x10000), (0x7FFF_FFFF_0000, 0xFFFF_C900_0000_0000)):
        with refused(space, BadAddress, "not among the kernel's addresses"):
            space.get_vm_area(4096, start=window[0], end=window[1])
        with refused(space, BadAddress, "not among the kernel's addresses"):
            space.vmalloc_node_range(4096, 1, *window)
