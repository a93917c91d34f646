"""Architectures: everything that differs between page tables, ranges and flushes, as values.

Idea: the specification's section 8 is a handful of tables; here each row is a frozen ``Arch``, and no file of the
simulated machine asks which architecture it runs on.  It asks for a level, a shift, a limit.

Shape.  An ``Arch`` lists its page-table ``levels`` from the top.  Levels without a table of their own (*folded* ones)
are left out; ``level("pud")`` then answers with the table that stands for it, the next one above, as in the kernel.  So
a walk is a loop over ``levels``, and code written for five levels still works on two.  What depends on the kernel
release is a list of records with a ``since``: the newest that is not newer than the profile holds.

Addresses.  ``[kernel_start, kernel_end)`` is what the kernel's own table translates for the kernel, ``[vmalloc_start,
vmalloc_end)`` lies inside it.  A table sees only the low ``address_bits`` of an address; the bits above are the same in
the whole kernel range (all ones on most, ``0xc`` and zeros on ppc64, zeros on s390x).  ``vmalloc_end`` is what the
kernel passes to its allocator: on x86-64 an **odd** number, the last byte (section 1.5), and it must stay odd, because
the allocator never hands out the last page just for that reason.

Invariants (``validate_arch``): the levels tile ``address_bits`` exactly; each level's shift is the one below plus the
log2 of that one's entries; ranges are inside each other and aligned; a leaf is a PMD, a PUD or a group of PTEs; what
``huge_vmalloc`` accepts ``huge_vmap`` accepts too; KASAN's shadow of the vmalloc range is kernel space beside it.

Why values and not a class per architecture: two architectures would share most of their methods and differ in a
number in each, and what ought to be compared in one table would be spread over fourteen classes.

Open values.  Some numbers the specification gives as formulas or not at all; these are functions with defaults
(``x86_32_vmalloc_range`` and its like), and the comment of an entry says what was chosen.  It gives none of the
physical widths and zone limits: ``phys_bits`` and ``dma32_limit`` are the usual ones of the hardware.  Where it names
no ``SHMLBA``, that is one page; where it names no flush threshold, every flush is page by page; where it gives no
KASAN offset, the entry has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import TypeVar

from vmalloc.errors import ValidationError
from vmalloc.kernels import PROFILES, KernelProfile
from vmalloc.units import GIB, MIB, TIB, align_down, align_up, format_address, format_range, is_power_of_two

__all__ = [
    "ARCHITECTURES",
    "LEVEL_NAMES",
    "Arch",
    "HugeUse",
    "Leaf",
    "LeafNeed",
    "Level",
    "TableCare",
    "TableReplacement",
    "TableSync",
    "arm32_vmalloc_range",
    "arm64",
    "arm64_vmalloc_range",
    "loongarch64_vmalloc_range",
    "ppc64_radix",
    "riscv64_vmalloc_range",
    "s390x_vmalloc_range",
    "validate_arch",
    "x86_32_vmalloc_range",
]

#: The kernel's five levels from the top; an architecture with fewer tables leaves some out.
LEVEL_NAMES = ("pgd", "p4d", "pud", "pmd", "pte")

#: Which tables exist when there are that many levels.
_NAMES_OF = {
    2: ("pgd", "pte"),
    3: ("pgd", "pmd", "pte"),
    4: ("pgd", "pud", "pmd", "pte"),
    5: LEVEL_NAMES,
}

#: Bytes of a ``struct page``, which the ranges of arm64 and loongarch64 make room for.
_PAGE_DESCRIPTOR_SIZE = 64


class HugeUse(Enum):
    """Who asks for a leaf above the base page (the two columns of section 8.3)."""

    VMAP = "huge vmap and ioremap"
    VMALLOC = "huge vmalloc"


class LeafNeed(Enum):
    """What must hold besides size and alignment before a leaf is installed (section 8.3)."""

    PSE = "the CPU has PSE"
    GB_PAGES = "the CPU has 1 GiB pages"
    UNIFORM_MEMORY_TYPE = "the range has one memory type"
    NO_PTDUMP = "the debugfs page-table dump is not built"


class TableCare(Enum):
    """What keeps the page tables of other processes current (section 8.4)."""

    PREALLOCATED = "all top entries point to shared lower tables that exist since boot"
    HOOK = "the hook copies changed entries into every process table"
    FAULT = "the fault handler copies a missing top entry"
    SEQUENCE = "the hook bumps a number; a context switch to an older table copies all top entries of the range"
    FENCE = "shared lower tables exist since boot; a CPU that cached an invalid entry fences once at its next exception"
    ONE_TABLE = "the kernel has a table of its own, one for all"


class TableReplacement(Enum):
    """What happens to a table when a huge leaf takes its entry (section 8.6); nothing else ever frees one."""

    NEVER = "the leaf goes only into an empty entry"
    PAGE_FLUSH = "clear the entry, flush one page worth at the address, free the table"
    WALK_CACHE_FLUSH = "clear the entry, flush the walk caches, wait for a table dump, free the table"


@dataclass(frozen=True, slots=True)
class Level:
    """One level of page tables.

    Attributes:
        name: the kernel's name of the table, one of ``LEVEL_NAMES``.
        shift: log2 of the bytes that one entry maps.
        nr_entries: entries of one table.
    """

    name: str
    shift: int
    nr_entries: int

    @property
    def size(self) -> int:
        """Bytes that one entry maps."""
        return 1 << self.shift

    @property
    def span(self) -> int:
        """Bytes that one whole table maps."""
        return self.nr_entries << self.shift

    def __str__(self) -> str:
        return f"{self.name} (shift {self.shift}, {self.nr_entries} entries)"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A mapping size above the base page that an architecture accepts.

    Attributes:
        shift: log2 of the bytes it maps: a level's shift, or that of a group of PTEs.
        since: name of the oldest kernel profile the record holds for, until a newer one of the same shift.
        needs: what else must hold.
    """

    shift: int
    since: str = "6.1"
    needs: frozenset[LeafNeed] = frozenset()


