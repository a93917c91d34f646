"""Architectures: the numbers of the specification's tables, the arithmetic against counting, the validator."""

from __future__ import annotations

import doctest
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.errors import ValidationError
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated import arch as arch_module
from vmalloc.machine.simulated.arch import (
    ARCHITECTURES,
    LEVEL_NAMES,
    Arch,
    HugeUse,
    Leaf,
    LeafNeed,
    Level,
    TableCare,
    TableReplacement,
    TableSync,
    arm32_vmalloc_range,
    arm64,
    arm64_vmalloc_range,
    loongarch64_vmalloc_range,
    ppc64_radix,
    riscv64_vmalloc_range,
    s390x_vmalloc_range,
    validate_arch,
    x86_32_vmalloc_range,
)
from vmalloc.units import GIB, KIB, MIB, TIB

PIB = 1 << 50

NAMES = [
    "x86_64",
    "x86_64_la57",
    "x86_32",
    "x86_32_pae",
    "arm64_4k",
    "arm64_16k",
    "arm64_64k",
    "arm32",
    "riscv64_sv39",
    "riscv64_sv48",
    "riscv64_sv57",
    "ppc64_radix",
    "s390x",
    "loongarch64",
]
NO_HUGE = ["x86_32", "arm32", "s390x", "loongarch64"]
OLD, MIDDLE, NEW = PROFILES["6.1"], PROFILES["6.12"], PROFILES["6.19"]

GROUPS_8XX = (Leaf(14), Leaf(19))
LPAE = (Level("pgd", 30, 4), Level("pmd", 21, 512), Level("pte", 12, 512))

#: Rows of the specification's tables that have no name in ``vmalloc.simulated``: each is a change to one that has.
RELATIVES = {
    "ppc64_radix 4K": ppc64_radix("ppc64_radix 4K", 12),
    "arm32 LPAE": replace(ARCHITECTURES["arm32"], levels=LPAE),
    "ppc 8xx": replace(ARCHITECTURES["x86_32"], pte_groups=(14, 19), huge_vmap=GROUPS_8XX, huge_vmalloc=GROUPS_8XX),
    "ppc64 hash 4K": replace(
        ARCHITECTURES["ppc64_radix"], vmalloc_start=0xC000_3D00_0000_0000, vmalloc_end=0xC000_3E00_0000_0000
    ),
} | {
    f"arm64 {va_bits}/{1 << page_shift - 10}K": arm64(f"arm64 {va_bits}/{1 << page_shift - 10}K", page_shift, va_bits)
    for page_shift, va_bits in [(12, 39), (12, 52), (14, 36), (14, 47), (16, 42), (16, 52)]
}
KNOWN = ARCHITECTURES | RELATIVES


def test_the_architectures_are_those_users_can_name() -> None:
    assert list(ARCHITECTURES) == NAMES
    assert [arch.name for arch in ARCHITECTURES.values()] == NAMES


def test_an_architecture_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        ARCHITECTURES["x86_64"].page_shift = 13  # type: ignore[misc]


def test_word_widths() -> None:
    assert {a.name for a in ARCHITECTURES.values() if a.word_bits == 32} == {"x86_32", "x86_32_pae", "arm32"}
    assert {a.word_bits for a in ARCHITECTURES.values()} == {32, 64}


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(arch_module).failed == 0


# -- the tables of the specification -----------------------------------------------------------------------------------

#: Architecture, P, PTE group (bytes, PTEs), PMD, PUD, P4D, top entry; None: folded or not there.
SECTION_8_1: list[tuple[str, int, tuple[int, int] | None, int | None, int | None, int | None, int]] = [
    ("x86_64", 4 * KIB, None, 2 * MIB, 1 * GIB, None, 512 * GIB),
    ("x86_64_la57", 4 * KIB, None, 2 * MIB, 1 * GIB, 512 * GIB, 256 * TIB),
    ("x86_32", 4 * KIB, None, None, None, None, 4 * MIB),
    ("x86_32_pae", 4 * KIB, None, 2 * MIB, None, None, 1 * GIB),
    ("arm64_4k", 4 * KIB, (64 * KIB, 16), 2 * MIB, 1 * GIB, None, 512 * GIB),
    ("arm64_16k", 16 * KIB, (2 * MIB, 128), 32 * MIB, 64 * GIB, None, 128 * TIB),
    ("arm64_64k", 64 * KIB, (2 * MIB, 32), 512 * MIB, None, None, 4 * TIB),
    ("riscv64_sv39", 4 * KIB, None, 2 * MIB, None, None, 1 * GIB),
    ("riscv64_sv48", 4 * KIB, None, 2 * MIB, 1 * GIB, None, 512 * GIB),
    ("riscv64_sv57", 4 * KIB, None, 2 * MIB, 1 * GIB, 512 * GIB, 256 * TIB),
    ("ppc64_radix 4K", 4 * KIB, None, 2 * MIB, 1 * GIB, None, 512 * GIB),
    ("ppc64_radix", 64 * KIB, None, 2 * MIB, 1 * GIB, None, 512 * GIB),
    ("s390x", 4 * KIB, None, 1 * MIB, 2 * GIB, 4 * TIB, 8 * PIB),
    ("arm32", 4 * KIB, None, None, None, None, 2 * MIB),
    ("arm32 LPAE", 4 * KIB, None, 2 * MIB, None, None, 1 * GIB),
    ("loongarch64", 16 * KIB, None, 32 * MIB, None, None, 64 * GIB),
]


