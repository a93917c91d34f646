"""Grace periods: what ends one, and the validator on structures that were broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls.watch import PAGE, make
from vmalloc.calls import rcu as module
from vmalloc.calls.rcu import Batch, validate_rcu
from vmalloc.errors import BadContext, BadRequest, ValidationError
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds


def waiting(space: SimulatedSpace) -> dict[str, int]:
    """How many objects are in each state."""
    found = {"arriving": 0, "held": 0, "due": 0}
    for state, batch in space.state.rcu.batches():
        found[state] += len(batch.entries)
    return found


def test_a_grace_period_ends_when_every_cpu_has_passed_a_quiescent_state() -> None:
    space = make(cpus=3, nodes=1)
    area = space.vmalloc(PAGE)
    space.kvfree_rcu(area)
    assert waiting(space) == {"arriving": 0, "held": 1, "due": 0}
    for cpu in (1, 0, 1):
        space.rcu_quiescent(cpu)
        assert waiting(space)["held"] == 1
    assert space.vmalloc(PAGE).alive  # calls are no quiescent states
    space.rcu_quiescent(2)
    assert waiting(space) == {"arriving": 0, "held": 0, "due": 1}
    assert area.alive  # until the worker has run
    assert space.vmalloc(PAGE).alive  # a call in task context: it has
    assert not area.alive
    assert space.stats()["rcu_grace_periods"] == 1
    space.validate()


def test_what_arrives_during_a_grace_period_waits_for_the_next_one() -> None:
    space = make(cpus=2, nodes=1)
    first, second = space.vmalloc(PAGE), space.vmalloc(PAGE)
    space.kvfree_rcu(first)
    space.rcu_quiescent(0)
    with space.on_cpu(1):
        space.kvfree_rcu(second)
    assert waiting(space) == {"arriving": 1, "held": 1, "due": 0}
    space.rcu_quiescent(1)
    assert waiting(space) == {"arriving": 0, "held": 1, "due": 1}
    space.rcu_quiescent(1)  # CPU 0 owes one again
    assert waiting(space)["held"] == 1
    space.rcu_quiescent()  # the running CPU: 0
    assert waiting(space) == {"arriving": 0, "held": 0, "due": 2}
    space.validate()


def test_a_reader_keeps_its_cpu_from_passing_one() -> None:
    space = make(cpus=2, nodes=1)
    area = space.vmalloc(PAGE)
    with space.on_cpu(1), space.rcu_read_lock():
        with space.on_cpu(0), space.rcu_read_lock():
            space.kvfree_rcu(area)
        with space.rcu_read_lock():
            space.rcu_quiescent(0, 1)
        space.rcu_quiescent(1)  # still in the outer section
        assert space.run_deferred() == 0
        assert waiting(space)["held"] == 1
        assert area.read(0, 4) is not None
    assert waiting(space)["held"] == 1  # leaving is none by itself
    space.rcu_quiescent(1)
    assert waiting(space)["due"] == 1
    assert space.run_deferred() == 1
    assert not area.alive


def test_idle_cpus_are_quiescent_when_everything_else_goes_on() -> None:
    space = make()
    areas = [space.vmalloc(PAGE) for _ in range(3)]
    for cpu, area in enumerate(areas):
        with space.on_cpu(cpu):
            space.kvfree_rcu(area)
    assert space.run_deferred() == 3  # a worker per CPU
    assert not any(area.alive for area in areas)
    assert space.stats()["rcu_grace_periods"] == 2
    assert space.run_deferred() == 0


def test_many_waiting_objects_force_quiescent_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QHIMARK", 5)
    space = make()
    areas = [space.vmalloc(PAGE) for _ in range(7)]
    for area in areas[:6]:
        space.kvfree_rcu(area)
    assert all(area.alive for area in areas)
    space.vfree(areas[6])  # task context: the work is done first
    assert [area.alive for area in areas[:6]] == [False, *[True] * 5]  # one was held; five begin their wait
    assert waiting(space) == {"arriving": 0, "held": 5, "due": 0}
    space.validate()


def test_a_batch_is_a_page_of_pointers_from_the_frames() -> None:
    space = make()
    assert space.state.rcu.capacity == PAGE // 8 - 2
    capacity = space.state.rcu.capacity = 20
    areas = [space.vmalloc(1) for _ in range(2 * capacity + 2)]
    used = space.stats()["frames_used"]
    for number, area in enumerate(areas):
        space.kvfree_rcu(area)  # the first has a grace period of its own
        assert space.stats()["frames_used"] - used == (1 if number == 0 else 2 + (number - 1) // capacity)
    space.validate()
    space.rcu_barrier()
    assert space.stats()["frames_used"] == used - len(areas)


def test_there_is_no_such_cpu() -> None:
    space = make(cpus=2, nodes=1)
    space.kvfree_rcu(space.vmalloc(PAGE))
    for cpu in (2, -1):
        with pytest.raises(BadRequest, match=f"CPU {cpu} of a machine whose CPUs are 0 to 1"):
            space.rcu_quiescent(0, cpu)
    assert space.state.rcu.owing == 3


GIVE = ("area", "block", "sleeping", "interrupt", "no page")
VERBS = (*GIVE, "pass", "pass", "lock", "unlock", "call", "workers")


def give(space: SimulatedSpace, verb: str) -> Any:
    """Allocates an object and gives it up, in one of the ways there are; None where that is refused."""
    found = space.kvmalloc(PAGE) if verb == "block" else space.vmalloc(PAGE)
    if verb == "sleeping":
        if space.state.rcu.reading[space.machine.running.cpu]:
            with pytest.raises(BadContext, match="in a read-side section"):
                space.kvfree_rcu_mightsleep(found)
            found.free()
            return None
        space.kvfree_rcu_mightsleep(found)
    elif verb == "interrupt":
        with space.in_context("softirq"):
            space.kvfree_rcu(found)
    else:
        if verb == "no page":
            space.machine.fail_next("take")
        space.kvfree_rcu(found)
        space.machine.clear()
    return found


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(VERBS), st.integers(0, 2)), max_size=60))
def test_nothing_is_freed_that_a_reader_may_hold(program: list[tuple[str, int]]) -> None:
    """Against a slow twin: an object is free only if each CPU was seen outside all sections after it was given."""
    space = make(cpus=3, nodes=1)
    sections: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    given_up: list[tuple[Any, set[int]]] = []  # with the CPUs that have passed a quiescent state since

    def pass_through(cpus: Iterable[int]) -> None:
        for cpu in cpus:
            if not sections[cpu]:
                for _, passed in given_up:
                    passed.add(cpu)

    def expect() -> None:
        for found, passed in list(given_up):
            if not found.alive:
                assert passed == {0, 1, 2}
                given_up.remove((found, passed))
        validate_rcu(space.state.rcu)

    for verb, cpu in program:
        with space.on_cpu(cpu):
            if verb in GIVE:
                found = give(space, verb)
                if found is not None:
                    given_up.append((found, set()))
            elif verb == "pass":
                space.rcu_quiescent(cpu)
                pass_through([cpu])
            elif verb == "lock":
                sections[cpu].append(space.rcu_read_lock())
                sections[cpu][-1].__enter__()
            elif verb == "unlock" and sections[cpu]:
                sections[cpu].pop().__exit__(None, None, None)
            elif verb == "call":
                space.vfree(space.vmalloc(PAGE))
            elif verb == "workers":
                space.run_deferred()
                pass_through(range(3))
        expect()
    for held in sections.values():
        while held:
            held.pop().__exit__(None, None, None)
    space.rcu_barrier()
    assert not any(found.alive for found, _ in given_up)
    space.validate()
    used = sum(node.used for node in space.machine.frames.stats())
    assert used == space.machine.page_table.table_bytes // PAGE


# -- the validator -----------------------------------------------------------------------------------------------------


def broken_by_losing(space: SimulatedSpace) -> None:
    space.state.rcu.held[0].clear()


def broken_by_forgetting(space: SimulatedSpace) -> None:
    space.state.rcu.waiting.popitem()


def broken_by_freeing(space: SimulatedSpace) -> None:
    space.state.rcu.held[0][0].entries[0][0].live = False


def broken_by_doubling(space: SimulatedSpace) -> None:
    space.state.rcu.due[0].append(space.state.rcu.held[0][0])


def broken_by_no_grace_period(space: SimulatedSpace) -> None:
    space.state.rcu.owing = 0


def broken_by_a_cpu_too_many(space: SimulatedSpace) -> None:
    space.state.rcu.owing |= 1 << 9


def broken_by_an_empty_batch(space: SimulatedSpace) -> None:
    space.state.rcu.due[0].append(Batch(-1))


def broken_by_a_full_page(space: SimulatedSpace) -> None:
    space.state.rcu.capacity = 0


def broken_by_a_page_given_back(space: SimulatedSpace) -> None:
    space.machine.give(space.state.rcu.held[0][0].pfn, 0)


def broken_by_arriving_alone(space: SimulatedSpace) -> None:
    rcu = space.state.rcu
    rcu.arriving[0], rcu.held[0] = rcu.held[0], []
    rcu.owing = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_by_losing, "CPUs 0xf owe a quiescent state|where it is in none"),
        (broken_by_forgetting, "its being held and not among what waits"),
        (broken_by_freeing, "its being held: it was freed"),
        (broken_by_doubling, "its being due and held"),
        (broken_by_no_grace_period, "owe a quiescent state contradicts 1 batches that are held"),
        (broken_by_a_cpu_too_many, "CPUs 0x20f owe a quiescent state contradicts CPUs 0xf"),
        (broken_by_an_empty_batch, "a batch of 0 objects that are due contradicts its being kept"),
        (broken_by_a_full_page, "a batch of 1 objects that are held contradicts a page for 0"),
        (broken_by_a_page_given_back, "a batch of 1 objects that are held contradicts its frame"),
        (broken_by_arriving_alone, "objects that arrived while none ran"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_validator_finds_what_is_broken(damage: Callable[[SimulatedSpace], None], message: str) -> None:
    space = make()
    space.kvfree_rcu(space.vmalloc(PAGE))
    validate_rcu(space.state.rcu)
    damage(space)
    with pytest.raises(ValidationError, match=message):
        validate_rcu(space.state.rcu)
