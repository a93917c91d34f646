"""``pcpu_get_vm_areas``: areas at fixed offsets from one base, for the per-CPU allocator (specification section 7.1).

The areas have no guard page - and no ``VM_NO_GUARD`` either, as in the kernel: what is behind one is the next group's
business.  Nothing is mapped; the per-CPU allocator populates pages on demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vmalloc.calls.aliases import reclaim_and_purge
from vmalloc.calls.reserve import allow_access
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import expect_no_array, remove_vm_area
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress, OutOfAddresses, OutOfFrames
from vmalloc.flags import TASK, VM_ALLOC
from vmalloc.units import format_range

__all__ = ["pcpu_free_vm_areas", "pcpu_get_vm_areas"]


def pcpu_get_vm_areas(
    state: VmallocState, offsets: Sequence[int], sizes: Sequence[int], align: int, caller: object
) -> list[VmStruct]:
    """Reserves areas at the asked offsets from one base, as high as they fit.

    Args:
        offsets, sizes: bytes, one each per group; multiples of ``align``.
        align: bytes; a power of two and a page multiple.

    Raises:
        BadContext: in an interrupt.
        BadSize: a geometry the kernel stops at. OutOfAddresses: no base, even after a purge.
        OutOfFrames: no memory for the records.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("pcpu_get_vm_areas", "it may sleep: task context only")
    for _ in offsets:
        if not state.machine.slab("vm_struct") or not state.machine.slab("vmap_area"):
            raise OutOfFrames("no memory for the records of per-CPU areas")
    starts = _starts(state, offsets, sizes, align)
    if state.kasan is not None:
        _populate(state, starts, sizes)
    areas = []
    for start, size in zip(starts, sizes, strict=True):
        vm = VmStruct(size, VM_ALLOC, state.page_size)
        vm.addr = start
        vm.caller = caller
        vm.requested_size = size
        vm.align = align
        state.areas[start] = vm
        areas.append(vm)
        if state.kasan is not None:
            allow_access(state, vm)
    return areas


def _populate(state: VmallocState, starts: Sequence[int], sizes: Sequence[int]) -> None:
    """Makes the shadow of all ranges; where there is no memory for it, all of them are free again at once."""
    for made, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if state.kasan.populate(start, start + size, True) == 0:
            continue
        for other in starts:
            state.space.free_now(other)
        ranges = [(first, first + length) for first, length in zip(starts[:made], sizes, strict=False)]
        state.kasan.undone(ranges, [state.allocator.free.block_of(first) for first, _ in ranges])
        raise OutOfFrames(f"no page frames for the KASAN shadow of {format_range(start, start + size)}")


def _starts(state: VmallocState, offsets: Sequence[int], sizes: Sequence[int], align: int) -> list[int]:
    """Where they are: as the address space says, with a purge in between that also takes fragmented blocks."""
    try:
        return state.space.pcpu_get_vm_areas_nowait(offsets, sizes, align)
    except OutOfAddresses:
        reclaim_and_purge(state)
        return state.space.pcpu_get_vm_areas_nowait(offsets, sizes, align, "even after a purge")


def pcpu_free_vm_areas(state: VmallocState, areas: Iterable[VmStruct]) -> None:
    """Frees the areas of one group, lazily. Raises BadAddress for one that is not live."""
    if state.machine.running.context != TASK:
        raise state.refuse("pcpu_free_vm_areas", "it may sleep: task context only")
    group = list(areas)
    for i, vm in enumerate(group):
        if not vm.live or state.areas.get(vm.addr) is not vm:
            raise BadAddress(vm.addr, "is not the start of an area of its own")
        expect_no_array(vm, vm.addr)
        if vm.pages is not None or not vm.flags & VM_ALLOC or vm in group[:i]:
            raise BadAddress(vm.addr, f"{vm!r} is no area of a per-CPU group, or stands in the list twice")
    for vm in group:
        remove_vm_area(state, vm.addr)