@dataclass(frozen=True, slots=True)
class TableSync:
    """How kernel page tables are kept current (a row of section 8.4).

    Attributes:
        care: the mechanism.
        mask_level: the level of the sync mask, possibly a folded one; None for an empty mask: the hook never runs.
        vmalloc_faults: the fault handler fills in missing entries of the vmalloc range.
        since: name of the oldest kernel profile the record holds for, until a newer record.
    """

    care: TableCare
    mask_level: str | None = None
    vmalloc_faults: bool = False
    since: str = "6.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture with one page size and one address width.

    Attributes:
        name: the name users write: ``vmalloc.simulated(arch="x86_64")``.
        word_bits: 32 or 64.
        page_shift: log2 of the base page.
        address_bits: how many low bits of an address the tables translate.
        levels: the page tables from the top, folded levels left out.
        kernel_start, kernel_end: the addresses that belong to the kernel.
        vmalloc_start, vmalloc_end: the vmalloc range; the end may be odd.
        table_syncs: how kernel tables are kept current, oldest record first.
        ioremap_max_order: log2 of the largest alignment an I/O mapping gets (section 1.11).
        phys_bits: width of a physical address.
        pte_groups: log2 of the bytes that a contiguous group of PTEs maps, ascending.
        huge_vmap, huge_vmalloc: the leaves each accepts; base pages are always accepted and not listed.
        entry_size: bytes of one table entry.
        dma32_limit: where the physical memory that ``vmalloc_32`` may use ends; None: any low memory will do.
        shmlba_pages: alignment of ``vmalloc_user`` (section 2.2).
        max_ranged_flush_pages: the most pages that are flushed one by one (section 4.12); None: any number.
        table_replacement: what happens to a table in the place of a huge leaf.
        kasan_shadow_offset: generic KASAN's ``OFFSET`` (section 9.1); None where the specification gives none.
        kasan_sw_tags_offset: the same for software tags.
        kmsan_vmalloc_end: the end in a KMSAN build, which leaves vmalloc a quarter; None where there is no such build.
    """

    name: str
    word_bits: int = 64
    page_shift: int = 12
    address_bits: int
    levels: tuple[Level, ...]
    kernel_start: int
    kernel_end: int
    vmalloc_start: int
    vmalloc_end: int
    table_syncs: tuple[TableSync, ...]
    ioremap_max_order: int
    phys_bits: int
    pte_groups: tuple[int, ...] = ()
    huge_vmap: tuple[Leaf, ...] = ()
    huge_vmalloc: tuple[Leaf, ...] = ()
    entry_size: int = 8
    dma32_limit: int | None = None
    shmlba_pages: int = 1
    max_ranged_flush_pages: int | None = None
    table_replacement: TableReplacement = TableReplacement.NEVER
    kasan_shadow_offset: int | None = None
    kasan_sw_tags_offset: int | None = None
    kmsan_vmalloc_end: int | None = None

    @property
    def page_size(self) -> int:
        """Bytes of a base page."""
        return 1 << self.page_shift

    @property
    def vmalloc_size(self) -> int:
        """Bytes of the nominal vmalloc range: an odd end counts as the last byte of its page."""
        return align_up(self.vmalloc_end, self.page_size) - self.vmalloc_start

    @property
    def shmlba(self) -> int:
        """Alignment of ``vmalloc_user`` in bytes."""
        return self.shmlba_pages << self.page_shift

    def level(self, name: str) -> Level:
        """Finds the table for a level of the kernel; for a folded one, the next table above it.

        >>> ARCHITECTURES["x86_64"].level("p4d").name
        'pgd'

        Raises:
            ValueError: the kernel has no level of that name.
        """
        if name not in LEVEL_NAMES:
            raise ValueError(f"no level {name!r}; the kernel's are {', '.join(LEVEL_NAMES)}")
        depth = LEVEL_NAMES.index(name)
        return next(level for level in reversed(self.levels) if LEVEL_NAMES.index(level.name) <= depth)

    def index(self, level: Level, address: int) -> int:
        """Tells which entry of a table of ``level`` translates ``address``."""
        return (address >> level.shift) & (level.nr_entries - 1)

    def table_size(self, level: Level) -> int:
        """Bytes of memory that one table of ``level`` takes."""
        return level.nr_entries * self.entry_size

    def leaves(self, kernel: KernelProfile, use: HugeUse) -> tuple[Leaf, ...]:
        """Lists the leaves above the base page that a kernel accepts, largest first.

        PUD leaves are in the list for ``VMAP`` only: huge vmalloc never chooses them (section 3.2).
        """
        records = self.huge_vmap if use is HugeUse.VMAP else self.huge_vmalloc
        current = {leaf.shift: leaf for leaf in _until(kernel, records)}
        return tuple(current[shift] for shift in sorted(current, reverse=True))

    def leaf_shifts(self, kernel: KernelProfile, use: HugeUse) -> tuple[int, ...]:
        """Lists the shifts of ``leaves``, largest first; empty where nothing above the base page is accepted."""
        return tuple(leaf.shift for leaf in self.leaves(kernel, use))

    def table_sync(self, kernel: KernelProfile) -> TableSync:
        """Tells how a kernel keeps its tables current."""
        return _until(kernel, self.table_syncs)[-1]


_Record = TypeVar("_Record", Leaf, TableSync)


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split("."))


def _until(kernel: KernelProfile, records: Iterable[_Record]) -> list[_Record]:
    """The records a kernel knows, oldest first."""
    known = [record for record in records if _version(record.since) <= _version(kernel.name)]
    return sorted(known, key=lambda record: _version(record.since))


# -- the ranges that the specification gives as formulas (section 8.2) -------------------------------------------------


def x86_32_vmalloc_range(lowmem_end: int = 0xF800_0000, pkmap_start: int = 0xFF80_0000) -> tuple[int, int]:
    """Computes the range of x86-32: 8 MiB above low memory up to two pages below the pkmap area.

    Args:
        lowmem_end: virtual end of low memory; the default leaves the reserve of 128 MiB that ``vmalloc=`` changes.
        pkmap_start: the pkmap area, or the LDT area without high memory.  It moves with the number of CPUs; the default
            is this model's choice.
    """
    return lowmem_end + 8 * MIB, pkmap_start - 2 * 4096


def arm32_vmalloc_range(high_memory: int = 0xF000_0000) -> tuple[int, int]:
    """Computes the range of arm32; the default end of low memory leaves the documented 240 MiB."""
    return align_down(high_memory + 8 * MIB, 8 * MIB), 0xFF80_0000


def arm64_vmalloc_range(page_shift: int, va_bits: int) -> tuple[int, int]:
    """Computes the range of arm64: from the end of the module area to 8 MiB below vmemmap.

    vmemmap describes half the address space and ends 1 GiB below the top: so the specification's table of ends has it.
    """
    vmemmap_size = (1 << (va_bits - 1 - page_shift)) * _PAGE_DESCRIPTOR_SIZE
    return 2**64 - 2 ** (va_bits - 1) + 2 * GIB, 2**64 - GIB - vmemmap_size - 8 * MIB


def riscv64_vmalloc_range(page_offset: int, address_bits: int) -> tuple[int, int]:
    """Computes the range of riscv64: the eighth of the address space below ``PAGE_OFFSET``."""
    return page_offset - (1 << address_bits) // 8, page_offset


def s390x_vmalloc_range(
    modules_start: int = 0x3FF_6000_0000, size: int = 510 * GIB, space_size: int = 4 * TIB
) -> tuple[int, int]:
    """Computes the range of s390x: ``size`` bytes, at most half the space, below the modules.

    Args:
        modules_start: the default is this model's choice: the kernel image fills the last 512 MiB of the space, and
            2 GiB of modules lie below it.
        size: 512 GiB - 2 GiB unless the boot parameter says otherwise.
        space_size: the address space the boot code chose; 4 TiB is what a three-level table reaches.
    """
    return modules_start - min(size, space_size // 2), modules_start


def loongarch64_vmalloc_range(
    map_base: int = 0xFFFF_8000_0000_0000, va_bits: int = 47, phys_bits: int = 48, kfence_size: int = 0
) -> tuple[int, int]:
    """Computes the range of loongarch64 with 16K pages and three levels, whose table reaches 2**47 bytes.

    The defaults are this model's choice, as are 32 MiB of PCI I/O space; vmemmap describes all of physical memory.
    """
    page_size, pmd_size = 1 << 14, 1 << 25
    vmemmap_size = (1 << (phys_bits - 14)) * _PAGE_DESCRIPTOR_SIZE
    start = map_base + 32 * MIB + 2 * page_size + 256 * MIB
    return start, map_base + (1 << min(47, va_bits)) - pmd_size - vmemmap_size - kfence_size


# -- the architectures -------------------------------------------------------------------------------------------------


def _equal_tables(page_shift: int, address_bits: int, bits_per_level: int) -> tuple[Level, ...]:
    """Levels whose tables have the same number of entries, except that the top one takes the bits that are left."""
    shifts = range(page_shift, address_bits, bits_per_level)
    names = _NAMES_OF[len(shifts)]
    return tuple(
        Level(name, shift, 1 << min(bits_per_level, address_bits - shift))
        for name, shift in zip(names, reversed(shifts), strict=True)
    )


def _x86_64(name: str, address_bits: int, start: int, size: int, mask_level: str, phys_bits: int) -> Arch:
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
    """x86-32 with either kind of tables; the kernel has the top GiB.

    Huge mappings are ioremap's alone, and only PAE has them.  They never replace a table.
    """
    start, end = x86_32_vmalloc_range()
    pae = len(levels) == 3
    return Arch(
        name=name,
        word_bits=32,
        address_bits=32,
        levels=levels,
        kernel_start=0xC000_0000,
        kernel_end=2**32,
        vmalloc_start=start,
        vmalloc_end=end,
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
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=pud_shift if page_shift == 12 else pmd_shift,
        phys_bits=48,
        dma32_limit=4 * GIB,
        pte_groups=(group.shift,),
        huge_vmap=(group, *pmd, *pud),
        huge_vmalloc=(group, *pmd),
        max_ranged_flush_pages=(1 << bits) - 1,
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
    return Arch(
        name="arm32",
        word_bits=32,
        address_bits=32,
        levels=(Level("pgd", 21, 2048), Level("pte", 12, 512)),
        kernel_start=0xC000_0000,
        kernel_end=2**32,
        vmalloc_start=start,
        vmalloc_end=end,
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
        table_syncs=(TableSync(TableCare.ONE_TABLE),),
        ioremap_max_order=19,
        phys_bits=46,
        dma32_limit=2 * GIB,
        kasan_shadow_offset=0x1C_0000_0000_0000,
    )


def _loongarch64() -> Arch:
    """loongarch64 with 16K pages and three levels."""
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
        _x86_64("x86_64", 48, 0xFFFF_C900_0000_0000, 32 * TIB, "p4d", phys_bits=46),
        _x86_64("x86_64_la57", 57, 0xFFA0_0000_0000_0000, 12800 * TIB, "pgd", phys_bits=52),
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


# -- the validator -----------------------------------------------------------------------------------------------------


def validate_arch(arch: Arch) -> None:
    """Checks that an architecture's values agree with each other.

    Raises:
        ValidationError: two of them contradict each other; it names both.
    """
    _check_widths(arch)
    _check_levels(arch)
    _check_ranges(arch)
    _check_groups(arch)
    _check_leaves(arch)
    _check_syncs(arch)
    _check_limits(arch)
    _check_shadow(arch)


def _expect(arch: Arch, holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError(f"architecture {arch.name}", first, second)


def _check_widths(arch: Arch) -> None:
    _expect(arch, arch.word_bits in (32, 64), f"a word of {arch.word_bits} bits", "the words there are, 32 and 64")
    tables = f"tables that translate {arch.address_bits} bits"
    _expect(arch, arch.address_bits <= arch.word_bits, tables, f"a word of {arch.word_bits} bits")


def _check_levels(arch: Arch) -> None:
    """Names in the kernel's order, sizes powers of two, each level exactly above the next, all bits covered."""
    names = [level.name for level in arch.levels]
    ordered = [name for name in LEVEL_NAMES if name in names]
    _expect(arch, names == ordered, f"levels {', '.join(names)}", f"the kernel's order, {', '.join(LEVEL_NAMES)}")
    _expect(arch, {"pgd", "pte"} <= set(names), f"levels {', '.join(names)}", "pgd and pte, which are never folded")
    for level in arch.levels:
        _expect(arch, is_power_of_two(level.nr_entries), str(level), "table sizes, which are powers of two")
        _expect(arch, 0 < level.shift < arch.word_bits, str(level), f"a word of {arch.word_bits} bits")
    for upper, lower in pairwise(arch.levels):
        _expect(arch, upper.size == lower.span, str(upper), f"{lower} below it")
    top, bottom = arch.levels[0], arch.levels[-1]
    _expect(arch, bottom.shift == arch.page_shift, str(bottom), f"page_shift {arch.page_shift}")
    _expect(arch, top.span == 1 << arch.address_bits, f"{top} at the top", f"address_bits {arch.address_bits}")


