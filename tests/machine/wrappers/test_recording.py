"""Remembering what a machine was asked, and asking another one the same."""

from __future__ import annotations

import pytest

from machine.wrappers.rig import BASE, RW, P, small
from vmalloc.errors import BadFrame, BadRequest, Fault
from vmalloc.flags import HARDIRQ, TAKE_ZERO, TASK
from vmalloc.machine.base import Machine
from vmalloc.machine.wrappers import FailingMachine, RecordingMachine
from vmalloc.machine.wrappers.recording import Difference, Entry
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds


def story(machine: Machine) -> None:
    """A little of everything, errors and deferred work included."""
    pages = Pages(room=20)
    machine.take_bulk(pages, 8, 0, TAKE_ZERO)
    while len(pages) < 8:
        pages = Pages([*pages, machine.take(0, 0, TAKE_ZERO)], room=20)
    machine.map_pages(BASE, pages, 2, 4, RW)
    machine.map_pages(BASE + P, pages, 0, 1, RW)  # busy
    machine.cpu = 1
    data = bytearray(b"stored, then changed")
    machine.store(BASE + P - 6, data)
    data[:] = bytes(len(data))
    machine.load(BASE, 2 * P)
    machine.hold(pages[0])
    with pytest.raises(Fault):
        machine.load(BASE + 4 * P, 1)
    with pytest.raises(BadFrame):
        machine.hold(1 << 30)
    machine.context = HARDIRQ

    def free() -> None:
        machine.unmap(BASE, BASE + 4 * P)
        machine.flush(BASE, BASE + 4 * P)
        machine.give_bulk(pages, 0, len(pages))

    machine.defer(free, 0)
    machine.context = TASK
    machine.run_deferred()
    machine.set_direct_map(pages, 1, 2, False)
    block = machine.take(9, 1, TAKE_ZERO)
    machine.map_range(BASE, block, 1 << 21, 21, RW)
    machine.translate(BASE + 5 * P)
    machine.node_of(block)
    machine.trim()
    machine.validate()
    machine.cpu = 0


def test_an_entry_says_what_was_asked_by_whom_and_what_came_back() -> None:
    machine = RecordingMachine(small())
    machine.cpu, machine.context = 1, HARDIRQ
    pages = Pages([77], room=5)
    count = machine.take_bulk(pages, 4, 1, 0)
    machine.map_pages(BASE, pages, 1, count, RW)
    machine.give_bulk(pages, 1, 1)
    with pytest.raises(Fault) as caught:
        machine.load(BASE + 64 * P, 1)
    taken = tuple(pages[1:])
    assert list(machine.log) == [
        Entry("take_bulk", (4, 1, 0), taken, 1, HARDIRQ),
        Entry("map_pages", (BASE, taken, RW), 0, 1, HARDIRQ),
        Entry("give_bulk", (taken[:1],), 1, 1, HARDIRQ),
        Entry("load", (BASE + 64 * P, 1), ("Fault", str(caught.value)), 1, HARDIRQ),
    ]


def test_the_same_machine_answers_the_same() -> None:
    machine = RecordingMachine(small())
    story(machine)
    assert {entry.operation for entry in machine.log} >= {"store", "give_bulk", "run_deferred", "trim"}
    other = small()
    other.cpu = 1
    assert machine.replay_on(other) == []
    assert (other.cpu, other.context) == (1, TASK)
    assert [row.free for row in other.frames.stats()] == [row.free for row in machine.frames.stats()]
    assert other.translate(BASE) == machine.translate(BASE)
    other.validate()


def test_a_replay_can_be_recorded_and_is_the_same_log_without_the_queue() -> None:
    machine = RecordingMachine(small())
    story(machine)
    again = RecordingMachine(small())
    machine.replay_on(again)
    assert list(again.log) == [e for e in machine.log if e.operation not in ("defer", "run_deferred", "has_deferred")]


def test_another_answer_is_shown_with_its_place() -> None:
    machine = RecordingMachine(small())
    machine.slab("vm_struct")
    pfn = machine.take(0, 0, 0)
    machine.slab("vm_struct")
    other = FailingMachine(small())
    other.fail_next("take")
    assert machine.replay_on(other) == [Difference(1, Entry("take", (0, 0, 0), pfn, 0, TASK), -1)]


def test_an_error_in_place_of_an_answer_is_a_difference() -> None:
    machine = RecordingMachine(small())
    pages = Pages([machine.take(0, 0, TAKE_ZERO)])
    machine.map_pages(BASE, pages, 0, 1, RW)
    machine.load(BASE, 2)
    other = FailingMachine(small())
    other.fail_next("map_pages")
    places = [(d.place, d.entry.operation) for d in machine.replay_on(other)]
    assert places == [(1, "map_pages"), (2, "load")]
    other = FailingMachine(small())
    other.fail_next("map_pages")
    assert machine.replay_on(other)[1].answer[0] == "Fault"


def test_the_oldest_entries_are_forgotten_and_then_nothing_is_replayed() -> None:
    machine = RecordingMachine(small(), keep=3)
    for order in range(5):
        machine.take(order, 0, 0)
    assert [entry.arguments[0] for entry in machine.log] == [2, 3, 4]
    assert machine.forgotten == 2
    with pytest.raises(BadRequest, match="forgotten its first 2 operations"):
        machine.replay_on(small())


def test_a_log_that_is_just_full_has_forgotten_nothing() -> None:
    machine = RecordingMachine(small(), keep=3)
    for order in range(3):
        machine.take(order, 0, 0)
    assert machine.replay_on(small()) == []
