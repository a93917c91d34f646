"""``vmap``, ``vmap_pfn`` and sparse areas (section 2.4)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled
from vmalloc.errors import BadAddress, BadContext, BadFrame, BadRequest, BadSize, ExceedsMemory, Fault, OutOfFrames
from vmalloc.flags import PROT_READ, PROT_WRITE, VM_FLUSH_RESET_PERMS, VM_IOREMAP, VM_MAP, VM_NO_GUARD, VM_SPARSE
from vmalloc.kernels import profile

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
DEVICE = 1 << 28


@every_kernel
def test_frames_of_several_areas_in_any_order_more_than_once(kernel: str) -> None:
    """Section 2.4: nothing is copied; two addresses, one content."""
    space = make(kernel)
    first, second = space.vzalloc(2 * PAGE), space.vzalloc(PAGE)
    both = space.vmap([second, first, first.pages[0]])
    assert both.flags & VM_MAP
    assert both.size == 4 * PAGE
    assert both.pages is None
    both.write(PAGE, b"one")
    assert first.read(0, 3) == both.read(3 * PAGE, 3) == b"one"
    second.write(5, b"two")
    assert both.read(5, 3) == b"two"
    space.vunmap(both)
    assert first.read(0, 3) == b"one"
    space.validate()


@every_kernel
def test_a_mapping_may_be_read_only_and_is_never_executable(kernel: str) -> None:
    """Section 2.4: prot is forced non-executable."""
    space = make(kernel)
    frames = space.alloc_pages(1)
    area = space.vmap(frames, prot="r")
    with pytest.raises(Fault) as caught:
        area.write(0, b"x")
    assert caught.value.kind == "readonly"
    executable = space.vmap(frames, prot="rwx")
    assert space.machine.page_table.do_walk(executable.address)[2] == PROT_READ | PROT_WRITE


@every_kernel
def test_flags_that_vmap_does_not_take(kernel: str) -> None:
    """Section 2.4: VM_FLUSH_RESET_PERMS is refused since 6.12, VM_NO_GUARD is dropped with a warning."""
    space = make(kernel)
    frames = space.alloc_pages(1)
    if profile(kernel).has_sparse:
        with refused(space, BadRequest, "VM_FLUSH_RESET_PERMS"):
            space.vmap(frames, flags=VM_FLUSH_RESET_PERMS)
    else:
        area = space.vmap(frames, flags=VM_FLUSH_RESET_PERMS)
        space.vunmap(area)
        assert space.stats()["lazy_areas"] == 0
    area = space.vmap(frames, flags=VM_NO_GUARD)
    assert "VM_NO_GUARD" in space.dmesg()[-1]
    assert area.vm.size == 2 * PAGE
    assert not area.flags & VM_NO_GUARD


@every_kernel
def test_more_pages_than_the_machine_has(kernel: str) -> None:
    """Section 2.4: count > totalram."""
    space = make(kernel, memory="16MiB", nodes=1)
    with refused(space, ExceedsMemory, "4097 pages to map are more than the 4096"):
        space.vmap([5] * 4097)


@every_kernel
@pytest.mark.parametrize("operation", ["map_pages", "page_table", "slab"])
def test_a_mapping_that_fails_is_taken_away(kernel: str, operation: str) -> None:
    """Section 2.4: unmaps and returns nothing."""
    space = make(kernel)
    frames = space.alloc_pages(600)
    before = settled(space)
    space.machine.fail_next(operation, after=1 if operation == "page_table" else 0)
    with pytest.raises(OutOfFrames):
        space.vmap(frames)
    assert settled(space) == before
    space.validate()


@every_kernel
def test_what_is_no_memory_is_mapped_by_vmap_pfn_only(kernel: str) -> None:
    """Section 2.4: vmap_pfn, aligned to its size; a frame with a struct page is warned about once."""
    space = make(kernel)
    pfns = [(DEVICE >> 12) + i for i in (3, 1, 2)]
    area = space.vmap_pfn(pfns)
    assert area.flags & VM_IOREMAP
    assert area.address % (4 * PAGE) == 0
    assert [space.vmalloc_to_pfn(area.address + i * PAGE) for i in range(3)] == pfns
    space.vunmap(area)
    before = settled(space)
    memory = space.alloc_pages(1)
    for _ in range(2):
        with pytest.raises(BadFrame, match="struct page"):
            space.vmap_pfn([pfns[0], memory[0]])
    assert len([line for line in space.dmesg() if "struct page" in line]) == 1
    space.free_pages(memory)
    assert settled(space) == before


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_sparse_areas_are_mapped_piece_by_piece(kernel: str) -> None:
    """Section 2.4: vm_area_map_pages, vm_area_unmap_pages with an immediate flush."""
    space = make(kernel)
    area = space.get_vm_area(8 * PAGE, VM_SPARSE)
    frames = space.alloc_pages(2)
    start = area.address + 3 * PAGE
    space.vm_area_map_pages(area, start, start + 2 * PAGE, frames)
    space.store(start + PAGE - 1, b"ab")
    assert space.load(start + PAGE, 1) == b"b"
    assert space.vread(start + PAGE - 1, 2) == bytes(2)  # section 2.9: sparse areas read as holes
    flushes = space.stats()["tlb_flushes"]
    with refused(space, BadAddress, "mapped there already"):
        space.vm_area_map_pages(area, start + PAGE, start + 3 * PAGE, frames)
    space.vm_area_unmap_pages(area, start, start + PAGE)
    assert space.stats()["tlb_flushes"] == flushes + 1
    assert space.vmalloc_to_pfn(start) is None
    assert space.vmalloc_to_pfn(start + PAGE) == frames[1]
    space.validate()


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_what_sparse_areas_refuse(kernel: str) -> None:
    """Section 2.4: -EINVAL, -E2BIG, -ERANGE."""
    space = make(kernel)
    kept = []
    frames = space.alloc_pages(1)
    sparse, plain = space.get_vm_area(4 * PAGE, VM_SPARSE), space.get_vm_area(4 * PAGE)
    for flags in (VM_SPARSE | VM_NO_GUARD, VM_SPARSE | VM_FLUSH_RESET_PERMS):
        wrong = space.get_vm_area(4 * PAGE, flags)
        kept.append(wrong)  # a handle that goes frees its area
        with refused(space, BadRequest, "no sparse area"):
            space.vm_area_map_pages(wrong, wrong.address, wrong.address + PAGE, frames)
    at = sparse.address
    with refused(space, BadRequest, "no sparse area"):
        space.vm_area_unmap_pages(plain, plain.address, plain.address + PAGE)
    with refused(space, ExceedsMemory, "the machine has 16384"):
        space.vm_area_map_pages(sparse, at, at + 20000 * PAGE, frames)
    for start, end in [(at - PAGE, at), (at + 4 * PAGE, at + 5 * PAGE), (at, at), (at + PAGE, at)]:
        with refused(space, BadAddress, "is not in"):
            space.vm_area_map_pages(sparse, start, end, frames)
    with refused(space, BadAddress, "whole pages"):
        space.vm_area_map_pages(sparse, at + 1, at + PAGE, frames)
    with refused(space, BadSize, "1 pages for the 2"):
        space.vm_area_map_pages(sparse, at, at + 2 * PAGE, frames)
    with refused(space, BadFrame, "no memory"):
        space.vm_area_map_pages(sparse, at, at + PAGE, [1 << 30])
    space.machine.fail_next("map_pages")
    with refused(space, OutOfFrames, "page table"):
        space.vm_area_map_pages(sparse, at, at + PAGE, frames)
    with space.in_context("softirq"):
        for call, more in ((space.vm_area_map_pages, (frames,)), (space.vm_area_unmap_pages, ())):
            with refused(space, BadContext, "softirq"):
                call(sparse, at, at + PAGE, *more)


def test_old_kernels_have_no_sparse_areas() -> None:
    """Section 13: VM_SPARSE since 6.12."""
    space = make("6.1")
    area = space.get_vm_area(PAGE, VM_SPARSE)
    with refused(space, BadRequest, r"6\.1 has no sparse areas"):
        space.vm_area_map_pages(area, area.address, area.end, [1])


@every_kernel
def test_frames_may_be_mapped_into_a_reserved_range(kernel: str) -> None:
    """Section 2.4: vmap_pages_range, vunmap_range."""
    space = make(kernel)
    area = space.get_vm_area(8 * PAGE)
    frames = space.alloc_pages(3)
    space.vmap_pages_range(area.address + PAGE, area.address + 4 * PAGE, frames)
    space.store(area.address + PAGE, b"here")
    assert space.machine.read_frame(frames[0], 0, 4) == b"here"
    with refused(space, Fault, "into"):
        space.load(area.address, 1)
    with refused(space, BadAddress, "mapped there already"):
        space.vmap_pages_range(area.address + 3 * PAGE, area.address + 6 * PAGE, frames)
    with refused(space, BadSize, "3 pages for the 2"):
        space.vmap_pages_range(area.address + 4 * PAGE, area.address + 6 * PAGE, frames)
    for start, end in ((PAGE, 9 * PAGE), (1, PAGE), (PAGE, PAGE), (-PAGE, 0)):
        with refused(space, BadAddress, "no whole pages"):
            space.vmap_pages_range(area.address + start, area.address + end, frames)
        with refused(space, BadAddress, "no whole pages"):
            space.vunmap_range(area.address + start, area.address + end)
    flushes = space.stats()["tlb_flushes"]
    space.vunmap_range(area.address, area.address + 8 * PAGE)
    assert space.stats()["tlb_flushes"] == flushes + 1
    assert space.vmalloc_to_pfn(area.address + PAGE) is None
    with refused(space, Fault, "into"):
        space.load(area.address + PAGE, 1)


def test_a_reserved_range_may_be_mapped_in_blocks() -> None:
    """Section 3.4: chunks of the mapping size, each contiguous and aligned, or page by page."""
    space = make()
    blocks = space.alloc_pages(2, order=9)
    area = space.get_vm_area(4 << 20, VM_IOREMAP)  # aligned to its size
    start = area.address
    space.vmap_pages_range(start, area.end, blocks, shift=21)
    assert space.stats()["mappings_shift21"] == 2
    assert space.vmalloc_to_pfn(start + (3 << 20)) == blocks[512 + 256]
    space.vunmap_range(start, area.end)
    with refused(space, BadRequest, "not contiguous"):
        space.vmap_pages_range(start, area.end, [*blocks[1:], blocks[0]], shift=21)
    with refused(space, BadRequest, "mappings of"):
        space.vmap_pages_range(start, area.end, blocks, shift=16)
    with refused(space, BadSize, "no multiple"):
        space.vmap_pages_range(start, start + (1 << 20), blocks[:256], shift=21)
    space.validate()
