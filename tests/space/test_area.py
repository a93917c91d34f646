"""The handle of an area."""

from __future__ import annotations

import array
import copy
import gc
import operator

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.errors import BadAddress, BadContext, BadSize

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def test_facts() -> None:
    space = make()
    area = space.vmalloc_node(PAGE + 1, 1)
    assert int(area) == operator.index(area) == area.address
    assert len(area) == area.size == 2 * PAGE
    assert (area.end - area.address, area.requested_size, area.page_shift, area.node) == (2 * PAGE, PAGE + 1, 12, 1)
    assert (area.phys_addr, area.is_vmalloc, area.alive) == (0, True, True)
    assert repr(area) == f"<Area {area.address:#x}-{area.end:#x} (8 KiB)>"
    assert area == space.find_vm_area(area.end)
    assert area != 5
    assert len({area, area}) == 1
    area.free()
    assert repr(area).endswith(" freed>")
    assert area.node is None


@every_kernel
def test_bytes(kernel: str) -> None:
    space = make(kernel)
    area = space.vzalloc(PAGE + 10)
    area.write(PAGE - 1, b"abc")
    assert area.read(PAGE - 1, 3) == b"abc"
    assert len(area.read()) == PAGE + 10
    assert len(area.read(PAGE)) == 10
    assert area.read(2 * PAGE) == b""
    numbers = array.array("Q", [1, 2, 3])
    area.write(0, numbers)
    assert area.read(0, 24) == numbers.tobytes()
    for offset, n in ((-1, 1), (0, -1), (0, 2 * PAGE + 1), (2 * PAGE, 1), (1 << 70, 1)):
        with refused(space, BadSize, f"bytes {offset} to {offset + n} of an area of 8192 bytes"):
            area.read(offset, n)
    with refused(space, BadSize, "bytes 8184 to 8208"):
        area.write(2 * PAGE - 8, numbers)  # counted in bytes
    with refused(space, TypeError, "bytes-like"):
        area.write(0, "text")


@every_kernel
def test_the_end_of_a_handle_is_the_end_of_its_area(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc(PAGE)
    del area
    assert settled(space) == before
    with space.vmalloc(PAGE) as area:
        area.write(0, b"x")
    assert not area.alive
    with space.vmalloc(PAGE) as area:
        area.free()
    assert settled(space) == before


@every_kernel
def test_detached_areas_live_until_they_are_freed_by_address(kernel: str) -> None:
    space = make(kernel)
    address = space.vmalloc(PAGE).detach()
    gc.collect()
    found = space.find_vm_area(address)
    assert found is not None
    del found
    assert space.find_vm_area(address) is not None
    space.vfree(address)
    assert space.find_vm_area(address) is None


@every_kernel
def test_freed_twice(kernel: str) -> None:
    space = make(kernel)
    area = space.vmalloc(PAGE)
    other = space.find_vm_area(area.address)
    area.free()
    for handle in (area, other):
        with refused(space, BadAddress, f"{area.address:#x}: this area was freed already"):
            handle.free()
    with unchanged(space), other:
        pass


def test_a_copy_does_not_own() -> None:
    space = make()
    area = space.vmalloc(PAGE)
    for copied in (copy.copy(area), copy.deepcopy(area)):
        assert copied == area == space.find_vm_area(area.address)
        del copied
        gc.collect()
        assert area.alive


def test_a_worker_does_not_run_in_an_interrupt() -> None:
    space = make()
    area = space.vmalloc(PAGE)
    with space.in_context("hardirq"):
        space.vfree(area)
        with pytest.raises(BadContext, match="task context only"):
            space.run_deferred()
        assert area.alive
    assert space.run_deferred() == 1
    assert not area.alive


def test_frames_may_be_numbers_of_numpy() -> None:
    np = pytest.importorskip("numpy")
    space = make()
    area = space.vmalloc(2 * PAGE)
    alias = space.vmap(np.array(list(area.pages)[::-1]))
    area.write(PAGE, b"x")
    assert alias.read(0, 1) == b"x"