@pytest.mark.parametrize(("name", "page", "group", "pmd", "pud", "p4d", "top"), SECTION_8_1)
def test_section_8_1_sizes_per_level(
    name: str, page: int, group: tuple[int, int] | None, pmd: int | None, pud: int | None, p4d: int | None, top: int
) -> None:
    arch = KNOWN[name]
    tables = {level.name: level.size for level in arch.levels}
    sizes = {"pgd": top, "p4d": p4d, "pud": pud, "pmd": pmd, "pte": page}
    assert tables == {level: size for level, size in sizes.items() if size is not None}
    assert arch.page_size == page
    assert [(1 << shift, 1 << shift - arch.page_shift) for shift in arch.pte_groups] == ([group] if group else [])


@pytest.mark.parametrize(
    ("name", "level", "size"),
    [
        ("x86_64", "p4d", 512 * GIB),
        ("x86_32", "pmd", 4 * MIB),
        ("x86_32_pae", "pud", 1 * GIB),
        ("arm64_16k", "p4d", 128 * TIB),
        ("arm64_64k", "pud", 4 * TIB),
        ("arm32", "pmd", 2 * MIB),
        ("loongarch64", "pud", 64 * GIB),
    ],
)
def test_section_8_1_a_folded_level_is_the_table_above(name: str, level: str, size: int) -> None:
    arch = KNOWN[name]
    assert arch.level(level) is arch.levels[0]
    assert arch.level(level).size == size


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("x86_64", (512, 512, 512, 512)),
        ("x86_64_la57", (512, 512, 512, 512, 512)),
        ("x86_32", (1024, 1024)),
        ("x86_32_pae", (4, 512, 512)),
        ("arm64_4k", (512, 512, 512, 512)),
        ("arm64_16k", (2, 2048, 2048, 2048)),  # the 48th bit is all that is left for the top
        ("arm64 47/16K", (2048, 2048, 2048)),
        ("arm64_64k", (64, 8192, 8192)),  # 48 - 42 bits are left for the top
        ("riscv64_sv39", (512, 512, 512)),
        ("riscv64_sv48", (512, 512, 512, 512)),
        ("riscv64_sv57", (512, 512, 512, 512, 512)),
        ("ppc64_radix 4K", (8192, 512, 512, 512)),
        ("ppc64_radix", (8192, 512, 512, 32)),
        ("s390x", (2048, 2048, 2048, 2048, 256)),
        ("arm32", (2048, 512)),
        ("arm32 LPAE", (4, 512, 512)),
        ("loongarch64", (2048, 2048, 2048)),
    ],
)
def test_section_8_1_entries_per_table(name: str, entries: tuple[int, ...]) -> None:
    assert tuple(level.nr_entries for level in KNOWN[name].levels) == entries


@pytest.mark.parametrize(
    ("page_shift", "va_bits", "count"),
    [
        (12, 39, 3),
        (12, 48, 4),
        (12, 52, 5),
        (14, 36, 2),
        (14, 47, 3),
        (14, 48, 4),
        (16, 42, 2),
        (16, 48, 3),
        (16, 52, 3),
    ],
)
def test_section_8_1_arm64_level_count(page_shift: int, va_bits: int, count: int) -> None:
    assert len(arm64("arm64", page_shift, va_bits).levels) == (va_bits - 4) // (page_shift - 3) == count


