"""The model: when it purges, what a request without room does, and that nothing is lost under any policy."""

from __future__ import annotations

from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.states import NIL
from vmalloc.areas.validate import validate_allocator
from vmalloc.errors import OutOfAddresses
from vmalloc.kernels import profile
from vmalloc.policy import Policy
from vmalloc.trace.events import Trace
from vmalloc.trace.replay.plan import make_plan
from vmalloc.trace.replay.replay import Opening
from vmalloc.trace.replay.start import Start
from vmalloc.trace.whatif.demand import ASK, CHUNK, DROP, FORCE, REFUSED, Demand
from vmalloc.trace.whatif.drains import DRAIN, FORCED, OVERFLOW, Drains
from vmalloc.trace.whatif.model import NOWHERE, Model
from vmalloc.units import ADDRESS_MAX

pytestmark = pytest.mark.both_builds

PAGE = 4096
LOW = 1 << 40
KERNELS = ("6.1", "6.12", "6.19")
KERNEL = Policy()
ANY_POLICY = st.builds(
    Policy,
    lazy_max_pages=st.sampled_from([None, 0, 3, 40]),
    decay=st.sampled_from(["none", "all", "half", "quarter", "1/3"]),
    pools=st.booleans(),
    fit=st.sampled_from(["kernel", "lowest"]),
    guard=st.booleans(),
    huge=st.booleans(),
)


def opening_of(pages: int, kernel: str = "6.19", cpus: int = 1, groups: PcpuGroups | None = None) -> Opening:
    """An empty range of so many pages."""
    window = (LOW, LOW + pages * PAGE)
    return Opening(profile(kernel), "", cpus, window, 12, Start("boot"), 0, groups, make_plan(Trace("x")))


