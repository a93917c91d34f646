"""What the tests of page tables share: machines of every architecture, and a slow twin of their tables."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import (
    ARCHITECTURES,
    Arch,
    HugeUse,
    LeafNeed,
    Level,
    TableCare,
    TableReplacement,
)
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.page_tables.entries import decode
from vmalloc.machine.simulated.page_tables.tables import PageTables
from vmalloc.machine.simulated.page_tables.validate import validate_page_tables

R, RW, RX, DEVICE = 1, 3, 5, 11

EBUSY, ENOMEM, EINVAL = -16, -12, -22


class Rig:
    """Page tables in a memory of their own."""

    def __init__(
        self, arch: str | Arch = "x86_64", kernel: str = "6.19", nr_roots: int = 3, nr_frames: int = 4096, **more: Any
    ) -> None:
        self.arch = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        self.memory = PhysicalMemory([nr_frames], page_shift=self.arch.page_shift, cpus=2, dma32_limit=0, fill=0xEE)
        owner = self.memory.owner_number("page tables")
        self.tables = PageTables(
            self.memory.frames, self.memory.contents, self.arch, PROFILES[kernel], nr_roots, owner, **more
        )
        self.page = self.arch.page_size
        #: An address that is aligned to every leaf, with room for some behind it where the range is large enough.
        largest = self.level("pud").size if len(self.arch.levels) > 3 else self.arch.levels[-2].size
        self.base = -(-self.arch.vmalloc_start // largest) * largest

    def level(self, name: str) -> Level:
        return self.arch.level(name)

    def map(self, address: int, *pfns: int, prot: int = RW) -> int:
        code: int = self.tables.do_map_pages(address, array("Q", pfns), prot)
        return code

    def map_range(self, address: int, pfn: int, size: int, max_shift: int = 63, prot: int = RW) -> int:
        code: int = self.tables.do_map_range(address, pfn, size, max_shift, prot)
        return code

    def unmap(self, address: int, size: int) -> int:
        cleared: int = self.tables.do_unmap(address, address + size)
        return cleared

    def walk(self, address: int, root: int = 0) -> Any:
        return self.tables.do_walk(address, root)

    def validate(self) -> None:
        self.memory.validate()
        validate_page_tables(self.tables)

    def table_of(self, address: int, depth: int, root: int = 0) -> int:
        """First frame of the table of a level on the way to an address."""
        table = self.tables.root_table(root)
        for level in self.arch.levels[:depth]:
            table = decode(self.tables.read_entry(table, self.arch.index(level, address)), self.arch.page_shift).pfn
        return int(table)

    def entry(self, address: int, depth: int, root: int = 0) -> int:
        """The entry of a level on the way to an address, as memory has it."""
        index = self.arch.index(self.arch.levels[depth], address)
        offset = index * self.arch.entry_size
        frame = self.table_of(address, depth, root) + offset // self.page
        data = self.memory.contents.load(frame, offset % self.page, self.arch.entry_size)
        return int.from_bytes(data, "little")

    def overwrite(self, address: int, depth: int, value: int, root: int = 0) -> None:
        """Stores an entry of a level into memory, behind the back of the tables."""
        index = self.arch.index(self.arch.levels[depth], address)
        offset = index * self.arch.entry_size
        frame = self.table_of(address, depth, root) + offset // self.page
        self.memory.contents.store(frame, offset % self.page, value.to_bytes(self.arch.entry_size, "little"))

    def exhaust(self, leave: int = 0) -> list[int]:
        """Takes all frames but ``leave`` single ones, on no list; those that were taken."""
        taken = []
        while True:
            try:
                taken.append(self.memory.allocate_draining(owner="hog"))
            except MemoryError:
                break
        for _ in range(leave):
            self.memory.release(taken.pop())
        return taken


class Mapped(NamedTuple):
    """A mapping of the twin: log2 of its size, its first frame, its protection."""

    shift: int
    pfn: int
    prot: int


class Twin:
    """The same tables, slowly: a dictionary of mappings by start, and a set of tables by depth and start."""

    def __init__(self, arch: Arch, kernel: str, nr_roots: int, missing: frozenset[LeafNeed] = frozenset()) -> None:
        self.arch, self.nr_roots = arch, nr_roots
        self.page = arch.page_size
        self.sync = arch.table_sync(PROFILES[kernel])
        self.care = self.sync.care
        self.share = arch.levels.index(arch.level(self.sync.mask_level or "pgd")) if self.care is TableCare.HOOK else 0
        accepted = {leaf.shift for leaf in arch.leaves(PROFILES[kernel], HugeUse.VMAP) if not leaf.needs & set(missing)}
        if self.care is not TableCare.ONE_TABLE:
            hooked = self.care is TableCare.HOOK
            accepted -= {level.shift for level in arch.levels[: self.share + (not hooked)]}
        self.groups = [shift for shift in arch.pte_groups if shift in accepted]
        self.leaf_depths = [d for d, level in enumerate(arch.levels[:-1]) if level.shift in accepted]
        self.mapped: dict[int, Mapped] = {}
        self.shifts = sorted({arch.page_shift, *self.groups, *(arch.levels[d].shift for d in self.leaf_depths)})
        self.tables: set[tuple[int, int]] = {(0, 0)}
        self.boot: set[tuple[int, int]] = {(0, 0)}
        if self.care in (TableCare.PREALLOCATED, TableCare.FENCE):
            top = arch.levels[0].shift
            self.boot |= {(1, u << top) for u in range(arch.vmalloc_start >> top, (arch.vmalloc_end - 1 >> top) + 1)}
        for depth in range(self.share):
            shift = arch.levels[depth].shift
            self.boot |= {
                (depth + 1, u << shift) for u in range(arch.kernel_start >> shift, (arch.kernel_end - 1 >> shift) + 1)
            }
        self.tables |= self.boot
        #: SEQUENCE and FAULT: the starts of top entries that a root has.
        self.copied: list[set[int]] = [set() for _ in range(nr_roots)]

    # What is there.

    def find(self, address: int) -> tuple[int, Mapped] | None:
        for shift in self.shifts:
            start = address >> shift << shift
            found = self.mapped.get(start)
            if found is not None and found.shift == shift:
                return start, found
        return None

    def overlapping(self, start: int, end: int) -> list[int]:
        return sorted(at for at, found in self.mapped.items() if at < end and at + (1 << found.shift) > start)

    def walk(self, address: int, root: int = 0) -> tuple[int, int, int] | None:
        found = self.find(address)
        if found is None or not self.sees(root, address):
            return None
        start, mapped = found
        return mapped.pfn + (address - start) // self.page, mapped.shift, mapped.prot

    def sees(self, root: int, address: int) -> bool:
        if root == 0 or self.care not in (TableCare.SEQUENCE, TableCare.FAULT):
            return True
        return self.table_start(1, address) in self.copied[root]

    def table_start(self, depth: int, address: int) -> int:
        """Where the addresses of the table of a level begin; the top has one table only."""
        shift = self.arch.levels[depth - 1].shift
        return address >> shift << shift if depth else 0

    def nr_tables(self) -> dict[str, int]:
        counts = {level.name: 0 for level in self.arch.levels}
        for depth, _start in self.tables:
            private = depth <= self.share and self.care is not TableCare.ONE_TABLE
            counts[self.arch.levels[depth].name] += self.nr_roots if private else 1
        return counts

    def leaves(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for found in self.mapped.values():
            counts[found.shift] = counts.get(found.shift, 0) + 1
        return dict(sorted(counts.items()))

    # What changes it.

    def make_tables(self, address: int, depth: int) -> None:
        for d in range(1, depth + 1):
            self.tables.add((d, self.table_start(d, address)))

    def leaf_in_the_way(self, address: int) -> bool:
        found = self.find(address)
        return found is not None and found[1].shift >= self.arch.levels[-2].shift

    def map_pages(self, address: int, pfns: list[int], prot: int) -> int:
        for pfn in pfns:
            if self.leaf_in_the_way(address):
                return EBUSY
            self.make_tables(address, len(self.arch.levels) - 1)
            if self.find(address) is not None:
                return EBUSY
            self.mapped[address] = Mapped(self.arch.page_shift, pfn, prot)
            address += self.page
        return 0

    def map_range(self, address: int, pfn: int, size: int, max_shift: int, prot: int) -> int:
        while size:
            shift = self.leaf_for(address, pfn, size, max_shift)
            if shift is None:
                if self.leaf_in_the_way(address):
                    return EBUSY
                self.make_tables(address, len(self.arch.levels) - 1)
                shift = next(
                    (g for g in reversed(self.groups) if self.fits(g, address, pfn, size, max_shift)),
                    self.arch.page_shift,
                )
                if self.overlapping(address, address + (1 << shift)):
                    return EBUSY
            self.mapped[address] = Mapped(shift, pfn, prot)
            address, size, pfn = address + (1 << shift), size - (1 << shift), pfn + (1 << shift) // self.page
        return 0

    def fits(self, shift: int, address: int, pfn: int, size: int, max_shift: int) -> bool:
        unit = 1 << shift
        return max_shift >= shift and size >= unit and address % unit == 0 and pfn * self.page % unit == 0

    def leaf_for(self, address: int, pfn: int, size: int, max_shift: int) -> int | None:
        for depth in self.leaf_depths:
            shift = self.arch.levels[depth].shift
            if self.fits(shift, address, pfn, size, max_shift) and self.make_room(depth, address):
                self.make_tables(address, depth)
                return shift
        return None

    def make_room(self, depth: int, address: int) -> bool:
        """Whether the entry of a level is empty, if need be because the table there could be removed."""
        end = address + self.arch.levels[depth].size
        if self.overlapping(address, end):
            return False
        if (depth + 1, address) not in self.tables:
            return True
        if self.arch.table_replacement is TableReplacement.NEVER or (depth + 1, address) in self.boot:
            return False
        self.tables -= {(d, at) for d, at in self.tables if d > depth and address <= at < end}
        return True

    def unmap(self, start: int, end: int) -> tuple[int, int]:
        """Clears a range; pages cleared, and warnings."""
        pages = warnings = 0
        for at in self.overlapping(start, end):
            size = 1 << self.mapped.pop(at).shift
            pages += size // self.page
            warnings += at < start or at + size > end
        return pages, warnings

    def split(self, address: int) -> int:
        found = self.find(address)
        if found is None or found[1].shift == self.arch.page_shift:
            return EINVAL
        start, mapped = found
        below = [shift for shift in self.shifts if shift < mapped.shift]
        if mapped.shift == self.arch.levels[-2].shift or mapped.shift in self.groups:
            depth = len(self.arch.levels) - 1
        else:
            depth = next(d for d, level in enumerate(self.arch.levels) if level.shift == mapped.shift) + 1
            if depth not in self.leaf_depths:
                return EINVAL
        self.make_tables(start, depth)
        del self.mapped[start]
        for at in range(start, start + (1 << mapped.shift), 1 << below[-1]):
            self.mapped[at] = Mapped(below[-1], mapped.pfn + (at - start) // self.page, mapped.prot)
        return 0

    def free_empty(self) -> set[tuple[int, int]]:
        freed = {
            (depth, at)
            for depth, at in self.tables - self.boot
            if not self.overlapping(at, at + self.arch.levels[depth - 1].size)
        }
        self.tables -= freed
        for copied in self.copied:
            copied -= {at for depth, at in freed if depth == 1}
        return freed

    # Roots.

    def fault(self, root: int, address: int) -> bool:
        lazy = self.care in (TableCare.SEQUENCE, TableCare.FAULT)
        inside = self.arch.vmalloc_start <= address < self.arch.vmalloc_end
        top = self.table_start(1, address)
        if not lazy or root == 0 or not inside or (1, top) not in self.tables or top in self.copied[root]:
            return False
        self.copied[root].add(top)
        return True

    def context_switch(self, root: int) -> None:
        if self.care is TableCare.SEQUENCE and root:
            self.copied[root] |= {at for depth, at in self.tables if depth == 1}


def tables_in(rig: Rig) -> set[tuple[int, int]]:
    """The tables of the reference as memory has them, by depth and start."""
    found = set()

    def visit(table: int, depth: int, start: int) -> None:
        found.add((depth, start if depth else 0))
        level = rig.arch.levels[depth]
        for index, value in enumerate(rig.tables.read_entries(table, level.nr_entries)):
            if value == 0:
                continue
            entry = decode(value, rig.arch.page_shift)
            if depth + 1 < len(rig.arch.levels) and entry.present and not entry.leaf:
                visit(entry.pfn, depth + 1, start + index * level.size)

    visit(rig.tables.root_table(0), 0, rig.tables.untranslated)
    return found
