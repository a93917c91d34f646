"""Random sequences of all calls on frames, held against a slow twin and the validator after each step.

The twin is lists and dictionaries, written from the rules a second time: free lists per zone and order with every block
in them, lists per CPU, a dictionary of what is used, one of what is stored.  Its lists have the same order as the real
ones, so results, lists and contents are compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vmalloc import _build
from vmalloc.errors import BadFrame, OutOfFrames
from vmalloc.machine.simulated.frames.memory import Outstanding, PhysicalMemory
from vmalloc.machine.simulated.frames.states import (
    DOUBLE_FREE,
    FOREIGN,
    INSIDE_BLOCK,
    NO_FRAME,
    WRONG_ORDER,
)

PAGE_SHIFT = 5
PAGE = 1 << PAGE_SHIFT
FILL = b"\xee" * PAGE

Zone = tuple[int, int]  # node, kind


class Twin:
    """The same machine, slowly."""

    def __init__(
        self, nodes: list[tuple[int, int]], distances: list[list[int]], limit: int, cpus: int, batch: int, high: int
    ) -> None:
        self.distances, self.cpus, self.batch, self.high = distances, cpus, batch, high
        self.zones: dict[Zone, range] = {}
        for node, (start, count) in enumerate(nodes):
            cut = min(max(limit, start), start + count)
            self.zones[node, 0], self.zones[node, 1] = range(start, cut), range(cut, start + count)
        self.free: dict[tuple[Zone, int], list[int]] = {(z, order): [] for z in self.zones for order in range(11)}
        self.lists: dict[tuple[Zone, int], list[int]] = {(z, cpu): [] for z in self.zones for cpu in range(cpus)}
        self.used: dict[int, tuple[int, Any]] = {}
        self.stored: dict[int, bytes] = {}
        for zone, frames in self.zones.items():
            pfn = frames.start
            while pfn < frames.stop:
                order = max(o for o in range(11) if pfn % (1 << o) == 0 and pfn + (1 << o) <= frames.stop)
                self.free[zone, order].append(pfn)
                pfn += 1 << order

    def order_of_zones(self, node: int, zone_limit: int, strict: bool) -> list[Zone]:
        nodes = sorted(range(len(self.distances)), key=lambda other: (self.distances[node][other], other))
        return [(n, kind) for n in nodes for kind in (1, 0) if kind <= zone_limit and (n == node or not strict)]

    def zone_of(self, pfn: int) -> Zone | None:
        return next((zone for zone, frames in self.zones.items() if pfn in frames), None)

    def take(self, zone: Zone, order: int) -> int | None:
        for high in range(order, 11):
            if self.free[zone, high]:
                pfn = self.free[zone, high].pop(0)
                for half in reversed(range(order, high)):
                    self.free[zone, half].insert(0, pfn + (1 << half))
                return pfn
        return None

    def give(self, zone: Zone, pfn: int, order: int) -> None:
        while order < 10 and pfn ^ (1 << order) in self.free[zone, order]:
            self.free[zone, order].remove(pfn ^ (1 << order))
            pfn &= ~(1 << order)
            order += 1
        self.free[zone, order].insert(0, pfn)

    def pop(self, zone: Zone, cpu: int) -> int | None:
        if not self.batch:
            return self.take(zone, 0)
        mine = self.lists[zone, cpu]
        if not mine:
            came = [self.take(zone, 0) for _ in range(self.batch)]
            mine += [pfn for pfn in came if pfn is not None]
        return mine.pop(0) if mine else None

    def hand_out(self, pfn: int, order: int, owner: Any) -> int:
        self.used[pfn] = (order, owner)
        for frame in range(pfn, pfn + (1 << order)):
            self.stored.pop(frame, None)
        return pfn

    def alloc(self, order: int, node: int, zone_limit: int, cpu: int, owner: Any, strict: bool = False) -> int | None:
        for zone in self.order_of_zones(node, zone_limit, strict):
            pfn = self.take(zone, order) if order else self.pop(zone, cpu)
            if pfn is not None:
                return self.hand_out(pfn, order, owner)
        return None

    def alloc_draining(self, order: int, node: int, zone_limit: int, cpu: int, owner: Any) -> int | None:
        pfn = self.alloc(order, node, zone_limit, cpu, owner)
        if pfn is None:
            self.drain_all()
            pfn = self.alloc(order, node, zone_limit, cpu, owner)
        return pfn

    def alloc_bulk(self, count: int, node: int, zone_limit: int, cpu: int, owner: Any) -> list[int]:
        for zone in self.order_of_zones(node, zone_limit, True):
            free = sum(len(self.free[zone, order]) << order for order in range(11))
            if count > 1 and free + len(self.lists[zone, cpu]) >= count:
                found = [self.pop(zone, cpu) for _ in range(count)]
                return [self.hand_out(pfn, 0, owner) for pfn in found if pfn is not None]
        single = self.alloc(0, node, zone_limit, cpu, owner) if count else None
        return [] if single is None else [single]

    def complaint(self, pfn: int, order: int) -> int:
        if self.zone_of(pfn) is None:
            return FOREIGN
        if pfn in self.used:
            return 0 if self.used[pfn][0] == order else WRONG_ORDER
        inside = any(head <= pfn < head + (1 << size) for head, (size, _owner) in self.used.items())
        return INSIDE_BLOCK if inside else DOUBLE_FREE

    def release(self, pfn: int, order: int, cpu: int) -> None:
        del self.used[pfn]
        zone = self.zone_of(pfn)
        assert zone is not None
        if order or not self.batch:
            self.give(zone, pfn, order)
            return
        mine = self.lists[zone, cpu]
        mine.insert(0, pfn)
        if len(mine) > self.high:
            for _ in range(self.batch):
                self.give(zone, mine.pop(), 0)

    def split(self, pfn: int, order: int) -> None:
        _order, owner = self.used[pfn]
        self.used |= dict.fromkeys(range(pfn, pfn + (1 << order)), (0, owner))

    def drain(self, cpu: int) -> int:
        before = sum(map(len, self.lists.values()))
        for zone in self.zones:
            while self.lists[zone, cpu]:
                self.give(zone, self.lists[zone, cpu].pop(), 0)
        return before - sum(map(len, self.lists.values()))

    def drain_all(self) -> int:
        return sum([self.drain(cpu) for cpu in range(self.cpus)])

    def load(self, pfn: int) -> bytes:
        return self.stored.get(pfn, FILL)

    def store(self, pfn: int, offset: int, data: bytes) -> None:
        old = self.load(pfn)
        self.stored[pfn] = old[:offset] + data + old[offset + len(data) :]

    def trim(self) -> None:
        held = {frame for head, (order, _owner) in self.used.items() for frame in range(head, head + (1 << order))}
        self.stored = {pfn: data for pfn, data in self.stored.items() if pfn in held}


ORDERS = st.one_of(st.just(0), st.integers(0, 4), st.integers(0, 10))
OFFSETS = st.integers(0, PAGE)
VERBS = ["store", "zero", "copy"]
#: Few frames, so that they run out; ragged ends; sometimes room for largest blocks.
SIZES = st.sampled_from([5, 37, 64, 200, 1024, 1061, 2048, 2100])


class Frames(RuleBasedStateMachine):
    """One machine and its twin."""

    @initialize(
        sizes=st.lists(SIZES, min_size=1, max_size=3),
        limit=st.sampled_from([0, 1024, 2048]),
        cpus=st.integers(1, 3),
        batch=st.integers(0, 5),
        more=st.integers(0, 6),
        data=st.data(),
    )
    def build(self, sizes: list[int], limit: int, cpus: int, batch: int, more: int, data: st.DataObject) -> None:
        count = len(sizes)
        distances = [
            [10 if a == b else data.draw(st.sampled_from([15, 20, 30])) for a in range(count)] for b in range(count)
        ]
        # The last node has the lowest frames, so that DMA32 is on a node that is seldom asked first.
        starts, start = [], 0
        for size in reversed(sizes):
            starts.append(start)
            start = (start + size + 1023) // 1024 * 1024
        nodes = list(zip(reversed(starts), sizes, strict=True))
        self.nr_nodes, self.cpus, self.end = count, cpus, start
        self.memory = PhysicalMemory(
            nodes,
            page_shift=PAGE_SHIFT,
            cpus=cpus,
            distances=distances,
            dma32_limit=limit << PAGE_SHIFT,
            batch=batch,
            high=batch + more,
            fill=FILL[0],
        )
        self.twin = Twin(nodes, distances, limit, cpus, batch, batch + more)

    def place(self, data: st.DataObject) -> tuple[int, int, int]:
        """A node, a zone limit and a CPU."""
        return (
            data.draw(st.integers(0, self.nr_nodes - 1)),
            data.draw(st.sampled_from([1, 1, 1, 0])),
            data.draw(st.integers(0, self.cpus - 1)),
        )

    def some_frame(self, data: st.DataObject) -> int:
        """Mostly one that is or was used; sometimes any, or none of this machine."""
        if self.twin.used and data.draw(st.booleans()):
            pfn, (order, _owner) = data.draw(st.sampled_from(sorted(self.twin.used.items())))
            return pfn + data.draw(st.integers(0, (1 << order) - 1))
        return data.draw(st.integers(0, self.end + 5))

    @rule(data=st.data(), order=ORDERS, kind=st.sampled_from(["plain", "strict", "draining"]), owner=st.integers(0, 3))
    def allocate(self, data: st.DataObject, order: int, kind: str, owner: int) -> None:
        node, zone_limit, cpu = self.place(data)
        if kind == "plain":
            expected = self.twin.alloc(order, node, zone_limit, cpu, owner)
            call: Callable[..., int] = self.memory.allocate
        elif kind == "strict":
            expected = self.twin.alloc(order, node, zone_limit, cpu, owner, strict=True)
            call = self.memory.allocate_strict
        else:
            expected = self.twin.alloc_draining(order, node, zone_limit, cpu, owner)
            call = self.memory.allocate_draining
        try:
            assert call(order, node=node, zone_limit=zone_limit, cpu=cpu, owner=owner) == expected
        except OutOfFrames:
            assert expected is None

    @rule(data=st.data(), count=st.one_of(st.integers(0, 20), st.integers(0, 1200)), owner=st.integers(0, 3))
    def allocate_bulk(self, data: st.DataObject, count: int, owner: int) -> None:
        node, zone_limit, cpu = self.place(data)
        found = self.memory.allocate_bulk(count, node=node, zone_limit=zone_limit, cpu=cpu, owner=owner)
        assert list(found) == self.twin.alloc_bulk(count, node, zone_limit, cpu, owner)

    @precondition(lambda self: self.twin.used)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        _node, _limit, cpu = self.place(data)
        pfn, (order, _owner) = data.draw(st.sampled_from(sorted(self.twin.used.items())))
        self.twin.release(pfn, order, cpu)
        self.memory.release(pfn, order, cpu=cpu)

    @precondition(lambda self: len(self.twin.used) > 3)
    @rule(data=st.data(), which=st.integers(1, (1 << 16) - 1), upward=st.booleans())
    def release_many(self, data: st.DataObject, which: int, upward: bool) -> None:
        """Frees a subset, so that blocks merge and lists spill."""
        _node, _limit, cpu = self.place(data)
        for i, (pfn, (order, _owner)) in enumerate(sorted(self.twin.used.items(), reverse=not upward)):
            if which >> i % 16 & 1:
                self.twin.release(pfn, order, cpu)
                self.memory.release(pfn, order, cpu=cpu)

    @rule(data=st.data(), order=ORDERS)
    def release_or_split_what_may_be_wrong(self, data: st.DataObject, order: int) -> None:
        pfn = self.some_frame(data)
        code = self.twin.complaint(pfn, order)
        assert self.memory.frames.why_not(pfn, order) == code
        if code:
            for call in (self.memory.release, self.memory.split):
                with pytest.raises(BadFrame) as complaint:
                    call(pfn, order)
                assert complaint.value.code == code

    @precondition(lambda self: self.twin.used)
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        pfn, (order, _owner) = data.draw(st.sampled_from(sorted(self.twin.used.items())))
        self.twin.split(pfn, order)
        self.memory.split(pfn, order)

    @rule(data=st.data(), everybody=st.booleans())
    def drain(self, data: st.DataObject, everybody: bool) -> None:
        cpu = self.place(data)[2]
        assert self.memory.drain(None if everybody else cpu) == (
            self.twin.drain_all() if everybody else self.twin.drain(cpu)
        )

    @rule(data=st.data(), verb=st.sampled_from(VERBS), a=OFFSETS, b=OFFSETS, byte=st.integers(0, 255))
    def store(self, data: st.DataObject, verb: str, a: int, b: int, byte: int) -> None:
        pfn, source = self.some_frame(data), self.some_frame(data)
        if self.twin.zone_of(pfn) is None or self.twin.zone_of(source) is None:
            with pytest.raises(BadFrame):
                self.memory.contents.copy(pfn, 0, source, 0, 1)
            return
        start, size = min(a, b), abs(a - b)
        if verb == "store":
            self.twin.store(pfn, start, bytes([byte]) * size)
            self.memory.contents.store(pfn, start, bytes([byte]) * size)
        elif verb == "zero":
            self.twin.store(pfn, start, bytes(size))
            self.memory.contents.zero(pfn, start, size)
        else:
            self.twin.store(pfn, 0, self.twin.load(source)[start : start + size])
            self.memory.contents.copy(pfn, 0, source, start, size)

    @rule()
    def trim(self) -> None:
        self.twin.trim()
        self.memory.contents.trim()

    @invariant()
    def the_same_as_the_twin(self) -> None:
        self.memory.validate()
        frames = self.memory.frames
        rows = {k: frames.table.rows(k) for k in frames.table.sections()}

        def chain(pfn: int) -> list[int]:
            found = []
            while pfn != NO_FRAME:
                found.append(pfn)
                pfn = rows[pfn >> 10][pfn % 1024][2]
            return found

        for z, zone in enumerate(self.twin.zones):
            _free, untouched, untouched_end, heads, _counts = frames.buddy.describe(z)
            for order in range(11):
                rest = [k << 10 for k in range(untouched, untouched_end)] if order == 10 else []
                assert chain(heads[order]) + rest == self.twin.free[zone, order]
            for cpu in range(self.cpus):
                assert chain(frames.lists.describe(z, cpu)[0]) == self.twin.lists[zone, cpu]
        held = [Outstanding(pfn, order, owner) for pfn, (order, owner) in sorted(self.twin.used.items())]
        assert self.memory.outstanding() == held
        for pfn, data in self.twin.stored.items():
            assert self.memory.contents.load(pfn) == data
        for pfn in self.twin.used:
            assert self.memory.contents.load(pfn) == self.twin.load(pfn)


Frames.TestCase.settings = settings(max_examples=20 if _build.PURE else 60, stateful_step_count=30)
TestFrames = pytest.mark.both_builds(Frames.TestCase)


class LongFrames(Frames):
    """The same for hours."""


LongFrames.TestCase.settings = settings(max_examples=2000, stateful_step_count=200)
TestLongFrames = pytest.mark.campaign(LongFrames.TestCase)
