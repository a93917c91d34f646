"""The table of architectures: the numbers of the specification's sections 8, 1.11, 2.2, 4.12 and 9.1."""

from __future__ import annotations

import pytest

from machine.simulated.arch.known import KNOWN, MIDDLE, NEW, OLD, RELATIVES
from vmalloc.machine.simulated.arch import (
    ARCHITECTURES,
    HugeUse,
    LeafNeed,
    TableCare,
    TableReplacement,
    TableSync,
    arm64,
    validate_arch,
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


def test_the_architectures_are_those_users_can_name() -> None:
    assert list(ARCHITECTURES) == NAMES
    assert [arch.name for arch in ARCHITECTURES.values()] == NAMES


def test_word_widths() -> None:
    assert {a.name for a in ARCHITECTURES.values() if a.word_bits == 32} == {"x86_32", "x86_32_pae", "arm32"}
    assert {a.word_bits for a in ARCHITECTURES.values()} == {32, 64}


# -- page tables and ranges (section 8) --------------------------------------------------------------------------------

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


# -- flushes and the direct map (sections 4.11 and 4.12) ---------------------------------------------------------------


def test_section_4_12_only_arm64_flushes_by_broadcast() -> None:
    broadcast = {arch.name for arch in KNOWN.values() if arch.flush_by_broadcast}
    assert broadcast == {name for name in KNOWN if name.startswith("arm64")}


#: Architecture, where the direct map begins, how much of the memory it shows.
DIRECT_MAPS: list[tuple[str, int, int | None]] = [
    ("x86_64", 0xFFFF_8880_0000_0000, None),
    ("x86_64_la57", 0xFF11_0000_0000_0000, None),
    ("x86_32", 0xC000_0000, 896 * MIB),
    ("x86_32_pae", 0xC000_0000, 896 * MIB),
    ("arm64_4k", 0xFFFF_0000_0000_0000, None),
    ("arm64_16k", 0xFFFF_0000_0000_0000, None),
    ("arm64_64k", 0xFFFF_0000_0000_0000, None),
    ("arm64 39/4K", 0xFFFF_FF80_0000_0000, None),
    ("arm32", 0xC000_0000, 768 * MIB),
    ("riscv64_sv39", 0xFFFF_FFD6_0000_0000, None),
    ("riscv64_sv48", 0xFFFF_AF80_0000_0000, None),
    ("riscv64_sv57", 0xFF60_0000_0000_0000, None),
    ("ppc64_radix", 0xC000_0000_0000_0000, None),
    ("s390x", 0, None),
    ("loongarch64", 0x9000_0000_0000_0000, None),
]


@pytest.mark.parametrize(("name", "start", "lowmem"), DIRECT_MAPS)
def test_section_4_11_the_direct_map(name: str, start: int, lowmem: int | None) -> None:
    arch = KNOWN[name]
    assert (arch.direct_map_start, arch.lowmem_limit) == (start, lowmem)


def test_there_is_a_direct_map_in_the_table_for_each_architecture() -> None:
    assert {name for name, _, _ in DIRECT_MAPS} >= set(NAMES)


def test_riscv64_has_its_direct_map_right_above_the_vmalloc_range() -> None:
    for name in ("riscv64_sv39", "riscv64_sv48", "riscv64_sv57"):
        assert ARCHITECTURES[name].direct_map_start == ARCHITECTURES[name].vmalloc_end


def test_section_8_2_32_bits_leave_8_mib_between_low_memory_and_vmalloc() -> None:
    for name in ("x86_32", "x86_32_pae", "arm32"):
        arch = ARCHITECTURES[name]
        assert arch.lowmem_limit is not None
        assert arch.vmalloc_start - (arch.direct_map_start + arch.lowmem_limit) == 8 * MIB
