"""``VmallocSpace``: one allocator over one machine, what users hold in their hands.

Idea: every method takes the lock, lets deferred work run, and hands over to one file of ``calls``; nothing is decided
here.  The order is the same everywhere (``enter``): areas whose handles were garbage collected are freed, and work that
interrupts left for a worker is done - both only in task context, where a worker would have run by now.

A handle may be collected at any moment, also while this thread is inside a call: then the lock is taken, the area is
put on ``dropped``, and the next call frees it.

Compiled although it decides nothing: a million calls a second pass here.
"""

import sys
import threading
from collections import deque
from numbers import Integral
from operator import index

import cython

from vmalloc.calls import access, early, frames, ioremap, kvmalloc, lookup, pcpu_areas, remap, vmap, vrealloc
from vmalloc.calls import kvfree_rcu as rcu_frees
from vmalloc.calls.aliases import reclaim_and_purge, unmap_aliases
from vmalloc.calls.kasan_report import report_access
from vmalloc.calls.state import VmallocState
from vmalloc.calls.vfree import refuse_free
from vmalloc.calls.vm_map_ram import unmap_everything
from vmalloc.calls.vmalloc import checked_align, checked_gfp, fix_gfp
from vmalloc.errors import BadAddress, BadRequest, BadSize, Fault, VmallocError
from vmalloc.flags import (
    GFP_DMA,
    VM_FLUSH_RESET_PERMS,
    VM_MAP_PUT_PAGES,
    parse_prot,
)
from vmalloc.pages import Pages
from vmalloc.percpu.allocator import PercpuAllocator
from vmalloc.percpu.stats import percpu_stats
from vmalloc.percpu.validate import validate_percpu
from vmalloc.space.area import Area
from vmalloc.space.per_cpu import PerCpu
from vmalloc.views.areas import areas_table
from vmalloc.views.meminfo import meminfo
from vmalloc.views.stats import stats
from vmalloc.views.vmallocinfo import vmallocinfo

if not cython.compiled:
    from vmalloc.calls.vfree import free_area
    from vmalloc.calls.vfree import free_vm_area as free_reserved
    from vmalloc.calls.vfree import vfree as free_address
    from vmalloc.calls.vfree import vfree_atomic as free_later
    from vmalloc.calls.vfree import vunmap as unmap_address
    from vmalloc.calls.vm_map_ram import vm_map_ram as map_ram
    from vmalloc.calls.vm_map_ram import vm_unmap_ram as unmap_ram
    from vmalloc.calls.vmalloc import vmalloc_node_range as allocate_range
    from vmalloc.calls.where import caller_of
    from vmalloc.flags import (
        GFP_DMA32,
        GFP_KERNEL,
        GFP_ZERO,
        PROT_READ,
        PROT_WRITE,
        TASK,
        VM_ALLOW_HUGE_VMAP,
        VM_USERMAP,
    )
    from vmalloc.percpu.chunk import PercpuObject

    PROT_RW = PROT_READ | PROT_WRITE

__all__ = ["VmallocSpace"]


