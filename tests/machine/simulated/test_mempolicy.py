"""Memory policies: which nodes frames come from when a call names none (section 3.3)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.contract_helpers import take_all
from vmalloc.errors import BadRequest
from vmalloc.flags import NUMA_NO_NODE, TAKE_INTERLEAVED, TAKE_STRICT, TAKE_ZERO
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.simulated.mempolicy import KINDS, MemPolicy
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds

#: Node 3 is the nearest neighbour of node 0, then 2, then 1.
DISTANCES = [[10, 40, 30, 20], [40, 10, 20, 30], [30, 20, 10, 40], [20, 30, 40, 10]]


@pytest.fixture
def machine() -> SimulatedMachine:
    return SimulatedMachine(ARCHITECTURES["x86_64"], PROFILES["6.19"], cpus=4, nodes=[1024] * 4, distances=DISTANCES)


def nodes_of(machine: SimulatedMachine, count: int, how: int = 0) -> list[int]:
    return [machine.node_of(machine.take(0, NUMA_NO_NODE, how)) for _ in range(count)]


def test_without_a_policy_it_is_the_node_of_the_running_cpu(machine: SimulatedMachine) -> None:
    machine.cpu = 2
    assert nodes_of(machine, 3) == [2, 2, 2]


def test_bound_tasks_get_frames_from_their_nodes_alone_nearest_first(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("bind", (1, 2)))
    assert nodes_of(machine, 2) == [2, 2]
    machine.cpu = 1
    assert nodes_of(machine, 2) == [1, 1]
    taken = take_all(machine)
    assert {machine.node_of(pfn) for pfn in taken} == {1, 2}
    assert machine.take(0, NUMA_NO_NODE, 0) == -1
    assert machine.take_bulk(Pages(room=4), 4, NUMA_NO_NODE, 0) == 0
    assert machine.node_of(machine.take(0, 0, 0)) == 0


def test_preferred_nodes_come_first_and_then_any(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("preferred", (1,)))
    assert nodes_of(machine, 2) == [1, 1]
    take_all(machine, 1, TAKE_STRICT)
    assert nodes_of(machine, 2) == [0, 0]


def test_interleaving_goes_round(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("interleave", (0, 2, 3)))
    assert nodes_of(machine, 7) == [0, 2, 3, 0, 2, 3, 0]


def test_weights_say_how_often_a_node_comes(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("weighted", (1, 3), {1: 3, 3: 1}))
    assert nodes_of(machine, 8) == [1, 1, 1, 3] * 2


def test_a_node_that_is_full_is_helped_out(machine: SimulatedMachine) -> None:
    take_all(machine, 2, TAKE_STRICT)
    machine.set_policy(MemPolicy("interleave", (2, 3)))
    assert nodes_of(machine, 4) == [0, 3, 0, 3]


def test_a_node_that_a_call_names_is_above_the_policy(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("bind", (1,)))
    assert machine.node_of(machine.take(0, 3, 0)) == 3
    pages = Pages(room=16)
    machine.take_bulk(pages, 16, 3, 0)
    assert {machine.node_of(pfn) for pfn in pages} == {3}


def test_zeroing_works_under_a_policy(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("interleave", (0, 1)))
    pages = Pages(room=8)
    machine.take_bulk(pages, 8, NUMA_NO_NODE, TAKE_INTERLEAVED | TAKE_ZERO)
    for pfn in [machine.take(0, NUMA_NO_NODE, TAKE_ZERO), *pages]:
        assert machine.read_frame(pfn, 0, 64) == bytes(64)


@pytest.mark.parametrize(
    ("policy", "count", "shares"),
    [
        (MemPolicy("interleave", (0, 1, 2)), 32, {0: 11, 1: 11, 2: 10}),
        (MemPolicy("weighted", (1, 3), {1: 3, 3: 1}), 16, {1: 12, 3: 4}),
    ],
)
def test_a_batch_is_divided(machine: SimulatedMachine, policy: MemPolicy, count: int, shares: dict[int, int]) -> None:
    machine.set_policy(policy)
    pages = Pages(room=count)
    assert machine.take_bulk(pages, count, NUMA_NO_NODE, TAKE_INTERLEAVED) == count
    assert Counter(machine.node_of(pfn) for pfn in pages) == shares
    assert len(set(pages)) == count
    machine.validate()


def test_a_batch_that_is_not_divided_is_one_frame_of_the_policy(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("interleave", (2, 3)))
    pages = Pages(room=8)
    assert machine.take_bulk(pages, 8, NUMA_NO_NODE, 0) == 1
    machine.set_policy(MemPolicy("bind", (1,)))
    assert machine.take_bulk(pages, 7, NUMA_NO_NODE, TAKE_INTERLEAVED) == 1
    assert [machine.node_of(pfn) for pfn in pages] == [2, 1]


@given(
    nodes=st.sets(st.integers(0, 9), min_size=1, max_size=6),
    data=st.data(),
    kind=st.sampled_from(["interleave", "weighted"]),
    count=st.integers(0, 300),
)
def test_a_division_is_what_one_by_one_would_give(nodes: set[int], data: st.DataObject, kind: str, count: int) -> None:
    """The slow twin: the frames of a batch handed out in turn."""
    weights = {node: data.draw(st.integers(1, 9)) for node in nodes} if kind == "weighted" else {}
    policy = MemPolicy(kind, tuple(sorted(nodes)), weights)
    policy.check(10)
    one_by_one = Counter(policy.order([10] * 10)[0] for _ in range(count))
    assert dict(policy.division(count)) == one_by_one
    assert [node for node, _ in policy.division(count)] == sorted(one_by_one)


@pytest.mark.parametrize("kind", ["bind", "preferred"])
def test_other_policies_divide_nothing(kind: str) -> None:
    assert MemPolicy(kind, (0, 1)).division(10) == []


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (MemPolicy("local", (0,)), "memory policy 'local': one of bind, preferred, interleave, weighted"),
        (MemPolicy("bind", ()), "at least one, none twice"),
        (MemPolicy("bind", (1, 1)), "at least one, none twice"),
        (MemPolicy("interleave", (0, 4)), "node 4 of a machine whose nodes are 0 to 3"),
        (MemPolicy("preferred", (-1,)), "node -1 of a machine"),
        (MemPolicy("weighted", (0, 1), {0: 2}), "at least 1 for each of the nodes"),
        (MemPolicy("weighted", (0,), {0: 0}), "at least 1 for each of the nodes"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_and_the_old_one_stays(
    machine: SimulatedMachine, policy: MemPolicy, text: str
) -> None:
    old = MemPolicy("bind", (3,))
    machine.set_policy(old)
    with pytest.raises(BadRequest, match=text):
        machine.set_policy(policy)
    assert machine.policy is old


def test_a_policy_can_be_taken_back(machine: SimulatedMachine) -> None:
    machine.set_policy(MemPolicy("bind", (3,)))
    machine.set_policy(None)
    assert nodes_of(machine, 2) == [0, 0]


def test_every_kind_has_a_test_here() -> None:
    assert set(KINDS) == {"bind", "preferred", "interleave", "weighted"}
