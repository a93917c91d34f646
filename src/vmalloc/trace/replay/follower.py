"""Following an allocator on a machine: what a replay did with addresses, done with frames, page tables and TLBs.

Idea: a replay is about addresses, and may go back and do a piece of the past again.  A machine cannot go back, and need
not: once the replay has ended, its ledger (``areas.ledger``) is a history in which everything happened once, and this
class does the other half of each entry:

* a range became busy: frames are taken and mapped to it, as ``vmalloc`` does, by the CPU that asked; then this CPU
  writes to its first and its last byte, so that there are translations that can go stale (only these are made: no byte
  is kept, so a trace of many gigabytes needs few);
* it is busy no more: it is unmapped, **without** a flush, and the frames are given back, as ``vfree`` does;
* a purge: the hull is flushed on all CPUs.

The addresses are the replay's; so they are the same whatever the machine.  What the machine adds is proof: it finds a
range that is mapped twice, frames that are given back twice, and, as stale accesses, a flush that is missing.

What a trace does not tell is assumed.  Behind the frames of an area there is a guard page, which is not mapped, unless
the area is a page in all.  A range whose start and size without the guard are multiples of a huge mapping is one; where
there is no block for it, it gets base pages, as section 3.2 has it.  Every area is a ``vmalloc``.

Invariant (``check``): what is mapped is exactly the areas in ``areas``, page by page to their frames.
"""

import cython

from vmalloc.errors import OutOfFrames, ValidationError
from vmalloc.units import format_address, format_range, format_size

if not cython.compiled:
    from vmalloc.areas.states import NOW_BUSY, NOW_GONE, NOW_PROVEN
    from vmalloc.calls.area_pages import BATCH, NUMA_NO_NODE, take_batches, take_large_blocks, take_singles
    from vmalloc.flags import TAKE_MAY_DRAIN
    from vmalloc.pages import new_pages

    READ_WRITE = 3

__all__ = ["Follower"]

NAME = "machine that follows a replay"


