"""The simulated machine beyond the contract: what it is made of, what it counts, and what it shows."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import pytest

from machine.contract_helpers import RW, base, mapped, page_size, take_all, take_pages
from machine.simulated.mmu.rig import FAULT_32
from vmalloc.errors import BadRequest, Fault, ValidationError
from vmalloc.flags import (
    HARDIRQ,
    NMI,
    NUMA_NO_NODE,
    PROT_READ,
    PROT_SPECIAL,
    PROT_WRITE,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
)
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, HugeUse, LeafNeed
from vmalloc.machine.simulated.machine import FILL, SimulatedMachine
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds

EBUSY, ENOMEM = 16, 12
P = 4096
PMD = 1 << 21


def simulated(arch: str = "x86_64", kernel: str = "6.19", **options: object) -> SimulatedMachine:
    options = {"cpus": 2, "nodes": [2048, 2048]} | options
    return SimulatedMachine(ARCHITECTURES[arch], PROFILES[kernel], **options)


@pytest.fixture
def machine() -> SimulatedMachine:
    return simulated()


def nr_free(machine: SimulatedMachine) -> int:
    """Frames that nobody holds, those on CPUs' lists included."""
    machine.frames.drain()
    return sum(node.free for node in machine.frames.stats())


# -- what it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", PROFILES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_says_of_itself_what_its_architecture_says(name: str, kernel: str) -> None:
    """Section 8.1."""
    arch = ARCHITECTURES[name]
    info = simulated(name, kernel).info
    assert (info.name, info.arch, info.word_bits) == ("simulated", name, arch.word_bits)
    assert (info.vmalloc_start, info.vmalloc_end) == (arch.vmalloc_start, arch.vmalloc_end)
    assert (info.cpus, info.nodes, info.nr_pages) == (2, 2, 4096)
    assert info.page_shift == arch.page_shift
    assert info.vmap_shifts == tuple(leaf.shift for leaf in arch.leaves(PROFILES[kernel], HugeUse.VMAP))
    assert info.vmalloc_shifts == tuple(leaf.shift for leaf in arch.leaves(PROFILES[kernel], HugeUse.VMALLOC))
    assert info.phys_end == 1 << arch.phys_bits


def test_what_the_cpus_lack_is_not_mapped_with() -> None:
    assert simulated().info.vmap_shifts == (30, 21)
    assert simulated(missing=frozenset({LeafNeed.GB_PAGES})).info.vmap_shifts == (21,)
    assert simulated(missing=frozenset({LeafNeed.PSE, LeafNeed.GB_PAGES})).info.vmap_shifts == ()


