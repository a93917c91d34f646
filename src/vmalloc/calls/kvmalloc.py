"""``kvmalloc``: contiguous frames if they are to be had easily, otherwise ``vmalloc`` (specification section 2.6).

The slab allocator is not modelled: what ``kmalloc`` gives is a block of frames of its own, at its permanent address in
the direct map, also where a slab would share a page.  What matters here is kept: when the block is tried, how hard, and
what follows when there is none.
"""

from __future__ import annotations

from typing import Any

from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import expect_not_waiting, vfree
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.calls.vmalloc import checked_node, checked_size, vmalloc_node_range
from vmalloc.calls.vrealloc import vrealloc
from vmalloc.errors import BadAddress, BadRequest, BadSize, OutOfFrames
from vmalloc.flags import (
    GFP_DIRECT_RECLAIM,
    GFP_NOFAIL,
    GFP_NORETRY,
    GFP_NOWARN,
    GFP_RETRY_MAYFAIL,
    GFP_THISNODE,
    GFP_ZERO,
    NMI,
    NUMA_NO_NODE,
    PROT_READ,
    PROT_WRITE,
    TAKE_DMA32,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
    VM_ALLOW_HUGE_VMAP,
    VM_NO_GUARD,
)
from vmalloc.pages import Pages
from vmalloc.units import format_address, format_size

__all__ = ["kfree", "kmalloc", "kvfree", "kvfree_sensitive", "kvmalloc", "kvrealloc"]

_INT_MAX = 2**31 - 1
_MAX_PAGE_ORDER = 10


def kvmalloc(
    state: VmallocState, size: int, gfp: int, node: int | None, caller: object, *, align: int = 1
) -> VmStruct:
    """Allocates memory that need not be contiguous, but preferably is.

    Raises:
        BadSize: not positive, or more than 2 GiB - 1 that are not contiguous.
        BadRequest: no such node; a non-blocking request that does not find a block (up to 6.18).
        OutOfFrames, OutOfAddresses: nothing left.
    """
    size = checked_size(state, size, gfp)
    number = checked_node(state, node)
    kernel = state.kernel
    contiguous_gfp = gfp
    if size > state.page_size:
        contiguous_gfp = (gfp | GFP_NOWARN) & ~GFP_NOFAIL
        if not gfp & GFP_RETRY_MAYFAIL:
            if kernel.kvmalloc_reclaims:
                contiguous_gfp |= GFP_NORETRY
            else:
                contiguous_gfp &= ~GFP_DIRECT_RECLAIM
    try:
        return kmalloc(state, size, contiguous_gfp, number, caller)
    except OutOfFrames:
        if size <= state.page_size:
            raise
    if size > _INT_MAX:
        message = f"kvmalloc of {size} bytes ({format_size(size)}): more than {_INT_MAX}"
        raise BadSize(message if gfp & GFP_NOWARN else state.warn_once(message, "kvmalloc"))
    waits = bool(gfp & GFP_DIRECT_RECLAIM)
    if not waits and not kernel.allows_nonblocking:
        raise OutOfFrames(f"no contiguous {format_size(size)} for a request that must not wait")
    flags = VM_ALLOW_HUGE_VMAP if waits else 0
    return vmalloc_node_range(
        state, size, align if kernel.vrealloc_aligns else 1, state.vmalloc_start, state.vmalloc_end, gfp,
        PROT_READ | PROT_WRITE, flags, number, caller,
    )  # fmt: skip


