"""``alloc_pages`` and ``free_pages``."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadContext, BadFrame, BadRequest, BadSize, ExceedsMemory, OutOfFrames
from vmalloc.flags import GFP_KERNEL, GFP_THISNODE, GFP_ZERO

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_blocks_are_contiguous_and_single_frames_are_given_back(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    pages = space.alloc_pages(3, order=2, node=1)
    assert len(pages) == 12
    for i in (0, 4, 8):
        assert list(pages[i : i + 4]) == list(range(pages[i], pages[i] + 4))
    assert {space.machine.node_of(pfn) for pfn in pages} == {1}
    space.free_pages(pages[6:])
    space.free_pages(list(pages[:6]))
    assert settled(space) == before


def test_zeros() -> None:
    space = make()
    pages = space.alloc_pages(2, gfp=GFP_KERNEL | GFP_ZERO)
    assert space.vmap(pages).read() == bytes(2 * PAGE)


@every_kernel
def test_all_or_none(kernel: str) -> None:
    space = make(kernel)
    for order in (0, 3):
        space.machine.fail_next("take", after=2)
        with refused(space, OutOfFrames, f"2 of 4 blocks of order {order}"):
            space.alloc_pages(4, order=order)
    with refused(space, OutOfFrames, "blocks of order 0, then none was left"):
        space.alloc_pages(16384 // 2 + 1, node=0, gfp=GFP_KERNEL | GFP_THISNODE)


@every_kernel
def test_what_is_refused(kernel: str) -> None:
    space = make(kernel)
    for count in (0, -1):
        with refused(space, BadSize, f"{count} blocks"):
            space.alloc_pages(count)
    for order in (-1, 11):
        with refused(space, BadRequest, f"order {order}"):
            space.alloc_pages(1, order=order)
    for node in (-2, 2):
        with refused(space, BadRequest, f"node {node} of a machine whose nodes are 0 to 1"):
            space.alloc_pages(1, node=node)
    with refused(space, ExceedsMemory, "exceed the 16384"):
        space.alloc_pages(16385)
    with refused(space, TypeError, "float"):
        space.alloc_pages(1.5)
    for gfp in (-1, 1 << 32):
        with refused(space, BadRequest, "32 bits"):
            space.alloc_pages(1, gfp=gfp)


@every_kernel
def test_frames_that_cannot_be_given_back(kernel: str) -> None:
    space = make(kernel)
    mine = space.alloc_pages(3)
    gone = space.alloc_pages(1)
    space.free_pages(gone)
    for wrong in (gone[0], 1 << 40, 16384):
        with refused(space, BadFrame, f"frame {wrong:#x}"):
            space.free_pages([mine[0], wrong])
    with refused(space, BadFrame, "twice"):
        space.free_pages([mine[0], mine[1], mine[0]])
    with refused(space, BadFrame, "frame -0x1"):
        space.free_pages([-1])
    for wrong in ("text", b"bytes", 1.5, None):
        with refused(space, TypeError, "page frames|iterable"):
            space.free_pages(wrong)


@every_kernel
def test_not_in_an_nmi(kernel: str) -> None:
    space = make(kernel)
    mine = space.alloc_pages(1)
    with space.in_context("hardirq"):
        space.free_pages(space.alloc_pages(1))
    with space.in_context("nmi"):
        with refused(space, BadContext, "nmi"):
            space.alloc_pages(1)
        with refused(space, BadContext, "nmi"):
            space.free_pages(mine)
