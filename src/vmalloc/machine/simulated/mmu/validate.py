"""The validators of the TLBs and the MMU: stored numbers against each other and against the page tables.

A TLB may say what is no longer so: that is its nature.  What it must not do is call it fresh: an entry with the present
generation agrees with the tables, page for page.
"""

from __future__ import annotations

from collections.abc import Iterable

from vmalloc.errors import ValidationError
from vmalloc.flags import PROT_READ
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.records import TlbEntry
from vmalloc.machine.simulated.mmu.states import EMPTY, INVALID_MASK
from vmalloc.machine.simulated.mmu.tlb import Tlb
from vmalloc.units import format_range

__all__ = ["validate_mmu", "validate_tlb"]


def _expect(structure: str, holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError(structure, first, second)


def _said(entry: TlbEntry) -> str:
    return f"entry {format_range(entry.start, entry.start + (1 << entry.shift))} frame {entry.pfn:#x}"


def validate_tlb(tlb: Tlb, name: str = "TLB") -> None:
    """Checks a TLB: places, counts, stamps, counters.

    Raises:
        ValidationError: two of them contradict each other.
    """
    stamps: dict[int, str] = {}
    total = 0
    for k, (shift, nr_sets, ways, count) in enumerate(tlb.geometry()):
        places = tlb.places(k)
        total += count
        there = [entry for entry in places if entry is not None]
        _expect(name, len(there) == count, f"{len(there)} entries of 2**{shift} bytes", f"a count of {count}")
        found: set[int] = set()
        for i, entry in enumerate(places):
            if entry is None:
                continue
            said = f"{_said(entry)} in set {i // ways}"
            _expect(name, entry.shift == shift, said, f"the places of 2**{shift} bytes")
            _expect(name, (entry.start >> shift) % nr_sets == i // ways, said, f"its page number, of {nr_sets} sets")
            _expect(name, entry.start not in found, said, "another entry for the same page")
            found.add(entry.start)
            _expect(name, entry.prot & PROT_READ != 0, said, f"prot {entry.prot}, which nobody can use")
            _expect(name, 0 < entry.stamp <= tlb.ticks(), f"{said} with stamp {entry.stamp}", f"clock {tlb.ticks()}")
            _expect(name, entry.stamp not in stamps, said, f"{stamps.get(entry.stamp)} with the same stamp")
            stamps[entry.stamp] = said
    _expect(name, total == len(tlb), f"{total} entries by size", f"{len(tlb)} in all")
    gone = f"{tlb.evictions} evicted, {tlb.flushed} flushed, {total} there"
    _expect(name, tlb.fills == tlb.evictions + tlb.flushed + total, f"{tlb.fills} filled", gone)


def validate_mmu(mmu: Mmu) -> None:
    """Checks all TLBs, their fresh entries against the page tables, and the counters.

    Raises:
        ValidationError: two of them contradict each other.
    """
    for cpu, tlb in enumerate(mmu.tlbs):
        name = f"TLB of CPU {cpu}"
        validate_tlb(tlb, name)
        _check_generations(mmu, name, mmu.root_of(cpu), tlb.entries())
        _check_invalid(mmu, cpu)
    _check_counters(mmu)


def _check_generations(mmu: Mmu, name: str, root: int, entries: Iterable[TlbEntry]) -> None:
    """None is from the future; the fresh ones are right, from their first page to their last."""
    now = mmu.tables.generation
    for entry in entries:
        born = f"{_said(entry)} of generation {entry.generation}"
        _expect(name, entry.generation <= now, born, f"page tables of generation {now}")
        if entry.generation < now:
            continue
        page_size = 1 << mmu.page_shift
        for k in range(1 << (entry.shift - mmu.page_shift)):
            address = entry.start + k * page_size
            walked = mmu.tables.do_walk(address, root) or mmu.tables.do_walk(address, 0)
            expected = (entry.pfn + k, entry.prot)
            holds = walked is not None and (walked[0], walked[2]) == expected
            told = "nothing" if walked is None else f"frame {walked[0]:#x} prot {walked[2]}"
            _expect(name, holds, f"{born}, prot {entry.prot}", f"page tables that say {told} at {address:#x}")


def _check_invalid(mmu: Mmu, cpu: int) -> None:
    pages = mmu.invalid_pages(cpu)
    for k, page in enumerate(pages):
        if page != EMPTY:
            said = f"invalid page {page:#x} of CPU {cpu} in place {k}"
            _expect("MMU", page & INVALID_MASK == k, said, "the low bits of its number")
            _expect("MMU", mmu.caches_invalid, said, "cores that do not remember invalid pages")
    _expect("MMU", mmu.caches_invalid or not mmu.fence_due(cpu), f"CPU {cpu} about to fence", "cores that never do")


def _check_counters(mmu: Mmu) -> None:
    kinds = f"{mmu.range_flushes} page by page and {mmu.full_flushes} whole"
    _expect("MMU", mmu.flushes == mmu.range_flushes + mmu.full_flushes, f"{mmu.flushes} flushes", kinds)
    each = 0 if mmu.by_broadcast else mmu.nr_cpus - 1
    due = f"{each} for each of {mmu.flushes} flushes"
    _expect("MMU", mmu.ipis == each * mmu.flushes, f"{mmu.ipis} interrupts", due)
    asked = sum(tlb.hits + tlb.misses for tlb in mmu.tlbs)
    made = sum(mmu.outcome_counts())
    _expect("MMU", asked <= made, f"{asked} lookups in TLBs", f"{made} translations")
    _expect("MMU", mmu.spurious_faults <= mmu.fences, f"{mmu.spurious_faults} spurious faults", f"{mmu.fences} fences")
