"""The part of ``contract`` about mappings."""

from __future__ import annotations

import pytest

from machine.contract_helpers import (
    EBUSY,
    ENOMEM,
    RW,
    base,
    give_all,
    mapped,
    page_size,
    take_all,
    take_pages,
    translations,
)
from vmalloc.errors import Fault
from vmalloc.flags import NUMA_NO_NODE, TAKE_ZERO
from vmalloc.machine.base import Machine
from vmalloc.pages import Pages
from vmalloc.units import align_up


class MappingsContract:
    """How frames are mapped, unmapped and forgotten."""

    def test_pages_are_mapped_in_the_order_of_the_list(self, machine: Machine) -> None:
        pages = take_pages(machine, 7)
        address = base(machine) + 3 * page_size(machine)
        assert machine.map_pages(address, pages, 2, 4, RW) == 0
        assert translations(machine, address - page_size(machine), 6) == [-1, *pages[2:6], -1]
        machine.validate()

    def test_the_same_frame_may_be_mapped_twice(self, machine: Machine) -> None:
        pfn = machine.take(0, NUMA_NO_NODE, TAKE_ZERO)
        address, size = base(machine), page_size(machine)
        assert machine.map_pages(address, Pages([pfn, pfn]), 0, 2, RW) == 0
        machine.store(address + 5, b"seen twice")
        assert machine.load(address + size + 5, 10) == b"seen twice"
        assert machine.read_frame(pfn, 5, 10) == b"seen twice"

    @pytest.mark.parametrize("busy", [0, 1, 5, 9])
    def test_pages_over_a_mapping_are_refused_and_nothing_is_changed(self, machine: Machine, busy: int) -> None:
        address, size = base(machine), page_size(machine)
        pages = take_pages(machine, 11)
        assert machine.map_pages(address + busy * size, pages, 10, 1, RW) == 0
        before = translations(machine, address, 10)
        assert machine.map_pages(address, pages, 0, 10, RW) == -EBUSY
        assert translations(machine, address, 10) == before
        machine.validate()

    @pytest.mark.parametrize("busy", [0, 1, 17, 31])
    def test_a_range_over_a_mapping_is_refused_and_nothing_is_changed(self, machine: Machine, busy: int) -> None:
        address, size = base(machine), page_size(machine)
        block, single = machine.take(5, NUMA_NO_NODE, 0), take_pages(machine, 1)
        assert machine.map_pages(address + busy * size, single, 0, 1, RW) == 0
        before = translations(machine, address, 32)
        assert machine.map_range(address, block, 32 * size, machine.info.page_shift + 5, RW) == -EBUSY
        assert translations(machine, address, 32) == before
        machine.validate()

    def test_a_mapping_over_several_tables_is_refused_as_a_whole(self, machine: Machine) -> None:
        size, table = page_size(machine), 1 << machine.info.pmd_shift
        if base(machine) + 2 * table > machine.info.vmalloc_end:
            pytest.skip("the range has one table")
        address = base(machine) + table - 3 * size
        pages = take_pages(machine, 7)
        assert machine.map_pages(address + 5 * size, pages, 6, 1, RW) == 0
        assert machine.map_pages(address, pages, 0, 6, RW) == -EBUSY
        assert translations(machine, address, 6) == [-1, -1, -1, -1, -1, pages[6]]
        machine.validate()

    def test_running_out_of_page_tables_is_an_answer(self, machine: Machine) -> None:
        """What was mapped stays, and unmapping the whole range undoes it."""
        size, table = page_size(machine), 1 << machine.info.pmd_shift
        taken = take_all(machine)
        tables = min((machine.info.vmalloc_end - base(machine)) // table, 40)
        short = []
        for k in range(tables - 1):
            address = base(machine) + (k + 1) * table - 2 * size
            code = machine.map_pages(address, Pages(taken[:4]), 0, 4, RW)
            assert code in (0, -ENOMEM)
            if code == -ENOMEM:
                done = translations(machine, address, 4)
                nr_done = 4 - done.count(-1)
                assert done == taken[:nr_done] + [-1] * (4 - nr_done)
                short.append(address)
            machine.unmap(address, address + 4 * size)
            assert translations(machine, address, 4) == [-1] * 4
        machine.validate()
        give_all(machine, taken)
        for address in short[:3]:
            assert machine.map_pages(address, take_pages(machine, 4), 0, 4, RW) == 0
        machine.validate()

    def test_a_range_is_mapped_frame_after_frame(self, machine: Machine) -> None:
        address, size = base(machine), page_size(machine)
        block = machine.take(5, NUMA_NO_NODE, TAKE_ZERO)
        assert machine.map_range(address, block, 32 * size, machine.info.page_shift + 5, RW) == 0
        assert translations(machine, address, 33) == [*range(block, block + 32), -1]
        machine.store(address + 32 * size - 4, b"last")
        assert machine.read_frame(block + 31, size - 4, 4) == b"last"
        machine.validate()

    def test_every_size_of_mapping_can_be_made_and_removed(self, machine: Machine) -> None:
        """Section 3.4: aligned addresses and frames get the largest pieces; device memory shows it without frames."""
        info = machine.info
        for shift in (*info.vmap_shifts, info.page_shift):
            size = 1 << shift
            address = align_up(info.vmalloc_start, size)
            if shift > 32 or address + size > info.vmalloc_end:
                continue
            pfn = 1 << max(shift - info.page_shift, 0)
            pfn *= max(1, (1 << (31 - info.page_shift)) // pfn)
            assert machine.map_range(address, pfn, size, shift, RW | 8) == 0
            last = address + size - page_size(machine)
            assert machine.translate(address) == pfn
            assert machine.translate(last) == pfn + (size >> info.page_shift) - 1
            machine.validate()
            machine.unmap(address, address + size)
            machine.flush(address, address + size)
            assert (machine.translate(address), machine.translate(last)) == (-1, -1)
            machine.validate()

    def test_unmapping_holes_is_fine(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 6)
        machine.unmap(address + size, address + 2 * size)
        machine.unmap(address + 4 * size, address + 5 * size)
        assert translations(machine, address, 6) == [pages[0], -1, pages[2], pages[3], -1, pages[5]]
        machine.unmap(address, address + 64 * size)
        machine.unmap(address, address + 64 * size)
        assert translations(machine, address, 6) == [-1] * 6
        machine.validate()

    def test_after_a_flush_nobody_reaches_what_was_unmapped(self, machine: Machine) -> None:
        size = page_size(machine)
        address, _ = mapped(machine, 3)
        for cpu in range(machine.info.cpus):
            machine.cpu = cpu
            assert machine.load(address, 3 * size) == bytes(3 * size)
        machine.unmap(address, address + 3 * size)
        machine.flush(address, address + 3 * size)
        for cpu in range(machine.info.cpus):
            machine.cpu = cpu
            for page in range(3):
                with pytest.raises(Fault) as caught:
                    machine.load(address + page * size, 1)
                assert (caught.value.kind, caught.value.cpu) == ("unmapped", cpu)
                assert caught.value.address == address + page * size
        machine.validate()

    def test_without_a_flush_nobody_reads_another_frame_in_silence(self, machine: Machine) -> None:
        """What CPUs remember may be used, or be found out; it never passes for the new mapping."""
        size = page_size(machine)
        address, _ = mapped(machine, 1)
        machine.store(address, b"first")
        machine.unmap(address, address + size)
        new = take_pages(machine, 1, TAKE_ZERO)
        machine.map_pages(address, new, 0, 1, RW)
        seen: object
        try:
            seen = machine.load(address, 5)
        except Fault as fault:
            seen = fault.kind
        assert seen in (bytes(5), "stale_tlb")
        machine.flush(address, address + size)
        assert machine.load(address, 5) == bytes(5)
