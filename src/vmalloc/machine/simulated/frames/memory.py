"""The physical memory of a simulated machine, for Python callers: the frames' public face.

Idea: the compiled ``FrameAllocator`` speaks numbers and trusts its node, zone limit and CPU.  This class checks them,
raises instead of returning codes, keeps the words behind the owners' numbers, and brings contents along.

A call that raises has changed nothing, except ``release_bulk``, which says how far it came, and ``allocate_draining``,
which has emptied the CPUs' lists.

Leaks: give each allocation an owner, and what ``outstanding`` still lists at the end was never freed.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from vmalloc.errors import BadRequest, OutOfFrames
from vmalloc.machine.simulated.frames.allocator import PCP_BATCH, PCP_HIGH, FrameAllocator
from vmalloc.machine.simulated.frames.contents import FrameContents
from vmalloc.machine.simulated.frames.layout import DMA32_LIMIT
from vmalloc.machine.simulated.frames.report import NodeStats, buddyinfo, held, node_stats
from vmalloc.machine.simulated.frames.states import (
    FOREIGN,
    MAX_ORDER,
    NR_KINDS,
    REASONS,
    WRONG_ORDER,
    ZONE_NAMES,
    ZONE_NORMAL,
    bad_frame,
)
from vmalloc.machine.simulated.frames.validate import validate_frames

__all__ = ["Outstanding", "PhysicalMemory"]


class Outstanding(NamedTuple):
    """An allocation that was not freed: its first frame, its order, and who holds it (None: nobody said)."""

    pfn: int
    order: int
    owner: Hashable


class PhysicalMemory:
    """All page frames of a machine, and what is in them.

    Args:
        nodes: per node ``(start_pfn, nr_frames)``, or ``nr_frames`` alone.
        page_shift: exponent of the page size.
        cpus: number of CPUs.
        distances: between nodes, as a square table.
        dma32_limit: bytes; frames below are what a 32-bit device reaches.
        batch, high: of the CPUs' lists, in frames; ``batch`` 0 for none.
        fill: the byte that is read where nothing was stored.

    Raises:
        BadRequest: there can be no such machine.
    """

    def __init__(
        self,
        nodes: Iterable[int | tuple[int, int]],
        *,
        page_shift: int = 12,
        cpus: int = 1,
        distances: Sequence[Sequence[int]] | None = None,
        dma32_limit: int = DMA32_LIMIT,
        batch: int = PCP_BATCH,
        high: int = PCP_HIGH,
        fill: int = 0,
    ) -> None:
        self.frames = FrameAllocator(nodes, page_shift, cpus, distances, dma32_limit, batch, high)
        if not 0 <= fill <= 0xFF:
            raise BadRequest(f"a fill byte of {fill}")
        self.contents = FrameContents(self.frames.table, page_shift, fill)
        self._numbers: dict[Hashable, int] = {None: 0}
        self._owners: list[Hashable] = [None]

    # Single blocks.

    def allocate(
        self, order: int = 0, *, node: int = 0, zone_limit: int = ZONE_NORMAL, cpu: int = 0, owner: Hashable = None
    ) -> int:
        """Allocates ``2**order`` frames, from the nearest other node that has them where ``node`` has none.

        Args:
            order: 0 to ``MAX_ORDER``.
            node: the node asked first.
            zone_limit: ``ZONE_NORMAL`` for any frame, ``ZONE_DMA32`` for one that a 32-bit device reaches.
            cpu: whose list serves single frames.
            owner: for ``outstanding``; remembered for as long as the machine.

        Returns:
            The number of the first frame.

        Raises:
            OutOfFrames: no zone that may be asked has such a block.
            BadRequest: there is no such order, node, zone or CPU.
        """
        return self._allocate(self.frames.try_alloc, order, node, zone_limit, cpu, owner, False)

    def allocate_strict(
        self, order: int = 0, *, node: int, zone_limit: int = ZONE_NORMAL, cpu: int = 0, owner: Hashable = None
    ) -> int:
        """``allocate`` from ``node`` alone (the kernel's ``__GFP_THISNODE``)."""
        return self._allocate(self.frames.try_alloc_strict, order, node, zone_limit, cpu, owner, True)

    def allocate_draining(
        self, order: int = 0, *, node: int = 0, zone_limit: int = ZONE_NORMAL, cpu: int = 0, owner: Hashable = None
    ) -> int:
        """``allocate`` that empties the lists of all CPUs before it gives up."""
        return self._allocate(self.frames.try_alloc_draining, order, node, zone_limit, cpu, owner, False)

    def release(self, pfn: int, order: int = 0, *, cpu: int = 0) -> None:
        """Frees an allocation.

        Raises:
            BadFrame: no node has this frame, it is free already, was allocated with another order, or lies inside an
                allocation.
            BadRequest: there is no such CPU.
        """
        self._expect_place(cpu=cpu)
        self._expect(self.frames.try_free(self._expect_pfn(pfn), self._order(order), cpu), pfn, order)

    def split(self, pfn: int, order: int) -> None:
        """Makes an allocation ``2**order`` single ones of the same owner. Raises as ``release`` does."""
        self._expect(self.frames.try_split(self._expect_pfn(pfn), self._order(order)), pfn, order)

    # Many single frames.

    def allocate_bulk(
        self, count: int, *, node: int = 0, zone_limit: int = ZONE_NORMAL, cpu: int = 0, owner: Hashable = None
    ) -> array[int]:
        """Allocates up to ``count`` single frames.

        Returns:
            Their numbers as an ``array("Q")``: a whole batch, all from one zone of ``node``; or one frame from
            anywhere, where no such zone has as many; or none.
        """
        hash(owner)  # a bad one must fail before anything is taken
        self._expect_place(node=node, zone_limit=zone_limit, cpu=cpu)
        if count < 0:
            raise BadRequest(f"a batch of {count} frames")
        # No batch is larger than the machine: one more place than it has frames says as much as a longer array.
        found = array("Q", bytes(8 * min(count, 1 + self.nr_frames)))
        taken = self.frames.try_alloc_bulk(node, found, zone_limit, cpu)
        del found[taken:]
        self._own(found, owner)
        return found

    def release_bulk(self, pfns: Iterable[int], *, cpu: int = 0) -> None:
        """Frees single frames, in the order given.

        Raises:
            BadFrame: one cannot be freed; those before it are free by then, those behind it are not.
        """
        self._expect_place(cpu=cpu)
        if isinstance(pfns, array) and pfns.typecode == "Q":
            found = pfns
        else:
            found = array("Q", [self._expect_pfn(pfn) for pfn in pfns])
        done = self.frames.try_free_bulk(found, cpu)
        if done < len(found):
            self._expect(self.frames.why_not(found[done], 0), found[done], 0)

    def drain(self, cpu: int | None = None) -> int:
        """Gives the frames on one CPU's lists, by default on all lists, back to their zones; returns how many."""
        if cpu is None:
            return self.frames.try_drain_all()
        self._expect_place(cpu=cpu)
        return self.frames.try_drain(cpu)

    # Looking.

    @property
    def nr_frames(self) -> int:
        """Frames of the whole machine."""
        return sum(zone.nr_frames for zone in self.frames.layout.zones)

    def node_of(self, pfn: int) -> int:
        """The node that has a frame; raises BadFrame when none has."""
        node = self.find_node(pfn)
        if node < 0:
            raise bad_frame(pfn, FOREIGN)
        return node

    def find_node(self, pfn: int) -> int:
        """``node_of``, but -1 when no node has the frame."""
        for zone in self.frames.layout.zones:
            if zone.start_pfn <= pfn < zone.end_pfn:
                return zone.node
        return -1

    def why_not(self, pfn: int, order: int = 0) -> str:
        """Says why a frame cannot be released; an empty text when it can."""
        code = self.frames.why_not(pfn, order) if 0 <= pfn < 1 << 64 else FOREIGN
        return "" if code == 0 else REASONS[code] + (f" than {order}" if code == WRONG_ORDER else "")

    def outstanding(self, *owners: Hashable) -> list[Outstanding]:
        """What was allocated and not freed, ascending by frame: of these owners, or of everybody."""
        found = (Outstanding(pfn, order, self._owners[number]) for pfn, order, number in held(self.frames))
        return [block for block in found if not owners or block.owner in owners]

    def stats(self) -> list[NodeStats]:
        """Per node: frames in all, free, on lists and used, and free blocks by order."""
        return node_stats(self.frames)

    def buddyinfo(self) -> str:
        """Free blocks by order, in the form of ``/proc/buddyinfo``."""
        return buddyinfo(self.frames)

    def validate(self) -> None:
        """Checks every structure; raises ValidationError."""
        validate_frames(self.frames)

    # Owners.

    def owner_number(self, owner: Hashable) -> int:
        """The number that compiled callers hand to ``set_owner`` for this owner."""
        number = self._numbers.setdefault(owner, len(self._owners))
        if number == len(self._owners):
            self._owners.append(owner)
        return number

    def _own(self, pfns: Iterable[int], owner: Hashable) -> None:
        if owner is not None:
            number = self.owner_number(owner)
            for pfn in pfns:
                self.frames.tag(pfn, number)

    # Checks.

    def _allocate(
        self,
        call: Callable[[int, int, int, int], int],
        order: int,
        node: int,
        zone_limit: int,
        cpu: int,
        owner: Hashable,
        strict: bool,
    ) -> int:
        hash(owner)  # a bad one must fail before anything is taken
        if not 0 <= order <= MAX_ORDER:
            raise BadRequest(f"order {order}: the largest block has order {MAX_ORDER}")
        self._expect_place(node=node, zone_limit=zone_limit, cpu=cpu)
        pfn = call(order, node, zone_limit, cpu)
        if pfn < 0:
            where = f"on node {node} alone" if strict else f"from node {node} on"
            raise OutOfFrames(
                f"no free block of order {order} ({1 << order} frames) {where}, zone {ZONE_NAMES[zone_limit]} and "
                f"below; {self.frames.lists.listed} frames are on lists of CPUs",
                order,
                node,
            )
        self._own((pfn,), owner)
        return pfn

    def _expect_place(self, node: int = 0, zone_limit: int = 0, cpu: int = 0) -> None:
        if not 0 <= node < self.frames.nr_nodes:
            raise BadRequest(f"node {node} of a machine with {self.frames.nr_nodes} nodes")
        if not 0 <= zone_limit < NR_KINDS:
            raise BadRequest(f"zone limit {zone_limit}: ZONE_DMA32 (0) or ZONE_NORMAL (1)")
        if not 0 <= cpu < self.frames.cpus:
            raise BadRequest(f"CPU {cpu} of a machine with {self.frames.cpus} CPUs")

    def _expect_pfn(self, pfn: int) -> int:
        if not 0 <= pfn < 1 << 64:
            raise bad_frame(pfn, FOREIGN)
        return pfn

    def _order(self, order: int) -> int:
        """An order to compare with: any that no block has becomes the first of these."""
        return order if 0 <= order <= MAX_ORDER else MAX_ORDER + 1

    def _expect(self, code: int, pfn: int, order: int) -> None:
        if code != 0:
            raise bad_frame(pfn, code, f" than {order}" if code == WRONG_ORDER else "")
