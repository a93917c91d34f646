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

from vmalloc.calls import pcpu_areas
from vmalloc.errors import BadAddress, BadSize, OutOfAddresses, OutOfFrames, VmallocError
from vmalloc.flags import GFP_KERNEL, format_gfp
from vmalloc.percpu import first_chunk
from vmalloc.percpu.layout import MIN_UNIT_SIZE, PercpuSettings, cpu_to_node, make_layout, page_layout
from vmalloc.units import format_size, is_power_of_two

if not cython.compiled:
    from vmalloc.flags import GFP_DIRECT_RECLAIM, GFP_NOWARN, NMI, TASK
    from vmalloc.percpu.chunk import Chunk, PercpuObject
    from vmalloc.percpu.free_map import NOT_FOUND as NONE
    from vmalloc.percpu.layout import EMPTY_HIGH, EMPTY_LOW
    from vmalloc.percpu.populate import depopulate, destroy_frames, populate, zero_object

    GRANULE_SHIFT = 2
    NR_SLOTS = 33
    MAX_SIZE = MIN_UNIT_SIZE

__all__ = ["PercpuAllocator"]


class PercpuAllocator:
    """The per-CPU allocator of a space.

    Args:
        state: the space's state.
        settings: ``PercpuSettings``, or a mapping of some of its values.

    Attributes:
        layout: the shape of all chunks; None before the first allocation.
        chunks: all chunks, the dynamic part of the first one included; ``reserved``: that part of the first one.
        nr_objects, nr_empty, nr_populated: live objects, empty pages and populated pages, not counting the reserved part.
    """

    def __init__(self, state, settings):
        self.state = state
        self.machine = state.machine
        self.settings = PercpuSettings.of(settings)
        self.layout = None
        self.unit_offsets = ()
        info = state.info
        self.nodes = tuple([cpu_to_node(cpu, info.cpus, info.nodes) for cpu in range(info.cpus)])
        self.chunks = []
        self.reserved = None
        self.first_units = ()
        self.first_areas = []
        self.slots = [{} for _ in range(NR_SLOTS)]
        self.nr_objects = 0
        self.nr_empty = 0
        self.nr_populated = 0
        self.balance_queued = False
        self.stuck = False
        self.wanted_pages = 0
        self.made = 0
        self.destroyed = 0
        self.allocations = 0
        self.failures = 0
        self.pages_populated = 0
        self.pages_depopulated = 0
        self.balances = 0

    # -- the first chunk -------------------------------------------------------------------------------------------

    def set_up(self):
        """Makes the first chunk, as the boot would have: whatever context runs now.

        Raises:
            OutOfFrames, OutOfAddresses: not enough memory for it; nothing was changed.
        """
        context = self.machine.running.context
        self.machine.running.context = TASK
        try:
            self.set_up_first_chunk()
        finally:
            self.machine.running.context = context

    def set_up_first_chunk(self):
        """``set_up`` in task context."""
        if self.settings.first_chunk != "page":
            try:
                self.set_up_embedded()
                return
            except OutOfFrames as error:
                if self.settings.first_chunk == "embed":
                    raise
                self.state.warn(f"percpu: embedding failed, using page size: {error}")
        self.set_up_paged()

    def set_up_embedded(self):
        """The first chunk in the permanent map; raises OutOfFrames."""
        info = self.state.info
        layout, base, units = first_chunk.embed(self.state, make_layout(info, self.settings))
        first_chunk.trim_first(self.state, layout, units)
        if first_chunk.span_is_too_large(self.state, layout) and self.settings.first_chunk == "auto":
            first_chunk.give_back_first(self.state, layout, units)
            raise OutOfFrames("the groups of per-CPU memory are too far apart")
        self.first_units = tuple(units)
        self.adopt_first(layout, base, [])

    def set_up_paged(self):
        """The first chunk in the vmalloc range."""
        layout = page_layout(self.state.info, self.settings)
        self.layout, self.unit_offsets = layout, layout.unit_offsets
        try:
            areas = self.reserve_areas()
        except VmallocError:
            self.layout, self.unit_offsets = None, ()
            raise
        base = areas[0].addr - layout.group_offsets[0]
        size = layout.size_sum
        whole = Chunk(base, layout.unit_pages, self.state.page_shift, self.state.info.cpus, areas, True, 0, size)
        used = size // layout.page_size
        try:
            populate(self.machine, whole, self.unit_offsets, self.nodes, 0, used, GFP_KERNEL)
        except VmallocError:
            self.release_areas(areas)
            self.layout, self.unit_offsets = None, ()
            raise
        self.first_units = tuple(
            [tuple([whole.frame(page, cpu) for page in range(used)]) for cpu in range(whole.nr_cpus)]
        )
        self.adopt_first(layout, base, areas)

    def adopt_first(self, layout, base, areas):
        """Makes the parts of the first chunk, whose frames are there, chunks to allocate from."""
        info = self.state.info
        self.layout, self.unit_offsets = layout, layout.unit_offsets
        self.first_areas = areas
        self.reserved, dynamic = first_chunk.usable_chunks(layout, base, self.state.page_shift, info.cpus, areas)
        self.fill_fixed(dynamic, base)
        if self.reserved is not None:
            self.fill_fixed(self.reserved, base)
        self.add_chunk(dynamic)

    def fill_fixed(self, chunk, base):
        """Notes the frames of a part of the first chunk."""
        skip = (chunk.base - base) >> self.state.page_shift
        for page in range(chunk.nr_pages):
            for cpu in range(chunk.nr_cpus):
                chunk.set_frame(page, cpu, self.first_frame(cpu, skip + page))
        chunk.set_populated(0, chunk.nr_pages)

    def first_frame(self, cpu, page):
        """The frame of a page of the first chunk."""
        unit = self.first_units[cpu]
        return unit + page if isinstance(unit, int) else unit[page]

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

    def populate_range(self, chunk, start, granules, gfp):
        """Populates the pages of ``[start, start + granules)`` that are missing, all or none; raises OutOfFrames."""
        shift = self.state.page_shift - GRANULE_SHIFT
        end = ((start + granules - 1) >> shift) + 1
        page = chunk.first_missing(start >> shift, end)
        done = []
        while page < end:
            stop = page + 1
            while stop < end and chunk.populated[stop] == 0:
                stop += 1
            try:
                self.populate_pages(chunk, page, stop, gfp)
            except OutOfFrames:
                for first, behind in done:
                    self.depopulate_pages(chunk, first, behind)
                raise
            done.append((page, stop))
            page = chunk.first_missing(stop, end)

    def populate_pages(self, chunk, first, end, gfp):
        """Populates missing pages; raises OutOfFrames."""
        empty = chunk.nr_empty
        populate(self.machine, chunk, self.unit_offsets, self.nodes, first, end, gfp)
        self.nr_empty += chunk.nr_empty - empty
        self.nr_populated += end - first
        self.pages_populated += end - first
        self.state.percpu_pages += (end - first) * chunk.nr_cpus

    def depopulate_pages(self, chunk, first, end):
        """Takes the frames of empty pages away."""
        depopulate(self.machine, chunk, self.unit_offsets, first, end)
        self.nr_empty -= end - first
        self.nr_populated -= end - first
        self.pages_depopulated += end - first
        self.state.percpu_pages -= (end - first) * chunk.nr_cpus

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

    # -- chunks ----------------------------------------------------------------------------------------------------

    def place(self, chunk):
        """Puts a chunk into the slot of its free bytes."""
        slot = slot_of(chunk.map.nr_free)
        if slot != chunk.slot:
            if chunk.slot >= 0:
                del self.slots[chunk.slot][chunk]
            self.slots[slot][chunk] = None
            chunk.slot = slot

    def add_chunk(self, chunk):
        """Notes a new chunk."""
        self.chunks.append(chunk)
        self.nr_empty += chunk.nr_empty
        self.nr_populated += chunk.nr_populated
        self.state.percpu_pages += chunk.nr_populated * chunk.nr_cpus
        self.place(chunk)

    def reserve_areas(self):
        """The areas of a chunk; nobody but this allocator frees them."""
        layout = self.layout
        areas = pcpu_areas.pcpu_get_vm_areas(
            self.state, list(layout.group_offsets), list(layout.group_sizes), layout.atom_size, "pcpu_get_vm_areas"
        )
        for vm in areas:
            vm.is_array = True
        return areas

    def release_areas(self, areas):
        """Unmaps the areas of a chunk and makes them lazy."""
        for vm in areas:
            vm.is_array = False
        pcpu_areas.pcpu_free_vm_areas(self.state, areas)

    def create_chunk(self, size, align):
        """Makes a chunk, without frames.

        Raises:
            OutOfAddresses: no base at which all groups are free. OutOfFrames: no memory for records.
        """
        state, layout = self.state, self.layout
        try:
            areas = self.reserve_areas()
        except BadSize as error:
            reason = f"a chunk of {len(layout.groups)} groups: {error}"
            raise OutOfAddresses(size, align, state.vmalloc_start, state.vmalloc_end, reason) from error
        except OutOfAddresses as error:
            span = format_size(layout.span)
            reason = f"a chunk of {len(layout.groups)} groups that span {span}, even after a purge"
            raise OutOfAddresses(size, align, state.vmalloc_start, state.vmalloc_end, reason) from error
        base = areas[0].addr - layout.group_offsets[0]
        chunk = Chunk(
            base, layout.unit_pages, state.page_shift, state.info.cpus, areas, False, 0, layout.unit_size
        )  # fmt: skip
        self.add_chunk(chunk)
        self.made += 1
        if state.observer is not None:
            state.observer("percpu_create_chunk", base_addr=base)
        return chunk

    def destroy_chunk(self, chunk):
        """Gives a chunk without objects back: addresses lazily, without a flush, then the frames."""
        del self.slots[chunk.slot][chunk]
        self.chunks.remove(chunk)
        self.release_areas(chunk.areas)
        pages = chunk.nr_populated
        self.nr_empty -= chunk.nr_empty
        self.nr_populated -= pages
        self.state.percpu_pages -= pages * chunk.nr_cpus
        destroy_frames(self.machine, chunk)
        self.pages_depopulated += pages
        self.destroyed += 1
        if self.state.observer is not None:
            self.state.observer("percpu_destroy_chunk", base_addr=chunk.base)

    # -- the balance work ------------------------------------------------------------------------------------------

    def queue_balance(self):
        """Asks for the balance work, once."""
        if not self.balance_queued:
            self.balance_queued = True
            self.machine.defer(Balance(self), self.machine.running.cpu)

    def balance(self):
        """The work; see the opening of this file. What it cannot have it does without."""
        self.balance_queued = False
        if self.layout is None:
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
        if self.layout is None:
            return
        for chunk in self.chunks + ([] if self.reserved is None else [self.reserved]):
            for found in list(chunk.objects.values()):
                found.live = False
            chunk.objects.clear()
        for chunk in [chunk for chunk in self.chunks if not chunk.fixed]:
            self.destroy_chunk(chunk)
        if self.first_areas:
            self.release_areas(self.first_areas)
            for unit in self.first_units:
                for pfn in unit:
                    self.machine.give(pfn, 0)
        else:
            first_chunk.give_back_first(self.state, self.layout, self.first_units)
        self.__init__(self.state, self.settings)
        self.state.percpu_pages = 0


class Balance:
    """The work item."""

    def __init__(self, allocator):
        self.allocator = allocator

    def __call__(self):
        self.allocator.balance()


def slot_of(granules):
    """The slot of a chunk with so many free granules."""
    slot = 0
    while granules != 0:
        granules >>= 1
        slot += 1
    return slot
