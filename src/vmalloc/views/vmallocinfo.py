"""``vmallocinfo``: the file ``/proc/vmallocinfo`` of a space (specification section 10.1).

Order: busy ranges, node by node, within a node ascending - with several vmap nodes the file is **not** sorted - and
then the lazy ones, node by node.  Pooled ranges are in neither set and never appear.

What a line has comes from the ``vm_struct``.  Of busy ranges without one, those with ``VMAP_RAM`` are ``vm_map_ram``
and others are left out; up to 6.8 all of them were said to be ``vm_map_ram``.  Areas that are not complete yet
(``VM_UNINITIALIZED``: also those whose building failed and that wait for a worker) were printed like all others then,
and are left out since.

Pages per memory node are counted in blocks of the mapping size, by the node of each block's first frame: a huge mapping
lies on one node.  The numbers are there on kernels built for NUMA, which those for 64 bits usually are, however many
nodes the machine has.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from vmalloc.areas.address_space import VmapArea
from vmalloc.areas.states import VMAP_RAM
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.flags import (
    VM_ALLOC,
    VM_DMA_COHERENT,
    VM_IOREMAP,
    VM_MAP,
    VM_SPARSE,
    VM_UNINITIALIZED,
    VM_USERMAP,
)
from vmalloc.views.callers import CallerTexts
from vmalloc.views.vmallocinfo_line import UNPURGED, VM_MAP_RAM, SnapshotArea, format_line, symbol_of

__all__ = ["info_areas", "vmallocinfo"]

#: In the order of ``vmallocinfo_line.WORDS``, whose last word is no flag.
_WORD_OF = {
    VM_IOREMAP: "ioremap",
    VM_SPARSE: "sparse",
    VM_ALLOC: "vmalloc",
    VM_MAP: "vmap",
    VM_USERMAP: "user",
    VM_DMA_COHERENT: "dma-coherent",
}


def vmallocinfo(state: VmallocState) -> str:
    """The whole file, each line ended by a newline; empty when there is nothing."""
    pointer_digits = state.info.word_bits // 4
    phys_digits = 16 if state.info.phys_end > 1 << 32 else pointer_digits
    return "".join(
        [
            format_line(area, pointer_digits=pointer_digits, phys_digits=phys_digits) + "\n"
            for area in info_areas(state)
        ]
    )


def info_areas(state: VmallocState) -> Iterator[SnapshotArea]:
    """The lines of the file, one by one, not yet written."""
    callers = CallerTexts()
    for area in state.space.busy():
        vm = state.areas.get(area.start)
        if vm is None:
            if area.flags & VMAP_RAM or not state.kernel.has_nodes:
                yield _without_struct(area, VM_MAP_RAM)
        elif not (vm.flags & VM_UNINITIALIZED and state.kernel.has_nodes):
            yield _of_struct(state, vm, callers)
    for area in state.space.lazy():
        yield _without_struct(area, UNPURGED)


def _without_struct(area: VmapArea, kind: str) -> SnapshotArea:
    return SnapshotArea(area.start, area.end, area.size, kind=kind)


def _of_struct(state: VmallocState, vm: VmStruct, callers: CallerTexts) -> SnapshotArea:
    caller, module = symbol_of(callers.text(vm.caller))
    return SnapshotArea(
        start=vm.addr,
        end=vm.addr + vm.size,
        size=vm.size,
        caller=caller,
        module=module,
        pages=vm.nr_pages,
        phys=vm.phys_addr or None,
        words=_words(vm.flags, vm.array_area is not None, state.kernel.has_sparse),
        nodes=_pages_by_node(state, vm),
    )


@lru_cache(maxsize=1024)
def _words(flags: int, is_list_an_area: bool, has_sparse: bool) -> tuple[str, ...]:
    """What the flags say, and whether the list of frames is an area itself; cached: few combinations are in use."""
    words = [word for flag, word in _WORD_OF.items() if flags & flag and (has_sparse or flag != VM_SPARSE)]
    return (*words, "vpages") if is_list_an_area else tuple(words)


def _pages_by_node(state: VmallocState, vm: VmStruct) -> dict[int, int]:
    """Base pages by memory node, ascending; nodes that have none are left out."""
    pages, nr_nodes = vm.pages, state.info.nodes
    if pages is None or vm.nr_pages == 0 or (nr_nodes == 1 and state.info.word_bits == 32):
        return {}
    step = 1 << vm.page_order
    if nr_nodes == 1:
        return {0: -(-vm.nr_pages // step) * step}
    counts = [0] * nr_nodes
    for pfn in pages.numbers(vm.nr_pages)[::step]:
        counts[state.machine.node_of(pfn)] += step
    return {node: count for node, count in enumerate(counts) if count}
