"""``kvfree_rcu`` and the calls that wait: who may call, what is refused, what is left when something runs out."""

from __future__ import annotations

import gc

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.errors import BadAddress, BadContext, Fault
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_the_area_is_as_it_was_until_it_is_due(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    area = space.vzalloc(3 * PAGE)
    area.write(0, b"read on")
    space.kvfree_rcu(area)
    assert area.read(0, 7) == b"read on"
    assert space.find_vm_area(area.address) is not None
    assert space.stats()["rcu_waiting"] == 1
    space.rcu_barrier()
    assert not area.alive
    assert space.stats()["rcu_waiting"] == 0
    assert settled(space) == before


def test_contiguous_memory_is_freed_too_and_none_is_ignored() -> None:
    space = make()
    block = space.kvmalloc(PAGE)
    assert not block.is_vmalloc
    space.kvfree_rcu(block)
    for call in (space.kvfree_rcu, space.kvfree_rcu_mightsleep):
        with unchanged(space):
            call(None)
    with refused(space, BadAddress, "waits for a grace period"):
        space.kvfree(block)
    with refused(space, BadAddress, "waits for a grace period"):
        space.kvfree_sensitive(block, PAGE)
    with refused(space, BadAddress, "waits for a grace period"):
        space.kvrealloc(block, 2 * PAGE)
    with refused(space, BadAddress, "waits for a grace period"):
        space.kvfree_rcu(block)
    space.rcu_barrier()
    assert space.stats()["contiguous_blocks"] == 0


@pytest.mark.parametrize("call", ["kvfree_rcu", "kvfree_rcu_mightsleep", "vfree", "vfree_atomic", "vunmap", "kvfree",
                                  "free_vm_area"])  # fmt: skip
def test_what_waits_can_be_freed_by_nobody_else(call: str) -> None:
    space = make()
    area = space.vmalloc(40 * PAGE)
    space.kvfree_rcu(area.address + 17 * PAGE)  # any page of it will do
    with refused(space, BadAddress, "waits for a grace period"):
        getattr(space, call)(area)
    with refused(space, BadAddress, "waits for a grace period"):
        area.free()
    with refused(space, BadAddress, "waits for a grace period"):
        space.vrealloc(area, PAGE)
    area.detach()
    space.rcu_barrier()
    assert not area.alive
    with refused(space, BadAddress, "freed already"):
        getattr(space, call)(area)


def test_what_waits_for_a_worker_or_is_no_area_is_refused() -> None:
    space = make()
    area = space.vmalloc(PAGE)
    with refused(space, BadAddress, "not page aligned"):
        space.kvfree_rcu(area.address + 8)
    with refused(space, BadAddress, "is in no area"):
        space.kvfree_rcu(area.address + 64 * PAGE)
    with space.in_context("hardirq"):
        space.vfree(area)
        with refused(space, BadAddress, "waits to be freed already"):
            space.kvfree_rcu(area)


def test_the_handle_owns_nothing_afterwards() -> None:
    space = make()
    address = (area := space.vmalloc(PAGE)).address
    space.kvfree_rcu(area)
    del area
    gc.collect()
    assert space.vmalloc(PAGE).address != address
    assert space.find_vm_area(address) is not None


def test_a_handle_that_is_collected_leaves_the_area_to_the_worker() -> None:
    space = make()
    address = (area := space.vmalloc(PAGE)).address
    space.kvfree_rcu(address)  # by address: the handle does not know
    del area
    gc.collect()
    assert space.vmalloc(PAGE).address != address
    assert space.find_vm_area(address) is not None
    assert space.dmesg() == []
    space.rcu_barrier()
    assert space.find_vm_area(address) is None
    space.validate()


@pytest.mark.parametrize("context", ["softirq", "hardirq"])
def test_an_interrupt_may_call_the_form_with_two_arguments(context: str) -> None:
    space = make()
    first, second = space.vmalloc(PAGE), space.vmalloc(PAGE)
    with space.on_cpu(2), space.in_context(context):
        space.kvfree_rcu(first)
        for call in (space.kvfree_rcu_mightsleep, lambda area: space.synchronize_rcu(), lambda _: space.rcu_barrier()):
            with refused(space, BadContext, f"in {context} context: it .*sleep"):
                call(second)
        with space.in_context("nmi"), refused(space, BadContext, "in nmi context"):
            space.kvfree_rcu(second)
    space.rcu_barrier()
    assert (first.alive, second.alive) == (False, True)


def test_who_is_in_a_section_or_would_wait_for_one_does_not_wait() -> None:
    space = make()
    area = space.vmalloc(PAGE)
    with space.rcu_read_lock():
        with refused(space, BadContext, "may sleep, and CPU 0 is in a read-side section"):
            space.kvfree_rcu_mightsleep(area)
        with space.on_cpu(1):
            for call in (space.synchronize_rcu, space.rcu_barrier):
                with refused(space, BadContext, "for ever: CPU 0 is in a read-side section"):
                    call()
    space.kvfree_rcu_mightsleep(area)
    space.synchronize_rcu()
    assert space.stats()["rcu_grace_periods"] == 1
    space.synchronize_rcu()
    assert space.stats()["rcu_grace_periods"] == 2  # one of its own, though nothing waited


def test_without_a_page_the_memory_itself_is_the_list() -> None:
    space = make()
    before = settled(space)
    area, other = space.vmalloc(PAGE), space.vmalloc(PAGE)
    area.write(0, b"x" * 24)
    space.machine.fail_next("take")
    space.kvfree_rcu(area)
    assert area.read(0, 24) == bytes(16) + b"x" * 8
    space.kvfree_rcu(other)
    space.validate()
    space.rcu_barrier()
    assert settled(space) == before


def test_without_a_page_and_without_writing_nothing_happens() -> None:
    space = make()
    frames = space.alloc_pages(1)
    area = space.vmap(frames, prot="r")
    space.machine.fail_next("take")
    with refused(space, Fault, "readonly"):
        space.kvfree_rcu(area)
    assert area.owner


def test_without_a_page_who_may_sleep_waits_and_frees_at_once() -> None:
    space = make()
    waited, area = space.vmalloc(PAGE), space.vmalloc(PAGE)
    space.kvfree_rcu(waited)
    space.machine.fail_next("take")
    with space.on_cpu(1), space.rcu_read_lock(), space.on_cpu(0), refused(space, BadContext, "for ever: CPU 1"):
        space.kvfree_rcu_mightsleep(area)
    space.machine.fail_next("take")
    space.kvfree_rcu_mightsleep(area)
    assert not area.alive
    assert space.stats()["rcu_grace_periods"] == 1


def test_closing_ends_all_of_it() -> None:
    space: SimulatedSpace = make()
    areas = [space.vmalloc(PAGE) for _ in range(3)]
    for area in areas:
        space.kvfree_rcu(area)
    with space.rcu_read_lock():
        space.close()
    assert not any(area.alive for area in areas)
    assert space.machine.frames.outstanding("page table")
    used = sum(node.used for node in space.machine.frames.stats())
    assert used == space.machine.page_table.table_bytes // PAGE
