"""Areas from before the allocator existed: ``vm_area_add_early``, ``vm_area_register_early`` (sections 1.5 and 2.7).

Early boot code takes addresses before there is an allocator to ask.  It keeps a list, sorted by address; when the
allocator starts, each of them becomes a busy area, and what lies between is free.
"""

from __future__ import annotations

from bisect import insort

from vmalloc.errors import BadAddress, BadSize
from vmalloc.units import align_up, format_range

__all__ = ["EarlyAreas"]


class EarlyAreas:
    """The list, for one machine.

    Args:
        vmalloc_start: where ``register`` begins to look. vmalloc_end: where it must end.
        page_size: bytes.
    """

    def __init__(self, vmalloc_start: int, vmalloc_end: int, page_size: int = 4096) -> None:
        self.vmalloc_start = vmalloc_start
        self.vmalloc_end = vmalloc_end
        self.page_size = page_size
        self.ranges: list[tuple[int, int]] = []

    def add(self, start: int, size: int) -> None:
        """Adds an area at a given place (``vm_area_add_early``).

        Raises:
            BadSize, BadAddress: no range of whole pages, or it overlaps another; the kernel stops (BUG).
        """
        if size <= 0 or size % self.page_size:
            raise BadSize(f"{size} bytes are no number of whole pages")
        if start % self.page_size:
            raise BadAddress(start, f"is not page aligned (pages of {self.page_size:#x} bytes)")
        for low, high in self.ranges:
            if start < high and low < start + size:
                raise BadAddress(start, f"{format_range(start, start + size)} overlaps {format_range(low, high)}")
        insort(self.ranges, (start, start + size))

    def register(self, size: int, align: int) -> int:
        """Adds an area where it fits first in the vmalloc range (``vm_area_register_early``); its start.

        Raises:
            BadAddress: it does not fit; the kernel stops (BUG).
        """
        size = align_up(size, self.page_size)
        at = align_up(self.vmalloc_start, align)
        for low, high in self.ranges:
            if at + size <= low:
                break
            at = max(at, align_up(high, align))
        if at > self.vmalloc_end - size:
            raise BadAddress(at, f"{size:#x} bytes do not fit in the range that ends at {self.vmalloc_end:#x}")
        self.add(at, size)
        return at
