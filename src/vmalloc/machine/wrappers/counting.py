"""A machine that counts what is asked of it.

Uncompiled: it is put around a machine while somebody wants to know, and costs about a microsecond per operation.

Protected by the lock of the space.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from vmalloc.machine.base import Machine
from vmalloc.machine.wrappers.wrapper import OPERATIONS, Wrapper

__all__ = ["CountingMachine"]


class CountingMachine(Wrapper):
    """A machine that counts.

    What goes in and out are pages and bytes of operations that were done; what ran short counts as an operation only.
    So ``taken_pages + held - given_pages`` is what is still out.

    Args:
        inner: the machine inside.
        keep: how many of the last flushes to remember.

    Attributes:
        counts: operations, by name.
        taken_pages, given_pages: frames taken, and frames or references given back.
        held: further references to frames.
        mapped_size, unmapped_size: bytes; of the latter, holes included.
        flush_hulls: the last flushes, ``(start, end)``.
        flushed_size: bytes of all flushes.
    """

    def __init__(self, inner: Machine, keep: int = 1024) -> None:
        Wrapper.__init__(self, inner)
        self.flush_hulls: deque[tuple[int, int]] = deque(maxlen=keep)
        self.reset()

    def reset(self) -> None:
        """Begins again at 0."""
        self.counts: Counter[str] = Counter()
        self.taken_pages = self.given_pages = self.held = 0
        self.mapped_size = self.unmapped_size = self.flushed_size = 0
        self.flush_hulls.clear()

    def _note(self, operation: str, arguments: tuple[Any, ...], result: Any) -> None:
        """Counts an operation that came back."""
        match operation:
            case "take" if result >= 0:
                self.taken_pages += 1 << arguments[0]
            case "take_bulk":
                self.taken_pages += result
            case "give" if result == 0:
                self.given_pages += 1 << arguments[1]
            case "give_bulk":
                self.given_pages += result
            case "hold":
                self.held += 1
            case "map_pages" if result == 0:
                self.mapped_size += arguments[3] << self.info.page_shift
            case "map_range" if result == 0:
                self.mapped_size += arguments[2]
            case "unmap":
                self.unmapped_size += arguments[1] - arguments[0]
            case "flush":
                self.flush_hulls.append(arguments)
                self.flushed_size += arguments[1] - arguments[0]


def _counted(operation: str) -> Any:
    """An operation that is counted, and noted when it came back."""

    def count(self: CountingMachine, *arguments: Any) -> Any:
        self.counts[operation] += 1
        result = getattr(self.inner, operation)(*arguments)
        self._note(operation, arguments, result)
        return result

    count.__name__ = operation
    count.__doc__ = "Counts, and asks the machine inside."
    return count


for _operation in OPERATIONS:
    setattr(CountingMachine, _operation, _counted(_operation))
