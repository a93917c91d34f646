"""The validator: silent about healthy tables, and right about the culprit in every way to break them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machine.simulated.page_tables.rig import RW, Rig
from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.frames.states import LISTED, USED
from vmalloc.machine.simulated.page_tables.validate import validate_page_tables

pytestmark = pytest.mark.both_builds

K, M = 1 << 10, 1 << 20
PRESENT, LEAF, GROUP = 1, 0x20, 0x40


def healthy(arch: str = "arm64_4k") -> Rig:
    """Two pages at the base, a group behind 64 KiB, a PMD leaf behind 2 MiB, where the architecture has them."""
    rig = Rig(arch)
    assert rig.map(rig.base, 1, 2) == 0
    assert rig.map_range(rig.base + 64 * K, 16, 64 * K) == 0
    assert rig.map_range(rig.base + 2 * M, 512, 2 * M) == 0
    rig.validate()
    return rig


def refused(rig: Rig) -> str:
    with pytest.raises(ValidationError) as complaint:
        validate_page_tables(rig.tables)
    assert complaint.value.structure == "page tables"
    return str(complaint.value)


@pytest.mark.parametrize("arch", ["x86_64", "x86_32", "x86_32_pae", "arm32", "s390x", "riscv64_sv39", "loongarch64"])
def test_healthy_tables_pass(arch: str) -> None:
    rig = healthy(arch)
    rig.tables.do_context_switch(1)
    rig.tables.do_fault(2, rig.base)
    rig.validate()


# -- entries -----------------------------------------------------------------------------------------------------------

Change = Callable[[Rig, int], int]


@pytest.mark.parametrize(
    ("offset", "depth", "change", "complaint"),
    [
        (0, 3, lambda rig, old: old & ~PRESENT, "it being neither empty nor present"),
        (0, 2, lambda rig, old: old & ~PRESENT, "it being neither empty nor present"),
        (0, 3, lambda rig, old: old | 0x800, "the bits that an entry has"),
        (0, 3, lambda rig, old: old | 1 << 60, "the 48 bits of a physical address"),
        (0, 3, lambda rig, old: old | LEAF, "the leaf bit, which PTEs do not have"),
        (0, 2, lambda rig, old: old | GROUP, "the group bits, which only PTEs have"),
        (0, 2, lambda rig, old: old | RW << 1, "protection bits, which only mappings have"),
        (0, 1, lambda rig, old: old | 1 << 47, "that frame having no record"),
        (0, 2, lambda rig, old: rig.table_of(rig.base, 1) << 12 | 1, "it being the pud table at frame"),
        (4 * M, 2, lambda rig, old: rig.table_of(rig.base, 3) << 12 | 1, "it being the pte table at frame"),
        (4 * M, 2, lambda rig, old: 0x300 << 12 | 1, "that frame being"),
        (2 * M, 2, lambda rig, old: old + 4096, "which is not aligned to it"),
        (1 << 39, 0, lambda rig, old: 512 << 12 | LEAF | 1, "the leaves that are accepted: [16, 21, 30]"),
        (64 * K, 3, lambda rig, old: 0, "the rest of its group, which is not one whole mapping"),
        (68 * K, 3, lambda rig, old: old + 4096, "the rest of its group, which is not one whole mapping"),
        (124 * K, 3, lambda rig, old: old ^ 4, "the rest of its group, which is not one whole mapping"),
        (0, 3, lambda rig, old: old | GROUP, "the rest of its group, which is not one whole mapping"),
        (0, 3, lambda rig, old: old | 2 * GROUP, "the sizes of groups there are: (16,)"),
        (0, 3, lambda rig, old: 0, "mappings {12: 1, 16: 1, 21: 1} by shift"),
        (8 * K, 3, lambda rig, old: 3 << 12 | 1, "mappings {12: 3, 16: 1, 21: 1} by shift"),
        (2 * M, 2, lambda rig, old: 0, "mappings {12: 2, 16: 1} by shift"),
        (0, 2, lambda rig, old: 0, "0 pte tables"),
    ],
)
def test_an_entry_that_was_changed_is_found(offset: int, depth: int, change: Change, complaint: str) -> None:
    rig = healthy()
    rig.overwrite(rig.base + offset, depth, change(rig, rig.entry(rig.base + offset, depth)))
    assert complaint in refused(rig)


def test_a_group_whose_frames_are_not_aligned_is_found() -> None:
    rig = healthy()
    for k in range(16):
        at = rig.base + 64 * K + 4 * K * k
        rig.overwrite(at, 3, rig.entry(at, 3) + 4096)
    assert "the group is not aligned to its size" in refused(rig)


def test_a_group_that_the_kernel_does_not_know_is_found() -> None:
    rig = Rig("arm64_4k", "6.12")
    assert rig.map(rig.base, *range(16)) == 0
    for k in range(16):
        rig.overwrite(rig.base + 4 * K * k, 3, rig.entry(rig.base + 4 * K * k, 3) | GROUP)
    assert "the leaves that are accepted: [21, 30]" in refused(rig)


def test_an_entry_outside_the_kernel_s_addresses_is_found() -> None:
    rig = healthy("x86_64")
    rig.memory.contents.store(rig.tables.root_table(0), 0, (0x300 << 12 | 1).to_bytes(8, "little"))
    assert "the kernel's range 0xffff800000000000-" in refused(rig)


def test_something_behind_the_last_entry_is_found() -> None:
    rig = healthy("s390x")
    rig.memory.contents.store(rig.table_of(rig.base, 4), 2048, b"x")
    assert "something stored behind the last" in refused(rig)


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [("state", LISTED, "that frame being listed, order 0"), ("order", 1, "that frame being used, order 1")],
)
def test_a_table_in_a_frame_that_is_not_allocated_so_is_found(field: str, value: int, complaint: str) -> None:
    rig = healthy()
    rig.memory.frames.table.poke(rig.table_of(rig.base, 3), field, value)
    assert complaint in refused(rig)


def test_a_table_that_somebody_else_has_is_found() -> None:
    rig = healthy()
    rig.memory.frames.tag(rig.table_of(rig.base, 3), rig.memory.owner_number("somebody"))
    assert "owner 2 of that frame, not 1" in refused(rig)


def test_a_table_that_no_root_leads_to_is_found() -> None:
    rig = healthy()
    pfn = rig.memory.allocate(owner="page tables")
    assert f"frame {pfn:#x}, which says it is a table contradicts no root leading to it" in refused(rig)
    rig.memory.release(pfn)
    rig.validate()
    assert rig.memory.frames.table.rows(pfn >> 10)[pfn % 1024][0] != USED


# -- counters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "number", "value", "complaint"),
    [
        ("nr_tables", 3, 2, "1 pte tables contradicts nr_tables 2"),
        ("nr_tables", 0, 0, "1 pgd tables contradicts nr_tables 0"),
        ("nr_leaves", 3, 3, "those counted, {12: 3, 16: 1, 21: 1}"),
        ("nr_leaves", 2, 0, "those counted, {12: 2, 16: 1}"),
        ("nr_groups", 0, 0, "those counted, {12: 2, 21: 1}"),
        ("table_frames", 0, 5, "4 frames of tables contradicts table_frames 5"),
        ("nr_pending", 0, 1, "0 tables that wait for a flush contradicts nr_pending 1"),
    ],
)
def test_a_counter_that_is_wrong_is_found(field: str, number: int, value: int, complaint: str) -> None:
    rig = healthy()
    rig.tables.poke(field, number, value)
    assert complaint in refused(rig)


def test_an_unknown_counter_cannot_be_changed() -> None:
    with pytest.raises(KeyError):
        healthy().tables.poke("nr_doors", 0, 1)


# -- tables that wait --------------------------------------------------------------------------------------------------


def waiting() -> Rig:
    rig = Rig("x86_64")
    assert rig.map(rig.base, 1) == 0
    rig.unmap(rig.base, 4096)
    assert rig.map_range(rig.base, 0, 2 * M) == 0
    rig.validate()
    return rig


def test_a_table_that_waits_and_maps_something_is_found() -> None:
    rig = waiting()
    ((_depth, table),) = rig.tables.pending_tables()
    rig.memory.contents.store(table, 80, (5 << 12 | 1).to_bytes(8, "little"))
    assert f"the table at frame {table:#x} waiting for a flush contradicts it mapping something" in refused(rig)


def test_a_table_that_waits_and_is_free_is_found() -> None:
    rig = waiting()
    ((_depth, table),) = rig.tables.pending_tables()
    rig.memory.release(table)
    assert "which the list of those that wait for a flush names" in refused(rig)


def test_a_list_of_those_that_wait_which_was_lost_is_found() -> None:
    rig = waiting()
    rig.tables.poke("pending", 3, 0)
    assert "0 tables that wait for a flush contradicts nr_pending 1" in refused(rig)
    rig.tables.poke("nr_pending", 0, 0)
    assert "a flush being owed" in refused(rig)


# -- roots (section 8.4) -----------------------------------------------------------------------------------------------


def test_a_second_root_where_there_is_one_table_is_found() -> None:
    rig = healthy("arm64_4k")
    rig.tables.poke_root(1, rig.table_of(rig.base, 1), 0)
    assert "contradicts one table for all" in refused(rig)


@pytest.mark.parametrize("arch", ["x86_64", "riscv64_sv48", "x86_32", "arm32"])
def test_a_copy_that_differs_is_found(arch: str) -> None:
    """Section 8.4: an entry that a root has is the reference's."""
    rig = healthy(arch)
    rig.overwrite(rig.base, 0, rig.entry(rig.base, 0) ^ 1 << 12, root=2)
    assert f"the pgd entry of root 2 for {rig.base >> rig.arch.levels[0].shift << rig.arch.levels[0].shift:#x}" in (
        refused(rig)
    )