class VmallocSpace:
    """One allocator over one machine; see the table of calls in ``docs/machine.md``.

    Args:
        machine: the machine.
        kernel: a ``KernelProfile``.
        early: ``EarlyAreas``, or ascending ``(start, end)``.
        observer: told what the kernel would trace: ``observer(event, **fields)``.
        kasan: a ``Kasan`` over this machine, that every load and store is checked by; None for none.
        policy: rules that differ from the kernel's (``policy.Policy``), or None.
        percpu: sizes of the first per-CPU chunk (``percpu.layout.PercpuSettings``).

    Attributes:
        machine: as given.
        state: what the calls work on.
        percpu: the allocator of per-CPU objects.
    """

    def __init__(self, machine, kernel, early_areas=(), observer=None, kasan=None, policy=None, percpu=None):
        ranges = early_areas.ranges if isinstance(early_areas, early.EarlyAreas) else early_areas
        self.machine = machine
        self.kasan = kasan
        self.state = VmallocState(machine, kernel, ranges, observer, kasan, policy)
        self.state.unlock_for = self.without_lock
        self.percpu = PercpuAllocator(self.state, percpu)
        self.lock = threading.Lock()
        self.acquire = self.lock.acquire
        self.unlock = self.lock.release
        self.dropped = deque()
        self.is_finalizing = sys.is_finalizing  # by then the names of modules may be gone
        self.closed = False

    # -- entering and leaving --------------------------------------------------------------------------------------

    def enter(self):
        """Takes the lock and lets what is due happen first."""
        self.lock_space()
        if self.closed:
            self.unlock()
            raise BadRequest("this space was closed")
        if self.machine.running.context == TASK:
            try:
                if self.dropped:
                    self.free_dropped()
                if self.machine.has_deferred():
                    self.machine.run_deferred()
            except BaseException:
                self.unlock()
                raise

    def lock_space(self):
        """Takes the lock; raises BadRequest in an observer, which is told under it and would wait for ever."""
        if self.state.observer is not None and getattr(self.state.observer, "telling", False):
            raise BadRequest("an observer must not call the space that tells it")
        self.acquire()

    def look(self):
        """Takes the lock for a call that only looks: nothing else happens."""
        self.lock_space()
        if self.closed:
            self.unlock()
            raise BadRequest("this space was closed")

    def enter_task(self, call, reason="it may sleep: task context only"):
        """``enter`` for a call that must not be made in an interrupt; raises BadContext there."""
        self.enter()
        if self.machine.running.context != TASK:
            self.unlock()
            raise self.state.refuse(call, reason)

    def without_lock(self, call):
        """Runs ``call`` without the lock: what it does may call this space."""
        self.unlock()
        try:
            found = call()
        finally:
            self.acquire()
        if self.closed:
            raise BadRequest("this space was closed while it asked for addresses")
        return found

    def drop(self, vm):
        """Frees an area whose handle is gone: now if that can be, else with the next call. Never raises.

        Not when the interpreter ends: then everything goes.
        """
        if self.is_finalizing():
            return
        self.dropped.append(vm)
        if self.acquire(False):
            try:
                if not self.closed and self.machine.running.context == TASK:
                    self.free_dropped()
            finally:
                self.unlock()

    def free_dropped(self):
        """Frees the areas whose handles are gone."""
        while self.dropped:
            vm = self.dropped.popleft()
            waits = not isinstance(vm, PercpuObject) and vm.addr in self.state.rcu_waiting  # then a worker frees it
            if vm.live and not waits:
                try:
                    self.free_record(vm)
                except VmallocError as error:
                    self.state.warn(f"an area that nobody holds could not be freed: {error}")

    def free_record(self, vm):
        """Frees an area, or a per-CPU object, by its record: as it was allocated."""
        if isinstance(vm, PercpuObject):
            self.percpu.free(vm)
            return
        if vm.addr in self.state.contiguous and self.state.contiguous[vm.addr] is vm:
            kvmalloc.kfree(self.state, vm.addr)
        else:
            free_address(self.state, vm.addr)

    # -- allocate --------------------------------------------------------------------------------------------------

    def allocate(self, size, align, gfp, vm_flags, node, prot=3):
        """The core call over the whole vmalloc range."""
        state = self.state
        caller = caller_of(3)
        self.enter()
        try:
            vm = allocate_range(
                state, size, align, state.vmalloc_start, state.vmalloc_end, gfp, prot, vm_flags, node, caller
            )
        finally:
            self.unlock()
        return Area(self, vm)

    def vmalloc(self, size, *, gfp=0xCC0):
        """Allocates ``size`` bytes, contiguous in virtual addresses; what is in them is anybody's guess.

        Args:
            size: bytes.
            gfp: ``GFP_*`` of ``vmalloc.flags`` (``__vmalloc``, section 2.3).

        Returns:
            The ``Area``.

        Raises:
            BadSize: not positive. ExceedsMemory: more than the machine has. BadContext: in an interrupt.
            OutOfAddresses, OutOfFrames: nothing left; nothing was changed.
        """
        if gfp != GFP_KERNEL:
            gfp = fix_gfp(self.state, gfp)
        return self.allocate(size, 1, gfp, 0, None)

    def vzalloc(self, size):
        """``vmalloc`` of zeros."""
        return self.allocate(size, 1, GFP_KERNEL | GFP_ZERO, 0, None)

    def vmalloc_node(self, size, node, *, align=1, gfp=0xCC0):
        """``vmalloc`` with frames of ``node``, or of the nearest that has some."""
        if gfp != GFP_KERNEL or align != 1:
            gfp, align = checked_gfp(gfp), checked_align(align)
        return self.allocate(size, align, gfp, 0, node)

    def vzalloc_node(self, size, node):
        """``vmalloc_node`` of zeros."""
        return self.allocate(size, 1, GFP_KERNEL | GFP_ZERO, 0, node)

    def vmalloc_huge(self, size, node=None, *, gfp=0xCC0):
        """``vmalloc`` on huge pages where the size is worth one; on base pages where there are none."""
        if gfp != GFP_KERNEL:
            gfp = fix_gfp(self.state, gfp)
        return self.allocate(size, 1, gfp, VM_ALLOW_HUGE_VMAP, node)

    def vmalloc_user(self, size):
        """Zeros that may be mapped to user space (``remap_vmalloc_range``), aligned for that."""
        return self.allocate(size, self.state.info.shmlba, GFP_KERNEL | GFP_ZERO, VM_USERMAP, None)

    def vmalloc_32(self, size):
        """``vmalloc`` of frames that a device with 32 address lines reaches."""
        return self.allocate(size, 1, GFP_KERNEL | self.low_memory(), 0, None)

    def vmalloc_32_user(self, size):
        """Both of ``vmalloc_32`` and ``vmalloc_user``."""
        gfp = GFP_KERNEL | GFP_ZERO | self.low_memory()
        return self.allocate(size, self.state.info.shmlba, gfp, VM_USERMAP, None)

    def low_memory(self):
        """The gfp bit of ``vmalloc_32``: the DMA32 zone, and on 32 bits what has no high memory in it."""
        return GFP_DMA32 if self.state.info.has_dma32 or self.state.info.word_bits == 32 else GFP_DMA

    def vmalloc_array(self, n, size):
        """``vmalloc`` of ``n`` elements of ``size`` bytes."""
        return self.allocate(self.product(n, size), 1, GFP_KERNEL, 0, None)

    def vcalloc(self, n, size):
        """``vmalloc_array`` of zeros."""
        return self.allocate(self.product(n, size), 1, GFP_KERNEL | GFP_ZERO, 0, None)

    def product(self, n, size):
        """Bytes of an array; raises BadSize for fewer than no elements, or elements of fewer than no bytes."""
        n, size = index(n), index(size)
        if n < 0 or size < 0:
            raise BadSize(f"{n} elements of {size} bytes")
        return n * size

    def vmalloc_node_range(
        self, size, align, start, end, *, gfp=0xCC0, prot="rw", vm_flags=0, node=None, caller=None
    ):
        """The core call: any alignment, window, protection, flags (``__vmalloc_node_range``, section 2.2).

        Raises:
            BadAddress: a window that is none. Others as ``vmalloc``.
        """
        state = self.state
        if caller is None:
            caller = caller_of(2)
        ioremap.expect_window(state, start, end)
        gfp, align = checked_gfp(gfp), checked_align(align)
        if not 0 <= vm_flags < 1 << 32:
            raise BadRequest(f"flags {vm_flags:#x}: they have 32 bits")
        self.enter()
        try:
            vm = allocate_range(
                state, size, align, start, end, gfp, parse_prot(prot), vm_flags, node, caller
            )
        finally:
            self.unlock()
        return Area(self, vm)

    def vrealloc(self, area, size, *, zero=False, gfp=0xCC0, align=1, node=None):
        """Resizes an area, in place where it has room; the area, or the one it moved to.

        A size of 0 frees it and gives None; no area at all is a plain allocation (section 2.5).
        """
        gfp = checked_gfp(gfp | GFP_ZERO if zero else gfp)
        if not self.state.kernel.has_vrealloc:
            raise BadRequest(f"Linux {self.state.kernel.name} has no vrealloc")
        if size == 0:
            self.vfree(area)
            return None
        if area is None:
            return self.allocate(size, checked_align(align), gfp, 0, node)
        caller = caller_of(2)
        self.enter()
        try:
            address = self.address_of(area, "vrealloc")
            old = self.state.find_area(address)
            vm = vrealloc.vrealloc(self.state, address, size, gfp, caller, align=align, node=node)
        finally:
            self.unlock()
        if vm is old:
            return area if isinstance(area, Area) else Area(self, vm, False)
        return Area(self, vm)

    def kvmalloc(self, size, *, gfp=0xCC0, node=None, zero=False):
        """Contiguous memory if it is to be had, else ``vmalloc`` (section 2.6); ``area.is_vmalloc`` says which."""
        caller = caller_of(2)
        gfp = checked_gfp(gfp | GFP_ZERO if zero else gfp)
        self.enter()
        try:
            vm = kvmalloc.kvmalloc(self.state, size, gfp, node, caller)
        finally:
            self.unlock()
        return Area(self, vm)

    def kvzalloc(self, size):
        """``kvmalloc`` of zeros."""
        return self.kvmalloc(size, zero=True)

    def kvmalloc_node(self, size, node):
        """``kvmalloc`` with frames of ``node``, or of the nearest that has some."""
        return self.kvmalloc(size, node=node)

    def kvmalloc_array(self, n, size):
        """``kvmalloc`` of ``n`` elements of ``size`` bytes."""
        return self.kvmalloc(self.product(n, size))

    def kvcalloc(self, n, size):
        """``kvmalloc_array`` of zeros."""
        return self.kvmalloc(self.product(n, size), zero=True)

    def kvrealloc(self, area, size, *, gfp=0xCC0):
        """Resizes what ``kvmalloc`` gave; the area, or the one it moved to (section 2.2)."""
        if area is None:
            return self.kvmalloc(size, gfp=gfp)
        caller = caller_of(2)
        gfp = checked_gfp(gfp)
        self.enter()
        try:
            address = self.address_of(area, "kvrealloc")
            old = self.state.contiguous.get(address) or self.state.find_area(address)
            vm = kvmalloc.kvrealloc(self.state, address, size, gfp, caller)
        finally:
            self.unlock()
        if vm is old:
            return area if isinstance(area, Area) else Area(self, vm, False)
        return Area(self, vm)

    # -- free ------------------------------------------------------------------------------------------------------

    def address_of(self, area, call=""):
        """The address that an area, or a number, names; raises BadAddress for an area that is gone.

        Args:
            call: which frees what it names; "" for one that does not.
        """
        if isinstance(area, Area):
            if not area.vm.live:
                if call:
                    refuse_free(self.state, area.vm.addr, call, "this area was freed already", True)
                raise BadAddress(area.vm.addr, "this area was freed already")
            if area.space is not self:
                raise BadAddress(area.vm.addr, "this area belongs to another space")
            return area.vm.addr
        return index(area)

    def vfree(self, area):
        """Frees an area, given itself or by the address of any of its pages; in an interrupt, later. None is ignored.

        Raises:
            BadAddress: not page aligned, in no area, freed already. BadContext: in an NMI.
        """
        if area is None:
            return
        self.enter()
        try:
            address = self.address_of(area, "vfree")
            if address in self.state.contiguous:
                raise BadAddress(address, "is contiguous memory; kvfree frees that")
            free_address(self.state, address)
        finally:
            self.unlock()

    def release(self, vm):
        """Frees an area by its record (``Area.free``)."""
        self.enter()
        try:
            if not vm.live:
                refuse_free(self.state, vm.addr, "vfree", "this area was freed already", True)
            self.free_record(vm)
        finally:
            self.unlock()

    def vfree_atomic(self, area):
        """Leaves an area to a worker to free; its first word is overwritten at once (section 6.3)."""
        if area is None:
            return
        self.enter()
        try:
            address = self.address_of(area, "vfree_atomic")
            free_later(self.state, address)
        finally:
            self.unlock()

    def kvfree(self, area):
        """Frees what ``kvmalloc`` gave."""
        if area is None:
            return
        self.enter()
        try:
            address = self.address_of(area, "kvfree")
            if self.state.vmalloc_start <= address < self.state.vmalloc_end:
                free_address(self.state, address)
            else:
                kvmalloc.kfree(self.state, address)
        finally:
            self.unlock()

    def kvfree_sensitive(self, area, size):
        """Zeroes the first ``size`` bytes of what ``kvmalloc`` gave, then frees it."""
        if area is None:
            return
        self.enter()
        try:
            kvmalloc.kvfree_sensitive(self.state, self.address_of(area, "kvfree_sensitive"), size)
        finally:
            self.unlock()

    # -- free after a grace period ---------------------------------------------------------------------------------

    def kvfree_rcu(self, area):
        """Frees what ``vmalloc`` or ``kvmalloc`` gave once no reader can hold it any more (``calls.rcu``).

        The handle owns nothing from here on, and is alive until then. None is ignored.

        Raises:
            BadAddress: not page aligned, in no area, waiting to be freed already. BadContext: in an NMI.
        """
        self.enter_rcu(area, rcu_frees.kvfree_rcu, "kvfree_rcu")

    def kvfree_rcu_mightsleep(self, area):
        """``kvfree_rcu`` with one argument: task context only, and it may wait for the grace period itself."""
        self.enter_rcu(area, rcu_frees.kvfree_rcu_mightsleep, "kvfree_rcu_mightsleep")

    def enter_rcu(self, area, call, name):
        """Makes one of the two calls."""
        if area is None:
            return
        self.enter()
        try:
            address = self.address_of(area, name)
            call(self.state, address)
            if isinstance(area, Area):
                area.owner = False
        finally:
            self.unlock()

    def synchronize_rcu(self):
        """Waits for a grace period: until every CPU has passed a quiescent state.

        Raises:
            BadContext: in an interrupt, or while a CPU is in a read-side section: that would be for ever.
        """
        self.enter()
        try:
            rcu_frees.synchronize_rcu(self.state)
        finally:
            self.unlock()

    def rcu_barrier(self):
        """Waits until everything that ``kvfree_rcu`` was given is free. Raises as ``synchronize_rcu``."""
        self.enter()
        try:
            rcu_frees.rcu_barrier(self.state)
        finally:
            self.unlock()

    def rcu_quiescent(self, *cpus):
        """CPUs, by default the running one, hold nothing that readers hold; what a scheduler says at its ticks.

        Raises:
            BadRequest: there is no such CPU.
        """
        self.look()
        try:
            if self.state.rcu.owing:
                for cpu in cpus:
                    if not 0 <= cpu < self.machine.info.cpus:
                        raise BadRequest(f"CPU {cpu} of a machine whose CPUs are 0 to {self.machine.info.cpus - 1}")
                self.state.rcu.quiescent(cpus or (self.machine.running.cpu,))
        finally:
            self.unlock()

    # -- map what exists -------------------------------------------------------------------------------------------

    def alloc_pages(self, count, *, node=None, order=0, gfp=0xCC0):
        """Allocates ``count`` contiguous blocks of ``2**order`` frames; a list of base pages for ``vmap``."""
        gfp = checked_gfp(gfp)
        self.enter()
        try:
            return frames.alloc_pages(self.state, count, node, order, gfp)
        finally:
            self.unlock()

    def free_pages(self, pages):
        """Gives frames back, all or none. Raises BadFrame for one that nobody has."""
        self.enter()
        try:
            frames.free_pages(self.state, self.pages_of(pages))
        finally:
            self.unlock()

    def pages_of(self, pages):
        """The frames that a list of frames, an area, or any nesting of them names, in order."""
        if isinstance(pages, Pages):
            return pages
        found = []
        self.gather(pages, found)
        return Pages(found, self.state.page_size)

    def gather(self, pages, found):
        """Appends the frame numbers that ``pages`` names to ``found``; see ``pages_of``."""
        if isinstance(pages, Area):
            if pages.space is not self:
                raise BadAddress(pages.vm.addr, "this area belongs to another space")
            if pages.pages is None:
                raise BadRequest(f"{pages!r} has no frames of its own")
            found.extend(pages.pages)
        elif isinstance(pages, Integral):
            found.append(index(pages))
        elif isinstance(pages, (str, bytes, bytearray)):
            raise TypeError(f"page frames are numbers, lists of them, or areas, not {type(pages).__name__}")
        else:
            for part in pages:
                self.gather(part, found)

    def vmap(self, pages, *, prot="rw", put_pages=False, flags=0):
        """Maps frames contiguously, without copying: of several areas, in any order, more than once (section 2.4).

        Args:
            pages: ``Pages``, areas, frame numbers, or lists of them.
            prot: ``"r"`` or ``"rw"``.
            put_pages: the frames become the area's, and are given back with it.
        """
        caller = caller_of(2)
        if not 0 <= flags < 1 << 32:
            raise BadRequest(f"flags {flags:#x}: they have 32 bits")
        self.enter()
        try:
            flags = flags | VM_MAP_PUT_PAGES if put_pages else flags
            vm = vmap.vmap(self.state, self.pages_of(pages), flags, parse_prot(prot), caller)
        finally:
            self.unlock()
        return Area(self, vm)

    def vunmap(self, area):
        """Removes a mapping; its frames stay whose they are."""
        if area is None:
            return
        self.enter()
        try:
            address = self.address_of(area, "vunmap")
            unmap_address(self.state, address)
        finally:
            self.unlock()

    def vm_map_ram(self, pages, node=None):
        """Maps frames contiguously for a short time, without an area (section 5): cheaper than ``vmap``.

        Args:
            pages: as for ``vmap``.
            node: accepted, as in the kernel.

        Returns:
            The address. Nothing keeps it: ``vm_unmap_ram`` wants it back, with the same number of pages.

        Raises:
            BadContext: in an interrupt. BadSize: no page. BadFrame: a frame that is no memory.
            OutOfAddresses, OutOfFrames: nothing left; nothing was mapped.
        """
        self.enter()
        try:
            return map_ram(self.state, self.pages_of(pages), node)
        finally:
            self.unlock()

    def vm_unmap_ram(self, address, count):
        """Unmaps what ``vm_map_ram`` mapped, on any CPU, without a flush; its frames stay whose they are.

        Args:
            address: what ``vm_map_ram`` returned.
            count: how many pages were given to it.

        Raises:
            BadContext: in an interrupt.
            BadAddress, BadSize: no mapping begins there, or it has another number of pages; nothing was changed.
        """
        self.enter()
        try:
            unmap_ram(self.state, index(address), index(count))
        finally:
            self.unlock()

    def vmap_pfn(self, pfns, *, prot="rw"):
        """Maps what is no memory, given by frame numbers."""
        caller = caller_of(2)
        self.enter()
        try:
            vm = vmap.vmap_pfn(self.state, self.pages_of(pfns), parse_prot(prot), caller)
        finally:
            self.unlock()
        return Area(self, vm)

    def vmap_pages_range(self, start, end, pages, *, prot="rw", shift=None):
        """Maps frames into part of an area that ``get_vm_area`` reserved (section 2.4)."""
        self.enter()
        try:
            size = self.state.page_shift if shift is None else shift
            vmap.vmap_pages_range(self.state, start, end, parse_prot(prot), self.pages_of(pages), size)
        finally:
            self.unlock()

    def vunmap_range(self, start, end):
        """Unmaps part of an area, flushing at once."""
        self.enter()
        try:
            vmap.vunmap_range(self.state, start, end)
        finally:
            self.unlock()

    def vm_area_map_pages(self, area, start, end, pages):
        """Maps frames into part of a sparse area (6.12)."""
        self.enter()
        try:
            vmap.vm_area_map_pages(self.state, self.record_of(area), start, end, self.pages_of(pages))
        finally:
            self.unlock()

    def vm_area_unmap_pages(self, area, start, end):
        """Unmaps part of a sparse area, flushing at once."""
        self.enter()
        try:
            vmap.vm_area_unmap_pages(self.state, self.record_of(area), start, end)
        finally:
            self.unlock()

    def record_of(self, area, call=""):
        """The record of a live area; ``call`` as of ``address_of``."""
        address = self.address_of(area, call)
        vm = self.state.find_area(address)
        if vm is None:
            if call:
                refuse_free(self.state, address, call, "is in no area")
            raise BadAddress(address, "is in no area")
        return vm

    # -- reserve ---------------------------------------------------------------------------------------------------

    def get_vm_area(self, size, flags=0, *, start=None, end=None, caller=None):
        """Reserves addresses; nothing is mapped (section 2.7)."""
        if caller is None:
            caller = caller_of(2)
        state = self.state
        first = state.vmalloc_start if start is None else start
        last = state.vmalloc_end if end is None else end
        self.enter()
        try:
            vm = ioremap.get_vm_area(state, size, flags, first, last, caller)
        finally:
            self.unlock()
        return Area(self, vm)

    def free_vm_area(self, area):
        """Gives reserved addresses back, and what is mapped there; not the frames."""
        self.enter()
        try:
            free_reserved(self.state, self.record_of(area, "free_vm_area"))
        finally:
            self.unlock()

    def remove_vm_area(self, area):
        """``free_vm_area``, under the name that keeps the record: the area can still be asked for its facts."""
        self.free_vm_area(area)

    def ioremap(self, phys, size):
        """Maps device memory; where ``phys`` is in the area is ``phys - area.phys_addr``."""
        caller = caller_of(2)
        self.enter()
        try:
            vm = ioremap.ioremap(self.state, phys, size, caller)
        finally:
            self.unlock()
        return Area(self, vm)

    def iounmap(self, area):
        """Removes an I/O mapping."""
        self.enter()
        try:
            address = self.address_of(area, "iounmap")
            ioremap.iounmap(self.state, address)
        finally:
            self.unlock()

    def ioremap_page_range(self, start, end, phys, *, prot="rw"):
        """Maps physical memory into exactly one area that was reserved with ``VM_IOREMAP``."""
        self.enter()
        try:
            ioremap.ioremap_page_range(self.state, start, end, phys, parse_prot(prot))
        finally:
            self.unlock()

    def pcpu_get_vm_areas(self, offsets, sizes, align):
        """Reserves areas at fixed offsets from one base (section 7.1)."""
        caller = caller_of(2)
        self.enter()
        try:
            found = pcpu_areas.pcpu_get_vm_areas(self.state, list(offsets), list(sizes), align, caller)
        finally:
            self.unlock()
        return [Area(self, vm, False) for vm in found]

    def pcpu_free_vm_areas(self, areas):
        """Frees such a group."""
        self.enter()
        try:
            pcpu_areas.pcpu_free_vm_areas(self.state, [self.record_of(area, "pcpu_free_vm_areas") for area in areas])
        finally:
            self.unlock()

    # -- per-CPU objects -------------------------------------------------------------------------------------------

    def alloc_percpu(self, size, align=8, *, gfp=0xCC0, reserved=False):
        """Allocates an object of which every CPU has a copy, zeroed; each at a constant offset from one base.

        Args:
            size, align: bytes; at most 32 KiB, and a power of two up to the page.
            gfp: ``GFP_*``; without reclaim, or in an interrupt, only what is populated already is given.
            reserved: from the part of the first chunk that is kept for modules.

        Returns:
            The ``PerCpu``.

        Raises:
            BadSize: a size or an alignment that no chunk serves. BadContext: in an NMI.
            OutOfAddresses, OutOfFrames: nothing left; nothing was changed.
        """
        caller = caller_of(2)
        if gfp != GFP_KERNEL:
            gfp = checked_gfp(gfp)
        size, align = index(size), index(align)
        self.enter()
        try:
            found = self.percpu.alloc(size, align, gfp, bool(reserved), caller)
        finally:
            self.unlock()
        return PerCpu(self, found)

    def free_percpu(self, p):
        """Frees a per-CPU object, given itself or by its base, in any context but NMI. None is ignored.

        Raises:
            BadAddress: it was freed already, belongs to another space, or no object has this base.
        """
        if p is None:
            return
        self.enter()
        try:
            if isinstance(p, PerCpu):
                if p.space is not self:
                    raise BadAddress(p.base, "this per-CPU object belongs to another space")
                self.percpu.free(p.found)
            else:
                self.percpu.free(self.percpu.object_at(index(p)))
        finally:
            self.unlock()

    def percpu_stats(self):
        """Counters and sizes of the per-CPU allocator, by name."""
        self.look()
        try:
            return percpu_stats(self.percpu)
        finally:
            self.unlock()

    # -- user space and permissions --------------------------------------------------------------------------------

    def remap_vmalloc_range(self, mapping, area, pgoff=0, size=None):
        """Maps an area of ``vmalloc_user`` into a ``UserMapping``, from page ``pgoff`` on (section 2.10)."""
        self.enter()
        try:
            address = self.address_of(area)
            length = mapping.end - mapping.start if size is None else size
            remap.remap_vmalloc_range_partial(self.state, mapping, mapping.start, address, pgoff, length)
        finally:
            self.unlock()

    def remap_vmalloc_range_partial(self, mapping, user_address, address, pgoff, size):
        """``remap_vmalloc_range`` to any place of the mapping."""
        self.enter()
        try:
            remap.remap_vmalloc_range_partial(self.state, mapping, user_address, address, pgoff, size)
        finally:
            self.unlock()

    def unmap_user(self, mapping):
        """Ends a user mapping."""
        self.enter()
        try:
            remap.unmap_user(self.state, mapping)
        finally:
            self.unlock()

    def set_vm_flush_reset_perms(self, area):
        """Marks an area whose frames' permanent mapping was changed: freeing it flushes at once (section 4.11)."""
        self.look()
        try:
            self.record_of(area).flags |= VM_FLUSH_RESET_PERMS
        finally:
            self.unlock()

    # -- look ------------------------------------------------------------------------------------------------------

    def find_vm_area(self, address):
        """The area that contains an address, or None. What is found is not freed with the object returned."""
        self.look()
        try:
            vm = lookup.find_vm_area(self.state, self.number(address))
        finally:
            self.unlock()
        return None if vm is None else Area(self, vm, False)

    def number(self, address):
        """An address, given as a number or an area."""
        return address.vm.addr if isinstance(address, Area) else index(address)

    def is_vmalloc_addr(self, address):
        """Whether an address is in the vmalloc range, allocated or not."""
        return lookup.is_vmalloc_addr(self.state, self.number(address))

    def vmalloc_to_pfn(self, address):
        """The number of the frame mapped at an address, or None."""
        self.look()
        try:
            return lookup.vmalloc_to_pfn(self.state, self.number(address))
        finally:
            self.unlock()

    def vmalloc_to_page(self, address):
        """The frame mapped at an address, as a list of one for ``vmap``; None when nothing is mapped."""
        pfn = self.vmalloc_to_pfn(address)
        return None if pfn is None else Pages([pfn], self.state.page_size)

    def is_vm_area_hugepages(self, address):
        """Whether the area at an address has mappings above the base page."""
        self.look()
        try:
            return lookup.is_vm_area_hugepages(self.state, self.number(address))
        finally:
            self.unlock()

    def vmalloc_dump_obj(self, address):
        """What the kernel prints of an address that is in an area; None when it finds none (section 2.8)."""
        self.look()
        try:
            return lookup.vmalloc_dump_obj(self.state, self.number(address))
        finally:
            self.unlock()

    def vmalloc_nr_pages(self):
        """Frames that areas hold (``nr_vmalloc_pages``)."""
        return self.state.nr_vmalloc_pages

    # -- access ----------------------------------------------------------------------------------------------------

    def load(self, address, size):
        """Reads bytes as the running CPU does, through its TLB and the page tables.

        Raises:
            Fault: of kind ``guard``, ``freed``, ``unmapped`` or ``stale_tlb``; with KASAN ``kasan``, and a report.
        """
        self.look()
        try:
            if not cython.compiled and (size < 0 or not 0 <= address < 1 << 64):
                raise OverflowError  # what passing it on raises where it is compiled
            if self.kasan is not None and self.kasan.forbids(address, size):
                report_access(self.state, address, size, "read")
            return self.machine.load(address, size)
        except Fault as fault:
            access.explain(self.state, fault)
        except OverflowError:
            access.refuse(self.state, address, size)
        except MemoryError as error:
            if error.args:  # the machine's own, which says what it had no memory for
                raise
            access.too_much(size)
        finally:
            self.unlock()

    def store(self, address, data):
        """Writes bytes as the running CPU does; all or none. Raises as ``load``, and Fault of kind ``readonly``."""
        self.look()
        try:
            if not cython.compiled and not 0 <= address < 1 << 64:
                raise OverflowError
            if self.kasan is not None:
                data = memoryview(data).cast("B")
                if self.kasan.forbids(address, len(data)):
                    report_access(self.state, address, len(data), "write")
            self.machine.store(address, data)
        except Fault as fault:
            access.explain(self.state, fault)
        except OverflowError:
            access.refuse(self.state, address, len(data))
        finally:
            self.unlock()

    def vread(self, address, size):
        """Reads tolerantly: holes, guard pages and device memory are zeros (section 2.9)."""
        self.look()
        try:
            return access.vread(self.state, self.number(address), size)
        finally:
            self.unlock()

    def vmallocinfo(self):
        """Text in the format of ``/proc/vmallocinfo``."""
        self.look()
        try:
            return vmallocinfo(self.state)
        finally:
            self.unlock()

    def areas(self):
        """All areas as a NumPy structured array: busy, lazy and pooled ones."""
        self.look()
        try:
            return areas_table(self.state)
        finally:
            self.unlock()

    def stats(self):
        """Counters and sizes, by name."""
        self.look()
        try:
            return stats(self.state)
        finally:
            self.unlock()

    def meminfo(self):
        """The lines of ``/proc/meminfo`` about vmalloc."""
        self.look()
        try:
            return meminfo(self.state)
        finally:
            self.unlock()

    def dmesg(self):
        """What the kernel would have printed, oldest first."""
        self.look()
        try:
            return list(self.state.log)
        finally:
            self.unlock()

    # -- keeping house ---------------------------------------------------------------------------------------------

    def purge(self, full=False):
        """Flushes and hands on everything that is lazy. What was flushed.

        Args:
            full: as when addresses run out: pools are emptied and not filled, and blocks of ``vm_map_ram`` in which
                nothing is live are given back (section 4.4).
        """
        self.enter_task("purge")
        try:
            return reclaim_and_purge(self.state) if full else self.state.space.purge()
        finally:
            self.unlock()

    def vm_unmap_aliases(self):
        """Flushes every translation of memory that was unmapped (section 4.9); the flushed range, or None."""
        self.enter_task("vm_unmap_aliases")
        try:
            return unmap_aliases(self.state)
        finally:
            self.unlock()

    def shrink(self):
        """What the ``vmap-node`` shrinker does: gives all pooled ranges back; how many."""
        self.enter_task("shrink")
        try:
            return self.state.space.shrink()
        finally:
            self.unlock()

    def trim(self):
        """Gives idle memory back: purges, empties pools and CPU lists, frees empty page tables; bytes given back."""
        self.enter_task("trim")
        try:
            reclaim_and_purge(self.state)
            self.state.trim_shadow()
            return self.machine.trim()
        finally:
            self.unlock()

    def run_deferred(self):
        """Runs the work queue: deferred frees, drains; how many pieces of work there were.

        All CPUs are idle meanwhile: grace periods end, unless a CPU is in a read-side section.

        Raises:
            BadContext: in an interrupt; a worker runs in task context.
        """
        self.look()
        try:
            if self.machine.running.context != TASK:
                raise self.state.refuse("run_deferred", "a worker runs in task context only")
            if self.dropped:
                self.free_dropped()
            done = self.machine.run_deferred()
            while self.state.rcu.let_pass():
                done += self.machine.run_deferred()
            return done
        finally:
            self.unlock()

    def register_purge_notifier(self, notifier):
        """Registers who is asked to free areas when addresses run out (section 4.10); gives a function that ends it."""
        return self.state.space.register_purge_notifier(notifier)

    def validate(self):
        """Checks every structure, and that they agree with each other; raises ValidationError."""
        self.look()
        try:
            self.state.validate()
            validate_percpu(self.percpu)
        finally:
            self.unlock()

    def close(self):
        """Frees every area; the space cannot be used any more. Calling it twice does nothing."""
        self.acquire()
        try:
            if self.closed:
                return
            if self.machine.running.context != TASK:
                raise self.state.refuse("close", "it frees every area: task context only")
            self.machine.run_deferred()
            self.state.rcu.abandon()
            self.machine.run_deferred()
            self.percpu.close()
            for vm in list(self.state.areas.values()):
                if vm.live and vm.addr in self.state.areas and not vm.is_array:
                    free_area(self.state, vm)
            for address in list(self.state.contiguous):
                kvmalloc.kfree(self.state, address)
            unmap_everything(self.state)
            self.state.space.purge(True)
            self.machine.run_deferred()
            self.state.trim_shadow()
            self.closed = True
        finally:
            self.unlock()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
