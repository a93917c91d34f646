"""Storage of the uncompiled build: the same names as the C structs, as Python objects.

The compiled modules keep their hot state in tables of C structs (``row[n].va_start``).  Uncompiled, the same spelling
works on a list of small objects, so that one source is both the reference and the fast build; this module is the only
place where the two differ.
"""

from __future__ import annotations

__all__ = ["Block", "Happening", "Map", "Pool", "VmapArea", "VmapBlock", "extend"]


class VmapArea:
    """One record of address space; fields as in ``rows.pxd``."""

    __slots__ = (
        "color",
        "flags",
        "left_max",
        "list_next",
        "rb_left",
        "rb_parent",
        "rb_right",
        "right_max",
        "state",
        "va_end",
        "va_start",
    )

    def __init__(self) -> None:
        self.va_start = self.va_end = self.left_max = self.right_max = 0
        self.rb_parent = self.rb_left = self.rb_right = self.list_next = 0
        self.flags = self.color = self.state = 0


class Block:
    """One run of an ordered map; fields as in ``ordered_map.pxd``."""

    __slots__ = ("count", "keys", "next_spare", "values")

    def __init__(self, capacity: int) -> None:
        self.count = self.next_spare = 0
        self.keys = [0] * capacity
        self.values = [0] * capacity


class Map:
    """One ordered map; fields as in ``ordered_map.pxd``."""

    __slots__ = ("block", "capacity", "count", "first", "nr_blocks")

    def __init__(self) -> None:
        self.first: list[int] = []
        self.block: list[int] = []
        self.nr_blocks = self.capacity = self.count = 0


class Happening:
    """One entry of a ledger; fields as in ``ledger.pxd``."""

    __slots__ = ("cpu", "end", "kind", "previous", "start")

    def __init__(self) -> None:
        self.start = self.end = self.previous = self.cpu = self.kind = 0


class Pool:
    """One size class of one node; fields as in ``pools.pxd``."""

    __slots__ = ("head", "length", "tail")

    def __init__(self) -> None:
        self.head = self.tail = self.length = 0


class VmapBlock:
    """One ``vm_map_ram`` block; fields as in ``vmap_blocks.pxd``."""

    __slots__ = (
        "cpu",
        "dirty",
        "dirty_max",
        "dirty_min",
        "first",
        "free",
        "next",
        "previous",
        "queued",
        "used",
        "va_start",
    )

    def __init__(self, words: int) -> None:
        self.va_start = self.free = self.dirty = self.dirty_min = self.dirty_max = 0
        self.cpu = self.next = self.previous = self.queued = 0
        self.used = [0] * words
        self.first = [0] * words


def extend(table: list[object], size: int, kind: type, *args: object) -> None:
    """Appends fresh ``kind(*args)`` objects until ``table`` has ``size`` of them."""
    table.extend(kind(*args) for _ in range(size - len(table)))
