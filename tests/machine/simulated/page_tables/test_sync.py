"""Roots: which process tables see what, when, and what it took (section 8.4)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machine.simulated.page_tables.rig import RW, Rig
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES, TableCare, TableSync

pytestmark = pytest.mark.both_builds

KERNELS = ["6.1", "6.12", "6.19"]


def seen(rig: Rig, address: int) -> list[bool]:
    """Which roots translate an address."""
    return [rig.walk(address, root) is not None for root in range(rig.tables.nr_roots)]


def of_care(care: TableCare) -> list[tuple[str, str]]:
    from vmalloc.kernels import PROFILES

    return [(a, k) for a, arch in ARCHITECTURES.items() for k in KERNELS if arch.table_sync(PROFILES[k]).care is care]


@pytest.mark.parametrize(("arch", "kernel"), of_care(TableCare.ONE_TABLE))
def test_with_a_table_of_its_own_the_kernel_has_one_root(arch: str, kernel: str) -> None:
    """Section 8.4: arm64, ppc64, s390x, loongarch."""
    rig = Rig(arch, kernel)
    assert {rig.tables.root_table(root) for root in range(3)} == {rig.tables.root_table(0)}
    assert rig.map(rig.base, 1) == 0
    assert seen(rig, rig.base) == [True] * 3
    assert rig.tables.hook_runs == rig.tables.entries_copied == 0
    assert not rig.tables.do_fault(1, rig.base)
    rig.validate()


@pytest.mark.parametrize(("arch", "kernel"), of_care(TableCare.PREALLOCATED) + of_care(TableCare.FENCE))
def test_lower_tables_of_the_whole_range_are_there_since_boot(arch: str, kernel: str) -> None:
    """Section 8.4: x86-64, riscv64, and x86-32 PAE up to 6.12: the hook never has work for vmalloc."""
    rig = Rig(arch, kernel)
    boot = rig.tables.tables_by_level()
    top = rig.arch.levels[0]
    covered = (rig.arch.vmalloc_end - 1 >> top.shift) - (rig.arch.vmalloc_start >> top.shift) + 1
    assert list(boot.values())[:2] == [3, covered]
    for address in (rig.arch.vmalloc_start, rig.arch.vmalloc_end // rig.page * rig.page - rig.page):
        assert rig.map(address, 1) == 0
        assert seen(rig, address) == [True] * 3
    assert rig.tables.hook_runs == rig.tables.entries_copied == rig.tables.vmalloc_faults == 0
    rig.unmap(rig.arch.vmalloc_start, rig.arch.vmalloc_end // rig.page * rig.page - rig.arch.vmalloc_start)
    rig.tables.free_empty_tables()
    assert rig.tables.tables_by_level() == boot
    rig.validate()


def test_tables_at_boot_are_as_many_as_the_specified_ranges_need() -> None:
    """Section 8.2 and 8.4: 32 TiB of 512 GiB, 12800 TiB of 256 TiB, an eighth of the space of a riscv table."""
    assert Rig("x86_64").tables.tables_by_level()["pud"] == 64
    assert Rig("x86_64_la57").tables.tables_by_level()["p4d"] == 50
    assert Rig("riscv64_sv39").tables.tables_by_level()["pmd"] == 64
    assert Rig("riscv64_sv48").tables.tables_by_level()["pud"] == 64
    assert Rig("riscv64_sv57").tables.tables_by_level()["p4d"] == 64


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_hook_copies_a_new_entry_into_every_root(kernel: str) -> None:
    """Section 8.4: x86-32, mask PMD, which is the top table there."""
    rig = Rig("x86_32", kernel, nr_roots=4)
    start = rig.arch.vmalloc_start
    assert rig.map(start, 1) == 0
    assert seen(rig, start) == [True] * 4
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (1, 3)
    assert rig.map(start + 4096, 2) == 0, "the PTE table is shared: nothing to copy"
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (1, 3)
    assert rig.unmap(start, 2 * 4096) == 2
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (1, 3)
    assert rig.map(start, *range(2048)) == 0
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (2, 3 + 3 * (rig.tables.tables_by_level()["pte"] - 1))
    rig.validate()


def test_with_private_pmd_tables_the_hook_copies_pmd_entries() -> None:
    """Section 8.4: x86-32 PAE in 6.19; leaves are copied and cleared like table entries."""
    rig = Rig("x86_32_pae", "6.19")
    assert rig.tables.tables_by_level() == {"pgd": 3, "pmd": 3, "pte": 0}
    assert rig.map(rig.base, 1) == 0
    assert seen(rig, rig.base) == [True] * 3
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (1, 2)
    leaf = rig.base + (1 << 21)
    assert rig.map_range(leaf, 512, 1 << 22) == 0
    assert rig.walk(leaf + 0x3FFFFF, 2) == (1535, 21, RW)
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (2, 6)
    rig.validate()
    assert rig.unmap(leaf, 1 << 22) == 1024
    assert seen(rig, leaf) == [False] * 3
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (3, 10)
    rig.validate()


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_with_shared_pmd_tables_the_mask_is_empty(kernel: str) -> None:
    """Section 8.4: x86-32 PAE in 6.1 and 6.12, where the kernel's PMDs are shared."""
    rig = Rig("x86_32_pae", kernel)
    assert rig.tables.tables_by_level() == {"pgd": 3, "pmd": 1, "pte": 0}
    assert rig.map_range(rig.base, 512, (1 << 21) + 4096) == 0
    assert seen(rig, rig.base) == [True] * 3
    assert rig.tables.hook_runs == 0


