"""The ledger: a history that can go back, and forward again."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.checkpoint import Checkpoint
from vmalloc.areas.ledger import Ledger
from vmalloc.areas.states import NOW_BUSY, NOW_FLUSHED, NOW_GONE, NOW_PROVEN
from vmalloc.errors import OutOfAddresses

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x400000


def attached(**settings: object) -> tuple[AddressSpace, Ledger]:
    """An address space that writes to a ledger."""
    space = AddressSpace(START, END, **settings)
    ledger = Ledger()
    space.allocator.nodes.attach_ledger(ledger)
    return space, ledger


def busy_in(entries: list[tuple[int, int, int, int]]) -> list[tuple[int, int]]:
    """The ranges that are busy at the end of a history; every entry must fit to those before it."""
    busy: dict[int, int] = {}
    for kind, start, end, _cpu in entries:
        if kind == NOW_BUSY:
            assert all(end <= s or start >= e for s, e in busy.items())
            busy[start] = end
        elif kind == NOW_GONE:
            assert busy.pop(start) == end
        else:
            assert start < end
    return sorted(busy.items())


def real(space: AddressSpace) -> list[tuple[int, int]]:
    return sorted((area.start, area.end) for area in space.busy())


def test_what_is_written_is_read_back_in_order_with_who_did_it() -> None:
    ledger = Ledger()
    assert (len(ledger), ledger.entries()) == (0, [])
    told = [(NOW_BUSY, 1, 2, 0), (NOW_GONE, 1, 2, 4095), (NOW_FLUSHED, 0, 1 << 63, 3), (NOW_PROVEN, 5, 2**64 - 1, 0)]
    for entry in told:
        ledger.add(*entry)
    assert (len(ledger), ledger.entries()) == (4, told)


def test_a_ledger_grows() -> None:
    ledger = Ledger()
    for k in range(5000):
        ledger.add(NOW_BUSY, k, k + 1)
    assert [entry[1] for entry in ledger.entries()] == list(range(5000))
    assert ledger.lost == 0


def test_a_space_without_a_ledger_writes_nowhere() -> None:
    space = AddressSpace(START, END)
    space.free(space.alloc(P))
    assert space.allocator.nodes.ledger is None


def test_a_ledger_begins_with_what_is_busy_already() -> None:
    space = AddressSpace(START, END, cpus=4)
    for _ in range(5):
        space.alloc(2 * P)
    space.free(START + 2 * P)
    ledger = Ledger()
    space.allocator.nodes.attach_ledger(ledger)
    assert [(NOW_BUSY, start, end, 0) for start, end in real(space)] == ledger.entries()


def test_nothing_is_written_after_it_was_taken_off() -> None:
    space, ledger = attached()
    space.allocator.nodes.attach_ledger(None)
    space.alloc(P)
    assert ledger.entries() == []


def test_the_life_of_an_area_and_the_flush_before_its_addresses_are_used_again() -> None:
    space, ledger = attached()
    first = space.alloc(P)
    space.free(first)
    space.purge()
    assert space.alloc(P) == first
    assert [entry[:3] for entry in ledger.entries()] == [
        (NOW_BUSY, first, first + P), (NOW_GONE, first, first + P), (NOW_FLUSHED, first, first + P),
        (NOW_BUSY, first, first + P),
    ]  # fmt: skip


def test_a_purge_of_many_nodes_owes_one_flush_and_an_empty_one_none() -> None:
    space, ledger = attached(cpus=4)
    for cpu in range(4):
        space.alloc(P, cpu=cpu)
    hull = (real(space)[0][0], real(space)[-1][1])
    for start, _end in real(space):
        space.free(start)
    space.purge()
    assert [entry[1:3] for entry in ledger.entries() if entry[0] == NOW_FLUSHED] == [hull]
    space.purge()
    assert sum(entry[0] == NOW_FLUSHED for entry in ledger.entries()) == 1


def test_a_moment_can_be_gone_back_to_and_forward_again() -> None:
    """A list that is cut could not do this: the other past overwrote it."""
    space, ledger = attached()
    before, present = Checkpoint(), Checkpoint()
    space.alloc(P)
    before.take(space.allocator)
    old = space.alloc(2 * P)
    present.take(space.allocator)
    long_ago = ledger.entries()
    before.put_back(space.allocator)
    assert ledger.entries() == long_ago[:1]
    for _ in range(5):
        space.alloc(P)
    assert len(ledger.entries()) == 6
    present.put_back(space.allocator)
    assert ledger.entries() == long_ago
    assert busy_in(ledger.entries()) == real(space)
    ledger.settle()
    assert (len(ledger), ledger.entries()) == (2, long_ago)
    space.free(old)
    assert busy_in(ledger.entries()) == real(space)


@given(st.integers(0, 2**32), st.sampled_from([1, 2, 4]), st.sampled_from(["6.1", "6.12", "6.19"]))
def test_however_often_it_went_back_the_history_leads_to_what_is_busy(seed: int, cpus: int, kernel: str) -> None:
    draw = random.Random(seed)
    space, ledger = attached(cpus=cpus, kernel=kernel)
    moments = [Checkpoint() for _ in range(3)]
    histories: dict[int, list[tuple[int, int, int, int]]] = {}
    for _ in range(60):
        roll, k = draw.random(), draw.randrange(3)
        busy = real(space)
        if roll < 0.45:
            with contextlib.suppress(OutOfAddresses):
                space.alloc(draw.randint(1, 6) * P, cpu=draw.randrange(cpus))
        elif roll < 0.75 and busy:
            space.free(draw.choice(busy)[0])
        elif roll < 0.8:
            space.purge()
        elif roll < 0.9:
            moments[k].take(space.allocator)
            histories[k] = ledger.entries()
        elif k in histories:
            moments[k].put_back(space.allocator)
            assert ledger.entries() == histories[k]
        assert busy_in(ledger.entries()) == real(space)
    found = ledger.entries()
    ledger.settle()
    assert ledger.entries() == found
    assert len(ledger) == len(found)


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 3))))
def test_the_peak_and_the_hull_are_those_of_a_plain_count(steps: list[tuple[int, int]]) -> None:
    ledger = Ledger()
    live: list[tuple[int, int]] = []
    now, most, when = 0, 0, 0
    starts: list[int] = []
    ends: list[int] = []
    for n, (size, choice) in enumerate(steps, start=1):
        if choice == 0 and live:
            start, end = live.pop()
            ledger.add(NOW_GONE, start, end)
            now -= end - start
        elif choice == 1:
            ledger.add(NOW_FLUSHED, 0, 1 << 40)
        else:
            start, end = 1000 * n, 1000 * n + size
            ledger.add(NOW_BUSY, start, end)
            live.append((start, end))
            starts.append(start)
            ends.append(end)
            now += size
            if now > most:
                most, when = now, n
    ledger.settle()
    assert ledger.peak() == (most, when)
    assert ledger.hull() == ((min(starts), max(ends)) if starts else (0, 0))
