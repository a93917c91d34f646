"""What is at an address: areas and frames (specification sections 1.12 and 2.8)."""

from __future__ import annotations

from vmalloc.areas.states import NIL
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress

__all__ = [
    "find_vm_area",
    "is_vm_area_hugepages",
    "is_vmalloc_addr",
    "vmalloc_dump_obj",
    "vmalloc_to_pfn",
]


def find_vm_area(state: VmallocState, address: int) -> VmStruct | None:
    """The area that contains an address, which need not be its start; None for none and for ``vm_map_ram`` ranges."""
    found: VmStruct | None = state.find_area(address)
    return found


def is_vmalloc_addr(state: VmallocState, address: int) -> bool:
    """Whether an address is in the vmalloc range, allocated or not."""
    return bool(state.vmalloc_start <= address < state.vmalloc_end)


def vmalloc_to_pfn(state: VmallocState, address: int) -> int | None:
    """The frame that is mapped at an address, inside a larger mapping the base page in it; None for none."""
    if not 0 <= address <= state.space.address_max:
        return None
    pfn: int = state.machine.translate(address)
    return None if pfn < 0 else pfn


def is_vm_area_hugepages(state: VmallocState, address: int) -> bool:
    """Whether the area at an address was given mappings above the base page.

    Raises:
        BadAddress: no area; the kernel would dereference nothing (section 2.8).
    """
    vm = find_vm_area(state, address)
    if vm is None:
        raise BadAddress(address, "is in no area")
    return bool(vm.page_order > 0)


def vmalloc_dump_obj(state: VmallocState, address: int) -> str | None:
    """What ``vmalloc_dump_obj`` prints of an address, or None when it finds nothing.

    Like the kernel's it rounds **up** to a page and looks only into the node of that address, and so misses the middle
    of long areas where there are several nodes.
    """
    if not 0 <= address <= state.space.address_max - state.page_size:
        return None
    rounded = -(-address // state.page_size) * state.page_size
    row = state.allocator.find_busy(rounded)
    if row == NIL:
        return None
    nodes = state.allocator.nodes
    start = state.allocator.rows.get(row)["va_start"]
    if nodes.node_of_address(start) != nodes.node_of_address(rounded):
        return None
    vm = state.areas.get(start)
    if vm is None:
        return None
    return f" {vm.nr_pages}-page vmalloc region starting at {vm.addr:#x} allocated at {vm.caller}"
