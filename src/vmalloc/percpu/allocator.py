"""``alloc_percpu`` and ``free_percpu``: chunks, and the work that keeps them (specification section 7.2).

Told from top to bottom (``alloc``):

1. sizes and alignments that no unit serves are refused, with the kernel's message;
2. a fit: chunks are kept in *slots* by how much of them is free, and the fullest that can serve is taken from, so that
   the emptier ones get a chance to become wholly free;
3. none fits? A new chunk: ``pcpu_get_vm_areas``, as high as it goes;
4. pages of the object that have no frames get some, for all CPUs (``populate``);
5. the object's bytes are zeroed in every unit.

A caller that must not wait - in an interrupt, or with a gfp without reclaim - gets what is populated already: no chunk
and no page is made for him.  For his sake a few *empty* pages, populated but unused, are kept in reserve by the balance
work.  That work is queued with the machine, runs in task context, and has three parts:

* chunks without objects are destroyed, all but one;
* the reserve is filled up: to ``EMPTY_HIGH`` pages, and beyond that by what an atomic caller missed;
* a chunk a quarter of whose pages are empty gives them back, until the reserve is not larger than that.

Freeing only marks bytes free and queues the work, so it may be done anywhere but in an NMI.

States of a page::

    missing --populate (task, balance)--> populated --alloc--> used --free of the last object--> populated
       ^---------------------- depopulate (balance), destroy ------------------'

Protected by the lock of the space.
"""

import cython

from vmalloc.errors import BadAddress, BadSize, OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_KERNEL, format_gfp
from vmalloc.percpu.chunks import Chunks
from vmalloc.percpu.layout import MIN_UNIT_SIZE
from vmalloc.units import is_power_of_two

if not cython.compiled:
    from vmalloc.flags import GFP_DIRECT_RECLAIM, GFP_NOWARN, NMI, TASK
    from vmalloc.percpu.chunk import PercpuObject
    from vmalloc.percpu.chunks import NR_SLOTS, slot_of
    from vmalloc.percpu.free_map import NOT_FOUND as NONE
    from vmalloc.percpu.layout import EMPTY_HIGH, EMPTY_LOW
    from vmalloc.percpu.populate import zero_object

    GRANULE_SHIFT = 2
    MAX_SIZE = MIN_UNIT_SIZE

__all__ = ["PercpuAllocator"]