def _check_ranges(arch: Arch) -> None:
    """Kernel addresses fit the word and share their untranslated bits; the vmalloc range is aligned and inside."""
    kernel = f"kernel range {format_range(arch.kernel_start, arch.kernel_end)}"
    fits = 0 <= arch.kernel_start < arch.kernel_end <= 1 << arch.word_bits
    _expect(arch, fits, kernel, f"a word of {arch.word_bits} bits")
    same_bits = arch.kernel_start >> arch.address_bits == (arch.kernel_end - 1) >> arch.address_bits
    _expect(arch, same_bits, kernel, f"tables that translate {arch.address_bits} bits and cannot tell it apart")
    vmalloc = f"vmalloc range {format_range(arch.vmalloc_start, arch.vmalloc_end)}"
    inside = arch.kernel_start <= arch.vmalloc_start < arch.vmalloc_end <= arch.kernel_end
    _expect(arch, inside, vmalloc, kernel)
    pages = f"pages of {arch.page_size} bytes"
    _expect(arch, arch.vmalloc_start % arch.page_size == 0, vmalloc, pages)
    _expect(arch, -arch.vmalloc_end % arch.page_size <= 1, vmalloc, f"{pages}: only the last byte may be left out")
    if arch.kmsan_vmalloc_end is not None:
        kmsan = f"KMSAN end {format_address(arch.kmsan_vmalloc_end)}"
        _expect(arch, arch.vmalloc_start < arch.kmsan_vmalloc_end < arch.vmalloc_end, kmsan, vmalloc)
        _expect(arch, -arch.kmsan_vmalloc_end % arch.page_size <= 1, kmsan, pages)


