"""Storage of the uncompiled build: the same names as the C structs of the MMU's modules, as Python objects."""

from __future__ import annotations

from vmalloc.machine.simulated.mmu.states import EMPTY, NR_INVALID

__all__ = ["MmuCpu", "TlbClass", "TlbSlot", "Translation"]


class TlbSlot:
    """One entry of a TLB; fields as ``tlb_entry`` in ``tlb.pxd``."""

    __slots__ = ("generation", "pfn", "prot", "shift")

    def __init__(self) -> None:
        self.pfn = self.generation = self.shift = self.prot = 0


class TlbClass:
    """The entries of one page size; fields as ``tlb_class`` in ``tlb.pxd``."""

    __slots__ = ("count", "entry", "nr_sets", "set_mask", "shift", "stamp", "tag", "ways")

    def __init__(self, shift: int, nr_sets: int, ways: int) -> None:
        self.shift, self.nr_sets, self.ways = shift, nr_sets, ways
        self.set_mask = nr_sets - 1
        self.count = 0
        self.tag = [EMPTY] * (nr_sets * ways)
        self.stamp = [0] * (nr_sets * ways)
        self.entry = [TlbSlot() for _ in range(nr_sets * ways)]


class Translation:
    """What an access goes to; fields as ``translation`` in ``mmu.pxd``."""

    __slots__ = ("pfn", "prot", "shift")

    def __init__(self) -> None:
        self.pfn = self.shift = self.prot = 0


class MmuCpu:
    """What is different about one CPU; fields as ``mmu_cpu`` in ``mmu.pxd``."""

    __slots__ = ("fence", "invalid", "root", "tlb")

    def __init__(self) -> None:
        self.tlb = None
        self.root = 0
        self.fence = False
        self.invalid = [EMPTY] * NR_INVALID
