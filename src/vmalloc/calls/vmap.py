"""``vmap``: map frames that exist already, in any order, from anywhere, more than once (specification section 2.4).

Nothing is copied and nothing allocated but addresses and page tables: the frames stay whose they are, unless the caller
hands them over (``VM_MAP_PUT_PAGES``).  Base pages only, never executable.  A frame that is mapped twice has two
addresses and one content.

Told top to bottom: check, reserve, map; a mapping that fails is unmapped and its addresses go through the lazy stage.

``vmap_pfn`` maps what is no memory; the sparse functions map into an area that was reserved with holes.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmalloc.calls.reserve import get_vm_area_node
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import free_vm_area
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress, BadFrame, BadRequest, BadSize, ExceedsMemory, OutOfFrames
from vmalloc.flags import (
    GFP_KERNEL,
    NUMA_NO_NODE,
    PROT_EXEC,
    PROT_READ,
    PROT_SPECIAL,
    PROT_WRITE,
    TASK,
    VM_FLUSH_RESET_PERMS,
    VM_IOREMAP,
    VM_MAP,
    VM_MAP_PUT_PAGES,
    VM_NO_GUARD,
    VM_SPARSE,
)
from vmalloc.pages import Pages
from vmalloc.units import format_range, format_size

__all__ = [
    "expect_memory",
    "no_mapping",
    "vm_area_map_pages",
    "vm_area_unmap_pages",
    "vmap",
    "vmap_pages_range",
    "vmap_pfn",
    "vunmap_range",
]

_EBUSY = 16


def vmap(state: VmallocState, pages: Pages, flags: int, prot: int, caller: object) -> VmStruct:
    """Maps frames contiguously into the vmalloc range.

    Args:
        pages: the frames, in order; a frame may stand there twice.
        flags: ``VM_*`` beside ``VM_MAP``; ``VM_NO_GUARD`` is dropped with a warning.
        prot: ``PROT_*``; execution is never allowed.

    Raises:
        BadContext: in an interrupt.
        BadRequest: ``VM_FLUSH_RESET_PERMS`` (6.12): the frames are not this area's to change.
        BadSize: no page, or more than the machine has.
        BadFrame: a frame that is no memory.
        OutOfAddresses, OutOfFrames: nothing left; nothing was changed.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("vmap", "it may sleep: task context only")
    if flags & VM_FLUSH_RESET_PERMS and state.kernel.has_sparse:
        raise BadRequest(state.warn("vmap: VM_FLUSH_RESET_PERMS is for areas that own their frames"))
    if flags & VM_NO_GUARD:
        state.warn("vmap: VM_NO_GUARD is dropped: every mapping has a guard page")
        flags &= ~VM_NO_GUARD
    count = len(pages)
    if count == 0:
        raise BadSize("no page to map")
    if count > state.total_pages:
        raise ExceedsMemory(f"{count} pages to map are more than the {state.total_pages} of the machine")
    expect_memory(state, pages)
    vm = get_vm_area_node(
        state, count << state.page_shift, 1, state.page_shift, flags | VM_MAP, state.vmalloc_start, state.vmalloc_end,
        NUMA_NO_NODE, GFP_KERNEL, caller,
    )  # fmt: skip
    _map(state, vm, vm.addr, pages, prot & ~PROT_EXEC)
    if flags & VM_MAP_PUT_PAGES:
        vm.pages = pages
        vm.nr_pages = count
    return vm


def _map(state: VmallocState, vm: VmStruct, address: int, pages: Pages, prot: int) -> None:
    """Maps into a new area, or takes the area away again."""
    result = state.machine.map_pages(address, pages, 0, len(pages), prot)
    if result != 0:
        free_vm_area(state, vm)
        raise no_mapping(result, address, len(pages) << state.page_shift)


def no_mapping(result: int, address: int, size: int) -> Exception:
    """The error of a mapping that a machine answered with ``result``."""
    where = format_range(address, address + size)
    if result == -_EBUSY:
        return BadAddress(address, f"something is mapped in {where} already")
    return OutOfFrames(f"no page frame for a page table to map {where} ({format_size(size)})")


def expect_memory(state: VmallocState, pages: Iterable[int]) -> None:
    """Raises BadFrame for a frame without ``struct page``: one that is no memory."""
    for pfn in pages:
        if state.machine.node_of(pfn) < 0:
            raise BadFrame(pfn, "is no memory of this machine; vmap_pfn maps what has no struct page")


