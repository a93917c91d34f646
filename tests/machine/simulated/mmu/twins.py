"""The slow twins: a TLB of ordered dictionaries, and CPUs before page tables that are one dictionary.

Written from the rules a second time.  ``TwinTlb`` keeps each set as an ordered dictionary, oldest first; its dice are
the same numbers, so that random replacement can be compared exactly, too.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

WORD = 1 << 64


@dataclass
class Slot:
    """One entry."""

    start: int
    shift: int
    pfn: int
    prot: int
    generation: int = 0


@dataclass
class TwinTlb:
    """One TLB; sizes are ``(shift, entries, ways)``, smallest first."""

    page_shift: int
    sizes: list[tuple[int, int, int]]
    policy: str = "lru"
    seed: int = 1
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sets: dict[tuple[int, int], OrderedDict[int, Slot]] = {}
        # Ways, for the random victim: it is a way of the set, not an age.
        self.ways: dict[tuple[int, int], list[int | None]] = {}
        self.dice = (self.seed * 2654435769 + 88172645463325252) % (WORD - 1) + 1
        names = ("hits", "misses", "fills", "evictions", "flushed", "range_flushes", "full_flushes")
        self.counts = dict.fromkeys(names, 0)

    def set_of(self, size: tuple[int, int, int], address: int) -> tuple[tuple[int, int], int]:
        shift, nr_entries, ways = size
        page = address >> shift
        return (shift, page % (nr_entries // ways)), page

    def peek(self, address: int) -> Slot | None:
        for size in self.sizes:
            key, page = self.set_of(size, address)
            if page in self.sets.get(key, ()):
                return self.sets[key][page]
        return None

    def lookup(self, address: int) -> Slot | None:
        slot = self.peek(address)
        self.counts["hits" if slot else "misses"] += 1
        if slot and self.policy == "lru":
            size = next(size for size in self.sizes if size[0] == slot.shift)
            key, page = self.set_of(size, address)
            self.sets[key].move_to_end(page)
        return slot

    def throw(self) -> int:
        x = self.dice
        x = (x ^ (x << 13)) % WORD
        x ^= x >> 7
        self.dice = x = (x ^ (x << 17)) % WORD
        return x >> 33

    def insert(self, address: int, pfn: int, shift: int, prot: int, generation: int = 0) -> None:
        size = max(size for size in self.sizes if size[0] <= shift)
        key, page = self.set_of(size, address)
        entries = self.sets.setdefault(key, OrderedDict())
        places = self.ways.setdefault(key, [None] * size[2])
        if page in entries:
            way = places.index(page)
            self.counts["evictions"] += 1
            del entries[page]
        elif None in places:
            way = places.index(None)
        else:
            way = self.throw() % size[2] if self.policy == "random" else places.index(next(iter(entries)))
            self.counts["evictions"] += 1
            del entries[places[way]]  # type: ignore[arg-type]
        places[way] = page
        start = page << size[0]
        entries[page] = Slot(start, size[0], pfn - ((address - start) >> self.page_shift), prot, generation)
        self.counts["fills"] += 1

    def flush_range(self, start: int, end: int) -> int:
        removed = 0
        for key, entries in self.sets.items():
            for page, slot in list(entries.items()):
                if slot.start < end and start < slot.start + (1 << slot.shift) and start < end:
                    del entries[page]
                    self.ways[key][self.ways[key].index(page)] = None
                    removed += 1
        self.counts["range_flushes"] += 1
        self.counts["flushed"] += removed
        return removed

    def flush_all(self) -> int:
        removed = sum(map(len, self.sets.values()))
        self.sets.clear()
        self.ways.clear()
        self.counts["full_flushes"] += 1
        self.counts["flushed"] += removed
        return removed

    def entries(self) -> list[tuple[int, int, int, int, int]]:
        """As ``(shift, start, pfn, prot, generation)``."""
        slots = [slot for entries in self.sets.values() for slot in entries.values()]
        return sorted((s.shift, s.start, s.pfn, s.prot, s.generation) for s in slots)
