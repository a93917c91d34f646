"""Storage of the uncompiled build: the same names as the C structs of the frame modules, as Python objects.

``Sections`` stands for the table of pointers: a number that was never set reads None, as an empty C pointer does.
"""

from __future__ import annotations

from vmalloc.machine.simulated.frames.states import MAX_ORDER, NO_FRAME, SECTION_FRAMES

__all__ = ["CpuList", "FrameRow", "Section", "Sections", "ZoneLists", "ZoneOrder", "ZoneSpan"]


class FrameRow:
    """One frame; fields as in ``table.pxd``."""

    __slots__ = ("contents", "next", "order", "owner", "prev", "state")

    def __init__(self) -> None:
        self.next = self.prev = self.owner = self.state = self.order = self.contents = 0


class Section:
    """The frames of one block of the largest order; fields as in ``table.pxd``."""

    __slots__ = ("nr_frames", "page", "row", "touched", "zone")

    def __init__(self) -> None:
        self.zone = self.nr_frames = 0
        self.touched = False
        self.page: list[bytearray | None] = []
        self.row = [FrameRow() for _ in range(SECTION_FRAMES)]


class Sections(dict[int, Section]):
    """Section numbers to sections; None where there is none."""

    def __missing__(self, number: int) -> None:
        return None


class ZoneSpan:
    """The frames of a zone; fields as in ``table.pxd``."""

    __slots__ = ("end_pfn", "start_pfn")

    def __init__(self) -> None:
        self.start_pfn = self.end_pfn = 0


class ZoneLists:
    """The free lists of a zone; fields as in ``buddy.pxd``."""

    __slots__ = ("count", "head", "nr_free", "untouched", "untouched_end")

    def __init__(self) -> None:
        self.nr_free = self.untouched = self.untouched_end = 0
        self.head = [NO_FRAME] * (MAX_ORDER + 1)
        self.count = [0] * (MAX_ORDER + 1)


class CpuList:
    """The list of one CPU in one zone; fields as in ``cpu_lists.pxd``."""

    __slots__ = ("count", "head", "tail")

    def __init__(self) -> None:
        self.head = self.tail = NO_FRAME
        self.count = 0


class ZoneOrder:
    """The zones one kind of request asks; fields as in ``frames.pxd``."""

    __slots__ = ("all", "first", "near")

    def __init__(self) -> None:
        self.first = self.near = self.all = 0