class PercpuAllocator(Chunks):
    """The per-CPU allocator of a space.

    Args:
        state: the space's state.
        settings: ``PercpuSettings``, or a mapping of some of its values.

    Attributes:
        nr_objects: live objects, those of the reserved part left out.
    """

    def __init__(self, state, settings):
        Chunks.__init__(self, state, settings)
        self.forget()

    def forget(self):
        """Begins anew: nothing was ever allocated."""
        self.nr_objects = 0
        self.balance_queued = False
        self.stuck = False
        self.wanted_pages = 0
        self.allocations = 0
        self.failures = 0
        self.balances = 0

    # -- allocate --------------------------------------------------------------------------------------------------

    def alloc(self, size, align, gfp, reserved, caller):
        """Allocates an object; see the opening of this file.

        Args:
            size, align: bytes; at most 32 KiB, and a power of two up to the page.
            reserved: from the reserved part of the first chunk.

        Raises:
            BadContext: in an NMI. BadSize: a size or an alignment that no chunk serves.
            OutOfAddresses, OutOfFrames: no chunk could be made, or no page populated; nothing was changed.
        """
        state = self.state
        if self.machine.running.context == NMI:
            raise state.refuse("alloc_percpu", "the per-CPU allocator takes locks")
        if not 0 < size <= MAX_SIZE or not is_power_of_two(align) or align > state.page_size:
            raise BadSize(state.warn(f"illegal size ({size}) or align ({align}) for percpu allocation"))
        if self.layout is None:
            self.set_up()
        atomic = self.machine.running.context != TASK or not gfp & GFP_DIRECT_RECLAIM
        granules = (size + 3) >> GRANULE_SHIFT
        order = 0
        while (1 << (order + GRANULE_SHIFT)) < align:
            order += 1
        try:
            if reserved:
                chunk = self.reserved_with_room(size, align, granules, order)
            else:
                chunk = self.chunk_with_room(size, align, granules, order, atomic, gfp)
        except (OutOfAddresses, OutOfFrames) as error:
            self.fail(size, align, gfp, reserved, atomic, error)
            raise
        return self.take(chunk, size, align, granules, gfp, reserved, atomic, caller)

    def reserved_with_room(self, size, align, granules, order):
        """The reserved part of the first chunk, with a fit noted in ``found``; raises OutOfAddresses."""
        chunk = self.reserved
        if chunk is not None:
            self.found = chunk.find(granules, order) if chunk.may_fit(granules, order) else NONE
            if self.found != NONE:
                return chunk
        start = 0 if chunk is None else chunk.base + chunk.start
        end = 1 if chunk is None else chunk.base + chunk.end
        raise OutOfAddresses(size, align, start, end, "the reserved part of the first per-CPU chunk")

    def chunk_with_room(self, size, align, granules, order, atomic, gfp):
        """A chunk that has room, all of it populated, with the fit noted in ``found``."""
        chunk = self.search(granules, order, atomic)
        if atomic:
            if chunk is None:
                self.wanted_pages = max(self.wanted_pages, ((size - 1) >> self.state.page_shift) + 1)
                self.queue_balance()
                raise OutOfFrames(
                    f"no populated per-CPU memory for {size} bytes aligned to {align}, and the caller must not wait"
                )
        elif chunk is None:
            chunk = self.create_chunk(size, align)
            self.found = chunk.find(granules, order)
            try:
                self.populate_range(chunk, self.found, granules, gfp)
            except OutOfFrames:
                self.destroy_chunk(chunk)
                raise
        else:
            self.populate_range(chunk, self.found, granules, gfp)
        return chunk

    def search(self, granules, order, atomic):
        """The fullest chunk with room, or None; the fit is noted in ``found``."""
        slot = slot_of(granules)
        while slot < NR_SLOTS:
            for chunk in self.slots[slot]:
                if self.fits(chunk, granules, order, atomic):
                    return chunk
            slot += 1
        return None

    def fits(self, chunk, granules, order, atomic):
        """Whether a chunk has room; the fit is noted in ``found``."""
        if not chunk.may_fit(granules, order):
            return False
        if atomic and chunk.nr_populated < chunk.nr_pages:
            self.found = chunk.find_populated(granules, order)
        else:
            self.found = chunk.find(granules, order)
        return self.found != NONE

    def take(self, chunk, size, align, granules, gfp, reserved, atomic, caller):
        """Takes the fit in ``found``, zeroed; the object."""
        start = self.found
        offset = start << GRANULE_SHIFT
        zero_object(self.machine, chunk, offset, size)
        empty = chunk.nr_empty
        chunk.take(start, granules)
        found = PercpuObject(chunk, offset, size, align, caller)
        chunk.objects[offset] = found
        self.allocations += 1
        if not reserved:
            self.nr_objects += 1
            self.nr_empty -= empty - chunk.nr_empty
            self.place(chunk)
            if self.nr_empty < EMPTY_LOW and not self.stuck:
                self.queue_balance()
        if self.state.observer is not None:
            self.trace_alloc(found, gfp, reserved, atomic)
        return found

    def fail(self, size, align, gfp, reserved, atomic, error):
        """Notes a failure in the kernel's words."""
        self.failures += 1
        kind = "reserved " if reserved else ""
        if not gfp & GFP_NOWARN:
            self.state.warn(f"percpu: {kind}allocation failed, size={size} align={align} atomic={int(atomic)}, {error}")
        if self.state.observer is not None:
            self.state.observer(
                "percpu_alloc_percpu_fail", reserved=int(reserved), is_atomic=int(atomic), size=size, align=align
            )

    def trace_alloc(self, found, gfp, reserved, atomic):
        """Fires the event of an allocation."""
        self.state.observer(
            "percpu_alloc_percpu", call_site=str(found.caller), reserved=int(reserved), is_atomic=int(atomic),
            size=found.size, align=found.align, base_addr=found.chunk.base, off=found.offset, ptr=found.base,
            bytes_alloc=((found.size + 3) >> GRANULE_SHIFT) << GRANULE_SHIFT, gfp_flags=format_gfp(gfp),
        )  # fmt: skip

    # -- free ------------------------------------------------------------------------------------------------------

    def free(self, found):
        """Frees an object.

        Raises:
            BadContext: in an NMI. BadAddress: it was freed already; nothing was changed.
        """
        if self.machine.running.context == NMI:
            raise self.state.refuse("free_percpu", "the per-CPU allocator takes locks")
        chunk = found.chunk
        if not found.live or chunk.objects.get(found.offset) is not found:
            raise BadAddress(chunk.base + found.offset, "this per-CPU object was freed already")
        found.live = False
        del chunk.objects[found.offset]
        empty = chunk.nr_empty
        chunk.release(found.offset >> GRANULE_SHIFT, (found.size + 3) >> GRANULE_SHIFT)
        if chunk is not self.reserved:
            self.nr_objects -= 1
            self.nr_empty += chunk.nr_empty - empty
            self.stuck = False
            self.place(chunk)
            if not chunk.fixed and (not chunk.objects or self.gives_back(chunk)):
                self.queue_balance()
        if self.state.observer is not None:
            self.state.observer(
                "percpu_free_percpu", base_addr=chunk.base, off=found.offset, ptr=chunk.base + found.offset
            )

    def object_at(self, base):
        """The object whose ``base`` is given; raises BadAddress where there is none."""
        parts = self.chunks if self.reserved is None else [*self.chunks, self.reserved]
        for chunk in parts:
            if 0 <= base - chunk.base < chunk.nr_pages << chunk.page_shift:
                found = chunk.objects.get(base - chunk.base)
                if found is not None:
                    return found
        raise BadAddress(base, "is not the base of a live per-CPU object")

    # -- the balance work ------------------------------------------------------------------------------------------

    def queue_balance(self):
        """Asks for the balance work, once."""
        if not self.balance_queued:
            self.balance_queued = True
            self.machine.defer(Balance(self), self.machine.running.cpu)

    def balance(self):
        """The work; see the opening of this file. What it cannot have it does without."""
        self.balance_queued = False
        if self.layout is None:  # closed meanwhile
            return
        self.balances += 1
        self.destroy_idle_chunks()
        for chunk in list(self.chunks):
            if self.gives_back(chunk):
                self.give_back_pages(chunk)
        try:
            self.fill_reserve()
            self.stuck = False
        except (OutOfAddresses, OutOfFrames):
            self.stuck = True  # asked again after the next free, or by the next atomic caller
        self.wanted_pages = 0

    def destroy_idle_chunks(self):
        """Destroys chunks without objects, all but the oldest of them."""
        idle = [chunk for chunk in self.chunks if not chunk.fixed and not chunk.objects]
        for chunk in idle[1:]:
            self.destroy_chunk(chunk)

    def gives_back(self, chunk):
        """Whether a chunk has so many empty pages that they are given back."""
        return not chunk.fixed and self.nr_empty > EMPTY_HIGH and 4 * chunk.nr_empty >= chunk.nr_pages

    def give_back_pages(self, chunk):
        """Gives empty pages of a chunk back, the last first, as long as the reserve is too large."""
        excess = min(self.nr_empty - EMPTY_HIGH, chunk.nr_empty)
        page = chunk.nr_pages
        while excess > 0:
            page -= 1
            if chunk.populated[page] == 0 or chunk.used[page] != 0:
                continue
            end = page + 1
            while page > 0 and end - page < excess and chunk.populated[page - 1] != 0 and chunk.used[page - 1] == 0:
                page -= 1
            self.depopulate_pages(chunk, page, end)
            excess -= end - page

    def fill_reserve(self):
        """Populates empty pages up to ``EMPTY_HIGH``, and what an atomic caller missed."""
        missing = EMPTY_HIGH + self.wanted_pages if self.wanted_pages else EMPTY_HIGH - self.nr_empty
        if missing <= 0:
            return
        for slot in range(NR_SLOTS):
            for chunk in self.slots[slot]:
                missing -= self.populate_some(chunk, missing)
        if missing > 0:
            self.populate_some(self.create_chunk(self.state.page_size, 1), missing)

    def populate_some(self, chunk, wanted):
        """Populates up to so many missing pages of a chunk; how many."""
        done = 0
        page = chunk.first_missing(0, chunk.nr_pages)
        while page < chunk.nr_pages and done < wanted:
            end = page + 1
            while end < chunk.nr_pages and end - page < wanted - done and chunk.populated[end] == 0:
                end += 1
            self.populate_pages(chunk, page, end, GFP_KERNEL)
            done += end - page
            page = chunk.first_missing(end, chunk.nr_pages)
        return done

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self):
        """Gives everything back, objects and the first chunk included: the space is closed."""
        for chunk in self.chunks + ([] if self.reserved is None else [self.reserved]):
            for found in list(chunk.objects.values()):
                found.live = False
            chunk.objects.clear()
        self.release_all()
        self.forget()


class Balance:
    """The work item."""

    def __init__(self, allocator):
        self.allocator = allocator

    def __call__(self):
        self.allocator.balance()