#: Architecture, VMALLOC_START, VMALLOC_END, size.
SECTION_8_2 = [
    ("x86_64", 0xFFFF_C900_0000_0000, 0xFFFF_E8FF_FFFF_FFFF, 32 * TIB),
    ("x86_64_la57", 0xFFA0_0000_0000_0000, 0xFFD1_FFFF_FFFF_FFFF, 12800 * TIB),
    ("riscv64_sv39", 0xFFFF_FFC6_0000_0000, 0xFFFF_FFD6_0000_0000, 64 * GIB),
    ("riscv64_sv48", 0xFFFF_8F80_0000_0000, 0xFFFF_AF80_0000_0000, 32 * TIB),
    ("riscv64_sv57", 0xFF20_0000_0000_0000, 0xFF60_0000_0000_0000, 16 * PIB),
    ("ppc64_radix", 0xC008_0000_0000_0000, 0xC00A_0000_0000_0000, 512 * TIB),
    ("ppc64_radix 4K", 0xC008_0000_0000_0000, 0xC00A_0000_0000_0000, 512 * TIB),
]
#: The same where the specification has formulas: what the defaults give, so that nobody changes them unawares.
SECTION_8_2_BY_DEFAULT = [
    ("x86_32", 0xF880_0000, 0xFF7F_E000, 112 * MIB - 8 * KIB),
    ("x86_32_pae", 0xF880_0000, 0xFF7F_E000, 112 * MIB - 8 * KIB),
    ("arm32", 0xF080_0000, 0xFF80_0000, 240 * MIB),
    ("s390x", 0x37F_E000_0000, 0x3FF_6000_0000, 512 * GIB - 2 * GIB),
    ("loongarch64", 0xFFFF_8000_1200_8000, 0xFFFF_FEFF_FE00_0000, 0x7EFF_EBFF_8000),
]


@pytest.mark.parametrize(("name", "start", "end", "size"), SECTION_8_2 + SECTION_8_2_BY_DEFAULT)
def test_section_8_2_vmalloc_range(name: str, start: int, end: int, size: int) -> None:
    arch = KNOWN[name]
    assert (arch.vmalloc_start, arch.vmalloc_end) == (start, end)
    assert arch.vmalloc_size == size


@pytest.mark.parametrize(
    ("page_shift", "va_bits", "start", "end", "gib"),
    [
        (12, 39, 0xFFFF_FFC0_8000_0000, 0xFFFF_FFFE_BF80_0000, 249),
        (12, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FDFF_BF80_0000, 129021),
        (14, 47, 0xFFFF_C000_8000_0000, 0xFFFF_FFBF_BF80_0000, 65277),
        (14, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FF7F_BF80_0000, 130557),
        (16, 42, 0xFFFF_FE00_8000_0000, 0xFFFF_FFFF_3F80_0000, 2043),
        (16, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FFDF_BF80_0000, 130941),
    ],
)
def test_section_8_2_arm64_ranges(page_shift: int, va_bits: int, start: int, end: int, gib: int) -> None:
    assert arm64_vmalloc_range(page_shift, va_bits) == (start, end)
    assert round((end - start) / GIB) == gib
    arch = arm64("arm64", page_shift, va_bits)
    assert (arch.vmalloc_start, arch.vmalloc_end) == (start, end)


def test_section_8_2_the_named_arm64_ranges() -> None:
    ends = {12: 0xFFFF_FDFF_BF80_0000, 14: 0xFFFF_FF7F_BF80_0000, 16: 0xFFFF_FFDF_BF80_0000}
    for name in ("arm64_4k", "arm64_16k", "arm64_64k"):
        arch = ARCHITECTURES[name]
        assert (arch.vmalloc_start, arch.vmalloc_end) == (0xFFFF_8000_8000_0000, ends[arch.page_shift])


def test_section_8_2_kmsan_leaves_a_quarter() -> None:
    x86_64, la57 = ARCHITECTURES["x86_64"], ARCHITECTURES["x86_64_la57"]
    assert x86_64.kmsan_vmalloc_end == 0xFFFF_C900_0000_0000 + 8 * TIB - 1
    assert la57.kmsan_vmalloc_end == 0xFFA0_0000_0000_0000 + 3200 * TIB - 1
    assert {a.name for a in ARCHITECTURES.values() if a.kmsan_vmalloc_end is not None} == {"x86_64", "x86_64_la57"}


def test_section_8_2_ppc64_hash_starts() -> None:
    assert ARCHITECTURES["ppc64_radix"].vmalloc_start == 0xC008_0000_0000_0000  # also hash with 64K pages
    validate_arch(RELATIVES["ppc64 hash 4K"])  # whose start is another, in the same quadrant


def test_section_8_2_formulas_follow_their_arguments() -> None:
    lowmem_end = 2**32 - 256 * MIB  # vmalloc=256M
    assert x86_32_vmalloc_range(lowmem_end) == (0xF080_0000, 0xFF7F_E000)
    assert x86_32_vmalloc_range(pkmap_start=0xFFC0_0000)[1] == 0xFFBF_E000
    assert arm32_vmalloc_range(0xEF80_0001) == (0xF000_0000, 0xFF80_0000)
    assert arm32_vmalloc_range(0xEF7F_FFFF) == (0xEF80_0000, 0xFF80_0000)
    assert riscv64_vmalloc_range(1 << 39, 39) == ((1 << 39) - 64 * GIB, 1 << 39)
    assert s390x_vmalloc_range(4 * TIB, 1 * TIB) == (3 * TIB, 4 * TIB)
    assert s390x_vmalloc_range(4 * TIB, 3 * TIB) == (2 * TIB, 4 * TIB)  # capped at half the space
    assert loongarch64_vmalloc_range(kfence_size=2 * MIB)[1] == loongarch64_vmalloc_range()[1] - 2 * MIB
    assert loongarch64_vmalloc_range(va_bits=46)[1] == loongarch64_vmalloc_range()[1] - 2**46
    assert loongarch64_vmalloc_range(va_bits=55) == loongarch64_vmalloc_range()  # the table reaches no further