@pytest.mark.parametrize(
    ("arch", "options", "text"),
    [
        ("x86_64", {"cpus": 0}, "0 CPUs: between 1 and 4096"),
        ("x86_64", {"cpus": 4097}, "4097 CPUs"),
        ("x86_32", {"nodes": [(0, 1024), (1 << 20, 1024)]}, "x86_32 has 32 bits of physical address"),
        ("x86_64", {"nodes": []}, "a machine without frames"),
        ("x86_64", {"fill": 256}, "a fill byte of 256"),
        ("x86_64", {"distances": [[10]]}, "distance"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(arch: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        simulated(arch, **options)


def test_it_is_described_in_a_few_words(machine: SimulatedMachine) -> None:
    machine.cpu, machine.context = 1, HARDIRQ
    text = machine.describe()
    for fact in (
        "x86_64, 2 CPUs on 2 nodes, 16 MiB",
        "pages of 4 KiB",
        "CPU 1 in hardirq context",
        "0xffffc90000000000",
    ):
        assert fact in text


# -- page frames ---------------------------------------------------------------------------------------------------


def test_a_frame_reads_as_what_nobody_wrote_until_it_is_written(machine: SimulatedMachine) -> None:
    pfn = machine.take(0, 0, 0)
    assert machine.read_frame(pfn, 0, P) == bytes([FILL]) * P
    other = simulated(fill=0)
    assert other.read_frame(other.take(0, 0, 0), 0, 16) == bytes(16)


def test_a_frame_of_a_new_owner_shows_nothing_of_the_old_one(machine: SimulatedMachine) -> None:
    pfn = machine.take(0, 0, 0)
    machine.zero_frame(pfn, 0, P)
    machine.give(pfn, 0)
    assert machine.take(0, 0, 0) == pfn
    assert machine.read_frame(pfn, 0, P) == bytes([FILL]) * P


def test_frames_on_lists_of_other_cpus_are_collected_for_who_can_wait(machine: SimulatedMachine) -> None:
    for strict in (0, TAKE_STRICT):
        machine.cpu = 0
        taken = take_all(machine, 0, TAKE_STRICT)
        machine.cpu = 1
        assert machine.give(taken[0], 0) == 0
        machine.cpu = 0
        assert machine.take(0, 0, TAKE_STRICT) == -1
        assert machine.take(0, 0, TAKE_MAY_DRAIN | TAKE_STRICT | strict) == taken[0]
        assert machine.give_bulk(Pages(taken), 0, len(taken)) == len(taken)
        machine.frames.drain()


def test_zeroing_is_counted_in_frames(machine: SimulatedMachine) -> None:
    machine.take(3, 0, TAKE_ZERO)
    taken = machine.take_bulk(Pages(room=10), 10, 0, TAKE_ZERO)
    machine.take(0, 0, 0)
    assert machine.zeroed_pages == 8 + taken


def test_a_list_without_room_takes_no_batch(machine: SimulatedMachine) -> None:
    before = nr_free(machine)
    pages = Pages([1, 2], room=5)
    with pytest.raises(BadRequest, match="a batch of 4 frames for a list with room for 3"):
        machine.take_bulk(pages, 4, 0, 0)
    assert nr_free(machine) == before
    assert list(pages) == [1, 2]


def test_a_strict_batch_keeps_no_frame_of_another_node(machine: SimulatedMachine) -> None:
    take_all(machine, 1, TAKE_STRICT)
    before = nr_free(machine)
    assert machine.take_bulk(Pages(room=4), 4, 1, TAKE_STRICT) == 0
    assert nr_free(machine) == before
    assert machine.take_bulk(Pages(room=4), 4, 1, 0) >= 1


def test_references_are_counted(machine: SimulatedMachine) -> None:
    first, second = machine.take(0, 0, 0), machine.take(0, 0, 0)
    for pfn in (first, first, second):
        machine.hold(pfn)
    assert (machine.nr_shared, machine.shared) == (3, {first: 2, second: 1})
    machine.give(second, 0)
    machine.give(first, 0)
    assert (machine.nr_shared, machine.shared) == (1, {first: 1})


def test_requests_for_records_are_counted(machine: SimulatedMachine) -> None:
    machine.slab("vm_struct")
    machine.slab("vmap_area")
    assert machine.slab_requests == 2


# -- mappings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cpu", [0, 1])
def test_memory_for_page_tables_comes_from_the_node_of_who_maps(machine: SimulatedMachine, cpu: int) -> None:
    before = {block.pfn for block in machine.frames.outstanding("page table")}
    machine.cpu = cpu
    mapped(machine, 1, base(machine) + (5 << 30))
    new = [block.pfn for block in machine.frames.outstanding("page table") if block.pfn not in before]
    assert new
    assert {machine.node_of(pfn) for pfn in new} == {cpu}
    assert machine.page_table.table_frames == len(before) + len(new)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_page_tables_really_run_short(arch: str) -> None:
    machine = simulated(arch)
    taken = take_all(machine)
    size = page_size(machine)
    address = base(machine) + (1 << machine.info.pmd_shift) - size
    assert machine.map_pages(address, Pages(taken[:2]), 0, 2, RW) == -ENOMEM
    machine.unmap(address, address + 2 * size)
    machine.give_bulk(Pages(taken), 40, len(taken) - 40)
    assert machine.map_pages(address, Pages(taken[:2]), 0, 2, RW) == 0
    assert [machine.translate(address), machine.translate(address + size)] == taken[:2]
    machine.validate()


def test_whether_page_tables_may_be_waited_for_is_a_scope(machine: SimulatedMachine) -> None:
    """Section 2.3."""
    taken = take_all(machine)
    machine.cpu = 1
    machine.give_bulk(Pages(taken), 0, 8)
    machine.cpu = 0
    machine.set_scope(False)
    assert machine.map_pages(base(machine), Pages(taken), 20, 1, RW) == -ENOMEM
    machine.set_scope(True)
    assert machine.map_pages(base(machine), Pages(taken), 20, 1, RW) == 0


def test_a_table_that_makes_room_for_a_huge_leaf_is_flushed_at_once(machine: SimulatedMachine) -> None:
    """Section 8.6."""
    address, _ = mapped(machine, 1)
    machine.load(address, 1)
    machine.unmap(address, address + P)
    block = machine.take(9, 0, TAKE_ZERO)
    flushes, tables = machine.faults["flushes"], machine.page_table.table_frames
    assert machine.map_range(address, block, PMD, 21, RW) == 0
    assert machine.page_table.leaves_by_shift()[21] == 1
    assert machine.page_table.table_frames == tables - 1
    assert machine.faults["flushes"] == flushes + 1
    assert machine.load(address, 4) == bytes(4)
    machine.validate()


@pytest.mark.parametrize("arch", ["x86_64", "arm64_4k", "riscv64_sv39", "x86_32"])
def test_a_mapping_that_met_another_leaves_nothing_behind_but_tables(arch: str) -> None:
    machine = simulated(arch)
    address, size, span = base(machine), page_size(machine), 1 << machine.info.pmd_shift
    order = min(machine.info.pmd_shift - machine.info.page_shift, 10)
    block = machine.take(order, 0, 0)
    single = take_pages(machine, 1)
    busy = address + span - size
    assert machine.map_pages(busy, single, 0, 1, RW) == 0
    leaves = machine.page_table.leaves_by_shift()
    start = busy - ((1 << order) - 1) * size
    assert machine.map_range(start, block, size << order, machine.info.pmd_shift, RW) == -EBUSY
    assert machine.page_table.leaves_by_shift() == leaves
    assert machine.map_pages(start, Pages(range(block, block + (1 << order))), 0, 1 << order, RW) == -EBUSY
    assert machine.page_table.leaves_by_shift() == leaves
    assert machine.translate(busy) == single[0]
    machine.validate()


def test_warnings_of_many_busy_addresses_do_not_confuse_it(machine: SimulatedMachine) -> None:
    """The address where a mapping stopped is read from a ring of the last warnings; this turns it round twice."""
    address, pages = base(machine), take_pages(machine, 4)
    assert machine.map_pages(address + 3 * P, pages, 3, 1, RW) == 0
    for _ in range(150):
        assert machine.map_pages(address, pages, 0, 4, RW) == -EBUSY
        assert machine.translate(address + 2 * P) == -1


# -- bytes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", [lambda m, a: m.load(a, 4), lambda m, a: m.store(a, b"more")])
def test_a_missing_flush_is_shown(machine: SimulatedMachine, access: Callable[..., object]) -> None:
    """Section 4.9: the translation that a CPU remembers is found out, on that CPU alone."""
    address, old = mapped(machine, 1)
    machine.cpu = 1
    machine.load(address, 1)
    machine.unmap(address, address + P)
    with pytest.raises(Fault, match="no flush came") as caught:
        access(machine, address + 8)
    assert (caught.value.kind, caught.value.cpu, caught.value.address, caught.value.size) == (
        "stale_tlb",
        1,
        address + 8,
        4,
    )
    assert machine.read_frame(old[0], 0, P) == bytes(P)
    machine.cpu = 0
    with pytest.raises(Fault) as caught:
        access(machine, address + 8)
    assert (caught.value.kind, caught.value.cpu) == ("unmapped", 0)
    assert machine.faults["stale_tlb"] == 1


def test_a_missing_flush_can_be_followed_to_see_the_damage(machine: SimulatedMachine) -> None:
    address, old = mapped(machine, 1)
    machine.store(address, b"old")
    machine.unmap(address, address + P)
    machine.mmu.follow_stale = True
    machine.store(address, b"hit")
    assert machine.load(address, 3) == b"hit"
    assert machine.read_frame(old[0], 0, 3) == b"hit"


def test_flushes_interrupt_every_cpu_and_are_counted(machine: SimulatedMachine) -> None:
    address, _ = mapped(machine, 2)
    before = machine.faults
    machine.flush(address, address + 2 * P)
    after = machine.faults
    assert (after["flushes"] - before["flushes"], after["ipis"] - before["ipis"]) == (1, 1)


def test_device_memory_keeps_what_is_stored_and_reads_as_ones_before(machine: SimulatedMachine) -> None:
    address = base(machine)
    pfn = 0xFE00_0000 >> 12
    assert machine.map_range(address, pfn, P, 12, PROT_READ | PROT_WRITE | PROT_SPECIAL) == 0
    assert machine.load(address, 4) == b"\xff\xff\xff\xff"
    machine.store(address + 1, b"on")
    assert machine.load(address, 4) == b"\xffon\xff"


def test_where_no_memory_and_no_device_answers_is_a_fault(machine: SimulatedMachine) -> None:
    assert machine.map_pages(base(machine), Pages([0xFE000]), 0, 1, RW) == 0
    with pytest.raises(Fault, match="no memory and no device answers") as caught:
        machine.load(base(machine), 1)
    assert caught.value.kind == "unmapped"


def test_permanent_addresses_reach_over_frames_and_end_with_memory(machine: SimulatedMachine) -> None:
    start = machine.info.direct_map_start
    block = machine.take(1, 0, TAKE_ZERO)
    address = start + block * P
    machine.store(address + P - 3, b"across")
    assert machine.load(address + P - 4, 8) == b"\0across\0"
    assert machine.read_frame(block + 1, 0, 3) == b"oss"
    for access in (lambda: machine.load(start + 4096 * P - 2, 4), lambda: machine.store(start + 4096 * P - 2, b"four")):
        with pytest.raises(Fault) as caught:
            access()
        assert (caught.value.kind, caught.value.address) == ("unmapped", start + 4096 * P)
    assert machine.read_frame(4095, P - 2, 2) == bytes([FILL]) * 2


def test_between_nodes_there_are_no_permanent_addresses() -> None:
    machine = simulated(nodes=[(0, 1024), (4096, 1024)])
    with pytest.raises(Fault, match="no frame has this permanent address"):
        machine.load(machine.info.direct_map_start + 2048 * P, 1)
    assert len(machine.load(machine.info.direct_map_start + 4096 * P, 2)) == 2


def test_changes_of_permanent_addresses_are_counted(machine: SimulatedMachine) -> None:
    pages = take_pages(machine, 3)
    machine.set_direct_map(pages, 0, 3, False)
    assert machine.invalid_direct == set(pages)
    machine.set_direct_map(pages, 1, 2, True)
    assert machine.invalid_direct == {pages[0]}
    assert machine.direct_map_changes == 5


def test_a_missing_entry_is_filled_in_by_a_fault_but_not_in_an_nmi() -> None:
    """Section 8.4: the tables of processes get their entries on first touch, from a handler that no NMI runs."""
    machine = SimulatedMachine(FAULT_32, PROFILES["6.19"], cpus=2, nodes=[4096])
    address, _ = mapped(machine, 1)
    machine.cpu = 1
    machine.context_switch(1)
    machine.context = NMI
    for access in (lambda: machine.load(address, 2), lambda: machine.store(address, b"no")):
        with pytest.raises(Fault) as caught:
            access()
        assert caught.value.kind == "unmapped"
    assert machine.faults["vmalloc_faults"] == 0
    machine.context = HARDIRQ
    assert machine.load(address, 2) == b"\0\0"
    assert machine.faults["vmalloc_faults"] == 1
    machine.context = NMI
    assert machine.load(address, 2) == b"\0\0"
    machine.validate()


def test_a_process_that_is_not_there_cannot_be_run(machine: SimulatedMachine) -> None:
    for process in (-1, 2):
        with pytest.raises(BadRequest, match=f"process {process} of a machine whose processes are 0 to 1"):
            machine.context_switch(process)


def test_an_array_of_addresses_is_counted(machine: SimulatedMachine) -> None:
    address, _ = mapped(machine, 2, prot=PROT_READ)
    counts = machine.access(array("Q", [address, address + 8, address + P, address + 2 * P]), False, 1)
    assert (counts.accesses, counts.unmapped, counts.hits, counts.first_failure) == (4, 1, 1, 3)
    counts = machine.access(array("Q", [address]), True, 1)
    assert counts.readonly == 1
    assert machine.faults["translations"] == 5


def test_each_cpu_has_a_tlb(machine: SimulatedMachine) -> None:
    assert machine.tlb(0) is not machine.tlb(1)
    assert machine.tlbs == [machine.tlb(0), machine.tlb(1)]


# -- deferred work and keeping house -------------------------------------------------------------------------------


def test_pieces_of_work_are_counted(machine: SimulatedMachine) -> None:
    for _ in range(3):
        machine.defer(lambda: None, 0)
    machine.run_deferred()
    assert machine.work_done == 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_everything_comes_back(arch: str) -> None:
    """Frames, tables and contents: after trimming the machine has what it had."""
    machine = simulated(arch)
    before, tables = nr_free(machine), machine.page_table.table_frames
    address, pages = mapped(machine, 5)
    machine.store(address, b"something")
    size = page_size(machine)
    machine.unmap(address, address + 5 * size)
    machine.flush(address, address + 5 * size)
    machine.give_bulk(pages, 0, 5)
    made = machine.page_table.table_frames - tables
    assert made >= 1
    assert machine.trim() >= made * size
    assert machine.page_table.table_frames == tables
    assert nr_free(machine) == before
    machine.validate()


def test_a_table_whose_frame_was_given_away_is_found(machine: SimulatedMachine) -> None:
    mapped(machine, 1)
    table = machine.frames.outstanding("page table")[-1]
    assert machine.give(table.pfn, table.order) == 0
    with pytest.raises(ValidationError):
        machine.validate()


def test_a_frame_that_two_own_is_found(machine: SimulatedMachine) -> None:
    machine.frames.frames.table.poke(machine.take(0, 0, 0), "state", 1)
    with pytest.raises(ValidationError):
        machine.validate()


def test_no_node_asked_for_is_the_node_of_who_asks() -> None:
    machine = simulated(cpus=4, nodes=[1024, 1024])
    nodes = []
    for cpu in range(4):
        machine.cpu = cpu
        nodes.append(machine.node_of(machine.take(0, NUMA_NO_NODE, 0)))
    assert nodes == [0, 0, 1, 1]
