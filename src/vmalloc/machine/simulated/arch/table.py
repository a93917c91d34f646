"""The architectures themselves: the rows of the specification's section 8, one value each.

Shape.  Relatives that differ in a few numbers (the two x86-64, the three arm64) are built by one function, which says
what they share; ``ARCHITECTURES`` then lists all of them by the name that users write.

Open values.  Some numbers the specification gives as formulas (``ranges.py``) or not at all, and the comment of an
entry says what was chosen.  It gives none of the physical widths, zone limits and direct maps: ``phys_bits``,
``dma32_limit`` and ``direct_map_start`` are the usual ones of the hardware and the kernel.  Where it names no
``SHMLBA``, that is one page; where it names no flush threshold, every flush is page by page; where it names no
broadcast instructions, other CPUs are interrupted; where it gives no KASAN offset, the entry has none.
"""

from __future__ import annotations

from vmalloc.machine.simulated.arch.model import (
    LEVEL_NAMES,
    Arch,
    Leaf,
    LeafNeed,
    Level,
    TableCare,
    TableReplacement,
    TableSync,
)
from vmalloc.machine.simulated.arch.ranges import (
    arm32_vmalloc_range,
    arm64_vmalloc_range,
    loongarch64_vmalloc_range,
    lowmem_size,
    riscv64_vmalloc_range,
    s390x_vmalloc_range,
    x86_32_vmalloc_range,
)
from vmalloc.units import GIB, TIB

__all__ = ["ARCHITECTURES", "arm64", "ppc64_radix"]

#: Which tables exist when there are that many levels.
_NAMES_OF = {
    2: ("pgd", "pte"),
    3: ("pgd", "pmd", "pte"),
    4: ("pgd", "pud", "pmd", "pte"),
    5: LEVEL_NAMES,
}


def _equal_tables(page_shift: int, address_bits: int, bits_per_level: int) -> tuple[Level, ...]:
    """Levels whose tables have the same number of entries, except that the top one takes the bits that are left."""
    shifts = range(page_shift, address_bits, bits_per_level)
    names = _NAMES_OF[len(shifts)]
    return tuple(
        Level(name, shift, 1 << min(bits_per_level, address_bits - shift))
        for name, shift in zip(names, reversed(shifts), strict=True)
    )


def _x86_64(
    name: str, address_bits: int, start: int, size: int, direct_map_start: int, mask_level: str, phys_bits: int
) -> Arch:
    """x86-64: the base of the range is the one without randomisation, which moves it in steps of 1 GiB."""
    pmd = Leaf(21, needs=frozenset({LeafNeed.PSE, LeafNeed.UNIFORM_MEMORY_TYPE}))
    pud = Leaf(30, needs=frozenset({LeafNeed.GB_PAGES, LeafNeed.UNIFORM_MEMORY_TYPE}))
    return Arch(
        name=name,
        address_bits=address_bits,
        levels=_equal_tables(12, address_bits, 9),
        kernel_start=2**64 - 2 ** (address_bits - 1),
        kernel_end=2**64,
        vmalloc_start=start,
        vmalloc_end=start + size - 1,
        kmsan_vmalloc_end=start + size // 4 - 1,
        direct_map_start=direct_map_start,
        table_syncs=(TableSync(TableCare.PREALLOCATED, mask_level),),
        ioremap_max_order=30,
        phys_bits=phys_bits,
        dma32_limit=4 * GIB,
        huge_vmap=(pmd, pud),
        huge_vmalloc=(pmd,),
        max_ranged_flush_pages=33,
        table_replacement=TableReplacement.PAGE_FLUSH,
        kasan_shadow_offset=0xDFFF_FC00_0000_0000,
    )


def _x86_32(
    name: str, levels: tuple[Level, ...], entry_size: int, phys_bits: int, syncs: tuple[TableSync, ...]
) -> Arch:
    """x86-32 with either kind of tables; the kernel has the top GiB, and low memory begins it.

    Huge mappings are ioremap's alone, and only PAE has them.  They never replace a table.
    """
    start, end = x86_32_vmalloc_range()
    pae = len(levels) == 3
    kernel_start = 0xC000_0000
    return Arch(
        name=name,
        word_bits=32,
        address_bits=32,
        levels=levels,
        kernel_start=kernel_start,
        kernel_end=2**32,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=kernel_start,
        lowmem_limit=lowmem_size(kernel_start, start),
        table_syncs=syncs,
        ioremap_max_order=levels[-2].shift,
        phys_bits=phys_bits,
        huge_vmap=(Leaf(21, needs=frozenset({LeafNeed.UNIFORM_MEMORY_TYPE})),) if pae else (),
        entry_size=entry_size,
        max_ranged_flush_pages=33,
    )