class Script:
    """A demand written by hand; each row is a microsecond after the one before."""

    def __init__(self, pages: int, limit: int = 10, lag: int = 0, span: int = 0, **machine: Any) -> None:
        self.opening = opening_of(pages, **machine)
        drains = Drains(limit, array("q", [0]), array("q", [lag]), array("q", [span]))
        self.demand = Demand(windows=[self.opening.window], drains=drains)
        self.now = 0

    def row(self, op: int, area: int, cpu: int = 0) -> None:
        self.now += 1000
        for name, value in (("op", op), ("time", self.now), ("area", area), ("cpu", cpu)):
            getattr(self.demand, name).append(value)
        self.demand.last_time = self.now

    def area(self, pages: int, align: int = 1, recorded: int = 0) -> int:
        for name, value in (("size", pages * PAGE), ("align", align), ("window", 0), ("recorded", recorded)):
            getattr(self.demand, name).append(value)
        return len(self.demand.size) - 1

    def ask(self, pages: int, align: int = 1, recorded: int = 0, cpu: int = 0, op: int = ASK) -> int:
        number = self.area(pages, align, recorded)
        self.row(op, number, cpu)
        return number

    def drop(self, *areas: int) -> None:
        for number in areas:
            self.row(DROP, number)

    def force(self, start: int = ADDRESS_MAX, end: int = 0) -> None:
        self.demand.hulls.append((start, end))
        self.row(FORCE, len(self.demand.hulls) - 1)

    def wait(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    def model(self, policy: Policy = KERNEL) -> Model:
        return Model(self.demand, self.opening, policy)


def page_of(model: Model, number: int) -> int:
    return (model.placed[number] - LOW) // PAGE


# -- when it purges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_drain_begins_a_lag_after_the_crossing(kernel: str) -> None:
    script = Script(100, limit=4, lag=2500, kernel=kernel)
    areas = [script.ask(n) for n in (3, 2, 1, 1)]
    script.drop(*areas[:2])  # 5 pages are more than 4
    later = [script.ask(1) for _ in range(4)]
    model = script.model()
    found = model.run()
    # The drain detaches 2.5 us after the second free: the first two requests are too early for the freed pages.
    assert [page_of(model, n) for n in later] == [7, 8, 0, 1]
    assert (found.purges.drains, found.purges.purged_pages, found.purges.flushes) == (1, 5, 1)
    assert found.purges.flushed_bytes == 5 * PAGE
    assert (found.lazy.max_pages, found.peak_busy_bytes) == (5, 7 * PAGE)


def test_exactly_the_threshold_is_not_above_it() -> None:
    """Section 4.3."""
    script = Script(100, limit=5)
    script.drop(script.ask(3), script.ask(2))
    script.ask(1)
    assert script.model().run().purges.purges == 0
    assert script.model(Policy(lazy_max_pages=4)).run().purges.purges == 1


def test_pages_are_lazy_until_the_span_is_over_and_queue_the_work_again() -> None:
    script = Script(100, limit=4, span=10_000)
    areas = [script.ask(5), script.ask(1), script.ask(1)]
    script.drop(areas[0])  # detached at once
    script.drop(areas[1])  # during the purge: 6 pages are lazy still
    script.wait(20_000)
    script.drop(areas[2])
    model = script.model()
    found = model.run()
    assert [(p.why, p.areas, p.pages) for p in model.purges] == [(DRAIN, 1, 5), (DRAIN, 1, 1)]
    assert (found.lazy.max_pages, model.nodes.nr_lazy) == (6, 1)


def test_what_is_due_at_the_end_happens() -> None:
    script = Script(100, limit=4, lag=0)
    script.drop(script.ask(5))
    model = script.model()
    assert model.run().purges.drains == 1


@pytest.mark.parametrize(("kernel", "pages"), [("6.1", [5, 6, 0]), ("6.12", [5, 6])])
def test_up_to_6_8_the_work_repeats_while_there_is_too_much(kernel: str, pages: list[int]) -> None:
    """Section 4.4: the free during the purge has also queued the work, which finds nothing after the repetition."""
    script = Script(100, limit=4, span=10_000, kernel=kernel)
    script.drop(script.ask(5), script.ask(6))
    script.wait(50_000)
    script.ask(1)
    model = script.model()
    model.run()
    assert [p.pages for p in model.purges] == pages


def test_a_forced_purge_ends_the_running_one_first_and_has_the_hull_it_is_given() -> None:
    script = Script(100, limit=4, span=1_000_000)
    areas = [script.ask(5), script.ask(1)]
    script.drop(*areas)
    script.force(PAGE, 3 * PAGE)
    script.force(PAGE, 3 * PAGE)
    model = script.model()
    found = model.run()
    # The second free queued the work again, which finds nothing.
    assert [(p.why, p.areas, p.start) for p in model.purges] == [
        (DRAIN, 1, LOW), (FORCED, 1, PAGE), (DRAIN, 0, ADDRESS_MAX), (FORCED, 0, PAGE),
    ]  # fmt: skip
    assert found.purges.forced == 2


# -- no room -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_room_everything_is_purged_before_a_request_fails(kernel: str) -> None:
    script = Script(16, limit=1000, kernel=kernel, cpus=2)
    areas = [script.ask(4) for _ in range(4)]
    script.drop(areas[1], areas[2])
    kept = script.ask(8)
    failed = script.ask(1)
    script.drop(failed, kept)
    last = script.ask(8)
    model = script.model()
    found = model.run()
    assert [page_of(model, n) for n in (kept, last)] == [4, 4]
    assert (model.placed[failed], found.failures, found.allocations) == (NOWHERE, 1, 7)
    assert [(p.why, p.pages) for p in model.purges] == [(OVERFLOW, 8), (OVERFLOW, 0), (OVERFLOW, 8)]


def test_a_run_can_end_at_the_first_failure() -> None:
    script = Script(4)
    for _ in range(5):
        script.ask(3)
    found = script.model().run(until_failure=True)
    assert (found.failures, found.allocations) == (1, 2)


def test_what_the_recorded_kernel_refused_may_have_room_and_leaves_no_trace() -> None:
    script = Script(16)
    script.ask(8, op=REFUSED)
    script.ask(17, op=REFUSED)
    script.ask(16)
    model = script.model()
    found = model.run()
    assert (found.rescued, found.failures, found.agreed, page_of(model, 2)) == (1, 1, 1, 0)


def test_a_chunk_purges_before_it_fails_and_its_areas_can_be_freed() -> None:
    groups = PcpuGroups([0, 4 * PAGE], [2 * PAGE, 2 * PAGE], PAGE, LOW, LOW + 16 * PAGE)
    script = Script(16, limit=1000, groups=groups)
    busy = script.ask(16)
    script.drop(busy)
    first = [script.area(2), script.area(2)][0]
    script.row(CHUNK, first)
    script.drop(first + 1)
    second = script.ask(10)
    lost = [script.area(2), script.area(2)][0]
    script.row(CHUNK, lost)
    script.drop(lost, lost + 1)
    model = script.model()
    found = model.run()
    assert [page_of(model, n) for n in (first, first + 1)] == [10, 14]
    assert (found.failures, page_of(model, second), model.placed[lost]) == (1, 0, NOWHERE)


# -- rules -------------------------------------------------------------------------------------------------------------


def test_the_lowest_fit_needs_less_room() -> None:
    """Appendix A.4's second history: in a range that ends behind the areas, the kernel's search fails (section 1.7)."""
    script = Script(16, limit=1000)
    a, s, _b, t, _c = (script.ask(n) for n in (4, 4, 4, 1, 3))
    for area in (t, s):
        script.drop(area)
        script.force()
    asked = script.ask(4, align=0x4000)
    kernel, lowest = script.model(), script.model(Policy(fit="lowest"))
    assert kernel.run().failures == 1
    assert lowest.run().failures == 0
    assert lowest.placed[asked] == lowest.placed[s] == LOW + 4 * PAGE
    assert kernel.placed[a] == LOW


def test_a_policy_without_guard_pages_places_smaller_areas() -> None:
    script = Script(100)
    areas = [script.ask(3) for _ in range(3)]
    model = script.model(Policy(guard=False))
    found = model.run()
    assert [page_of(model, n) for n in areas] == [0, 2, 4]
    assert (found.span_bytes, found.peak_busy_bytes) == (6 * PAGE, 6 * PAGE)


def test_pools_serve_only_where_there_are_some() -> None:
    def hits(**knobs: Any) -> int | None:
        script = Script(100, limit=0, cpus=2)
        for _ in range(6):
            script.drop(script.ask(2))
        return script.model(Policy(**knobs)).run().pool_hits

    assert (hits(), hits(pools=False), hits(vmap_nodes=1)) == (5, 0, 0)


def test_agreement_counts_the_recorded_addresses() -> None:
    script = Script(100)
    script.ask(2, recorded=LOW)
    script.ask(2, recorded=LOW + 3 * PAGE)
    found = script.model().run()
    assert (found.agreed, found.agreement) == (1, 0.5)


# -- whatever happens --------------------------------------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from("aaadddfr"), st.integers(0, 999), st.integers(1, 12), st.integers(0, 3), st.integers(0, 3)
)
STEPS = st.lists(STEP, max_size=60)


