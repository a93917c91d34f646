"""The TLB: what it finds, what makes room, what a flush removes - by hand, and at random against the slow twin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.simulated.mmu.twins import TwinTlb
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.mmu.states import POLICIES
from vmalloc.machine.simulated.mmu.tlb import Tlb
from vmalloc.machine.simulated.mmu.validate import validate_tlb

pytestmark = pytest.mark.both_builds

P = 4096
BASE = 0xFFFF_C900_0000_0000
SMALL = [(12, 8, 2), (16, 8, 2), (21, 4, 4), (30, 2, 2)]


def one_set(policy: str, ways: int = 3, seed: int = 1) -> Tlb:
    return Tlb(12, [(12, ways, ways)], policy, seed)


def pages(tlb: Tlb) -> list[int]:
    return [(entry.start - BASE) // P for entry in tlb.entries()]


def test_what_was_inserted_is_found_and_counted() -> None:
    tlb = Tlb(12, SMALL)
    assert tlb.do_lookup(BASE) is None
    tlb.do_insert(BASE + 5, 77, 12, 3, 9)
    assert tlb.do_lookup(BASE + P - 1) == (77, 12, 3)
    assert tlb.do_lookup(BASE + P) is None
    assert (tlb.hits, tlb.misses, tlb.fills, len(tlb)) == (1, 2, 1, 1)
    assert tlb.entries() == [(BASE, 12, 77, 3, 9, 2)]


def test_an_entry_of_a_huge_page_knows_each_base_page_in_it() -> None:
    tlb = Tlb(12, SMALL)
    tlb.do_insert(BASE + 7 * P + 1, 512 + 7, 21, 1)
    assert [tlb.do_lookup(BASE + k * P) for k in (0, 511)] == [(512, 21, 1), (1023, 21, 1)]
    assert tlb.do_lookup(BASE + 512 * P) is None


def test_of_several_sizes_the_smallest_answers() -> None:
    tlb = Tlb(12, SMALL)
    tlb.do_insert(BASE, 512, 21, 1)
    tlb.do_insert(BASE, 9, 12, 3)
    assert tlb.do_lookup(BASE) == (9, 12, 3)
    assert tlb.do_lookup(BASE + P) == (513, 21, 1)


def test_a_mapping_of_a_size_without_entries_fills_the_next_smaller() -> None:
    tlb = Tlb(12, [(12, 8, 2), (21, 4, 4)])
    tlb.do_insert(BASE + (5 << 21) + 3 * P, 100_003, 30, 3)
    assert tlb.entries() == [(BASE + (5 << 21), 21, 100_000, 3, 0, 1)]
    tlb.do_insert(BASE + 3 * P, 40, 16, 3)
    assert tlb.do_lookup(BASE + 3 * P) == (40, 12, 3)


def test_filling_a_page_again_overwrites_its_entry() -> None:
    tlb = one_set("lru")
    tlb.do_insert(BASE, 1, 12, 3)
    tlb.do_insert(BASE, 2, 12, 1)
    assert (tlb.do_lookup(BASE), len(tlb), tlb.evictions) == ((2, 12, 1), 1, 1)


def test_lru_keeps_what_is_used() -> None:
    tlb = one_set("lru")
    for k in range(3):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    tlb.do_lookup(BASE)
    tlb.do_insert(BASE + 3 * P, 3, 12, 3)
    assert pages(tlb) == [0, 2, 3]


def test_fifo_does_not_care_about_use() -> None:
    tlb = one_set("fifo")
    for k in range(3):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    tlb.do_lookup(BASE)
    tlb.do_insert(BASE + 3 * P, 3, 12, 3)
    assert pages(tlb) == [1, 2, 3]


def test_peeking_is_no_use() -> None:
    tlb = one_set("lru")
    for k in range(3):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    assert tlb.do_peek(BASE) == (0, 12, 3)
    tlb.do_insert(BASE + 3 * P, 3, 12, 3)
    assert (pages(tlb), tlb.hits) == ([1, 2, 3], 0)
    assert tlb.do_peek(BASE) is None


def test_random_replacement_is_repeatable_and_depends_on_the_seed() -> None:
    def survivors(seed: int) -> list[int]:
        tlb = one_set("random", 8, seed)
        for k in range(100):
            tlb.do_insert(BASE + k * P, k, 12, 3)
        return pages(tlb)

    assert survivors(1) == survivors(1)
    assert len({tuple(survivors(seed)) for seed in range(8)}) > 1


def test_random_replacement_chooses_every_way() -> None:
    tlb = one_set("random", 4)
    for k in range(200):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    assert min(pages(tlb)) > 100


@pytest.mark.parametrize("nr_pages", [1, 3, 1 << 20])
def test_a_range_flush_removes_entries_of_any_size_that_overlap(nr_pages: int) -> None:
    tlb = Tlb(12, SMALL)
    inside = BASE + (3 << 30)
    for shift in (12, 16, 21, 30):
        tlb.do_insert(inside, 0, shift, 3)
        tlb.do_insert(BASE, 0, shift, 3)
    assert tlb.do_flush_range(inside, inside + nr_pages * P) == 4
    assert {entry.start for entry in tlb.entries()} == {BASE}
    assert (tlb.flushed, tlb.range_flushes, tlb.full_flushes) == (4, 1, 0)


def test_a_range_flush_ends_where_it_ends() -> None:
    tlb = Tlb(12, [(12, 64, 4)])
    for k in range(8):
        tlb.do_insert(BASE + k * P, k, 12, 3)
    assert tlb.do_flush_range(BASE + 2 * P, BASE + 4 * P) == 2
    assert pages(tlb) == [0, 1, 4, 5, 6, 7]
    assert tlb.do_flush_range(BASE + 5 * P, BASE + 5 * P) == 0
    assert tlb.do_flush_range(BASE + 5 * P - 1, BASE + 5 * P + 1) == 2


def test_the_last_page_of_all_addresses_can_be_flushed() -> None:
    tlb = Tlb(12, SMALL)
    tlb.do_insert((1 << 64) - P, 5, 12, 3)
    assert tlb.do_flush_range((1 << 64) - P, (1 << 64) - 1) == 1


def test_a_full_flush_removes_everything() -> None:
    tlb = Tlb(12, SMALL)
    for shift in (12, 16, 21, 30):
        tlb.do_insert(BASE, 0, shift, 3)
    assert tlb.do_flush_all() == 4
    assert (len(tlb), tlb.entries(), tlb.full_flushes, tlb.do_lookup(BASE)) == (0, [], 1, None)


def test_a_tlb_is_printed() -> None:
    tlb = one_set("lru")
    tlb.do_insert(BASE, 0x1B, 12, 3, 4)
    assert repr(tlb) == "<Tlb: 1 entries, 0 hits, 0 misses>"
    first, second = tlb.dump().splitlines()
    assert first.startswith("1 entries; 0 hits, 0 misses, 1 fills")
    assert second == f"{BASE:#x}-{BASE + P:#x} frame 0x1b prot 3 generation 4 stamp 1"


@pytest.mark.parametrize("sizes", [[], [(21, 4, 4)], [(12 + k, 1, 1) for k in range(7)]])
def test_impossible_sizes_are_refused(sizes: list[tuple[int, int, int]]) -> None:
    with pytest.raises(BadRequest, match="sizes"):
        Tlb(12, sizes)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("lookup"), st.integers(0, 40), st.integers(0, 3)),
        st.tuples(st.just("insert"), st.integers(0, 40), st.sampled_from([12, 14, 16, 21, 30, 39])),
        st.tuples(st.just("flush"), st.integers(0, 40), st.sampled_from([0, 1, 5 * P, 1 << 21, 1 << 32])),
        st.tuples(st.just("flush_all"), st.just(0), st.just(0)),
    ),
    max_size=60,
)
#: Pages near each other, with neighbours in the same huge page and in others.
SPOTS = [BASE + (k % 7) * P + (k // 7 % 3 << 21) + (k // 21 << 30) for k in range(41)]


@given(policy=st.sampled_from(POLICIES), seed=st.integers(0, 1 << 40), steps=STEPS)
def test_any_sequence_does_what_the_twin_does(policy: str, seed: int, steps: list[tuple[str, int, int]]) -> None:
    tlb, twin = Tlb(12, SMALL, policy, seed), TwinTlb(12, SMALL, policy, seed)
    for clock, (step, spot, what) in enumerate(steps):
        address = SPOTS[spot]
        if step == "lookup":
            slot = twin.lookup(address + what)
            told = slot and (slot.pfn + ((address - slot.start) >> 12), slot.shift, slot.prot)
            assert tlb.do_lookup(address + what) == told
        elif step == "insert":
            pfn = 1 << 30 | (address & ((1 << what) - 1)) >> 12  # of a block that is aligned as the mapping is
            tlb.do_insert(address, pfn, what, 1 + clock % 2 * 2, clock)
            twin.insert(address, pfn, what, 1 + clock % 2 * 2, clock)
        elif step == "flush":
            assert tlb.do_flush_range(address, address + what) == twin.flush_range(address, address + what)
        else:
            assert tlb.do_flush_all() == twin.flush_all()
        assert [(e.shift, e.start, e.pfn, e.prot, e.generation) for e in tlb.entries()] == twin.entries()
        assert tlb.counters() == twin.counts
        validate_tlb(tlb)