def kmalloc(state: VmallocState, size: int, gfp: int, node: int, caller: object) -> VmStruct:
    """Allocates a contiguous block of frames at its permanent address.

    Raises:
        OutOfFrames: no block of that order, or an order that no block has.
    """
    if state.machine.running.context == NMI:
        raise state.refuse("kmalloc", "the page allocator takes locks")
    count = -(-size // state.page_size)
    order = (count - 1).bit_length()
    how = TAKE_ZERO if gfp & GFP_ZERO else 0
    if gfp & GFP_DIRECT_RECLAIM and not gfp & GFP_NORETRY:
        how |= TAKE_MAY_DRAIN
    if gfp & GFP_THISNODE:
        how |= TAKE_STRICT
    if state.info.word_bits == 32:
        how |= TAKE_DMA32  # low memory: only that has a permanent address
    pfn = state.machine.take(order, node, how) if order <= _MAX_PAGE_ORDER else -1
    if pfn < 0:
        asked = None if node == NUMA_NO_NODE else node
        raise OutOfFrames(f"no contiguous {format_size(size)} (a block of order {order})", order, asked)
    vm = VmStruct(state.page_size << order, VM_NO_GUARD, 0)
    vm.addr = state.info.direct_map_start + (pfn << state.page_shift)
    vm.requested_size = size
    vm.caller = caller
    vm.node = node
    vm.page_order = order
    vm.pages = Pages(range(pfn, pfn + (1 << order)), state.page_size)
    vm.nr_pages = 1 << order
    state.contiguous[vm.addr] = vm
    return vm


def kfree(state: VmallocState, address: int) -> None:
    """Frees what ``kmalloc`` gave. Raises BadAddress when it gave nothing at this address."""
    if state.machine.running.context == NMI:
        raise state.refuse("kfree", "the page allocator takes locks")
    vm = state.contiguous.get(address)
    if vm is None:
        raise BadAddress(address, "is neither in the vmalloc range nor the start of a contiguous block")
    expect_not_waiting(state, vm, address)
    code = state.machine.give(vm.pages[0], vm.page_order)
    if code != 0:
        raise BadRequest(f"{format_address(address)}: {state.machine.why_not(vm.pages[0], vm.page_order)}")
    del state.contiguous[address]
    vm.live = False
    vm.pages = None
    vm.nr_pages = 0


def kvrealloc(state: VmallocState, address: int, size: int, gfp: int, caller: object) -> VmStruct:
    """Resizes what ``kvmalloc`` gave; the result is another area when it had to move.

    What is in the vmalloc range is ``vrealloc``'s. Contiguous memory stays while its block is large enough; then
    another block is tried, as hard as ``kvmalloc`` would, and then ``kvmalloc`` itself; the old block's whole capacity
    is copied.

    Raises:
        BadSize: not positive. BadAddress: nothing was allocated there.
        OutOfFrames, OutOfAddresses: nothing left; the memory is as it was.
    """
    size = checked_size(state, size, gfp)
    if state.vmalloc_start <= address < state.vmalloc_end:
        return vrealloc(state, address, size, gfp, caller)
    old = state.contiguous.get(address)
    if old is None:
        raise BadAddress(address, "is neither in the vmalloc range nor the start of a contiguous block")
    expect_not_waiting(state, old, address)
    if size <= old.size:
        old.requested_size = size
        return old
    moved = kvmalloc(state, size, gfp, None, caller)
    frames: Any = moved.pages
    for i, pfn in enumerate(old.pages):
        state.machine.copy_frame(frames[i], pfn, state.page_size)
    kfree(state, address)
    return moved


def kvfree_sensitive(state: VmallocState, address: int, size: int) -> None:
    """Zeroes ``size`` bytes, then frees: what was a secret is in no frame afterwards.

    Raises:
        BadSize: more bytes than there are. BadAddress: nothing was allocated there.
    """
    found = state.contiguous.get(address) or state.find_area(address)
    if found is None or found.addr != address or found.pages is None:
        raise BadAddress(address, "is not the start of memory that kvmalloc gave")
    if not 0 <= size <= found.usable_size:
        raise BadSize(f"{size} bytes to zero of {found.usable_size} ({format_size(found.usable_size)})")
    expect_not_waiting(state, found, address)
    for start in range(0, size, state.page_size):
        state.machine.zero_frame(found.pages[start >> state.page_shift], 0, min(state.page_size, size - start))
    kvfree(state, address)


def kvfree(state: VmallocState, address: int) -> None:
    """Frees what ``kvmalloc`` gave, whichever it was. Raises as ``vfree`` and ``kfree``."""
    if state.vmalloc_start <= address < state.vmalloc_end:
        vfree(state, address)
    else:
        kfree(state, address)
