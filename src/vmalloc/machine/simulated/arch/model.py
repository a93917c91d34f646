"""What an architecture is made of: everything that differs between page tables, ranges and flushes, as one value.

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

The *direct map* is the third range: physical memory at ``direct_map_start``, in order, so that a frame has an address
before vmalloc gives it another one.  It is kernel space beside the vmalloc range, or a window of the hardware's own
that no table translates (loongarch64).  32 bits have no room for all memory: what lies above ``lowmem_limit``
(*highmem*) has no such address.

The values themselves are in ``table.py``; what must hold between the fields is in ``validate.py``.

Why values and not a class per architecture: two architectures would share most of their methods and differ in a
number in each, and what ought to be compared in one table would be spread over fourteen classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from vmalloc.errors import BadRequest
from vmalloc.kernels import KernelProfile
from vmalloc.units import align_up, format_size

__all__ = [
    "LEVEL_NAMES",
    "Arch",
    "HugeUse",
    "Leaf",
    "LeafNeed",
    "Level",
    "TableCare",
    "TableReplacement",
    "TableSync",
]

#: The kernel's five levels from the top; an architecture with fewer tables leaves some out.
LEVEL_NAMES = ("pgd", "p4d", "pud", "pmd", "pte")


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
        direct_map_start: where the direct map shows physical address 0.
        table_syncs: how kernel tables are kept current, oldest record first.
        ioremap_max_order: log2 of the largest alignment an I/O mapping gets (section 1.11).
        phys_bits: width of a physical address.
        pte_groups: log2 of the bytes that a contiguous group of PTEs maps, ascending.
        huge_vmap, huge_vmalloc: the leaves each accepts; base pages are always accepted and not listed.
        entry_size: bytes of one table entry.
        lowmem_limit: bytes of physical memory that the direct map shows; None: all there are.
        dma32_limit: where the physical memory that ``vmalloc_32`` may use ends; None: any low memory will do.
        shmlba_pages: alignment of ``vmalloc_user`` (section 2.2).
        max_ranged_flush_pages: the most pages that are flushed one by one (section 4.12); None: any number.
        flush_by_broadcast: one instruction flushes the TLBs of all CPUs (section 4.12); else each is interrupted.
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
    direct_map_start: int
    table_syncs: tuple[TableSync, ...]
    ioremap_max_order: int
    phys_bits: int
    pte_groups: tuple[int, ...] = ()
    huge_vmap: tuple[Leaf, ...] = ()
    huge_vmalloc: tuple[Leaf, ...] = ()
    entry_size: int = 8
    lowmem_limit: int | None = None
    dma32_limit: int | None = None
    shmlba_pages: int = 1
    max_ranged_flush_pages: int | None = None
    flush_by_broadcast: bool = False
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

        >>> from vmalloc.machine.simulated.arch.table import ARCHITECTURES
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

    def direct_map_end(self, memory_size: int) -> int:
        """Tells where the direct map ends on a machine with so many bytes of memory; highmem is not in it.

        >>> from vmalloc.machine.simulated.arch.table import ARCHITECTURES
        >>> hex(ARCHITECTURES["x86_32"].direct_map_end(2 << 30))
        '0xf8000000'

        Raises:
            BadRequest: so much memory would reach the vmalloc range, or the end of the addresses it may have.
        """
        start = self.direct_map_start
        shown = memory_size if self.lowmem_limit is None else min(memory_size, self.lowmem_limit)
        edges = (self.kernel_start, self.vmalloc_start, self.kernel_end, 1 << self.word_bits)
        room = min(edge for edge in edges if edge > start) - start
        if shown > room:
            raise BadRequest(f"{self.name} has {format_size(room)} of addresses for memory, not {format_size(shown)}")
        return start + shown

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
