"""One allocator's address space for Python callers: the floor's public face.

Idea: the compiled ``Allocator`` makes single attempts and reports failure in numbers; this class adds what the kernel
does around them (specification section 1.10): it checks arguments, purges and tries again when addresses run out, asks
the notifiers, counts lazy pages against the threshold, fires what the kernel traces (section 10.3), and raises.  It
knows addresses only: which memory is behind them, and how a TLB is flushed, is the caller's.

What is owed: a purge makes addresses reusable whose old translations may still be cached, so the hull of the purged
areas must be flushed *before* one of them is handed out again.  Whoever has something to flush gives ``flush`` to the
constructor; it is called with that hull under the lock, when no address of it can have been reused.  The hull is also
the result of the calls that purge.

Locking: ``_lock`` protects the allocator, all counters and the list of notifiers; every method takes it for as long as
it looks at or changes them.  ``observer`` and ``flush`` run under it and must not call back.  Purge notifiers run
without it, as in the kernel, because giving areas back is what they are for.

A call that raises because of its arguments has changed nothing.  ``OutOfAddresses`` comes after a purge, and a
misaligned pool head has moved to its list's tail then (4.8): both as in the kernel; no area was made or lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from vmalloc import kernels
from vmalloc.areas.allocator import Allocator
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.states import (
    EINVAL,
    ENOMEM,
    MAX_POOL_PAGES,
    NIL,
    STATE_NAMES,
    VMAP_BLOCK,
    VMAP_RAM,
    error_value,
    is_error_value,
)
from vmalloc.areas.validate import validate_allocator
from vmalloc.errors import BadAddress, BadRequest, BadSize, OutOfAddresses
from vmalloc.kernels import KernelProfile
from vmalloc.policy import Policy
from vmalloc.units import format_range, is_power_of_two

__all__ = ["AddressSpace", "Observer", "Purged", "VmapArea"]


#: Told ``(start, end)`` of each range of a node that a purge takes, and of the free region around each.
Release = Callable[[list[tuple[int, int]], list[tuple[int, int]]], object]


class Observer(Protocol):
    """Receives the kernel's trace events (section 10.3) by name and field, ``printk`` for its final complaint."""

    def __call__(self, event: str, /, **fields: int | str) -> None: ...


