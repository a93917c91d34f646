"""The part of ``contract`` about page frames."""

from __future__ import annotations

import pytest

from machine.contract_helpers import ENOMEM, RW, base, foreign_frame, give_all, page_size, take_all, take_pages
from vmalloc.errors import BadFrame
from vmalloc.flags import NUMA_NO_NODE, TAKE_DMA32, TAKE_MAY_DRAIN, TAKE_STRICT, TAKE_ZERO
from vmalloc.machine.base import Machine
from vmalloc.pages import Pages


class FramesContract:
    """How frames are taken, split, held and given back."""

    def test_blocks_are_aligned_and_do_not_overlap(self, machine: Machine) -> None:
        seen: set[int] = set()
        for order in (0, 3, 0, 5, 1, 4, 0, 2):
            pfn = machine.take(order, NUMA_NO_NODE, 0)
            assert pfn % (1 << order) == 0
            block = set(range(pfn, pfn + (1 << order)))
            assert not block & seen
            assert {machine.node_of(frame) for frame in block} <= set(range(machine.info.nodes))
            seen |= block
        machine.validate()

    def test_running_out_of_frames_is_an_answer(self, machine: Machine) -> None:
        taken = take_all(machine)
        assert len(set(taken)) == len(taken)
        assert machine.take(0, NUMA_NO_NODE, TAKE_MAY_DRAIN) == -1
        assert machine.take(4, 0, 0) == -1
        assert machine.take_bulk(Pages(room=8), 8, NUMA_NO_NODE, 0) == 0
        assert machine.give(taken[-1], 0) == 0
        assert machine.take(0, NUMA_NO_NODE, TAKE_MAY_DRAIN) == taken[-1]
        give_all(machine, taken)
        machine.validate()

    def test_what_was_given_back_can_be_taken_again(self, machine: Machine) -> None:
        first = take_all(machine)
        give_all(machine, first)
        second = take_all(machine)
        assert len(second) == len(first)
        give_all(machine, second)

    def test_a_node_that_is_asked_for_is_asked_first(self, machine: Machine) -> None:
        for node in range(machine.info.nodes):
            assert machine.node_of(machine.take(0, node, 0)) == node

    def test_without_a_node_it_is_the_one_of_the_running_cpu(self, machine: Machine) -> None:
        for cpu in range(machine.info.cpus):
            machine.cpu = cpu
            assert machine.node_of(machine.take(0, NUMA_NO_NODE, 0)) == cpu * machine.info.nodes // machine.info.cpus

    def test_a_full_node_is_helped_by_another_unless_the_caller_is_strict(self, machine: Machine) -> None:
        if machine.info.nodes == 1:
            pytest.skip("one node")
        taken = take_all(machine, 1, TAKE_STRICT)
        assert {machine.node_of(pfn) for pfn in taken} == {1}
        assert machine.take(0, 1, TAKE_STRICT | TAKE_MAY_DRAIN) == -1
        assert machine.take_bulk(Pages(room=4), 4, 1, TAKE_STRICT) == 0
        helped = machine.take(0, 1, 0)
        assert machine.node_of(helped) not in (-1, 1)
        machine.validate()

    def test_frames_for_devices_with_32_address_lines_are_low(self, machine: Machine) -> None:
        if not machine.info.has_dma32:
            pytest.skip("no such zone")
        low = take_all(machine, NUMA_NO_NODE, TAKE_DMA32)
        assert low
        assert max(low) < 1 << (32 - machine.info.page_shift)
        assert machine.take_bulk(Pages(room=4), 4, NUMA_NO_NODE, TAKE_DMA32) == 0
        rest = take_all(machine)
        assert all(pfn >= 1 << (32 - machine.info.page_shift) for pfn in rest)

    def test_frames_are_zeros_when_asked_for_so(self, machine: Machine) -> None:
        size = page_size(machine)
        dirty = take_all(machine)
        address = base(machine)
        for pfn in dirty[:40]:
            assert machine.map_pages(address, Pages([pfn]), 0, 1, RW) in (0, -ENOMEM)
            if machine.translate(address) == pfn:
                machine.store(address, b"old" * 10)
            machine.unmap(address, address + size)
            machine.flush(address, address + size)
        give_all(machine, dirty)
        block = machine.take(2, NUMA_NO_NODE, TAKE_ZERO)
        pages = Pages([*range(block, block + 4), machine.take(0, 0, TAKE_ZERO)])
        more = Pages(room=60)
        machine.take_bulk(more, 60, NUMA_NO_NODE, TAKE_ZERO)
        for pfn in (*pages, *more):
            assert machine.read_frame(pfn, 0, size) == bytes(size)

    def test_a_batch_is_appended(self, machine: Machine) -> None:
        pages = Pages([foreign_frame(machine)], room=33)
        done = machine.take_bulk(pages, 32, NUMA_NO_NODE, 0)
        assert 0 <= done <= 32
        assert len(pages) == 1 + done
        assert pages[0] == foreign_frame(machine)
        assert len(set(pages)) == 1 + done
        assert all(machine.node_of(pfn) >= 0 for pfn in pages[1:])
        assert machine.give_bulk(pages, 1, done) == done
        machine.validate()

    def test_batches_and_single_frames_fill_a_list_together(self, machine: Machine) -> None:
        """Section 3.3 step 2: a short answer means no more than "go on one by one"."""
        pages = Pages(room=700)
        while len(pages) < 700:
            if machine.take_bulk(pages, 700 - len(pages), 0, 0) == 0:
                pages = Pages([*pages, machine.take(0, 0, 0)], room=700)
        assert min(pages) >= 0
        assert len(set(pages)) == 700
        assert machine.give_bulk(pages, 0, 700) == 700
        machine.validate()

    def test_a_batch_of_a_strict_caller_comes_from_its_node(self, machine: Machine) -> None:
        for node in range(machine.info.nodes):
            pages = Pages(room=50)
            machine.take_bulk(pages, 50, node, TAKE_STRICT)
            assert {machine.node_of(pfn) for pfn in pages} <= {node}

    def test_a_block_is_given_back_as_it_was_taken(self, machine: Machine) -> None:
        pfn = machine.take(3, NUMA_NO_NODE, 0)
        assert machine.give(pfn, 2) != 0
        assert machine.give(pfn + 1, 0) != 0
        assert machine.give(pfn, 3) == 0
        machine.validate()

    def test_a_split_block_is_single_frames(self, machine: Machine) -> None:
        pfn = machine.take(3, NUMA_NO_NODE, 0)
        assert machine.split(pfn, 3) == 0
        assert machine.give(pfn, 3) != 0
        for frame in (5, 0, 7, 1, 2, 6, 4, 3):
            assert machine.give(pfn + frame, 0) == 0
        machine.validate()

    def test_what_was_not_taken_cannot_be_split(self, machine: Machine) -> None:
        assert machine.split(foreign_frame(machine), 3) != 0
        pfn = machine.take(3, NUMA_NO_NODE, 0)
        assert machine.split(pfn, 2) != 0
        assert machine.give(pfn, 3) == 0

    def test_a_frame_cannot_be_given_back_twice(self, machine: Machine) -> None:
        pfn = machine.take(0, NUMA_NO_NODE, 0)
        assert machine.why_not(pfn, 0) == ""
        assert machine.give(pfn, 0) == 0
        assert machine.give(pfn, 0) != 0
        assert machine.why_not(pfn, 0) != ""
        machine.validate()

    def test_what_is_no_memory_cannot_be_given_back(self, machine: Machine) -> None:
        pfn = foreign_frame(machine)
        assert machine.give(pfn, 0) != 0
        assert machine.why_not(pfn, 0) != ""

    def test_giving_a_list_back_stops_at_the_first_that_cannot_be(self, machine: Machine) -> None:
        good = list(take_pages(machine, 4))
        pages = Pages([good[0], good[1], foreign_frame(machine), good[2], good[3]])
        assert machine.give_bulk(pages, 0, 5) == 2
        assert [machine.why_not(pfn, 0) == "" for pfn in good] == [False, False, True, True]
        assert machine.give_bulk(pages, 3, 2) == 2
        machine.validate()

    def test_a_frame_that_is_held_twice_is_given_back_twice(self, machine: Machine) -> None:
        pfn = machine.take(0, NUMA_NO_NODE, 0)
        other = machine.take(0, NUMA_NO_NODE, 0)
        machine.hold(pfn)
        machine.hold(pfn)
        assert machine.give(pfn, 0) == 0
        assert machine.give_bulk(Pages([other, pfn]), 0, 2) == 2
        assert machine.why_not(pfn, 0) == ""
        assert machine.give(pfn, 0) == 0
        assert machine.give(pfn, 0) != 0
        machine.validate()

    def test_a_frame_that_nobody_has_cannot_be_held(self, machine: Machine) -> None:
        pfn = machine.take(0, NUMA_NO_NODE, 0)
        machine.give(pfn, 0)
        for frame in (pfn, foreign_frame(machine)):
            with pytest.raises(BadFrame) as caught:
                machine.hold(frame)
            assert caught.value.pfn == frame
        machine.validate()

    def test_there_is_memory_for_records(self, machine: Machine) -> None:
        assert [machine.slab(what) for what in ("vm_struct", "vmap_area", "page array")] == [True, True, True]
