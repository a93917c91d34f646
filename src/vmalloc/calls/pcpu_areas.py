"""``pcpu_get_vm_areas``: areas at fixed offsets from one base, for the per-CPU allocator (specification section 7.1).

The areas have no guard page - and no ``VM_NO_GUARD`` either, as in the kernel: what is behind one is the next group's
business.  Nothing is mapped; the per-CPU allocator populates pages on demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import expect_no_array, remove_vm_area
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress, OutOfFrames
from vmalloc.flags import TASK, VM_ALLOC

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
    starts = state.space.pcpu_get_vm_areas(offsets, sizes, align)
    areas = []
    for start, size in zip(starts, sizes, strict=True):
        vm = VmStruct(size, VM_ALLOC, state.page_size)
        vm.addr = start
        vm.caller = caller
        vm.requested_size = size
        vm.align = align
        state.areas[start] = vm
        areas.append(vm)
    return areas


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
