"""Counting what a machine is asked."""

from __future__ import annotations

import pytest

from machine.wrappers.rig import BASE, PMD, RW, P, small
from vmalloc.machine.wrappers import CountingMachine, FailingMachine
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds


@pytest.fixture
def machine() -> CountingMachine:
    return CountingMachine(FailingMachine(small()), keep=3)


def test_operations_are_counted_by_name(machine: CountingMachine) -> None:
    for _ in range(3):
        machine.slab("vm_struct")
    machine.validate()
    assert machine.counts == {"slab": 3, "validate": 1}


def test_frames_are_counted_that_were_taken_and_given_back(machine: CountingMachine) -> None:
    block = machine.take(4, 0, 0)
    pages = Pages(room=40)
    taken = machine.take_bulk(pages, 40, 0, 0)
    single = machine.take(0, 0, 0)
    machine.hold(single)
    assert machine.taken_pages == 16 + taken + 1
    machine.give(block, 4)
    machine.give(block, 4)  # refused
    machine.give_bulk(Pages([*pages, 1 << 31]), 0, taken + 1)
    machine.give(single, 0)
    assert (machine.given_pages, machine.held) == (16 + taken + 1, 1)
    assert machine.taken_pages + machine.held - machine.given_pages == 1


def test_what_ran_short_counts_as_an_operation_only(machine: CountingMachine) -> None:
    for operation in ("take", "map_pages", "map_range"):
        machine.fail_next(operation)
    assert machine.take(3, 0, 0) == -1
    machine.map_pages(BASE, Pages([1]), 0, 1, RW)
    machine.map_range(BASE, 512, PMD, 21, RW)
    assert machine.counts == {"take": 1, "map_pages": 1, "map_range": 1}
    assert (machine.taken_pages, machine.mapped_size) == (0, 0)


def test_bytes_are_counted_that_were_mapped_and_unmapped(machine: CountingMachine) -> None:
    block = machine.take(9, 0, 0)
    machine.map_range(BASE, block, PMD, 21, RW)
    machine.map_pages(BASE + PMD, Pages([block, block + 1, block + 2]), 1, 2, RW)
    machine.unmap(BASE, BASE + 2 * PMD)
    assert (machine.mapped_size, machine.unmapped_size) == (PMD + 2 * P, 2 * PMD)


def test_the_last_flushes_are_remembered(machine: CountingMachine) -> None:
    for page in range(5):
        machine.flush(BASE + page * P, BASE + (page + 2) * P)
    assert list(machine.flush_hulls) == [(BASE + page * P, BASE + (page + 2) * P) for page in (2, 3, 4)]
    assert machine.flushed_size == 10 * P
    assert machine.counts["flush"] == 5


def test_it_can_begin_again(machine: CountingMachine) -> None:
    machine.take(0, 0, 0)
    machine.flush(BASE, BASE + P)
    machine.reset()
    assert machine.counts == {}
    assert not machine.flush_hulls
    assert (machine.taken_pages, machine.flushed_size, machine.mapped_size) == (0, 0, 0)


def test_an_operation_that_raises_is_counted(machine: CountingMachine) -> None:
    with pytest.raises(ValueError, match="frame"):
        machine.hold(1 << 30)
    assert machine.counts["hold"] == 1
    assert machine.held == 0