@dataclass(frozen=True, slots=True)
class VmapArea:
    """A picture of one ``vmap_area``: ``[start, end)``, its flags, and where it is.

    Attributes:
        start, end: bytes; the guard page belongs to the area.
        flags: ``VMAP_RAM``, ``VMAP_BLOCK``, and the allocating node's mark ``(id + 1) << 8`` (section 4.7).
        node: the vmap node whose busy set, lazy set or pool the area is in; None for a free block.
        state: ``"busy"``, ``"lazy"``, ``"pooled"`` or ``"free"``.
    """

    start: int
    end: int
    flags: int
    node: int | None
    state: str

    @property
    def size(self) -> int:
        """Bytes, guard included."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{format_range(self.start, self.end)} {self.state}"


@dataclass(frozen=True, slots=True)
class Purged:
    """What one purge took: the hull ``[start, end)`` that had to be flushed, and the number of areas in it.

    With nothing lazy the hull is the one handed in, by default the empty one from the highest address to 0.
    """

    start: int
    end: int
    count: int


class _Request(NamedTuple):
    """A checked request in the order ``Allocator.allocate`` takes it."""

    size: int
    align: int
    vstart: int
    vend: int
    cpu: int
    flags: int


class AddressSpace:
    """All addresses of a machine and who has them, allocated as one family of Linux releases does it.

    Args:
        vmalloc_start, vmalloc_end: the range requests are restricted to unless they name a window; only requests for
            exactly this range use pools. Bytes; the start is page aligned, the end may be odd (section 1.5).
        kernel: a version such as ``"6.12"``, or a profile.
        cpus: possible CPUs; they set the number of vmap nodes.
        online_cpus: CPUs that count for the purge threshold; all by default.
        page_size: base page in bytes.
        word_bits: 64 or 32; a 32-bit machine has one node.
        early: areas that exist before the allocator does, as ascending disjoint ``(start, end)``.
        observer: told what the kernel would trace.
        flush: called with each hull ``(start, end)`` that a purge owes a TLB flush.
        release: called once per node with the ranges that a purge takes from it, and with the free region that is known
            around each: itself, or up to 6.8, where the ranges are free by then, the free block it is in (section 9.4).
        policy: rules that differ from the kernel's (``policy.Policy``); guard pages and huge mappings are not ours.

    Raises:
        BadAddress: a bound is misaligned or outside the machine's addresses, or early areas overlap or are unsorted.
        BadRequest: a number of CPUs, a page or a word size that no machine has.
        ValueError: no profile for this kernel.

    >>> space = AddressSpace(0x100000, 0x140000)
    >>> hex(space.alloc(0x3000)), hex(space.alloc(0x1000))
    ('0x100000', '0x103000')
    """

    def __init__(
        self,
        vmalloc_start: int,
        vmalloc_end: int,
        *,
        kernel: str | KernelProfile = "6.19",
        cpus: int = 1,
        online_cpus: int | None = None,
        page_size: int = 4096,
        word_bits: int = 64,
        early: Iterable[tuple[int, int]] = (),
        observer: Observer | None = None,
        flush: Callable[[int, int], None] | None = None,
        release: Release | None = None,
        policy: Policy | None = None,
    ) -> None:
        if word_bits not in (32, 64) or not is_power_of_two(page_size) or page_size > 1 << 20:
            raise BadRequest(f"no machine has {word_bits}-bit words with pages of {page_size} bytes")
        if cpus < 1:
            raise BadRequest(f"a machine has at least one CPU, got {cpus}")
        self.kernel = kernels.profile(kernel) if isinstance(kernel, str) else kernel
        self.policy = Policy() if policy is None else policy
        self.page_size = page_size
        self.address_max = (1 << word_bits) - 1
        self.cpus = cpus
        self.vmalloc_start = vmalloc_start
        self.vmalloc_end = vmalloc_end
        self._check_window(vmalloc_start, vmalloc_end)
        areas = list(early)
        self._check_early(areas)
        self._lock = threading.Lock()
        self._observer = observer
        self._flush = flush
        self._release = release
        self.early = tuple(areas)
        self._notifiers: list[Callable[[], int]] = []
        self._drain_pending = False
        self._purges = self._flushes = self._flushed_bytes = 0
        self.online_cpus = cpus if online_cpus is None else online_cpus
        self.allocator = Allocator(
            vmalloc_start,
            vmalloc_end,
            self.policy.nr_nodes(self.kernel, cpus, word_bits=word_bits),
            page_size.bit_length() - 1,
            self.kernel.merges_lazy,
            self.kernel.small_pools_drain and self.policy.decay_is_kernels,
            self.kernel.returns_ascending,
            self.kernel.walk_step,
            self.policy.lowest_fit,
            self.policy.decay_divisor,
            self.policy.pools,
        )
        self._build(areas)

    def _build(self, early: list[tuple[int, int]]) -> None:
        """Makes the early areas busy and the gaps between them free, in the kernel's order (section 1.5).

        Each early area is made free and taken alone, so that the tree is empty again; the gaps then enter it ascending,
        which is what gives it the kernel's shape.
        """
        for start, end in early:
            self.allocator.free.add(start, end)
            if self.allocator.put(start, end, 0) != 0:
                raise MemoryError("no memory for the early areas")
        gap = 1
        for start, end in [*early, (self.address_max, self.address_max)]:
            if start > gap:
                self.allocator.free.add(gap, start)
            gap = end

    # -- allocate and free -----------------------------------------------------------------------------------------

    def alloc(
        self,
        size: int,
        align: int = 1,
        vstart: int | None = None,
        vend: int | None = None,
        *,
        cpu: int = 0,
        flags: int = 0,
    ) -> int:
        """Allocates a range as ``alloc_vmap_area`` does, purging when there is no room, and returns its start.

        Args:
            size: bytes, guard page included; a page multiple.
            align: bytes, a power of two.
            vstart, vend: the window, by default the vmalloc range; any other bypasses the pools.
            cpu: the CPU that asks; its node's pool is looked at.
            flags: ``VMAP_RAM`` and ``VMAP_BLOCK``, kept with the area.

        Raises:
            BadSize: size or alignment no kernel accepts.
            BadAddress: a window that is no range of page-aligned start.
            BadRequest: no such CPU or flag.
            OutOfAddresses: no room after a full purge and after the notifiers had nothing to give; the kernel's message
                is the exception's first note.
        """
        request = self._request(size, align, vstart, vend, cpu, flags)
        try_pool, purged = True, False
        while True:
            with self._lock:
                address = self._attempt_locked(request, try_pool)
                if not is_error_value(address):
                    return address
                if not purged:
                    self._purge_locked(self.address_max, 0, full=True)
            try_pool = False
            if purged and not self.notify_purge():
                raise self._overflow(request)
            purged = not purged

    def alloc_nowait(
        self,
        size: int,
        align: int = 1,
        vstart: int | None = None,
        vend: int | None = None,
        *,
        cpu: int = 0,
        flags: int = 0,
    ) -> int:
        """Like ``alloc``, but one attempt only: for callers that must not wait, or that purge themselves.

        Raises:
            OutOfAddresses: no room now; the kernel prints nothing here, and there is no note.
        """
        return self._once(self._request(size, align, vstart, vend, cpu, flags), try_pool=True)

    def alloc_again(
        self,
        size: int,
        align: int = 1,
        vstart: int | None = None,
        vend: int | None = None,
        *,
        cpu: int = 0,
        flags: int = 0,
    ) -> int:
        """Like ``alloc_nowait``, after the caller has purged: a second attempt does not look at the pools (1.10)."""
        return self._once(self._request(size, align, vstart, vend, cpu, flags), try_pool=False)

    def _once(self, request: _Request, *, try_pool: bool) -> int:
        with self._lock:
            address = self._attempt_locked(request, try_pool)
        if is_error_value(address):
            reason = "in one attempt" if try_pool else "after the caller's purge"
            raise OutOfAddresses(request.size, request.align, request.vstart, request.vend, reason)
        return address

    def free(self, address: int) -> bool:
        """Makes the area that contains ``address`` lazy: unmapped, not reusable before a purge (section 4.2).

        ``address`` may be inside the area, which is freed whole, as the kernel does.

        Returns:
            True when the lazy pages now exceed the threshold, so that ``drain`` has work.

        Raises:
            BadAddress: not page aligned, or in no busy area.
        """
        with self._lock:
            return self._free_locked(self._busy_start_locked(address))

    def free_now(self, address: int) -> None:
        """Returns the area that contains ``address`` straight to the free set: for one that was never mapped.

        Raises:
            BadAddress: not page aligned, or in no busy area.
        """
        with self._lock:
            self.allocator.free_now(self._busy_start_locked(address))

    def reserve(self, start: int, end: int, *, flags: int = 0) -> None:
        """Makes exactly ``[start, end)`` busy.

        Raises:
            BadAddress: not a range of whole pages, or not free throughout.
        """
        self._check_flags(flags)
        self._check_window(start, end)
        if end % self.page_size:
            raise BadAddress(end, f"is not a multiple of the page size {self.page_size:#x}")
        with self._lock:
            result = self.allocator.put(start, end, flags)
        if result == -EINVAL:
            raise BadAddress(start, f"{format_range(start, end)} is not free throughout")
        if result != 0:
            raise MemoryError("no memory for a vmap_area record")

    # -- purge -----------------------------------------------------------------------------------------------------

    @property
    def online_cpus(self) -> int:
        """CPUs that count for the purge threshold; may change at any time."""
        return self._online_cpus

    @online_cpus.setter
    def online_cpus(self, count: int) -> None:
        if not 1 <= count <= self.cpus:
            raise BadRequest(f"{count} online CPUs of {self.cpus} possible ones")
        self._online_cpus = count

    @property
    def lazy_max_pages(self) -> int:
        """The threshold in pages: more lazy ones than this make drain work pending (section 4.3)."""
        return self.policy.threshold(self._online_cpus, self.page_size)

    @property
    def nr_lazy(self) -> int:
        """Lazy pages now."""
        with self._lock:
            return self.allocator.nodes.nr_lazy

    @property
    def drain_pending(self) -> bool:
        """Whether a free exceeded the threshold since the last ``drain``: the work item is queued."""
        with self._lock:
            return self._drain_pending

    def drain(self) -> Purged | None:
        """Runs the drain work if it is pending: one partial purge; up to 6.8 until below the threshold.

        Returns:
            What the last pass took, or None when no work was pending.
        """
        with self._lock:
            if not self._drain_pending:
                return None
            self._drain_pending = False
        while True:
            with self._lock:
                purged = self._purge_locked(self.address_max, 0, full=False)
                above = self.allocator.nodes.nr_lazy > self.lazy_max_pages
            if not (self.kernel.drain_repeats and above):
                return purged

    def purge(self, full: bool = False) -> Purged:
        """Purges all lazy areas: into the pools where they may, after a quarter of each pool went back to the tree.

        Args:
            full: as on overflow: pools are emptied and not filled, everything becomes free.
        """
        with self._lock:
            return self._purge_locked(self.address_max, 0, full=full)

    def unmap_aliases(self, start: int | None = None, end: int = 0, flush: bool = False) -> tuple[int, int] | None:
        """Purges with a hull that already covers ``[start, end)``, as ``_vm_unmap_aliases`` ends (section 4.9).

        Args:
            start, end: what the caller has to flush anyway; nothing by default.
            flush: flush it even when nothing is lazy.

        Returns:
            The range that must be flushed, or None.
        """
        first = self.address_max if start is None else start
        with self._lock:
            purged = self._purge_locked(first, end, full=False)
            if purged.count:
                return (purged.start, purged.end)
            if not flush:
                return None
            self._flush_locked(first, end)
            return (first, end)

    def shrinker_count(self) -> int:
        """Pooled areas of all nodes: what ``shrink`` would give back."""
        with self._lock:
            return sum(len(rows) for _node, rows in self._pools_locked())

    def shrink(self) -> int:
        """Returns every pooled area to the free set and leaves the lazy ones (section 4.10); returns how many."""
        with self._lock:
            count = sum(len(rows) for _node, rows in self._pools_locked())
            self.allocator.purge.shrink_pools()
            return count

    def register_purge_notifier(self, notifier: Callable[[], int]) -> Callable[[], None]:
        """Registers who is asked to free areas when an allocation fails after a purge (section 4.10).

        Args:
            notifier: called without the lock, in order of registration; returns how much it freed, 0 for nothing.

        Returns:
            A function that takes the registration back; calling it twice does nothing.
        """
        entry = [notifier]  # its identity is the registration: the same callable may be registered twice

        def call() -> int:
            return entry[0]()

        def unregister() -> None:
            with self._lock:
                if call in self._notifiers:
                    self._notifiers.remove(call)

        with self._lock:
            self._notifiers.append(call)
        return unregister

    # -- per-CPU areas ---------------------------------------------------------------------------------------------

    def pcpu_get_vm_areas(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> list[int]:
        """Allocates ranges at fixed offsets from one base, as high as they fit (section 7.1).

        Args:
            offsets, sizes: bytes, one each per group; multiples of ``align``.
            align: bytes; a power of two and a page multiple.

        Returns:
            The start of each group's range.

        Raises:
            BadSize: a geometry the kernel stops at, or one wider than the vmalloc range.
            OutOfAddresses: no base, even after a full purge.
        """
        groups = self._groups(offsets, sizes, align)
        with self._lock:
            base = self.allocator.claim_groups(groups)
            if is_error_value(base) and base != error_value(ENOMEM):
                self._purge_locked(self.address_max, 0, full=True)
                base = self.allocator.claim_groups(groups)
        return self._group_starts(base, offsets, sizes, align, "even after a purge")

    def pcpu_get_vm_areas_nowait(
        self, offsets: Sequence[int], sizes: Sequence[int], align: int, reason: str = "in one attempt"
    ) -> list[int]:
        """Like ``pcpu_get_vm_areas``, but one attempt only: for callers that purge themselves.

        Args:
            reason: what the error says beside that there is no room.

        Raises:
            BadSize: as there. OutOfAddresses: no base now.
        """
        groups = self._groups(offsets, sizes, align)
        with self._lock:
            base = self.allocator.claim_groups(groups)
        return self._group_starts(base, offsets, sizes, align, reason)

    def _group_starts(
        self, base: int, offsets: Sequence[int], sizes: Sequence[int], align: int, reason: str
    ) -> list[int]:
        """Where groups at a base are; raises for a base that is an error value."""
        if base == error_value(ENOMEM):
            raise MemoryError("no memory for vmap_area records")
        if is_error_value(base):
            raise OutOfAddresses(sum(sizes), align, self.vmalloc_start, self.vmalloc_end, reason)
        return [base + offset for offset in offsets]

    def pcpu_free_vm_areas(self, addresses: Iterable[int]) -> bool:
        """Makes the ranges that start at ``addresses`` lazy; True when ``drain`` has work.

        Raises:
            BadAddress: one is not the start of a busy area, or named twice.
        """
        with self._lock:
            starts = list(addresses)
            for i, address in enumerate(starts):
                if self._busy_start_locked(address) != address or address in starts[:i]:
                    raise BadAddress(address, "is not the start of a busy area of its own")
            work = False
            for address in starts:
                work = self._free_locked(address)
            return work

    # -- look ------------------------------------------------------------------------------------------------------

    def find(self, address: int) -> VmapArea | None:
        """The busy area that contains ``address``, which need not be its start (section 1.12)."""
        if not 0 <= address <= self.address_max:
            return None
        with self._lock:
            row = self.allocator.find_busy(address)
            return None if row == NIL else self._busy_picture_locked(row)

    def first_ending_above(self, address: int) -> VmapArea | None:
        """The lowest busy area that ends above ``address``, over all nodes: where a reader of memory goes on."""
        nodes = self.allocator.nodes
        address = max(0, min(address, self.address_max))
        with self._lock:
            found = []
            for node in range(nodes.nr_nodes):
                around = nodes.maps.floor(node, address)
                if around != NIL and self.allocator.rows.get(around)["va_end"] <= address:
                    around = NIL
                row = around if around != NIL else nodes.maps.ceiling(node, address)
                if row != NIL:
                    found.append(self._busy_picture_locked(row))
            return min(found, key=lambda area: area.start, default=None)

    def busy(self) -> list[VmapArea]:
        """All busy areas in the order of ``/proc/vmallocinfo``: node by node, ascending within a node."""
        with self._lock:
            nodes = self.allocator.nodes
            return [self._picture_locked(row, n) for n in range(nodes.nr_nodes) for row in nodes.busy(n)]

    def lazy(self) -> list[VmapArea]:
        """All lazy areas, node by node, ascending within a node."""
        with self._lock:
            return self._lazy_locked()

    def pooled(self) -> list[VmapArea]:
        """All pooled areas: node by node, by size, the next one to be reused first."""
        with self._lock:
            return self._pooled_locked()

    def free_blocks(self) -> list[VmapArea]:
        """The free set, ascending; it reaches beyond the vmalloc range on both sides (section 1.5)."""
        with self._lock:
            return [VmapArea(start, end, 0, None, "free") for start, end in self.allocator.free.blocks()]

    @property
    def purges(self) -> int:
        """How many purges there were; what ``stats`` says, without counting anything else."""
        return self._purges

    def stats(self) -> dict[str, int | float]:
        """Counters and sizes; free blocks are counted within the vmalloc range, clipped to it.

        ``fragmentation`` is 1 minus the largest free block's share of all free bytes: 0 when they are in one piece.
        """
        with self._lock:
            nodes = self.allocator.nodes
            rows = [row for n in range(nodes.nr_nodes) for row in nodes.busy(n)]
            pooled = self._pooled_locked()
            free = [
                min(end, self.vmalloc_end) - max(start, self.vmalloc_start)
                for start, end in self.allocator.free.blocks()
                if start < self.vmalloc_end and end > self.vmalloc_start
            ]
            largest = max(free, default=0)
            return {
                "busy_areas": len(rows),
                "busy_bytes": sum(self._picture_locked(row, None).size for row in rows),
                "lazy_areas": nodes.lazy_areas,
                "lazy_pages": nodes.nr_lazy,
                "pooled_areas": len(pooled),
                "pooled_pages": sum(area.size for area in pooled) // self.page_size,
                "free_blocks": len(free),
                "free_bytes": sum(free),
                "largest_free": largest,
                "fragmentation": 1 - largest / sum(free) if free else 0.0,
                "pool_hits": self.allocator.pool_hits,
                "purges": self._purges,
                "flush_hulls": self._flushes,
                "flush_hull_bytes": self._flushed_bytes,
            }

    def validate(self) -> None:
        """Checks every structure and that together they cover each address exactly once.

        Raises:
            ValidationError: naming the two things that contradict each other.
        """
        with self._lock:
            validate_allocator(self.allocator, self.address_max)

    # -- below: checks of arguments, without the lock ------------------------------------------------------------------

    def _request(self, size: int, align: int, vstart: int | None, vend: int | None, cpu: int, flags: int) -> _Request:
        if not 0 < size <= self.address_max or size % self.page_size:
            raise BadSize(f"size {size:#x} bytes is not a positive multiple of the page size {self.page_size:#x}")
        if not is_power_of_two(align) or align > self.address_max:
            raise BadSize(f"alignment {align:#x} bytes is not a power of two below {self.address_max:#x}")
        if not 0 <= cpu < self.cpus:
            raise BadRequest(f"CPU {cpu} of a machine whose CPUs are 0 to {self.cpus - 1}")
        self._check_flags(flags)
        start = self.vmalloc_start if vstart is None else vstart
        end = self.vmalloc_end if vend is None else vend
        self._check_window(start, end)
        return _Request(size, align, start, end, cpu, flags)

    def _check_flags(self, flags: int) -> None:
        if flags & ~(VMAP_RAM | VMAP_BLOCK):
            raise BadRequest(f"flags {flags:#x} have bits other than VMAP_RAM and VMAP_BLOCK")

    def _check_window(self, start: int, end: int) -> None:
        """A window may end anywhere, but starts at a page that is not page 0: areas are whole pages."""
        if start % self.page_size or start < self.page_size:
            raise BadAddress(start, f"is not a positive multiple of the page size {self.page_size:#x}")
        if not start < end <= self.address_max:
            raise BadAddress(end, f"is no end of a range from {start:#x}, at most {self.address_max:#x}")

    def _check_early(self, areas: list[tuple[int, int]]) -> None:
        below = 0
        for start, end in areas:
            self._check_window(start, end)
            if end % self.page_size:
                raise BadAddress(end, f"is not a multiple of the page size {self.page_size:#x}")
            if start < below:
                raise BadAddress(start, f"early area overlaps or precedes the one ending at {below:#x}")
            below = end

    def _groups(self, offsets: Sequence[int], sizes: Sequence[int], align: int) -> PcpuGroups:
        if not is_power_of_two(align) or align % self.page_size:
            raise BadSize(f"alignment {align:#x} bytes is not a power of two of at least a page")
        if any(not 0 <= number <= self.address_max for number in [*offsets, *sizes]):
            raise BadSize(f"offsets and sizes must be within 0 and {self.address_max:#x} bytes")
        span = max((o + s for o, s in zip(offsets, sizes, strict=False)), default=0)
        low, high = -(-self.vmalloc_start // align) * align, self.vmalloc_end // align * align
        if high - low < span:
            raise BadSize(f"groups that span {span:#x} bytes do not fit in {format_range(low, high)}")
        try:
            return PcpuGroups(list(offsets), list(sizes), align, self.vmalloc_start, self.vmalloc_end)
        except ValueError as error:
            raise BadSize(str(error)) from None

    # -- below: with the lock held -------------------------------------------------------------------------------------

    def _attempt_locked(self, request: _Request, try_pool: bool) -> int:
        """One attempt and its trace event; returns the address or an error value."""
        address: int = self.allocator.allocate(*request, try_pool)
        failed = is_error_value(address)
        if self._observer is not None:
            shown = address
            if failed:
                shown = address & self.address_max if self.kernel.failure_is_errno else request.vend
            self._observer(
                "alloc_vmap_area",
                va_start=shown,
                size=request.size,
                align=request.align,
                vstart=request.vstart,
                vend=request.vend,
                failed=int(failed),
            )
        if address == error_value(ENOMEM):
            raise MemoryError("no memory for a vmap_area record")
        return address

    def _free_locked(self, start: int) -> bool:
        if self.allocator.free_lazily(start) != 0:
            raise MemoryError("no memory for a set of lazy areas")
        nr_lazy, threshold = self.allocator.nodes.nr_lazy, self.lazy_max_pages
        if self._observer is not None:
            self._observer("free_vmap_area_noflush", va_start=start, nr_lazy=nr_lazy, nr_lazy_max=threshold)
        if nr_lazy > threshold:
            self._drain_pending = True
            return True
        return False

    def _purge_locked(self, start: int, end: int, *, full: bool) -> Purged:
        self._purges += 1
        if self._release is not None:
            purged = self._purge_in_steps_locked(start, end, full, self._release)
        else:
            purged = Purged(*self.allocator.run_purge(start, end, full))
            if purged.count:
                self._flush_locked(purged.start, purged.end)
        if self._observer is not None:
            self._observer("purge_vmap_area_lazy", start=purged.start, end=purged.end, num_purged=purged.count)
        return purged

    def _purge_in_steps_locked(self, start: int, end: int, full: bool, release: Release) -> Purged:
        """A purge in its steps, for whoever has something to release of each range before it is anybody's again.

        Up to 6.8 a range is released when it is in the free tree already (9.4); nobody can take it from there before
        this returns.
        """
        purge, nodes = self.allocator.purge, range(self.allocator.nodes.nr_nodes)
        purge.do_begin(start, end, full)
        for node in nodes:
            purge.do_decay(node, full)
            purge.do_detach(node)
        ranges = [purge.pending_ranges(node) for node in nodes]
        if any(ranges):
            self._flush_locked(purge.start, purge.end)
        for node in nodes:
            if self.kernel.returns_ascending:
                purge.do_finish(node)
                release(ranges[node], [self.allocator.free.block_of(first) for first, _ in ranges[node]])
            else:
                release(ranges[node], ranges[node])
                purge.do_finish(node)
        return Purged(purge.start, purge.end, purge.count)

    def _flush_locked(self, start: int, end: int) -> None:
        self._flushes += 1
        self._flushed_bytes += max(0, end - start)
        if self._flush is not None:
            self._flush(start, end)

    def _busy_start_locked(self, address: int) -> int:
        """Start of the busy area that contains ``address``."""
        if not 0 <= address <= self.address_max or address % self.page_size:
            raise BadAddress(address, f"is not a page-aligned address (pages of {self.page_size:#x} bytes)")
        row = self.allocator.find_busy(address)
        if row == NIL:
            self._refuse_locked(address)
        start: int = self.allocator.rows.get(row)["va_start"]
        return start

    def _refuse_locked(self, address: int) -> NoReturn:
        for area in [*self._lazy_locked(), *self._pooled_locked()]:
            if area.start <= address < area.end:
                raise BadAddress(address, f"is in no busy area: {area} since an earlier free")
        raise BadAddress(address, "is in no busy area")

    def _picture_locked(self, row: int, node: int | None) -> VmapArea:
        fields = self.allocator.rows.get(row)
        return VmapArea(fields["va_start"], fields["va_end"], fields["flags"], node, STATE_NAMES[fields["state"]])

    def _busy_picture_locked(self, row: int) -> VmapArea:
        node = self.allocator.nodes.node_of_address(self.allocator.rows.get(row)["va_start"])
        return self._picture_locked(row, node)

    def _lazy_locked(self) -> list[VmapArea]:
        nodes = self.allocator.nodes
        return [self._picture_locked(row, n) for n in range(nodes.nr_nodes) for row in nodes.lazy(n)]

    def _pooled_locked(self) -> list[VmapArea]:
        return [self._picture_locked(row, node) for node, rows in self._pools_locked() for row in rows]

    def _pools_locked(self) -> Iterator[tuple[int, list[int]]]:
        """The lists of rows of all pools that hold any; none with a single node, which never pools (section 4.5)."""
        nodes = self.allocator.nodes
        if nodes.nr_nodes == 1:
            return
        for node in range(nodes.nr_nodes):
            for nr_pages in range(1, MAX_POOL_PAGES + 1):
                rows = nodes.pools.entries(node, nr_pages)
                if rows:
                    yield node, rows

    # -- below: the end of an overflow, without the lock ---------------------------------------------------------------

    def notify_purge(self) -> int:
        """Asks every purge notifier, as a blocking chain does; how much they freed. Call without any lock."""
        with self._lock:
            chain = list(self._notifiers)
        return sum(notifier() for notifier in chain)

    def _overflow(self, request: _Request) -> OutOfAddresses:
        message = self.kernel.overflow_message.format(size=request.size, start=request.vstart, end=request.vend)
        with self._lock:
            if self._observer is not None:
                self._observer("printk", message=message)
        error = OutOfAddresses(request.size, request.align, request.vstart, request.vend)
        error.add_note(message)
        return error
