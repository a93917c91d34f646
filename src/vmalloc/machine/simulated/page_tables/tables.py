"""Page tables of a simulated machine: base pages mapped, and the walk that translates.

Idea: what maps is only what stands in frames of memory, level below level (``store``); who may see it is a matter of
roots (``sync``); large physical ranges are a matter of leaves (``ranges``, ``reshape``); what was mapped is unmapped
again (``unmap``).  Each of these is a class that adds its verbs to the one before, because they all work on the same
entries; this last one adds the call that a vmalloc makes most.  It is written for speed: pages come with a list of
frames and go into one PTE each, a whole PTE table at a time, with a pointer to the table that was used last.

A TLB entry that was filled while ``generation`` had some value may be stale when it has another one.  ``mask`` says
which levels the last call modified, a bit per level (section 8.4): what the sync mask is compared with.

Paging-structure caches of the CPUs are not modelled.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.page_tables.dump import dump_tables
from vmalloc.machine.simulated.page_tables.sync import MAX_ROOTS
from vmalloc.machine.simulated.page_tables.unmap import Unmapper

if not cython.compiled:
    from vmalloc.machine.simulated.frames.states import SECTION_MASK, SECTION_SHIFT, STORED
    from vmalloc.machine.simulated.page_tables.entries import (
        EBUSY,
        EINVAL,
        ENTRY_GROUP,
        ENTRY_GROUP_SHIFT,
        ENTRY_LEAF,
        ENTRY_PRESENT,
        ENTRY_PROT_SHIFT,
        OCCUPIED,
        PROT_ALL,
    )
    from vmalloc.machine.simulated.page_tables.plain import LeafFound, narrow_row, wide_row

__all__ = ["PageTables"]


class PageTables(Unmapper):
    """All page tables of the kernel on a simulated machine.

    Args:
        frames: where frames for tables come from (``FrameAllocator``).
        contents: what the frames hold (``FrameContents``).
        arch: the architecture.
        kernel: the version profile.
        nr_roots: top tables: the reference, and the kernel halves of the process tables.
        owner: the number to tag frames of tables with (``PhysicalMemory.owner_number``).
        missing: what the machine does not have that leaves need (``LeafNeed``).
        shared_ranges: further ``(start, end)`` that are kept current like the vmalloc range.

    Raises:
        BadRequest: the architecture's tables cannot be kept in these frames; or no such number of roots.
        OutOfFrames: there are no frames for the tables made at boot; nothing is kept.
    """

    def __cinit__(self, frames, contents, arch, kernel, nr_roots=1, owner=0, missing=frozenset(), shared_ranges=()):
        if not 0 < nr_roots <= MAX_ROOTS:
            raise BadRequest(f"{nr_roots} page-table roots; a machine has 1 to {MAX_ROOTS}")
        self.set_up_store(frames, contents, arch, kernel, owner, missing)
        self.set_up_roots(nr_roots, shared_ranges)
        self.set_up_ranges()

    if not cython.compiled:
        __init__ = __cinit__

    # Mapping base pages.

    def map_pages(self, address, pfns, count, prot):
        """Maps ``count`` pages to the frames ``pfns``; see ``do_map_pages``."""
        self.mask = 0
        if (address >> self.page_shift) << self.page_shift != address or prot > PROT_ALL:
            return -EINVAL
        if count > (self.kernel_size >> self.page_shift) or not self.inside(address, count << self.page_shift):
            return -EINVAL
        flags = (prot << ENTRY_PROT_SHIFT) | ENTRY_PRESENT
        code = 0
        done = 0
        here = address
        while done < count:
            page = self.pte_page(here)
            if not page:
                code = self.error
                break
            index = (here >> self.page_shift) & self.level[self.last].index_mask
            n = self.level[self.last].index_mask + 1 - index
            if n > count - done:
                n = count - done
            if self.wide:
                filled = self.fill_wide(wide_row(page), pfns, done, index, n, flags)
            else:
                filled = self.fill_narrow(narrow_row(page), pfns, done, index, n, flags)
            self.level[self.last].nr_leaves += filled
            if filled != 0:
                self.mask |= self.level[self.last].modified
            done += filled
            here += filled << self.page_shift
            if filled < n:
                code = -EINVAL if pfns[done] >= self.pfn_limit else -EBUSY
                if code == -EBUSY:
                    self.warn(OCCUPIED, here)
                break
        if (self.mask & self.sync_mask) != 0:
            self.hook(address, count << self.page_shift)
        return code

    def pte_page(self, address):
        """The bytes of the PTE table for an address, made if need be; NULL (None) with ``error`` when there is none."""
        key = address >> self.span_shift
        if self.cursor_page and key == self.cursor_key and self.cursor_row.contents == STORED:
            return self.cursor_page
        table = self.root[0].table
        for depth in range(self.last):
            table = self.child_table(
                depth, table, (address >> self.level[depth].shift) & self.level[depth].index_mask, address
            )
            if table < 0:
                return cython.NULL if cython.compiled else None
        page = self.page_to_write(table)
        if not page:
            self.error = -EINVAL
            return page
        s = self.rows.section[table >> SECTION_SHIFT]
        self.cursor_key = key
        self.cursor_page = page
        if cython.compiled:
            self.cursor_row = cython.address(s.row[table & SECTION_MASK])
        else:
            self.cursor_row = s.row[table & SECTION_MASK]
        return page

    def fill_wide(self, row, pfns, first, index, count, flags):
        """Writes PTEs of 8 bytes up to the first that is not empty or whose frame there cannot be; how many."""
        shift = self.page_shift
        limit = self.pfn_limit
        for k in range(count):
            if row[index + k] != 0 or pfns[first + k] >= limit:
                return k
            row[index + k] = (pfns[first + k] << shift) | flags
        return count

    def fill_narrow(self, row, pfns, first, index, count, flags):
        """``fill_wide`` for PTEs of 4 bytes."""
        shift = self.page_shift
        limit = self.pfn_limit
        for k in range(count):
            if row[index + k] != 0 or pfns[first + k] >= limit:
                return k
            row[index + k] = (pfns[first + k] << shift) | flags
        return count

    # Walking.

    def walk(self, root, address, out):
        """Translates an address through the table of a root into ``out``; 1 found, 0 not mapped."""
        if address < self.kernel_start or address - self.kernel_start >= self.kernel_size or root >= self.nr_roots:
            return 0
        key = address >> self.span_shift
        if self.seen_page and key == self.seen_key and root == self.seen_root and self.seen_row.contents == STORED:
            index = (address >> self.page_shift) & self.level[self.last].index_mask
            found = wide_row(self.seen_page)[index] if self.wide else narrow_row(self.seen_page)[index]
            return self.translate_pte(found, out)
        table = self.root[root].table
        depth = 0
        while True:
            index = (address >> self.level[depth].shift) & self.level[depth].index_mask
            table += index >> self.frame_index_shift
            if (table >> SECTION_SHIFT) >= self.rows.nr_sections:
                return 0
            s = self.rows.section[table >> SECTION_SHIFT]
            i = table & SECTION_MASK
            if not s or s.row[i].contents != STORED:
                return 0
            page = s.page[i]
            index &= self.frame_index_mask
            found = wide_row(page)[index] if self.wide else narrow_row(page)[index]
            if depth == self.last:
                break
            if (found & ENTRY_PRESENT) == 0:
                return 0
            if (found & ENTRY_LEAF) != 0:
                piece = 1
                piece <<= self.level[depth].shift
                out.pfn = (found >> self.page_shift) + ((address & (piece - 1)) >> self.page_shift)
                out.shift = self.level[depth].shift
                out.prot = (found >> ENTRY_PROT_SHIFT) & PROT_ALL
                return 1
            table = found >> self.page_shift
            depth += 1
        self.seen_key = key
        self.seen_root = root
        self.seen_page = page
        if cython.compiled:
            self.seen_row = cython.address(s.row[i])
        else:
            self.seen_row = s.row[i]
        return self.translate_pte(found, out)

    def translate_pte(self, found, out):
        """What a PTE says; 1, or 0 when it maps nothing."""
        if (found & ENTRY_PRESENT) == 0:
            return 0
        g = (found & ENTRY_GROUP) >> ENTRY_GROUP_SHIFT
        out.pfn = found >> self.page_shift
        out.shift = self.group[g - 1].shift if g != 0 and g <= self.nr_groups else self.page_shift
        out.prot = (found >> ENTRY_PROT_SHIFT) & PROT_ALL
        return 1

    # Python's side.

    def do_map_pages(self, address, pfns, prot):
        """Maps single pages, one PTE each, in order (section 3.4).

        Args:
            address: where, page aligned.
            pfns: an ``array("Q")`` of frame numbers.
            prot: ``PROT_*`` bits.

        Returns:
            0; -EBUSY where something is mapped already, with a warning; -ENOMEM when there was no frame for a table;
            -EINVAL for a range that is not the kernel's, or a frame beyond its physical addresses. What was mapped
            before an error stays.
        """
        return self.map_from(address, pfns, len(pfns), prot)

    def map_from(self, address, pfns, count, prot):
        if not cython.compiled:
            return self.map_pages(address, pfns, count, prot)
        PyObject_GetBuffer(pfns, cython.address(view), PyBUF_SIMPLE)
        code = self.map_pages(address, cython.cast("const uint64_t*", view.buf), count, prot)
        PyBuffer_Release(cython.address(view))
        return code

    def do_walk(self, address, root=0):
        """Translates an address: ``(pfn of the base page, shift of the mapping, prot)``; None where nothing is."""
        if not cython.compiled:
            out = LeafFound()
            return (out.pfn, out.shift, out.prot) if self.walk(root, address, out) else None
        return self.walk_from(address, root)

    def walk_from(self, address, root):
        if self.walk(root, address, cython.address(leaf)) == 0:
            return None
        return (leaf.pfn, leaf.shift, leaf.prot)

    def dump(self, root=0, start=None, end=None):
        """Describes a root as text: what is mapped, neighbours of one kind merged, and the tree of tables."""
        return dump_tables(self, root, start, end)
