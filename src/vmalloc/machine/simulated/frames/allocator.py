"""Page frames of a simulated machine: who gets which, and who has them.

Idea: a machine's memory is frames of one page each, numbered by ``pfn``, on NUMA nodes.  A request names an order, a
node, the highest kind of zone it may be served from, and the CPU that asks.  Zones are asked in the order that
``layout`` computed; the first that can serve does: single frames through the CPU's list (``cpu_lists``),
blocks from the buddy (``buddy``).  There are no watermarks: the last frame is handed out like the first.

The calls that simulate - ``alloc``, ``free``, ``split`` and their kin - are compiled, run without the interpreter lock
and speak numbers: a frame or -1, 0 or an error code of ``states``.  They trust their node, zone limit and CPU,
and nothing else: each free is checked against the record of the frame.  What Python calls, with words for owners and
exceptions for codes, is ``memory``.

A request that fails changes nothing.  Frames on lists of other CPUs are not looked at: a caller that may wait drains
them and asks again (``alloc_draining``), one that is only trying its luck does not.

What a frame holds is in ``contents``; being handed out is what makes old contents unreadable.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.frames.buddy import Buddy
from vmalloc.machine.simulated.frames.cpu_lists import CpuLists
from vmalloc.machine.simulated.frames.layout import DMA32_LIMIT, layout_of
from vmalloc.machine.simulated.frames.table import FrameTable

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.machine.simulated.frames.plain import ZoneOrder
    from vmalloc.machine.simulated.frames.states import (
        MAX_ORDER,
        NEVER,
        NO_FRAME,
        NR_KINDS,
        SECTION_MASK,
        SECTION_SHIFT,
        USED,
    )

__all__ = ["PCP_BATCH", "PCP_HIGH", "FrameAllocator"]

#: As many as any Linux: so many lists can still be counted with 32 bits.
MAX_CPUS = 1 << 16

#: Frames a CPU's list takes and gives back at once, and holds at most.
PCP_BATCH, PCP_HIGH = 63, 378


class FrameAllocator:
    """All page frames of a machine.

    Args:
        nodes, page_shift, distances, dma32_limit: the machine's shape, see ``layout.layout_of``.
        cpus: number of CPUs.
        batch, high: of the CPUs' lists, in frames; ``batch`` 0 for none.

    Raises:
        BadRequest: there can be no such machine.
    """

    def __cinit__(
        self, nodes, page_shift=12, cpus=1, distances=None, dma32_limit=DMA32_LIMIT, batch=PCP_BATCH, high=PCP_HIGH
    ):
        if not (0 < cpus <= MAX_CPUS and 0 <= batch <= high < 1 << 32 and 0 <= page_shift < 32):
            raise BadRequest(f"{cpus} CPUs with lists of {high} frames, {batch} at a time; page shift {page_shift}")
        layout = layout_of(nodes, page_shift, distances, dma32_limit)
        self.layout = layout
        self.page_shift = page_shift
        self.cpus = cpus
        self.nr_nodes = layout.nr_nodes
        self.table = FrameTable(layout)
        self.buddy = Buddy(self.table)
        self.lists = CpuLists(self.buddy, cpus, batch, high)
        if self.reserve(len(layout.asked), sum([len(zones) for zones in layout.asked])) != 0:
            raise MemoryError(f"no memory for the order of zones of {self.nr_nodes} nodes")
        k = 0
        for w in range(len(layout.asked)):
            self.asked[w].first = k
            self.asked[w].near = layout.near[w]
            self.asked[w].all = len(layout.asked[w])
            for z in layout.asked[w]:
                self.zones[k] = z
                k += 1

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.asked)
            free(self.zones)

    def reserve(self, nr_requests, nr_zones):
        """Makes the tables of zones to ask; 0, or -1 when memory is exhausted."""
        if cython.compiled:
            self.asked = cython.cast(cython.pointer(zone_order), calloc(nr_requests, cython.sizeof(zone_order)))
            self.zones = cython.cast("uint32_t*", calloc(nr_zones + 1, cython.sizeof(cython.uint)))
            if self.asked == cython.NULL or self.zones == cython.NULL:
                return -1
        else:
            self.asked = [ZoneOrder() for _ in range(nr_requests)]
            self.zones = [0] * nr_zones
        return 0

    # The simulation's side.

    def alloc(self, order, node, zone_limit, cpu):
        """The first of ``2**order`` frames, from ``node`` or else the nearest node that has them; -1 for none."""
        w = node * NR_KINDS + zone_limit
        return self.alloc_from(self.asked[w].first, self.asked[w].all, order, cpu)

    def alloc_strict(self, order, node, zone_limit, cpu):
        """``alloc`` from ``node`` alone (the kernel's ``__GFP_THISNODE``)."""
        w = node * NR_KINDS + zone_limit
        return self.alloc_from(self.asked[w].first, self.asked[w].near, order, cpu)

    def alloc_draining(self, order, node, zone_limit, cpu):
        """``alloc`` that empties the lists of all CPUs before it gives up: what direct reclaim would do here."""
        pfn = self.alloc(order, node, zone_limit, cpu)
        if pfn < 0 and self.lists.drain_all() != 0:
            pfn = self.alloc(order, node, zone_limit, cpu)
        return pfn

    def alloc_from(self, first, nr_zones, order, cpu):
        """The first of ``2**order`` frames from the zones ``zones[first]`` and following; -1 for none."""
        if order > MAX_ORDER:
            return -1
        for k in range(nr_zones):
            z = self.zones[first + k]
            pfn = self.lists.pop(z, cpu) if order == 0 else self.buddy.take(z, order)
            if pfn != NO_FRAME:
                self.hand_out(pfn, order)
                return pfn
        return -1

    def hand_out(self, pfn, order):
        """Makes a block that was taken somebody's; what its frames held before is no longer to be read."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        s.row[i].state = USED
        s.row[i].owner = 0
        s.row[i].contents = NEVER
        if order != 0 and s.touched:
            for k in range(1, 1 << order):
                s.row[i + k].contents = NEVER

    def alloc_bulk(self, node, count, out, zone_limit, cpu):
        """Writes up to ``count`` single frames to ``out``; how many.

        A batch comes whole from one zone of ``node``.  Where none has as many, the call degrades to a single frame from
        wherever there is one (specification section 3.3 step 2): a short answer says "go on one by one".
        """
        w = node * NR_KINDS + zone_limit
        if count > 1:
            for k in range(self.asked[w].near):
                z = self.zones[self.asked[w].first + k]
                if self.lists.within_reach(z, cpu) >= count:
                    return self.take_batch(z, count, out, cpu)
        if count == 0:
            return 0
        pfn = self.alloc(0, node, zone_limit, cpu)
        if pfn < 0:
            return 0
        out[0] = pfn
        return 1

    def take_batch(self, z, count, out, cpu):
        """Writes ``count`` frames of one zone to ``out``; fewer only when the host has no memory for their records."""
        for n in range(count):
            pfn = self.lists.pop(z, cpu)
            if pfn == NO_FRAME:
                return n
            self.hand_out(pfn, 0)
            out[n] = pfn
        return count

    def check(self, pfn, order):
        """0 when ``pfn`` is an allocation of this order, else the error code that says why not."""
        if (pfn >> SECTION_SHIFT) < self.table.nr_sections:
            s = self.table.section[pfn >> SECTION_SHIFT]
            i = pfn & SECTION_MASK
            if s and s.row[i].state == USED and s.row[i].order == order:
                return 0
        return self.table.diagnose(pfn, order)

    def free(self, pfn, order, cpu):
        """Gives an allocation back, a single frame to the CPU's list; 0, or an error code and nothing changed."""
        code = self.check(pfn, order)
        if code != 0:
            return code
        z = self.table.section[pfn >> SECTION_SHIFT].zone
        if order == 0:
            self.lists.push(z, cpu, pfn)
        else:
            self.buddy.give(z, pfn, order)
        return 0

    def free_bulk(self, pfns, count, cpu):
        """Gives ``count`` single frames back; how many, up to the first that cannot be freed."""
        for n in range(count):
            if self.free(pfns[n], 0, cpu) != 0:
                return n
        return count

    def split(self, pfn, order):
        """Makes an allocation ``2**order`` single ones of the same owner; 0, or an error code and nothing changed."""
        code = self.check(pfn, order)
        if code != 0:
            return code
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        for k in range(1 << order):
            s.row[i + k].state = USED
            s.row[i + k].order = 0
            s.row[i + k].owner = s.row[i].owner
        return 0

    def set_owner(self, pfn, owner):
        """Writes down who holds an allocation; ``owner`` is a number that ``owner_number`` gave."""
        self.table.section[pfn >> SECTION_SHIFT].row[pfn & SECTION_MASK].owner = owner

    # Python's side: the same calls, for ``memory``, which checks what they trust.

    def try_alloc(self, order, node, zone_limit, cpu):
        """``alloc``."""
        return self.alloc(order, node, zone_limit, cpu)

    def try_alloc_strict(self, order, node, zone_limit, cpu):
        """``alloc_strict``."""
        return self.alloc_strict(order, node, zone_limit, cpu)

    def try_alloc_draining(self, order, node, zone_limit, cpu):
        """``alloc_draining``."""
        return self.alloc_draining(order, node, zone_limit, cpu)

    def try_alloc_bulk(self, node, out, zone_limit, cpu):
        """``alloc_bulk`` into ``out``, an ``array("Q")``, of as many frames as it has places."""
        return self.bulk_into(out, node, len(out), zone_limit, cpu)

    def bulk_into(self, out, node, count, zone_limit, cpu):
        if not cython.compiled:
            return self.alloc_bulk(node, count, out, zone_limit, cpu)
        PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
        count = self.alloc_bulk(node, count, cython.cast("uint64_t*", view.buf), zone_limit, cpu)
        PyBuffer_Release(cython.address(view))
        return count

    def try_free(self, pfn, order, cpu):
        """``free``."""
        return self.free(pfn, order, cpu)

    def try_free_bulk(self, pfns, cpu):
        """``free_bulk`` of an ``array("Q")``."""
        return self.bulk_from(pfns, len(pfns), cpu)

    def bulk_from(self, pfns, count, cpu):
        if not cython.compiled:
            return self.free_bulk(pfns, count, cpu)
        PyObject_GetBuffer(pfns, cython.address(view), PyBUF_SIMPLE)
        count = self.free_bulk(cython.cast("uint64_t*", view.buf), count, cpu)
        PyBuffer_Release(cython.address(view))
        return count

    def try_split(self, pfn, order):
        """``split``."""
        return self.split(pfn, order)

    def why_not(self, pfn, order):
        """``check``: 0, or why ``pfn`` is not an allocation of this order."""
        return self.check(pfn, order)

    def try_drain(self, cpu):
        """Gives the frames on a CPU's lists back to their zones; returns how many."""
        return self.lists.drain(cpu)

    def try_drain_all(self):
        """Gives the frames on all lists back to their zones; returns how many."""
        return self.lists.drain_all()

    def tag(self, pfn, owner):
        """``set_owner`` of a frame that is the first of an allocation."""
        self.set_owner(pfn, owner)
