"""The unmapping walk: what it clears whole, what it warns of, and what it leaves (section 8.5)."""

from __future__ import annotations

import pytest

from machine.simulated.page_tables.rig import RW, Rig
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.page_tables.entries import CUT_GROUP, CUT_LEAF, WARNING_TEXTS

pytestmark = pytest.mark.both_builds

K, M, G = 1 << 10, 1 << 20, 1 << 30


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_pages_are_cleared_across_tables_and_tables_stay(arch: str) -> None:
    """Sections 8.5 and 8.6: unmapping never frees page tables."""
    rig = Rig(arch)
    pmd = rig.arch.levels[-2].size
    start = -(-rig.arch.vmalloc_start // pmd) * pmd + pmd - 2 * rig.page
    assert rig.map(start, *range(4)) == 0
    tables = rig.tables.tables_by_level()
    assert rig.unmap(start + rig.page, 2 * rig.page) == 2
    assert [rig.walk(start + k * rig.page) is not None for k in range(4)] == [True, False, False, True]
    assert rig.unmap(start - rig.page, 6 * rig.page) == 2
    assert rig.tables.tables_by_level() == tables
    assert rig.tables.leaves_by_shift() == {}
    assert rig.tables.warnings == 0
    rig.validate()


@pytest.mark.parametrize("arch", ["x86_64", "s390x", "x86_32"])
def test_the_whole_range_is_cleared_at_once(arch: str) -> None:
    rig = Rig(arch)
    last = rig.arch.vmalloc_end // rig.page * rig.page - rig.page
    for address in (rig.arch.vmalloc_start, rig.base + rig.page, last):
        assert rig.map(address, 1) == 0
    assert rig.tables.do_unmap(rig.arch.kernel_start, rig.arch.kernel_end) == 3
    assert rig.tables.leaves_by_shift() == {}
    rig.validate()


@pytest.mark.parametrize(
    ("offset", "size", "cut"),
    [(0, 2 * M, 0), (0, 4096, 1), (2 * M - 4096, 4096, 1), (M, 4096, 1), (M, 2 * M, 1), (-4096, 2 * M + 8192, 0)],
)
def test_a_leaf_is_cleared_whole_with_a_warning_where_it_is_cut(offset: int, size: int, cut: int) -> None:
    """Section 8.5: WARN if the range covers only part of a leaf."""
    rig = Rig("x86_64")
    start = rig.base + 4 * M
    assert rig.map_range(start, 0, 2 * M) == 0
    assert rig.unmap(start + offset, size) == 512
    assert rig.walk(start) is rig.walk(start + 2 * M - 1) is None
    assert rig.tables.warning_list() == [(max(start, start + offset), WARNING_TEXTS[CUT_LEAF])] * cut
    rig.validate()


@pytest.mark.parametrize(
    ("offset", "size", "cut"),
    [(0, 64 * K, 0), (0, 60 * K, 1), (4 * K, 60 * K, 1), (8 * K, 4 * K, 1), (60 * K, 4 * K, 1), (-4 * K, 72 * K, 0)],
)
def test_a_group_is_cleared_as_a_group_with_a_warning_where_it_is_cut(offset: int, size: int, cut: int) -> None:
    """Section 8.5: an unaligned start or a short end inside a group of arm64 WARNs."""
    rig = Rig("arm64_4k")
    start = rig.base + 64 * K
    assert rig.map_range(start, 0, 64 * K) == 0
    assert rig.map(start + 64 * K, 99) == 0
    pages = 16 + (offset + size > 64 * K)
    assert rig.unmap(start + offset, size) == pages
    assert all(rig.walk(start + k * 4 * K) is None for k in range(16))
    assert (rig.walk(start + 64 * K) is None) == (offset + size > 64 * K)
    assert rig.tables.warning_list() == [(max(start, start + offset), WARNING_TEXTS[CUT_GROUP])] * cut
    rig.validate()


def test_two_groups_cut_at_both_ends_warn_twice() -> None:
    rig = Rig("arm64_4k")
    assert rig.map_range(rig.base, 0, 192 * K) == 0
    assert rig.unmap(rig.base + 4 * K, 184 * K) == 48
    assert rig.tables.warnings == 2
    assert rig.tables.leaves_by_shift() == {}
    rig.validate()


def test_pages_beside_a_group_in_one_range() -> None:
    rig = Rig("arm64_4k")
    assert rig.map(rig.base, 1, 2) == 0
    assert rig.map_range(rig.base + 64 * K, 0, 64 * K) == 0
    assert rig.map(rig.base + 128 * K, 3) == 0
    assert rig.unmap(rig.base, 132 * K) == 19
    assert rig.tables.warnings == 0
    rig.validate()


@pytest.mark.parametrize("arch", ["x86_64", "x86_32"])
def test_a_pte_that_is_neither_empty_nor_present_is_cleaned_with_a_warning(arch: str) -> None:
    """Section 8.5: a non-empty non-present PTE WARNs."""
    rig = Rig(arch)
    last = len(rig.arch.levels) - 1
    assert rig.map(rig.base, 1, 2) == 0
    rig.overwrite(rig.base + 4096 * 2, last, 0x1000)
    assert rig.walk(rig.base + 4096 * 2) is None
    assert rig.unmap(rig.base, 4 * 4096) == 2
    assert rig.entry(rig.base + 4096 * 2, last) == 0
    assert rig.tables.warning_list() == [(rig.base + 2 * 4096, WARNING_TEXTS[0])]
    rig.validate()


def test_a_bad_entry_above_the_ptes_is_cleaned() -> None:
    """Section 8.5: an empty or bad entry is skipped or cleaned."""
    rig = Rig("x86_64")
    rig.overwrite(rig.base, 1, 0x2000)
    assert rig.unmap(rig.base, 4096) == 0
    assert rig.entry(rig.base, 1) == 0
    rig.overwrite(rig.base, 1, 0x2000)
    assert rig.map(rig.base, 1) == 0, "and a mapping makes a table in its place"
    assert [text for _address, text in rig.tables.warning_list()] == [WARNING_TEXTS[0]] * 2
    rig.validate()


def test_only_a_range_that_cleared_something_counts_as_a_change() -> None:
    rig = Rig("x86_64")
    assert rig.map(rig.base, 1, 2) == 0
    assert rig.tables.generation == 0, "a mapping that is new makes no TLB entry stale"
    assert rig.unmap(rig.base + 2 * 4096, 4096) == 0
    assert rig.tables.generation == 0
    assert rig.unmap(rig.base, 4096) == 1
    assert rig.tables.generation == 1
    assert rig.unmap(rig.base, 4 * 4096) == 1
    assert rig.tables.generation == 2


def test_ranges_that_are_not_the_kernel_s_pages_are_left_alone_with_a_warning() -> None:
    rig = Rig("x86_64")
    assert rig.map(rig.base, 1) == 0
    assert rig.tables.do_unmap(rig.base, rig.base) == 0
    assert rig.tables.do_unmap(rig.base + 4096, rig.base) == 0
    assert rig.tables.warnings == 0
    assert rig.tables.do_unmap(rig.base + 1, rig.base + 4096) == 0
    assert rig.tables.do_unmap(rig.base, rig.base + 1) == 0
    assert rig.tables.do_unmap(0, 4096) == 0
    assert rig.tables.warnings == 3
    assert rig.walk(rig.base) == (1, 12, RW)
