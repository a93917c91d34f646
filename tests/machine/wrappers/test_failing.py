"""Failures on purpose: planned, at random, and undone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.wrappers.rig import BASE, ENOMEM, PMD, RW, P, small
from vmalloc.errors import BadRequest, Fault
from vmalloc.flags import TAKE_ZERO
from vmalloc.machine.wrappers import failing
from vmalloc.machine.wrappers.failing import FAILING, RECORDS, FailingMachine
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds


@pytest.fixture
def machine() -> FailingMachine:
    return FailingMachine(small())


def takes(machine: FailingMachine, count: int) -> list[bool]:
    return [machine.take(0, 0, 0) >= 0 for _ in range(count)]


def test_bits_are_places_in_the_list() -> None:
    text = Path(failing.__file__).with_name("failing.pxd").read_text(encoding="utf-8")
    bits = {name: int(value) for name, value in re.findall(r"^    FAIL_(\w+) = (\d+)$", text, re.MULTILINE)}
    assert bits == {operation.upper(): 1 << place for place, operation in enumerate(FAILING)}


def test_nothing_fails_unasked(machine: FailingMachine) -> None:
    assert all(takes(machine, 100))
    assert machine.failures == 0


def test_the_next_request_fails_once(machine: FailingMachine) -> None:
    machine.fail_next("take")
    assert takes(machine, 3) == [False, True, True]
    assert machine.failures == 1


def test_requests_before_go_through(machine: FailingMachine) -> None:
    machine.fail_next("take", after=2, times=2)
    assert takes(machine, 6) == [True, True, False, False, True, True]


def test_a_failure_may_last_for_ever_and_be_taken_back(machine: FailingMachine) -> None:
    machine.fail_next("take", after=1, times=None)
    assert takes(machine, 50) == [True] + [False] * 49
    machine.clear()
    assert all(takes(machine, 10))
    assert machine.failures == 49


def test_plans_count_each_for_themselves(machine: FailingMachine) -> None:
    machine.fail_next("take", after=1)
    machine.fail_next("take", after=3)
    machine.fail_next("slab", times=None)
    assert takes(machine, 5) == [True, False, True, False, True]


@given(
    plans=st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(1, 4))), max_size=4),
    before=st.integers(0, 3),
)
def test_any_plans_fail_as_a_list_of_places_says(plans: list[tuple[int, int | None]], before: int) -> None:
    """The slow twin: each plan is a set of numbers of requests."""
    machine = FailingMachine(small())
    expected = set()
    takes(machine, before)
    for after, times in plans:
        machine.fail_next("take", after=after, times=times)
        expected |= set(range(after, 12 if times is None else after + times))
    answers = takes(machine, 12)
    assert {i for i, went in enumerate(answers) if not went} == expected & set(range(12))
    assert machine.failures == answers.count(False)


def test_operations_fail_for_themselves(machine: FailingMachine) -> None:
    machine.fail_next("take_bulk")
    assert all(takes(machine, 3))
    pages = Pages(room=64)
    assert machine.take_bulk(pages, 64, 0, 0) == 32
    assert machine.take_bulk(pages, 32, 0, 0) == 32


def test_a_batch_of_one_that_fails_is_none(machine: FailingMachine) -> None:
    machine.fail_next("take_bulk")
    pages = Pages(room=1)
    assert machine.take_bulk(pages, 1, 0, 0) == 0
    assert len(pages) == 0


def test_records_run_short_by_name(machine: FailingMachine) -> None:
    machine.fail_next("slab", after=1, what="vmap_area")
    asked = ["vmap_area", "vm_struct", "page array", "vmap_area", "vmap_area"]
    assert [machine.slab(what) for what in asked] == [True, True, True, False, True]
    machine.fail_next("slab")
    assert [machine.slab(what) for what in asked[:2]] == [False, True]


def test_an_operation_that_fails_is_not_done(machine: FailingMachine) -> None:
    pages = Pages([machine.take(0, 0, 0) for _ in range(4)])
    before = [row.free for row in machine.frames.stats()]
    for operation in ("map_pages", "map_range", "take"):
        machine.fail_next(operation)
    assert machine.take(3, 0, 0) == -1
    assert machine.map_pages(BASE, pages, 0, 4, RW) == -ENOMEM
    assert machine.map_range(BASE, pages[0], P, 12, RW) == -ENOMEM
    assert machine.translate(BASE) == -1
    assert [row.free for row in machine.frames.stats()] == before
    assert machine.failures == 3


@pytest.mark.parametrize("after", range(5))
def test_a_mapping_is_made_up_to_the_table_that_is_missing(machine: FailingMachine, after: int) -> None:
    """Three tables: 2 pages, 512 pages, 2 pages."""
    block = machine.take(10, 0, 0)
    pages = Pages(range(block, block + 516))
    address = BASE + PMD - 2 * P
    ends = [0, 2, 514]
    machine.fail_next("page_table", after=after)
    code = machine.map_pages(address, pages, 0, 516, RW)
    done = ends[after] if after < 3 else 516
    assert code == (-ENOMEM if after < 3 else 0)
    assert [machine.translate(address + i * P) for i in (0, 1, 2, 513, 514, 515)] == [
        pages[i] if i < done else -1 for i in (0, 1, 2, 513, 514, 515)
    ]
    machine.validate()
    machine.unmap(address, address + 516 * P)
    machine.flush(address, address + 516 * P)
    assert machine.translate(address) == -1
    machine.clear()
    assert machine.map_pages(address, pages, 0, 516, RW) == 0
    machine.validate()


@pytest.mark.parametrize("after", range(4))
def test_a_contiguous_mapping_is_made_up_to_the_table_that_is_missing(machine: FailingMachine, after: int) -> None:
    block = machine.take(10, 0, 0)
    machine.fail_next("page_table", after=after)
    code = machine.map_range(BASE, block, 4 << 20, 21, RW)
    assert code == (-ENOMEM if after < 2 else 0)
    assert [machine.translate(BASE), machine.translate(BASE + PMD)] == [
        block if after > 0 else -1,
        block + 512 if after > 1 else -1,
    ]
    machine.validate()


def test_a_page_table_that_is_missing_later_is_waited_for(machine: FailingMachine) -> None:
    pages = Pages([machine.take(0, 0, 0) for _ in range(2)])
    machine.fail_next("page_table", after=2)
    assert machine.map_pages(BASE, pages, 0, 1, RW) == 0
    assert machine.map_pages(BASE + PMD, pages, 0, 1, RW) == 0
    assert machine.map_pages(BASE + P, pages, 0, 1, RW) == -ENOMEM
    assert machine.map_pages(BASE + P, pages, 0, 1, RW) == 0


def test_what_is_busy_is_said_before_a_table_is_missed(machine: FailingMachine) -> None:
    pages = Pages([machine.take(0, 0, 0) for _ in range(4)])
    assert machine.map_pages(BASE + PMD - P, pages, 0, 1, RW) == 0
    machine.fail_next("page_table", after=1)
    assert machine.map_pages(BASE + PMD - 2 * P, pages, 0, 4, RW) == -16
    assert machine.translate(BASE + PMD - 2 * P) == -1


def test_a_flush_that_is_forgotten_shows(machine: FailingMachine) -> None:
    """Section 4.9: a missing flush is reported by the access, not assumed."""
    pages = Pages([machine.take(0, 0, TAKE_ZERO), machine.take(0, 0, TAKE_ZERO)])
    machine.map_pages(BASE, pages, 0, 1, RW)
    machine.store(BASE, b"secret")
    machine.unmap(BASE, BASE + P)
    machine.drop_flushes(2)
    for _ in range(2):
        machine.flush(BASE, BASE + P)
        with pytest.raises(Fault, match="no flush came") as caught:
            machine.load(BASE, 6)
        assert caught.value.kind == "stale_tlb"
    machine.flush(BASE, BASE + P)
    with pytest.raises(Fault) as caught:
        machine.load(BASE, 6)
    assert caught.value.kind == "unmapped"
    assert machine.failures == 2


def test_all_flushes_can_be_forgotten(machine: FailingMachine) -> None:
    machine.drop_flushes()
    before = machine.faults["flushes"]
    for _ in range(20):
        machine.flush(BASE, BASE + P)
    assert machine.faults["flushes"] == before
    machine.clear()
    machine.flush(BASE, BASE + P)
    assert machine.faults["flushes"] == before + 1


@pytest.mark.parametrize("probability", [0, 0.3, 1])
def test_chance_fails_as_often_as_was_asked(machine: FailingMachine, probability: float) -> None:
    machine.fail_randomly(probability, seed=5)
    failed = takes(machine, 1000).count(False)
    assert abs(failed - 1000 * probability) < 60
    assert machine.failures == failed
    if probability in (0, 1):
        assert failed == 1000 * probability


def test_chance_is_the_same_for_the_same_seed() -> None:
    answers = []
    for seed in (1, 1, 2):
        machine = FailingMachine(small())
        machine.fail_randomly(0.5, seed)
        answers.append(takes(machine, 64))
    assert answers[0] == answers[1] != answers[2]


def test_chance_never_forgets_a_flush_and_can_be_ended(machine: FailingMachine) -> None:
    machine.fail_randomly(1)
    assert machine.slab("vm_struct") is False
    assert machine.take_bulk(Pages(room=8), 8, 0, 0) == 4
    before = machine.faults["flushes"]
    machine.flush(BASE, BASE + P)
    assert machine.faults["flushes"] == before + 1
    machine.fail_randomly(0)
    assert all(takes(machine, 20))


def test_chance_and_plans_go_together(machine: FailingMachine) -> None:
    machine.fail_randomly(0.5, seed=1)
    machine.fail_next("take", times=30)
    assert not any(takes(machine, 30))
    assert set(takes(machine, 60)) == {True, False}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"operation": "give"}, "operation 'give' cannot be made to fail; these can: take, take_bulk, slab, map_pages"),
        ({"operation": "take", "after": -1}, "a failure after -1 requests"),
        ({"operation": "take", "times": 0}, "0 times"),
        ({"operation": "slab", "what": "inode"}, "record 'inode' of slab"),
        ({"operation": "take", "what": "vm_struct"}, "only slab is asked for records"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(machine: FailingMachine, arguments: dict, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        machine.fail_next(**arguments)
    assert all(takes(machine, 5))


@pytest.mark.parametrize("probability", [-0.1, 1.01, float("nan")])
def test_a_probability_that_is_none_is_refused(machine: FailingMachine, probability: float) -> None:
    with pytest.raises(BadRequest, match="between 0 and 1"):
        machine.fail_randomly(probability)


def test_the_names_of_records_are_those_that_calls_use() -> None:
    source = Path(failing.__file__).parents[2] / "calls"
    used = {name for path in source.glob("*.py") for name in re.findall(r'slab\("([\w ]+)"\)', path.read_text("utf-8"))}
    assert used == set(RECORDS)
