"""Tables in page frames: where each entry lies, and who has how many of them.

Idea: a table *is* a block of frames from the machine's ``FrameAllocator``, and its entries are what these frames hold
(``FrameContents``).  Nothing about a mapping is kept anywhere else: whoever reads the physical memory sees the tables,
and whoever overwrites it breaks them, as on a real machine.

Shape: ``level[0]`` is the top; ``level[last]`` has the PTEs.  A table of more than a page (s390x) is a block of frames;
one of less takes a whole frame.  PTE tables are never larger than a page, which lets callers keep a pointer to the one
they used last.  What an entry says is told in ``entries``.

Entries read as 0 where the frame does not exist or holds no stored bytes: a walk through a table that was overwritten
with nonsense ends somewhere, and touches nothing else.

Cursors.  The PTE table used last is remembered with a pointer to its bytes: by mapping and unmapping for the reference
(``cursor_page``), by walks for the root they went through (``seen_page``).  They stay right because a PTE table changes
its place in the tree only when it is freed or removed, which forgets both, and because each use looks whether the
frame still has stored bytes.  Whoever overwrites the *upper* tables by hand is seen by the next walk elsewhere: a
hardware walker with its caches behaves no better.

A table that a huge leaf replaced must not be used again before the CPUs have been flushed.  It waits on a list that
runs through the tables themselves: they are empty, so their first entry can hold the number of the next (``link``).  So
waiting needs no memory.

Invariants (``validate``): each table's block is used, tagged with ``owner``, and in one place only; the counters fit.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import HugeUse
from vmalloc.machine.simulated.page_tables.entries import WARNING_TEXTS, modified_bit

if not cython.compiled:
    from vmalloc.machine.simulated.frames.states import SECTION_MASK, SECTION_SHIFT, STORED
    from vmalloc.machine.simulated.page_tables.entries import (
        ENTRY_LEAF,
        ENTRY_PRESENT,
        MAX_GROUPS,
        MAX_LEVELS,
        MAX_WARNINGS,
    )
    from vmalloc.machine.simulated.page_tables.plain import GroupRow, LevelRow, WarningRow, narrow_row, wide_row

__all__ = ["TableStore"]


class TableStore:
    """The tables of a machine as memory; ``PageTables`` is what it is for."""

    def set_up_store(self, frames, contents, arch, kernel, owner, missing):
        """Reads the architecture; raises BadRequest for one whose tables cannot be kept."""
        self.frames = frames
        self.contents = contents
        self.rows = frames.table
        self.arch = arch
        self.kernel = kernel
        self.owner = owner
        self.page_shift = arch.page_shift
        self.wide = arch.entry_size == 8
        self.frame_index_shift = arch.page_shift - (3 if self.wide else 2)
        self.frame_index_mask = (1 << self.frame_index_shift) - 1
        self.pfn_limit = 1 << (min(arch.phys_bits, 8 * arch.entry_size) - arch.page_shift)
        self.kernel_start = arch.kernel_start
        self.kernel_size = arch.kernel_end - arch.kernel_start
        self.untranslated = arch.kernel_start >> arch.address_bits << arch.address_bits
        self.nr_levels = len(arch.levels)
        self.last = self.nr_levels - 1
        self.nr_groups = len(arch.pte_groups)
        if frames.page_shift != arch.page_shift or contents.page_size != arch.page_size:
            raise BadRequest(f"frames of shift {frames.page_shift} for {arch.name}, whose pages have {arch.page_shift}")
        if arch.entry_size not in (4, 8) or not 2 <= self.nr_levels <= MAX_LEVELS or self.nr_groups > MAX_GROUPS:
            raise BadRequest(f"{arch.name}: {self.nr_levels} levels of entries of {arch.entry_size} bytes")
        if arch.page_shift < 9 or arch.table_size(arch.levels[self.last]) > arch.page_size:
            raise BadRequest(f"{arch.name}: pages of {arch.page_size} bytes have no room for its entries")
        self.span_shift = arch.levels[self.last - 1].shift
        last_pfn = max([zone.end_pfn for zone in frames.layout.zones]) - 1
        if last_pfn >= self.pfn_limit:
            raise BadRequest(f"frame {last_pfn:#x} is beyond the {arch.phys_bits} physical bits of {arch.name}")
        if not cython.compiled:
            self.level = [LevelRow() for _ in range(MAX_LEVELS)]
            self.group = [GroupRow() for _ in range(MAX_GROUPS)]
            self.warned = [WarningRow() for _ in range(MAX_WARNINGS)]
        accepted = [leaf.shift for leaf in arch.leaves(kernel, HugeUse.VMAP) if not leaf.needs & frozenset(missing)]
        for d in range(self.nr_levels):
            level = arch.levels[d]
            frames_needed = -(-arch.table_size(level) // arch.page_size)
            self.level[d].shift = level.shift
            self.level[d].index_mask = level.nr_entries - 1
            self.level[d].order = (frames_needed - 1).bit_length()
            self.level[d].modified = modified_bit(arch, level)
            self.level[d].leaf = d < self.last and level.shift in accepted
        for g in range(self.nr_groups):
            self.group[g].shift = arch.pte_groups[g]
            self.group[g].nr_ptes = 1 << (arch.pte_groups[g] - arch.page_shift)
            self.group[g].accepted = arch.pte_groups[g] in accepted
        self.table_frames = self.warnings = self.nr_pending = 0
        self.cursor_key = self.seen_key = self.seen_root = 0
        self.forget_cursors()
        self.table_node = self.table_cpu = 0
        self.may_drain = True
        return 0

    def forget_cursors(self):
        """Drops the pointers to the PTE tables used last: a table goes away."""
        self.cursor_page = self.seen_page = cython.NULL if cython.compiled else None

    def inside(self, address, size):
        """Whether the tables translate all of a range."""
        if address < self.kernel_start or size > self.kernel_size:
            return False
        return address - self.kernel_start <= self.kernel_size - size

    def page(self, pfn):
        """The bytes of a frame; NULL (None) when nothing is stored in it."""
        if (pfn >> SECTION_SHIFT) < self.rows.nr_sections:
            s = self.rows.section[pfn >> SECTION_SHIFT]
            i = pfn & SECTION_MASK
            if s and s.row[i].contents == STORED:
                return s.page[i]
        return cython.NULL if cython.compiled else None

    def entry(self, table, index):
        """An entry of the table whose first frame is ``table``."""
        page = self.page(table + (index >> self.frame_index_shift))
        if not page:
            return 0
        if self.wide:
            return wide_row(page)[index & self.frame_index_mask]
        return narrow_row(page)[index & self.frame_index_mask]

    def page_to_write(self, pfn):
        """The bytes of a table's frame, even if somebody has zeroed it as a whole; NULL (None) where there is none."""
        page = self.page(pfn)
        if not page and (pfn >> SECTION_SHIFT) < self.rows.nr_sections:
            page = self.contents.page_to_store(pfn)
        return page

    def set_entry(self, table, index, value):
        """Writes an entry.  The frame has its bytes since ``make_table``, so no memory is needed here."""
        page = self.page_to_write(table + (index >> self.frame_index_shift))
        if not page:
            return
        if self.wide:
            wide_row(page)[index & self.frame_index_mask] = value
        else:
            narrow_row(page)[index & self.frame_index_mask] = value

    def make_table(self, depth):
        """First frame of a new table of a level, all zeros; -1 when there are no frames for it."""
        order = self.level[depth].order
        if self.may_drain:
            pfn = self.frames.alloc_draining(order, self.table_node, 1, self.table_cpu)
        else:
            pfn = self.frames.alloc(order, self.table_node, 1, self.table_cpu)
        if pfn < 0:
            return -1
        for k in range(1 << order):
            self.contents.clear(pfn + k, 0, self.contents.page_size)
            if not self.contents.page_to_store(pfn + k):
                self.frames.free(pfn, order, self.table_cpu)
                return -1
        self.frames.set_owner(pfn, self.owner)
        self.level[depth].nr_tables += 1
        self.table_frames += 1 << order
        return pfn

    def free_table(self, table, depth):
        """Gives the frames of a table back."""
        self.forget_cursors()
        self.frames.free(table, self.level[depth].order, self.table_cpu)
        self.level[depth].nr_tables -= 1
        self.table_frames -= 1 << self.level[depth].order

    def link(self, table, depth):
        """Puts a removed table, which maps nothing, on the list of those that wait for a flush.

        A link is a frame number and the leaf bit, so that frame 0 can be told from the end; it is not present.
        """
        self.forget_cursors()
        self.set_entry(table, 0, self.level[depth].pending)
        self.level[depth].pending = (table << self.page_shift) | ENTRY_LEAF
        self.level[depth].nr_tables -= 1
        self.nr_pending += 1

    def free_pending(self):
        """Gives the tables back that have waited for a flush."""
        for d in range(self.nr_levels):
            link = self.level[d].pending
            while link != 0:
                table = link >> self.page_shift
                link = self.entry(table, 0)
                self.frames.free(table, self.level[d].order, self.table_cpu)
                self.table_frames -= 1 << self.level[d].order
            self.level[d].pending = 0
        self.nr_pending = 0

    def is_table(self, found, depth):
        """Whether an entry of a level names a table of the next one."""
        return depth < self.last and (found & ENTRY_PRESENT) != 0 and (found & ENTRY_LEAF) == 0

    def is_empty(self, table, depth):
        """Whether a table and all below it map nothing."""
        for index in range(self.level[depth].index_mask + 1):
            found = self.entry(table, index)
            if found == 0:
                continue
            if not self.is_table(found, depth) or not self.is_empty(found >> self.page_shift, depth + 1):
                return False
        return True

    def warn(self, kind, address):
        """Counts what the kernel would warn of, and remembers the last few."""
        self.warned[self.warnings % MAX_WARNINGS].address = address
        self.warned[self.warnings % MAX_WARNINGS].kind = kind
        self.warnings += 1

    # Python's side.

    def poke(self, field, number, value):
        """Overwrites a counter: for the tests that break structures on purpose, and for nothing else."""
        if field == "nr_tables":
            self.level[number].nr_tables = value
        elif field == "nr_leaves":
            self.level[number].nr_leaves = value
        elif field == "nr_groups":
            self.group[number].nr_groups = value
        elif field == "pending":
            self.level[number].pending = value
        elif field == "table_frames":
            self.table_frames = value
        elif field == "nr_pending":
            self.nr_pending = value
        else:
            raise KeyError(field)

    def warning_list(self):
        """The last warnings, up to 64, oldest first, as ``(address, what was wrong)``."""
        found = []
        for k in range(self.warnings - MAX_WARNINGS if self.warnings > MAX_WARNINGS else 0, self.warnings):
            row = k % MAX_WARNINGS
            found.append((self.warned[row].address, WARNING_TEXTS[self.warned[row].kind]))
        return found

    def read_entry(self, table, index):
        """An entry as it stands in the frames of a table."""
        return self.entry(table, index)

    def read_entries(self, table, count):
        """The first entries of a table."""
        return [self.entry(table, index) for index in range(count)]

    def pending_tables(self):
        """Removed tables that wait for a flush, as ``(depth, first frame)``."""
        found = []
        for d in range(self.nr_levels):
            link = self.level[d].pending
            while link != 0 and len(found) <= self.nr_pending:
                found.append((d, link >> self.page_shift))
                link = self.entry(link >> self.page_shift, 0)
        return found

    @property
    def table_bytes(self):
        """Bytes of memory that all tables take, those that wait for a flush included."""
        return self.table_frames << self.page_shift

    def tables_by_level(self):
        """Tables in use by level name, the top first."""
        return {self.arch.levels[d].name: self.level[d].nr_tables for d in range(self.nr_levels)}

    def leaves_by_shift(self):
        """Mappings in the reference table by log2 of their bytes; a group of PTEs is one."""
        found = {self.level[d].shift: self.level[d].nr_leaves for d in range(self.nr_levels)}
        for g in range(self.nr_groups):
            found[self.group[g].shift] = self.group[g].nr_groups
        return {shift: found[shift] for shift in sorted(found) if found[shift] != 0}

    def accepted_shifts(self):
        """log2 of the mapping sizes above the base page that this machine accepts, ascending."""
        groups = [self.group[g].shift for g in range(self.nr_groups) if self.group[g].accepted]
        levels = [self.level[d].shift for d in range(self.nr_levels) if self.level[d].leaf]
        return sorted(groups + levels)

    def table_frames_of(self, depth):
        """Frames that one table of a level takes."""
        return 1 << self.level[depth].order
