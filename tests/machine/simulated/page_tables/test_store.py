"""Tables as memory: which frames they take, whose they are, and what becomes of them when somebody writes there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machine.simulated.page_tables.rig import ENOMEM, RW, Rig
from vmalloc.errors import BadRequest, OutOfFrames
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, Leaf, LeafNeed, Level
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.page_tables.tables import PageTables

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_table_is_a_block_of_frames_as_large_as_its_entries_need(arch: str) -> None:
    """Section 8.1: sizes per level; what is smaller than a page takes a frame."""
    rig = Rig(arch, nr_roots=1)
    address = rig.arch.vmalloc_start
    assert rig.map(address, 1) == 0
    held = {block.pfn: block.order for block in rig.memory.outstanding("page tables")}
    for depth, level in enumerate(rig.arch.levels):
        order = max(0, (rig.arch.table_size(level) - 1).bit_length() - rig.arch.page_shift)
        assert held[rig.table_of(address, depth)] == order
        assert rig.tables.table_frames_of(depth) == 1 << order
    assert rig.tables.table_bytes == sum(1 << order for order in held.values()) * rig.page
    assert sum(rig.tables.tables_by_level().values()) == len(held)
    rig.validate()


def test_a_new_table_is_zeros_whatever_its_frame_held() -> None:
    rig = Rig("arm64_4k", nr_roots=1)
    frames = [rig.memory.allocate() for _ in range(3)]
    for pfn in frames:
        rig.memory.contents.store(pfn, 0, b"\xff" * 4096)
        rig.memory.release(pfn)
    assert rig.map(rig.arch.vmalloc_start, 1) == 0
    rig.validate()
    assert rig.walk(rig.arch.vmalloc_start + 4096) is None


def test_tables_come_from_the_node_that_is_set() -> None:
    memory = PhysicalMemory([64, 64], dma32_limit=0)
    tables = PageTables(memory.frames, memory.contents, ARCHITECTURES["arm64_4k"], PROFILES["6.19"])
    assert memory.node_of(tables.root_table(0)) == 0
    tables.table_node = 1
    start = tables.arch.vmalloc_start
    assert tables.do_map_range(start, 0, 4096, 12, RW) == 0
    pfns = [block.pfn for block in memory.outstanding()]
    assert sorted(map(memory.node_of, pfns)) == [0, 1, 1, 1]


def test_lists_of_other_cpus_are_drained_for_a_table_only_where_that_is_allowed() -> None:
    rig = Rig("arm64_4k", nr_roots=1, nr_frames=64)
    hog = rig.exhaust()
    for pfn in hog[:5]:
        rig.memory.release(pfn, cpu=1)
    rig.tables.may_drain = False
    assert rig.map(rig.arch.vmalloc_start, 1) == ENOMEM
    rig.tables.may_drain = True
    assert rig.map(rig.arch.vmalloc_start, 1) == 0
    rig.validate()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_failure_at_each_table_leaks_nothing(arch: str) -> None:
    """Section 3.4 and 8.6: what was made before the failure stays; unmapped and freed, all frames are back."""
    failures = 0
    for left in range(20):
        rig = Rig(arch, nr_frames=1100)
        before = rig.memory.outstanding("page tables")
        rig.exhaust(left)
        size = rig.arch.levels[-2].size
        start = -(-rig.arch.vmalloc_start // size) * size + size - 2 * rig.page
        code = rig.map(start, *range(4))
        mapped = [rig.walk(start + k * rig.page) is not None for k in range(4)]
        assert mapped == sorted(mapped, reverse=True)
        assert all(mapped) == (code == 0)
        rig.validate()
        assert rig.unmap(start, 4 * rig.page) == sum(mapped)
        rig.tables.free_empty_tables()
        rig.validate()
        assert rig.memory.outstanding("page tables") == before
        if code == 0:
            break
        assert code == ENOMEM
        failures += 1
    assert code == 0
    assert failures >= 1


@pytest.mark.parametrize("arch", ["x86_64", "x86_32_pae", "riscv64_sv39", "s390x", "x86_32"])
def test_boot_without_frames_keeps_nothing(arch: str) -> None:
    made = ARCHITECTURES[arch]
    for nr_frames in (1, 2, 3, 4, 5, 8, 20, 50, 65, 66, 67, 80):
        memory = PhysicalMemory([nr_frames], page_shift=made.page_shift, dma32_limit=0)
        try:
            tables = PageTables(memory.frames, memory.contents, made, PROFILES["6.19"], 3)
        except OutOfFrames:
            assert memory.outstanding() == []
            memory.validate()
        else:
            tables.close()
            assert memory.outstanding() == []
            break
    else:
        raise AssertionError("80 frames are enough")
    assert nr_frames > 1


def test_a_table_that_was_overwritten_with_nonsense_leads_nowhere() -> None:
    rig = Rig("x86_64")
    start = rig.arch.vmalloc_start
    assert rig.map(start, 7) == 0
    good = rig.entry(start, 2)
    for nonsense in (0xFFFF_FFFF_FFFF_FFFF & ~0x20, 0x1, 0xDEAD_0000_0001, (1 << 30) - 4096 + 1, 0x800, 2):
        rig.overwrite(start, 2, nonsense)
        rig.walk(start + 0x1000)
        rig.walk(start, 1)
        rig.overwrite(start, 2, good)
    assert rig.walk(start, 2) == (7, 12, RW)


def test_a_table_that_was_zeroed_as_a_whole_maps_nothing_and_can_be_used_again() -> None:
    rig = Rig("x86_64")
    start = rig.arch.vmalloc_start
    assert rig.map(start, 7) == 0
    assert rig.walk(start) == (7, 12, RW)
    pte = rig.table_of(start, 3)
    rig.memory.contents.zero(pte)
    assert rig.walk(start) is None
    assert rig.unmap(start, 4096) == 0
    assert rig.map(start, 8) == 0
    assert rig.walk(start) == (8, 12, RW)
    rig.memory.contents.zero(pte)
    assert rig.map_range(start, 9, 4096) == 0
    assert rig.walk(start) == (9, 12, RW)


def test_warnings_are_counted_and_the_last_64_remembered() -> None:
    rig = Rig()
    start = rig.arch.vmalloc_start
    assert rig.map(start, *range(100)) == 0
    for k in range(100):
        assert rig.map(start + k * 4096, 1) == -16
    assert rig.tables.warnings == 100
    said = rig.tables.warning_list()
    assert said == [(start + k * 4096, "the page is mapped already") for k in range(36, 100)]


def test_leaves_that_need_what_the_machine_has_not_are_not_accepted() -> None:
    """Section 8.3: PSE and 1 GiB pages on x86-64; the table dump on older arm64."""

    def accepted(arch: str, kernel: str, *missing: LeafNeed) -> list[int]:
        found: list[int] = Rig(arch, kernel, missing=missing).tables.accepted_shifts()
        return found

    assert accepted("x86_64", "6.19") == [21, 30]
    assert accepted("x86_64", "6.19", LeafNeed.PSE) == [30]
    assert accepted("x86_64", "6.19", LeafNeed.GB_PAGES) == [21]
    assert accepted("x86_64", "6.19", LeafNeed.UNIFORM_MEMORY_TYPE) == []
    assert accepted("arm64_4k", "6.12") == [21, 30]
    assert accepted("arm64_4k", "6.12", LeafNeed.NO_PTDUMP) == []
    assert accepted("arm64_4k", "6.19", LeafNeed.NO_PTDUMP) == [16, 21, 30]
    assert accepted("riscv64_sv48", "6.1") == []
    assert accepted("riscv64_sv39", "6.12") == [21]
    assert accepted("x86_32", "6.19") == accepted("s390x", "6.19") == accepted("loongarch64", "6.19") == []


def test_machines_whose_tables_cannot_be_kept_are_refused() -> None:
    x86, kernel = ARCHITECTURES["x86_64"], PROFILES["6.19"]
    memory = PhysicalMemory([64])
    good = (memory.frames, memory.contents)
    with pytest.raises(BadRequest, match="pages have 16"):
        PageTables(*good, ARCHITECTURES["arm64_64k"], kernel)
    with pytest.raises(BadRequest, match="0 page-table roots"):
        PageTables(*good, x86, kernel, 0)
    with pytest.raises(BadRequest, match="entries of 16 bytes"):
        PageTables(*good, replace(x86, entry_size=16), kernel)
    with pytest.raises(BadRequest, match="1 levels"):
        PageTables(*good, replace(x86, levels=(Level("pte", 12, 512),)), kernel)
    with pytest.raises(BadRequest, match="no room"):
        PageTables(*good, replace(ARCHITECTURES["x86_32"], entry_size=8), kernel)
    with pytest.raises(BadRequest, match="shared range"):
        PageTables(*good, x86, kernel, shared_ranges=((0, 4096),))
    small = PhysicalMemory([(1 << 20, 64)])
    with pytest.raises(BadRequest, match="beyond the 32 physical bits"):
        PageTables(small.frames, small.contents, ARCHITECTURES["x86_32"], kernel)
    assert memory.outstanding() == []


def test_a_size_of_groups_that_no_table_of_leaves_knows_is_counted_by_itself() -> None:
    """Section 8.3: two sizes of PTE groups, as ppc 8xx has them."""
    made = replace(
        ARCHITECTURES["x86_32"], pte_groups=(14, 19), huge_vmap=(Leaf(14), Leaf(19)), huge_vmalloc=(Leaf(14),)
    )
    rig = Rig(made)
    start = rig.base
    assert rig.tables.accepted_shifts() == [14, 19]
    assert rig.map_range(start, 0, (512 + 16 + 4) << 10) == 0
    assert rig.tables.leaves_by_shift() == {12: 1, 14: 1, 19: 1}
    assert rig.walk(start + 0x7FFFF) == (0x7F, 19, RW)
    assert rig.walk(start + 0x80000) == (0x80, 14, RW)
    assert rig.walk(start + 0x84000) == (0x84, 12, RW)
    rig.validate()
