"""Frames of one area: taken in the kernel's order, counted, given back one by one (section 3.3 and 6.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from space.rig import KERNELS, frames_of_tables, recording_space, settle, validate
from vmalloc.calls.area_pages import out_of_frames, release_area_pages, take_area_pages
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import OutOfFrames
from vmalloc.flags import GFP_KERNEL, GFP_ZERO, NUMA_NO_NODE, VM_ALLOC, VM_MAP_PUT_PAGES
from vmalloc.space.simulated import SimulatedSpace, simulated

P = 4096


def area_of(nr_pages: int, flags: int = VM_ALLOC) -> VmStruct:
    """A record with a guard page and nothing behind it."""
    return VmStruct((nr_pages + 1) * P, flags, P)


def used(space: SimulatedSpace) -> int:
    return sum(node.used for node in space.machine.frames.stats()) - sum(frames_of_tables(space).values())


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nr_pages", [1, 2, 7, 100, 101, 300])
def test_as_many_frames_as_pages_each_once(nr_pages: int, kernel: str) -> None:
    """Section 3.3: ``pages[]`` lists base pages; the guard page has none."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    before = used(space)
    vm = area_of(nr_pages)
    assert take_area_pages(space.state, vm, GFP_KERNEL, 0, NUMA_NO_NODE) == 0
    assert vm.nr_pages == len(vm.pages) == len(set(vm.pages)) == nr_pages
    assert not any(space.machine.why_not(pfn, 0) for pfn in vm.pages)  # each can be given back for itself
    assert used(space) - before == nr_pages == space.vmalloc_nr_pages()
    frames = list(vm.pages)
    release_area_pages(space.state, vm)
    assert (vm.pages, vm.nr_pages) == (None, 0)
    assert all(space.machine.why_not(pfn, 0) for pfn in frames)
    assert used(space) == before
    assert space.vmalloc_nr_pages() == 0
    release_area_pages(space.state, vm)  # nothing is left to give back
    space.machine.validate()


@given(nr_pages=st.integers(1, 1200))
def test_large_blocks_are_what_a_plain_reading_of_the_rule_gives(nr_pages: int) -> None:
    """Section 3.3 step 1, against its slow twin: the binary digits of the number, from order 10 down."""
    space, machine = recording_space(nodes=(1 << 12,))
    machine.log.clear()
    vm = area_of(nr_pages)
    assert take_area_pages(space.state, vm, GFP_KERNEL, 0, NUMA_NO_NODE) == 0
    expected, left = [], nr_pages
    while left > 1:
        order = min(10, left.bit_length() - 1)
        expected.append(order)
        left -= 1 << order
    taken = [entry.arguments[0] for entry in machine.log if entry.operation == "take" and entry.arguments[0] > 0]
    assert taken == expected
    at = 0
    for order in expected:
        run = list(vm.pages[at : at + (1 << order)])
        assert run == list(range(run[0], run[0] + (1 << order)))
        at += 1 << order
    release_area_pages(space.state, vm)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("order", [4, 9])
def test_blocks_of_the_mapping_size_are_split_at_once(order: int, kernel: str) -> None:
    """Section 3.3 step 3: high-order pages are split into independent base pages immediately."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    vm = area_of(2 << order)
    assert take_area_pages(space.state, vm, GFP_KERNEL, order, NUMA_NO_NODE) == 0
    for first in range(0, 2 << order, 1 << order):
        assert vm.pages[first] % (1 << order) == 0
    middle = vm.pages[3]
    assert space.machine.why_not(middle, 0) == ""
    release_area_pages(space.state, vm)
    space.machine.validate()


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_was_found_is_counted_before_it_is_known_to_be_enough(kernel: str) -> None:
    """Section 3.3: statistics are increased before the completeness check; releasing takes back what was counted."""
    space = simulated("x86_64", kernel, cpus=1, memory="16MiB")
    vm = area_of(10_000)  # more than there are
    missing = take_area_pages(space.state, vm, GFP_KERNEL, 0, NUMA_NO_NODE)
    assert missing > 0
    assert vm.nr_pages == 10_000 - missing == space.vmalloc_nr_pages()
    assert used(space) == vm.nr_pages
    error = out_of_frames(space.state, vm, missing, 0, NUMA_NO_NODE)
    assert isinstance(error, OutOfFrames)
    assert f"{missing} of 10000 page frames are missing" in str(error)
    assert (error.order, error.node) == (0, None)
    assert "from node 0 on" in str(out_of_frames(space.state, vm, missing, 0, 0))
    release_area_pages(space.state, vm)
    assert used(space) == space.vmalloc_nr_pages() == 0
    space.machine.validate()


def test_zeroed_frames_read_as_zeros_and_others_do_not() -> None:
    """Section 2.1: zero fill only when ``__GFP_ZERO`` is in force."""
    space = simulated("x86_64", cpus=1, memory="16MiB")
    for gfp, expected in ((GFP_KERNEL, b"\xaa"), (GFP_KERNEL | GFP_ZERO, b"\0")):
        vm = area_of(7)
        take_area_pages(space.state, vm, gfp, 0, NUMA_NO_NODE)
        assert {space.machine.read_frame(pfn, 100, 1) for pfn in vm.pages} == {expected}
        release_area_pages(space.state, vm)


def test_frames_that_were_handed_over_are_not_counted() -> None:
    """Section 6.1 step 7: not for ``VM_MAP_PUT_PAGES``."""
    space = simulated("x86_64", cpus=1, memory="16MiB")
    area = space.vmap(space.alloc_pages(5), put_pages=True)
    assert area.flags & VM_MAP_PUT_PAGES
    assert area.nr_pages == 5
    assert space.vmalloc_nr_pages() == 0
    area.free()
    settle(space)
    assert used(space) == 0
    assert space.vmalloc_nr_pages() == 0
    validate(space)


def test_a_frame_that_somebody_gave_away_is_reported_and_the_rest_given_back() -> None:
    """Section 6.1 step 6: each page for itself; a bad one is told in the kernel's words."""
    space = simulated("x86_64", cpus=1, memory="16MiB")
    area = space.vmalloc(5 * P)
    stolen = area.pages[2]
    assert space.machine.give(stolen, 0) == 0
    area.free()
    assert [line for line in space.dmesg() if f"Bad page state: frame {stolen:#x}" in line]
    settle(space)
    assert used(space) == 0
    assert space.vmalloc_nr_pages() == 0
    validate(space)


def test_a_frame_that_somebody_holds_too_stays_his() -> None:
    """Section 6.1 step 6: drop one reference."""
    space = simulated("x86_64", cpus=1, memory="16MiB")
    area = space.vmalloc(3 * P)
    held = area.pages[1]
    space.machine.hold(held)
    area.free()
    settle(space)
    assert used(space) == 1
    assert space.machine.why_not(held, 0) == ""
    space.machine.give(held, 0)
    assert used(space) == 0