def scripted(steps: list[tuple[str, int, int, int, int]], kernel: str, lag: int, span: int) -> Script:
    script = Script(64, limit=12, lag=lag, span=span, kernel=kernel, cpus=3)
    live: list[int] = []
    for kind, which, pages, power, cpu in steps:
        if kind == "a":
            live.append(script.ask(pages, PAGE << power if power else 1, cpu=cpu))
        elif kind == "r":
            script.ask(pages, op=REFUSED)
        elif kind == "f":
            script.force()
        elif live:
            script.drop(live.pop(which % len(live)))
    return script


@settings(max_examples=60)
@given(
    steps=STEPS, kernel=st.sampled_from(KERNELS), lag=st.sampled_from([0, 1500, 9000]),
    span=st.sampled_from([0, 2500, 50_000]), policy=ANY_POLICY,
)  # fmt: skip
def test_under_any_policy_every_page_is_accounted_for(
    steps: list[tuple[str, int, int, int, int]], kernel: str, lag: int, span: int, policy: Policy
) -> None:
    script = scripted(steps, kernel, lag, span)
    model = script.model(policy)
    found = model.run()
    model._end(script.now)
    validate_allocator(model.allocator, ADDRESS_MAX)
    demand = script.demand
    dropped = [n for op, n in zip(demand.op, demand.area, strict=True) if op == DROP and model.placed[n] != NOWHERE]
    freed = sum(model.size[n] for n in dropped) // PAGE
    assert sum(p.pages for p in model.purges) + model.nodes.nr_lazy == freed
    asked = [n for op, n in zip(demand.op, demand.area, strict=True) if op == ASK]
    live = [n for n in asked if n not in dropped and model.placed[n] != NOWHERE]
    assert model.busy_bytes == sum(model.size[n] for n in live) <= found.peak_busy_bytes
    for n in live:
        row = model.allocator.find_busy(model.placed[n])
        assert row != NIL
        assert model.placed[n] % model.align[n] == 0
    assert found.failures <= found.allocations
    assert found.purges.longest_pages <= found.lazy.max_pages


@settings(max_examples=30)
@given(steps=STEPS, kernel=st.sampled_from(KERNELS))
def test_with_no_lag_the_model_is_the_address_space(
    steps: list[tuple[str, int, int, int, int]], kernel: str
) -> None:
    """The slow twin: the calls of ``AddressSpace``, which drains when it is told to."""
    script = scripted([step for step in steps if step[0] != "r"], kernel, 0, 0)
    model = script.model(Policy(lazy_max_pages=12))
    model.run()
    space = AddressSpace(*script.opening.window, kernel=kernel, cpus=3, policy=Policy(lazy_max_pages=12))
    demand, placed = script.demand, [NOWHERE] * len(script.demand.size)
    due = False
    for op, n, cpu in zip(demand.op, demand.area, demand.cpu, strict=True):
        if due:
            space.drain()
            due = False
        if op == ASK:
            try:
                placed[n] = space.alloc(demand.size[n], demand.align[n], cpu=cpu % 3)
            except OutOfAddresses:
                continue
        elif op == DROP and placed[n] != NOWHERE:
            due = space.free(placed[n])
        elif op == FORCE:
            space.purge()
    assert list(model.placed) == placed
