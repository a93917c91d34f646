"""``get_vm_area`` and ``ioremap``: reserve addresses, and map device memory there (specification 1.11, 2.4, 2.7).

An I/O mapping is aligned to its size, up to the architecture's limit, so that it can be mapped with large entries: PMD
and PUD leaves where address, physical address and size allow them.  There are no page frames behind it.
"""

from __future__ import annotations

from operator import index

from vmalloc.calls.reserve import get_vm_area_node
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import free_vm_area, refuse_free
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.calls.vmalloc import checked_node
from vmalloc.errors import BadAddress, BadRequest, BadSize, OutOfFrames
from vmalloc.flags import GFP_KERNEL, PROT_EXEC, PROT_READ, PROT_SPECIAL, PROT_WRITE, TASK, VM_IOREMAP
from vmalloc.units import format_range, format_size

__all__ = ["expect_window", "get_vm_area", "ioremap", "ioremap_page_range", "iounmap"]

_EBUSY = 16


def get_vm_area(
    state: VmallocState, size: int, flags: int, start: int, end: int, caller: object, node: int | None = None
) -> VmStruct:
    """Reserves an area without mapping anything (``__get_vm_area_caller``).

    Args:
        size: bytes; rounded up to pages.
        flags: ``VM_*``; ``VM_IOREMAP`` aligns it to its size.
        start, end: the window.

    Raises:
        BadSize: not positive. BadRequest: flags that are no ``VM_*``. Others as ``reserve.get_vm_area_node``.
    """
    size = index(size)
    if size <= 0:
        raise BadSize(f"{size} bytes: an area has at least one byte")
    expect_window(state, start, end)
    if size > end - start:
        raise BadSize(f"{size} bytes ({format_size(size)}) do not fit in {format_range(start, end)}")
    if not 0 <= flags < 1 << 32:
        raise BadRequest(f"flags {flags:#x}: they have 32 bits")
    return get_vm_area_node(
        state, size, 1, state.page_shift, flags, start, end, checked_node(state, node), GFP_KERNEL, caller
    )


def expect_window(state: VmallocState, start: int, end: int) -> None:
    """Raises BadAddress unless ``[start, end)`` begins at a page and is among the kernel's addresses."""
    if start % state.page_size or not 0 < start < end <= state.space.address_max:
        raise BadAddress(start, f"no window ends at {end:#x} and begins there")
    first, last = state.info.kernel_start, state.info.kernel_end
    if not first <= start < end <= last:
        kernel = format_range(first, last)
        raise BadAddress(start, f"window {format_range(start, end)} is not among the kernel's addresses, {kernel}")


def ioremap(state: VmallocState, phys: int, size: int, caller: object, prot: int = PROT_READ | PROT_WRITE) -> VmStruct:
    """Maps device memory.

    Args:
        phys: physical address; need not be page aligned.
        size: bytes.

    Returns:
        The area; ``phys`` itself is at its start plus the offset in the page.

    Raises:
        BadContext: in an interrupt.
        BadSize: not positive, or beyond the physical addresses.
        BadAddress: the range is memory, which must not be mapped a second way.
        OutOfAddresses, OutOfFrames: nothing left.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("ioremap", "it may sleep: task context only")
    if size <= 0:
        raise BadSize(f"{size} bytes: a mapping has at least one byte")
    if not phys >= 0 or phys + size > state.info.phys_end:
        raise BadSize(f"physical {format_range(phys, phys + size)} ends beyond {state.info.phys_end:#x}")
    first = phys & ~(state.page_size - 1)
    length = (phys + size - first + state.page_size - 1) & ~(state.page_size - 1)
    for pfn in (first >> state.page_shift, (first + length - 1) >> state.page_shift):
        if state.machine.node_of(pfn) >= 0:
            raise BadAddress(phys, state.warn(f"ioremap on RAM at {phys:#x}-{phys + size - 1:#x}"))
    vm = get_vm_area(state, length, VM_IOREMAP, state.vmalloc_start, state.vmalloc_end, caller)
    vm.phys_addr = first
    try:
        ioremap_page_range(state, vm.addr, vm.addr + length, first, prot)
    except OutOfFrames:
        free_vm_area(state, vm)
        raise
    return vm


def ioremap_page_range(state: VmallocState, start: int, end: int, phys: int, prot: int) -> None:
    """Maps physical memory into exactly one I/O area, with the largest entries that fit.

    Raises:
        BadRequest: no I/O area there (``-EINVAL``). BadAddress: not exactly its range (``-ERANGE``).
        OutOfFrames: no memory for page tables.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("ioremap_page_range", "it may sleep: task context only")
    vm = state.find_area(start)
    if vm is None or not vm.flags & VM_IOREMAP:
        raise BadRequest(state.warn(f"vm_area at {start:#x} is no I/O area"))
    if vm.addr != start or vm.addr + vm.usable_size != end:
        raise BadAddress(start, state.warn(f"ioremap_page_range of {format_range(start, end)} in {vm!r}"))
    if phys % state.page_size or not 0 <= phys <= state.info.phys_end - (end - start):
        raise BadAddress(phys, f"no physical {end - start:#x} bytes of whole pages below {state.info.phys_end:#x}")
    shifts = state.info.vmap_shifts if state.huge_ioremap else ()
    largest = max(shifts, default=state.page_shift)
    special = (prot & ~PROT_EXEC) | PROT_SPECIAL
    result = state.machine.map_range(start, phys >> state.page_shift, end - start, largest, special)
    if result == -_EBUSY:
        raise BadAddress(start, f"something is mapped in {format_range(start, end)} already")
    if result != 0:
        state.machine.unmap(start, end)
        state.machine.flush(start, end)
        raise OutOfFrames(f"no page frame for a page table to map {format_range(start, end)}")


def iounmap(state: VmallocState, address: int) -> None:
    """Removes an I/O mapping; any address in its first page will do, as ``ioremap`` may have returned it."""
    vm = state.find_area(address & ~(state.page_size - 1))
    if vm is None or not vm.flags & VM_IOREMAP:
        refuse_free(state, address, "iounmap", state.warn(f"iounmap: bad address {address:#x}"))
    if state.machine.running.context != TASK:
        raise state.refuse("iounmap", "it may sleep: task context only")
    free_vm_area(state, vm)


