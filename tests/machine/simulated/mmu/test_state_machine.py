"""Random maps, unmaps, flushes and accesses on random architectures, held against the slow twin after each step.

The twin's page table is one dictionary from page to frame, protection and size, and it knows no generations: an entry
of its TLBs is stale when the dictionary says something else, nothing more.  Outcome, frame and every counter must
agree, so the generations of the real MMU must find out exactly the same, no earlier and no later.
"""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from machine.simulated.mmu.rig import ARCHES, RW, R, Rig, small_sizes
from machine.simulated.mmu.twins import TwinTlb
from vmalloc import _build
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import TableCare
from vmalloc.machine.simulated.mmu.states import OK, POLICIES, READONLY, STALE, UNMAPPED
from vmalloc.machine.simulated.mmu.validate import validate_mmu

CPUS = 3
#: Pages of the area that are used: the first ones, and where the next top entries begin.
NEAR = 5

SPOT, CPU = st.integers(0, 2 * NEAR - 1), st.integers(0, CPUS - 1)

Mapping = tuple[int, int, int]  # frame, protection, shift


class TwinMmu:
    """The same CPUs, slowly."""

    def __init__(self, rig: Rig, policy: str) -> None:
        arch = rig.arch
        sync = arch.table_sync(rig.kernel)
        self.page_shift = arch.page_shift
        self.top = arch.levels[0].shift
        self.limit = arch.max_ranged_flush_pages
        self.ipis_per_flush = 0 if arch.flush_by_broadcast else CPUS - 1
        self.tlbs = [TwinTlb(arch.page_shift, list(small_sizes(arch)), policy, 1 + cpu) for cpu in range(CPUS)]
        self.pages: dict[int, Mapping] = {}
        self.lazy = sync.care in (TableCare.SEQUENCE, TableCare.FAULT)  # top entries reach a root late
        self.at_switch = sync.care is TableCare.SEQUENCE
        self.fences = sync.care is TableCare.FENCE
        self.root = [0] * CPUS
        self.tops: set[int] = set()
        self.known: list[set[int]] = [set() for _ in range(CPUS + 1)]
        self.invalid: list[dict[int, int]] = [{} for _ in range(CPUS)]
        self.fence = [False] * CPUS
        self.may_fault = True
        names = ("walks", "vmalloc_faults", "spurious_faults", "fences", "flushes", "range_flushes")
        self.counts = dict.fromkeys((*names, "full_flushes", "local_flushes", "flushed_pages", "ipis"), 0)
        self.outcomes = [0] * 6

    # What the tables say.

    def seen(self, root: int, page: int) -> Mapping | None:
        hidden = self.lazy and root and (page << self.page_shift) >> self.top not in self.known[root]
        return None if hidden else self.pages.get(page)

    def walk(self, cpu: int, page: int) -> Mapping | None:
        self.counts["walks"] += 1
        return self.seen(self.root[cpu], page)

    def find(self, cpu: int, page: int) -> Mapping | None:
        if self.fences:
            return self.find_or_fence(cpu, page)
        found = self.walk(cpu, page)
        top = (page << self.page_shift) >> self.top
        root = self.root[cpu]
        if not found and self.lazy and self.may_fault and root and top in self.tops - self.known[root]:
            self.known[root].add(top)
            self.counts["vmalloc_faults"] += 1
            found = self.walk(cpu, page)
        return found

    def find_or_fence(self, cpu: int, page: int) -> Mapping | None:
        invalid = self.invalid[cpu]
        found = None if invalid.get(page % 64) == page else self.walk(cpu, page)
        if not found:
            invalid[page % 64] = page
            if self.fence[cpu]:
                self.fence[cpu] = False
                self.counts["fences"] += 1
                invalid.clear()
                found = self.walk(cpu, page)
                if found:
                    self.counts["spurious_faults"] += 1
                else:
                    invalid[page % 64] = page
        return found

    def translate(self, cpu: int, address: int, write: bool) -> tuple[int, int | None]:
        outcome, pfn = self.access(cpu, address, write)
        self.outcomes[outcome] += 1
        return outcome, pfn

    def access(self, cpu: int, address: int, write: bool) -> tuple[int, int | None]:
        page = address >> self.page_shift
        slot = self.tlbs[cpu].lookup(address)
        if slot:
            pfn = slot.pfn + ((address - slot.start) >> self.page_shift)
            now = self.pages.get(page)
            outcome = OK if now and now[:2] == (pfn, slot.prot) else STALE
            prot = slot.prot
        else:
            found = self.find(cpu, page)
            if not found:
                return UNMAPPED, None
            pfn, prot, shift = found
            self.tlbs[cpu].insert(address, pfn, shift, prot)
            outcome = OK
        return (READONLY if write and not prot & 2 else outcome), pfn

    # What happens to the tables.

    def map(self, page: int, mapping: Mapping) -> None:
        self.pages[page] = mapping
        self.tops.add((page << self.page_shift) >> self.top)

    def unmap(self, start: int, end: int) -> None:
        """Leaves go whole."""
        for page in range(start, end):
            if page in self.pages:
                nr_pages = 1 << (self.pages[page][2] - self.page_shift)
                first = page // nr_pages * nr_pages
                for each in range(first, first + nr_pages):
                    del self.pages[each]

    def switch_to(self, cpu: int, root: int) -> None:
        self.root[cpu] = root
        if self.at_switch:
            self.known[root] = set(self.tops)

    # Flushes.

    def flush_cpu(self, cpu: int, start: int, end: int, whole: bool) -> int:
        pages = range(start >> self.page_shift, end >> self.page_shift)
        kept = {} if whole else {k: page for k, page in self.invalid[cpu].items() if page not in pages}
        self.invalid[cpu] = kept
        return self.tlbs[cpu].flush_all() if whole else self.tlbs[cpu].flush_range(start, end)

    def flush(self, start: int, end: int) -> int:
        nr_pages = (end - start) >> self.page_shift
        whole = self.limit is not None and nr_pages > self.limit
        self.counts["flushes"] += 1
        self.counts["full_flushes" if whole else "range_flushes"] += 1
        self.counts["flushed_pages"] += 0 if whole else nr_pages
        self.counts["ipis"] += self.ipis_per_flush
        return sum(self.flush_cpu(cpu, start, end, whole) for cpu in range(CPUS))

    def flush_local(self, cpu: int, start: int, end: int) -> int:
        self.counts["local_flushes"] += 1
        nr_pages = (end - start) >> self.page_shift
        return self.flush_cpu(cpu, start, end, self.limit is not None and nr_pages > self.limit)


