"""Slow twins of the per-CPU allocator's structures: lists of booleans, searched one by one."""

from __future__ import annotations


class SlowFreeMap:
    """``FreeMap`` as a list: True for a granule that is taken."""

    def __init__(self, nr_granules: int) -> None:
        self.bits = [False] * nr_granules

    def first_fit(self, size: int, align: int = 1, start: int = 0) -> int | None:
        first = -(-start // align) * align
        while first + size <= len(self.bits):
            if not any(self.bits[first : first + size]):
                return first
            first += align
        return None

    def mark(self, start: int, size: int, taken: bool) -> None:
        assert all(bit is not taken for bit in self.bits[start : start + size])
        self.bits[start : start + size] = [taken] * size

    def runs(self) -> list[tuple[int, int]]:
        """The free runs ``(start, end)``."""
        found, start = [], None
        for i, taken in enumerate([*self.bits, True]):
            if not taken and start is None:
                start = i
            if taken and start is not None:
                found.append((start, i))
                start = None
        return found
