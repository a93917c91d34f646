"""The validator of blocks finds each way in which they can be broken (section 5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vmalloc.areas.block_geometry import block_geometry
from vmalloc.areas.validate_blocks import validate_blocks
from vmalloc.areas.vmap_blocks import VmapBlocks
from vmalloc.errors import ValidationError

pytestmark = pytest.mark.both_builds

P = 4096
START = 0x10000000
SIZE = 1024 * P


def populated() -> VmapBlocks:
    """Blocks 1 and 2 of CPU 0 with pieces of 1, 3 and 8 pages in the first, block 3 of CPU 1 used up, 4 spare."""
    blocks = VmapBlocks(block_geometry(64, 12, 2), START, 2, True)
    for k, cpu in enumerate((0, 0, 1, 1)):
        blocks.create(START + k * SIZE, cpu)
    for count in (1, 3, 8, 2):
        blocks.hand_out(0, count)
    blocks.hand_back(START + 13 * P, 2)
    for _ in range(16):
        blocks.hand_out(1, 64)
    blocks.drop(START + 3 * SIZE)
    return blocks


def test_blocks_that_are_well_pass() -> None:
    assert validate_blocks(populated()) == [START, START + SIZE, START + 2 * SIZE]


def spare(number: int) -> Callable[[VmapBlocks], None]:
    return lambda blocks: blocks.poke(4, "next", number)


BREAKS: dict[str, tuple[Callable[[VmapBlocks], Any], str]] = {
    "an entry out of the table": (lambda b: b.index.put(0, 9, 77), "entry 9 of slot 0 contradicts record 77"),
    "two entries for a record": (lambda b: b.index.put(0, 8, 1), "another entry for record 1"),
    "an address in mid-block": (lambda b: b.poke(1, "va_start", START + P), "blocks of 0x400000 bytes"),
    "a wrong key": (lambda b: b.poke(1, "va_start", START + 6 * SIZE), "block 0x.*11800000 contradicts entry 0"),
    "a wrong slot": (lambda b: (b.index.pop(1, 1), b.index.put(0, 1, 2)), "10400000 contradicts slot 0"),
    "a block that is lost": (lambda b: b.index.pop(0, 0), "2 blocks contradicts a count of 3"),
    "a spare record out of the table": (spare(99), "spare record 99"),
    "spare records in a circle": (spare(4), "spare record 4 contradicts itself"),
    "a spare record that is a block": (spare(2), "spare record 2 contradicts the index"),
    "a queue that holds no block": (lambda b: b.poke(2, "next", 4), "record 4, which is no block"),
    "a queue in a circle": (lambda b: b.poke(2, "next", 1), "it is queued twice"),
    "a block in another CPU's queue": (lambda b: b.poke(2, "cpu", 1), "of CPU 1 contradicts the queue of CPU 0"),
    "a queue that does not lead back": (lambda b: b.poke(2, "previous", 0), "behind record 0"),
    "a wrong tail": (lambda b: b.poke_queue(0, 1, 1), "the tail 1 of the queue of CPU 0 contradicts its last record 2"),
    "a queue that lost its blocks": (lambda b: b.poke_queue(0, 0, 0), "queued: True contradicts the queues"),
    "a full block that says it is queued": (lambda b: b.poke(3, "queued", 1), "queued: True contradicts the queues"),
    "a block with room outside the queues": (
        lambda b: (b.poke_queue(0, 1, 1), b.poke(1, "next", 0), b.poke(2, "queued", 0)),
        "with 1024 free pages contradicts the queues, where it is False",
    ),
    "more free pages than there are": (lambda b: b.poke(1, "free", 1025), "1025 free and 2 dirty pages of 1024"),
    "a page handed out too much": (lambda b: b.poke(1, "free", 1008), "1008 free, 2 dirty, 13 live"),
    "a dirty page too much": (lambda b: b.poke(1, "dirty", 3), "1009 free, 3 dirty, 13 live"),
    "pieces above the pointer": (lambda b: b.poke(1, "free", 1020), "reaches to page 13 contradicts 4 pages handed"),
    "a piece in the rounding of another": (
        lambda b: (b.poke(1, "first", 0b110010_0011 | 1 << 4), b.poke(1, "used", 0x1FEF | 1 << 4)),
        "the piece before it",
    ),
    "a piece without its page": (lambda b: b.poke(1, "used", 0x1FEE), "that page, which is not in use"),
    "pages of no piece": (lambda b: b.poke(1, "used", 0x1FEF | 1 << 20), "page 20 of block .* it is in none"),
    "a piece that is too large": (lambda b: b.poke(3, "first", b.get(3)["first"] & ~(1 << 64)), "at most 64 pages"),
    "nothing but dirty pages": (
        lambda b: [b.poke(3, name, value) for name, value in (("used", 0), ("first", 0), ("dirty", 1024))],
        "a block of nothing else must be gone",
    ),
    "a dirty range above the pointer": (lambda b: b.poke(1, "dirty_max", 16), r"\[13, 16\) of block .* 15 pages"),
    "a dirty range the wrong way round": (lambda b: b.poke(1, "dirty_min", 15), r"\[15, 15\)"),
    "a dirty range of nothing": (
        lambda b: (b.poke(3, "dirty_min", 0), b.poke(3, "dirty_max", 1)), "a block without dirty pages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_blocks_that_are_broken_are_found(name: str) -> None:
    break_it, message = BREAKS[name]
    blocks = populated()
    break_it(blocks)
    with pytest.raises(ValidationError, match=message):
        validate_blocks(blocks)
