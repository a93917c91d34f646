"""``Counters``: those numbers of ``stats`` that only ever grow, read in less than a microsecond.

For who looks very often, such as between two steps of a workload: ``stats`` walks the areas, this reads attributes.
The names are those of ``stats``; a machine has the parts it has, so a machine without an MMU to look at has fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from vmalloc.calls.state import VmallocState

__all__ = ["Counters"]

#: Per part of a state or its machine: names in ``stats``, and of the attributes that they are.
_PARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("space", {"purges": "purges"}),
    ("allocator", {"pool_hits": "pool_hits"}),
    ("rcu", {"rcu_grace_periods": "completed"}),
    (
        "machine.mmu",
        {
            "tlb_range_flushes": "range_flushes",
            "tlb_full_flushes": "full_flushes",
            "tlb_flushed_pages": "flushed_pages",
            "ipis": "ipis",
            "page_walks": "walks",
            "vmalloc_faults": "vmalloc_faults",
            "spurious_faults": "spurious_faults",
        },
    ),
    ("", {"huge_fallbacks": "huge_fallbacks", "failures": "failures"}),
)


class Counters:
    """What a space and its machine count.

    Args:
        state: of the space.

    Attributes:
        names: of the numbers that ``read`` gives, in that order.
    """

    def __init__(self, state: VmallocState) -> None:
        self.names: tuple[str, ...] = ()
        self._readers: list[tuple[Any, Callable[[Any], tuple[int, ...]]]] = []
        single: dict[str, str] = {}
        for part, attributes in _PARTS:
            try:
                owner = attrgetter(part)(state) if part else state
            except AttributeError:
                continue
            if len(attributes) == 1:  # attrgetter of one name gives no tuple: read them together, from the state
                single |= {name: f"{part}.{attribute}" for name, attribute in attributes.items()}
                continue
            self.names += tuple(attributes)
            self._readers.append((owner, attrgetter(*attributes.values())))
        self.names += tuple(single)
        self._readers.append((state, attrgetter(*single.values())))

    def read(self) -> tuple[int, ...]:
        """The numbers as they are now."""
        found: tuple[int, ...] = ()
        for owner, getter in self._readers:
            found += getter(owner)
        return found