def vmap_pfn(state: VmallocState, pfns: Pages, prot: int, caller: object) -> VmStruct:
    """Maps what has no ``struct page``, as an I/O mapping: aligned to its size, special, never executable.

    Raises:
        BadFrame: one of them is memory.
        Others as ``vmap``.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("vmap_pfn", "it may sleep: task context only")
    count = len(pfns)
    if count == 0:
        raise BadSize("no page to map")
    vm = get_vm_area_node(
        state, count << state.page_shift, 1, state.page_shift, VM_IOREMAP, state.vmalloc_start, state.vmalloc_end,
        NUMA_NO_NODE, GFP_KERNEL, caller,
    )  # fmt: skip
    for pfn in pfns:
        if state.machine.node_of(pfn) >= 0 or pfn << state.page_shift >= state.info.phys_end:
            free_vm_area(state, vm)
            why = "vmap_pfn: it has a struct page, or is no physical address"
            raise BadFrame(pfn, state.warn_once(why, "vmap_pfn"))
    _map(state, vm, vm.addr, pfns, (prot & ~PROT_EXEC) | PROT_SPECIAL)
    return vm


# -- into a reserved range ---------------------------------------------------------------------------------------------


def vmap_pages_range(state: VmallocState, start: int, end: int, prot: int, pages: Pages, shift: int) -> None:
    """Maps frames into part of an area that was reserved, with mappings of ``1 << shift`` bytes (section 3.4).

    Raises:
        BadAddress: not whole pages inside one area, or something is mapped there (``-EBUSY``).
        BadSize: another number of pages than the range has, or no multiple of the mapping size (``-EINVAL``).
        BadRequest: a mapping size that the machine does not have, or a block that is not contiguous.
        BadFrame: a frame that is no memory. OutOfFrames: no memory for page tables; nothing stays mapped.
    """
    count = _expect_reserved(state, start, end)
    if len(pages) != count:
        raise BadSize(f"{len(pages)} pages for the {count} of {format_range(start, end)}")
    expect_memory(state, pages)
    for address in range(start, end, state.page_size):
        if state.machine.translate(address) >= 0:
            raise BadAddress(address, "something is mapped there already")
    if shift == state.page_shift:
        result = state.machine.map_pages(start, pages, 0, count, prot)
    else:
        result = _map_blocks(state, start, end, prot, pages, shift)
    if result != 0:
        vunmap_range(state, start, end)
        raise no_mapping(result, start, end - start)


def _map_blocks(state: VmallocState, start: int, end: int, prot: int, pages: Pages, shift: int) -> int:
    """Maps block after block; the first error, or 0."""
    if shift not in state.info.vmap_shifts:
        raise BadRequest(f"mappings of 2**{shift} bytes: {state.info.arch} has {state.info.vmap_shifts}")
    block = 1 << shift
    if (end - start) % block:
        raise BadSize(f"{format_range(start, end)} is no multiple of {format_size(block)}")
    each = block >> state.page_shift
    for i in range(0, len(pages), each):
        if any(pages[i + k] != pages[i] + k for k in range(each)):
            raise BadRequest(f"frames {i} to {i + each} of the list are not contiguous")
    for i in range(0, len(pages), each):
        result: int = state.machine.map_range(start + (i << state.page_shift), pages[i], block, shift, prot)
        if result != 0:
            return result
    return 0


def vunmap_range(state: VmallocState, start: int, end: int) -> None:
    """Unmaps part of an area and flushes at once. Raises BadAddress for what are not whole pages inside one area."""
    _expect_reserved(state, start, end)
    state.machine.unmap(start, end)
    state.machine.flush(start, end)


def _expect_reserved(state: VmallocState, start: int, end: int) -> int:
    """The pages of a range that lies inside one area, guard page excluded."""
    if state.machine.running.context != TASK:
        raise state.refuse("vmap_pages_range", "it may sleep: task context only")
    vm = state.find_area(start)
    if vm is None or start % state.page_size or end % state.page_size or not start < end <= vm.addr + vm.usable_size:
        raise BadAddress(start, f"{format_range(start, end)} are no whole pages inside one area")
    if vm.pages is not None or vm.is_array:
        raise BadAddress(start, f"{vm!r} has memory of its own there, which goes with the area")
    return (end - start) >> state.page_shift


# -- sparse areas (6.12) -----------------------------------------------------------------------------------------------


def vm_area_map_pages(state: VmallocState, vm: VmStruct, start: int, end: int, pages: Pages) -> None:
    """Maps frames into ``[start, end)`` of a sparse area, readable and writable.

    Raises:
        BadRequest: the kernel has no sparse areas, or this is none, or has flags that do not go with it (``-EINVAL``).
        ExceedsMemory: more pages than the machine has (``-E2BIG``).
        BadAddress: outside the area, guard page excluded (``-ERANGE``), or something is mapped there.
        OutOfFrames: no memory for page tables; nothing stays mapped.
    """
    _expect_sparse(state, vm, start, end, "vm_area_map_pages")
    count = (end - start) >> state.page_shift
    if count != len(pages):
        raise BadSize(f"{len(pages)} pages for the {count} of {format_range(start, end)}")
    expect_memory(state, pages)
    for address in range(start, end, state.page_size):
        if state.machine.translate(address) >= 0:
            raise BadAddress(address, "something is mapped there already")
    result = state.machine.map_pages(start, pages, 0, count, PROT_READ | PROT_WRITE)
    if result != 0:
        state.machine.unmap(start, end)
        state.machine.flush(start, end)
        raise no_mapping(result, start, end - start)


def vm_area_unmap_pages(state: VmallocState, vm: VmStruct, start: int, end: int) -> None:
    """Unmaps ``[start, end)`` of a sparse area and flushes at once. Raises as ``vm_area_map_pages``."""
    _expect_sparse(state, vm, start, end, "vm_area_unmap_pages")
    state.machine.unmap(start, end)
    state.machine.flush(start, end)


def _expect_sparse(state: VmallocState, vm: VmStruct, start: int, end: int, call: str) -> None:
    if state.machine.running.context != TASK:
        raise state.refuse(call, "it may sleep: task context only")
    if not state.kernel.has_sparse:
        raise BadRequest(f"Linux {state.kernel.name} has no sparse areas")
    if vm.flags & (VM_FLUSH_RESET_PERMS | VM_NO_GUARD) or not vm.flags & VM_SPARSE:
        raise BadRequest(state.warn(f"{vm!r} is no sparse area, or has flags that do not go with it"))
    if (end - start) >> state.page_shift > state.total_pages:
        raise ExceedsMemory(f"{(end - start) >> state.page_shift} pages: the machine has {state.total_pages}")
    if start % state.page_size or end % state.page_size:
        raise BadAddress(start, f"{format_range(start, end)} is no range of whole pages")
    if not vm.addr <= start < end <= vm.addr + vm.usable_size:
        inside = format_range(vm.addr, vm.addr + vm.usable_size)
        raise BadAddress(start, f"{format_range(start, end)} is not in {inside}")

