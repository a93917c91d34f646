"""``vrealloc`` on every kernel that has it (section 2.5)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadAddress, BadContext, BadRequest, BadSize, ExceedsMemory, OutOfFrames
from vmalloc.flags import GFP_KERNEL, GFP_THISNODE
from vmalloc.kernels import profile

pytestmark = pytest.mark.both_builds
have_it = pytest.mark.parametrize("kernel", ["6.12", "6.19"])


def test_6_1_has_none() -> None:
    """Section 13."""
    space = make("6.1")
    area = space.vmalloc(PAGE)
    for given, size in ((area, 2 * PAGE), (area, 0), (None, PAGE), (None, 0)):
        with refused(space, BadRequest, r"6\.1 has no vrealloc"):
            space.vrealloc(given, size)


@have_it
def test_a_size_of_nothing_frees_and_no_area_allocates(kernel: str) -> None:
    """Section 2.5, first line."""
    space = make(kernel)
    assert space.vrealloc(None, 0) is None
    area = space.vrealloc(None, 100, zero=True)
    assert area.read() == bytes(100)
    assert space.vrealloc(area, 0) is None
    assert not area.alive


@have_it
def test_contents_survive_growing_and_shrinking(kernel: str) -> None:
    """Section 2.5: the sequence of the kernel's own test: 1 to 4 pages, back, inside a page, in place."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    area.write(0, b"!")
    grown = space.vrealloc(area, 4 * PAGE)
    assert grown is not area
    assert not area.alive
    for size in (PAGE, PAGE // 2, PAGE // 2 + 10, PAGE, 3 * PAGE):
        again = space.vrealloc(grown, size)
        assert again is grown
        assert grown.requested_size == size
        assert grown.nr_pages == 4
        assert grown.read(0, 1) == b"!"
        space.validate()


@have_it
def test_what_shrinking_cuts_off_is_zeroed_when_asked(kernel: str) -> None:
    """Section 2.5 (e), (f): shrinking zeroes the tail; growing in place zeroes nothing (6.17)."""
    space = make(kernel)
    area = space.vmalloc(3 * PAGE)
    area.write(0, b"x" * (3 * PAGE))
    space.vrealloc(area, PAGE + 7, zero=True)
    assert space.load(area.address, 3 * PAGE) == b"x" * (PAGE + 7) + bytes(2 * PAGE - 7)
    area.write(PAGE + 7, b"y" * 10)
    space.vrealloc(area, 2 * PAGE)
    assert space.load(area.address + PAGE + 7, 10) == b"y" * 10


@have_it
def test_growing_in_place_goes_by_the_size_that_was_asked_for(kernel: str) -> None:
    """Section 2.5: 6.12 looks at the pages, and so zeroes there; later kernels at requested_size."""
    space = make(kernel)
    area = space.vmalloc(100)
    area.write(0, b"z" * PAGE)
    assert space.vrealloc(area, 200, zero=True) is area
    kept = space.load(area.address + 200, 5)
    assert kept == (b"z" * 5 if profile(kernel).keeps_requested_size else bytes(5))


@have_it
def test_moving_copies_what_was_asked_for_and_zeroes_what_is_new(kernel: str) -> None:
    """Section 2.5 (g)."""
    space = make(kernel)
    area = space.vmalloc(PAGE + 10)
    area.write(0, b"a" * (PAGE + 10))
    grown = space.vrealloc(area, 5 * PAGE, zero=True)
    assert grown.read(0, PAGE + 10) == b"a" * (PAGE + 10)
    assert grown.read(2 * PAGE, 3 * PAGE) == bytes(3 * PAGE)
    space.validate()


def test_alignment_and_node_since_6_18() -> None:
    """Section 2.5 (c), (d): refused, not moved; another node moves it."""
    space = make("6.19")
    keep = space.vmalloc(PAGE)
    area = space.vmalloc(PAGE)
    area.write(0, b"here")
    with refused(space, BadAddress, f"{area.address:#x}: is not aligned to 1 MiB"):
        space.vrealloc(area, 2 * PAGE, align=1 << 20)
    assert space.vrealloc(area, 100, node=1) is area  # no __GFP_THISNODE: it may stay
    moved = space.vrealloc(area, 100, node=1, gfp=GFP_KERNEL | GFP_THISNODE)
    assert moved is not area
    assert moved.node == 1
    assert moved.read(0, 4) == b"here"
    assert space.vrealloc(moved, 50, node=1, gfp=GFP_KERNEL | GFP_THISNODE) is moved
    assert keep.alive
    old = make("6.12")
    area = old.vmalloc(PAGE)
    for more in ({"align": PAGE}, {"node": 0}):
        with refused(old, BadRequest, "neither alignment nor node"):
            old.vrealloc(area, 100, **more)


@have_it
def test_failing_leaves_the_area_as_it_was(kernel: str) -> None:
    """Section 2.5: on allocation failure p stays valid."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    area.write(0, b"still")
    before = settled(space)
    for operation in ("take", "map_pages", "slab"):
        space.machine.fail_next(operation, times=None)
        space.machine.fail_next("take_bulk", times=None)
        with pytest.raises(OutOfFrames):
            space.vrealloc(area, 3 * PAGE)
        space.machine.clear()
        assert settled(space) == before
    with refused(space, ExceedsMemory, "16384 pages"):
        space.vrealloc(area, 1 << 40)
    with refused(space, BadSize, "-1 bytes"):
        space.vrealloc(area, -1)
    with refused(space, TypeError, "float"):
        space.vrealloc(area, 1.5)
    with refused(space, BadAddress, "nonexistent"):
        space.vrealloc(area.address + PAGE, 100)
    with refused(space, BadAddress, "nonexistent"):
        space.vrealloc(area.address + 8, 100)
    with space.in_context("hardirq"), refused(space, BadContext, "hardirq"):
        space.vrealloc(area, 3 * PAGE)
    assert area.read(0, 5) == b"still"
    assert space.dmesg()


@have_it
def test_only_an_area_with_frames_of_its_own_can_change_its_size(kernel: str) -> None:
    """There is nothing to copy or to give back in the others."""
    space = make(kernel)
    for area in (space.vmap(space.alloc_pages(1)), space.get_vm_area(PAGE), space.ioremap(1 << 30, PAGE)):
        for size in (100, 3 * PAGE):
            with refused(space, BadRequest, "no frames of its own"):
                space.vrealloc(area, size, zero=True)


def test_every_kernel_is_here() -> None:
    assert {kernel for kernel in KERNELS if profile(kernel).has_vrealloc} == {"6.12", "6.19"}