@pytest.mark.parametrize("arch", ["x86_64", "riscv64_sv48", "x86_32"])
def test_a_copy_that_is_missing_is_found(arch: str) -> None:
    """Section 8.4: where entries are made at boot, or copied by the hook."""
    rig = healthy(arch)
    rig.overwrite(rig.base, 0, 0, root=1)
    assert "which is empty contradicts the reference's" in refused(rig)


def test_a_table_of_boot_that_is_missing_is_found() -> None:
    rig = Rig("x86_64")
    for root in range(3):
        rig.overwrite(rig.base, 0, 0, root)
    assert "contradicts a table made there at boot" in refused(rig)


def test_a_root_that_says_it_is_up_to_date_and_is_not_is_found() -> None:
    """Section 8.4: the sequence number of arm32."""
    rig = healthy("arm32")
    rig.tables.poke_root(1, rig.tables.root_table(1), rig.tables.sequence)
    assert "the pgd entry of root 1" in refused(rig)


def test_private_tables_above_the_share_level_are_checked() -> None:
    """Section 8.4: x86-32 PAE in 6.19."""
    rig = healthy("x86_32_pae")
    rig.overwrite(rig.base, 1, 0, root=1)
    assert "the pmd entry of root 1" in refused(rig)
    rig = healthy("x86_32_pae")
    rig.overwrite(rig.base, 0, 0, root=1)
    assert "boot makes these tables for all kernel addresses" in refused(rig)
    rig = healthy("x86_32_pae")
    rig.overwrite(rig.base, 0, 512 << 12 | LEAF | 1, root=1)
    assert "it being a leaf, which only the reference may have here" in refused(rig)
    rig = healthy("x86_32_pae")
    rig.overwrite(rig.base, 0, rig.entry(rig.base, 0), root=1)
    rig.overwrite(rig.base, 0, rig.entry(rig.base, 0, root=2), root=1)
    assert "it being the pmd table at frame" in refused(rig)