def test_a_sequence_number_brings_a_root_up_to_date_at_a_context_switch() -> None:
    """Section 8.4: arm32 with stacks in the vmalloc range."""
    rig = Rig("arm32")
    start = rig.arch.vmalloc_start
    assert rig.map(start, 1) == 0
    assert rig.map(start + (1 << 22), 2) == 0
    assert (rig.tables.sequence, rig.tables.hook_runs, rig.tables.entries_copied) == (2, 2, 0)
    assert seen(rig, start) == [True, False, False]
    assert rig.tables.do_context_switch(1) == 2
    assert seen(rig, start) == seen(rig, start + (1 << 22)) == [True, True, False]
    assert rig.tables.do_context_switch(1) == 0
    assert rig.map(start + (2 << 22), 3) == 0
    assert rig.tables.do_context_switch(1) == 1
    assert rig.tables.do_context_switch(0) == 0, "the reference is what all follow"
    assert rig.tables.entries_copied == 3
    rig.validate()


def test_a_fault_copies_the_missing_top_entry_and_counts() -> None:
    """Section 8.4: arm32 between two context switches."""
    rig = Rig("arm32")
    start = rig.arch.vmalloc_start
    assert not rig.tables.do_fault(1, start), "the reference has nothing either: a real fault"
    assert rig.map(start, 1) == 0
    assert seen(rig, start) == [True, False, False]
    assert not rig.tables.do_fault(0, start)
    assert not rig.tables.do_fault(3, start), "there is no such root"
    assert rig.tables.do_fault(2, start)
    assert seen(rig, start) == [True, False, True]
    assert not rig.tables.do_fault(2, start), "it has it now"
    assert rig.map(start + 4096, 2) == 0
    assert seen(rig, start + 4096) == [True, False, True], "the PTE table is shared"
    assert (rig.tables.vmalloc_faults, rig.tables.entries_copied) == (1, 1)
    rig.validate()


def test_a_fault_outside_the_range_is_a_real_one() -> None:
    rig = Rig("arm32")
    address = rig.arch.kernel_start
    assert rig.map(address, 1) == 0
    assert not rig.tables.do_fault(1, address)
    assert not rig.tables.do_fault(1, rig.arch.vmalloc_end)
    assert seen(rig, address) == [True, False, False]


