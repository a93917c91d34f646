"""Blocks by themselves: pieces, queues, the index, dirty ranges; and random programs against a plain twin (5.2-5.6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.block_geometry import block_geometry
from vmalloc.areas.states import NIL
from vmalloc.areas.validate_blocks import validate_blocks
from vmalloc.areas.vmap_blocks import VmapBlocks, rounded_pages

pytestmark = pytest.mark.both_builds

P = 4096
START = 0x10000000


def blocks_of(cpus: int = 2, *, word_bits: int = 64, nr_cpus: int = 2, by_slot: bool = True) -> VmapBlocks:
    return VmapBlocks(block_geometry(word_bits, 12, nr_cpus), START, cpus, by_slot)


def piece(blocks: VmapBlocks, cpu: int, count: int) -> int:
    address = blocks.hand_out(cpu, count)
    assert address is not None
    return int(address)


@pytest.mark.parametrize(("count", "taken"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (33, 64), (64, 64)])
def test_pieces_take_a_power_of_two_of_pages(count: int, taken: int) -> None:
    """Section 5.4: order = ceil_log2(count)."""
    assert rounded_pages(count) == taken
    blocks = blocks_of()
    b = blocks.create(START, 0)
    piece(blocks, 0, count)
    assert blocks.get(b)["free"] == 1024 - taken
    assert blocks.pieces(b) == [(0, count)]
    assert blocks.get(b)["used"] == (1 << count) - 1


def test_pages_are_handed_out_upward_without_alignment_and_never_again() -> None:
    """Sections 5.2 and 5.4."""
    blocks = blocks_of()
    b = blocks.create(START, 0)
    assert [piece(blocks, 0, n) for n in (1, 3, 8)] == [START, START + P, START + 5 * P]
    assert not blocks.hand_back(START + P, 3)
    fields = blocks.get(b)
    assert (fields["free"], fields["dirty"], fields["dirty_min"], fields["dirty_max"]) == (1011, 4, 1, 5)
    assert piece(blocks, 0, 3) == START + 13 * P
    assert [blocks.used_at(START + page * P) for page in (0, 1, 4, 5, 12, 13, 15, 16)] == [
        True, False, False, True, True, True, True, False,
    ]  # fmt: skip
    validate_blocks(blocks)


def test_a_queue_is_searched_from_its_head_and_full_blocks_leave_it() -> None:
    """Section 5.4: the first block with room, new ones last, of this CPU only."""
    blocks = blocks_of(cpus=2)
    first, second, third = (blocks.create(START + k * blocks.block_size, k // 2) for k in range(3))
    for _ in range(15):
        piece(blocks, 0, 64)
    assert piece(blocks, 0, 60) == START + 960 * P  # full, although four pages are lost to rounding
    assert (blocks.queued(0), blocks.queued(1)) == ([second], [third])
    assert not blocks.get(first)["queued"]
    assert piece(blocks, 0, 1) == START + blocks.block_size
    for _ in range(15):
        piece(blocks, 0, 64)
    assert blocks.hand_out(0, 64) is None  # 63 pages are left, and CPU 1's block is not looked at
    assert piece(blocks, 0, 32) == START + blocks.block_size + 961 * P
    validate_blocks(blocks)


@pytest.mark.parametrize("by_slot", [True, False])
def test_the_index_finds_a_block_by_any_of_its_addresses(by_slot: bool) -> None:
    """Section 5.3: a map per hash slot, or one for all; keys count from the block below the vmalloc range's start."""
    blocks = VmapBlocks(block_geometry(64, 12, 3), START + 5 * P, 3, by_slot)
    size = blocks.block_size
    assert (blocks.base, blocks.nr_slots) == (START, 3 if by_slot else 1)
    made = {START + k * size: blocks.create(START + k * size, 0) for k in (5, 1, 4, 2, 7)}
    for start, b in made.items():
        assert [blocks.at(start), blocks.at(start + size - 1)] == [b, b]
    assert [blocks.at(START + k * size) for k in (3, 6, 8)] == [NIL] * 3
    if by_slot:
        keys = [[key for key, _b in blocks.index.items(slot)] for slot in range(3)]
        assert keys == [sorted(k for k in (5, 1, 4, 2, 7) if (START // size + k) % 3 == slot) for slot in range(3)]
    order = [blocks.get(b)["va_start"] for b in blocks.indexed()]
    assert sorted(order) == sorted(made)
    assert by_slot or order == sorted(made)


def test_a_block_is_worn_out_below_a_quarter_and_fragmented_at_any_time() -> None:
    """Section 5.6: the two conditions, and the third: something live is in neither."""
    blocks = blocks_of(cpus=1)
    blocks.create(START, 0)
    taken = [piece(blocks, 0, 64) for _ in range(12)]
    for address in taken[1:]:
        blocks.hand_back(address, 64)
    assert (blocks.fragmented(), blocks.worn_out()) == ([], [])
    blocks.hand_back(taken[0], 64)
    assert (blocks.fragmented(), blocks.worn_out()) == ([START], [])  # 256 are free: not less than a quarter
    blocks.hand_back(piece(blocks, 0, 1), 1)
    assert (blocks.fragmented(), blocks.worn_out()) == ([START], [START])


def test_a_block_of_nothing_but_dirty_pages_says_so() -> None:
    """Section 5.5: then free is 0, and the block must go."""
    blocks = blocks_of(cpus=1, word_bits=32, nr_cpus=32)
    blocks.create(START, 0)
    taken = [piece(blocks, 0, 32), piece(blocks, 0, 32)]
    assert [blocks.hand_back(address, 32) for address in reversed(taken)] == [False, True]
    blocks.drop(START)
    assert (blocks.nr_blocks, blocks.indexed(), blocks.at(START)) == (0, [], NIL)
    validate_blocks(blocks)


def test_dirty_ranges_are_hulls_that_flushing_empties_and_the_count_stays() -> None:
    """Sections 4.9 and 5.2; those of full blocks are not found by way of the queues."""
    blocks = blocks_of(cpus=1)
    full, other = blocks.create(START, 0), blocks.create(START + blocks.block_size, 0)
    for _ in range(16):
        piece(blocks, 0, 64)
    more = [piece(blocks, 0, 1) for _ in range(5)]
    blocks.hand_back(START + 64 * P, 64)
    blocks.hand_back(more[1], 1)
    blocks.hand_back(more[3], 1)
    there = (more[1], more[3] + P)
    assert sorted(blocks.dirty_ranges()) == [(START + 64 * P, START + 128 * P), there]
    assert blocks.dirty_ranges_queued() == [there]
    blocks.forget_dirty_ranges()
    assert blocks.dirty_ranges() == []
    assert [blocks.get(b)["dirty"] for b in (full, other)] == [64, 2]
    assert blocks.totals() == (2, 1019, 66, 2048 - 1019 - 66)
    validate_blocks(blocks)


def test_records_are_used_again_and_their_table_grows() -> None:
    blocks = blocks_of(cpus=1)
    size = blocks.block_size
    numbers = [blocks.create(START + k * size, 0) for k in range(40)]
    assert sorted(numbers) == list(range(1, 41))
    for k in range(0, 40, 2):
        blocks.drop(START + k * size)
    assert {blocks.create(START + (100 + k) * size, 0) for k in range(20)} == set(numbers[::2])
    assert blocks.used_records == 41
    validate_blocks(blocks)


@dataclass
class PlainBlock:
    """A block as a dictionary of pages: ``"free"``, ``"dirty"``, or the piece that has it."""

    start: int
    cpu: int
    pages: dict[int, object]
    owed: set[int] = field(default_factory=set)

    def count(self, what: str) -> int:
        return sum(state == what for state in self.pages.values())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 32)),
        st.tuples(st.just("give"), st.integers(0, 99), st.just(0)),
        st.tuples(st.sampled_from(["flush", "purge", "worn"]), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps=STEPS, by_slot=st.booleans())
def test_random_programs_agree_with_a_dictionary_of_pages(steps: list[tuple[str, int, int]], by_slot: bool) -> None:
    blocks = blocks_of(cpus=2, word_bits=32, nr_cpus=16, by_slot=by_slot)
    size, nr_pages = blocks.block_size, blocks.block_pages
    plain: list[PlainBlock] = []
    live: dict[int, tuple[PlainBlock, int]] = {}
    made = 0
    for what, number, count in steps:
        if what == "take":
            taken = 1 << (count - 1).bit_length()
            block = next((b for b in plain if b.cpu == number and b.count("free") >= taken), None)
            if block is None:
                assert blocks.hand_out(number, count) is None
                block = PlainBlock(START + made * size, number, dict.fromkeys(range(nr_pages), "free"))
                made += 1
                plain.append(block)
                blocks.create(block.start, number)
            first = min(page for page, state in block.pages.items() if state == "free")
            address = piece(blocks, number, count)
            assert address == block.start + first * P
            block.pages.update(dict.fromkeys(range(first, first + taken), address))
            live[address] = (block, count)
        elif what == "give" and live:
            address = sorted(live)[number % len(live)]
            block, count = live.pop(address)
            mine = [page for page, state in block.pages.items() if state == address]
            block.pages.update(dict.fromkeys(mine, "dirty"))
            block.owed.update(mine)
            gone = block.count("dirty") == nr_pages
            assert blocks.hand_back(address, count) == gone
            if gone:
                plain.remove(block)
                blocks.drop(block.start)
        elif what == "flush":
            owed = {(b.start + min(b.owed) * P, b.start + (max(b.owed) + 1) * P) for b in plain if b.owed}
            assert set(blocks.dirty_ranges()) == owed
            blocks.forget_dirty_ranges()
            for block in plain:
                block.owed.clear()
        elif what in ("purge", "worn"):
            idle = [b for b in plain if b.count("free") + b.count("dirty") == nr_pages]
            going = idle if what == "purge" else [b for b in idle if b.count("free") < nr_pages // 4]
            found = blocks.fragmented() if what == "purge" else blocks.worn_out()
            assert sorted(found) == sorted(b.start for b in going)
            if what == "purge":  # queue by queue, oldest first
                assert found == [b.start for cpu in (0, 1) for b in going if b.cpu == cpu]
            for block in going:
                plain.remove(block)
                blocks.drop(block.start)
        assert validate_blocks(blocks) == sorted(b.start for b in plain)
        for block in plain:
            fields = blocks.get(blocks.at(block.start))
            assert (fields["free"], fields["dirty"]) == (block.count("free"), block.count("dirty"))
        mapped = {at + page * P for at, (_block, n) in live.items() for page in range(n)}
        every = [block.start + page * P for block in plain for page in range(nr_pages)]
        assert {address for address in every if blocks.used_at(address)} == mapped
