"""The chunks of the per-CPU allocator: made, placed in slots, populated, destroyed (specification section 7.2).

Idea: what a chunk needs from the floors below is done here - areas at the distances of the layout, frames for its
pages - and counted, so that the allocator above only decides which chunk serves whom, and when one is no longer worth
keeping.

A *slot* has the chunks with a certain number of bits in their count of free granules: between 2**k and 2**(k+1) of
them.  A chunk moves when its count crosses a power of two, which is rare, and a search for the fullest chunk begins at
the first slot that can serve at all.

The first chunk is one of the chunks: its dynamic part is allocated from like any other; its reserved part stands apart.

The areas of a chunk belong to it: whoever tries to free one by its address is refused (``vm.is_array``).
"""

import cython

from vmalloc.calls import pcpu_areas
from vmalloc.errors import BadSize, OutOfAddresses, OutOfFrames, VmallocError
from vmalloc.flags import GFP_KERNEL
from vmalloc.percpu import first_chunk
from vmalloc.percpu.layout import PercpuSettings, cpu_to_node, make_layout, page_layout
from vmalloc.units import format_size

if not cython.compiled:
    from vmalloc.flags import TASK
    from vmalloc.percpu.chunk import Chunk
    from vmalloc.percpu.populate import depopulate, destroy_frames, populate

    GRANULE_SHIFT = 2
    NR_SLOTS = 33

__all__ = ["Chunks"]


class Chunks:
    """All chunks of a space.

    Args:
        state: the space's state.
        settings: ``PercpuSettings``, or a mapping of some of its values.

    Attributes:
        layout: the shape of all chunks; None before the first allocation.
        chunks: all chunks, the dynamic part of the first one included; ``reserved``: that part of the first one.
        nr_empty, nr_populated: empty pages and populated pages, the reserved part left out.
    """

    def __init__(self, state, settings):
        self.state = state
        self.machine = state.machine
        self.settings = PercpuSettings.of(settings)
        info = state.info
        self.nodes = tuple([cpu_to_node(cpu, info.cpus, info.nodes) for cpu in range(info.cpus)])
        self.reset()

    def reset(self):
        """No chunk, and no layout: the state before the first allocation."""
        self.layout = None
        self.unit_offsets = ()
        self.chunks = []
        self.reserved = None
        self.first_units = ()
        self.first_areas = []
        self.slots = [{} for _ in range(NR_SLOTS)]
        self.nr_empty = 0
        self.nr_populated = 0
        self.made = 0
        self.destroyed = 0
        self.pages_populated = 0
        self.pages_depopulated = 0

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

    # -- pages -----------------------------------------------------------------------------------------------------

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

    # -- the end ---------------------------------------------------------------------------------------------------

    def release_all(self):
        """Gives everything back, the first chunk included; no object is live any more."""
        if self.layout is None:
            return
        for chunk in [chunk for chunk in self.chunks if not chunk.fixed]:
            self.destroy_chunk(chunk)
        if self.first_areas:
            self.release_areas(self.first_areas)
            for unit in self.first_units:
                for pfn in unit:
                    self.machine.give(pfn, 0)
        else:
            first_chunk.give_back_first(self.state, self.layout, self.first_units)
        self.state.percpu_pages = 0
        self.reset()


def slot_of(granules):
    """The slot of a chunk with so many free granules."""
    slot = 0
    while granules != 0:
        granules >>= 1
        slot += 1
    return slot
