"""What every machine must do, and every machine around a machine: the conventions of ``vmalloc.machine.base`` as tests.

A machine joins by a subclass of ``MachineContract`` with a fixture ``machine``: a small one, with a few thousand
frames, two nodes where it can have them, and CPUs on each.  What it is like is read from ``info``; a test of what it
has not got is skipped.
"""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machine.contract_bytes import BytesContract
from machine.contract_frames import FramesContract
from machine.contract_helpers import EBUSY, RW, base, give_all, mapped, page_size, translations
from machine.contract_mappings import MappingsContract
from vmalloc.errors import Fault
from vmalloc.flags import HARDIRQ, NUMA_NO_NODE, SOFTIRQ, TAKE_ZERO, TASK
from vmalloc.machine.base import Machine
from vmalloc.pages import Pages


class MachineContract(FramesContract, MappingsContract, BytesContract):
    """The suite."""

    @pytest.fixture
    def machine(self) -> Machine:
        raise NotImplementedError("a subclass makes the machine")

    # -- what it is ------------------------------------------------------------------------------------------------

    def test_what_it_is_never_changes(self, machine: Machine) -> None:
        with pytest.raises(FrozenInstanceError):
            machine.info.cpus = 7

    def test_what_it_says_of_itself_fits_together(self, machine: Machine) -> None:
        info = machine.info
        assert info.word_bits in (32, 64)
        assert 0 < info.vmalloc_start < info.vmalloc_end <= 1 << info.word_bits
        assert info.cpus >= 1
        assert info.nodes >= 1
        for shifts in (info.vmap_shifts, info.vmalloc_shifts):
            assert list(shifts) == sorted(set(shifts), reverse=True)
            assert all(shift > info.page_shift for shift in shifts)
        assert set(info.vmalloc_shifts) <= set(info.vmap_shifts)
        assert info.shmlba % page_size(machine) == 0
        assert info.pmd_shift > info.page_shift

    def test_it_begins_on_cpu_0_in_task_context(self, machine: Machine) -> None:
        assert (machine.cpu, machine.context) == (0, TASK)
        assert (machine.running.cpu, machine.running.context) == (0, TASK)

    def test_who_runs_is_one_thing_however_it_is_said(self, machine: Machine) -> None:
        machine.cpu = machine.info.cpus - 1
        machine.running.context = SOFTIRQ
        assert (machine.running.cpu, machine.context) == (machine.info.cpus - 1, SOFTIRQ)

    # -- deferred work ---------------------------------------------------------------------------------------------

    def test_work_runs_later_in_order_on_its_cpu_in_task_context(self, machine: Machine) -> None:
        last = machine.info.cpus - 1
        seen: list[tuple[str, int, int]] = []
        machine.cpu, machine.context = 0, HARDIRQ
        machine.defer(lambda: seen.append(("first", machine.cpu, machine.context)), last)
        machine.defer(lambda: seen.append(("second", machine.running.cpu, machine.running.context)), 0)
        assert (machine.has_deferred(), seen) == (True, [])
        machine.context = SOFTIRQ
        assert machine.run_deferred() == 2
        assert seen == [("first", last, TASK), ("second", 0, TASK)]
        assert (machine.cpu, machine.context) == (0, SOFTIRQ)
        assert not machine.has_deferred()
        assert machine.run_deferred() == 0

    def test_work_that_work_queues_is_done_as_well(self, machine: Machine) -> None:
        seen: list[int] = []

        def again(n: int) -> None:
            seen.append(n)
            if n:
                machine.defer(lambda: again(n - 1), 0)

        machine.defer(lambda: again(3), 0)
        machine.defer(lambda: seen.append(100), 0)
        assert machine.run_deferred() == 5
        assert seen == [3, 100, 2, 1, 0]

    def test_work_that_raises_is_done_with_and_the_rest_stays(self, machine: Machine) -> None:
        seen: list[str] = []

        def fail() -> None:
            raise LookupError("the work's own")

        machine.context = SOFTIRQ
        for work in (lambda: seen.append("before"), fail, lambda: seen.append("after")):
            machine.defer(work, machine.info.cpus - 1)
        with pytest.raises(LookupError, match="the work's own"):
            machine.run_deferred()
        assert (seen, machine.has_deferred()) == (["before"], True)
        assert (machine.cpu, machine.context) == (0, SOFTIRQ)
        assert machine.run_deferred() == 1
        assert seen == ["before", "after"]

    def test_work_uses_the_machine_like_anybody(self, machine: Machine) -> None:
        address, pages = mapped(machine, 2)
        size = page_size(machine)

        def free() -> None:
            machine.unmap(address, address + 2 * size)
            machine.flush(address, address + 2 * size)
            assert machine.give_bulk(pages, 0, 2) == 2

        machine.defer(free, machine.info.cpus - 1)
        machine.run_deferred()
        assert translations(machine, address, 2) == [-1, -1]
        machine.validate()

    # -- keeping house ---------------------------------------------------------------------------------------------

    def test_trimming_gives_back_only_what_nobody_uses(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 2)
        machine.store(address, b"still here")
        far = base(machine) + (1 << machine.info.pmd_shift)
        if far + size <= machine.info.vmalloc_end:
            mapped(machine, 1, far)
            machine.unmap(far, far + size)
            machine.flush(far, far + size)
        assert machine.trim() >= 0
        assert machine.load(address, 10) == b"still here"
        assert translations(machine, address, 2) == list(pages)
        machine.validate()

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_program_does_what_a_dictionary_does(self, machine: Machine, data: st.DataObject) -> None:
        """The slow twin: a page table that is a dictionary, frames that are byte arrays, flushes at once."""
        size, start = page_size(machine), base(machine) + (1 << machine.info.pmd_shift) - 4 * page_size(machine)
        places = 8
        if start + places * size > machine.info.vmalloc_end:
            start = base(machine)
        table: dict[int, int] = {}
        frames: dict[int, bytearray] = {}
        step = st.tuples(
            st.sampled_from(["map", "range", "unmap", "store", "load"]),
            st.integers(0, places - 1),
            st.integers(1, places),
            st.integers(0, machine.info.cpus - 1),
        )
        for action, place, count, cpu in data.draw(st.lists(step, max_size=20)):
            machine.cpu = cpu
            count = min(count, places - place)
            address = start + place * size
            inside = range(place, place + count)
            match action:
                case "map" | "range":
                    order = (count - 1).bit_length()
                    count = count if action == "map" else min(1 << order, places - place)
                    inside = range(place, place + count)
                    block = machine.take(order, NUMA_NO_NODE, TAKE_ZERO)
                    machine.split(block, order)
                    pages = Pages(range(block, block + (1 << order)))
                    if action == "map":
                        code = machine.map_pages(address, pages, 0, count, RW)
                    else:
                        code = machine.map_range(address, block, count * size, machine.info.page_shift + order, RW)
                    assert code == (-EBUSY if any(p in table for p in inside) else 0)
                    used = 0 if code else count
                    give_all(machine, pages[used:])
                    for i in range(used):
                        table[place + i] = block + i
                        frames[block + i] = bytearray(size)
                case "unmap":
                    machine.unmap(address, address + count * size)
                    machine.flush(address, address + count * size)
                    for p in inside:
                        if p in table:
                            assert machine.give(table[p], 0) == 0
                            del frames[table.pop(p)]
                case "store":
                    text = bytes([cpu + 1, place, count]) * (size // 2)
                    touched = range(place, place + (len(text) + size - 1) // size)
                    if all(p in table for p in touched):
                        machine.store(address, text)
                        for k, p in enumerate(touched):
                            part = text[k * size : (k + 1) * size]
                            frames[table[p]][: len(part)] = part
                    else:
                        with pytest.raises(Fault) as caught:
                            machine.store(address, text)
                        assert caught.value.address == start + next(p for p in touched if p not in table) * size
                case "load":
                    for p in inside:
                        if p in table:
                            assert machine.load(start + p * size, size) == frames[table[p]]
                        else:
                            with pytest.raises(Fault):
                                machine.load(start + p * size, 1)
            assert translations(machine, start, places) == [table.get(p, -1) for p in range(places)]
        machine.validate()
        machine.unmap(start, start + places * size)
        machine.flush(start, start + places * size)
        give_all(machine, list(frames))
        machine.cpu = 0