def test_with_faults_alone_nothing_is_copied_until_then() -> None:
    """Section 8.4: what riscv32, sh, mips and others do."""
    made = replace(ARCHITECTURES["x86_32"], table_syncs=(TableSync(TableCare.FAULT, vmalloc_faults=True),))
    rig = Rig(made)
    assert rig.map(rig.base, 1) == 0
    assert rig.tables.do_context_switch(1) == 0
    assert seen(rig, rig.base) == [True, False, False]
    assert rig.tables.do_fault(1, rig.base)
    assert seen(rig, rig.base) == [True, True, False]
    rig.validate()


@pytest.mark.parametrize("arch", ["arm32", "x86_32"])
def test_a_table_that_goes_away_is_cleared_from_all_roots(arch: str) -> None:
    rig = Rig(arch)
    start = rig.arch.vmalloc_start
    assert rig.map(start, 1) == 0
    rig.tables.do_fault(1, start)
    rig.unmap(start, 4096)
    assert rig.tables.free_empty_tables() == 4096
    for root in range(3):
        assert rig.entry(start, 0, root) == 0
    rig.validate()
    assert rig.map(start, 2) == 0
    rig.validate()


@pytest.mark.parametrize("arch", ["x86_64", "riscv64_sv48", "arm32"])
def test_further_ranges_are_kept_current_like_the_vmalloc_range(arch: str) -> None:
    """Section 8.4: the shadow of KASAN."""
    made = ARCHITECTURES[arch]
    other = (made.kernel_start, made.kernel_start + (1 << made.levels[0].shift))
    rig = Rig(arch, shared_ranges=(other,))
    assert rig.tables.shared_ranges()[1] == other
    assert rig.map(other[0], 1) == 0
    rig.tables.do_context_switch(1)
    rig.tables.do_fault(2, other[0])
    assert seen(rig, other[0]) == [True] * 3
    rig.validate()


@pytest.mark.parametrize(("kernel", "hook_runs"), [("6.12", 1), ("6.19", 2)])
def test_a_top_entry_outside_the_range_is_copied_by_the_hook(kernel: str, hook_runs: int) -> None:
    """Section 8.4: x86-64 has mask P4D; 6.19 calls the hook also when it populates a top-level entry."""
    rig = Rig("x86_64", kernel)
    address = rig.arch.kernel_start
    assert rig.map(address, 1) == 0
    assert seen(rig, address) == [True] * 3
    assert (rig.tables.hook_runs, rig.tables.entries_copied) == (hook_runs, 2)
    rig.validate()


def test_without_a_mask_a_top_entry_outside_the_range_is_the_reference_s_alone() -> None:
    """Section 8.4: riscv64 has no mask."""
    rig = Rig("riscv64_sv48")
    assert rig.map(rig.arch.kernel_start, 1) == 0
    assert seen(rig, rig.arch.kernel_start) == [True, False, False]
    rig.validate()


def test_no_leaf_stands_where_nobody_would_copy_it() -> None:
    """With faults alone a cleared leaf of the top table would stay in the copies."""
    made = replace(ARCHITECTURES["x86_32_pae"], table_syncs=(TableSync(TableCare.FAULT, vmalloc_faults=True),))
    assert Rig(made).tables.accepted_shifts() == [21]
    two = replace(made, levels=made.levels[1:], address_bits=30, kernel_start=0xC000_0000)
    two = replace(two, levels=(replace(two.levels[0], name="pgd"), two.levels[1]))
    assert Rig(two).tables.accepted_shifts() == []
    hooked = replace(two, table_syncs=(TableSync(TableCare.HOOK, "pmd"),))
    assert Rig(hooked).tables.accepted_shifts() == [21]


def test_a_root_that_does_not_exist_is_refused() -> None:
    rig = Rig("x86_64")
    with pytest.raises(BadRequest, match="root 3 of 3"):
        rig.tables.root_table(3)
    assert rig.walk(rig.base, 3) is None