#: Architecture, leaves of huge vmap and of huge vmalloc, each in 6.1, 6.12 and 6.19 (bytes, largest first).
SECTION_8_3: list[tuple[str, list[list[int]], list[list[int]]]] = [
    ("x86_64", [[GIB, 2 * MIB]] * 3, [[2 * MIB]] * 3),
    ("x86_64_la57", [[GIB, 2 * MIB]] * 3, [[2 * MIB]] * 3),
    ("x86_32_pae", [[2 * MIB]] * 3, [[], [], []]),
    *((name, [[]] * 3, [[]] * 3) for name in NO_HUGE),
    (
        "arm64_4k",
        [[GIB, 2 * MIB], [GIB, 2 * MIB], [GIB, 2 * MIB, 64 * KIB]],
        [[2 * MIB], [2 * MIB], [2 * MIB, 64 * KIB]],
    ),
    ("arm64_16k", [[32 * MIB], [32 * MIB], [32 * MIB, 2 * MIB]], [[32 * MIB], [32 * MIB], [32 * MIB, 2 * MIB]]),
    ("arm64_64k", [[512 * MIB], [512 * MIB], [512 * MIB, 2 * MIB]], [[512 * MIB], [512 * MIB], [512 * MIB, 2 * MIB]]),
    ("riscv64_sv39", [[], [2 * MIB], [2 * MIB]], [[], [2 * MIB], [2 * MIB]]),
    ("riscv64_sv48", [[], [GIB, 2 * MIB], [GIB, 2 * MIB]], [[], [2 * MIB], [2 * MIB]]),
    ("riscv64_sv57", [[], [GIB, 2 * MIB], [GIB, 2 * MIB]], [[], [2 * MIB], [2 * MIB]]),
    ("ppc64_radix", [[GIB, 2 * MIB]] * 3, [[2 * MIB]] * 3),
    ("ppc 8xx", [[512 * KIB, 16 * KIB]] * 3, [[512 * KIB, 16 * KIB]] * 3),
]


@pytest.mark.parametrize(("name", "vmap", "vmalloc"), SECTION_8_3)
def test_section_8_3_leaves_accepted(name: str, vmap: list[list[int]], vmalloc: list[list[int]]) -> None:
    arch = KNOWN[name]
    for kernel, of_vmap, of_vmalloc in zip((OLD, MIDDLE, NEW), vmap, vmalloc, strict=True):
        assert [1 << shift for shift in arch.leaf_shifts(kernel, HugeUse.VMAP)] == of_vmap
        assert [1 << shift for shift in arch.leaf_shifts(kernel, HugeUse.VMALLOC)] == of_vmalloc


def test_section_8_3_has_a_row_for_each_architecture() -> None:
    assert {name for name, _, _ in SECTION_8_3} >= set(NAMES)


def test_section_8_3_what_a_leaf_needs_besides() -> None:
    for name in ("x86_64", "x86_64_la57"):
        pud, pmd = ARCHITECTURES[name].leaves(NEW, HugeUse.VMAP)
        assert pud.needs == {LeafNeed.GB_PAGES, LeafNeed.UNIFORM_MEMORY_TYPE}
        assert pmd.needs == {LeafNeed.PSE, LeafNeed.UNIFORM_MEMORY_TYPE}
    for name in ("arm64_4k", "arm64_16k", "arm64_64k"):
        arch = ARCHITECTURES[name]
        for kernel in (OLD, MIDDLE):
            assert {leaf.needs for leaf in arch.leaves(kernel, HugeUse.VMALLOC)} == {frozenset({LeafNeed.NO_PTDUMP})}
        assert {leaf.needs for leaf in arch.leaves(NEW, HugeUse.VMAP)} == {frozenset()}
    for name in ("riscv64_sv48", "ppc64_radix"):
        assert {leaf.needs for leaf in ARCHITECTURES[name].leaves(NEW, HugeUse.VMAP)} == {frozenset()}


def test_section_8_3_no_p4d_leaves() -> None:
    for arch in ARCHITECTURES.values():
        assert all(leaf.shift <= arch.level("pud").shift for leaf in arch.huge_vmap)


