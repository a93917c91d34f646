"""Physical ranges: mapped by the largest leaves that fit (section 3.4), and the tables that leaves replace (8.6).

Idea: the mapper goes down from the top and installs a leaf wherever one may stand: the level accepts it and the caller
allows its size; what is left of the range fills the whole entry; the frame is aligned to it as well; and the entry is
empty, or points to a table that maps nothing and may be removed.  Otherwise one level down; PTEs come as contiguous
groups by the same rules, else one by one.

Removing a table is the only way in which one is ever replaced, and how it goes depends on the architecture
(``TableReplacement``).  The CPUs must be flushed before the frame is used again; nobody here can do that, so the flush
is *owed*: ``owed_flush_start`` and ``owed_flush_end`` say what to flush, the removed tables wait, and ``settle_flush``
says that it was done.  x86-64 needs a spare page for the time in which it takes a PMD table apart; where none is to be
had, the table stays and the range is mapped by smaller leaves.

Tables that were made at boot are never removed: no leaf is accepted in the entries that lead to them (``sync``).  For
the same reason an entry that other roots have copies of is only replaced where the hook copies the leaf right away.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.machine.simulated.page_tables.entries import REPLACEMENT_NUMBERS
from vmalloc.machine.simulated.page_tables.sync import SyncedTables

if not cython.compiled:
    from vmalloc.machine.simulated.page_tables.entries import (
        BAD_ENTRY,
        BAD_LENGTH,
        EBUSY,
        EINVAL,
        ENOMEM,
        ENTRY_GROUP_SHIFT,
        ENTRY_LEAF,
        ENTRY_PRESENT,
        ENTRY_PROT_SHIFT,
        OCCUPIED,
        P4D_MODIFIED,
        PGD_MODIFIED,
        PROT_ALL,
        REPLACE_NEVER,
        REPLACE_PAGE_FLUSH,
    )
    from vmalloc.machine.simulated.page_tables.plain import narrow_row, wide_row

__all__ = ["RangeMapper"]


class RangeMapper(SyncedTables):
    """The tables of a machine, and the mapper of physical ranges; ``PageTables`` is what it is for."""

    def set_up_ranges(self):
        """Reads what the architecture says of replaced tables."""
        self.replacement = REPLACEMENT_NUMBERS[self.arch.table_replacement]
        self.owed_flush_start = self.owed_flush_end = self.tables_replaced = 0
        self.error = 0
        return 0

    def map_range(self, address, pfn, size, max_shift, prot):
        """Maps ``size`` bytes of physical memory from frame ``pfn`` on; see ``do_map_range``."""
        self.mask = 0
        nr_pages = size >> self.page_shift
        if (nr_pages << self.page_shift) != size:
            self.warn(BAD_LENGTH, address)
            return -EINVAL
        if (address >> self.page_shift) << self.page_shift != address or not self.inside(address, size):
            return -EINVAL
        if pfn >= self.pfn_limit or nr_pages > self.pfn_limit - pfn or prot > PROT_ALL:
            return -EINVAL
        if size == 0:
            return 0
        flags = (prot << ENTRY_PROT_SHIFT) | ENTRY_PRESENT
        code = self.map_level(0, self.root[0].table, address, pfn, size, max_shift, flags)
        if (self.mask & self.sync_mask) != 0:
            self.hook(address, size)
        return code

    def map_level(self, depth, table, address, pfn, size, max_shift, flags):
        """Maps what a table of a level has of a range; 0, or why not all of it."""
        if depth == self.last:
            return self.map_ptes(table, address, pfn, size, max_shift, flags)
        unit = 1
        unit <<= self.level[depth].shift
        while size != 0:
            index = (address >> self.level[depth].shift) & self.level[depth].index_mask
            piece = unit - (address & (unit - 1))
            if piece > size:
                piece = size
            if not self.map_leaf(depth, table, address, pfn, piece, max_shift, flags):
                below = self.child_table(depth, table, index, address)
                if below < 0:
                    return self.error
                code = self.map_level(depth + 1, below, address, pfn, piece, max_shift, flags)
                if code != 0:
                    return code
            address += piece
            size -= piece
            pfn += piece >> self.page_shift
        return 0

    def map_leaf(self, depth, table, address, pfn, piece, max_shift, flags):
        """Installs a leaf in an entry if one may stand there (section 3.4, conditions 1 to 7); whether it did."""
        if not self.level[depth].leaf or max_shift < self.level[depth].shift:
            return False
        unit = 1
        unit <<= self.level[depth].shift
        if piece != unit or (pfn & ((unit >> self.page_shift) - 1)) != 0:
            return False
        index = (address >> self.level[depth].shift) & self.level[depth].index_mask
        found = self.entry(table, index)
        if found != 0 and not self.remove_table(depth, table, index, address):
            return False
        self.set_entry(table, index, (pfn << self.page_shift) | flags | ENTRY_LEAF)
        self.level[depth].nr_leaves += 1
        self.mask |= self.level[depth].modified
        return True

    def map_ptes(self, table, address, pfn, size, max_shift, flags):
        """Maps what a PTE table has of a range, in groups where they fit."""
        page = self.page_to_write(table)
        if not page:
            return -EINVAL
        while size != 0:
            index = (address >> self.page_shift) & self.level[self.last].index_mask
            g = self.group_for(address, pfn, size, max_shift)
            n = self.group[g - 1].nr_ptes if g != 0 else 1
            for k in range(n):
                found = wide_row(page)[index + k] if self.wide else narrow_row(page)[index + k]
                if found != 0:
                    self.warn(OCCUPIED, address + (k << self.page_shift))
                    return -EBUSY
            found = (pfn << self.page_shift) | flags | (g << ENTRY_GROUP_SHIFT)
            for k in range(n):
                if self.wide:
                    wide_row(page)[index + k] = found + (k << self.page_shift)
                else:
                    narrow_row(page)[index + k] = found + (k << self.page_shift)
            if g != 0:
                self.group[g - 1].nr_groups += 1
            else:
                self.level[self.last].nr_leaves += 1
            self.mask |= self.level[self.last].modified
            pfn += n
            address += n << self.page_shift
            size -= n << self.page_shift
        return 0

    def group_for(self, address, pfn, size, max_shift):
        """The largest size of groups, counted from 1, of which one may begin here; 0 for none."""
        for g in range(self.nr_groups, 0, -1):
            if self.group[g - 1].accepted and max_shift >= self.group[g - 1].shift:
                if (size >> self.group[g - 1].shift) != 0 and (pfn & (self.group[g - 1].nr_ptes - 1)) == 0:
                    if (address >> self.page_shift) & (self.group[g - 1].nr_ptes - 1) == 0:
                        return g
        return 0

    def child_table(self, depth, table, index, address):
        """The table behind an entry, made if the entry is empty; -1 with ``error`` when a leaf or no frame is there."""
        found = self.entry(table, index)
        if found != 0:
            if self.is_table(found, depth):
                return found >> self.page_shift
            if (found & ENTRY_PRESENT) != 0:
                self.warn(OCCUPIED, address)
                self.error = -EBUSY
                return -1
            self.warn(BAD_ENTRY, address)
        made = self.make_table(depth + 1)
        if made < 0:
            self.error = -ENOMEM
            return -1
        self.set_entry(table, index, (made << self.page_shift) | ENTRY_PRESENT)
        self.mask |= self.level[depth].modified
        if depth == 0 and self.hook_on_populate:  # 6.19's generic code, besides the hook after the walk (section 8.4)
            if (self.level[0].modified & self.sync_mask & (PGD_MODIFIED | P4D_MODIFIED)) != 0:
                self.hook(address, 1)
        return made

    def remove_table(self, depth, table, index, address):
        """Makes an entry empty that points to a table which maps nothing; whether it is empty now."""
        found = self.entry(table, index)
        if self.replacement == REPLACE_NEVER or not self.is_table(found, depth):
            return False
        child = found >> self.page_shift
        if not self.is_empty(child, depth + 1):
            return False
        unit = 1
        unit <<= self.level[depth].shift
        if self.replacement == REPLACE_PAGE_FLUSH:
            if depth + 1 < self.last:  # the spare page holds the entries while the tables behind them are freed
                spare = self.frames.alloc(0, self.table_node, 1, self.table_cpu)
                if spare < 0:
                    return False
                self.frames.free(spare, 0, self.table_cpu)
            self.owe_flush(address, address + self.contents.page_size)
        else:
            self.owe_flush(address, address + unit)
        self.set_entry(table, index, 0)
        self.detach(child, depth + 1)
        self.generation += 1
        self.tables_replaced += 1
        return True

    def detach(self, table, depth):
        """Lets an empty table and those below it wait for the flush that is owed."""
        if depth < self.last:
            for index in range(self.level[depth].index_mask + 1):
                found = self.entry(table, index)
                if found != 0:
                    self.detach(found >> self.page_shift, depth + 1)
                    self.set_entry(table, index, 0)
        self.link(table, depth)

    def owe_flush(self, start, end):
        """Adds a range to what must be flushed: the hull of all, as one number more would be a list."""
        if self.owed_flush_start == self.owed_flush_end:
            self.owed_flush_start = start
            self.owed_flush_end = end
            return
        if start < self.owed_flush_start:
            self.owed_flush_start = start
        if end - 1 > self.owed_flush_end - 1:  # an end of 2**64 reads 0
            self.owed_flush_end = end

    def settle_flush(self):
        """The CPUs have been flushed: gives the removed tables back."""
        self.free_pending()
        self.owed_flush_start = self.owed_flush_end = 0

    # Python's side.

    def do_map_range(self, address, pfn, size, max_shift, prot):
        """Maps physical memory by the largest leaves that fit (section 3.4).

        Args:
            address: where, page aligned.
            pfn: the first frame; need not be memory (``PROT_SPECIAL``).
            size: bytes, a multiple of the page.
            max_shift: log2 of the largest leaf to use.
            prot: ``PROT_*`` bits.

        Returns:
            0; -EBUSY where something is mapped already; -ENOMEM when there was no frame for a table; -EINVAL for a
            range that is not the kernel's or not of whole pages. What was mapped before an error stays.
        """
        return self.map_range(address, pfn, size, max_shift, prot)

    def do_settle_flush(self):
        """``settle_flush``."""
        self.settle_flush()
