"""The validator of page tables: the tree of every root, read from memory, against frames and counters.

Trusts nothing but where the roots are.  The reference is walked entry by entry, each table looked up in the records of
the frames before it is read: so a table that is free, that somebody else has, or that is met twice shows before it can
lead anywhere.  The other roots are walked down to the share level, where each entry must agree with the reference's as
far as the care of the architecture demands (section 8.4).  At last the counters, the tables that wait for a flush, and
frames that say they are tables and are none.

Raises ``ValidationError`` with the two parties that contradict each other.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from vmalloc.errors import ValidationError
from vmalloc.machine.simulated.frames.states import SECTION_FRAMES, SECTION_SHIFT, STATE_NAMES, USED
from vmalloc.machine.simulated.page_tables.entries import (
    CARE_FAULT,
    CARE_HOOK,
    CARE_ONE_TABLE,
    CARE_SEQUENCE,
    CARE_SHARED,
    ENTRY_GROUP,
    ENTRY_LEAF,
    ENTRY_PRESENT,
    ENTRY_PROT,
    Entry,
    decode,
)
from vmalloc.units import format_address, format_range

__all__ = ["validate_page_tables"]

NAME = "page tables"

#: The bits below the page that an entry may have set.
KNOWN_BITS = ENTRY_PRESENT | ENTRY_PROT | ENTRY_LEAF | ENTRY_GROUP


def fail(first: str, second: str) -> None:
    raise ValidationError(NAME, first, second)


class Picture:
    """What the walks found: tables by their first frame, tables per level, mappings per size."""

    def __init__(self, tables: Any) -> None:
        self.tables = tables
        self.arch = tables.arch
        self.last = len(tables.arch.levels) - 1
        self.sections: dict[int, list[tuple[int, ...]]] = {}
        self.known = set(tables.frames.table.sections())
        self.where: dict[int, str] = {}
        self.nr_tables: Counter[int] = Counter()
        self.nr_leaves: Counter[int] = Counter()
        self.nr_groups: Counter[int] = Counter()

    def record(self, pfn: int) -> tuple[int, ...] | None:
        """The record of a frame: state, order, next, prev, owner, contents, has a page; None where there is none."""
        k = pfn >> SECTION_SHIFT
        if k not in self.known:
            return None
        if k not in self.sections:
            self.sections[k] = self.tables.frames.table.rows(k)
        return self.sections[k][pfn % SECTION_FRAMES]

    def enter(self, table: int, depth: int, whence: str) -> list[int]:
        """Checks the frames of a table that ``whence`` names, and reads its entries."""
        level = self.arch.levels[depth]
        name = f"{level.name} table at frame {table:#x}"
        if table in self.where:
            fail(f"{name}, which {whence} names", f"it being {self.where[table]} already")
        record = self.record(table)
        if record is None:
            fail(f"{name}, which {whence} names", "that frame having no record")
        assert record is not None
        order = self.tables.table_frames_of(depth).bit_length() - 1
        if record[0] != USED or record[1] != order:
            state = STATE_NAMES[record[0]] if record[0] < len(STATE_NAMES) else f"in state {record[0]}"
            fail(f"{name} of order {order}, which {whence} names", f"that frame being {state}, order {record[1]}")
        if record[4] != self.tables.owner:
            fail(f"{name}, which {whence} names", f"owner {record[4]} of that frame, not {self.tables.owner}")
        for frame in range(table, table + (1 << order)):
            self.where[frame] = f"the {name}"
        self.nr_tables[depth] += 1
        room = max(level.nr_entries, 1 << self.tables.frame_index_shift)
        entries: list[int] = self.tables.read_entries(table, room)
        if any(entries[level.nr_entries :]):
            fail(f"{level.nr_entries} entries of {name}", "something stored behind the last")
        return entries[: level.nr_entries]


def validate_page_tables(tables: Any) -> None:
    """Checks all tables of all roots, their frames and the counters.

    Args:
        tables: a ``PageTables``.

    Raises:
        ValidationError: two of them contradict each other.
    """
    picture = Picture(tables)
    if tables.nr_roots:
        check_table(picture, tables.root_table(0), 0, tables.untranslated, "root 0")
        check_roots(picture)
    check_pending(picture)
    check_totals(picture)


# -- the reference -----------------------------------------------------------------------------------------------------


def check_table(picture: Picture, table: int, depth: int, base: int, whence: str) -> None:
    """Checks a table of the reference and all below it."""
    level, shift = picture.arch.levels[depth], picture.arch.page_shift
    entries = picture.enter(table, depth, whence)
    if not any(entries):
        return  # most of those that boot made; the rest would take its time over nothing
    found = {k: check_entry(picture, value, depth, base, k) for k, value in enumerate(entries) if value}
    for index, entry in found.items():
        start = base + index * level.size
        if start + level.size <= picture.arch.kernel_start or start >= picture.arch.kernel_end:
            kernel = format_range(picture.arch.kernel_start, picture.arch.kernel_end)
            fail(f"entry {index} of the {level.name} for {format_address(start)}", f"the kernel's range {kernel}")
        if depth < picture.last and not entry.leaf:
            name = f"the {level.name} entry for {format_address(start)}"
            check_table(picture, entry.pfn, depth + 1, start, name)
        elif depth < picture.last:
            check_leaf(picture, entry, depth, start)
        elif entry.group == 0:
            picture.nr_leaves[shift] += 1
    if depth == picture.last:
        check_groups(picture, found, base)


def check_entry(picture: Picture, value: int, depth: int, base: int, index: int) -> Entry:
    """Checks the bits of one entry and takes it apart."""
    level = picture.arch.levels[depth]
    entry = decode(value, picture.arch.page_shift)
    said = f"{level.name} entry {value:#x} for {format_address(base + index * level.size)}"
    if not entry.present:
        fail(said, "it being neither empty nor present")
    if value & ((1 << picture.arch.page_shift) - 1) & ~KNOWN_BITS:
        fail(said, "the bits that an entry has")
    if entry.pfn >= picture.tables.pfn_limit:
        fail(said, f"the {picture.arch.phys_bits} bits of a physical address")
    if depth == picture.last and entry.leaf:
        fail(said, "the leaf bit, which PTEs do not have")
    if depth < picture.last and entry.group:
        fail(said, "the group bits, which only PTEs have")
    if depth < picture.last and not entry.leaf and entry.prot:
        fail(said, "protection bits, which only mappings have")
    return entry


def check_leaf(picture: Picture, entry: Entry, depth: int, start: int) -> None:
    """Checks a leaf above the PTEs."""
    level = picture.arch.levels[depth]
    said = f"the {level.name} leaf for {format_address(start)}"
    if level.shift not in picture.tables.accepted_shifts():
        fail(said, f"the leaves that are accepted: {picture.tables.accepted_shifts()}")
    if entry.pfn % (level.size >> picture.arch.page_shift):
        fail(said, f"its frame {entry.pfn:#x}, which is not aligned to it")
    picture.nr_leaves[level.shift] += 1


def check_groups(picture: Picture, found: dict[int, Entry], base: int) -> None:
    """Checks that each group of a PTE table is whole, aligned, and one mapping."""
    shift = picture.arch.page_shift
    for index, entry in found.items():
        if entry.group == 0:
            continue
        said = f"the PTE for {format_address(base + (index << shift))}, one of a group of size {entry.group}"
        if entry.group > len(picture.arch.pte_groups):
            fail(said, f"the sizes of groups there are: {picture.arch.pte_groups}")
        group_shift = picture.arch.pte_groups[entry.group - 1]
        if group_shift not in picture.tables.accepted_shifts():
            fail(said, f"the leaves that are accepted: {picture.tables.accepted_shifts()}")
        nr_ptes = 1 << (group_shift - shift)
        first = index - index % nr_ptes
        if any(found.get(first + k) != entry._replace(pfn=entry.pfn + first + k - index) for k in range(nr_ptes)):
            fail(said, "the rest of its group, which is not one whole mapping")
        if entry.pfn % nr_ptes != index % nr_ptes:
            fail(said, f"its frame {entry.pfn:#x}: the group is not aligned to its size")
        picture.nr_groups[group_shift] += index == first


# -- the other roots ---------------------------------------------------------------------------------------------------


def check_roots(picture: Picture) -> None:
    """Checks that each root agrees with the reference as far as its care demands."""
    tables = picture.tables
    for root in range(1, tables.nr_roots):
        if tables.care == CARE_ONE_TABLE:
            if tables.root_table(root) != tables.root_table(0):
                fail(f"root {root} at frame {tables.root_table(root):#x}", "one table for all")
        else:
            check_root(picture, root, tables.root_table(root), 0, tables.untranslated, f"root {root}")


def check_root(picture: Picture, root: int, table: int, depth: int, base: int, whence: str) -> None:
    """Checks the private tables of a root, and its entries of the share level."""
    level, tables = picture.arch.levels[depth], picture.tables
    entries = picture.enter(table, depth, whence)
    if depth == tables.share_depth:
        check_copies(picture, root, entries, base)
        return
    for index, value in enumerate(entries):
        start = base + index * level.size
        name = f"the {level.name} entry of root {root} for {format_address(start)}"
        if value:
            entry = check_entry(picture, value, depth, base, index)
            if entry.leaf:
                fail(name, "it being a leaf, which only the reference may have here")
            check_root(picture, root, entry.pfn, depth + 1, start, name)
        elif start < picture.arch.kernel_end and start + level.size > picture.arch.kernel_start:
            fail(name, "it being empty: boot makes these tables for all kernel addresses")


def check_copies(picture: Picture, root: int, entries: list[int], base: int) -> None:
    """Checks entries of the share level: the reference's, or none where the care allows that."""
    tables, level = picture.tables, picture.arch.levels[picture.tables.share_depth]
    table = tables.root_table(0)
    for upper in picture.arch.levels[: tables.share_depth]:
        table = decode(tables.read_entry(table, picture.arch.index(upper, base)), picture.arch.page_shift).pfn
    in_ranges: set[int] = set()
    for start, end in tables.shared_ranges():
        in_ranges.update(range((start - base) >> level.shift, ((end - 1 - base) >> level.shift) + 1))
    references = tables.read_entries(table, level.nr_entries)
    for index, (value, reference) in enumerate(zip(entries, references, strict=True)):
        if value == reference and (value != 0 or tables.care != CARE_SHARED):
            continue
        if value == reference == 0 and index not in in_ranges:
            continue
        start = base + index * level.size
        name = f"the {level.name} entry of root {root} for {format_address(start)}"
        if value not in (0, reference):
            fail(f"{name}, {value:#x}", f"the reference's, {reference:#x}")
        if tables.care == CARE_SHARED and reference == 0 and index in in_ranges:
            fail(f"the reference's entry for {format_address(start)}, which is empty", "a table made there at boot")
        current = {
            CARE_SHARED: index in in_ranges or tables.sync_mask != 0,
            CARE_HOOK: True,
            CARE_SEQUENCE: index in in_ranges and tables.root_sequence(root) == tables.sequence,
            CARE_FAULT: False,
        }
        if value != reference and current[tables.care]:
            fail(f"{name}, which is empty", f"the reference's, {reference:#x}")


