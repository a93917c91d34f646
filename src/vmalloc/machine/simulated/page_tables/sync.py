"""Roots: the kernel halves of the page tables that CPUs run on, and what keeps them current (section 8.4).

Idea: root 0 is the *reference*, the kernel's own table (``init_mm``).  All mapping and unmapping happens there.  The
other roots are top tables of processes; they share what lies below with the reference, entry by entry: an entry of the
*share level* is a copy of the reference's, and points to the same lower table.  So what is mapped below an entry that a
root already has is seen by it at once; only new or changed entries of the share level need care.  Which care an
architecture takes is its ``TableSync``:

=========== ====================================================================================================
care        what happens here
=========== ====================================================================================================
ONE_TABLE   every root *is* the reference
SHARED      (PREALLOCATED, FENCE) boot makes a lower table behind each top entry of the ranges and copies the entry
            everywhere; the entry never changes again
HOOK        after a walk that changed what the sync mask covers, ``hook`` copies the entries of the range into
            each root.  The share level is that of the mask; where it is not the top (x86-32 PAE), each root has
            tables of its own above it, made at boot
SEQUENCE    ``hook`` bumps a number; ``context_switch`` copies all top entries of the ranges into a root with
            an older one
FAULT       nothing, until ``fault`` copies the entry that was missing
=========== ====================================================================================================

``fault`` also serves SEQUENCE, HOOK and PREALLOCATED where the architecture kept the handler.  An entry that the
reference does not have helps nobody: then the fault is a real one.

Ranges: the vmalloc range, and those that the machine names besides (the shadow of KASAN).

No leaf is installed in a share level that nobody would copy: its clearing would leave the copies mapping.  And when a
table behind the share level goes away, its copies are cleared with it, whatever the care.

Invariants (``validate``): each root agrees with the reference as far as its care demands.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest, OutOfFrames
from vmalloc.machine.simulated.page_tables.entries import CARE_NUMBERS
from vmalloc.machine.simulated.page_tables.store import TableStore
from vmalloc.units import align_up

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.machine.simulated.page_tables.entries import (
        CARE_HOOK,
        CARE_ONE_TABLE,
        CARE_SEQUENCE,
        CARE_SHARED,
        ENTRY_PRESENT,
    )
    from vmalloc.machine.simulated.page_tables.plain import RangeRow, RootRow

__all__ = ["MAX_ROOTS", "SyncedTables"]

#: One per CPU of the largest machine, and the reference.
MAX_ROOTS = (1 << 16) + 1


class SyncedTables(TableStore):
    """The tables of a machine with all their roots; ``PageTables`` is what it is for."""

    def __dealloc__(self):
        if cython.compiled:
            free(self.root)
            free(self.shared)

    def set_up_roots(self, nr_roots, shared_ranges):
        """Makes the top tables and what else boot makes; raises OutOfFrames with nothing kept."""
        ranges = [(self.arch.vmalloc_start, align_up(self.arch.vmalloc_end, self.arch.page_size)), *shared_ranges]
        for start, end in ranges:
            if not self.arch.kernel_start <= start < end <= self.arch.kernel_end:
                raise BadRequest(f"shared range {start:#x}-{end:#x} outside the kernel's addresses of {self.arch.name}")
        sync = self.arch.table_sync(self.kernel)
        names = ("pgd", "p4d", "pud", "pmd", "pte")
        self.nr_roots = nr_roots
        self.nr_shared = len(ranges)
        if cython.compiled:
            self.root = cython.cast(cython.pointer(root_row), calloc(nr_roots, cython.sizeof(root_row)))
            self.shared = cython.cast(cython.pointer(range_row), calloc(self.nr_shared, cython.sizeof(range_row)))
            if self.root == cython.NULL or self.shared == cython.NULL:
                raise MemoryError(f"no memory for {nr_roots} page-table roots")
        else:
            self.root = [RootRow() for _ in range(nr_roots)]
            self.shared = [RangeRow() for _ in ranges]
        for n in range(self.nr_shared):
            self.shared[n].start = ranges[n][0]
            self.shared[n].size = ranges[n][1] - ranges[n][0]
        self.care = CARE_NUMBERS[sync.care]
        self.sync_mask = 0 if sync.mask_level is None else 1 << names.index(sync.mask_level)
        self.has_faults = sync.vmalloc_faults
        self.hook_on_populate = tuple([int(part) for part in self.kernel.name.split(".")]) >= (6, 19)
        self.share_depth = self.boot_depth = 0
        if self.care == CARE_HOOK:
            self.share_depth = self.arch.levels.index(self.arch.level(sync.mask_level))
            self.boot_depth = self.share_depth
        elif self.care == CARE_SHARED:
            self.boot_depth = 1
        if self.care != CARE_ONE_TABLE:
            for d in range(self.share_depth + 1):
                if d < self.share_depth or self.care != CARE_HOOK:
                    self.level[d].leaf = False
        self.sequence = self.hook_runs = self.entries_copied = self.vmalloc_faults = 0
        self.generation = self.mask = 0
        if self.boot_tables() != 0:
            raise OutOfFrames(f"no frames for the page tables that {self.arch.name} makes at boot", 0, self.table_node)
        return 0

    def boot_tables(self):
        """Makes the top tables and the tables of levels up to ``boot_depth``; 0, or -1 with all of them freed."""
        made = 0
        for r in range(self.nr_roots):
            if r > 0 and self.care == CARE_ONE_TABLE:
                self.root[r].table = self.root[0].table
                continue
            table = self.make_table(0)
            if table < 0:
                self.give_up(made)
                return -1
            self.root[r].table = table
            made += 1
        if self.care == CARE_HOOK:
            spans = [(self.kernel_start, self.kernel_size)]
        else:
            spans = [(self.shared[n].start, self.shared[n].size) for n in range(self.nr_shared)]
        shift = self.level[self.boot_depth - 1].shift if self.boot_depth else 0
        for first, size in spans if self.boot_depth else ():
            for unit in range(first >> shift, ((first + size - 1) >> shift) + 1):
                for r in range(self.nr_roots):
                    if r > 0 and self.care == CARE_SHARED:
                        self.copy_entry(r, unit << shift)
                    elif self.boot_path(r, unit << shift) != 0:
                        self.give_up(made)
                        return -1
        return 0

    def give_up(self, made):
        """Frees what boot has made so far, which is ``made`` roots."""
        self.nr_roots = made
        self.free_roots()

    def boot_path(self, r, address):
        """Makes the tables of levels 1 to ``boot_depth`` on the way to an address; 0, or -1."""
        table = self.root[r].table
        for depth in range(self.boot_depth):
            index = (address >> self.level[depth].shift) & self.level[depth].index_mask
            found = self.entry(table, index)
            if found == 0:
                made = self.make_table(depth + 1)
                if made < 0:
                    return -1
                found = (made << self.page_shift) | ENTRY_PRESENT
                self.set_entry(table, index, found)
            table = found >> self.page_shift
        return 0

    def is_boot_table(self, depth, address):
        """Whether the table of a level on the way to an address was made at boot, and stays for ever."""
        if depth > self.boot_depth:
            return False
        return self.care == CARE_HOOK or self.in_shared(address, self.level[depth - 1].shift)

    def in_shared(self, address, shift):
        """Whether the entry of that shift that maps an address has a part of the ranges in it."""
        for n in range(self.nr_shared):
            if (self.shared[n].start >> shift) <= (address >> shift) and (address >> shift) <= (
                (self.shared[n].start + (self.shared[n].size - 1)) >> shift
            ):
                return True
        return False

    def share_table(self, r, address):
        """The table of the share level in a root; -1 when there is none."""
        table = self.root[r].table
        for depth in range(self.share_depth):
            found = self.entry(table, (address >> self.level[depth].shift) & self.level[depth].index_mask)
            if not self.is_table(found, depth):
                return -1
            table = found >> self.page_shift
        return table

    def copy_entry(self, r, address):
        """Makes a root's entry of the share level the reference's; whether it was another one."""
        here = self.share_table(0, address)
        there = self.share_table(r, address)
        if here < 0 or there < 0 or here == there:
            return 0
        index = (address >> self.level[self.share_depth].shift) & self.level[self.share_depth].index_mask
        found = self.entry(here, index)
        if self.entry(there, index) == found:
            return 0
        self.set_entry(there, index, found)
        return 1

    def copy_range(self, r, address, size):
        """``copy_entry`` for all entries of a range; how many were other ones."""
        shift = self.level[self.share_depth].shift
        nr_entries = ((address + (size - 1)) >> shift) - (address >> shift) + 1
        copied = 0
        for k in range(nr_entries):
            copied += self.copy_entry(r, ((address >> shift) + k) << shift)
        return copied

    def hook(self, address, size):
        """``arch_sync_kernel_mappings``: runs after a walk that modified what the sync mask covers."""
        self.hook_runs += 1
        if self.care == CARE_SEQUENCE:
            self.sequence += 1
            return
        for r in range(1, self.nr_roots):
            self.entries_copied += self.copy_range(r, address, size)

    def clear_copies(self, address):
        """Clears the copies of an entry of the share level whose table goes away."""
        if self.care == CARE_ONE_TABLE:
            return
        for r in range(1, self.nr_roots):
            there = self.share_table(r, address)
            if there >= 0:
                self.set_entry(
                    there, (address >> self.level[self.share_depth].shift) & self.level[self.share_depth].index_mask, 0
                )

    def fault(self, root, address):
        """The vmalloc fault: copies the entry that a root lacks from the reference; 1 if that helped, else 0."""
        if not self.has_faults or root == 0 or root >= self.nr_roots or not self.in_shared(address, self.page_shift):
            return 0
        if self.copy_entry(root, address) == 0:
            return 0
        self.vmalloc_faults += 1
        self.entries_copied += 1
        return 1

    def context_switch(self, root):
        """A CPU begins to use a root: with SEQUENCE, an old one is brought up to date; entries copied."""
        if self.care != CARE_SEQUENCE or root == 0 or root >= self.nr_roots:
            return 0
        if self.root[root].sequence == self.sequence:
            return 0
        copied = 0
        for n in range(self.nr_shared):
            copied += self.copy_range(root, self.shared[n].start, self.shared[n].size)
        self.root[root].sequence = self.sequence
        self.entries_copied += copied
        return copied

    def free_roots(self):
        """Frees all tables of all roots."""
        if self.nr_roots != 0 and self.care != CARE_ONE_TABLE:
            for r in range(1, self.nr_roots):
                self.free_tree(self.root[r].table, 0, self.share_depth)
        if self.nr_roots != 0:
            self.free_tree(self.root[0].table, 0, self.last)
        self.nr_roots = 0

    def free_tree(self, table, depth, deepest):
        """Frees a table and those below it, down to a level."""
        if depth < deepest:
            for index in range(self.level[depth].index_mask + 1):
                found = self.entry(table, index)
                if self.is_table(found, depth):
                    self.free_tree(found >> self.page_shift, depth + 1, deepest)
        self.free_table(table, depth)

    # Python's side.

    def do_fault(self, root, address):
        """``fault``, as True or False."""
        return self.fault(root, address) != 0

    def do_context_switch(self, root):
        """``context_switch``."""
        return self.context_switch(root)

    def root_table(self, root):
        """First frame of the top table of a root."""
        if not 0 <= root < self.nr_roots:
            raise BadRequest(f"page-table root {root} of {self.nr_roots}")
        return self.root[root].table

    def root_sequence(self, root):
        """The number a root was brought up to date at."""
        return self.root[root].sequence

    def poke_root(self, root, table, sequence):
        """Overwrites a root: for the tests that break structures on purpose, and for nothing else."""
        self.root[root].table = table
        self.root[root].sequence = sequence

    def shared_ranges(self):
        """The ranges whose entries all roots are to have, as ``(start, end)``."""
        return [(self.shared[n].start, self.shared[n].start + self.shared[n].size) for n in range(self.nr_shared)]