_X86_32 = _x86_32(
    "x86_32",
    (Level("pgd", 22, 1024), Level("pte", 12, 1024)),
    entry_size=4,
    phys_bits=32,
    syncs=(TableSync(TableCare.HOOK, "pmd", vmalloc_faults=True),),
)
#: Up to 6.12 the processes share the kernel's PMD tables here, as they do without page-table isolation.
_X86_32_PAE = _x86_32(
    "x86_32_pae",
    (Level("pgd", 30, 4), Level("pmd", 21, 512), Level("pte", 12, 512)),
    entry_size=8,
    phys_bits=36,
    syncs=(
        TableSync(TableCare.PREALLOCATED, vmalloc_faults=True),
        TableSync(TableCare.HOOK, "pmd", vmalloc_faults=True, since="6.19"),
    ),
)


#: log2 of the PTEs in a contiguous group, by page shift (section 8.1).
_ARM64_GROUP_ORDER = {12: 4, 14: 7, 16: 5}
#: Generic KASAN's offset by width (section 9.1).
_ARM64_KASAN_OFFSETS = {
    48: 0xDFFF_8000_0000_0000,
    47: 0xDFFF_C000_0000_0000,
    42: 0xDFFF_FE00_0000_0000,
    39: 0xDFFF_FFC0_0000_0000,
    36: 0xDFFF_FFF8_0000_0000,
}


def arm64(name: str, page_shift: int, va_bits: int) -> Arch:
    """Builds arm64 with any of its page sizes and widths (section 8.1: ``(va_bits - 4) // (page_shift - 3)`` levels).

    The table-dump condition stands in the specification for PMD leaves; a PUD leaf replaces a table just the same and
    gets it too.  A full flush starts **at** a PTE table's worth of pages, so one page less is the most that is ranged.
    """
    start, end = arm64_vmalloc_range(page_shift, va_bits)
    bits = page_shift - 3
    pmd_shift, pud_shift = page_shift + bits, page_shift + 2 * bits
    group = Leaf(page_shift + _ARM64_GROUP_ORDER[page_shift], since="6.19")
    no_dump = frozenset({LeafNeed.NO_PTDUMP})
    pmd = (Leaf(pmd_shift, needs=no_dump), Leaf(pmd_shift, since="6.19"))
    pud = (Leaf(pud_shift, needs=no_dump), Leaf(pud_shift, since="6.19")) if page_shift == 12 else ()
    return Arch(
        name=name,
        page_shift=page_shift,
        address_bits=va_bits,
        levels=_equal_tables(page_shift, va_bits, bits),
        kernel_start=2**64 - 2**va_bits,
        kernel_end=2**64,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=2**64 - 2**va_bits,
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=pud_shift if page_shift == 12 else pmd_shift,
        phys_bits=48,
        dma32_limit=4 * GIB,
        pte_groups=(group.shift,),
        huge_vmap=(group, *pmd, *pud),
        huge_vmalloc=(group, *pmd),
        max_ranged_flush_pages=(1 << bits) - 1,
        flush_by_broadcast=True,
        table_replacement=TableReplacement.WALK_CACHE_FLUSH,
        kasan_shadow_offset=_ARM64_KASAN_OFFSETS.get(va_bits),
        kasan_sw_tags_offset=0xEFFF_8000_0000_0000 if va_bits == 48 else None,
    )


def _arm32() -> Arch:
    """arm32 with the classic two-level tables and stacks in vmalloc space.

    The 2 MiB of a top entry are two entries of the hardware, and each PTE exists twice, for Linux and for the hardware:
    hence 8 bytes an entry at both levels.
    """
    start, end = arm32_vmalloc_range()
    kernel_start = 0xC000_0000
    return Arch(
        name="arm32",
        word_bits=32,
        address_bits=32,
        levels=(Level("pgd", 21, 2048), Level("pte", 12, 512)),
        kernel_start=kernel_start,
        kernel_end=2**32,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=kernel_start,
        lowmem_limit=lowmem_size(kernel_start, start),
        table_syncs=(TableSync(TableCare.SEQUENCE, "pmd", vmalloc_faults=True),),
        ioremap_max_order=24,
        phys_bits=32,
        shmlba_pages=4,
    )


