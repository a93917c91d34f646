"""Tables in another shape: leaves split, empty tables freed, everything freed.

``split`` makes a leaf a table of the next smaller leaves, and a contiguous group of PTEs smaller groups or pages; every
address translates to the same frame as before, by a smaller mapping.  That changes a present entry, so it counts in
``generation``.

``free_empty_tables`` frees tables that map nothing.  The kernel never does that, its tables of the vmalloc range only
grow (section 8.6); a machine that is trimmed or closed does.  Tables made at boot stay.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.machine.simulated.page_tables.ranges import RangeMapper

if not cython.compiled:
    from vmalloc.machine.simulated.page_tables.entries import (
        EINVAL,
        ENOMEM,
        ENTRY_GROUP,
        ENTRY_GROUP_SHIFT,
        ENTRY_LEAF,
        ENTRY_PRESENT,
        ENTRY_PROT,
    )

__all__ = ["TableShaper"]


class TableShaper(RangeMapper):
    """The tables of a machine, and how they change shape; ``PageTables`` is what it is for."""

    def split(self, address):
        """Makes the mapping of an address smaller ones; see ``do_split``."""
        self.mask = 0
        if not self.inside(address, 1):
            return -EINVAL
        code = -EINVAL
        table = self.root[0].table
        for depth in range(self.nr_levels):
            index = (address >> self.level[depth].shift) & self.level[depth].index_mask
            found = self.entry(table, index)
            if (found & ENTRY_PRESENT) == 0:
                return -EINVAL
            if depth == self.last:
                code = self.split_group(table, index, found)
                break
            if (found & ENTRY_LEAF) != 0:
                code = self.split_leaf(depth, table, index, found)
                break
            table = found >> self.page_shift
        if code == 0:
            self.generation += 1
            if (self.mask & self.sync_mask) != 0:
                self.hook(address, 1)
        return code

    def split_leaf(self, depth, table, index, found):
        """Puts a table of the next smaller leaves in the place of a leaf."""
        if depth + 1 < self.last and not self.level[depth + 1].leaf:
            return -EINVAL
        made = self.make_table(depth + 1)
        if made < 0:
            return -ENOMEM
        flags = found & (ENTRY_PROT | ENTRY_PRESENT)
        unit = 1
        unit <<= self.level[depth].shift
        if depth + 1 < self.last:
            flags |= ENTRY_LEAF
            self.level[depth + 1].nr_leaves += self.level[depth + 1].index_mask + 1
        else:
            g = self.group_for(0, 0, unit, self.level[depth].shift)
            flags |= g << ENTRY_GROUP_SHIFT
            if g != 0:
                self.group[g - 1].nr_groups += (self.level[self.last].index_mask + 1) // self.group[g - 1].nr_ptes
            else:
                self.level[self.last].nr_leaves += self.level[self.last].index_mask + 1
        pfn = found >> self.page_shift
        unit = 1
        unit <<= self.level[depth + 1].shift
        for k in range(self.level[depth + 1].index_mask + 1):
            self.set_entry(made, k, (pfn << self.page_shift) | flags)
            pfn += unit >> self.page_shift
        self.set_entry(table, index, (made << self.page_shift) | ENTRY_PRESENT)
        self.level[depth].nr_leaves -= 1
        self.mask |= self.level[depth].modified
        return 0

    def split_group(self, table, index, found):
        """Makes a group of PTEs groups of the next smaller size, or pages."""
        g = (found & ENTRY_GROUP) >> ENTRY_GROUP_SHIFT
        if g == 0 or g > self.nr_groups:
            return -EINVAL
        smaller = g - 1
        while smaller != 0 and not self.group[smaller - 1].accepted:
            smaller -= 1
        first = index - (index & (self.group[g - 1].nr_ptes - 1))
        for k in range(self.group[g - 1].nr_ptes):
            entry = self.entry(table, first + k)
            self.set_entry(table, first + k, entry - (entry & ENTRY_GROUP) + (smaller << ENTRY_GROUP_SHIFT))
        self.group[g - 1].nr_groups -= 1
        if smaller != 0:
            self.group[smaller - 1].nr_groups += self.group[g - 1].nr_ptes // self.group[smaller - 1].nr_ptes
        else:
            self.level[self.last].nr_leaves += self.group[g - 1].nr_ptes
        self.mask |= self.level[self.last].modified
        return 0

    def free_empty(self):
        """Frees the tables that map nothing; see ``free_empty_tables``."""
        if self.nr_roots == 0:
            return 0
        return self.free_empty_below(self.root[0].table, 0, self.untranslated) << self.page_shift

    def free_empty_below(self, table, depth, address):
        """Frees the empty tables below a table that maps from an address on; the number of frames."""
        nr_frames = 0
        for index in range(self.level[depth].index_mask + 1):
            found = self.entry(table, index)
            if not self.is_table(found, depth):
                continue
            child = found >> self.page_shift
            here = address + (index << self.level[depth].shift)
            if depth + 1 < self.last:
                nr_frames += self.free_empty_below(child, depth + 1, here)
            if self.is_boot_table(depth + 1, here) or not self.is_empty(child, depth + 1):
                continue
            self.set_entry(table, index, 0)
            if depth == self.share_depth:
                self.clear_copies(here)
            self.free_table(child, depth + 1)
            self.generation += 1
            nr_frames += 1 << self.level[depth + 1].order
        return nr_frames

    # Python's side.

    def do_split(self, address):
        """Makes the leaf that maps an address a table of the next smaller leaves, or a group smaller ones.

        Returns:
            0; -ENOMEM; -EINVAL where nothing is mapped, or by a single page, or the level below accepts no leaves.
        """
        return self.split(address)

    def free_empty_tables(self):
        """Frees the tables below the top that map nothing, except those made at boot; returns bytes.

        The kernel never does this: the tables of the vmalloc range only grow. The CPUs' walk caches must be flushed.
        """
        return self.free_empty()

    def close(self):
        """Frees all tables of all roots, whatever they map; nothing can be mapped or walked after that."""
        self.settle_flush()
        self.free_roots()
        self.kernel_size = 0
        for d in range(self.nr_levels):
            self.level[d].nr_leaves = 0
        for g in range(self.nr_groups):
            self.group[g].nr_groups = 0