SECTION_8_4 = [
    ("x86_64", TableCare.PREALLOCATED, "p4d", False),
    ("x86_64_la57", TableCare.PREALLOCATED, "pgd", False),
    ("x86_32", TableCare.HOOK, "pmd", True),
    ("x86_32_pae", TableCare.HOOK, "pmd", True),
    ("arm32", TableCare.SEQUENCE, "pmd", True),
    *((name, TableCare.ONE_TABLE, None, False) for name in ("arm64_4k", "arm64_16k", "arm64_64k")),
    *((name, TableCare.FENCE, None, False) for name in ("riscv64_sv39", "riscv64_sv48", "riscv64_sv57")),
    *((name, TableCare.ONE_TABLE, None, False) for name in ("ppc64_radix", "s390x", "loongarch64")),
]


@pytest.mark.parametrize(("name", "care", "mask_level", "faults"), SECTION_8_4)
def test_section_8_4_synchronisation(name: str, care: TableCare, mask_level: str | None, faults: bool) -> None:
    arch = ARCHITECTURES[name]
    sync = arch.table_sync(NEW)
    assert (sync.care, sync.mask_level, sync.vmalloc_faults) == (care, mask_level, faults)
    if name != "x86_32_pae":
        assert arch.table_sync(OLD) is arch.table_sync(MIDDLE) is sync


def test_section_8_4_pae_shared_its_pmd_tables_up_to_6_12() -> None:
    pae = ARCHITECTURES["x86_32_pae"]
    assert pae.table_sync(OLD) is pae.table_sync(MIDDLE)
    assert pae.table_sync(OLD) == TableSync(TableCare.PREALLOCATED, None, vmalloc_faults=True)


def test_section_8_4_the_mask_of_x86_64_is_its_top_level() -> None:
    for name in ("x86_64", "x86_64_la57", "x86_32", "arm32"):
        arch = ARCHITECTURES[name]
        assert arch.level(arch.table_sync(NEW).mask_level or "") is arch.levels[0]


def test_section_8_6_replacing_a_table() -> None:
    replacing = {arch.name: arch.table_replacement for arch in ARCHITECTURES.values() if arch.huge_vmap}
    assert replacing == {
        "x86_64": TableReplacement.PAGE_FLUSH,
        "x86_64_la57": TableReplacement.PAGE_FLUSH,
        "x86_32_pae": TableReplacement.NEVER,
        "arm64_4k": TableReplacement.WALK_CACHE_FLUSH,
        "arm64_16k": TableReplacement.WALK_CACHE_FLUSH,
        "arm64_64k": TableReplacement.WALK_CACHE_FLUSH,
        "riscv64_sv39": TableReplacement.PAGE_FLUSH,
        "riscv64_sv48": TableReplacement.PAGE_FLUSH,
        "riscv64_sv57": TableReplacement.PAGE_FLUSH,
        "ppc64_radix": TableReplacement.PAGE_FLUSH,
    }


#: Architecture, ioremap_max_order (1.11), SHMLBA (2.2), the most pages flushed one by one (4.12).
LIMITS: list[tuple[str, int, int, int | None]] = [
    ("x86_64", 30, 0x1000, 33),
    ("x86_64_la57", 30, 0x1000, 33),
    ("x86_32", 22, 0x1000, 33),
    ("x86_32_pae", 21, 0x1000, 33),
    ("arm64_4k", 30, 0x1000, 511),
    ("arm64_16k", 25, 0x4000, 2047),
    ("arm64_64k", 29, 0x10000, 8191),
    ("arm32", 24, 0x4000, None),
    ("riscv64_sv39", 30, 0x1000, 64),
    ("riscv64_sv48", 30, 0x1000, 64),
    ("riscv64_sv57", 30, 0x1000, 64),
    ("ppc64_radix", 30, 0x10000, None),
    ("s390x", 12 + 7, 0x1000, None),
    ("loongarch64", 14 + 7, 0x4000, None),
]


@pytest.mark.parametrize(("name", "order", "shmlba", "flush"), LIMITS)
def test_sections_1_11_2_2_and_4_12_limits(name: str, order: int, shmlba: int, flush: int | None) -> None:
    arch = ARCHITECTURES[name]
    assert (arch.ioremap_max_order, arch.shmlba, arch.max_ranged_flush_pages) == (order, shmlba, flush)


