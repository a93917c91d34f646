"""``remap_vmalloc_range``: share an area with user space (specification section 2.10).

User space is one class here, ``UserMapping``: which frames a process has at which of its addresses.  Each frame is held
once more, so the area may be freed while the mapping lives; the frames go when the last of the two lets go.
"""

from __future__ import annotations

from vmalloc.calls.state import VmallocState
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import BadAddress, BadRequest, BadSize
from vmalloc.flags import TASK, VM_DMA_COHERENT, VM_USERMAP
from vmalloc.units import format_range

__all__ = ["UserMapping", "remap_vmalloc_range_partial", "unmap_user"]


class UserMapping:
    """A range of user addresses (``vm_area_struct``) and the frames behind it.

    Attributes:
        start, end: user addresses.
        pfns: the frames, in order.
        dont_expand, dont_dump: set with the first mapping: it cannot grow, and is left out of core dumps.
    """

    def __init__(self, start: int, size: int, page_size: int) -> None:
        if start % page_size or size <= 0 or size % page_size:
            raise BadSize(f"user range {format_range(start, start + size)} is no range of whole pages")
        self.start = start
        self.end = start + size
        self.pfns: list[int] = []
        self.dont_expand = self.dont_dump = False

    def __repr__(self) -> str:
        return f"<UserMapping {format_range(self.start, self.end)}: {len(self.pfns)} pages>"


def remap_vmalloc_range_partial(
    state: VmallocState, mapping: UserMapping, user_address: int, address: int, pgoff: int, size: int
) -> None:
    """Maps ``size`` bytes of an area, from page ``pgoff`` on, into user space.

    All the kernel's reasons are ``-EINVAL``; here each says what it was.

    Raises:
        BadContext: in an interrupt.
        BadAddress: an address that is not page aligned, or in no area.
        BadRequest: the area is not ``VM_USERMAP`` or ``VM_DMA_COHERENT``, or a page has no frame.
        BadSize: beyond the area, guard page excluded, or beyond the mapping.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("remap_vmalloc_range", "it may sleep: task context only")
    for given in (user_address, address):
        if given % state.page_size:
            raise BadAddress(given, f"is not page aligned (pages of {state.page_size:#x} bytes)")
    vm = state.find_area(address)
    if vm is None:
        raise BadAddress(address, "is in no area")
    if not vm.flags & (VM_USERMAP | VM_DMA_COHERENT):
        raise BadRequest(f"{vm!r} is not for user space: vmalloc_user makes such areas")
    offset = pgoff << state.page_shift
    length = -(-size // state.page_size) * state.page_size
    # As in the kernel the bound is computed as if the address were the area's start.
    if size <= 0 or pgoff < 0 or offset + length > vm.usable_size:
        raise BadSize(f"{size} bytes from page {pgoff} on exceed the {vm.usable_size} bytes of the area")
    if user_address < mapping.start or user_address + length > mapping.end:
        raise BadSize(f"{format_range(user_address, user_address + length)} is not in {mapping!r}")
    _insert(state, vm, mapping, address + offset, length)
    mapping.dont_expand = mapping.dont_dump = True
    if mapping not in state.user_mappings:
        state.user_mappings.append(mapping)


def _insert(state: VmallocState, vm: VmStruct, mapping: UserMapping, start: int, length: int) -> None:
    """Inserts page after page; what was inserted before one that cannot be stays, as in the kernel."""
    for address in range(start, start + length, state.page_size):
        pfn = state.machine.translate(address)
        if pfn < 0:
            raise BadRequest(f"nothing is mapped at {address:#x} of {vm!r}")
        state.machine.hold(pfn)
        mapping.pfns.append(pfn)


def unmap_user(state: VmallocState, mapping: UserMapping) -> None:
    """Ends a user mapping: lets go of its frames."""
    for pfn in mapping.pfns:
        state.machine.give(pfn, 0)
    mapping.pfns.clear()
    if mapping in state.user_mappings:
        state.user_mappings.remove(mapping)
