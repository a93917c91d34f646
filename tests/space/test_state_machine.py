"""Random programs of all calls of a space, on random machines, held against the plain model after each step.

What a program is made of: every way to allocate, map, reserve, resize and free, from every context and CPU; loads,
stores and arrays of accesses at good and bad places; purges of every thoroughness; records, frames, tables and flushes
that are missing when they are needed.  After each step all validators run, and areas, counters, texts, frames and a
sample of translations are what the model says.

Three modes of a program, chosen at its start.  In a *plain* one nothing fails on purpose, and the address of each area
is that which an independent ``AddressSpace`` gives when it is asked for the same.  A *failing* one injects failures: a
call that raises has changed nothing.  A *forgetful* one drops flushes as well: then, and only then, an access may be
``stale_tlb``; and it is exactly where the model says so.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from space.model import Area, Failure, Mapping, Model
from vmalloc import _build
from vmalloc.areas.address_space import AddressSpace
from vmalloc.calls.remap import UserMapping
from vmalloc.errors import BadAddress, BadContext, BadFrame, BadRequest, BadSize, Fault, OutOfAddresses, OutOfFrames
from vmalloc.flags import (
    GFP_ATOMIC,
    GFP_DIRECT_RECLAIM,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOWAIT,
    GFP_THISNODE,
    GFP_ZERO,
    PROT_SPECIAL,
    VM_ALLOW_HUGE_VMAP,
    VM_IOREMAP,
    VM_MAP,
    VM_NO_GUARD,
    VM_SPARSE,
    VM_USERMAP,
    parse_prot,
)
from vmalloc.kasan.kasan import Kasan
from vmalloc.kasan.layout import shadow_range
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.machine.wrappers.failing import RECORDS
from vmalloc.machine.wrappers.wrapper import Wrapper
from vmalloc.pages import Pages
from vmalloc.space.simulated import SimulatedSpace
from vmalloc.units import align_up
from vmalloc.views.vmallocinfo_line import UNPURGED, parse_line

GIB = 1 << 30
PLAIN, FAILING, FORGETFUL = "plain", "failing", "forgetful"

#: Sizes in pages and bytes beside: most areas are small; some are too large for a pool, some for a list in one page.
PAGES = st.one_of(st.integers(0, 4), st.integers(0, 4), st.integers(5, 40), st.sampled_from([127, 254, 255, 256, 513]))
ODD = st.sampled_from([0, 0, 1, 100, -1])
CPU = st.integers(0, 3)
NODE = st.sampled_from([None, None, 0, 1, 2])
CONTEXT = st.sampled_from(["softirq", "hardirq"])
DATA = st.binary(min_size=1, max_size=24)
FAILURES = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from(["take", "take_bulk", "slab", "map_pages", "map_range", "page_table"]),
        st.integers(0, 4),
        st.sampled_from([1, 1, 2, None]),
        st.sampled_from([None, *RECORDS]),
    ),
)


class FlushLog(Wrapper):  # type: ignore[misc]
    """Tells of each flush that reaches the TLBs, and knows which of the MMU's own counts are from these."""

    def __init__(self, inner: Any) -> None:
        Wrapper.__init__(self, inner)
        self.told: Callable[[int, int], None] = lambda start, end: None
        self.full = self.ranged = 0

    def flush(self, start: int, end: int) -> int:
        full, ranged = self.inner.mmu.full_flushes, self.inner.mmu.range_flushes
        result: int = self.inner.flush(start, end)
        self.full += self.inner.mmu.full_flushes - full
        self.ranged += self.inner.mmu.range_flushes - ranged
        self.told(start, end)
        return result


@dataclass(eq=False)
class Block:
    """A block of ``vm_map_ram``: whose it is, pages never handed out, pages returned, and those not flushed since."""

    area: Area
    cpu: int
    free: int
    dirty: int = 0
    owed: tuple[int, int] | None = None
    live: int = 0