def test_section_9_1_shadow_offsets() -> None:
    given_offsets = {a.name: a.kasan_shadow_offset for a in KNOWN.values() if a.kasan_shadow_offset is not None}
    assert given_offsets == {
        "x86_64": 0xDFFF_FC00_0000_0000,
        "x86_64_la57": 0xDFFF_FC00_0000_0000,
        "arm64_4k": 0xDFFF_8000_0000_0000,
        "arm64_16k": 0xDFFF_8000_0000_0000,
        "arm64_64k": 0xDFFF_8000_0000_0000,
        "arm64 47/16K": 0xDFFF_C000_0000_0000,
        "arm64 42/64K": 0xDFFF_FE00_0000_0000,
        "arm64 39/4K": 0xDFFF_FFC0_0000_0000,
        "arm64 36/16K": 0xDFFF_FFF8_0000_0000,
        "riscv64_sv39": 0xDFFF_FFFF_0000_0000,
        "riscv64_sv48": 0xDFFF_FFFF_0000_0000,
        "riscv64_sv57": 0xDFFF_FFFF_0000_0000,
        "s390x": 0x1C_0000_0000_0000,
    }
    tagged = {a.name: a.kasan_sw_tags_offset for a in KNOWN.values() if a.kasan_sw_tags_offset is not None}
    assert tagged == dict.fromkeys(["arm64_4k", "arm64_16k", "arm64_64k"], 0xEFFF_8000_0000_0000)


def test_section_9_1_example() -> None:
    offset = ARCHITECTURES["x86_64"].kasan_shadow_offset or 0
    assert ((0xFFFF_C900_0000_0000 >> 3) + offset) % 2**64 == 0xFFFF_F520_0000_0000


def test_vmalloc_32_takes_memory_from_the_zone_of_a_64_bit_machine() -> None:
    limits = {arch.name: arch.dma32_limit for arch in ARCHITECTURES.values()}
    low = {"x86_32", "x86_32_pae", "arm32"}
    assert {name for name, limit in limits.items() if limit is None} == low
    assert {name for name, limit in limits.items() if limit == 2 * GIB} == {"ppc64_radix", "s390x"}
    assert all(limits[name] == 4 * GIB for name in set(NAMES) - low - {"ppc64_radix", "s390x"})


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("x86_64", [4 * KIB] * 4),
        ("x86_32", [4 * KIB] * 2),
        ("x86_32_pae", [32, 4 * KIB, 4 * KIB]),
        ("arm32", [16 * KIB, 4 * KIB]),
        ("arm64_64k", [512, 64 * KIB, 64 * KIB]),
        ("ppc64_radix", [64 * KIB, 4 * KIB, 4 * KIB, 256]),
        ("s390x", [16 * KIB, 16 * KIB, 16 * KIB, 16 * KIB, 2 * KIB]),
    ],
)
def test_memory_of_a_table(name: str, sizes: list[int]) -> None:
    arch = ARCHITECTURES[name]
    assert [arch.table_size(level) for level in arch.levels] == sizes


# -- arithmetic against counting ---------------------------------------------------------------------------------------


def address_in(arch: Arch) -> st.SearchStrategy[int]:
    """Addresses of the kernel range, often at the edges of what an entry maps."""
    anywhere = st.integers(arch.kernel_start, arch.kernel_end - 1)
    near_an_edge = st.builds(
        lambda address, level, step: (address >> level.shift << level.shift) + step,
        anywhere,
        st.sampled_from(arch.levels),
        st.integers(-1, 1),
    ).filter(lambda address: arch.kernel_start <= address < arch.kernel_end)
    return anywhere | near_an_edge


arch_and_address = st.sampled_from(list(KNOWN.values())).flatmap(
    lambda arch: st.tuples(st.just(arch), address_in(arch))
)


@given(pair=arch_and_address)
def test_a_walk_by_index_is_a_walk_by_counting(pair: tuple[Arch, int]) -> None:
    arch, address = pair
    base = arch.kernel_start - arch.kernel_start % 2**arch.address_bits
    for level in arch.levels:
        entries = range(base, base + level.span, level.size)
        holding = [i for i, start in enumerate(entries) if start <= address < start + level.size]
        assert holding == [arch.index(level, address)]
        base = entries[holding[0]]
    assert base == address - address % arch.page_size


@given(pair=arch_and_address, other=st.data())
def test_different_pages_have_different_walks(pair: tuple[Arch, int], other: st.DataObject) -> None:
    arch, first = pair
    second = other.draw(address_in(arch))
    walks = [[arch.index(level, address) for level in arch.levels] for address in (first, second)]
    assert (walks[0] == walks[1]) == (first >> arch.page_shift == second >> arch.page_shift)


@given(arch=st.sampled_from(list(KNOWN.values())), name=st.sampled_from(LEVEL_NAMES))
def test_a_level_is_found_at_or_above_its_name(arch: Arch, name: str) -> None:
    candidates = [level for level in arch.levels if LEVEL_NAMES.index(level.name) <= LEVEL_NAMES.index(name)]
    assert arch.level(name) == min(candidates, key=lambda level: level.shift)


