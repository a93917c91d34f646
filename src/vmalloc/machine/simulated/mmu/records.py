"""What the MMU reports to Python: an entry of a TLB, and what a run of accesses met."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["AccessCounts", "TlbEntry"]


class TlbEntry(NamedTuple):
    """One entry of a TLB.

    Attributes:
        start: the first address it translates.
        shift: log2 of the bytes it translates.
        pfn: the frame of its first base page.
        prot: what it allows.
        generation: of the page tables when it was filled, or last found to be right.
        stamp: when it was filled, or under LRU last used.
    """

    start: int
    shift: int
    pfn: int
    prot: int
    generation: int
    stamp: int


class AccessCounts(NamedTuple):
    """What a run of accesses by one CPU met.

    Attributes:
        accesses: how many there were: ``hits + misses``, and those to addresses that no table translates.
        hits, misses: of the TLB.
        walks: of the page tables; more than one per miss where a fault was mended and the access repeated.
        vmalloc_faults: page-table entries that the fault handler copied.
        spurious_faults: faults on pages that were mapped, ended by a fence.
        unmapped, readonly, stale_tlb: accesses that failed, by outcome.
        first_failure: index of the first access that failed; None when none did.
    """

    accesses: int
    hits: int
    misses: int
    walks: int
    vmalloc_faults: int
    spurious_faults: int
    unmapped: int
    readonly: int
    stale_tlb: int
    first_failure: int | None

    @property
    def failed(self) -> int:
        """Accesses that failed."""
        return self.unmapped + self.readonly + self.stale_tlb
