"""What ``vm_map_ram`` has at an address, in words: for faults, and for the errors of ``vm_unmap_ram``.

Nothing here decides anything; it is asked after something went wrong, and may take its time.
"""

from __future__ import annotations

from bisect import bisect_right

from vmalloc.areas.vmap_blocks import rounded_pages
from vmalloc.calls.state import VmallocState
from vmalloc.units import format_address, format_range

__all__ = ["mapped_at", "what_is_at"]


def mapped_at(state: VmallocState, address: int) -> tuple[int, int] | None:
    """The mapping of ``vm_map_ram`` that an address is in, as its start and its pages; None for none.

    The pages that rounding to a power of two left unused behind a piece belong to it.
    """
    block = _block_at(state, address)
    if block != 0:
        start = state.blocks.get(block)["va_start"]
        page = (address - start) >> state.page_shift
        pieces = state.blocks.pieces(block)
        place = bisect_right(pieces, (page, state.blocks.block_pages)) - 1
        if place >= 0 and page < pieces[place][0] + rounded_pages(pieces[place][1]):
            return start + (pieces[place][0] << state.page_shift), pieces[place][1]
        return None
    row = state.space.find(address)
    if row is None or row.start not in state.ram_ranges:
        return None
    return row.start, state.ram_ranges[row.start]


def what_is_at(state: VmallocState, address: int) -> tuple[str, str] | None:
    """The kind of a fault at an address of ``vm_map_ram``, and what is there; None where it has nothing."""
    mapped = mapped_at(state, address)
    if mapped is not None:
        start, count = mapped
        where = f"the {count} pages that vm_map_ram mapped at {format_address(start)}"
        end = start + (count << state.page_shift)
        if address >= end:
            return "unmapped", f"{address - end} bytes behind {where}, in what rounding to a power of two left"
        return "unmapped", f"{address - start} bytes into {where}"
    block = _block_at(state, address)
    if block == 0:
        return None
    fields = state.blocks.get(block)
    start = fields["va_start"]
    name = f"the vm_map_ram block {format_range(start, start + state.blocks.block_size)} of CPU {fields['cpu']}"
    if (address - start) >> state.page_shift < state.blocks.block_pages - fields["free"]:
        return "freed", f"{address - start} bytes into {name}, unmapped since"
    return "unmapped", f"{address - start} bytes into {name}, in a part that was never handed out"


def _block_at(state: VmallocState, address: int) -> int:
    """The record of the block that an address is in; 0 for none."""
    if not state.vmalloc_start <= address < state.vmalloc_end:
        return 0
    found: int = state.blocks.at(address)
    return found
