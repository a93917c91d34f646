"""What a bad access hit, and ``vread``, which hits nothing (specification sections 2.9 and 4.1).

The machine makes the access and says that it failed; what is there - a guard page, an area that was freed, nothing -
only the areas know.  Here the two are put together, after the fact: ``VmallocSpace.load`` goes straight to the machine,
and an access that goes through costs nothing of it.

``vread`` never fails: what cannot be read is zeros.
"""

from __future__ import annotations

from typing import NoReturn

from vmalloc.calls.ram_words import what_is_at
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress, BadSize, Fault
from vmalloc.flags import VM_ALLOC, VM_IOREMAP, VM_SPARSE, VM_UNINITIALIZED
from vmalloc.units import format_range, format_size

__all__ = ["explain", "refuse", "too_much", "vread"]


def refuse(state: VmallocState, address: int, size: int) -> NoReturn:
    """Raises for an access to what are no addresses: BadSize for a negative size, else BadAddress."""
    if size < 0:
        raise BadSize(f"{size} bytes: an access has none or more")
    raise BadAddress(address, f"{size} bytes from there are no addresses of {state.info.arch}")


def too_much(size: int) -> NoReturn:
    """Raises BadSize for bytes that this process cannot hold."""
    raise BadSize(f"{size} bytes ({format_size(size)}) to read are more than this process can hold") from None


def explain(state: VmallocState, fault: Fault) -> NoReturn:
    """Raises a fault again, saying what was hit."""
    if fault.kind not in ("unmapped", "stale_tlb"):
        raise fault
    kind, reason = _what_is_at(state, fault.address)
    if fault.kind == "stale_tlb":
        kind, reason = "stale_tlb", f"this CPU's TLB was not flushed and still translates it as before; {reason}"
    raise Fault(fault.address, fault.access, kind, reason, size=fault.size, cpu=fault.cpu) from None


def _what_is_at(state: VmallocState, address: int) -> tuple[str, str]:
    """The kind of fault, and what is at an address where nothing is mapped."""
    vm = state.find_area(address)
    if vm is not None:
        whole = vm.flags & VM_ALLOC and vm.pages is None  # per-CPU areas have no guard page
        end = vm.addr + (vm.size if whole else vm.usable_size)
        behind = address - end
        where = f"the area {format_range(vm.addr, end)} of {format_size(vm.requested_size)}, allocated by {vm.caller}"
        if behind >= 0:
            return "guard", f"{behind} bytes behind {where}"
        return "unmapped", f"{address - vm.addr} bytes into {where}"
    ram = what_is_at(state, address)
    if ram is not None:
        return ram
    for area in state.space.lazy() + state.space.pooled():
        if area.start <= address < area.end:
            return "freed", f"{address - area.start} bytes into {area} since an earlier free"
    return "unmapped", "nothing is mapped there and no area has the address"


def vread(state: VmallocState, address: int, size: int) -> bytes:
    """Reads a range tolerantly: holes, guard pages and device memory read as zeros (section 2.9).

    Returns:
        The bytes; fewer only at the top of the address space, and none where no area is in the range at all up to 6.1.

    Raises:
        BadAddress, BadSize: a negative address or size.
    """
    if size < 0:
        raise BadSize(f"{size} bytes to read")
    if not 0 <= address <= state.space.address_max:
        raise BadAddress(address, f"no address of {state.info.arch}")
    end = min(address + size, state.space.address_max + 1)
    try:
        out = bytearray(end - address)
    except (MemoryError, OverflowError):
        too_much(size)
    found = False
    at = address
    while at < end:
        area = state.space.first_ending_above(at)
        if area is None or area.start >= end:
            break
        found = True
        vm = state.areas.get(area.start)
        start, stop = max(at, area.start), min(end, area.end)
        if vm is not None:
            _read_area(state, vm, start, stop, out, start - address)
        elif state.kernel.keeps_used_map:
            _read_ram(state, area.start, start, stop, out, start - address)
        at = area.end
    if not found and not state.kernel.vread_fills_holes:
        return b""
    return bytes(out)


def _read_area(state: VmallocState, vm: VmStruct, start: int, stop: int, out: bytearray, at: int) -> None:
    """Copies what can be read of ``[start, stop)`` of an area to ``out``."""
    if vm.flags & (VM_IOREMAP | VM_SPARSE | VM_UNINITIALIZED):
        return
    _read_pages(state, start, min(stop, vm.addr + vm.usable_size), out, at)


def _read_ram(state: VmallocState, first: int, start: int, stop: int, out: bytearray, at: int) -> None:
    """Copies what can be read of ``[start, stop)`` in a range of ``vm_map_ram`` that begins at ``first``.

    Of a block only the pages in use are read; up to 6.3 nobody knew which, and nothing was.
    """
    if first in state.ram_ranges:
        _read_pages(state, start, stop, out, at)
        return
    while start < stop:
        piece = min(stop - start, state.page_size - (start & (state.page_size - 1)))
        if state.blocks.used_at(start):
            _read_pages(state, start, start + piece, out, at)
        start += piece
        at += piece


def _read_pages(state: VmallocState, start: int, stop: int, out: bytearray, at: int) -> None:
    """Copies the bytes of ``[start, stop)`` to ``out``, page by page; what is not mapped stays zero."""
    while start < stop:
        offset = start & (state.page_size - 1)
        piece = min(stop - start, state.page_size - offset)
        pfn = state.machine.translate(start)
        if pfn >= 0 and state.machine.node_of(pfn) >= 0:
            out[at : at + piece] = state.machine.read_frame(pfn, offset, piece)
        start += piece
        at += piece
