"""``vrealloc``: another size, in place where the area has room, else by moving (specification section 2.5).

What "room" means changed: 6.12 goes by the pages of the area, later kernels by the size that was asked for, so that a
buffer that was shrunk can tell how much of it was promised.  Pages are never given back by shrinking.  Growing within
the area does not zero: it relies on what shrinking zeroed.

An allocation that fails leaves the area as it was.
"""

from __future__ import annotations

from typing import Any

from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import expect_no_array, expect_not_waiting, refuse_free, vfree
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.calls.vmalloc import checked_node, checked_size, vmalloc_node_range
from vmalloc.errors import BadAddress, BadRequest, BadSize
from vmalloc.flags import GFP_THISNODE, GFP_ZERO, NUMA_NO_NODE, PROT_READ, PROT_WRITE
from vmalloc.units import format_size, is_power_of_two

__all__ = ["vrealloc"]


def vrealloc(
    state: VmallocState,
    address: int,
    size: int,
    gfp: int,
    caller: object,
    *,
    align: int = 1,
    node: int | None = None,
) -> VmStruct:
    """Resizes the area at ``address``; the result is another area when it had to move.

    Args:
        address: the area's start.
        size: bytes, more than 0.
        gfp: ``GFP_ZERO`` zeroes what is new, ``GFP_THISNODE`` with another node moves the area there.
        align: bytes; an area that is not aligned so is refused, not moved (6.18).

    Raises:
        BadRequest: the kernel has no ``vrealloc``, or not with an alignment or a node.
        BadSize: not positive, or an alignment that is no power of two.
        BadAddress: no area starts there, or it is not aligned so.
        OutOfAddresses, OutOfFrames: nothing left; the area is as it was.
    """
    kernel = state.kernel
    if not kernel.has_vrealloc:
        raise BadRequest(f"Linux {kernel.name} has no vrealloc")
    if not kernel.vrealloc_aligns and (align != 1 or node is not None):
        raise BadRequest(f"vrealloc of Linux {kernel.name} takes neither alignment nor node")
    if not is_power_of_two(align):
        raise BadSize(f"alignment {align:#x} is no power of two")
    size = checked_size(state, size, gfp)
    checked_node(state, node)
    vm = _area_at(state, address)
    old = vm.requested_size if kernel.keeps_requested_size else vm.usable_size
    if vm.usable_size < old:
        raise BadAddress(address, state.warn("vrealloc() has mismatched area vs requested sizes"))
    if address % align:
        why = f"is not aligned to {format_size(align)}, and vrealloc moves nothing for that"
        raise BadAddress(address, state.warn(why))
    zero = bool(gfp & GFP_ZERO) or state.init_on_alloc
    elsewhere = node is not None and bool(gfp & GFP_THISNODE) and not _all_on(state, vm, node)
    if not elsewhere:
        if size <= old:
            if zero:
                _zero(state, vm, size, old)
            _resized(state, vm, size)
            return vm
        if kernel.keeps_requested_size and size <= vm.usable_size:
            _resized(state, vm, size)
            return vm
    moved = vmalloc_node_range(
        state, size, align, state.vmalloc_start, state.vmalloc_end, gfp, PROT_READ | PROT_WRITE, 0,
        NUMA_NO_NODE if node is None else node, caller,
    )  # fmt: skip
    if not vm.live:
        vfree(state, moved.addr)
        raise BadAddress(address, "the area was freed while the call asked for addresses (by a purge notifier)")
    _copy(state, moved, vm, min(old, size))
    vfree(state, address)
    return moved


def _area_at(state: VmallocState, address: int) -> VmStruct:
    """The area that starts at an address and may be resized. Raises BadAddress or BadRequest where there is none."""
    vm: Any = state.find_area(address)
    if vm is None or vm.addr != address:
        refuse_free(state, address, "vrealloc", state.warn("Trying to vrealloc() nonexistent vm area"))
    expect_no_array(vm, address)
    expect_not_waiting(state, vm, address)
    if vm.pages is None:
        raise BadRequest(f"{vm!r} has no frames of its own to copy or to give back")
    found: VmStruct = vm
    return found


def _resized(state: VmallocState, vm: Any, size: int) -> None:
    """Another size in the same place; what KASAN allows follows it (section 9.5)."""
    if state.kasan is not None and state.kasan.covers(vm.addr, vm.addr + vm.size):
        state.kasan.resized(vm.addr, vm.requested_size, size)
    vm.requested_size = size


def _all_on(state: VmallocState, vm: VmStruct, node: int) -> bool:
    """Whether an area is on a node: the kernel looks at its first page."""
    return vm.pages is None or len(vm.pages) == 0 or state.machine.node_of(vm.pages[0]) == node


def _zero(state: VmallocState, vm: Any, start: int, end: int) -> None:
    """Zeroes bytes ``[start, end)`` of an area, frame by frame."""
    while start < end:
        offset = start & (state.page_size - 1)
        piece = min(end - start, state.page_size - offset)
        state.machine.zero_frame(vm.pages[start >> state.page_shift], offset, piece)
        start += piece


def _copy(state: VmallocState, to: Any, source: Any, size: int) -> None:
    """Copies the first ``size`` bytes from one area to another, frame by frame."""
    for i in range(0, size, state.page_size):
        page = i >> state.page_shift
        state.machine.copy_frame(to.pages[page], source.pages[page], min(state.page_size, size - i))