class Follower:
    """A machine, and how far it has followed.

    Args:
        machine: a ``SimulatedMachine`` on which nothing is mapped.
        ledger: settled.
        kernel: the version profile: it says in which order frames are asked for.
    """

    def __init__(self, machine, ledger, kernel):
        self.machine = machine
        self.ledger = ledger
        self.areas = {}
        self.page_shift = machine.page_shift
        self.takes_large_blocks = kernel.takes_large_blocks
        self.shifts = list(machine.info.vmalloc_shifts)
        self.leaves = [0] * (len(self.shifts) + 1)
        self.base_leaves = 0
        self.done = 0
        self.frames_taken = self.huge_areas = self.huge_fallbacks = self.proven_flushes = self.accesses = 0
        if not cython.compiled:
            self.touched = [0, 0]

    @cython.locals(last=cython.uint)
    def run(self, last):
        """Follows the ledger up to and including entry ``last``.

        Raises:
            OutOfFrames: the machine has too little memory.
            ValidationError: the history contradicts itself, or the machine.
        """
        while self.done < last:
            self.apply(self.done + 1)
            self.done += 1

    def apply(self, n):
        """Does what entry ``n`` says."""
        if cython.compiled:
            e = cython.address(self.ledger.entry[n])
        else:
            e = self.ledger.entry[n]
        kind = e.kind
        start = e.start
        end = e.end
        self.machine.running.cpu = e.cpu
        if kind == NOW_BUSY:
            self.build(start, end)
        elif kind == NOW_GONE:
            self.take_apart(start)
        else:
            if kind == NOW_PROVEN:
                self.proven_flushes += 1
            self.machine.flush(start, end)
        return 0

    def build(self, start, end):
        """Takes frames for a range, maps them, touches them."""
        if start in self.areas:
            raise ValidationError(NAME, f"area {format_range(start, end)} becoming busy", "an area that starts there")
        size = self.mapped_size(start, end)
        shift = self.huge_shift(start, size)
        pages = None
        if shift != self.page_shift:
            pages = self.build_huge(start, size, shift)
            if pages is None:
                self.huge_fallbacks += 1
            else:
                self.huge_areas += 1
        if pages is None:
            pages = self.build_base(start, size)
        self.frames_taken += pages.nr_pages
        self.areas[start] = pages
        self.touch(start, size)
        return 0

    def mapped_size(self, start, end):
        """Bytes of a range that are mapped: without the guard page, which an area of one page has not."""
        size = end - start
        return size if size >> self.page_shift == 1 else size - self.machine.contents.page_size

    def huge_shift(self, start, size):
        """log2 of the mappings that an area of these numbers has, if there are blocks for it."""
        for shift in self.shifts:
            if ((start | size) >> shift) << shift == start | size:
                return shift
        return self.page_shift

    def take_pages(self, nr_pages, order):
        """Frames for an area, in the kernel's steps (section 3.3); fewer than asked for where there are no more."""
        pages = new_pages(nr_pages, self.machine.contents.page_size)
        if pages is None:
            raise MemoryError(f"no memory for a list of {nr_pages} page frames")
        if nr_pages > 1 and self.takes_large_blocks:
            take_large_blocks(self.machine, pages, nr_pages, order, NUMA_NO_NODE, 0)
        if nr_pages > 1 and order == 0:
            take_batches(self.machine, pages, nr_pages, NUMA_NO_NODE, TAKE_MAY_DRAIN, BATCH)
        take_singles(self.machine, pages, nr_pages, order, NUMA_NO_NODE, TAKE_MAY_DRAIN)
        return pages

    def build_base(self, start, size):
        """An area of base pages; all of it, or an error and nothing."""
        pages = self.take_pages(size >> self.page_shift, 0)
        if pages.nr_pages << self.page_shift != size:
            self.machine.give_bulk(pages, 0, pages.nr_pages)
            raise OutOfFrames(f"the machine has no {format_size(size)} of frames for {format_address(start)}")
        code = self.machine.map_pages(start, pages, 0, pages.nr_pages, READ_WRITE)
        if code != 0:
            # What was mapped there before is somebody else's: it stays, and the error is about it.
            raise ValidationError(NAME, f"mapping {format_size(size)} at {format_address(start)}", f"errno {-code}")
        self.base_leaves += pages.nr_pages
        return pages

    def build_huge(self, start, size, shift):
        """An area of huge mappings; None, and nothing is left, where there are no blocks or tables for it."""
        pages = self.take_pages(size >> self.page_shift, shift - self.page_shift)
        if pages.nr_pages << self.page_shift != size:
            self.machine.give_bulk(pages, 0, pages.nr_pages)
            return None
        before = self.machine.page_table.leaves_by_shift()
        block = 1
        block <<= shift - self.page_shift
        address = start
        i = 0
        while i < pages.nr_pages:
            code = self.machine.map_range(address, pages.number(i), block << self.page_shift, shift, READ_WRITE)
            if code != 0:
                self.undo(start, size, pages)
                return None
            i += block
            address += block << self.page_shift
        self.count_leaves(before)
        return pages

    def undo(self, start, size, pages):
        """Takes apart what was mapped of an area, and gives its frames back; nobody has used it."""
        self.machine.unmap(start, start + size)
        self.machine.give_bulk(pages, 0, pages.nr_pages)
        return 0

    def count_leaves(self, before):
        """Counts the mappings that are there beside those ``before``, by size."""
        for shift, count in self.machine.page_table.leaves_by_shift().items():
            made = count - before.get(shift, 0)
            if shift in self.shifts:
                self.leaves[self.shifts.index(shift)] += made
            else:
                self.base_leaves += made

    def touch(self, start, size):
        """The CPU that asked writes to the first and the last page."""
        count = 1 if size >> self.page_shift == 1 else 2
        self.touched[0] = start
        self.touched[1] = start + (size - 1)
        self.accesses += count
        self.machine.mmu.run(self.machine.running.cpu, self.touched, count, True)
        return 0

    def take_apart(self, start):
        """Unmaps an area and gives its frames back."""
        pages = self.areas.pop(start, None)
        if pages is None:
            raise ValidationError(NAME, f"an area at {format_address(start)} that is no more busy", "none there")
        self.machine.unmap(start, start + (pages.nr_pages << self.page_shift))
        if self.machine.give_bulk(pages, 0, pages.nr_pages) != pages.nr_pages:
            raise ValidationError(NAME, f"frames of the area at {format_address(start)}", "not all being held")
        return 0

    # Python's side.

    def mappings_made(self):
        """How many mappings were made since the start, by log2 of their size."""
        found = {shift: count for shift, count in zip(self.shifts, self.leaves, strict=False) if count}
        if self.base_leaves:
            found[self.page_shift] = self.base_leaves
        return found

    def ranges(self):
        """The mapped ranges, ascending."""
        return sorted([(start, start + (pages.nr_pages << self.page_shift)) for start, pages in self.areas.items()])

    def check(self):
        """Checks that exactly the areas are mapped, page by page to their frames, and every frame is accounted for.

        Raises:
            ValidationError: it is not so.
        """
        total = 0
        for start, pages in self.areas.items():
            total += pages.nr_pages
            wrong = self.disagrees(start, pages)
            if wrong != 0:
                found = self.machine.translate(wrong)
                told = "nothing" if found < 0 else f"frame {found:#x}"
                said = f"the area at {format_address(start)}"
                raise ValidationError(NAME, said, f"{told} being mapped at {format_address(wrong)}")
        mapped = sum([count << shift for shift, count in self.machine.page_table.leaves_by_shift().items()])
        if mapped != total << self.page_shift:
            raise ValidationError(NAME, f"{mapped} bytes that are mapped", f"{total << self.page_shift} of all areas")
        used = sum([node.used for node in self.machine.frames.stats()])
        if used != total + self.machine.page_table.table_frames:
            tables = self.machine.page_table.table_frames
            raise ValidationError(NAME, f"{used} frames that are held", f"{total} of areas and {tables} of tables")

    def disagrees(self, start, pages):
        """The first address of an area whose page is not mapped to its frame; 0 for none."""
        for i in range(pages.nr_pages):
            if self.machine.translate(start + (i << self.page_shift)) != pages.number(i):
                return start + (i << self.page_shift)
        return 0