def _riscv64(name: str, address_bits: int, page_offset: int) -> Arch:
    """riscv64; the specification read the fence in 6.12 and later and says nothing of 6.1, where it is assumed too.

    It does not say either how a replaced table is flushed: as on x86-64 here.
    """
    start, end = riscv64_vmalloc_range(page_offset, address_bits)
    pmd, pud = Leaf(21, since="6.12"), Leaf(30, since="6.12")
    return Arch(
        name=name,
        address_bits=address_bits,
        levels=_equal_tables(12, address_bits, 9),
        kernel_start=2**64 - 2 ** (address_bits - 1),
        kernel_end=2**64,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=page_offset,
        table_syncs=(TableSync(TableCare.FENCE),),
        ioremap_max_order=30,
        phys_bits=56,
        dma32_limit=4 * GIB,
        huge_vmap=(pmd, pud) if address_bits > 39 else (pmd,),
        huge_vmalloc=(pmd,),
        max_ranged_flush_pages=64,
        table_replacement=TableReplacement.PAGE_FLUSH,
        kasan_shadow_offset=0xDFFF_FFFF_0000_0000,
    )


def ppc64_radix(name: str, page_shift: int) -> Arch:
    """Builds ppc64 under the radix MMU with 4K or 64K pages; only the PTE tables differ.

    The kernel has the quadrant of addresses that begin with ``0xc``.  How a replaced table is flushed is open: as on
    x86-64 here.
    """
    pmd, pud = Leaf(21), Leaf(30)
    return Arch(
        name=name,
        page_shift=page_shift,
        address_bits=52,
        levels=(
            Level("pgd", 39, 8192),
            Level("pud", 30, 512),
            Level("pmd", 21, 512),
            Level("pte", page_shift, 1 << (21 - page_shift)),
        ),
        kernel_start=0xC000_0000_0000_0000,
        kernel_end=0xC010_0000_0000_0000,
        vmalloc_start=0xC008_0000_0000_0000,
        vmalloc_end=0xC008_0000_0000_0000 + 2**49,
        direct_map_start=0xC000_0000_0000_0000,
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=30,
        phys_bits=51,
        dma32_limit=2 * GIB,
        huge_vmap=(pmd, pud),
        huge_vmalloc=(pmd,),
        table_replacement=TableReplacement.PAGE_FLUSH,
    )


def _s390x() -> Arch:
    """s390x with all five levels, as section 8.1 lists them; for the whole range the two top indices are 0.

    The kernel's addresses are the 8 PiB below one top entry: their KASAN shadow, at the specified offset, ends there.
    """
    start, end = s390x_vmalloc_range()
    return Arch(
        name="s390x",
        address_bits=64,
        levels=(
            Level("pgd", 53, 2048),
            Level("p4d", 42, 2048),
            Level("pud", 31, 2048),
            Level("pmd", 20, 2048),
            Level("pte", 12, 256),
        ),
        kernel_start=0,
        kernel_end=2**53,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=0,
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=19,
        phys_bits=46,
        dma32_limit=2 * GIB,
        kasan_shadow_offset=0x1C_0000_0000_0000,
    )


def _loongarch64() -> Arch:
    """loongarch64 with 16K pages and three levels.

    Its direct map is a window of the hardware that no table translates, hence outside the kernel range of this entry.
    """
    start, end = loongarch64_vmalloc_range()
    return Arch(
        name="loongarch64",
        page_shift=14,
        address_bits=47,
        levels=_equal_tables(14, 47, 11),
        kernel_start=0xFFFF_8000_0000_0000,
        kernel_end=2**64,
        vmalloc_start=start,
        vmalloc_end=end,
        direct_map_start=0x9000_0000_0000_0000,
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=21,
        phys_bits=48,
        dma32_limit=4 * GIB,
    )


#: All architectures by name.  arm64 has 48 bits with each page size, so that the three differ in nothing else; with 16K
#: pages that also gives the fourth level of section 8.1, a top table of two entries.  ppc64 has the 64K pages that its
#: distributions ship, and with them PTE tables of 32 entries.
ARCHITECTURES: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _x86_64("x86_64", 48, 0xFFFF_C900_0000_0000, 32 * TIB, 0xFFFF_8880_0000_0000, "p4d", phys_bits=46),
        _x86_64("x86_64_la57", 57, 0xFFA0_0000_0000_0000, 12800 * TIB, 0xFF11_0000_0000_0000, "pgd", phys_bits=52),
        _X86_32,
        _X86_32_PAE,
        arm64("arm64_4k", 12, 48),
        arm64("arm64_16k", 14, 48),
        arm64("arm64_64k", 16, 48),
        _arm32(),
        _riscv64("riscv64_sv39", 39, 0xFFFF_FFD6_0000_0000),
        _riscv64("riscv64_sv48", 48, 0xFFFF_AF80_0000_0000),
        _riscv64("riscv64_sv57", 57, 0xFF60_0000_0000_0000),
        ppc64_radix("ppc64_radix", 16),
        _s390x(),
        _loongarch64(),
    )
}
