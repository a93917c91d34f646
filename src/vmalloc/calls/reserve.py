"""Reserve addresses: ``alloc_vmap_area`` and ``__get_vm_area_node``, and their undo (specification 1.10, 1.11).

Step one of every allocation.  The address allocator makes single attempts; here is what the kernel does around them:
the records, the guard page, the trace event after every attempt, and what happens when there is no room:

1. purge fragmented ``vm_map_ram`` blocks and everything that is lazy, pools emptied, and try once more, without looking
   at the pools again;
2. ask the notifiers; if one of them freed something, begin again with the purge;
3. otherwise complain and fail.

A caller that must not wait gets one attempt.

The guard page belongs to the area and lies **behind** it, never mapped.  Under a policy without guard pages the area
has none, but ``VM_NO_GUARD`` is not set: that flag means that the caller did not want one, and sparse areas refuse it.
"""

import cython

from vmalloc.calls.aliases import reclaim_and_purge
from vmalloc.errors import BadAddress, BadSize, OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_NOWARN
from vmalloc.units import format_size, is_power_of_two

if not cython.compiled:
    from vmalloc.areas.free_tree import ADDRESS_MAX
    from vmalloc.areas.pools import NO_CLASS
    from vmalloc.areas.states import EINVAL, ENOMEM, ERROR_VALUES
    from vmalloc.calls.vm_struct import VmStruct
    from vmalloc.flags import GFP_DIRECT_RECLAIM, TASK, VM_ALLOC, VM_IOREMAP, VM_NO_GUARD

__all__ = [
    "align_of_ioremap",
    "alloc_vmap_area",
    "alloc_vmap_range",
    "allow_access",
    "forbid_access",
    "free_vm_area_unmapped",
    "get_vm_area_node",
    "populate_shadow",
]


def get_vm_area_node(state, size, align, shift, flags, start, end, node, gfp, caller):
    """Reserves an area: addresses and a ``vm_struct``, nothing mapped yet.

    Args:
        size: bytes, more than 0; rounded up to a multiple of ``1 << shift``.
        align: bytes, a power of two; ``VM_IOREMAP`` replaces it by a power of two that covers the size.
        start, end: the window.

    Raises:
        BadContext: in an interrupt; in process context only memory can be waited for.
        OutOfAddresses, OutOfFrames: no addresses, or no memory for a record; nothing was changed.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("get_vm_area", "areas are reserved in task context only")
    requested = size
    unit = 1
    unit = unit << shift
    size = (size + unit - 1) & ~(unit - 1)
    if size < requested or size > ADDRESS_MAX - state.page_size:
        raise BadSize(f"{requested} bytes ({format_size(requested)}) are more than there are addresses")
    if flags & VM_IOREMAP:
        align = align_of_ioremap(size, state.page_shift, state.info.ioremap_max_order)
    if not state.machine.slab("vm_struct"):
        raise OutOfFrames("no memory for a vm_struct")
    guard_size = 0 if flags & VM_NO_GUARD else state.guard_size
    vm = VmStruct(size, flags, guard_size)
    vm.size += guard_size
    vm.caller = caller
    vm.requested_size = requested
    vm.node = node
    vm.align = align
    alloc_vmap_area(state, vm.size, align, start, end, gfp, vm)
    if state.kasan is not None and not flags & VM_ALLOC:
        allow_access(state, vm)
    return vm


def align_of_ioremap(size, page_shift, max_order):
    """The alignment of an I/O mapping: the power of two that covers it, between a page and the architecture's limit.

    Computed from the size without the guard page (section 1.11 step 3).
    """
    return 1 << min(max((size - 1).bit_length(), page_shift), max_order)


def free_vm_area_unmapped(state, vm):
    """Undoes ``get_vm_area_node`` of an area where nothing was mapped: its addresses are free at once, not lazy."""
    if state.kasan is not None:
        forbid_access(state, vm)
    state.allocator.give_back(vm.addr)
    del state.areas[vm.addr]
    vm.live = False


def alloc_vmap_area(state, size, align, vstart, vend, gfp, vm):
    """Finds addresses for ``vm`` and makes them busy.

    Raises:
        BadSize: an alignment that is no power of two. BadAddress: a window that is none.
        OutOfAddresses: no room; after a purge if the caller may wait. The kernel's message is a note.
        OutOfFrames: no memory for a ``vmap_area``.
    """
    if align == 0 or align & (align - 1) or vstart & (state.page_size - 1) or vstart >= vend:
        raise bad_request(align, vstart, vend)
    address = alloc_vmap_range(state, size, align, vstart, vend, gfp, 0)
    vm.addr = address
    state.areas[address] = vm


def populate_shadow(state, address, size, gfp):
    """Makes the shadow of new addresses (section 9.3); gives them back when there is no memory for it."""
    waits = gfp & GFP_DIRECT_RECLAIM or not state.kernel.allows_nonblocking
    end = address + size
    failed = True
    try:
        failed = state.kasan.covers(address, end) and state.kasan.populate(address, end, waits) != 0
    finally:  # also where the shadow itself could not be written, because a flush is missing
        if failed:
            state.allocator.give_back(address)
    if failed:
        raise OutOfFrames(f"no page frames for the KASAN shadow of {size} bytes ({format_size(size)})")


def allow_access(state, vm):
    """What was asked for of an area may be touched from now on."""
    if state.kasan.covers(vm.addr, vm.addr + vm.size):
        state.kasan.allocated(vm.addr, vm.addr + vm.size, vm.requested_size)


def forbid_access(state, vm):
    """Nothing of an area may be touched any more: of its usable size, as in the kernel (section 9.3)."""
    if state.kasan.covers(vm.addr, vm.addr + vm.size):
        state.kasan.freed(vm.addr, vm.size_without_guard())


def alloc_vmap_range(state, size, align, vstart, vend, gfp, va_flags):
    """Makes a range busy, with nothing known of it but ``va_flags``; its address. Raises as ``alloc_vmap_area``."""
    address = attempt(state, size, align, vstart, vend, va_flags, True)
    if address >= ERROR_VALUES:
        address = alloc_vmap_area_overflow(state, size, align, vstart, vend, gfp, va_flags, address)
    if state.kasan is not None:
        populate_shadow(state, address, size, gfp)
    return address


def attempt(state, size, align, vstart, vend, va_flags, try_pool):
    """One attempt, traced; an address, or an error value. A record is only needed where a pool does not give one."""
    allocator = state.allocator
    allocator.choose(size, align, vstart, vend, state.machine.running.cpu, try_pool)
    if allocator.chosen_class == NO_CLASS and not state.machine.slab("vmap_area"):
        return ADDRESS_MAX - ENOMEM + 1
    address = allocator.take_choice(size, va_flags)
    if state.observer is not None:
        trace_attempt(state, size, align, vstart, vend, address)
    return address


def trace_attempt(state, size, align, vstart, vend, address):
    """Fires the event of an attempt (section 10.3); a failed one shows the error, before 6.17 the window's end."""
    failed = address >= ERROR_VALUES
    shown = address & state.space.address_max if not failed or state.kernel.failure_is_errno else vend
    state.observer(
        "alloc_vmap_area", va_start=shown, size=size, align=align, vstart=vstart, vend=vend, failed=int(failed)
    )