def _check_groups(arch: Arch) -> None:
    """Groups of PTEs ascend, and are larger than a page and smaller than their table."""
    pte = arch.levels[-1]
    for lower, upper in pairwise((pte.shift, *arch.pte_groups, pte.shift + pte.nr_entries.bit_length() - 1)):
        _expect(arch, lower < upper, f"PTE groups of shifts {arch.pte_groups} between {lower} and {upper}", str(pte))


def _check_leaves(arch: Arch) -> None:
    """Leaves are groups, PMDs or PUDs; releases are known; no record twice; vmalloc asks for nothing vmap refuses."""
    pud, pmd = arch.level("pud"), arch.level("pmd")
    where = f"groups {arch.pte_groups}, {pmd}, {pud}"
    for leaf in (*arch.huge_vmap, *arch.huge_vmalloc):
        _expect(arch, leaf.shift in (*arch.pte_groups, pmd.shift, pud.shift), f"a leaf of shift {leaf.shift}", where)
        _expect(arch, leaf.since in PROFILES, f"a leaf since {leaf.since}", f"the profiles {', '.join(PROFILES)}")
    for records in (arch.huge_vmap, arch.huge_vmalloc):
        keys = [(leaf.shift, leaf.since) for leaf in records]
        _expect(arch, len(keys) == len(set(keys)), f"leaves {keys}", "one record per shift and release")
    for leaf in arch.huge_vmalloc:
        said = f"a leaf of shift {leaf.shift} for huge vmalloc"
        _expect(arch, leaf in arch.huge_vmap, said, "huge vmap, which does not accept it")
        _expect(arch, leaf.shift <= pmd.shift, said, f"{pmd}, the largest that is ever chosen (section 3.2)")
    replaces = arch.table_replacement is not TableReplacement.NEVER
    _expect(arch, bool(arch.huge_vmap) or not replaces, f"replacement: {arch.table_replacement.value}", "no leaves")


