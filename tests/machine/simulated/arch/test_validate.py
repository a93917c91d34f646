"""The validator of architectures: every entry passes, and each way to be broken is found."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from machine.simulated.arch.known import KNOWN
from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.arch import (
    ARCHITECTURES,
    Leaf,
    LeafNeed,
    Level,
    TableCare,
    TableSync,
    validate_arch,
)
from vmalloc.units import GIB, MIB


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
    ("x86_32", {"lowmem_limit": None}, "a direct map without lowmem_limit contradicts 32 bits"),
    ("x86_32", {"lowmem_limit": 0}, "lowmem_limit 0 contradicts phys_bits 32"),
    ("x86_32", {"lowmem_limit": -4096}, "lowmem_limit -4096 contradicts phys_bits 32"),
    ("x86_64", {"lowmem_limit": 2**46 + 4096}, f"lowmem_limit {2**46 + 4096} contradicts phys_bits 46"),
    ("x86_32", {"lowmem_limit": 4095}, "lowmem_limit 4095 contradicts pages of 4096"),
    ("x86_64", {"direct_map_start": 0xFFFF_8880_0000_0800}, "direct map .* contradicts pages of 4096"),
    ("x86_64", {"direct_map_start": -(2**46)}, "direct map .* contradicts a word of 64 bits"),
    ("x86_64", {"direct_map_start": 2**64}, "direct map .* contradicts a word of 64 bits"),
    ("x86_32", {"lowmem_limit": GIB + 4096}, "direct map .* contradicts a word of 32 bits"),
    ("x86_64", {"direct_map_start": 0xFFFF_7FFF_FFFF_F000}, "contradicts kernel range .* whose edge it crosses"),
    ("loongarch64", {"direct_map_start": 0xFFFE_F000_0000_0000}, "contradicts kernel range .* whose edge it crosses"),
    ("s390x", {"lowmem_limit": 2**46, "kernel_end": 2**45, "kasan_shadow_offset": None}, "whose edge it crosses"),
    ("x86_32", {"lowmem_limit": 912 * MIB}, "direct map .* contradicts vmalloc range"),
    ("x86_64", {"direct_map_start": 0xFFFF_C900_0000_0000}, "direct map .* contradicts vmalloc range"),
    ("riscv64_sv39", {"direct_map_start": 0xFFFF_FFD5_FFFF_F000}, "direct map .* contradicts vmalloc range"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BROKEN)
def test_a_broken_architecture_is_found(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        validate_arch(replace(ARCHITECTURES[name], **changes))
    assert caught.value.structure == f"architecture {name}"