def alloc_vmap_area_overflow(state, size, align, vstart, vend, gfp, va_flags, error):
    """What follows a failed attempt; the address in the end."""
    purged = False
    while True:
        if error == ADDRESS_MAX - ENOMEM + 1:
            raise OutOfFrames("no memory for a vmap_area")
        if error == ADDRESS_MAX - EINVAL + 1:
            raise bad_request(align, vstart, vend)
        if not gfp & GFP_DIRECT_RECLAIM and state.kernel.allows_nonblocking:
            raise OutOfAddresses(size, align, vstart, vend, "the caller must not wait for a purge")
        if purged:
            if not notify(state):
                raise overflow(state, size, align, vstart, vend, gfp)
            purged = False
        else:
            reclaim_and_purge(state)
            purged = True
        error = attempt(state, size, align, vstart, vend, va_flags, False)
        if error < ERROR_VALUES:
            return error


def bad_request(align, vstart, vend):
    """Why the allocator refused the request itself."""
    if not is_power_of_two(align):
        return BadSize(f"alignment {align:#x} is no power of two")
    return BadAddress(vstart, f"no window ends at {vend:#x} and begins there")


def notify(state):
    """Asks the purge notifiers, without the lock; True when one of them freed something."""
    if state.unlock_for is None:
        return state.space.notify_purge() > 0
    return state.unlock_for(state.space.notify_purge) > 0


def overflow(state, size, align, vstart, vend, gfp):
    """The error of an allocation that finally fails, with the kernel's words."""
    message = state.kernel.overflow_message.format(size=size, start=vstart, end=vend)
    if not gfp & GFP_NOWARN:
        state.warn(message)
        if state.observer is not None:
            state.observer("printk", message=message)
    error = OutOfAddresses(size, align, vstart, vend)
    error.add_note(message)
    return error
