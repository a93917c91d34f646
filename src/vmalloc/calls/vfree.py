"""``vfree`` and its family: unmap at once, flush later (specification sections 4.2, 4.11 and 6).

Told from top to bottom (``vfree``):

1. in an interrupt the work is left to a worker (``vfree_atomic``);
2. find the area; the address may be that of any of its pages, as in the kernel;
3. clear its page-table entries - **without** a TLB flush - and make its addresses lazy (``remove_vm_area``): other CPUs
may
   still translate them, so they are given to nobody before a purge has flushed;
4. ``VM_FLUSH_RESET_PERMS``: make the frames' direct map normal again, which flushes at once;
5. give the frames back, one by one, then the list of frames.

The frames are reused before the flush: a stale translation reads somebody else's bytes.  That is the kernel's bargain;
the machine shows it (``Fault`` of kind ``stale_tlb``).

What a wrong address is answered with is an error, where the kernel warns and returns; nothing is changed.  A
``vm_map_ram`` range, which the kernel unlinks and loses (6.12), is left alone too: section 15 allows to tighten that.
"""

import cython

from vmalloc.calls.aliases import unmap_aliases
from vmalloc.calls.kasan_report import report_free
from vmalloc.errors import BadAddress
from vmalloc.units import format_address, format_range

if not cython.compiled:
    from vmalloc.calls.area_pages import release_area_pages
    from vmalloc.calls.lazy import became_lazy
    from vmalloc.calls.reserve import forbid_access
    from vmalloc.flags import NMI, TASK, VM_FLUSH_RESET_PERMS, VM_MAP_PUT_PAGES

__all__ = [
    "DeferredFrees",
    "expect_not_waiting",
    "find_area_to_free",
    "free_vm_area",
    "remove_vm_area",
    "reset_perms",
    "vfree",
    "vfree_atomic",
    "vunmap",
]


def vfree(state, address, call="vfree"):
    """Frees the area that contains a page-aligned address, in any context but NMI.

    Raises:
        BadContext: in an NMI.
        BadAddress: not page aligned, or in no area.
    """
    if state.machine.running.context != TASK:
        vfree_atomic(state, address, call)
        return
    vm = find_area_to_free(state, address, call)
    free_area(state, vm)


def free_area(state, vm):
    """``vfree`` of an area that was found."""
    remove_vm_area(state, vm.addr)
    if vm.flags & VM_FLUSH_RESET_PERMS:
        reset_perms(state, vm)
    release_area_pages(state, vm)
    array_area = vm.array_area
    if array_area is not None:
        vm.array_area = None
        free_area(state, array_area)


def find_area_to_free(state, address, call):
    """The area that contains an address; raises BadAddress with what is known about an address that none does."""
    if 0 <= address <= 0xFFFFFFFFFFFFFFFF:
        if address & (state.page_size - 1):
            state.warn(f"Trying to {call}() bad address ({format_address(address)})")
            state.warn(f"Trying to {call}() nonexistent vm area ({format_address(address)})")
            refuse_free(state, address, call, f"is not page aligned (pages of {state.page_size:#x} bytes)")
        vm = state.find(address)
        if vm is not None:
            expect_no_array(vm, address)
            expect_not_waiting(state, vm, address)
            return vm
    state.warn(f"Trying to {call}() nonexistent vm area ({format_address(address)})")
    refuse_free(state, address, call, why_no_area(state, address))


def refuse_free(state, address, call, reason, gone=False):
    """Raises for an address that is not the caller's to free: BadAddress, with KASAN the BadFree among them.

    Args:
        gone: the caller holds a handle of an area that was freed.
    """
    if state.kasan is not None:
        report_free(state, address, call, reason, gone)
    raise BadAddress(address, reason)


def expect_no_array(vm, address):
    """Raises BadAddress for what belongs to another: the list of frames of an area, a chunk's areas."""
    if vm.is_array:
        if vm.pages is None:
            raise BadAddress(address, f"{vm!r} is part of a chunk of the per-CPU allocator, and goes with that")
        raise BadAddress(address, f"{vm!r} is the list of frames of another area, and goes with that")


def expect_not_waiting(state, vm, address):
    """Raises BadAddress for what waits for a grace period: readers may hold it, and a worker frees it (``rcu``)."""
    if state.rcu_waiting and vm.addr in state.rcu_waiting:
        waits = f"is in the area at {format_address(vm.addr)}, which waits for a grace period to be freed already"
        refuse_free(state, address, "vfree", waits)


def why_no_area(state, address):
    """What is at an address where no area is."""
    if not state.vmalloc_start <= address < state.vmalloc_end:
        return f"is not in the vmalloc range {format_range(state.vmalloc_start, state.vmalloc_end)}"
    if state.space.find(address) is not None:
        return "is in a range without a vm_struct (vm_map_ram, or early memory)"
    for area in state.space.lazy() + state.space.pooled():
        if area.start <= address < area.end:
            return f"is in no area: {area} since an earlier free"
    return "is in no area"


