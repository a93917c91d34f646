"""The validators see each way in which a TLB or the MMU can be broken."""

from __future__ import annotations

import pytest

from machine.simulated.mmu.rig import Rig, small_sizes
from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.mmu.tlb import Tlb
from vmalloc.machine.simulated.mmu.validate import validate_mmu, validate_tlb

P = 4096
BASE = 0xFFFF_C900_0000_0000


@pytest.fixture
def tlb() -> Tlb:
    """Two entries in set 0 of four, one in set 1, one huge."""
    tlb = Tlb(12, small_sizes(ARCHITECTURES["x86_64"]))
    for k in (0, 4, 1):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    tlb.do_insert(BASE, 0, 21, 3)
    validate_tlb(tlb)
    return tlb


@pytest.mark.parametrize(
    ("k", "place", "field", "value", "message"),
    [
        (0, 0, "tag", (BASE >> 12) + 1, "set 0 contradicts its page number"),
        (0, 0, "tag", (BASE >> 12) + 4, "another entry for the same page"),
        (0, 0, "tag", (1 << 64) - 1, "2 entries of 2\\*\\*12 bytes contradicts a count of 3"),
        (0, 0, "shift", 21, "the places of 2\\*\\*12 bytes"),
        (0, 0, "prot", 2, "prot 2, which nobody can use"),
        (0, 0, "stamp", 0, "with stamp 0 contradicts clock 4"),
        (0, 0, "stamp", 5, "with stamp 5 contradicts clock 4"),
        (0, 0, "stamp", 4, "with the same stamp"),
        (0, 0, "class_count", 2, "3 entries of 2\\*\\*12 bytes contradicts a count of 2"),
        (0, 0, "count", 3, "4 entries by size contradicts 3 in all"),
        (0, 0, "fills", 5, "5 filled contradicts 0 evicted, 0 flushed, 4 there"),
    ],
)
def test_a_broken_tlb_is_seen(tlb: Tlb, k: int, place: int, field: str, value: int, message: str) -> None:
    tlb.poke(k, place, field, value)
    with pytest.raises(ValidationError, match=message):
        validate_tlb(tlb)


def test_fields_that_nobody_breaks_cannot_be_poked(tlb: Tlb) -> None:
    with pytest.raises(KeyError):
        tlb.poke(0, 0, "hits", 1)
    with pytest.raises(KeyError):
        Rig().mmu.poke(0, "hits", 1)


@pytest.fixture
def rig() -> Rig:
    """Page 0 is remembered by CPU 1, at the present generation."""
    rig = Rig(sizes=[(12, 8, 8)])
    rig.map_new(0, 2)
    rig.frame(0)
    rig.unmap(1)
    rig.flush(0)
    rig.frame(0, cpu=1)
    validate_mmu(rig.mmu)
    return rig


def test_an_entry_from_the_future_is_seen(rig: Rig) -> None:
    rig.tlbs[1].poke(0, 0, "generation", rig.tables.generation + 1)
    with pytest.raises(ValidationError, match=r"TLB of CPU 1: .* contradicts page tables of generation 1"):
        validate_mmu(rig.mmu)


@pytest.mark.parametrize(("field", "value"), [("pfn", 12345), ("prot", 1)])
def test_a_fresh_entry_that_is_wrong_is_seen(rig: Rig, field: str, value: int) -> None:
    rig.tlbs[1].poke(0, 0, field, value)
    with pytest.raises(ValidationError, match=r"TLB of CPU 1: .* contradicts page tables that say frame"):
        validate_mmu(rig.mmu)
    rig.tlbs[1].poke(0, 0, "generation", 0)
    validate_mmu(rig.mmu)


def test_a_fresh_entry_of_what_is_unmapped_is_seen(rig: Rig) -> None:
    rig.unmap(0)
    validate_mmu(rig.mmu)
    rig.tlbs[1].poke(0, 0, "generation", rig.tables.generation)
    with pytest.raises(ValidationError, match="page tables that say nothing"):
        validate_mmu(rig.mmu)


def test_a_fresh_huge_entry_is_checked_to_its_last_page() -> None:
    rig = Rig()
    rig.map_range(0, 1024, 512, 21)
    rig.frame(0)
    rig.tables.do_split(rig.at(0))
    rig.unmap(511)
    validate_mmu(rig.mmu)
    rig.tlbs[0].poke(1, rig.tlbs[0].places(1).index(rig.tlbs[0].entries()[0]), "generation", rig.tables.generation)
    with pytest.raises(ValidationError, match=f"say nothing at {rig.at(511):#x}"):
        validate_mmu(rig.mmu)


@pytest.mark.parametrize(
    ("field", "value", "place", "message"),
    [
        ("ipis", 0, 0, "0 interrupts contradicts 1 for each of 1 flushes"),
        ("flushes", 2, 0, "2 flushes contradicts 1 page by page and 0 whole"),
        ("outcomes", 0, 0, "2 lookups in TLBs contradicts 0 translations"),
        ("spurious_faults", 1, 0, "1 spurious faults contradicts 0 fences"),
        ("fence", True, 0, "CPU 0 about to fence contradicts cores that never do"),
        ("invalid", 64, 0, "invalid page 0x40 of CPU 0 in place 0 contradicts cores that do not remember"),
        ("invalid", 65, 0, "in place 0 contradicts the low bits of its number"),
    ],
)
def test_broken_counts_and_states_are_seen(rig: Rig, field: str, value: int, place: int, message: str) -> None:
    rig.mmu.poke(0, field, value, place)
    with pytest.raises(ValidationError, match=message):
        validate_mmu(rig.mmu)
