"""Storage of the uncompiled build: the same names as the C structs of the page-table modules, as Python objects."""

from __future__ import annotations

__all__ = [
    "GroupRow",
    "LeafFound",
    "LevelRow",
    "RangeRow",
    "RootRow",
    "WarningRow",
    "narrow_row",
    "wide_row",
]


class LevelRow:
    """One level; fields as in ``store.pxd``."""

    __slots__ = ("index_mask", "leaf", "modified", "nr_leaves", "nr_tables", "order", "pending", "shift")

    def __init__(self) -> None:
        self.nr_tables = self.nr_leaves = self.pending = self.shift = self.index_mask = self.order = self.modified = 0
        self.leaf = False


class GroupRow:
    """One size of groups; fields as in ``store.pxd``."""

    __slots__ = ("accepted", "nr_groups", "nr_ptes", "shift")

    def __init__(self) -> None:
        self.nr_groups = self.shift = self.nr_ptes = 0
        self.accepted = False


class WarningRow:
    """One warning; fields as in ``store.pxd``."""

    __slots__ = ("address", "kind")

    def __init__(self) -> None:
        self.address = self.kind = 0


class RootRow:
    """One top table; fields as in ``sync.pxd``."""

    __slots__ = ("sequence", "table")

    def __init__(self) -> None:
        self.table = self.sequence = 0


class RangeRow:
    """One range of addresses; fields as in ``sync.pxd``."""

    __slots__ = ("size", "start")

    def __init__(self) -> None:
        self.start = self.size = 0


class LeafFound:
    """What a walk found; fields as in ``tables.pxd``."""

    __slots__ = ("pfn", "prot", "shift")

    def __init__(self) -> None:
        self.pfn = self.shift = self.prot = 0


def wide_row(page: bytearray) -> memoryview[int]:
    """The 8-byte entries of a frame."""
    return memoryview(page).cast("Q")


def narrow_row(page: bytearray) -> memoryview[int]:
    """The 4-byte entries of a frame."""
    return memoryview(page).cast("I")
