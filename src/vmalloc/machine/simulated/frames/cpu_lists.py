"""Lists of single frames per CPU, in front of the buddy allocator.

Idea: most requests are for one frame, and a frame that was just freed is still in the CPU's cache.  So each CPU keeps,
per zone, a short list: a free frame goes to its head and the next request takes it from there.  An empty list takes
``batch`` frames from the buddy at once, to be handed out in the order in which they came; a list that grows beyond
``high`` gives its ``batch`` oldest ones back.  ``batch`` 0 is a machine without such lists.

Shape: ``list[zone * cpus + cpu]`` is a doubly linked list through the records, head newest, tail oldest.

Invariants (``validate.validate_frames``): each frame on a list is ``LISTED``, of order 0 and of the list's zone;
head, tail and count fit; no list is longer than ``high``; ``listed`` is the sum of the counts.

What is on one CPU's list, no other CPU gets and nothing merges with: a request may fail while such frames exist.
``drain`` gives them back.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.machine.simulated.frames.plain import CpuList
    from vmalloc.machine.simulated.frames.states import LISTED, NO_FRAME, SECTION_MASK, SECTION_SHIFT

__all__ = ["CpuLists"]


class CpuLists:
    """The lists of all CPUs.

    Args:
        buddy: where frames come from and go to.
        cpus: number of CPUs.
        batch: frames taken and given back at once; 0 for no lists.
        high: frames a list may hold at most; not below ``batch``.
    """

    def __cinit__(self, buddy, cpus, batch, high):
        self.buddy = buddy
        self.table = buddy.table
        self.cpus = cpus
        self.batch = batch
        self.high = high
        self.listed = 0
        if cython.compiled:
            self.list = cython.cast(
                cython.pointer(cpu_list), calloc(self.table.nr_zones * self.cpus, cython.sizeof(cpu_list))
            )
            if self.list == cython.NULL:
                raise MemoryError(f"no memory for the lists of {cpus} CPUs")
        else:
            self.list = [CpuList() for _ in range(self.table.nr_zones * cpus)]
        for c in range(self.table.nr_zones * self.cpus):
            self.list[c].head = NO_FRAME
            self.list[c].tail = NO_FRAME

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.list)

    def pop(self, z, cpu):
        """Takes one frame of a zone for a CPU; ``NO_FRAME`` when neither its list nor the buddy has one."""
        c = z * self.cpus + cpu
        pfn = self.list[c].head
        if pfn == NO_FRAME:
            if self.batch == 0:
                return self.buddy.take(z, 0)
            if self.refill(z, c) == 0:
                return NO_FRAME
            pfn = self.list[c].head
        behind = self.table.section[pfn >> SECTION_SHIFT].row[pfn & SECTION_MASK].next
        self.list[c].head = behind
        if behind == NO_FRAME:
            self.list[c].tail = NO_FRAME
        else:
            self.table.section[behind >> SECTION_SHIFT].row[behind & SECTION_MASK].prev = NO_FRAME
        self.list[c].count -= 1
        self.listed -= 1
        return pfn

    def refill(self, z, c):
        """Fills an empty list from the buddy; the number of frames that came."""
        n = 0
        tail = NO_FRAME
        while n < self.batch:
            pfn = self.buddy.take(z, 0)
            if pfn == NO_FRAME:
                break
            s = self.table.section[pfn >> SECTION_SHIFT]
            i = pfn & SECTION_MASK
            s.row[i].state = LISTED
            s.row[i].next = NO_FRAME
            s.row[i].prev = tail
            if tail == NO_FRAME:
                self.list[c].head = pfn
            else:
                self.table.section[tail >> SECTION_SHIFT].row[tail & SECTION_MASK].next = pfn
            tail = pfn
            n += 1
        self.list[c].tail = tail
        self.list[c].count = n
        self.listed += n
        return n

    def push(self, z, cpu, pfn):
        """Puts a frame at the head of a CPU's list, and gives the oldest ones back when that makes it too long."""
        if self.batch == 0:
            self.buddy.give(z, pfn, 0)
            return
        c = z * self.cpus + cpu
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        first = self.list[c].head
        s.row[i].state = LISTED
        s.row[i].next = first
        s.row[i].prev = NO_FRAME
        if first == NO_FRAME:
            self.list[c].tail = pfn
        else:
            self.table.section[first >> SECTION_SHIFT].row[first & SECTION_MASK].prev = pfn
        self.list[c].head = pfn
        self.list[c].count += 1
        self.listed += 1
        if self.list[c].count > self.high:
            self.spill(z, c, self.batch)

    def spill(self, z, c, nr_frames):
        """Gives the ``nr_frames`` oldest frames of a list, which has as many, back to the buddy."""
        for n in range(nr_frames):
            pfn = self.list[c].tail
            before = self.table.section[pfn >> SECTION_SHIFT].row[pfn & SECTION_MASK].prev
            self.list[c].tail = before
            if before == NO_FRAME:
                self.list[c].head = NO_FRAME
            else:
                self.table.section[before >> SECTION_SHIFT].row[before & SECTION_MASK].next = NO_FRAME
            self.buddy.give(z, pfn, 0)
        self.list[c].count -= nr_frames
        self.listed -= nr_frames

    def drain(self, cpu):
        """Gives everything on a CPU's lists back to the buddy; the number of frames."""
        before = self.listed
        for z in range(self.table.nr_zones):
            c = z * self.cpus + cpu
            self.spill(z, c, self.list[c].count)
        return before - self.listed

    def drain_all(self):
        """Gives everything on all lists back to the buddy; the number of frames."""
        drained = 0
        for cpu in range(self.cpus):
            if self.listed == 0:
                break
            drained += self.drain(cpu)
        return drained

    def within_reach(self, z, cpu):
        """Frames of a zone that a CPU can get without anybody draining a list."""
        return self.buddy.zone[z].nr_free + self.list[z * self.cpus + cpu].count

    # Python's side: for reports, validators and tests.

    def describe(self, z, cpu):
        """``(head, tail, count)`` of a list, as stored."""
        c = z * self.cpus + cpu
        return (self.list[c].head, self.list[c].tail, self.list[c].count)

    def listed_in(self, z):
        """Frames of a zone that are on lists."""
        return sum([self.list[z * self.cpus + cpu].count for cpu in range(self.cpus)])

    def poke(self, z, cpu, field, value):
        """Overwrites one field of a list: for the tests that break structures on purpose, and for nothing else."""
        c = z * self.cpus + cpu
        if field == "head":
            self.list[c].head = value
        elif field == "tail":
            self.list[c].tail = value
        elif field == "count":
            self.list[c].count = value
        elif field == "listed":
            self.listed = value
        else:
            raise KeyError(field)
