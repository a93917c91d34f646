"""What a bad access hit, and ``vread`` (sections 2.9, 4.1)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, unchanged
from vmalloc.errors import BadAddress, BadSize, Fault
from vmalloc.kernels import profile
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_a_fault_says_what_was_hit(kernel: str) -> None:
    """Sections 2.1 and 4.1: guard page, freed area, hole of an area, nothing."""
    space = make(kernel)
    area, reserved, gone = space.vmalloc(100), space.get_vm_area(PAGE), space.vmalloc(PAGE)
    gone.free()
    for address, kind, words in (
        (area.end, "guard", "0 bytes behind"),
        (area.end + 5, "guard", "5 bytes behind"),
        (reserved.address + 7, "unmapped", "7 bytes into"),
        (gone.address + 9, "freed", "9 bytes into .* lazy since an earlier free"),
        (area.address + MIB, "unmapped", "no area has the address"),
        (0, "unmapped", "no area has the address"),
    ):
        for access in (lambda at=address: space.load(at, 1), lambda at=address: space.store(at, b"x")):
            with unchanged(space), pytest.raises(Fault, match=words) as caught:
                access()
            assert (caught.value.kind, caught.value.address) == (kind, address)
    with pytest.raises(Fault) as caught:
        space.load(area.end - 1, 3)
    assert caught.value.address == area.end


@every_kernel
def test_a_store_that_faults_wrote_nothing(kernel: str) -> None:
    space = make(kernel)
    area = space.vzalloc(PAGE)
    with unchanged(space), pytest.raises(Fault):
        space.store(area.end - 2, b"abc")
    assert area.read() == bytes(PAGE)


@every_kernel
def test_vread_reads_everything_and_never_faults(kernel: str) -> None:
    """Section 2.9: holes, guards, reserved and I/O areas read as zeros; areas as they are."""
    space = make(kernel)
    first = space.vmalloc(PAGE)
    reserved = space.get_vm_area(PAGE)
    device = space.ioremap(1 << 40, PAGE)
    last = space.vmalloc(2 * PAGE)
    gone = space.vmalloc(PAGE)
    first.write(0, b"1" * PAGE)
    last.write(0, b"2" * 2 * PAGE)
    gone.free()
    space.store(device.address, b"d" * PAGE)
    start = first.address - PAGE
    end = gone.address + 4 * PAGE
    expected = bytearray(end - start)
    for area, byte in ((first, b"1"), (last, b"2")):
        expected[area.address - start : area.end - start] = byte * area.size
    assert space.vread(start, end - start) == bytes(expected)
    for shift in (1, 7, PAGE + 3):
        assert space.vread(start + shift, 5 * PAGE) == bytes(expected[shift : shift + 5 * PAGE])
    assert reserved.alive


@every_kernel
def test_a_range_without_any_area(kernel: str) -> None:
    """Section 2.9, return: zeros, but nothing at all up to 6.8."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    expected = bytes(10) if profile(kernel).vread_fills_holes else b""
    assert space.vread(area.address + MIB, 10) == expected
    assert space.vread(area.address, 0) == b""


@every_kernel
def test_the_top_of_the_address_space_cuts(kernel: str) -> None:
    """Section 2.9: addr+count overflow."""
    space = make(kernel)
    assert len(space.vread(2**64 - 5, 100)) in (0, 5)


def test_huge_areas_are_read_page_by_page() -> None:
    space = make()
    area = space.vmalloc_huge(2 * MIB)
    area.write(MIB - 2, b"over")
    assert space.vread(area.address + MIB - 2, 4) == b"over"


@every_kernel
def test_what_is_no_address(kernel: str) -> None:
    space = make(kernel)
    for address in (-1, 1 << 64, 1 << 70):
        for call in (lambda at=address: space.load(at, 1), lambda at=address: space.store(at, b"x")):
            with refused(space, BadAddress, "no addresses of x86_64"):
                call()
        with refused(space, BadAddress, "no address of x86_64"):
            space.vread(address, 1)
    with refused(space, BadSize, "-1 bytes"):
        space.load(0, -1)
    with refused(space, BadSize, "-1 bytes"):
        space.vread(0, -1)
    with refused(space, BadSize, "more than this process can hold"):
        space.vread(0, 1 << 64)
    with refused(space, TypeError, "str"):
        space.store(0, "text")
    with refused(space, TypeError, "str"):
        space.vread("text", 1)
