"""Where the shadow of the vmalloc range is, and what its bytes mean (specification sections 9.1 and 9.2).

Idea: one shadow byte describes a *granule* of eight bytes, ``shadow(a) = (a >> 3) + OFFSET``; ``OFFSET`` is the
architecture's.  A byte of 0 allows all eight, 1 to 7 the first so many, and a negative one - with the top bit set -
none, and says why.  So a page of shadow describes eight pages: ``unit`` bytes, by which shadow is made and released.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmalloc.errors import BadRequest
from vmalloc.machine.base import MachineInfo
from vmalloc.units import ADDRESS_MAX, align_down, align_up, format_range

__all__ = [
    "BUG_TYPES",
    "GRANULE",
    "GRANULE_SHIFT",
    "KASAN_PAGE_FREE",
    "KASAN_VMALLOC_INVALID",
    "SHADOW_NAMES",
    "ShadowLayout",
    "bug_type",
    "shadow_layout",
    "shadow_range",
]

GRANULE_SHIFT = 3
GRANULE = 1 << GRANULE_SHIFT

KASAN_VMALLOC_INVALID = 0xF8
KASAN_PAGE_FREE = 0xFF

#: What a report calls the bug, by shadow byte (section 9.2). Of these only 0xF8 is ever written here; a byte that
#: somebody else stored into the shadow is named as the kernel would name it.
BUG_TYPES = {
    KASAN_VMALLOC_INVALID: "vmalloc-out-of-bounds",
    KASAN_PAGE_FREE: "use-after-free",
    0xFE: "slab-out-of-bounds",
    0xFC: "slab-out-of-bounds",
    0xFB: "slab-use-after-free",
    0xFA: "slab-use-after-free",
    0xF9: "global-out-of-bounds",
    0xF1: "stack-out-of-bounds",
    0xF2: "stack-out-of-bounds",
    0xF3: "stack-out-of-bounds",
    0xF4: "stack-out-of-bounds",
    0xCA: "alloca-out-of-bounds",
    0xCB: "alloca-out-of-bounds",
}

#: What the shadow bytes stand for, for the legend of a report.
SHADOW_NAMES = {
    0x00: "accessible",
    KASAN_VMALLOC_INVALID: "vmalloc space not accessible",
    KASAN_PAGE_FREE: "freed page",
}


@dataclass(frozen=True, slots=True)
class ShadowLayout:
    """The shadow of a machine's vmalloc range.

    Attributes:
        offset: ``OFFSET``.
        start, end: what has shadow: the vmalloc range in whole pages.
        shadow_start, shadow_end: its shadow, in whole pages.
        page_size: base page in bytes.
    """

    offset: int
    start: int
    end: int
    shadow_start: int
    shadow_end: int
    page_size: int

    @property
    def unit(self) -> int:
        """Bytes that one page of shadow describes."""
        return self.page_size << GRANULE_SHIFT

    def shadow(self, address: int) -> int:
        """Where the byte for an address is.

        >>> ShadowLayout(0xdffffc0000000000, 0, 0, 0, 0, 4096).shadow(0xffffc90000000000) == 0xfffff52000000000
        True
        """
        return ((address >> GRANULE_SHIFT) + self.offset) & ADDRESS_MAX

    def memory(self, shadow: int) -> int:
        """The first of the eight bytes that a shadow byte describes."""
        return ((shadow - self.offset) & ADDRESS_MAX) << GRANULE_SHIFT


def shadow_layout(info: MachineInfo) -> ShadowLayout:
    """The layout of a machine's shadow.

    Raises:
        BadRequest: the specification gives no offset for this architecture.
    """
    if info.kasan_shadow_offset is None:
        raise BadRequest(f"KASAN: no shadow offset is known for {info.arch} (generic mode)")
    page = 1 << info.page_shift
    end = align_up(info.vmalloc_end, page)
    first, last = shadow_range(info.kasan_shadow_offset, info.vmalloc_start, end, page)
    direct_map = (info.direct_map_start, info.direct_map_end, "the direct map")
    for start, behind, what in ((info.vmalloc_start, end, "the vmalloc range itself"), direct_map):
        if first < behind and start < last:
            shadow = format_range(first, last)
            raise BadRequest(f"KASAN: the shadow {shadow} of {info.arch} lies in {what}, {format_range(start, behind)}")
    return ShadowLayout(info.kasan_shadow_offset, info.vmalloc_start, end, first, last, page)


def shadow_range(offset: int, start: int, end: int, page_size: int) -> tuple[int, int]:
    """The shadow of ``[start, end)``, in whole pages."""
    first, last = ((address >> GRANULE_SHIFT) + offset & ADDRESS_MAX for address in (start, end - 1))
    return align_down(first, page_size), align_up(last + 1, page_size)


def bug_type(shadow: int, following: int | None = None) -> str:
    """What the kernel calls a bug whose first bad byte has this shadow (section 9.6).

    Args:
        shadow: the shadow byte; of a partial granule, 1 to 7, the byte behind it decides.
        following: that byte; None when there is none.
    """
    if 0 < shadow < GRANULE:
        shadow = KASAN_VMALLOC_INVALID if following is None else following
    return BUG_TYPES.get(shadow, "unknown-crash")
