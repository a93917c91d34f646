"""Physical ranges: which leaf goes where, what a leaf may replace, and the flush that is owed for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from machine.simulated.page_tables.rig import DEVICE, EBUSY, EINVAL, ENOMEM, RW, Rig
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, HugeUse, TableReplacement

pytestmark = pytest.mark.both_builds

K, M, G = 1 << 10, 1 << 20, 1 << 30


# -- which leaf (sections 3.4, 8.1 and 8.3) ----------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_accepted_size_is_used_where_it_fits(arch: str, kernel: str) -> None:
    """Sections 3.4, 8.1 and 8.3: for every leaf of every architecture and release."""
    rig = Rig(arch, kernel)
    shifts = rig.arch.leaf_shifts(PROFILES[kernel], HugeUse.VMAP)
    assert rig.tables.accepted_shifts() == sorted(shifts)
    for shift in shifts:
        unit = 1 << shift
        start = -(-rig.arch.vmalloc_start // unit) * unit
        if start + unit > rig.arch.vmalloc_end:
            continue
        pfn = unit // rig.page
        assert rig.map_range(start, pfn, unit) == 0
        assert rig.tables.leaves_by_shift() == {shift: 1}
        assert rig.walk(start + unit - 1) == (pfn + unit // rig.page - 1, shift, RW)
        assert rig.walk(start + rig.page + 5) == (pfn + 1, shift, RW)
        rig.validate()
        assert rig.unmap(start, unit) == unit // rig.page
        rig.tables.free_empty_tables()


@pytest.mark.parametrize("arch", ["x86_32", "arm32", "s390x", "loongarch64"])
def test_architectures_without_leaves_map_pages(arch: str) -> None:
    """Section 8.3: x86-32 without PAE, arm32, s390x, loongarch."""
    rig = Rig(arch)
    size = rig.arch.levels[-2].size
    start = -(-rig.arch.vmalloc_start // size) * size
    assert rig.map_range(start, 0, size + rig.page) == 0
    assert rig.tables.leaves_by_shift() == {rig.arch.page_shift: size // rig.page + 1}
    assert rig.walk(start + size) == (size // rig.page, rig.arch.page_shift, RW)
    rig.validate()


@pytest.mark.parametrize(
    ("offset", "pfn", "size", "max_shift", "expected"),
    [
        (0, 0, 2 * M, 63, {21: 1}),
        (0, 0, 2 * M, 21, {21: 1}),
        (0, 0, 2 * M, 20, {12: 512}),  # condition 1: the caller allows less
        (0, 0, 2 * M - 4 * K, 63, {12: 511}),  # 3: the rest of the range does not fill the entry
        (4 * K, 1, 2 * M, 63, {12: 512}),  # 4: the address
        (0, 1, 2 * M, 63, {12: 512}),  # 5: the frame
        (4 * K, 1, 4 * M - 4 * K, 63, {12: 511, 21: 1}),
        (2 * M - 4 * K, 511, 2 * M + 8 * K, 63, {12: 2, 21: 1}),
        (G - 2 * M, 261632, G + 4 * M, 63, {21: 2, 30: 1}),
        (0, 0, G, 29, {21: 512}),
        (0, 512, G, 63, {21: 512}),
    ],
)
def test_conditions_of_a_leaf(offset: int, pfn: int, size: int, max_shift: int, expected: dict[int, int]) -> None:
    """Section 3.4: conditions 1, 3, 4 and 5, on x86-64."""
    rig = Rig("x86_64")
    assert rig.map_range(rig.base + offset, pfn, size, max_shift) == 0
    assert rig.tables.leaves_by_shift() == expected
    for at in (0, 4 * K, size // 2, size - 4 * K):
        assert rig.walk(rig.base + offset + at)[0] == pfn + at // 4096
    rig.validate()


@pytest.mark.parametrize(
    ("offset", "pfn", "size", "max_shift", "expected"),
    [
        (0, 0, 64 * K, 16, {16: 1}),
        (0, 0, 64 * K, 15, {12: 16}),
        (0, 0, 60 * K, 16, {12: 15}),
        (0, 0, 68 * K, 16, {12: 1, 16: 1}),
        (4 * K, 1, 64 * K, 16, {12: 16}),
        (0, 8, 64 * K, 16, {12: 16}),
        (60 * K, 15, 72 * K, 63, {12: 2, 16: 1}),
        (0, 0, 2 * M, 16, {16: 32}),
        (0, 16, 2 * M, 63, {16: 32}),
    ],
)
def test_conditions_of_a_contiguous_group(
    offset: int, pfn: int, size: int, max_shift: int, expected: dict[int, int]
) -> None:
    """Section 3.4: CONT_PTE_SIZE of arm64, by the rules of its mapper."""
    rig = Rig("arm64_4k")
    assert rig.map_range(rig.base + offset, pfn, size, max_shift) == 0
    assert rig.tables.leaves_by_shift() == expected
    rig.validate()


def test_groups_are_as_new_as_their_kernel() -> None:
    """Section 8.3: CONT-PTE groups since 6.17."""
    for kernel, expected in (("6.1", {12: 16}), ("6.12", {12: 16}), ("6.19", {16: 1})):
        rig = Rig("arm64_4k", kernel)
        assert rig.map_range(rig.base, 0, 64 * K) == 0
        assert rig.tables.leaves_by_shift() == expected


def test_no_leaf_above_a_pud() -> None:
    """Section 8.3: no architecture accepts P4D leaves."""
    for arch in ARCHITECTURES:
        rig = Rig(arch)
        assert max(rig.tables.accepted_shifts(), default=0) <= rig.level("pud").shift


def test_device_memory_needs_no_frame() -> None:
    rig = Rig("x86_64")
    pfn = rig.tables.pfn_limit - 1024
    assert rig.map_range(rig.base, pfn, 4 * M, prot=DEVICE) == 0
    assert rig.walk(rig.base + 4 * M - 1) == (rig.tables.pfn_limit - 1, 21, DEVICE)
    rig.validate()


# -- refused -----------------------------------------------------------------------------------------------------------


def test_a_length_that_is_no_multiple_of_the_page_is_refused_with_a_warning() -> None:
    """Section 3.4: WARN and -EINVAL."""
    rig = Rig("x86_64")
    assert rig.map_range(rig.base, 0, 4097) == EINVAL
    assert rig.tables.warnings == 1
    assert rig.walk(rig.base) is None


@pytest.mark.parametrize("arch", ["x86_64", "s390x", "x86_32"])
def test_ranges_that_cannot_be_mapped_are_refused(arch: str) -> None:
    rig = Rig(arch)
    page, limit = rig.page, rig.tables.pfn_limit
    assert rig.map_range(rig.base + 1, 0, page) == EINVAL
    assert rig.map_range(rig.arch.kernel_end - page, 0, 2 * page) == EINVAL
    assert rig.map_range(rig.base, limit, page) == EINVAL
    assert rig.map_range(rig.base, limit - 1, 2 * page) == EINVAL
    assert rig.map_range(rig.base, 0, page, prot=16) == EINVAL
    if rig.arch.kernel_start:
        assert rig.map_range(rig.arch.kernel_start - page, 0, page) == EINVAL
    assert rig.map_range(rig.base, 0, 0) == 0
    assert rig.tables.leaves_by_shift() == {}
    assert rig.map_range(rig.arch.kernel_end - page, limit - 1, page) == 0, "the last page of all"
    assert rig.walk(rig.arch.kernel_end - 1) == (limit - 1, rig.arch.page_shift, RW)
    rig.validate()


@pytest.mark.parametrize("place", [0, 5, 15])
def test_a_page_that_is_mapped_already_stops_the_mapper(place: int) -> None:
    """Section 3.4: "remapping already mapped page" is a BUG; here -EBUSY, a group not begun."""
    for arch, before in (("arm64_4k", 0), ("x86_64", place)):
        rig = Rig(arch)
        assert rig.map(rig.base + place * 4096, 77) == 0
        assert rig.map_range(rig.base, 0, 64 * K) == EBUSY
        assert [rig.walk(rig.base + k * 4096) is not None for k in range(16)].count(True) == before + 1
        assert rig.walk(rig.base + place * 4096) == (77, 12, RW)
        assert rig.tables.warning_list() == [(rig.base + place * 4096, "the page is mapped already")]
        rig.validate()


def test_a_leaf_in_the_way_stops_the_mapper() -> None:
    rig = Rig("x86_64")
    assert rig.map_range(rig.base, 0, 2 * M) == 0
    assert rig.map_range(rig.base, 0, 2 * M) == EBUSY
    assert rig.map_range(rig.base + 4096, 0, 4096) == EBUSY
    assert rig.map_range(rig.base, 0, G) == EBUSY
    assert rig.tables.leaves_by_shift() == {21: 1}
    rig.validate()


# -- replacing tables (section 8.6) ------------------------------------------------------------------------------------


def with_empty_table(arch: str, size: int, *, at: int = 0) -> Rig:
    """A machine on which a table is left over from a page that was mapped."""
    rig = Rig(arch)
    assert rig.map(rig.base + at, 5) == 0
    assert rig.unmap(rig.base + at, rig.page) == 1
    return rig


@pytest.mark.parametrize("arch", ["x86_64", "x86_64_la57", "riscv64_sv39", "arm64_4k", "arm64_64k", "ppc64_radix"])
def test_a_leaf_replaces_a_table_that_maps_nothing(arch: str) -> None:
    """Section 8.6: the entry is cleared, a flush is owed, and only then is the frame free again."""
    unit = ARCHITECTURES[arch].level("pmd").size
    rig = with_empty_table(arch, unit)
    before, pte = rig.memory.outstanding("page tables"), rig.table_of(rig.base, len(rig.arch.levels) - 1)
    generation = rig.tables.generation
    assert rig.map_range(rig.base, 0, unit) == 0
    assert rig.tables.leaves_by_shift() == {rig.level("pmd").shift: 1}
    assert rig.tables.tables_by_level()["pte"] == 0
    assert (rig.tables.tables_replaced, rig.tables.nr_pending) == (1, 1)
    assert rig.tables.generation > generation
    whole = rig.arch.table_replacement is TableReplacement.WALK_CACHE_FLUSH
    owed = (rig.base, rig.base + (unit if whole else rig.page))
    assert (rig.tables.owed_flush_start, rig.tables.owed_flush_end) == owed
    assert rig.memory.outstanding("page tables") == before, "nobody may have the frame before the flush"
    assert rig.tables.pending_tables() == [(len(rig.arch.levels) - 1, pte)]
    rig.validate()
    rig.tables.do_settle_flush()
    assert (rig.tables.owed_flush_start, rig.tables.owed_flush_end, rig.tables.nr_pending) == (0, 0, 0)
    assert pte not in [block.pfn for block in rig.memory.outstanding("page tables")]
    rig.validate()


def test_a_pud_leaf_replaces_all_tables_below() -> None:
    """Section 8.6: on x86-64."""
    rig = with_empty_table("x86_64", G)
    assert rig.map(rig.base + 6 * M, 1) == 0
    rig.unmap(rig.base + 6 * M, 4096)
    bytes_before = rig.tables.table_bytes
    assert rig.map_range(rig.base, 0, G) == 0
    assert rig.tables.leaves_by_shift() == {30: 1}
    assert rig.tables.nr_pending == 3
    assert rig.tables.tables_by_level()["pmd"] == rig.tables.tables_by_level()["pte"] == 0
    rig.validate()
    rig.tables.do_settle_flush()
    assert rig.tables.table_bytes == bytes_before - 3 * 4096
    rig.validate()


def test_without_a_spare_page_a_pmd_table_is_not_taken_apart() -> None:
    """Section 8.6: x86-64 needs one temporary page for a PUD; failing that the huge mapping is not used."""
    rig = with_empty_table("x86_64", G)
    hog = rig.exhaust()
    assert rig.map_range(rig.base, 0, G) == 0
    assert rig.tables.leaves_by_shift() == {21: 512}
    rig.validate()
    rig.tables.do_settle_flush()
    rig.unmap(rig.base, G)
    rig.memory.release(hog.pop())
    assert rig.map_range(rig.base, 0, G) == 0
    assert rig.tables.leaves_by_shift() == {30: 1}


def test_a_table_that_maps_something_stays() -> None:
    rig = with_empty_table("x86_64", 2 * M)
    assert rig.map(rig.base + 2 * M - 4096, 9) == 0
    assert rig.map_range(rig.base, 0, 2 * M) == EBUSY
    assert rig.tables.tables_replaced == 0
    assert rig.walk(rig.base + 2 * M - 1) == (9, 12, RW)
    rig.validate()


def test_x86_32_never_replaces_a_table() -> None:
    """Section 8.6: huge only if the entry is empty."""
    rig = with_empty_table("x86_32_pae", 2 * M)
    assert rig.map_range(rig.base, 0, 4 * M) == 0
    assert rig.tables.leaves_by_shift() == {12: 512, 21: 1}
    assert rig.tables.tables_replaced == 0
    rig.validate()


def test_the_flush_that_is_owed_is_the_hull_of_all() -> None:
    rig = Rig("x86_64")
    for at in (8 * M, 2 * M):
        assert rig.map(rig.base + at, 5) == 0
        rig.unmap(rig.base + at, 4096)
    assert rig.map_range(rig.base + 8 * M, 0, 2 * M) == 0
    assert rig.map_range(rig.base + 2 * M, 0, 2 * M) == 0
    assert rig.tables.owed_flush_start == rig.base + 2 * M
    assert rig.tables.owed_flush_end == rig.base + 8 * M + 4096
    rig.validate()
    rig.tables.do_settle_flush()
    rig.validate()


def test_a_table_made_at_boot_is_never_replaced() -> None:
    """Section 8.4: the entry that all processes share must stay a table."""
    made = ARCHITECTURES["riscv64_sv39"]
    made = replace(made, huge_vmap=(replace(made.huge_vmap[0], shift=30), *made.huge_vmap))
    rig = Rig(made)
    assert rig.tables.accepted_shifts() == [21]
    assert rig.map_range(rig.base, 0, G) == 0
    assert rig.tables.leaves_by_shift() == {21: 512}
    rig.validate()


def test_a_replaced_table_is_not_used_any_more() -> None:
    """The tables used last are remembered; a replacement must end that."""
    rig = Rig("x86_64")
    assert rig.map(rig.base, 5) == 0
    assert rig.walk(rig.base) == (5, 12, RW)
    rig.unmap(rig.base, 4096)
    assert rig.map_range(rig.base, 512, 2 * M) == 0
    assert rig.walk(rig.base) == (512, 21, RW)
    assert rig.map(rig.base, 6) == EBUSY
    assert rig.unmap(rig.base, 2 * M) == 512
    assert rig.map(rig.base, 7) == 0
    assert rig.walk(rig.base) == (7, 12, RW)
    rig.validate()


def test_a_leaf_in_the_place_of_a_table_is_seen_by_all_roots() -> None:
    made = replace(ARCHITECTURES["x86_32_pae"], table_replacement=TableReplacement.PAGE_FLUSH)
    rig = Rig(made, "6.19")
    assert rig.map(rig.base, 5) == 0
    rig.unmap(rig.base, 4096)
    assert rig.map_range(rig.base, 0, 2 * M) == 0
    for root in range(3):
        assert rig.walk(rig.base, root) == (0, 21, RW)
    rig.validate()


# -- what stays after a failure ----------------------------------------------------------------------------------------


def test_what_was_mapped_before_a_failure_stays_and_can_be_unmapped() -> None:
    """Section 3.5: the caller cleans up."""
    rig = Rig("arm64_4k", nr_roots=1)
    assert rig.map(rig.base, 1) == 0
    hog = rig.exhaust()
    start = rig.base + 2 * M - 64 * K
    assert rig.map_range(start, 0, 128 * K) == ENOMEM
    assert rig.tables.leaves_by_shift() == {12: 1, 16: 1}
    rig.validate()
    assert rig.unmap(start, 128 * K) == 16
    rig.memory.release(hog.pop())
    assert rig.map_range(start, 0, 128 * K) == 0
    rig.validate()


def test_the_mask_says_which_levels_were_modified() -> None:
    """Section 8.4: a bit a level, folded ones under the name of the lowest."""
    rig = Rig("x86_64")
    pud, pmd, pte = 4, 8, 16
    assert rig.map_range(rig.base, 0, 4096) == 0
    assert rig.tables.mask == pud | pmd | pte
    assert rig.map_range(rig.base + 4096, 0, 4096) == 0
    assert rig.tables.mask == pte
    assert rig.map_range(rig.base + 2 * M, 0, 2 * M) == 0
    assert rig.tables.mask == pmd
    assert rig.map_range(rig.base + G, 0, G) == 0
    assert rig.tables.mask == pud
    rig.unmap(rig.base, 4096)
    assert rig.tables.mask == pte
    rig.unmap(rig.base, 2 * G)
    assert rig.tables.mask == pud | pmd | pte
    rig.unmap(rig.base, 2 * G)
    assert rig.tables.mask == 0
