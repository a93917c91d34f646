"""Random sequences of all calls of an ``AddressSpace``, held against the oracle and the validators after each step."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from oracle import PAGE, Oracle, state_expected, state_of
from vmalloc import _build, kernels
from vmalloc.areas.address_space import AddressSpace
from vmalloc.errors import BadAddress, OutOfAddresses

START = 0x100000
#: The range may be odd at its end. It is small, so that it overflows; the largest holds areas too large for a pool.
PAGES = st.sampled_from([24, 96, 160, 560])
SMALL = st.integers(1, 4).map(lambda n: n * PAGE)
ANY = st.one_of(st.integers(1, 20), st.integers(254, 258)).map(lambda n: n * PAGE)
SIZES = st.one_of(SMALL, SMALL, ANY)
ALIGNMENTS = st.sampled_from([1, 1, 1, 16, PAGE, 2 * PAGE, 4 * PAGE, 8 * PAGE, 64 * PAGE])
FLAGS = st.sampled_from([0, 0, 0, 1, 3])


class Spaces(RuleBasedStateMachine):
    """One space and its twin; ``KERNEL`` is set by the subclasses."""

    KERNEL = ""

    @initialize(nr_pages=PAGES, odd=st.booleans(), cpus=st.sampled_from([1, 2, 3, 4, 8]))
    def build(self, nr_pages: int, odd: bool, cpus: int) -> None:
        end = START + nr_pages * PAGE - odd
        self.end = end
        self.cpus = cpus
        self.events: list[str] = []
        self.space = AddressSpace(START, end, kernel=self.KERNEL, cpus=cpus, observer=self.observe)
        self.oracle = Oracle(kernels.profile(self.KERNEL), START, end, cpus)

    def observe(self, event: str, /, **fields: int | str) -> None:
        self.events.append(event)

    def window(self, data: st.DataObject) -> tuple[int, int]:
        """Mostly the whole range; sometimes a part of it, or one that reaches beyond it."""
        if data.draw(st.integers(0, 3)):
            return START, self.end
        first = data.draw(st.integers(-4, 80))
        return START + first * PAGE, START + (first + data.draw(st.integers(1, 80))) * PAGE

    def some_address(self, data: st.DataObject) -> int:
        """Any page of a busy area: the whole area is meant."""
        area = data.draw(st.sampled_from(sorted(self.oracle.busy.values(), key=lambda a: a.start)))
        return area.start + data.draw(st.integers(0, area.pages - 1)) * PAGE

    @rule(data=st.data(), size=SIZES, align=ALIGNMENTS, flags=FLAGS)
    def alloc(self, data: st.DataObject, size: int, align: int, flags: int) -> None:
        cpu, (vstart, vend) = data.draw(st.integers(0, self.cpus - 1)), self.window(data)
        expected = self.oracle.alloc(size, align, vstart, vend, cpu, flags)
        try:
            got: int | None = self.space.alloc(size, align, vstart, vend, cpu=cpu, flags=flags)
        except OutOfAddresses:
            got = None
        assert got == expected

    @rule(data=st.data(), size=SIZES, align=ALIGNMENTS, again=st.booleans())
    def alloc_once(self, data: st.DataObject, size: int, align: int, again: bool) -> None:
        cpu, (vstart, vend) = data.draw(st.integers(0, self.cpus - 1)), self.window(data)
        expected = self.oracle.attempt(size, align, vstart, vend, cpu, 0, try_pool=not again)
        call: Callable[..., int] = self.space.alloc_again if again else self.space.alloc_nowait
        try:
            got = call(size, align, vstart, vend, cpu=cpu)
        except OutOfAddresses:
            assert expected >= 1 << 63
        else:
            assert got == expected

    @precondition(lambda self: self.oracle.busy)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        address = self.some_address(data)
        self.oracle.free(address)
        assert self.space.free(address) == self.oracle.above_threshold()

    @rule(data=st.data(), sizes=st.lists(SMALL, min_size=4, max_size=24), same=st.booleans(), cpus=st.integers(0, 7))
    def alloc_many(self, data: st.DataObject, sizes: list[int], same: bool, cpus: int) -> None:
        """A row of neighbours, of one size and CPU or of many: what later frees make holes in."""
        for i, size in enumerate(sizes):
            cpu = cpus % self.cpus if same else (cpus + i) % self.cpus
            want = sizes[0] if same else size
            expected = self.oracle.attempt(want, 1, START, self.end, cpu, 0, try_pool=True)
            try:
                assert self.space.alloc_nowait(want, cpu=cpu) == expected
            except OutOfAddresses:
                assert expected >= 1 << 63

    @precondition(lambda self: len(self.oracle.busy) > 3)
    @rule(which=st.integers(1, (1 << 24) - 1), purge=st.booleans())
    def free_many(self, which: int, purge: bool) -> None:
        """Frees a subset, so that purges have something to merge and pools something to hold."""
        for i, start in enumerate(sorted(self.oracle.busy)):
            if which >> i % 24 & 1:
                self.oracle.free(start)
                assert self.space.free(start) == self.oracle.above_threshold()
        if purge:
            self.purge("partial")

    @precondition(lambda self: self.oracle.busy)
    @rule(data=st.data())
    def free_now(self, data: st.DataObject) -> None:
        address = self.some_address(data)
        self.oracle.free_now(address)
        self.space.free_now(address)

    @rule(first=st.integers(-2, 100), count=st.integers(1, 8))
    def reserve(self, first: int, count: int) -> None:
        start, end = START + first * PAGE, START + (first + count) * PAGE
        try:
            self.space.reserve(start, end, flags=1)
            done = True
        except BadAddress:
            done = False
        assert done == self.oracle.reserve(start, end, 1)

    @rule(how=st.sampled_from(["partial", "partial", "partial", "full", "shrink"]))
    def purge(self, how: str) -> None:
        if how == "shrink":
            expected = sum(len(pool) for pool in self.oracle.pools.values())
            assert self.space.shrinker_count() == expected
            assert self.space.shrink() == expected
            self.oracle.shrink()
            return
        got = self.space.purge(how == "full")
        assert (got.start, got.end, got.count) == self.oracle.purge(how == "full")

    @rule(first=st.integers(0, 40), count=st.integers(1, 8), flush=st.booleans())
    def unmap_aliases(self, first: int, count: int, flush: bool) -> None:
        start, end = START + first * PAGE, START + (first + count) * PAGE
        got = self.space.unmap_aliases(start, end, flush)
        hull_start, hull_end, purged = self.oracle.purge(False, start, end)
        assert got == ((hull_start, hull_end) if purged or flush else None)

    @rule(data=st.data(), align=st.sampled_from([1, 2, 8]).map(lambda n: n * PAGE), odd_ones=st.booleans())
    def pcpu(self, data: st.DataObject, align: int, odd_ones: bool) -> None:
        offsets, sizes, offset = [], [], 0
        for _ in range(data.draw(st.integers(1, 3))):
            offset += data.draw(st.integers(0, 3)) * align
            offsets.append(offset)
            sizes.append(data.draw(st.integers(1, 3)) * align)
            offset += sizes[-1]
        if odd_ones:  # the groups need not be in ascending order
            offsets.reverse()
            sizes.reverse()
        if self.end // align * align - -(-START // align) * align < offset:
            return
        expected = self.oracle.pcpu(offsets, sizes, align)
        if expected is None:
            with pytest.raises(OutOfAddresses):
                self.space.pcpu_get_vm_areas(offsets, sizes, align)
            return
        assert self.space.pcpu_get_vm_areas(offsets, sizes, align) == expected
        if data.draw(st.booleans()):
            self.space.pcpu_free_vm_areas(expected)
            for address in expected:
                self.oracle.free(address)

    @rule(page=st.integers(-3, 120), offset=st.integers(0, PAGE - 1))
    def look(self, page: int, offset: int) -> None:
        address = START + page * PAGE + offset
        found, expected = self.space.find(address), self.oracle.find(address)
        assert (found and (found.start, found.end)) == (expected and (expected.start, expected.end))
        above = self.space.first_ending_above(address)
        starts = [a.start for a in self.oracle.busy.values() if a.end > address]
        assert (above and above.start) == min(starts, default=None)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "space"):  # an invariant is also checked before the first step
            return
        self.space.validate()
        assert state_of(self.space) == state_expected(self.oracle)


def machine(kernel: str) -> type[RuleBasedStateMachine]:
    return type(f"Spaces{kernel.replace('.', '_')}", (Spaces,), {"KERNEL": kernel})


def run_machine(kernel: str, examples: int) -> None:
    case = machine(kernel).TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=50)
    case("runTest").runTest()


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_every_sequence_of_calls_agrees_with_the_oracle(kernel: str) -> None:
    run_machine(kernel, 40 if _build.PURE else 200)


@pytest.mark.campaign
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_many_more_sequences_agree_with_the_oracle(kernel: str) -> None:
    run_machine(kernel, 3_000)


def run_history(kernel: str, seed: int, steps: int, nr_pages: int) -> None:
    """A long life of one space, compared after each step: deeper trees than short sequences reach."""
    draw = random.Random(seed)
    cpus = draw.choice([1, 2, 4, 5])
    end = START + nr_pages * PAGE
    space = AddressSpace(START, end, kernel=kernel, cpus=cpus)
    oracle = Oracle(kernels.profile(kernel), START, end, cpus)
    for _ in range(steps):
        roll = draw.random()
        if roll < 0.5 or not oracle.busy:
            size, align = draw.randint(1, 9) * PAGE, draw.choice([1, 1, PAGE << draw.randint(0, 5)])
            cpu = draw.randrange(cpus)
            expected = oracle.alloc(size, align, START, end, cpu, 0)
            try:
                assert space.alloc(size, align, cpu=cpu) == expected
            except OutOfAddresses:
                assert expected is None
        elif roll < 0.95:
            address = draw.choice(list(oracle.busy))
            if draw.random() < 0.3:
                oracle.free_now(address)
                space.free_now(address)
            else:
                oracle.free(address)
                space.free(address)
        elif roll < 0.99:
            got = space.purge()
            assert (got.start, got.end, got.count) == oracle.purge()
        else:
            space.shrink()
            oracle.shrink()
        space.validate()
        assert state_of(space) == state_expected(oracle)


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
@settings(max_examples=5)
@given(seed=st.integers(0, 1 << 32))
def test_long_histories_agree_with_the_oracle(kernel: str, seed: int) -> None:
    run_history(kernel, seed, 800, 500)


@pytest.mark.campaign
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
@settings(max_examples=5)
@given(seed=st.integers(0, 1 << 32))
def test_longer_histories_agree_with_the_oracle(kernel: str, seed: int) -> None:
    run_history(kernel, seed, 5_000, 4_096)