# -- totals ------------------------------------------------------------------------------------------------------------


def check_pending(picture: Picture) -> None:
    """Checks the tables that wait for a flush: used, in no tree, and empty but for the link."""
    pending = picture.tables.pending_tables()
    if len(pending) != picture.tables.nr_pending:
        fail(f"{len(pending)} tables that wait for a flush", f"nr_pending {picture.tables.nr_pending}")
    for depth, table in pending:
        entries = picture.enter(table, depth, "the list of those that wait for a flush")
        picture.nr_tables[depth] -= 1
        if any(entries[1:]):
            fail(f"the table at frame {table:#x} waiting for a flush", "it mapping something")
    owed = picture.tables.owed_flush_start != picture.tables.owed_flush_end
    if owed != bool(pending):
        fail(f"{len(pending)} tables that wait for a flush", "a flush being owed" if owed else "no flush being owed")


def check_totals(picture: Picture) -> None:
    """Checks the counters, and that each frame of this owner is a table."""
    tables = picture.tables
    for depth, level in enumerate(picture.arch.levels):
        written = tables.tables_by_level()[level.name]
        if picture.nr_tables[depth] != written:
            fail(f"{picture.nr_tables[depth]} {level.name} tables", f"nr_tables {written}")
    found = dict(sorted((+(picture.nr_leaves + picture.nr_groups)).items()))
    if found != tables.leaves_by_shift():
        fail(f"mappings {found} by shift", f"those counted, {tables.leaves_by_shift()}")
    if len(picture.where) != tables.table_frames:
        fail(f"{len(picture.where)} frames of tables", f"table_frames {tables.table_frames}")
    if tables.owner == 0:
        return
    for k in sorted(picture.known):
        for i in range(SECTION_FRAMES):
            record = picture.record((k << SECTION_SHIFT) + i)
            assert record is not None
            if record[0] == USED and record[4] == tables.owner and (k << SECTION_SHIFT) + i not in picture.where:
                fail(f"frame {(k << SECTION_SHIFT) + i:#x}, which says it is a table", "no root leading to it")