class Programs(RuleBasedStateMachine):
    """One program and its model."""

    # -- the machine -----------------------------------------------------------------------------------------------

    @initialize(
        arch=st.sampled_from(sorted(ARCHITECTURES)),
        kernel=st.sampled_from(sorted(PROFILES)),
        cpus=st.integers(1, 4),
        nodes=st.lists(st.sampled_from([1024, 2048, 4096]), min_size=1, max_size=3),
        high=st.booleans(),
        mode=st.sampled_from([PLAIN, FAILING, FORGETFUL]),
        checked=st.booleans(),
    )
    def boot(
        self, arch: str, kernel: str, cpus: int, nodes: list[int], high: bool, mode: str, checked: bool
    ) -> None:
        self.arch, self.kernel, self.mode = ARCHITECTURES[arch], PROFILES[kernel], mode
        self.shift = self.arch.page_shift
        self.page = 1 << self.shift
        self.cpus, self.nr_nodes = cpus, len(nodes)
        # The last node lies where a 32-bit device, or low memory, does not reach.
        self.low_limit = self.arch.dma32_limit or self.arch.lowmem_limit or 0
        places, at = [], 0
        for k, size in enumerate(nodes):
            if high and k and k == len(nodes) - 1 and self.low_limit:
                at = self.low_limit >> self.shift
            places.append((at, size))
            at += size
        shifts = sorted({self.shift, *(leaf.shift for leaf in self.arch.huge_vmap)})
        offset = self.arch.kasan_shadow_offset
        self.shadow: list[tuple[int, int]] = []
        if checked and offset is not None and mode != FORGETFUL:  # there shadow, too, would go stale
            end = align_up(self.arch.vmalloc_end, self.page)
            self.shadow = [shadow_range(offset, self.arch.vmalloc_start, end, self.page)]
        inner = SimulatedMachine(
            self.arch, self.kernel, cpus=cpus, nodes=places, tlb={"sizes": [(shift, 1024, 1024) for shift in shifts]},
            shared_ranges=self.shadow,
        )  # fmt: skip
        self.inner, self.log = inner, FlushLog(inner)
        self.machine = FailingMachine(self.log)
        self.kasan: Kasan | None = None
        if self.shadow:
            merged = self.kernel.shadow_goes_with_neighbours
            self.kasan = Kasan(self.machine, in_bulk=self.kernel.shadow_in_bulk, release_merged=merged)
        self.left_open: list[tuple[int, int]] = []
        self.space = SimulatedSpace(self.machine, self.kernel, (), None, self.kasan)
        self.info = self.machine.info
        self.model = Model(self.page, cpus, self.arch.max_ranged_flush_pages, PROT_SPECIAL)
        self.log.told = self.model.flush
        self.twin: AddressSpace | None = None
        if mode == PLAIN:
            self.twin = AddressSpace(
                self.info.vmalloc_start,
                self.info.vmalloc_end,
                kernel=self.kernel,
                cpus=cpus,
                page_size=self.page,
                word_bits=self.info.word_bits,
            )
        if not self.kernel.keeps_used_map:
            self.model.hidden |= {"block", "ram"}
        self.ram_frames: list[int] = []
        self.blocks: list[Block] = []
        self.pieces: list[tuple[int, int, Block | None]] = []
        self.lists: list[Pages] = []
        self.users: list[UserMapping] = []
        self.groups: list[list[Area]] = []
        self.queue: list[tuple[str, int]] = []
        self.drain_queued = False
        self.dropped = False
        self.vague = False
        self.device_base = self.info.phys_end - GIB
        self.cpu = 0

    def on(self, cpu: int) -> None:
        """The program goes on on another CPU."""
        self.cpu = cpu % self.cpus
        self.machine.cpu = self.cpu

    def node(self, node: int | None) -> int | None:
        return None if node is None else node % self.nr_nodes

    def size(self, pages: int, odd: int) -> int:
        return max(1, pages * self.page + odd)

    # -- what happens beside the calls ------------------------------------------------------------------------------

    def enter(self) -> None:
        """What is due happens before each call in task context that allocates or frees."""
        while self.queue:
            what, cpu = self.queue.pop(0)
            if what == "drain":
                self.drain_queued = False
                assert self.twin is None or self.twin.drain() is not None
                continue
            waiting = list(reversed(self.model.pending[cpu]))
            self.model.pending[cpu].clear()
            for area in waiting:
                self.model_free(area)

    def model_free(self, area: Area) -> None:
        """An area goes, as ``vfree`` does it: addresses, permissions, frames, its list of frames."""
        self.model.remove_area(area)
        if area.kind == "pcpu":  # freeing forbids all but this page (section 9.3)
            self.left_open.append((area.end - self.page, area.end))
        if self.twin is not None and self.twin.free(area.start) and not self.drain_queued:
            self.drain_queued = True
            self.queue.append(("drain", 0))
        if area.reset_perms:
            self.model_aliases()
        self.model.put(area.pfns)
        if area.array is not None:
            self.model_free(area.array)

    def call(self, what: Callable[[], Any], failure: tuple[str, int, int | None, str | None] | None = None) -> Any:
        """Makes a call, perhaps with a failure on its way; None when it ran short, and then nothing has changed."""
        injected = failure is not None and self.mode != PLAIN
        if injected and failure is not None:
            operation, after, times, record = failure
            self.machine.fail_next(operation, after, times, record if operation == "slab" else None)
        before = self.space.state.failures, self.space.state.huge_fallbacks
        self.error: Exception | None = None
        result = None
        try:
            result = what()
        except (OutOfFrames, OutOfAddresses) as error:
            self.error = error
        if injected:
            self.machine.clear()
        self.notice_overflow()
        if (self.space.state.failures, self.space.state.huge_fallbacks) != before:
            self.twin = None  # half an area was made and taken apart: what follows is no plain program
            self.space.run_deferred()
            self.enter()
            self.remember_lazy()
        elif self.error is not None:
            self.remember_lazy()
        self.count_other_flushes()
        return result

    def remember_lazy(self) -> None:
        """What a failed call made and took apart was freed, as everything that is lazy."""
        self.model.gone += [(area.start, area.end) for area in self.space.state.space.lazy()]

    def count_other_flushes(self) -> None:
        """Flushes that the machine makes by itself: a table made room for a large leaf, or tables were freed."""
        mmu = self.inner.mmu
        if mmu.full_flushes != self.log.full:
            self.model.flush_all()
        elif mmu.range_flushes != self.log.ranged and self.dropped:
            self.vague = True  # somewhere in a new area; it matters only where flushes were dropped before
        self.log.full, self.log.ranged = mmu.full_flushes, mmu.range_flushes

    def expect_shortage(self, nr_pages: int) -> None:
        """A plain call runs short only where there is little left."""
        if self.mode == PLAIN and isinstance(self.error, OutOfFrames):
            stats = self.space.stats()
            assert stats["frames_free"] + stats["frames_cached"] < 2 * nr_pages + 600, str(self.error)

    # -- areas come ------------------------------------------------------------------------------------------------

    def twin_takes(self, size: int, align: int, window: tuple[int, int], waits: bool) -> int | None:
        """Where the independent address space puts the same request; None for nowhere, or when there is none."""
        if self.twin is None:
            return None
        ask = self.twin.alloc if waits else self.twin.alloc_nowait
        try:
            return ask(size, align, *window, cpu=self.cpu)
        except OutOfAddresses:
            return None

    def adopt(
        self,
        handle: Any,
        kind: str,
        usable: int,
        requested: int,
        *,
        guard: bool = True,
        align: int = 1,
        window: tuple[int, int] | None = None,
        waits: bool = True,
    ) -> Area | None:
        """A call gave an area, or none: it is where the twin puts it, and nobody else is there."""
        window = window or (self.info.vmalloc_start, self.info.vmalloc_end)
        size = usable + (self.page if guard else 0)
        if handle is None:
            if self.twin is not None and isinstance(self.error, OutOfAddresses):
                assert self.twin_takes(size, align, window, waits) is None
            return None
        expected = self.twin_takes(size, align, window, waits)
        assert self.twin is None or handle.address == expected
        assert (handle.size, handle.requested_size) == (usable, requested)
        assert handle.address % max(align, self.page) == 0
        assert window[0] <= handle.address
        assert handle.address + size <= window[1]
        if not self.dropped:
            assert not self.model.remembers_any(handle.address, handle.address + size), "no CPU knows the range"
        area = Area(handle.address, handle.address + size, usable, kind, requested, handle=handle)
        return self.model.add_area(area)

    def learn_mapping(self, start: int, pfns: list[int], prot: int, shifts: set[int]) -> None:
        """What a call mapped: these frames, in order, in pieces of one of these sizes."""
        for k, pfn in enumerate(pfns):
            address = start + k * self.page
            walked = self.inner.page_table.do_walk(address)
            assert walked is not None
            assert walked[0] == pfn
            assert walked[1] in shifts
            assert walked[2] == prot
            self.model.map(address, Mapping(pfn, prot, walked[1]))

    def huge_shift(self, size: int, node: int | None, gfp: int) -> int:
        """Section 3.2."""
        if not gfp & GFP_DIRECT_RECLAIM and self.kernel.allows_nonblocking:
            return self.shift
        per_node = size // self.nr_nodes if self.kernel.huge_by_node and node is None else size
        return next((shift for shift in self.info.vmalloc_shifts if per_node >= 1 << shift), self.shift)

    def adopt_allocated(
        self,
        handle: Any,
        size: int,
        *,
        zero: bool,
        gfp: int = GFP_KERNEL,
        huge: bool = False,
        node: int | None = None,
        prot: str = "rw",
        flags: int = 0,
        align: int = 1,
        window: tuple[int, int] | None = None,
        low: bool = False,
    ) -> Area | None:
        """An area with frames of its own, which nobody had, mapped in order."""
        shift = self.huge_shift(size, node, gfp) if huge else self.shift
        if handle is not None and handle.page_shift != shift:
            assert handle.page_shift == self.shift
            assert self.space.state.huge_fallbacks > 0
            shift = self.shift
        usable = align_up(size, 1 << shift)
        self.expect_shortage(usable // self.page if not low else 1 << 30)
        waits = bool(gfp & GFP_DIRECT_RECLAIM) or not self.kernel.allows_nonblocking
        align = max(align, 1 << shift) if shift > self.shift else align
        guard = not flags & VM_NO_GUARD
        area = self.adopt(handle, "alloc", usable, size, guard=guard, align=align, window=window, waits=waits)
        if area is None:
            return None
        area.user = bool(flags & VM_USERMAP)
        area.pfns = list(handle.pages)
        assert len(area.pfns) == handle.nr_pages == usable // self.page
        self.model.take(area.pfns, zero=zero)
        if low and self.low_limit:
            assert all(pfn < self.low_limit >> self.shift for pfn in area.pfns)
        self.learn_mapping(area.start, area.pfns, parse_prot(prot), {shift})
        list_size = len(area.pfns) * self.info.word_bits // 8
        if list_size > self.page:  # the list of frames is an area of its own, behind this one
            array = self.space.find_vm_area(handle.vm.array_area.addr)
            area.array = self.adopt_allocated(array, list_size, zero=True, gfp=gfp, node=node)
        else:
            assert handle.vm.array_area is None
        return area

    # -- rules: allocate -------------------------------------------------------------------------------------------

    @rule(
        how=st.sampled_from(
            ["vmalloc", "vmalloc", "vzalloc", "node", "znode", "user", "32", "32_user", "array", "calloc"]
        ),
        pages=PAGES,
        odd=ODD,
        cpu=CPU,
        node=NODE,
        failure=FAILURES,
        gfp=st.sampled_from(
            [GFP_KERNEL, GFP_KERNEL, GFP_KERNEL, GFP_ATOMIC, GFP_NOWAIT, GFP_NOFS, GFP_KERNEL | GFP_ZERO]
        ),
    )
    def allocate(self, how: str, pages: int, odd: int, cpu: int, node: int | None, failure: Any, gfp: int) -> None:
        self.on(cpu)
        self.enter()
        size, node, space = self.size(pages, odd), self.node(node), self.space
        more: dict[str, Any] = {}
        zero = how in ("vzalloc", "znode", "user", "32_user", "calloc")
        match how:
            case "vmalloc":
                handle = self.call(lambda: space.vmalloc(size, gfp=gfp), failure)
                zero, more = bool(gfp & GFP_ZERO), {"gfp": gfp}
            case "vzalloc":
                handle = self.call(lambda: space.vzalloc(size), failure)
            case "node" | "znode":
                make = space.vmalloc_node if how == "node" else space.vzalloc_node
                before = space.stats()
                handle = self.call(lambda: make(size, node), failure)
                more = {"node": node}
                plenty = node is not None and before[f"frames_free_node{node}"] > 2 * (size // self.page) + 300
                if handle is not None and plenty and self.mode == PLAIN:
                    assert {self.machine.node_of(pfn) for pfn in handle.pages} == {node}
            case "user" | "32_user":
                make_user = space.vmalloc_user if how == "user" else space.vmalloc_32_user
                handle = self.call(lambda: make_user(size), failure)
                more = {"flags": VM_USERMAP, "align": self.info.shmlba, "low": how == "32_user"}
            case "32":
                handle = self.call(lambda: space.vmalloc_32(size), failure)
                more = {"low": True}
            case _:
                make = space.vmalloc_array if how == "array" else space.vcalloc
                handle = self.call(lambda: make(size, 1), failure)
        self.adopt_allocated(handle, size, zero=zero, **more)

    @rule(
        units=st.sampled_from([0, 1, 1, 1, 2, 3]),
        odd=ODD,
        cpu=CPU,
        node=NODE,
        failure=FAILURES,
        which=st.integers(0, 1),
    )
    def allocate_huge(self, units: int, odd: int, cpu: int, node: int | None, failure: Any, which: int) -> None:
        self.on(cpu)
        self.enter()
        shifts = self.info.vmalloc_shifts or (self.shift + 3,)
        shift = shifts[which % len(shifts)]
        size, node = max(1, (units << shift) + odd), self.node(node)
        if size >> self.shift > self.info.nr_pages:
            with pytest.raises(OutOfFrames, match="exceed"):
                self.space.vmalloc_huge(size, node)
            return
        handle = self.call(lambda: self.space.vmalloc_huge(size, node), failure)
        self.adopt_allocated(handle, size, zero=False, huge=True, node=node)

    @rule(
        pages=PAGES,
        odd=ODD,
        cpu=CPU,
        node=NODE,
        failure=FAILURES,
        first=st.integers(0, 40),
        room=st.integers(1, 600),
        align=st.sampled_from([1, 1, 2, 8, 64]),
        prot=st.sampled_from(["r", "rw", "rx"]),
        flags=st.sampled_from([0, VM_NO_GUARD, VM_USERMAP, VM_ALLOW_HUGE_VMAP]),
        whole=st.booleans(),
    )
    def allocate_in_window(
        self,
        pages: int,
        odd: int,
        cpu: int,
        node: int | None,
        failure: Any,
        first: int,
        room: int,
        align: int,
        prot: str,
        flags: int,
        whole: bool,
    ) -> None:
        self.on(cpu)
        self.enter()
        size, node = self.size(pages, odd), self.node(node)
        start = self.info.vmalloc_start + first * self.page
        window = (start, start + room * self.page)
        if whole:
            window = (self.info.vmalloc_start, self.info.vmalloc_end)
        align = 1 if align == 1 else align * self.page
        handle = self.call(
            lambda: self.space.vmalloc_node_range(size, align, *window, prot=prot, vm_flags=flags, node=node), failure
        )
        self.adopt_allocated(
            handle,
            size,
            zero=False,
            huge=bool(flags & VM_ALLOW_HUGE_VMAP),
            node=node,
            prot=prot,
            flags=flags,
            align=align,
            window=window,
        )

    @rule(pages=PAGES, odd=ODD, cpu=CPU, node=NODE, failure=FAILURES, zero=st.booleans())
    def kvmalloc(self, pages: int, odd: int, cpu: int, node: int | None, failure: Any, zero: bool) -> None:
        self.on(cpu)
        self.enter()
        size, node = self.size(pages, odd), self.node(node)
        handle = self.call(lambda: self.space.kvmalloc(size, node=node, zero=zero), failure)
        if handle is None or handle.is_vmalloc:
            if handle is None and size <= self.page:
                return
            self.adopt_allocated(
                handle, size, zero=zero, huge=True, node=node, gfp=GFP_KERNEL | (GFP_ZERO if zero else 0)
            )
            return
        pfns = list(handle.pages)
        assert pfns == list(range(pfns[0], pfns[0] + len(pfns)))
        assert handle.address == self.info.direct_map_start + pfns[0] * self.page
        self.model.take(pfns, zero=zero)
        area = Area(handle.address, handle.address + handle.size, handle.size, "contiguous", size, pfns, handle=handle)
        self.model.contiguous.append(area)

    # -- choosing --------------------------------------------------------------------------------------------------

    def some(self, which: int, *kinds: str) -> Area | None:
        """One of the areas of these kinds that are nobody's list of frames and do not wait to be freed."""
        arrays = {id(area.array) for area in self.model.areas if area.array is not None}
        found = [
            area
            for area in self.model.areas
            if (area.kind in kinds if kinds else area.kind not in ("block", "ram"))
            and not area.pending
            and id(area) not in arrays
        ]
        if not found:
            self.idle()
        return found[which % len(found)] if found else None

    def idle(self) -> None:
        """There is nothing to call after all: what the model thinks was run is run."""
        if not self.queue:
            self.space.run_deferred()

    @rule(
        which=st.integers(0, 99),
        pages=PAGES,
        odd=ODD,
        cpu=CPU,
        zero=st.booleans(),
        node=NODE,
        failure=FAILURES,
        strict=st.booleans(),
    )
    def vrealloc(
        self, which: int, pages: int, odd: int, cpu: int, zero: bool, node: int | None, failure: Any, strict: bool
    ) -> None:
        """Section 2.5."""
        self.on(cpu)
        self.enter()
        area, size = self.some(which, "alloc"), self.size(pages, odd)
        if area is None:
            return
        if not self.kernel.has_vrealloc:
            with pytest.raises(BadRequest):
                self.space.vrealloc(area.handle, size)
            self.idle()  # what can never be is refused before anything else happens
            return
        node = self.node(node) if self.kernel.vrealloc_aligns else None
        gfp = GFP_KERNEL | (GFP_THISNODE if strict and node is not None else 0)
        elsewhere = gfp & GFP_THISNODE and self.machine.node_of(area.pfns[0]) != node
        handle = self.call(lambda: self.space.vrealloc(area.handle, size, zero=zero, gfp=gfp, node=node), failure)
        old = area.requested if self.kernel.keeps_requested_size else area.usable
        fits = size <= old or (self.kernel.keeps_requested_size and size <= area.usable)
        if fits and not elsewhere:
            assert handle is area.handle
            if zero and size < old:
                self.model.zero(area, size, old)
            area.requested = size
            return
        if gfp & GFP_THISNODE and handle is None and self.error is not None:
            self.error = None  # one node's frames may be few
        moved = self.adopt_allocated(handle, size, zero=zero, gfp=gfp | (GFP_ZERO if zero else 0), node=node)
        if moved is not None:
            self.model.copy(moved, area, min(old, size))
            self.model_free(area)
            assert not area.handle.alive  # type: ignore[attr-defined]

    # -- rules: frames and mappings --------------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 12),
        order=st.sampled_from([0, 0, 0, 1, 3]),
        node=NODE,
        cpu=CPU,
        failure=FAILURES,
        zero=st.booleans(),
    )
    def alloc_pages(self, count: int, order: int, node: int | None, cpu: int, failure: Any, zero: bool) -> None:
        self.on(cpu)
        self.enter()
        gfp = GFP_KERNEL | (GFP_ZERO if zero else 0)
        pages = self.call(lambda: self.space.alloc_pages(count, node=self.node(node), order=order, gfp=gfp), failure)
        if pages is not None:
            assert len(pages) == count << order
            self.model.take(list(pages), zero=zero)
            self.lists.append(pages)

    @precondition(lambda self: self.lists)
    @rule(which=st.integers(0, 99), cpu=CPU, twice=st.booleans())
    def free_pages(self, which: int, cpu: int, twice: bool) -> None:
        self.on(cpu)
        self.enter()
        pages = self.lists[which % len(self.lists)]
        if twice:
            with pytest.raises(BadFrame, match="twice"):
                self.space.free_pages([pages, pages])
        else:
            self.lists.remove(pages)
            self.space.free_pages(pages)
            self.model.put(list(pages))

    @rule(data=st.data(), cpu=CPU, prot=st.sampled_from(["r", "rw", "rwx"]), put=st.booleans(), failure=FAILURES)
    def vmap(self, data: st.DataObject, cpu: int, prot: str, put: bool, failure: Any) -> None:
        self.on(cpu)
        self.enter()
        owned = [list(pages) for pages in self.lists]
        given = None
        if put:
            if not self.lists:
                self.idle()
                return
            given = self.lists[data.draw(st.integers(0, len(self.lists) - 1))]
            pfns = list(given)
        else:
            owned += [area.pfns for area in self.model.areas if area.pfns]
            owned += [area.pfns for area in self.model.contiguous]
            every = [pfn for pfns in owned for pfn in pfns]
            if not every:
                self.idle()
                return
            picks = data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=12))
            pfns = [every[k] for k in picks]
        handle = self.call(lambda: self.space.vmap(pfns, prot=prot, put_pages=put), failure)
        nr = len(pfns)
        area = self.adopt(handle, "put" if put else "map", nr * self.page, nr * self.page)
        if area is None:
            return
        self.learn_mapping(area.start, pfns, parse_prot(prot) & 3, {self.shift})
        if given is not None:
            area.pfns = pfns
            self.lists.remove(given)

    def io_align(self, size: int) -> int:
        """Section 1.11 step 3."""
        return 1 << min(max((size - 1).bit_length(), self.shift), self.info.ioremap_max_order)

    @rule(
        pages=st.integers(0, 40),
        odd=ODD,
        cpu=CPU,
        place=st.integers(0, 60),
        offset=st.sampled_from([0, 0, 8, 0xF00]),
        large=st.booleans(),
        failure=FAILURES,
    )
    def ioremap(self, pages: int, odd: int, cpu: int, place: int, offset: int, large: bool, failure: Any) -> None:
        self.on(cpu)
        self.enter()
        size = self.size(pages, odd)
        phys = self.device_base + place * self.page + offset
        if large:  # worth a large mapping where there is one that is not too large
            unit = 1 << min([shift for shift in self.info.vmap_shifts if shift - self.shift <= 9], default=self.shift)
            size, phys = unit + (odd > 0) * self.page, self.device_base
        handle = self.call(lambda: self.space.ioremap(phys, size), failure)
        first = phys - phys % self.page
        usable = align_up(phys + size - first, self.page)
        area = self.adopt(handle, "io", usable, usable, align=self.io_align(usable))
        if area is not None:
            assert handle.phys_addr == first
            pfns = list(range(first // self.page, (first + usable) // self.page))
            self.learn_mapping(area.start, pfns, 3 | PROT_SPECIAL, {self.shift, *self.info.vmap_shifts})

    @rule(places=st.lists(st.integers(0, 60), min_size=1, max_size=6), cpu=CPU, failure=FAILURES)
    def vmap_pfn(self, places: list[int], cpu: int, failure: Any) -> None:
        self.on(cpu)
        self.enter()
        pfns = [self.device_base // self.page + place for place in places]
        handle = self.call(lambda: self.space.vmap_pfn(pfns), failure)
        size = len(pfns) * self.page
        area = self.adopt(handle, "io", size, size, align=self.io_align(size))
        if area is not None:
            self.learn_mapping(area.start, pfns, 3 | PROT_SPECIAL, {self.shift})

    @rule(
        pages=st.one_of(PAGES, st.sampled_from([2000, 9000])),
        odd=ODD,
        cpu=CPU,
        failure=FAILURES,
        flags=st.sampled_from([0, VM_IOREMAP, VM_SPARSE, VM_SPARSE, VM_NO_GUARD, VM_MAP]),
    )
    def get_vm_area(self, pages: int, odd: int, cpu: int, failure: Any, flags: int) -> None:
        self.on(cpu)
        self.enter()
        size = self.size(pages, odd)
        handle = self.call(lambda: self.space.get_vm_area(size, flags), failure)
        usable = align_up(size, self.page)
        kind = {VM_IOREMAP: "io", VM_SPARSE: "sparse"}.get(flags, "reserved")
        align = self.io_align(usable) if flags & VM_IOREMAP else 1
        area = self.adopt(handle, kind, usable, size, guard=not flags & VM_NO_GUARD, align=align)
        assert area is None or handle.pages is None

    @rule(which=st.integers(0, 99), lists=st.integers(0, 99), first=st.integers(0, 40), cpu=CPU, failure=FAILURES)
    def map_sparse(self, which: int, lists: int, first: int, cpu: int, failure: Any) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which, "sparse")
        if area is None or not self.lists:
            self.idle()
            return
        pages = self.lists[lists % len(self.lists)]
        start = area.start + first * self.page
        end = start + len(pages) * self.page
        make = lambda: self.space.vm_area_map_pages(area.handle, start, end, pages)  # noqa: E731
        if not self.kernel.has_sparse:
            with pytest.raises(BadRequest):
                make()
        elif end > area.start + area.usable or any(page in self.model.table for page in self.model.pages(start, end)):
            with pytest.raises(BadAddress):
                make()
        else:
            self.call(make, failure)
            if self.error is None:
                self.learn_mapping(start, list(pages), 3, {self.shift})

    @rule(which=st.integers(0, 99), first=st.integers(0, 40), count=st.integers(1, 20), cpu=CPU)
    def unmap_sparse(self, which: int, first: int, count: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which, "sparse")
        if area is None or not self.kernel.has_sparse:
            self.idle()
            return
        start = area.start + first * self.page
        end = min(start + count * self.page, area.start + area.usable)
        if start < end:
            self.model.unmap(start, end)
            self.space.vm_area_unmap_pages(area.handle, start, end)
        else:
            self.idle()

    @rule(data=st.data(), align=st.sampled_from([1, 2, 8]), cpu=CPU, failure=FAILURES)
    def pcpu_get(self, data: st.DataObject, align: int, cpu: int, failure: Any) -> None:
        """Section 7.1; the addresses are the twin's."""
        self.on(cpu)
        self.enter()
        align *= self.page
        offsets, sizes, offset = [], [], 0
        for _ in range(data.draw(st.integers(1, 3))):
            offset += data.draw(st.integers(0, 3)) * align
            offsets.append(offset)
            sizes.append(data.draw(st.integers(1, 3)) * align)
            offset += sizes[-1]
        handles = self.call(lambda: self.space.pcpu_get_vm_areas(offsets, sizes, align), failure)
        if handles is None:
            assert self.mode != PLAIN
            return
        starts = [handle.address for handle in handles]
        if self.twin is not None:
            assert self.twin.pcpu_get_vm_areas(offsets, sizes, align) == starts
        assert len({start - offset for start, offset in zip(starts, offsets, strict=True)}) == 1
        group = []
        for handle, size in zip(handles, sizes, strict=True):
            if not self.dropped:
                assert not self.model.remembers_any(handle.address, handle.address + size)
            # No guard page, and no flag that says so: the last page counts as one (section 1.2).
            area = Area(handle.address, handle.address + size, size - self.page, "pcpu", size, handle=handle)
            group.append(self.model.add_area(area))
        self.groups.append(group)

    @rule(which=st.integers(0, 99), cpu=CPU)
    def pcpu_free(self, which: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        self.groups = [group for group in self.groups if all(area in self.model.areas for area in group)]
        if self.groups:
            group = self.groups.pop(which % len(self.groups))
            self.space.pcpu_free_vm_areas([area.handle for area in group])
            for area in group:
                self.model_free(area)
        else:
            self.idle()

    @rule(which=st.integers(0, 99), pgoff=st.integers(0, 3), count=st.integers(1, 6), cpu=CPU)
    def remap_to_user(self, which: int, pgoff: int, count: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which, "alloc")
        if area is None:
            return
        mapping = UserMapping(0x10000, count * self.page, self.page)
        make = lambda: self.space.remap_vmalloc_range(mapping, area.handle, pgoff)  # noqa: E731
        if not area.user:
            with pytest.raises(BadRequest):
                make()
        elif (pgoff + count) * self.page > area.usable:
            with pytest.raises(BadSize):
                make()
        else:
            make()
            assert mapping.pfns == area.pfns[pgoff : pgoff + count]
            for pfn in mapping.pfns:
                self.model.hold(pfn)
            self.users.append(mapping)

    @precondition(lambda self: self.users)
    @rule(which=st.integers(0, 99), cpu=CPU)
    def unmap_user(self, which: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        mapping = self.users.pop(which % len(self.users))
        self.model.put(mapping.pfns)
        self.space.unmap_user(mapping)

    @rule(which=st.integers(0, 99))
    def change_permissions(self, which: int) -> None:
        area = self.some(which, "alloc")
        if area is not None:
            self.space.set_vm_flush_reset_perms(area.handle)
            area.reset_perms = True

    # -- rules: vm_map_ram -----------------------------------------------------------------------------------------

    @rule(
        counts=st.lists(st.sampled_from([1, 2, 3, 5, 16, 30, 32, 60, 64, 64, 64, 65, 200]), min_size=1, max_size=8),
        first=st.integers(0, 99),
        cpu=CPU,
        failure=FAILURES,
    )
    def map_ram(self, counts: list[int], first: int, cpu: int, failure: Any) -> None:
        """Section 5.4; frames that nobody frees meanwhile, or page tables would be written to through old mappings."""
        self.on(cpu)
        if not self.ram_frames:
            self.alloc_pages(9, 0, None, cpu, None, True)
            self.ram_frames = list(self.lists.pop()) if self.error is None else []
        for count in counts if self.ram_frames else []:
            self.enter()
            self.map_one([self.ram_frames[(first + k) % 9] for k in range(count)], failure)

    def map_one(self, pfns: list[int], failure: Any) -> None:
        """Where a piece is follows from what was asked for before; where a block is, the twin says."""
        count = len(pfns)
        known = {block.area.start for block in self.blocks}
        address = self.call(lambda: self.space.vm_map_ram(pfns), failure)
        self.expect_shortage(count)
        if address is None:  # what was given to it for nothing is lost until a purge
            self.twin = self.twin if isinstance(self.error, OutOfAddresses) else None
            self.space.run_deferred()
            self.enter()
        numbers = self.space.state.blocks
        if count > numbers.max_alloc:
            if address is not None or self.twin is not None:
                self.adopt_ram(address, "ram", count * self.page, self.page)
            block = None
        else:
            taken = 1 << (count - 1).bit_length()
            block = next((b for b in self.blocks if b.cpu == self.cpu and b.free >= taken), None)
            if block is None:
                fresh = [area.start for area in self.space.state.space.busy() if numbers.at(area.start)]
                start = next((start for start in fresh if start not in known), None)
                area = self.adopt_ram(start, "block", numbers.block_size, numbers.block_size)
                if area is None:
                    return
                block = Block(area, self.cpu, numbers.block_pages)
                self.blocks.append(block)
            place = block.area.start + (numbers.block_pages - block.free) * self.page
            if address is None and numbers.get(numbers.at(place))["free"] == block.free:
                return  # nothing came of it so early that no page was taken
            assert address in (None, place)
            block.free -= taken
            block.live += taken
            if address is None:
                self.return_piece(place, count, block)
        if address is not None:
            assert self.dropped or not self.model.remembers_any(address, address + count * self.page)
            self.learn_mapping(address, pfns, 3, {self.shift})
            self.pieces.append((address, count, block))

    def adopt_ram(self, start: int | None, kind: str, size: int, align: int) -> Area | None:
        """A range of ``vm_map_ram``: it is where the twin puts it, and nobody else is there."""
        expected = self.twin_takes(size, align, (self.info.vmalloc_start, self.info.vmalloc_end), waits=True)
        assert self.twin is None or start == expected
        return None if start is None else self.model.add_area(Area(start, start + size, size, kind, 0))

    @precondition(lambda self: self.pieces)
    @rule(which=st.lists(st.integers(0, 99), min_size=1, max_size=12), cpu=CPU, wrong=st.sampled_from([0, 0, 0, 1, -1]))
    def unmap_ram(self, which: list[int], cpu: int, wrong: int) -> None:
        """Section 5.5, on any CPU; with a wrong count, or a second time, nothing happens."""
        self.on(cpu)
        for number in which:
            self.enter()
            if self.pieces:
                address, count, block = self.pieces[number % len(self.pieces)]
                if wrong:
                    with pytest.raises(BadSize):
                        self.space.vm_unmap_ram(address, count + wrong)
                self.unmap_one(address, count, block)
                self.enter()
                with pytest.raises(BadAddress):
                    self.space.vm_unmap_ram(address, count)
        self.idle()

    def unmap_one(self, address: int, count: int, block: Block | None) -> None:
        self.enter()
        self.pieces.remove((address, count, block))
        self.space.vm_unmap_ram(address, count)
        if block is None:
            self.model_free(next(area for area in self.model.areas if area.start == address))
        else:
            self.return_piece(address, count, block)

    def return_piece(self, address: int, count: int, block: Block) -> None:
        """The pages of a piece are dirty; a block of nothing else goes."""
        taken = 1 << (count - 1).bit_length()
        end = address + taken * self.page
        self.model.unmap(address, end)
        self.model.dirty.update(self.model.pages(address, end))
        block.live -= taken
        block.dirty += taken
        low, high = block.owed or (address, end)
        block.owed = (min(low, address), max(high, end))
        if block.free + block.live == 0:
            self.lose([block])

    def lose(self, blocks: list[Block]) -> None:
        """Blocks in which nothing is live are given back."""
        for block in blocks:
            assert block.live == 0
            self.blocks.remove(block)
            self.model_free(block.area)

    def notice_overflow(self) -> None:
        """A call that found no room gave back every block in which nothing is live, or none (section 5.6)."""
        left = self.space.state.blocks
        gone = [block for block in self.blocks if not left.at(block.area.start)]
        assert not gone or gone == [block for block in self.blocks if block.live == 0]
        self.lose(gone)

    def model_aliases(self) -> Any:
        """Section 4.9: what is given back, and what is flushed of the others; the twin's answer."""
        old, quarter = self.kernel.aliases_purge_all, self.space.state.blocks.purge_threshold
        self.lose([block for block in self.blocks if block.live == 0 and (old or block.free < quarter)])
        seen = [block for block in self.blocks if block.owed is not None and (block.free > 0 or not old)]
        hulls = [block.owed for block in seen if block.owed is not None]
        for block in seen:
            block.owed = block.owed if old else None
        if self.twin is None:
            return None
        low, high = min([low for low, _ in hulls], default=None), max([high for _, high in hulls], default=0)
        return self.twin.unmap_aliases(low, high, bool(hulls))

    # -- rules: free -----------------------------------------------------------------------------------------------

    @rule(
        which=st.integers(0, 99),
        page=st.integers(0, 99),
        cpu=CPU,
        how=st.sampled_from(["vfree", "vfree", "free", "address", "interior", "with", "collect", "unmap", "remove"]),
    )
    def free(self, which: int, page: int, cpu: int, how: str) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which, "map", "io", "reserved", "sparse", "pcpu") if how in ("unmap", "remove") else None
        area = area or self.some(which)
        if area is None:
            return
        handle: Any = area.handle
        area.handle = None
        match how:
            case "free":
                handle.free()
            case "address":
                self.space.vfree(handle.detach())
            case "interior":
                self.space.vfree(area.start + page * self.page % (area.end - area.start))
            case "with":
                with handle:
                    pass
            case "collect" if handle.owner:
                self.idle()  # a handle that is collected frees its area, and runs nothing else
                del handle
            case "unmap" if area.kind not in ("alloc", "put"):
                (self.space.iounmap if area.kind == "io" and page % 2 else self.space.vunmap)(handle)
            case "remove" if area.kind not in ("alloc", "put"):
                (self.space.free_vm_area if page % 2 else self.space.remove_vm_area)(handle)
            case _:
                self.space.vfree(handle)
        self.model_free(area)
        if how != "collect":
            self.free_again(area)

    def free_again(self, area: Area) -> None:
        """What was freed cannot be freed again: neither by its address nor by the handle."""
        self.enter()
        with pytest.raises(BadAddress):
            self.space.vfree(area.start)
        assert self.space.find_vm_area(area.start) is None

    @rule(
        which=st.integers(0, 99), cpu=CPU, context=CONTEXT, how=st.sampled_from(["vfree", "address", "atomic", "free"])
    )
    def free_in_interrupt(self, which: int, cpu: int, context: str, how: str) -> None:
        """Section 6.3: the memory itself becomes the list of what waits."""
        self.on(cpu)
        area = self.some(which)
        if area is None or self.vague:
            return
        self.free_later(area, how, context)

    @rule(which=st.integers(0, 99), cpu=CPU)
    def vfree_atomic(self, which: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which)
        if area is not None and not self.vague:
            self.free_later(area, "atomic", "task")
        else:
            self.idle()

    def free_later(self, area: Area, how: str, context: str) -> None:
        handle: Any = area.handle
        waiting = self.model.pending[self.cpu]
        link = waiting[-1].start if waiting else 0
        failure = self.model.store(self.cpu, area.start, link.to_bytes(self.info.word_bits // 8, "little"))
        free: Callable[[], None] = {
            "vfree": lambda: self.space.vfree(handle),
            "address": lambda: self.space.vfree(area.start),
            "atomic": lambda: self.space.vfree_atomic(handle),
            "free": handle.free,
        }[how]
        with self.space.in_context(context):
            if failure is None:
                free()
            else:
                with pytest.raises(Fault) as caught:
                    free()
                kind = failure.kind if failure.kind in ("stale_tlb", "readonly") else "unmapped"
                assert (caught.value.kind, caught.value.address) == (kind, area.start)
                return
        waiting.append(area)
        area.pending = True
        if len(waiting) == 1:
            self.queue.append(("free", self.cpu))
        if context != "task":  # it is still there, and cannot be freed once more
            with self.space.in_context(context), pytest.raises(BadAddress, match="waits"):
                self.space.vfree(area.start)
        assert handle.alive

    @precondition(lambda self: self.model.contiguous)
    @rule(which=st.integers(0, 99), cpu=CPU, how=st.sampled_from(["kvfree", "free", "collect", "vfree"]))
    def kvfree(self, which: int, cpu: int, how: str) -> None:
        self.on(cpu)
        self.enter()
        area = self.model.contiguous[which % len(self.model.contiguous)]
        handle: Any = area.handle
        if how == "vfree":
            with pytest.raises(BadAddress):
                self.space.vfree(handle)
            return
        self.model.contiguous.remove(area)
        area.handle = None
        if how == "kvfree":
            self.space.kvfree(handle)
        elif how == "free":
            handle.free()
        else:
            self.idle()  # a handle that is collected frees its area, and runs nothing else
        del handle
        self.model.put(area.pfns)

    # -- rules: what must not be done --------------------------------------------------------------------------------

    @rule(context=st.sampled_from(["softirq", "hardirq", "nmi"]), cpu=CPU, which=st.integers(0, 99))
    def call_in_wrong_context(self, context: str, cpu: int, which: int) -> None:
        self.on(cpu)
        area = self.some(which)
        calls: list[Callable[[], Any]] = [
            lambda: self.space.vmalloc(1),
            lambda: self.space.get_vm_area(1),
            lambda: self.space.vmap([0]),
            lambda: self.space.ioremap(self.device_base, 1),
            lambda: self.space.pcpu_get_vm_areas([0], [self.page], self.page),
            lambda: self.space.vm_map_ram([0]),
            lambda: self.space.vm_unmap_ram(self.info.vmalloc_start, 1),
        ]
        if area is not None:
            calls.append(lambda: self.space.vunmap(area.handle))
            if context == "nmi":
                calls.append(lambda: self.space.vfree(area.handle))
                calls.append(lambda: self.space.vfree_atomic(area.handle))
        with self.space.in_context(context):
            for call in calls:
                with pytest.raises(BadContext):
                    call()

    @rule(which=st.integers(0, 99), offset=st.sampled_from([1, 8, -8]), cpu=CPU)
    def free_nonsense(self, which: int, offset: int, cpu: int) -> None:
        self.on(cpu)
        self.enter()
        area = self.some(which)
        bad = [8, self.info.vmalloc_end + 1, (self.info.vmalloc_end & -self.page) - self.page]
        if area is not None:
            bad.append(area.start + offset)
        for address in bad:
            if self.model.area_at(address) is None or address % self.page:
                with pytest.raises(BadAddress):
                    self.space.vfree(address)

    # -- rules: bytes ----------------------------------------------------------------------------------------------

    def place(self, data: st.DataObject) -> int:
        """Anywhere: mostly in areas, also in their guard pages, in what was freed, and where never was anything."""
        ranges = [(area.start, area.end) for area in self.model.areas]
        ranges += [(area.start, area.end) for area in self.model.areas if area.pfns or area.kind == "map"] * 2
        ranges += self.model.gone[-6:]
        ranges += [(address, address + (count + 1) * self.page) for address, count, _block in self.pieces] * 2
        ranges += [(page, page + self.page) for page in sorted(self.model.dirty)[-6:]]
        ranges += [(self.info.vmalloc_start, self.info.vmalloc_start + 64 * self.page)]
        start, end = ranges[data.draw(st.integers(0, len(ranges) - 1))]
        nr_pages = (end - start) // self.page
        page = data.draw(st.one_of(st.integers(0, nr_pages - 1), st.sampled_from([0, nr_pages - 1])))
        offset = data.draw(st.sampled_from([0, 1, self.page // 2, self.page - 8, self.page - 1]))
        return start + page * self.page + offset

    def is_kind(self, fault: Fault, expected: Failure) -> bool:
        """The model does not know which of the freed ranges were purged meanwhile; the twin does."""
        if expected.kind != "freed" or self.model.area_at(expected.address) is not None:
            return fault.kind == expected.kind
        if self.twin is None:
            return fault.kind in ("freed", "unmapped")
        kept = any(area.start <= expected.address < area.end for area in self.twin.lazy() + self.twin.pooled())
        return fault.kind == ("freed" if kept else "unmapped")

    def allowed_up_to(self, at: int) -> int | None:
        """Where what somebody asked for and is at an address ends; None when nobody asked for that byte."""
        area = self.model.area_at(at)
        if area is not None and area.kind in ("block", "ram"):
            ends = [start + count * self.page for start, count, _block in self.pieces if start <= at]
            return min((end for end in ends if at < end), default=None)
        return area.start + area.requested if area is not None and at < area.start + area.requested else None

    def forbidden(self, address: int, size: int, context: str, access: Callable[[], Any]) -> bool:
        """Whether KASAN forbids an access (section 9.6): it does, at the first byte that nobody asked for."""
        if self.kasan is None:
            return False
        at, end = address, address + size
        while at < end and (behind := self.allowed_up_to(at)) is not None:
            at = behind
        if at >= end:
            return False
        if not any(first <= at < behind for first, behind in self.left_open):
            with self.space.in_context(context), pytest.raises(Fault) as caught:
                access()
            assert (caught.value.kind, caught.value.address, caught.value.cpu) == ("kasan", at, self.cpu)
        return True

    @precondition(lambda self: not self.vague)
    @rule(
        data=st.data(), size=st.sampled_from([1, 2, 8, 24, 5000]), cpu=CPU, context=st.sampled_from(["task", "hardirq"])
    )
    def load(self, data: st.DataObject, size: int, cpu: int, context: str) -> None:
        self.on(cpu)
        address = self.place(data)
        if self.forbidden(address, size, context, lambda: self.space.load(address, size)):
            return
        expected = self.model.reach(self.cpu, address, size, write=False)
        with self.space.in_context(context):
            if isinstance(expected, Failure):
                with pytest.raises(Fault) as caught:
                    self.space.load(address, size)
                self.check_fault(caught.value, expected, "read")
            else:
                self.model.agree(expected, self.space.load(address, size))

    @precondition(lambda self: not self.vague)
    @rule(data=st.data(), stored=DATA, cpu=CPU, context=st.sampled_from(["task", "softirq"]))
    def store(self, data: st.DataObject, stored: bytes, cpu: int, context: str) -> None:
        self.on(cpu)
        address = self.place(data)
        if self.forbidden(address, len(stored), context, lambda: self.space.store(address, stored)):
            return
        expected = self.model.store(self.cpu, address, stored)
        with self.space.in_context(context):
            if expected is None:
                self.space.store(address, stored)
            else:
                with pytest.raises(Fault) as caught:
                    self.space.store(address, stored)
                self.check_fault(caught.value, expected, "write")

    def check_fault(self, fault: Fault, expected: Failure, access: str) -> None:
        assert (fault.address, fault.access, fault.cpu) == (expected.address, access, self.cpu)
        assert self.is_kind(fault, expected), f"{fault}, but {expected}"
        assert self.dropped or fault.kind != "stale_tlb" or expected.kind == "stale_tlb"

    @precondition(lambda self: not self.vague)
    @rule(data=st.data(), count=st.integers(0, 20), write=st.booleans(), cpu=CPU)
    def access(self, data: st.DataObject, count: int, write: bool, cpu: int) -> None:
        cpu %= self.cpus
        addresses = [self.place(data) for _ in range(count)]
        kinds = [self.model.touch(cpu, address, write=write)[0] for address in addresses]
        counts = self.space.access(array("Q", addresses), write=write, cpu=cpu)
        assert (counts.readonly, counts.stale_tlb) == (kinds.count("readonly"), kinds.count("stale_tlb"))
        assert counts.unmapped == sum(kind in ("unmapped", "guard", "freed") for kind in kinds)
        assert counts.first_failure == next((k for k, kind in enumerate(kinds) if kind != "ok"), None)

    @rule(data=st.data(), size=st.sampled_from([1, 100, 5000, 300_000]))
    def vread(self, data: st.DataObject, size: int) -> None:
        """Section 2.9."""
        address = self.place(data)
        got = self.space.vread(address, size)
        pieces = self.model.read_tolerantly(address, size)
        if not any(area.start < address + size and address < area.end for area in self.model.areas):
            assert got == (bytes(size) if self.kernel.vread_fills_holes else b"")
            return
        assert len(got) == size
        for mapping, offset, n in pieces:
            if mapping is None:
                assert not any(got[:n])
            else:
                self.model.agree([(mapping, offset, n)], got[:n])
            got = got[n:]

    @rule(which=st.integers(0, 99), offset=st.integers(0, 1 << 16), stored=DATA)
    def use_contiguous(self, which: int, offset: int, stored: bytes) -> None:
        """The direct map: permanent addresses of contiguous memory, and what is stored there."""
        if not self.model.contiguous:
            return
        area = self.model.contiguous[which % len(self.model.contiguous)]
        offset %= area.usable
        stored = stored[: area.usable - offset]
        handle: Any = area.handle
        handle.write(offset, stored)
        for k, byte in enumerate(stored):
            at = offset + k
            self.model.frames[area.pfns[at // self.page]].write(at % self.page, bytes([byte]))
        assert handle.read(offset, len(stored)) == stored

    # -- rules: keeping house ----------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(["purge", "purge", "full", "aliases", "shrink", "trim", "deferred"]), cpu=CPU)
    def keep_house(self, how: str, cpu: int) -> None:
        self.on(cpu)
        space, twin = self.space, self.twin
        waiting = bool(self.queue)
        self.enter()
        got: Any = None
        match how:
            case "purge" | "full":
                got = space.purge(how == "full")
            case "aliases":
                got = space.vm_unmap_aliases()
            case "shrink":
                got = space.shrink()
            case "trim":
                got = space.trim()
                assert got >= 0
                self.count_other_flushes()
            case "deferred":
                assert (space.run_deferred() > 0) == waiting
        if how in ("full", "trim"):
            self.lose([block for block in self.blocks if block.live == 0])
        aliases = self.model_aliases() if how == "aliases" else None
        if twin is None:
            self.space.run_deferred()  # many blocks at once may be more than the threshold
        else:
            expected: Any = {
                "purge": twin.purge,
                "full": lambda: twin.purge(True),
                "aliases": lambda: aliases,
                "shrink": twin.shrink,
                "trim": lambda: twin.purge(True),
                "deferred": lambda: None,
            }[how]()
            assert how in ("trim", "deferred") or got == expected
        if how in ("purge", "full", "aliases", "trim") and not self.dropped:
            for start, end in self.model.gone:
                if not any(area.start < end and start < area.end for area in self.model.areas):
                    assert not self.model.remembers_any(start, end), "a purge covers everything that is lazy"
        if how == "aliases" and not self.kernel.aliases_purge_all and not self.dropped:
            assert not any(self.model.remembers_any(page, page + self.page) for page in self.model.dirty)

    @rule(cpu=CPU, root=st.integers(0, 4))
    def switch_context(self, cpu: int, root: int) -> None:
        """A CPU runs on other page tables: nothing changes for the kernel's addresses."""
        self.inner.mmu.do_switch_to(cpu % self.cpus, root % max(1, self.inner.page_table.nr_roots))

    @precondition(lambda self: self.mode == FORGETFUL)
    @rule(count=st.sampled_from([1, 1, 3]))
    def drop_flushes(self, count: int) -> None:
        self.machine.drop_flushes(count)
        self.dropped = True

    # -- after each step -------------------------------------------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "space"):  # an invariant is also checked before the first step
            return
        self.space.validate()
        model, stats = self.model, self.space.stats()
        table = self.space.areas()
        busy = sorted(
            (int(r["start"]), int(r["end"]), int(r["requested_size"]), int(r["nr_pages"]))
            for r in table
            if r["state"] == "busy"
        )
        assert busy == [(area.start, area.end, area.requested, len(area.pfns)) for area in model.areas]
        freed = [(int(r["start"]), int(r["end"])) for r in table if r["state"] != "busy"]
        for start, end in freed:
            assert not any(area.start < end and start < area.end for area in model.areas)
        assert stats["busy_areas"] == len(model.areas)
        assert stats["areas"] == sum(area.kind not in ("block", "ram") for area in model.areas)
        assert [stats[f"ram_{what}"] for what in ("blocks", "pages_free", "pages_dirty", "pages_live")] == [
            len(self.blocks), *(sum(getattr(b, what) for b in self.blocks) for what in ("free", "dirty", "live"))
        ]  # fmt: skip
        assert stats["busy_bytes"] == sum(area.end - area.start for area in model.areas)
        assert stats["pages"] == sum(len(area.pfns) for area in model.areas if area.kind == "alloc")
        assert stats["contiguous_blocks"] == len(model.contiguous)
        assert stats["deferred_frees"] == sum(len(waiting) for waiting in model.pending)
        shadow = 0 if self.kasan is None else len(self.kasan.present)
        assert stats["frames_used"] - stats["page_table_bytes"] // self.page == len(model.frames) + shadow
        lines = [parse_line(line) for line in self.space.vmallocinfo().splitlines()]
        shown = [(line.start, line.end) for line in lines if line is not None and line.kind != UNPURGED]
        assert sorted(shown) == [(area.start, area.end) for area in model.areas]
        assert len([line for line in lines if line is not None]) == len(lines)
        self.translations_agree()
        if self.twin is not None:
            self.addresses_agree(table)

    def translations_agree(self) -> None:
        """The first and last pages of each area, and the guard page behind it."""
        for area in self.model.areas[:30]:
            last = area.start + max(area.usable - self.page, 0)
            for address in (area.start, last, area.end - self.page):
                mapping = self.model.table.get(address)
                assert self.space.vmalloc_to_pfn(address + 5) == (None if mapping is None else mapping.pfn)

    def addresses_agree(self, table: Any) -> None:
        """Every range is where and what it is in the independent address space."""
        assert self.twin is not None
        expected = [(a.start, a.end, a.state) for a in self.twin.busy() + self.twin.lazy() + self.twin.pooled()]
        got = [(int(r["start"]), int(r["end"]), str(r["state"])) for r in table]
        assert sorted(got) == sorted(expected)

    def teardown(self) -> None:
        """Everything is freed: nothing is left but page tables, and after ``trim`` only those made at boot."""
        if not hasattr(self, "space"):
            return
        self.machine.clear()
        self.machine.cpu = 0
        self.space.run_deferred()
        self.enter()
        for mapping in self.users:
            self.model.put(mapping.pfns)
            self.space.unmap_user(mapping)
        for piece in list(self.pieces):
            self.unmap_one(*piece)
        while (area := self.some(0)) is not None:
            self.space.vfree(area.start)
            area.handle = None
            self.model_free(area)
        for area in self.model.contiguous:
            self.space.kvfree(area.handle)
            self.model.put(area.pfns)
        self.model.contiguous.clear()
        for pages in [*self.lists, self.ram_frames]:
            self.space.free_pages(pages)
            self.model.put(list(pages))
        self.space.purge(True)
        self.space.trim()
        stats = self.space.stats()
        assert not self.model.frames
        assert stats["areas"] == stats["lazy_areas"] == stats["pooled_areas"] == stats["pages"] == 0
        assert stats["frames_used"] == stats["page_table_bytes"] // self.page
        assert stats["frames_free"] + stats["frames_used"] == stats["frames"]
        fresh = SimulatedMachine(self.arch, self.kernel, cpus=self.cpus, shared_ranges=self.shadow)
        assert stats["page_table_bytes"] == fresh.page_table.table_bytes
        self.space.validate()
        self.space.close()


def run_programs(examples: int, steps: int) -> None:
    case = Programs.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=list(HealthCheck))
    case("runTest").runTest()


@pytest.mark.both_builds
def test_random_programs_of_all_calls_agree_with_the_model() -> None:
    run_programs(8 if _build.PURE else 60, 40)


@pytest.mark.campaign
def test_many_long_programs_agree_with_the_model() -> None:
    run_programs(20_000, 80)
