"""Page tables as text: like the kernel's ptdump, and the tree of tables with its indices.

Two parts.  First the mappings in ascending order, neighbours of the same size and protection merged when their frames
follow each other too::

    0xffffc90000000000-0xffffc90000200000       2M  2M     rw-  frame 0x200

Then the tree, a line for each table: where it lies, and which of its entries map or lead further down::

    pgd at frame 0x10, 1 of 512 entries
      [402] pud at frame 0x11, 1 of 512 entries
      [403-465] 63 empty tables

Reads the entries as they stand in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from vmalloc.flags import PROT_EXEC, PROT_READ, PROT_SPECIAL, PROT_WRITE
from vmalloc.machine.simulated.page_tables.entries import decode
from vmalloc.units import format_range, format_size

__all__ = ["Mapping", "dump_tables", "mappings"]


class Mapping(NamedTuple):
    """One mapping: ``[start, end)`` in pieces of ``1 << shift`` bytes, from frame ``pfn`` on."""

    start: int
    end: int
    shift: int
    prot: int
    pfn: int


def mappings(tables: Any, root: int = 0) -> Iterator[Mapping]:
    """Yields every mapping of a root, ascending: leaves whole, PTEs one by one with the shift of their group."""
    yield from _mappings(tables, tables.root_table(root), 0, tables.untranslated)


def _mappings(tables: Any, table: int, depth: int, base: int) -> Iterator[Mapping]:
    level, arch = tables.arch.levels[depth], tables.arch
    for index, found in enumerate(tables.read_entries(table, level.nr_entries)):
        if not found:
            continue
        entry, start = decode(found, arch.page_shift), base + index * level.size
        if not entry.present:
            continue
        if depth == len(arch.levels) - 1:
            group = 0 < entry.group <= len(arch.pte_groups)
            shift = arch.pte_groups[entry.group - 1] if group else level.shift
            yield Mapping(start, start + level.size, shift, entry.prot, entry.pfn)
        elif entry.leaf:
            yield Mapping(start, start + level.size, level.shift, entry.prot, entry.pfn)
        else:
            yield from _mappings(tables, entry.pfn, depth + 1, start)


def dump_tables(tables: Any, root: int, start: int | None, end: int | None) -> str:
    """Describes the part ``[start, end)`` of a root, by default all of it."""
    first = tables.arch.kernel_start if start is None else start
    behind = tables.arch.kernel_end if end is None else end
    lines = [_mapping_line(tables, run) for run in _runs(tables, root, first, behind)] or ["nothing is mapped"]
    lines += _tree(tables, tables.root_table(root), 0, tables.untranslated, (first, behind), "")
    return "\n".join(lines) + "\n"


def _runs(tables: Any, root: int, start: int, end: int) -> Iterator[Mapping]:
    """The mappings that touch a range, with what follows on merged."""
    run: Mapping | None = None
    for found in mappings(tables, root):
        if found.end <= start or found.start >= end:
            continue
        if run is not None and found == _next_to(run, found, tables.page_shift):
            run = run._replace(end=found.end)
            continue
        if run is not None:
            yield run
        run = found
    if run is not None:
        yield run


def _next_to(run: Mapping, found: Mapping, page_shift: int) -> Mapping:
    """The mapping of the size of ``found`` that would carry ``run`` on."""
    pfn = run.pfn + ((run.end - run.start) >> page_shift)
    return Mapping(run.end, run.end + found.end - found.start, run.shift, run.prot, pfn)


def format_prot(prot: int) -> str:
    """``rwx`` with ``-`` for what is not allowed, and ``device`` for what is not memory."""
    letters = "".join(
        c if prot & bit else "-" for c, bit in zip("rwx", (PROT_READ, PROT_WRITE, PROT_EXEC), strict=True)
    )
    return letters + (" device" if prot & PROT_SPECIAL else "")


def _mapping_line(tables: Any, run: Mapping) -> str:
    size, unit = format_size(run.end - run.start), format_size(1 << run.shift)
    return f"{format_range(run.start, run.end)}  {size:>10} in {unit}  {format_prot(run.prot)}  frame {run.pfn:#x}"


def _tree(tables: Any, table: int, depth: int, base: int, within: tuple[int, int], place: str) -> list[str]:
    """The line of a table and those of the tables below it; empty neighbours share one."""
    level = tables.arch.levels[depth]
    entries = [decode(found, tables.page_shift) for found in tables.read_entries(table, level.nr_entries)]
    used = sum(any(entry) for entry in entries)
    lines = [f"{'  ' * depth}{place}{level.name} at frame {table:#x}, {used} of {level.nr_entries} entries"]
    if depth + 1 == len(tables.arch.levels):
        return lines
    shown = range(max(0, within[0] - base) >> level.shift, min(level.nr_entries, -((base - within[1]) >> level.shift)))
    empty: list[int] = []
    for index in shown:
        if not entries[index].present or entries[index].leaf:
            continue
        if _is_empty(tables, entries[index].pfn, depth + 1):
            if empty and empty[-1] + 1 != index:
                lines += _empty_line(empty, depth)
                empty = []
            empty.append(index)
            continue
        lines += _empty_line(empty, depth)
        empty = []
        start = base + index * level.size
        lines += _tree(tables, entries[index].pfn, depth + 1, start, within, f"[{index}] ")
    return lines + _empty_line(empty, depth)


def _is_empty(tables: Any, table: int, depth: int) -> bool:
    return not any(tables.read_entries(table, tables.arch.levels[depth].nr_entries))


def _empty_line(indices: list[int], depth: int) -> list[str]:
    """One line for neighbours that hold nothing."""
    if not indices:
        return []
    first, last = indices[0], indices[-1]
    said = f"[{first}-{last}] {len(indices)} empty tables" if last > first else f"[{first}] an empty table"
    return ["  " * (depth + 1) + said]