def _check_syncs(arch: Arch) -> None:
    """There is a record for each profile, in order; what runs in the hook has a mask, what needs no care has none."""
    releases = [sync.since for sync in arch.table_syncs]
    known = [name for name in PROFILES if name in releases]
    said = f"table_syncs since {', '.join(releases)}"
    _expect(arch, releases == known, said, f"the profiles {', '.join(PROFILES)}, each at most once, oldest first")
    _expect(arch, next(iter(PROFILES)) in releases, said, f"the oldest profile, {next(iter(PROFILES))}")
    for sync in arch.table_syncs:
        care, mask = sync.care, sync.mask_level
        _expect(arch, mask is None or mask in LEVEL_NAMES, f"sync mask {mask}", f"levels {', '.join(LEVEL_NAMES)}")
        in_hook = care in (TableCare.HOOK, TableCare.SEQUENCE)
        _expect(arch, mask is not None or not in_hook, care.value, "an empty sync mask: the hook never runs")
        _expect(arch, mask is None or care is not TableCare.ONE_TABLE, care.value, f"sync mask {mask}")
        copies = "a fault handler that fills in nothing"
        _expect(arch, sync.vmalloc_faults or care is not TableCare.FAULT, care.value, copies)
        needless = sync.vmalloc_faults and care in (TableCare.ONE_TABLE, TableCare.FENCE)
        _expect(arch, not needless, care.value, "vmalloc faults, which then find nothing missing")


