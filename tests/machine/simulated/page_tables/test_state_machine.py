"""Random sequences of all calls on page tables of every architecture, held against a slow twin and the validator.

The twin is a dictionary of mappings by their start and a set of tables (``rig.Twin``), written from the rules a second
time: which leaf goes where (section 3.4), what a leaf may replace (8.6), what is cleared whole (8.5), which root sees
what (8.4).  A part of the runs has hardly any frames left, so that tables cannot be made: then what was mapped before
the failure must be right, and in the end no frame may be missing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from machine.simulated.page_tables.rig import DEVICE, ENOMEM, RW, RX, Mapped, R, Rig, Twin, tables_in
from vmalloc import _build
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, LeafNeed, TableCare, TableSync

PROTS = st.sampled_from([R, RW, RX, DEVICE, 0])
NR_ROOTS = 3


class Tables(RuleBasedStateMachine):
    """The tables of one machine and their twin."""

    @initialize(
        arch=st.sampled_from([*sorted(ARCHITECTURES), "arm64_4k", "arm32", "x86_32_pae", "x86_64"]),
        faults=st.booleans(),
        kernel=st.sampled_from(["6.1", "6.12", "6.19"]),
        missing=st.sampled_from([(), (), (LeafNeed.PSE,), (LeafNeed.GB_PAGES,), (LeafNeed.NO_PTDUMP,)]),
        left=st.sampled_from([None, None, None, None, None, None, 0, 1, 2, 4, 7]),
    )
    def build(self, arch: str, kernel: str, faults: bool, missing: tuple[LeafNeed, ...], left: int | None) -> None:
        made = ARCHITECTURES[arch]
        if faults and made.table_sync(PROFILES[kernel]).care is TableCare.HOOK:  # no architecture has faults alone
            made = replace(made, table_syncs=(TableSync(TableCare.FAULT, vmalloc_faults=True),))
        self.rig = Rig(made, kernel, NR_ROOTS, nr_frames=1024, missing=frozenset(missing))
        self.twin = Twin(made, kernel, NR_ROOTS, frozenset(missing))
        self.tables = self.rig.tables
        self.page, self.levels = self.rig.page, self.rig.arch.levels
        self.at_boot = self.rig.memory.outstanding("page tables")
        self.tight = left is not None
        self.hog = self.rig.exhaust(left) if left is not None else []
        # Places where something begins or ends, so that ranges meet.
        pmd, start = self.levels[-2].size, self.rig.arch.vmalloc_start
        self.end = self.rig.arch.vmalloc_end // self.page * self.page
        self.places = [start, *(-(-start // pmd) * pmd + k * pmd for k in range(3)), self.end - 40 * self.page]
        if self.rig.base + 4 * pmd < self.end:
            self.places.append(self.rig.base)
            if len(self.levels) > 3:
                self.places.append(self.rig.base + self.levels[-3].size)

    def place(self, data: st.DataObject) -> int:
        if self.twin.mapped and data.draw(st.booleans()):
            start = data.draw(st.sampled_from(sorted(self.twin.mapped)))
            return start + data.draw(st.integers(0, (1 << self.twin.mapped[start].shift) // self.page - 1)) * self.page
        offset = data.draw(st.one_of(st.just(0), st.just(0), st.integers(-3, 36), st.sampled_from([16, 32, 64, 511])))
        place = data.draw(st.sampled_from(self.places)) + offset * self.page
        return min(max(self.rig.arch.vmalloc_start, place), self.end - self.page)

    def size(self, data: st.DataObject, address: int) -> int:
        """Some pages, or some leaves of a size, now and then with a tail; inside the range."""
        units = [1, 1, *(1 << shift - self.rig.arch.page_shift for shift in self.twin.shifts)]
        few = st.integers(1, 3)
        size = data.draw(st.sampled_from(units)) * data.draw(few) + data.draw(st.sampled_from([0, 0, 0, 1, 20]))
        return min(size * self.page, self.end - address)

    def resync(self, start: int, end: int, asked: Callable[[int], tuple[int, int]]) -> None:
        """After a failure for want of frames: what is mapped now must be as asked or as before; the twin takes it."""
        self.twin.tables = tables_in(self.rig)
        address = start
        while address < end:
            found = self.rig.walk(address)
            before = self.twin.find(address)
            if before is not None:
                assert found == self.twin.walk(address)
                address = before[0] + (1 << before[1].shift)
            elif found is not None:
                assert asked(address) == (found[0], found[2])
                unit = 1 << found[1]
                assert address % unit == 0
                self.twin.mapped[address] = Mapped(found[1], found[0], found[2])
                address += unit
            else:
                address += self.page
                if address - start > 2000 * self.page:
                    return  # the rest of a large leaf that could not be placed

    def settle(self) -> None:
        if self.tables.nr_pending:
            self.rig.validate()
            assert self.tables.owed_flush_start < self.tables.owed_flush_end
            self.tables.do_settle_flush()

    @rule(data=st.data(), count=st.one_of(st.integers(1, 5), st.integers(1, 700)), prot=PROTS)
    def map_pages(self, data: st.DataObject, count: int, prot: int) -> None:
        address = self.place(data)
        count = min(count, (self.end - address) // self.page)
        first = data.draw(st.integers(0, self.tables.pfn_limit - 1))
        pfns = [(first + 7 * k) % self.tables.pfn_limit for k in range(count)]
        code = self.tables.do_map_pages(address, array("Q", pfns), prot)
        if code == ENOMEM:
            assert self.tight
            self.resync(address, address + count * self.page, lambda at: (pfns[(at - address) // self.page], prot))
        else:
            assert code == self.twin.map_pages(address, pfns, prot)

    @rule(data=st.data(), prot=PROTS, aligned=st.booleans())
    def map_range(self, data: st.DataObject, prot: int, aligned: bool) -> None:
        address = self.place(data)
        size = self.size(data, address)
        largest = 1 << self.twin.shifts[-1] - self.rig.arch.page_shift
        nr_pages = size // self.page
        pfn = data.draw(st.integers(0, (self.tables.pfn_limit - nr_pages) // largest)) * largest
        pfn += 0 if aligned else address // self.page % largest
        pfn = min(pfn, self.tables.pfn_limit - nr_pages)
        max_shift = data.draw(st.sampled_from([self.rig.arch.page_shift, *self.twin.shifts, 63]))
        fitting = [s for s in self.twin.shifts if s <= max_shift and (address | pfn * self.page) % (1 << s) == 0]
        size = min(size, 600 << fitting[-1])  # what does not fit any leaf is many pages, and the twin is slow
        self.check_map_range(address, pfn, size, max_shift, prot)

    @precondition(lambda self: len(self.twin.shifts) > 1)
    @rule(data=st.data(), prot=PROTS, count=st.integers(1, 3), before=st.sampled_from(["", "clear", "empty tables"]))
    def map_leaves(self, data: st.DataObject, prot: int, count: int, before: str) -> None:
        """Leaves where they fit: over what there is, or after that is unmapped, or over empty tables."""
        shift = data.draw(st.sampled_from(self.twin.shifts[1:]))
        address = -(-data.draw(st.sampled_from(self.places)) >> shift << shift)
        size = min(count << shift, (self.end - address) >> shift << shift)
        if address >= self.end or size == 0:
            return
        if before:
            assert self.tables.do_unmap(address, address + size) == self.twin.unmap(address, address + size)[0]
        if before == "empty tables" and not self.tight:
            assert self.rig.map(address, 1) == self.twin.map_pages(address, [1], RW) == 0
            assert (
                self.tables.do_unmap(address, address + self.page) == self.twin.unmap(address, address + self.page)[0]
            )
        nr_pages = (1 << shift) // self.page
        pfn = data.draw(st.integers(0, min(self.tables.pfn_limit // nr_pages - count, 1000))) * nr_pages
        self.check_map_range(address, pfn, size, data.draw(st.sampled_from([shift, 63])), prot)

    def check_map_range(self, address: int, pfn: int, size: int, max_shift: int, prot: int) -> None:
        code = self.tables.do_map_range(address, pfn, size, max_shift, prot)
        if self.tight:  # a spare page may have been wanting, too: then smaller leaves are right
            if code == 0:
                assert not self.twin.overlapping(address, address + size)
            self.resync(address, address + size, lambda at: (pfn + (at - address) // self.page, prot))
        else:
            assert code == self.twin.map_range(address, pfn, size, max_shift, prot)
        self.settle()

    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        address = self.place(data)
        size = self.size(data, address)
        warnings, generation = self.tables.warnings, self.tables.generation
        pages, cut = self.twin.unmap(address, address + size)
        assert self.tables.do_unmap(address, address + size) == pages
        assert self.tables.warnings - warnings == cut
        assert (self.tables.generation > generation) == (pages > 0)

    @precondition(lambda self: any(m.shift > self.rig.arch.page_shift for m in self.twin.mapped.values()))
    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        page_shift = self.rig.arch.page_shift
        larger = sorted(at for at, found in self.twin.mapped.items() if found.shift > page_shift)
        start = data.draw(st.sampled_from(larger))
        if self.twin.mapped[start].shift > page_shift + 10:
            return  # too many pages for the twin
        generation = self.tables.generation
        code = self.tables.do_split(start)
        if code == ENOMEM:
            assert self.tight
            return
        assert code == self.twin.split(start)
        assert (self.tables.generation > generation) == (code == 0)

    @precondition(lambda self: len(self.twin.tables) > len(self.twin.boot))
    @rule()
    def free_empty_tables(self) -> None:
        freed = self.twin.free_empty()
        expected = sum(self.tables.table_frames_of(depth) for depth, _start in freed) * self.page
        assert self.tables.free_empty_tables() == expected

    @precondition(lambda self: self.twin.mapped)
    @rule(data=st.data(), root=st.integers(0, NR_ROOTS - 1))
    def fault(self, data: st.DataObject, root: int) -> None:
        address = self.place(data)
        assert self.tables.do_fault(root, address) == self.twin.fault(root, address)

    @precondition(lambda self: self.twin.care is TableCare.SEQUENCE)
    @rule(root=st.integers(0, NR_ROOTS - 1))
    def context_switch(self, root: int) -> None:
        self.tables.do_context_switch(root)
        self.twin.context_switch(root)

    @precondition(lambda self: self.hog)
    @rule()
    def one_frame_more(self) -> None:
        self.rig.memory.release(self.hog.pop())

    @rule(data=st.data(), root=st.integers(0, NR_ROOTS - 1))
    def walk(self, data: st.DataObject, root: int) -> None:
        address = self.place(data) + data.draw(st.integers(0, self.page - 1))
        assert self.rig.walk(address, root) == self.twin.walk(address, root)

    @invariant()
    def the_same_as_the_twin(self) -> None:
        self.rig.validate()
        assert self.tables.leaves_by_shift() == self.twin.leaves()
        assert self.tables.tables_by_level() == self.twin.nr_tables()
        starts = sorted(self.twin.mapped)
        for start in [*starts[:20], *starts[-20:]]:
            end = start + (1 << self.twin.mapped[start].shift)
            for address in (start, (start + end) // 2, end - 1):
                for root in range(NR_ROOTS):
                    assert self.rig.walk(address, root) == self.twin.walk(address, root)
            if end < self.rig.arch.kernel_end:
                assert self.rig.walk(end) == self.twin.walk(end)
        if self.twin.care in (TableCare.ONE_TABLE, TableCare.PREALLOCATED, TableCare.FENCE):
            assert self.tables.entries_copied == 0

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        start, end = self.rig.arch.kernel_start, self.rig.arch.kernel_end
        self.tables.do_unmap(start, end)
        self.tables.free_empty_tables()
        self.rig.validate()
        assert self.tables.leaves_by_shift() == {}
        assert self.rig.memory.outstanding("page tables") == self.at_boot
        self.tables.close()
        assert self.rig.memory.outstanding("page tables") == []
        self.rig.validate()


Tables.TestCase.settings = settings(deadline=None, max_examples=6 if _build.PURE else 40, stateful_step_count=25)
TestTables = pytest.mark.both_builds(Tables.TestCase)


class LongTables(Tables):
    """The same for hours."""


LongTables.TestCase.settings = settings(deadline=None, max_examples=3000, stateful_step_count=80)
TestLongTables = pytest.mark.campaign(LongTables.TestCase)