def test_a_level_the_kernel_does_not_have() -> None:
    with pytest.raises(ValueError, match="no level 'p5d'; the kernel's are pgd, p4d"):
        ARCHITECTURES["x86_64"].level("p5d")


@given(arch=st.sampled_from(list(KNOWN.values())), kernel=st.sampled_from([OLD, MIDDLE, NEW]))
def test_leaves_descend_and_vmalloc_accepts_no_more_than_vmap(arch: Arch, kernel: Any) -> None:
    vmap, vmalloc = (arch.leaf_shifts(kernel, use) for use in (HugeUse.VMAP, HugeUse.VMALLOC))
    assert list(vmap) == sorted(set(vmap), reverse=True)
    assert set(vmalloc) <= set(vmap)
    assert all(shift > arch.page_shift for shift in vmap)


# -- the validator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_every_architecture_is_valid(name: str) -> None:
    validate_arch(KNOWN[name])


def levels(*rows: tuple[str, int, int]) -> tuple[Level, ...]:
    return tuple(Level(*row) for row in rows)


HOOKED = TableSync(TableCare.HOOK, "p4d")
ONE = TableSync(TableCare.ONE_TABLE)

BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("x86_64", {"word_bits": 48}, "a word of 48 bits contradicts the words there are"),
    ("x86_64", {"word_bits": 32}, "translate 48 bits contradicts a word of 32"),
    ("x86_32", {"levels": ()}, "contradicts pgd and pte"),
    ("x86_32", {"levels": levels(("pte", 12, 1 << 20))}, "levels pte contradicts pgd and pte"),
    ("x86_32", {"levels": levels(("pgd", 22, 1024), ("pmd", 12, 1024))}, "levels pgd, pmd contradicts pgd and pte"),
    ("x86_32", {"levels": levels(("pte", 22, 1024), ("pgd", 12, 1024))}, "contradicts the kernel's order"),
    ("x86_32", {"levels": levels(("pgd", 22, 1024), ("pgd", 22, 1), ("pte", 12, 1024))}, "the kernel's order"),
    ("x86_32", {"levels": levels(("top", 22, 1024), ("pte", 12, 1024))}, "the kernel's order"),
    ("x86_32", {"levels": levels(("pgd", 22, 1024), ("pte", 12, 1000))}, "1000 entries.* powers of two"),
    ("x86_32", {"levels": levels(("pgd", 22, 0), ("pte", 12, 1024))}, "0 entries.* powers of two"),
    ("x86_32", {"levels": levels(("pgd", 22, 1024), ("pte", -1, 1024))}, "shift -1.* a word of 32 bits"),
    ("x86_32", {"levels": levels(("pgd", 22, 1024), ("pte", 12, 512))}, r"pgd \(shift 22.* contradicts pte .*512"),
    ("x86_32", {"levels": levels(("pgd", 21, 2048), ("pte", 12, 1024))}, r"pgd \(shift 21.* contradicts pte .*1024"),
    ("x86_32", {"page_shift": 13}, r"pte \(shift 12.* contradicts page_shift 13"),
    ("x86_32", {"address_bits": 31}, "at the top contradicts address_bits 31"),
    ("x86_32", {"levels": levels(("pgd", 22, 512), ("pte", 12, 1024))}, "at the top contradicts address_bits 32"),
    ("x86_64", {"kernel_start": -4096}, "kernel range .* a word of 64 bits"),
    ("x86_64", {"kernel_start": 2**64}, "kernel range .* a word of 64 bits"),
    ("x86_64", {"kernel_end": 2**64 + 4096}, "kernel range .* a word of 64 bits"),
    ("x86_64", {"kernel_start": 0xFFFE_8000_0000_0000}, "cannot tell it apart"),
    ("x86_64", {"vmalloc_start": 0xFFFF_7000_0000_0000}, "vmalloc range .* kernel range"),
    ("x86_64", {"kernel_end": 0xFFFF_E000_0000_0000}, "vmalloc range .* kernel range"),
    ("x86_64", {"vmalloc_end": 0xFFFF_C900_0000_0000}, "vmalloc range .* kernel range"),
    ("x86_64", {"vmalloc_start": 0xFFFF_C900_0000_0001}, "vmalloc range .* contradicts pages of 4096"),
    ("x86_64", {"vmalloc_end": 0xFFFF_E8FF_FFFF_FFFE}, "only the last byte"),
    ("x86_64", {"vmalloc_end": 0xFFFF_E900_0000_0001}, "only the last byte"),
    ("x86_64", {"kmsan_vmalloc_end": 0xFFFF_E900_0000_0000}, "KMSAN end .* vmalloc range"),
    ("x86_64", {"kmsan_vmalloc_end": 0xFFFF_D000_0000_0002}, "KMSAN end .* pages"),
    ("arm64_4k", {"pte_groups": (12,)}, "between 12 and 12"),
    ("arm64_4k", {"pte_groups": (21,)}, "between 21 and 21"),
    ("arm64_4k", {"pte_groups": (16, 14)}, "between 16 and 14"),
    ("arm64_4k", {"pte_groups": (15,)}, "a leaf of shift 16 contradicts groups"),
    ("riscv64_sv57", {"huge_vmap": (Leaf(39),)}, "a leaf of shift 39 contradicts"),
    ("x86_64", {"huge_vmap": (Leaf(20),)}, "a leaf of shift 20 contradicts"),
    ("x86_64", {"huge_vmap": (Leaf(21, since="6.13"),)}, "a leaf since 6.13 contradicts the profiles"),
    ("x86_64", {"huge_vmap": (Leaf(21), Leaf(21, needs=frozenset({LeafNeed.PSE})))}, "one record per shift"),
    ("x86_64", {"huge_vmap": ()}, "for huge vmalloc contradicts huge vmap"),
    ("ppc64_radix", {"huge_vmalloc": (Leaf(30),)}, "shift 30 for huge vmalloc contradicts pmd"),
    ("x86_64", {"huge_vmap": (), "huge_vmalloc": ()}, "contradicts no leaves"),
    ("arm64_4k", {"table_syncs": ()}, "contradicts the oldest profile"),
    ("arm64_4k", {"table_syncs": (replace(ONE, since="6.12"),)}, "since 6.12 contradicts the oldest profile, 6.1"),
    ("arm64_4k", {"table_syncs": (ONE, replace(ONE, since="6.13"))}, "since 6.1, 6.13 contradicts the profiles"),
    ("arm64_4k", {"table_syncs": (replace(ONE, since="6.12"), ONE)}, "oldest first"),
    ("arm64_4k", {"table_syncs": (ONE, ONE)}, "each at most once"),
    ("x86_64", {"table_syncs": (replace(HOOKED, mask_level="p5d"),)}, "sync mask p5d contradicts levels"),
    ("x86_64", {"table_syncs": (replace(HOOKED, mask_level=None),)}, "an empty sync mask"),
    ("arm32", {"table_syncs": (TableSync(TableCare.SEQUENCE, vmalloc_faults=True),)}, "an empty sync mask"),
    ("arm64_4k", {"table_syncs": (replace(ONE, mask_level="pgd"),)}, "one for all contradicts sync mask pgd"),
    ("arm32", {"table_syncs": (TableSync(TableCare.FAULT),)}, "a fault handler that fills in nothing"),
    ("arm64_4k", {"table_syncs": (replace(ONE, vmalloc_faults=True),)}, "find nothing missing"),
    ("riscv64_sv39", {"table_syncs": (TableSync(TableCare.FENCE, vmalloc_faults=True),)}, "find nothing missing"),
    ("x86_64", {"ioremap_max_order": 11}, "ioremap_max_order 11 contradicts page_shift 12"),
    ("x86_64", {"ioremap_max_order": 48}, "ioremap_max_order 48 contradicts"),
    ("arm32", {"shmlba_pages": 3}, "shmlba_pages 3"),
    ("arm32", {"shmlba_pages": 0}, "shmlba_pages 0"),
    ("x86_64", {"max_ranged_flush_pages": 0}, "max_ranged_flush_pages 0"),
    ("x86_64", {"phys_bits": 12}, "phys_bits 12 contradicts page_shift 12"),
    ("x86_32", {"phys_bits": 36}, "phys_bits 36 contradicts entries of 4 bytes"),
    ("x86_32", {"dma32_limit": 4 * GIB}, "contradicts 32 bits"),
    ("x86_64", {"dma32_limit": 8 * GIB}, "dma32_limit .* 32 address lines"),
    ("x86_64", {"dma32_limit": 0}, "dma32_limit .* 32 address lines"),
    ("x86_64", {"phys_bits": 31}, "dma32_limit .* phys_bits 31"),
    ("x86_64", {"dma32_limit": 4 * GIB - 1}, "dma32_limit .* pages of 4096"),
    ("x86_64", {"kasan_shadow_offset": 0xDFFF_0000_0000_0000}, "KASAN shadow .* contradicts kernel range"),
    ("x86_64", {"kasan_shadow_offset": 0xDFFF_D000_0000_0000}, "KASAN shadow .* contradicts the range itself"),
    ("arm64_4k", {"kasan_sw_tags_offset": 0xEFFF_0000_0000_0000}, "KASAN shadow .* contradicts kernel range"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BROKEN)
def test_a_broken_architecture_is_found(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        validate_arch(replace(ARCHITECTURES[name], **changes))
    assert caught.value.structure == f"architecture {name}"