def _check_limits(arch: Arch) -> None:
    """Alignments, widths and thresholds are possible ones."""
    order, widths = arch.ioremap_max_order, f"page_shift {arch.page_shift} and address_bits {arch.address_bits}"
    _expect(arch, arch.page_shift <= order < arch.address_bits, f"ioremap_max_order {order}", widths)
    _expect(arch, is_power_of_two(arch.shmlba_pages), f"shmlba_pages {arch.shmlba_pages}", "a power of two")
    flush = arch.max_ranged_flush_pages
    _expect(arch, flush is None or flush > 0, f"max_ranged_flush_pages {flush}", "at least one page")
    physical = f"phys_bits {arch.phys_bits}"
    _expect(arch, arch.page_shift < arch.phys_bits, physical, f"page_shift {arch.page_shift}")
    _expect(arch, arch.phys_bits <= 8 * arch.entry_size, physical, f"entries of {arch.entry_size} bytes")
    if arch.dma32_limit is not None:
        limit = f"dma32_limit {format_address(arch.dma32_limit)}"
        _expect(arch, arch.word_bits == 64, limit, "32 bits, which have no such zone")
        reachable = 0 < arch.dma32_limit <= min(4 * GIB, 1 << arch.phys_bits)
        _expect(arch, reachable, limit, f"32 address lines and {physical}")
        _expect(arch, arch.dma32_limit % arch.page_size == 0, limit, f"pages of {arch.page_size} bytes")


def _check_shadow(arch: Arch) -> None:
    """The shadow of the vmalloc range is made of kernel addresses outside the range."""
    for scale, offset in ((3, arch.kasan_shadow_offset), (4, arch.kasan_sw_tags_offset)):
        if offset is None:
            continue
        start = ((arch.vmalloc_start >> scale) + offset) % 2**arch.word_bits
        end = start + (arch.vmalloc_size >> scale)
        shadow = f"KASAN shadow {format_range(start, end)} of the vmalloc range"
        kernel = format_range(arch.kernel_start, arch.kernel_end)
        _expect(arch, arch.kernel_start <= start < end <= arch.kernel_end, shadow, f"kernel range {kernel}")
        apart = end <= arch.vmalloc_start or start >= arch.vmalloc_end
        _expect(arch, apart, shadow, f"the range itself, {format_range(arch.vmalloc_start, arch.vmalloc_end)}")