class MmuMachine(RuleBasedStateMachine):
    """Every step is done on both sides."""

    @initialize(
        arch=st.sampled_from(sorted(ARCHES)),
        kernel=st.sampled_from(sorted(PROFILES)),
        policy=st.sampled_from(POLICIES),
    )
    def boot(self, arch: str, kernel: str, policy: str) -> None:
        self.rig = Rig(arch, kernel, cpus=CPUS, sizes=small_sizes(ARCHES[arch]), policy=policy)
        self.mmu = self.rig.mmu
        self.twin = TwinMmu(self.rig, policy)
        # A second place under another top entry where the range reaches that far, else under another PMD.
        page = self.rig.arch.page_shift
        level = next(
            level for level in self.rig.arch.levels if 2 << level.shift <= self.rig.arch.vmalloc_size
        )  # fmt: skip
        far = (((self.rig.base >> level.shift) + 1) << level.shift) - self.rig.base >> page
        self.spots = [*range(NEAR), *range(far, far + NEAR)]

    def page(self, spot: int) -> int:
        """A page number of the area."""
        return self.spots[spot % len(self.spots)]

    def learn(self, page: int, count: int, prot: int, pfns: list[int]) -> None:
        """Tells the twin of new mappings; their sizes are taken from the tables, whose tests know better."""
        for k in range(count):
            walked = self.rig.tables.do_walk(self.rig.at(page + k))
            assert walked is not None
            assert (walked[0], walked[2]) == (pfns[k], prot)
            self.twin.map(self.rig.at(page + k) >> self.rig.arch.page_shift, (pfns[k], prot, walked[1]))

    def is_free(self, page: int, count: int) -> bool:
        first = self.rig.at(page) >> self.rig.arch.page_shift
        return not any(first + k in self.twin.pages for k in range(count))

    @rule(spot=SPOT, pfns=st.lists(st.integers(0, 3), min_size=1, max_size=4), prot=st.sampled_from([R, RW]))
    def map_pages(self, spot: int, pfns: list[int], prot: int) -> None:
        page = self.page(spot)
        if self.is_free(page, len(pfns)):
            assert self.rig.map(page, pfns, prot) == 0
            self.learn(page, len(pfns), prot, pfns)

    @rule(far=st.booleans(), cpu=CPU)
    def take_apart(self, far: bool, cpu: int) -> None:
        """A CPU remembers a leaf; some of it goes away, the rest is as before."""
        first = NEAR if far else 0
        self.access(first, cpu, False, 0)
        self.split(first)
        self.unmap(first + 1, 1)
        for spot in (first, first + 1, first + 2):
            self.access(spot, cpu, False, 0)

    @rule(far=st.booleans(), which=st.integers(0, 3), block=st.integers(0, 1), prot=st.sampled_from([R, RW]))
    def map_leaf(self, far: bool, which: int, block: int, prot: int) -> None:
        arch = self.rig.arch
        shifts = sorted({leaf.shift for leaf in arch.huge_vmap if leaf.shift - arch.page_shift <= 9})
        if not shifts:
            return
        shift = shifts[which % len(shifts)]
        count = 1 << (shift - arch.page_shift)
        page = self.spots[NEAR] if far else 0
        if (self.rig.at(page) >> arch.page_shift) % count == 0 and self.is_free(page, count):
            assert self.rig.map_range(page, block * count, count, shift, prot) == 0
            if self.rig.owed != (0, 0):
                self.twin.flush(*self.rig.owed)
            self.learn(page, count, prot, list(range(block * count, (block + 1) * count)))

    @rule(spot=SPOT, pfn=st.integers(0, 3), prot=st.sampled_from([R, RW]), cpu=CPU, write=st.booleans())
    def replace(self, spot: int, pfn: int, prot: int, cpu: int, write: bool) -> None:
        """What goes wrong without a flush: a CPU uses a page, and then there is another one in its place."""
        self.access(spot, cpu, write, 0)
        self.unmap(spot, 1)
        self.map_pages(spot, [pfn], prot)
        self.access(spot, cpu, write, 0)

    @rule(spot=SPOT, count=st.integers(1, 6))
    def unmap(self, spot: int, count: int) -> None:
        page = self.page(spot)
        self.rig.unmap(page, count)
        first = self.rig.at(page) >> self.rig.arch.page_shift
        self.twin.unmap(first, first + count)
        self.after_unmap(page)

    def after_unmap(self, page: int) -> None:
        """What comes behind an unmap: nothing here."""

    @rule(spot=SPOT)
    def split(self, spot: int) -> None:
        address = self.rig.at(self.page(spot))
        if self.rig.tables.do_split(address) == 0:
            shift = self.rig.arch.page_shift
            nr_pages = 1 << (self.twin.pages[address >> shift][2] - shift)
            first = (address >> shift) // nr_pages * nr_pages
            for page in range(first, first + nr_pages):
                pfn, prot, _old = self.twin.pages[page]
                walked = self.rig.tables.do_walk(page << shift)
                assert walked is not None
                self.twin.pages[page] = (pfn, prot, walked[1])

    @rule(spot=SPOT, cpu=CPU, write=st.booleans(), offset=st.integers(0, 4095))
    def access(self, spot: int, cpu: int, write: bool, offset: int) -> None:
        address = self.rig.at(self.page(spot), offset)
        told = self.mmu.do_translate(cpu, address, write)
        assert told[:2] == self.twin.translate(cpu, address, write)

    @rule(spots=st.lists(SPOT, max_size=30), cpu=CPU, write=st.booleans())
    def access_many(self, spots: list[int], cpu: int, write: bool) -> None:
        addresses = array("Q", [self.rig.at(self.page(spot)) for spot in spots])
        counts = self.mmu.access(addresses, write, cpu)
        outcomes = [self.twin.translate(cpu, address, write)[0] for address in addresses]
        assert (counts.unmapped, counts.readonly, counts.stale_tlb) == tuple(
            outcomes.count(outcome) for outcome in (UNMAPPED, READONLY, STALE)
        )
        assert counts.first_failure == next((k for k, outcome in enumerate(outcomes) if outcome != OK), None)

    @rule(spot=SPOT, count=st.sampled_from([1, 2, 12, 40, 1 << 14]))
    def flush(self, spot: int, count: int) -> None:
        page = self.page(spot)
        assert self.rig.flush(page, count) == self.twin.flush(self.rig.at(page), self.rig.at(page + count))

    @rule(spot=SPOT, count=st.sampled_from([1, 12, 1 << 14]), cpu=CPU)
    def flush_local(self, spot: int, count: int, cpu: int) -> None:
        start, end = self.rig.at(self.page(spot)), self.rig.at(self.page(spot) + count)
        assert self.mmu.do_flush_local(cpu, start, end) == self.twin.flush_local(cpu, start, end)

    @rule(cpu=CPU, root=st.integers(0, CPUS))
    def switch_to(self, cpu: int, root: int) -> None:
        self.mmu.do_switch_to(cpu, root)
        self.twin.switch_to(cpu, root)

    @rule(may_fault=st.booleans())
    def change_context(self, may_fault: bool) -> None:
        self.mmu.may_fault = self.twin.may_fault = may_fault

    @precondition(lambda self: self.twin.fences)
    @rule()
    def flush_cache_vmap(self) -> None:
        self.mmu.do_flush_cache_vmap()
        self.twin.fence = [True] * CPUS

    @invariant()
    def both_say_the_same(self) -> None:
        if not hasattr(self, "twin"):
            return
        counters = self.mmu.counters()
        assert {name: counters[name] for name in self.twin.counts} == self.twin.counts
        assert self.mmu.outcome_counts() == self.twin.outcomes
        for cpu, twin in enumerate(self.twin.tlbs):
            tlb = self.rig.tlbs[cpu]
            assert tlb.counters() == twin.counts
            assert [(e.shift, e.start, e.pfn, e.prot) for e in tlb.entries()] == [row[:4] for row in twin.entries()]
        validate_mmu(self.mmu)


class FlushingMachine(MmuMachine):
    """A kernel that flushes behind each unmap: there is never a stale access."""

    def after_unmap(self, page: int) -> None:
        count = 1 << 10  # leaves went whole
        start, end = self.rig.at(page - count), self.rig.at(page + count)
        assert self.mmu.do_flush(start, end) == self.twin.flush(start, end)

    @invariant()
    def nothing_is_stale(self) -> None:
        if hasattr(self, "twin"):
            assert self.mmu.outcome_counts()[STALE] == 0


MmuMachine.TestCase.settings = settings(max_examples=25 if _build.PURE else 150, stateful_step_count=40)
TestMmu = pytest.mark.both_builds(MmuMachine.TestCase)

FlushingMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestFlushing = FlushingMachine.TestCase


class LongMmu(MmuMachine):
    """The same for hours."""


LongMmu.TestCase.settings = settings(max_examples=5000, stateful_step_count=200)
TestLongMmu = pytest.mark.campaign(LongMmu.TestCase)
