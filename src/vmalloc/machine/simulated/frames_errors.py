"""What the frames of a simulated machine raise, by cause."""

from __future__ import annotations

from vmalloc.errors import VmallocError
from vmalloc.machine.simulated.frames_states import REASONS, ZONE_NAMES

__all__ = ["BadFrame", "BadPlace", "OutOfFrames"]


class BadPlace(VmallocError, ValueError):
    """A node, zone, CPU, order or layout that this machine does not or cannot have; nothing was changed."""


class BadFrame(VmallocError, ValueError):
    """A frame that the caller does not hold in this way, or a range that is not in it; nothing was changed.

    Attributes:
        pfn: the frame's number.
        code: the cause, one of ``FOREIGN``, ``DOUBLE_FREE``, ``WRONG_ORDER``, ``INSIDE_BLOCK``, ``BAD_RANGE``.
    """

    def __init__(self, pfn: int, code: int, detail: str = "") -> None:
        super().__init__(f"frame {pfn:#x}: {REASONS[code]}{detail}")
        self.pfn = pfn
        self.code = code


class OutOfFrames(VmallocError, MemoryError):
    """No zone that the request allows has a free block of this order; nothing was changed.

    Attributes:
        order: the request's exponent: ``2**order`` frames.
        node: the node asked first.
        zone_limit: the highest kind of zone allowed.
        strict: whether only that node was allowed.
        listed: frames on lists of CPUs, which ``drain`` makes available to everybody.
    """

    def __init__(self, order: int, node: int, zone_limit: int, strict: bool, listed: int) -> None:
        where = f"on node {node} alone" if strict else f"from node {node} on"
        super().__init__(
            f"no free block of order {order} ({1 << order} frames) {where}, zone {ZONE_NAMES[zone_limit]} and below; "
            f"{listed} frames are on lists of CPUs"
        )
        self.order = order
        self.node = node
        self.zone_limit = zone_limit
        self.strict = strict
        self.listed = listed
