"""``kvmalloc``: contiguous memory first (section 2.6)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.errors import BadAddress, BadContext, BadSize, OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_KERNEL, GFP_NOWAIT, GFP_NOWARN, VM_ALLOW_HUGE_VMAP
from vmalloc.kernels import profile
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_contiguous_memory_is_at_its_permanent_address(kernel: str) -> None:
    """Section 2.6 steps 1, 2."""
    space = make(kernel)
    before = settled(space)
    area = space.kvmalloc(3 * PAGE, zero=True, node=1)
    assert not area.is_vmalloc
    assert area.node == 1
    assert area.read() == bytes(3 * PAGE)
    area.write(PAGE, b"x")
    assert space.load(area.address + PAGE, 1) == b"x"
    assert space.find_vm_area(area.address) is None
    with refused(space, BadAddress, "kvfree frees that"):
        space.vfree(area)
    with refused(space, BadAddress, "neither"):
        space.kvfree(area.address + PAGE)
    space.kvfree(area)
    assert not area.alive
    with refused(space, BadAddress, "freed already"):
        space.kvfree(area)
    with refused(space, BadAddress, "neither"):
        space.kvfree(area.address)
    assert settled(space) == before


@every_kernel
def test_what_is_not_to_be_had_contiguously_comes_from_vmalloc(kernel: str) -> None:
    """Section 2.6 steps 2 and 5: huge mappings allowed; a page or less is contiguous or nothing."""
    space = make(kernel)
    before = settled(space)
    space.machine.fail_next("take")
    area = space.kvmalloc(5 * PAGE)
    assert area.is_vmalloc
    assert area.flags & VM_ALLOW_HUGE_VMAP
    large = space.kvmalloc(8 * MIB)
    assert large.page_shift == 21
    space.kvfree(area)
    space.kvfree(large)
    space.machine.fail_next("take")
    with refused(space, OutOfFrames, "no contiguous 100 B"):
        space.kvmalloc(100)
    assert settled(space) == before


@every_kernel
def test_who_must_not_wait_gets_vmalloc_since_6_19_only(kernel: str) -> None:
    """Section 2.6 steps 4 and 5."""
    space = make(kernel)
    space.machine.fail_next("take")
    if profile(kernel).allows_nonblocking:
        area = space.kvmalloc(2 * PAGE, gfp=GFP_NOWAIT)
        assert area.is_vmalloc
        assert not area.flags & VM_ALLOW_HUGE_VMAP
    else:
        with refused(space, OutOfFrames, "must not wait"):
            space.kvmalloc(2 * PAGE, gfp=GFP_NOWAIT)


@every_kernel
def test_more_than_an_int_is_refused_and_warned_about_once(kernel: str) -> None:
    """Section 2.6 step 3."""
    space = make(kernel, memory="4GiB")
    with unchanged(space), pytest.raises(BadSize, match="more than 2147483647"):
        space.kvmalloc(1 << 31, gfp=GFP_KERNEL | GFP_NOWARN)
    assert space.dmesg() == []
    for size in (1 << 31, (1 << 31) + PAGE):
        with unchanged(space), pytest.raises(BadSize):
            space.kvmalloc(size)
    assert len(space.dmesg()) == 1


@every_kernel
def test_contexts(kernel: str) -> None:
    """Contiguous memory may be had in an interrupt, not in an NMI."""
    space = make(kernel)
    with space.in_context("hardirq"):
        area = space.kvmalloc(PAGE, gfp=GFP_ATOMIC)
        space.kvfree(area)
        area = space.kvmalloc(PAGE, gfp=GFP_ATOMIC)
        space.machine.fail_next("take")
        with unchanged(space), pytest.raises((BadContext, OutOfFrames)):
            space.kvmalloc(2 * PAGE, gfp=GFP_ATOMIC)
    with space.in_context("nmi"):
        with refused(space, BadContext, "nmi"):
            space.kvmalloc(PAGE)
        with refused(space, BadContext, "nmi"):
            space.kvfree(area)


@every_kernel
def test_a_handle_that_goes_frees_the_block(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    area = space.kvmalloc(PAGE)
    del area
    assert settled(space) == before


@every_kernel
def test_the_short_forms(kernel: str) -> None:
    """Section 2.2: the rows of the family of kvmalloc."""
    space = make(kernel)
    zeros = [space.kvzalloc(PAGE), space.kvcalloc(3, 100), space.kvmalloc_array(2, PAGE), space.kvmalloc_node(PAGE, 1)]
    assert zeros[0].read() == bytes(PAGE)
    assert zeros[1].read() == bytes(300)
    assert (zeros[2].requested_size, zeros[3].node) == (2 * PAGE, 1)
    with refused(space, BadSize, "at least one byte"):
        space.kvmalloc_array(0, PAGE)


def test_resizing_contiguous_memory() -> None:
    """Section 2.2: in place while the block is large enough, then another block, its whole capacity copied."""
    space = make()
    area = space.kvmalloc(100)
    area.write(0, b"first")
    area.write(PAGE - 4, b"last")
    address = area.address
    assert space.kvrealloc(area, PAGE) is area
    assert (area.address, area.requested_size) == (address, PAGE)
    moved = space.kvrealloc(area, 5 * PAGE)
    assert not area.alive
    assert not moved.is_vmalloc
    assert (moved.read(0, 5), moved.read(PAGE - 4, 4)) == (b"first", b"last")
    large = space.kvrealloc(moved, 5 * MIB)
    assert large.is_vmalloc
    assert (large.read(0, 5), large.read(PAGE - 4, 4)) == (b"first", b"last")
    same = space.kvrealloc(large, 5 * MIB - 1)
    assert same is large
    fresh = space.kvrealloc(None, 10)
    assert fresh.requested_size == 10
    with refused(space, BadAddress, "neither"):
        space.kvrealloc(fresh.address + 8, 10)
    before = settled(space)
    with pytest.raises(OutOfFrames):
        space.kvrealloc(large, 60 * MIB)
    assert settled(space) == before


def test_a_secret_is_zeroed_before_it_is_freed() -> None:
    """Section 2.2: kvfree_sensitive."""
    space = make()
    for size in (100, 5 * MIB):
        area = space.kvmalloc(size)
        area.write(0, b"secret")
        frame = area.pages[0]
        with refused(space, BadSize, "bytes to zero"):
            space.kvfree_sensitive(area, area.size + 1)
        with refused(space, BadAddress, "not the start"):
            space.kvfree_sensitive(area.address + PAGE, 1)
        space.kvfree_sensitive(area, 100)
        assert not area.alive
        assert space.machine.contents.load(frame, 0, 6) == bytes(6)
    space.kvfree_sensitive(None, 5)
