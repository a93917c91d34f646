"""A wrapper: one machine in two skins."""

from __future__ import annotations

import pytest

from machine.wrappers.rig import BASE, RW, P, small
from vmalloc.errors import BadRequest
from vmalloc.flags import HARDIRQ, TASK
from vmalloc.machine.base import Machine
from vmalloc.machine.simulated.mempolicy import MemPolicy
from vmalloc.machine.wrappers import CountingMachine, FailingMachine, RecordingMachine, Wrapper
from vmalloc.machine.wrappers.wrapper import OPERATIONS
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds

WRAPPERS = (Wrapper, FailingMachine, CountingMachine, RecordingMachine)


class Heard(Machine):
    """A machine in Python that notes what it is asked."""

    def __init__(self) -> None:
        self.info = small().info
        self.heard: list[tuple[str, tuple[object, ...]]] = []


ANSWERS = {"load": b"x", "read_frame": b"x"}


def _hear(operation: str) -> object:
    def hear(self: Heard, *arguments: object) -> object:
        self.heard.append((operation, arguments))
        return ANSWERS.get(operation, 1)

    return hear


for _operation in OPERATIONS:
    setattr(Heard, _operation, _hear(_operation))

PAGES = Pages([1, 2, 3], room=8)
ARGUMENTS = {
    "take": (1, 0, 2), "take_bulk": (PAGES, 3, 1, 4), "split": (8, 3), "give": (8, 3), "give_bulk": (PAGES, 1, 2),
    "hold": (8,), "why_not": (8, 0), "node_of": (8,), "slab": ("vm_struct",), "map_pages": (BASE, PAGES, 1, 2, 3),
    "map_range": (BASE, 8, P, 12, 3), "unmap": (BASE, BASE + P), "flush": (BASE, BASE + P), "translate": (BASE,),
    "set_direct_map": (PAGES, 0, 1, True), "set_scope": (True,), "load": (BASE, 5), "store": (BASE, b"x"),
    "read_frame": (8, 1, 2), "zero_frame": (8, 1, 2), "copy_frame": (8, 9, 7), "defer": (print, 1),
    "run_deferred": (), "has_deferred": (), "trim": (), "validate": (),
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_arrives_as_it_was_asked_and_so_does_the_answer(wrapper: type, operation: str) -> None:
    inner = Heard()
    answer = getattr(wrapper(Wrapper(inner)), operation)(*ARGUMENTS[operation])
    assert inner.heard == [(operation, ARGUMENTS[operation])]
    assert answer == ANSWERS.get(operation, 1)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_who_runs_is_said_to_all_layers_at_once(wrapper: type) -> None:
    inner = small()
    outer = wrapper(Wrapper(inner))
    assert outer.running is inner.running
    outer.cpu, outer.context = 1, HARDIRQ
    assert (inner.cpu, inner.context) == (1, HARDIRQ)
    inner.cpu = 0
    assert outer.cpu == 0


def test_work_sees_on_every_layer_on_which_cpu_it_runs() -> None:
    inner = small()
    middle = FailingMachine(inner)
    outer = CountingMachine(middle)
    seen: list[tuple[int, int]] = []
    outer.context = HARDIRQ
    outer.defer(lambda: seen.extend((layer.cpu, layer.context) for layer in (inner, middle, outer)), 1)
    outer.run_deferred()
    assert seen == [(1, TASK)] * 3
    assert {(layer.cpu, layer.context) for layer in (inner, middle, outer)} == {(0, HARDIRQ)}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_everything_else_is_looked_up_on_the_machine_inside(wrapper: type) -> None:
    inner = small()
    outer = wrapper(Wrapper(inner))
    assert outer.info is inner.info
    assert outer.page_table is inner.page_table
    assert outer.frames is inner.frames
    assert outer.mmu is inner.mmu
    assert outer.tlb(1) is inner.tlb(1)
    assert outer.faults == inner.faults
    assert outer.describe() == inner.describe()
    policy = MemPolicy("bind", (1,))
    outer.set_policy(policy)
    assert inner.policy is outer.policy is policy
    assert outer.inner.inner is inner


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_no_layer_has_is_not_found(wrapper: type) -> None:
    with pytest.raises(AttributeError, match="nothing_like_that"):
        _ = wrapper(small()).nothing_like_that


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_only_machines_can_be_wrapped(wrapper: type) -> None:
    for other in (None, small, "machine"):
        with pytest.raises(BadRequest, match="a wrapper goes around a machine"):
            wrapper(other)


def test_accesses_by_array_go_through() -> None:
    outer = Wrapper(small())
    pages = Pages([outer.take(0, 0, 0)])
    assert outer.map_pages(BASE, pages, 0, 1, RW) == 0
    from array import array

    assert outer.access(array("Q", [BASE, BASE + 8, BASE + P]), False, 0).unmapped == 1
