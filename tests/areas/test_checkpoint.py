"""Checkpoints: whatever happened in between, everything observable comes back, the tree's shape included."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import shape_of
from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.checkpoint import Checkpoint
from vmalloc.areas.states import MAX_POOL_PAGES
from vmalloc.errors import OutOfAddresses

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x400000


def everything(space: AddressSpace) -> dict[str, Any]:
    """All state of the allocator, down to row numbers and the order of spare rows."""
    a = space.allocator
    nodes = a.nodes
    return {
        "rows": [a.rows.get(n) for n in range(a.rows.used)],
        "used, live, spare": (a.rows.used, a.rows.live, a.rows.spares()),
        "free": (a.free.root, a.free.count, shape_of(a.free)),
        "runs": [(nodes.maps.runs(m), nodes.maps.blocks(m)) for m in range(nodes.maps.nr_maps)],
        "spare runs": (nodes.maps.blocks_used, nodes.maps.spares()),
        "pools": [
            (nodes.pools.description(node, n), nodes.pools.entries(node, n))
            for node in range(nodes.nr_nodes)
            for n in range(1, MAX_POOL_PAGES + 1)
        ],
        "counters": (nodes.nr_lazy, nodes.lazy_areas, a.pool_hits),
        "purge": (a.purge.start, a.purge.end, a.purge.count, a.purge.skip_populate, a.purge.overlaps),
    }


def work(space: AddressSpace, draw: random.Random, steps: int) -> list[int | None]:
    """Random calls; the addresses they gave."""
    given: list[int | None] = []
    for _ in range(steps):
        roll = draw.random()
        busy = space.busy() if roll >= 0.5 else []
        if not busy:
            try:
                align = draw.choice([1, 1, P << draw.randint(0, 4)])
                given.append(space.alloc(draw.randint(1, 6) * P, align, cpu=draw.randrange(space.cpus)))
            except OutOfAddresses:
                given.append(None)
        elif roll < 0.9:
            space.free(draw.choice(busy).start)
        elif roll < 0.98:
            space.purge(draw.random() < 0.3)
        else:
            space.shrink()
    return given


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
@settings(max_examples=10)
@given(seed=st.integers(0, 1 << 32), before=st.integers(0, 300), between=st.integers(0, 300))
def test_a_restored_allocator_is_the_same_and_lives_the_same_life(
    kernel: str, seed: int, before: int, between: int
) -> None:
    space = AddressSpace(START, END, kernel=kernel, cpus=3)
    work(space, random.Random(seed), before)
    checkpoint = Checkpoint()
    checkpoint.take(space.allocator)
    saved = everything(space)
    after = work(space, random.Random(seed + 1), 60)
    then = everything(space)
    work(space, random.Random(seed + 2), between)

    checkpoint.put_back(space.allocator)
    assert everything(space) == saved
    space.validate()
    assert work(space, random.Random(seed + 1), 60) == after
    assert shape_of(space.allocator.free) == then["free"][2]

    checkpoint.put_back(space.allocator)  # any number of times
    assert everything(space) == saved


def test_tables_that_grew_in_between_stay_valid() -> None:
    space = AddressSpace(START, 1 << 40, cpus=4)
    checkpoint = Checkpoint()
    checkpoint.take(space.allocator)
    saved = everything(space)
    for i in range(3000):
        space.free(space.alloc(P, cpu=i % 4)) if i % 3 else space.alloc(P, cpu=i % 4)
    checkpoint.put_back(space.allocator)
    assert everything(space) == saved
    space.validate()
    for i in range(3000):
        space.alloc(P, cpu=i % 4)
    space.validate()


def test_a_later_save_replaces_the_earlier_one() -> None:
    space = AddressSpace(START, END, cpus=2)
    checkpoint = Checkpoint()
    checkpoint.take(space.allocator)
    for _ in range(500):
        space.alloc(P)
    checkpoint.take(space.allocator)
    saved = everything(space)
    space.purge()
    for area in space.busy()[::2]:
        space.free_now(area.start)
    checkpoint.put_back(space.allocator)
    assert everything(space) == saved


def test_a_checkpoint_never_taken_cannot_be_put_back() -> None:
    with pytest.raises(ValueError, match="never taken"):
        Checkpoint().put_back(AddressSpace(START, END).allocator)


def test_the_count_of_lost_records_comes_back_too() -> None:
    space = AddressSpace(START, END)
    address = space.alloc(P)
    checkpoint = Checkpoint()
    checkpoint.take(space.allocator)
    space.free(address)
    space.allocator.free.add(address, address + P)  # given away twice: the purge loses the record
    space.purge()
    assert space.allocator.purge.overlaps == 1
    checkpoint.put_back(space.allocator)
    assert space.allocator.purge.overlaps == 0
    assert [area.start for area in space.busy()] == [address]
    space.validate()