def remove_vm_area(state, address):
    """Unmaps an area and makes its addresses lazy (section 4.2); its frames are still its own.

    Args:
        address: the area's start.
    """
    vm = state.areas[address]
    end = vm.addr + vm.size
    if state.kasan is not None:
        forbid_access(state, vm)
    state.machine.unmap(vm.addr, end)
    if state.debug_pagealloc:
        state.machine.flush(vm.addr, end)
    if state.allocator.make_lazy(vm.addr) != 0:
        raise MemoryError(f"no memory to note that {format_range(vm.addr, end)} is lazy")
    vm.live = False
    del state.areas[address]
    became_lazy(state, address)
    return vm


def vfree_atomic(state, address, call="vfree_atomic"):
    """Frees an area later, in task context: from an interrupt, or for a caller that must not sleep (section 6.3).

    The area itself holds the list of what is to be freed: its first word becomes a link, so it must be writable, and
    what it held is gone at once.

    Raises:
        BadContext: in an NMI.
        BadAddress: not page aligned, or in no area, or on the list already.
        Fault: the area cannot be written.
    """
    if state.machine.running.context == NMI:
        raise state.refuse(call, "not even deferred frees may be asked for in an NMI")
    vm = find_area_to_free(state, address, call)
    for waiting in state.deferred_frees:
        if vm in waiting:
            waits = f"is in the area {format_address(vm.addr)}, which waits to be freed already"
            refuse_free(state, address, call, waits)
    cpu = state.machine.running.cpu
    pending = state.deferred_frees[cpu]
    link = pending[len(pending) - 1].addr if pending else 0
    state.machine.store(vm.addr, link.to_bytes(state.pointer_size, "little"))
    pending.append(vm)
    if state.kasan is not None:
        state.kasan.free_later(vm.addr)
    if len(pending) == 1:
        state.machine.defer(DeferredFrees(state, cpu), cpu)


class DeferredFrees:
    """The work item of one CPU: frees everything on its list, the last one first."""

    def __init__(self, state, cpu):
        self.state = state
        self.cpu = cpu

    def __call__(self):
        pending = list(self.state.deferred_frees[self.cpu])
        self.state.deferred_frees[self.cpu].clear()
        for vm in reversed(pending):
            if vm.live:  # its handle may have been collected in task context meanwhile
                free_area(self.state, vm)


def vunmap(state, address):
    """Removes a mapping and its area; the frames stay whose they are (section 6.2).

    Raises:
        BadContext: in an interrupt.
        BadAddress: not page aligned, or in no area.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("vunmap", "it may sleep: task context only")
    vm = find_area_to_free(state, address, "vunmap")
    free_vm_area(state, vm)


def free_vm_area(state, vm, call="free_vm_area"):
    """Removes an area without its frames (``free_vm_area``), which are the caller's from now on, and count no more.

    Raises:
        BadContext: in an interrupt. BadAddress: it is the list of frames of another area.
    """
    if state.machine.running.context != TASK:
        raise state.refuse(call, "it may sleep: task context only")
    expect_no_array(vm, vm.addr)
    expect_not_waiting(state, vm, vm.addr)
    remove_vm_area(state, vm.addr)
    if vm.flags & VM_FLUSH_RESET_PERMS and not state.kernel.has_sparse:
        reset_perms(state, vm)
    if vm.pages is not None and not vm.flags & VM_MAP_PUT_PAGES:
        state.nr_vmalloc_pages -= vm.nr_pages
    array_area = vm.array_area
    if array_area is not None:
        vm.array_area = None
        free_area(state, array_area)


def reset_perms(state, vm):
    """Makes the direct map of an area's frames normal again, and flushes everything that is lazy (section 4.11)."""
    pages = vm.pages
    start, end, found = direct_map_span(state, vm)
    if pages is not None:
        state.machine.set_direct_map(pages, 0, vm.nr_pages, False)
    if found:
        unmap_aliases(state, start, end, True)
    else:
        unmap_aliases(state)
    if pages is not None:
        state.machine.set_direct_map(pages, 0, vm.nr_pages, True)


def direct_map_span(state, vm):
    """The hull of the permanent addresses of an area's frames, and whether there are any."""
    info = state.info
    start, end, found = info.direct_map_end, 0, False
    step = 1 << vm.page_order
    i = 0
    while vm.pages is not None and i < vm.nr_pages:
        address = info.direct_map_start + (vm.pages[i] << state.page_shift)
        if address < info.direct_map_end:
            start = min(start, address)
            end = max(end, address + (step << state.page_shift))
            found = True
        i += step
    return start, end, found
