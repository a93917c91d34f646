"""Unmapping (section 8.5): leaves, groups and pages of a range cleared, tables never freed.

A leaf or a contiguous group is cleared whole even where the range covers only a part of it, with a warning: the caller
has lost count.  An entry that is not empty and not present is cleaned, with a warning too.  Most PTEs are neither, and
go in a run: through the pointer to the table that was used last, where that is the one.

The TLBs are not flushed here; ``generation`` tells whoever asks that entries filled before may be stale.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.machine.simulated.page_tables.reshape import TableShaper

if not cython.compiled:
    from vmalloc.machine.simulated.frames.states import STORED
    from vmalloc.machine.simulated.page_tables.entries import (
        BAD_ENTRY,
        BAD_LENGTH,
        CUT_GROUP,
        CUT_LEAF,
        ENTRY_GROUP,
        ENTRY_GROUP_SHIFT,
        ENTRY_PRESENT,
    )
    from vmalloc.machine.simulated.page_tables.plain import narrow_row, wide_row

__all__ = ["Unmapper"]


class Unmapper(TableShaper):
    """The tables of a machine, and how ranges go out of them; ``PageTables`` is what it is for."""

    def unmap(self, start, end):
        """Clears what maps ``[start, end)``; see ``do_unmap``."""
        self.mask = 0
        self.cleared = 0
        size = end - start
        if size == 0:
            return 0
        if not self.inside(start, size) or ((start | size) & (self.contents.page_size - 1)) != 0:
            self.warn(BAD_LENGTH, start)
            return 0
        key = start >> self.span_shift
        if (
            self.cursor_page
            and key == self.cursor_key
            and (start + (size - 1)) >> self.span_shift == key
            and self.cursor_row.contents == STORED
        ):
            self.clear_ptes(self.cursor_page, start, size)
        else:
            self.unmap_level(0, self.root[0].table, start, size)
        if self.cleared != 0:
            self.generation += 1
        if (self.mask & self.sync_mask) != 0:
            self.hook(start, size)
        return self.cleared

    def unmap_level(self, depth, table, address, size):
        """Clears what a table of a level has of a range."""
        if depth == self.last:
            page = self.page(table)
            if page:
                self.clear_ptes(page, address, size)
            return
        unit = 1
        unit <<= self.level[depth].shift
        while size != 0:
            index = (address >> self.level[depth].shift) & self.level[depth].index_mask
            piece = unit - (address & (unit - 1))
            if piece > size:
                piece = size
            found = self.entry(table, index)
            if self.is_table(found, depth):
                self.unmap_level(depth + 1, found >> self.page_shift, address, piece)
            elif found != 0:
                self.clear_upper(depth, table, index, address, piece)
            address += piece
            size -= piece

    def clear_upper(self, depth, table, index, address, piece):
        """Clears an entry above the PTEs that is a leaf, or bad."""
        found = self.entry(table, index)
        if (found & ENTRY_PRESENT) == 0:
            self.warn(BAD_ENTRY, address)
        else:
            unit = 1
            unit <<= self.level[depth].shift
            if piece != unit:
                self.warn(CUT_LEAF, address)
            self.level[depth].nr_leaves -= 1
            self.cleared += unit >> self.page_shift
        self.set_entry(table, index, 0)
        self.mask |= self.level[depth].modified

    def clear_ptes(self, page, address, size):
        """Clears PTEs of one table: plain ones in a run, the odd ones one by one."""
        first = (address >> self.page_shift) & self.level[self.last].index_mask
        index = first
        end = first + (size >> self.page_shift)
        while True:
            if self.wide:
                index = self.clear_wide(wide_row(page), index, end)
            else:
                index = self.clear_narrow(narrow_row(page), index, end)
            if index >= end:
                return
            index = self.clear_odd(page, index, first, end, address)

    def clear_wide(self, row, index, end):
        """Clears plain PTEs of 8 bytes up to the first that is bad or one of a group; its number, or ``end``."""
        nr_cleared = 0
        while index < end:
            found = row[index]
            if found != 0:
                if (found & (ENTRY_PRESENT | ENTRY_GROUP)) != ENTRY_PRESENT:
                    break
                row[index] = 0
                nr_cleared += 1
            index += 1
        self.count_cleared(nr_cleared)
        return index

    def clear_narrow(self, row, index, end):
        """``clear_wide`` for PTEs of 4 bytes."""
        nr_cleared = 0
        while index < end:
            found = row[index]
            if found != 0:
                if (found & (ENTRY_PRESENT | ENTRY_GROUP)) != ENTRY_PRESENT:
                    break
                row[index] = 0
                nr_cleared += 1
            index += 1
        self.count_cleared(nr_cleared)
        return index

    def count_cleared(self, nr_cleared):
        """Counts pages that were mapped one by one and are not any more."""
        if nr_cleared != 0:
            self.cleared += nr_cleared
            self.level[self.last].nr_leaves -= nr_cleared
            self.mask |= self.level[self.last].modified

    def clear_odd(self, page, index, first, end, address):
        """Clears a PTE that is bad, or the whole group a PTE is one of; the number of the PTE behind."""
        found = wide_row(page)[index] if self.wide else narrow_row(page)[index]
        g = (found & ENTRY_GROUP) >> ENTRY_GROUP_SHIFT
        n = 1
        if (found & ENTRY_PRESENT) != 0 and g <= self.nr_groups:
            n = self.group[g - 1].nr_ptes
            self.group[g - 1].nr_groups -= 1
            self.cleared += n
        else:
            self.warn(BAD_ENTRY, address + ((index - first) << self.page_shift))
        base = index - (index & (n - 1))
        if base < first or base + n > end:
            self.warn(CUT_GROUP, address + ((index - first) << self.page_shift))
        for k in range(n):
            if self.wide:
                wide_row(page)[base + k] = 0
            else:
                narrow_row(page)[base + k] = 0
        self.mask |= self.level[self.last].modified
        return base + n

    # Python's side.

    def do_unmap(self, start, end):
        """Clears all that maps ``[start, end)``, which is page aligned (section 8.5); never frees tables.

        Returns:
            The number of base pages that were cleared: more than the range has where it cuts a leaf or a group.
        """
        if start >= end:
            return 0
        if not cython.compiled:
            return self.unmap(start, end)
        return self.unmap(start, end & 0xFFFFFFFFFFFFFFFF)
