"""The public face: refusals that change nothing, overflow and notifiers in order, what is owed, and threads."""

from __future__ import annotations

import doctest
import threading
from collections.abc import Callable
from typing import Any

import pytest

from oracle import shape_of
from vmalloc.areas import address_space
from vmalloc.areas.address_space import AddressSpace, Purged, VmapArea
from vmalloc.errors import BadAddress, BadRequest, BadSize, OutOfAddresses, VmallocError
from vmalloc.kernels import PROFILES

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x140000
TOP = (1 << 64) - 1


class Recorder:
    """An observer."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, int | str]]] = []

    def __call__(self, event: str, /, **fields: int | str) -> None:
        self.events.append((event, fields))

    @property
    def names(self) -> list[str]:
        return [name for name, _fields in self.events]


def lived_in(kernel: str = "6.19", cpus: int = 4, **options: Any) -> AddressSpace:
    """A space with busy, lazy and pooled areas."""
    space = AddressSpace(START, END, kernel=kernel, cpus=cpus, **options)
    areas = [space.alloc(2 * P, cpu=i % cpus) for i in range(12)]
    for address in areas[:4]:
        space.free(address)
    space.purge()
    for address in areas[4:6]:
        space.free(address)
    return space


def snapshot(space: AddressSpace) -> Any:
    return (
        shape_of(space.allocator.free),
        space.busy(),
        space.lazy(),
        space.pooled(),
        space.stats(),
        space.drain_pending,
        [space.allocator.rows.get(n) for n in range(space.allocator.rows.used)],
    )


# -- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "cpus", "word_bits", "nodes"),
    [("6.19", 1, 64, 1), ("6.19", 4, 64, 4), ("6.12", 200, 64, 128), ("6.19", 4, 32, 1), ("6.1", 4, 64, 1)],
)
def test_the_number_of_nodes(kernel: str, cpus: int, word_bits: int, nodes: int) -> None:
    space = AddressSpace(START, END, kernel=kernel, cpus=cpus, word_bits=word_bits)
    assert space.allocator.nodes.nr_nodes == nodes


def test_a_profile_may_be_given_itself() -> None:
    assert AddressSpace(START, END, kernel=PROFILES["6.12"]).kernel is PROFILES["6.12"]
    assert AddressSpace(START, END, kernel="6.18.12").kernel is PROFILES["6.19"]


def test_the_free_space_is_not_limited_to_the_range() -> None:
    assert AddressSpace(START, END).free_blocks() == [VmapArea(1, TOP, 0, None, "free")]
    assert AddressSpace(START, END, word_bits=32).free_blocks() == [VmapArea(1, 0xFFFFFFFF, 0, None, "free")]


def test_early_areas_are_busy_and_the_gaps_free() -> None:
    early = [(0x80000, 0x90000), (START, START + 2 * P), (START + 2 * P, START + 3 * P), (START + 5 * P, START + 6 * P)]
    space = AddressSpace(START, END, cpus=4, early=early)
    assert sorted((area.start, area.end) for area in space.busy()) == early
    assert [(b.start, b.end) for b in space.free_blocks()] == [
        (1, 0x80000),
        (0x90000, START),
        (START + 3 * P, START + 5 * P),
        (START + 6 * P, TOP),
    ]
    space.validate()
    # The gaps enter the tree from the lowest on: the third insertion turns the tree, the fourth hangs below.
    shape = shape_of(space.allocator.free)
    assert shape is not None
    assert (shape[0], shape[4][0], shape[5][0], shape[5][5][0]) == (0x90000, 1, START + 3 * P, START + 6 * P)
    assert space.alloc(2 * P) == START + 3 * P
    assert space.free(early[0][0]) is False


def test_an_early_area_may_begin_the_address_space() -> None:
    space = AddressSpace(START, END, early=[(P, 2 * P)])
    assert [(b.start, b.end) for b in space.free_blocks()] == [(1, P), (2 * P, TOP)]
    space.validate()


@pytest.mark.parametrize(
    "early",
    [
        [(START + 4 * P, START + 5 * P), (START, START + P)],
        [(START, START + 2 * P), (START + P, START + 3 * P)],
        [(START, START)],
        [(START + 1, START + P)],
        [(START, START + P - 1)],
        [(0, P)],
    ],
)
def test_early_areas_that_make_no_sense(early: list[tuple[int, int]]) -> None:
    with pytest.raises(BadAddress):
        AddressSpace(START, END, early=early)


@pytest.mark.parametrize(
    ("start", "end", "options", "error"),
    [
        (START + 1, END, {}, BadAddress),
        (0, END, {}, BadAddress),
        (END, START, {}, BadAddress),
        (START, START, {}, BadAddress),
        (START, 1 << 64, {}, BadAddress),
        (START, 1 << 33, {"word_bits": 32}, BadAddress),
        (START, END, {"word_bits": 16}, BadRequest),
        (START, END, {"page_size": 5000}, BadRequest),
        (START, END, {"page_size": 1 << 21}, BadRequest),
        (START, END, {"cpus": 0}, BadRequest),
        (START, END, {"cpus": 2, "online_cpus": 3}, BadRequest),
        (START, END, {"cpus": 2, "online_cpus": 0}, BadRequest),
        (START, END, {"kernel": "5.4"}, ValueError),
        (START, END, {"kernel": "six"}, ValueError),
    ],
)
def test_machines_that_do_not_exist(start: int, end: int, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        AddressSpace(start, end, **options)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["alloc", "alloc_nowait", "alloc_again"])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((0,), {}, BadSize, "size 0x0 bytes"),
        ((-P,), {}, BadSize, "size -0x1000 bytes"),
        ((P + 1,), {}, BadSize, "size 0x1001 bytes"),
        ((1 << 64,), {}, BadSize, "size"),
        ((P, 0), {}, BadSize, "alignment 0x0 bytes"),
        ((P, 3 * P), {}, BadSize, "alignment 0x3000 bytes"),
        ((P, 1 << 64), {}, BadSize, "alignment"),
        ((P, -1), {}, BadSize, "alignment"),
        ((P, 1, START + 8, END), {}, BadAddress, "0x100008"),
        ((P, 1, 0, END), {}, BadAddress, "0x0"),
        ((P, 1, -P, END), {}, BadAddress, "-0x1000"),
        ((P, 1, END, START), {}, BadAddress, "no end of a range"),
        ((P, 1, START, 1 << 64), {}, BadAddress, "no end of a range"),
        ((P,), {"cpu": 4}, BadRequest, "CPU 4 of a machine whose CPUs are 0 to 3"),
        ((P,), {"cpu": -1}, BadRequest, "CPU -1"),
        ((P,), {"flags": 0x100}, BadRequest, "flags 0x100"),
    ],
)
def test_a_bad_request_changes_nothing(
    verb: str, arguments: tuple[int, ...], options: dict[str, int], error: type[Exception], text: str
) -> None:
    space = lived_in()
    before = snapshot(space)
    with pytest.raises(error, match=text) as refusal:
        getattr(space, verb)(*arguments, **options)
    assert isinstance(refusal.value, VmallocError)
    assert isinstance(refusal.value, ValueError)
    assert snapshot(space) == before


@pytest.mark.parametrize("verb", ["free", "free_now"])
@pytest.mark.parametrize(
    ("address", "text"),
    [
        (START - P, "is in no busy area"),
        (END, "is in no busy area"),
        (START, "0x100000-0x102000 pooled since an earlier free"),
        (START + 9 * P, "0x108000-0x10a000 lazy since an earlier free"),
        (START + 20 * P + 1, "is not a page-aligned address"),
        (-P, "is not a page-aligned address"),
        (1 << 64, "is not a page-aligned address"),
    ],
)
def test_freeing_what_is_not_busy_changes_nothing(verb: str, address: int, text: str) -> None:
    space = lived_in()
    before = snapshot(space)
    with pytest.raises(BadAddress, match=text) as refusal:
        getattr(space, verb)(address)
    assert refusal.value.address == address
    assert snapshot(space) == before


@pytest.mark.parametrize(
    ("start", "end", "options", "error"),
    [
        (START + 20 * P, START + 21 * P, {}, BadAddress),  # busy
        (START + 8 * P, START + 9 * P, {}, BadAddress),  # lazy
        (START, START + P, {}, BadAddress),  # pooled
        (START + 23 * P, START + 25 * P, {}, BadAddress),  # half busy
        (START + 30 * P, START + 30 * P, {}, BadAddress),
        (START + 30 * P + 1, START + 31 * P, {}, BadAddress),
        (START + 30 * P, START + 31 * P - 1, {}, BadAddress),
        (START + 30 * P, START + 31 * P, {"flags": 4}, BadRequest),
    ],
)
def test_reserving_what_is_not_free_changes_nothing(
    start: int, end: int, options: dict[str, int], error: type[Exception]
) -> None:
    space = lived_in()
    before = snapshot(space)
    with pytest.raises(error):
        space.reserve(start, end, **options)
    assert snapshot(space) == before


@pytest.mark.parametrize(
    ("offsets", "sizes", "align"),
    [
        ([0], [P], 1),
        ([0], [P], 3 * P),
        ([0], [P], 0),
        ([0], [P], 2 * P),
        ([0, P], [P], P),
        ([], [], P),
        ([0, 0], [P, P], P),
        ([-P], [P], P),
        ([1 << 64], [P], P),
        ([0], [END - START + P], P),
        ([0], [P], 1 << 40),
    ],
)
def test_geometries_no_kernel_accepts_change_nothing(offsets: list[int], sizes: list[int], align: int) -> None:
    space = lived_in()
    before = snapshot(space)
    with pytest.raises(BadSize):
        space.pcpu_get_vm_areas(offsets, sizes, align)
    assert snapshot(space) == before


@pytest.mark.parametrize("which", ["unknown", "inner", "twice"])
def test_freeing_groups_that_are_not_all_there_changes_nothing(which: str) -> None:
    space = lived_in()
    first, second = space.pcpu_get_vm_areas([0, 8 * P], [2 * P, 2 * P], P)
    before = snapshot(space)
    addresses = {"unknown": [first, END], "inner": [first, second + P], "twice": [first, second, first]}[which]
    with pytest.raises(BadAddress):
        space.pcpu_free_vm_areas(addresses)
    assert snapshot(space) == before
    assert space.pcpu_free_vm_areas([first, second]) is False
    assert space.pcpu_free_vm_areas([]) is False
    assert space.find(first) is None


# -- overflow ---------------------------------------------------------------------------------------------------------


def full(kernel: str = "6.19", **options: Any) -> tuple[AddressSpace, Recorder]:
    """A space of 16 single pages, all taken."""
    recorder = Recorder()
    space = AddressSpace(START, START + 16 * P, kernel=kernel, observer=recorder, **options)
    for _ in range(16):
        space.alloc(P)
    recorder.events.clear()
    return space, recorder


ATTEMPT, PURGE, PRINTK = "alloc_vmap_area", "purge_vmap_area_lazy", "printk"


def test_the_error_says_what_was_asked_and_what_the_kernel_would_print() -> None:
    space, _recorder = full()
    with pytest.raises(OutOfAddresses) as failure:
        space.alloc(2 * P, 4 * P)
    error = failure.value
    assert (error.size, error.align, error.start, error.end) == (2 * P, 4 * P, START, START + 16 * P)
    assert isinstance(error, MemoryError)
    assert error.__notes__ == [
        "vmalloc_node_range for size 8192 failed: Address range restricted to 0x100000 - 0x110000"
    ]


def test_a_failed_allocation_changes_no_area() -> None:
    space, _recorder = full()
    before = shape_of(space.allocator.free), space.busy()
    for verb in (space.alloc, space.alloc_nowait, space.alloc_again):
        with pytest.raises(OutOfAddresses):
            verb(P)
    assert (shape_of(space.allocator.free), space.busy()) == before


def test_without_waiting_nothing_is_purged_or_printed() -> None:
    space, recorder = full()
    space.free(START)
    recorder.events.clear()
    for verb in (space.alloc_nowait, space.alloc_again):
        with pytest.raises(OutOfAddresses) as failure:
            verb(P)
        assert not hasattr(failure.value, "__notes__")
    assert recorder.names == [ATTEMPT, ATTEMPT]
    assert space.nr_lazy == 1


def test_purge_then_notifiers_then_purge_again() -> None:
    """Section 1.10 step 11: a notifier that freed something starts the whole path again."""
    space, recorder = full()
    calls: list[str] = []

    def first() -> int:
        calls.append("first")
        return 0

    def second() -> int:
        calls.append("second")
        if len(calls) > 2:
            return 0
        space.free(START + 4 * P)  # without the lock: giving back is what it is for
        return 1

    space.register_purge_notifier(first)
    space.register_purge_notifier(second)
    assert space.alloc(P) == START + 4 * P
    assert calls == ["first", "second"]
    assert recorder.names == [
        *(ATTEMPT, PURGE, ATTEMPT),
        "free_vmap_area_noflush",
        *(ATTEMPT, PURGE, ATTEMPT),
    ]
    assert [fields["failed"] for name, fields in recorder.events if name == ATTEMPT] == [1, 1, 1, 0]

    recorder.events.clear()
    with pytest.raises(OutOfAddresses):
        space.alloc(P)
    assert calls == ["first", "second"] * 2
    assert recorder.names == [ATTEMPT, PURGE, ATTEMPT, PRINTK]


def test_a_notifier_that_only_promises_is_asked_until_it_stops() -> None:
    space, recorder = full()
    promises = iter([5, 3, 0])
    space.register_purge_notifier(lambda: next(promises))
    with pytest.raises(OutOfAddresses):
        space.alloc(P)
    assert recorder.names == [ATTEMPT, PURGE, ATTEMPT] * 3 + [PRINTK]


def test_notifiers_can_be_taken_back() -> None:
    space, _recorder = full()
    calls: list[int] = []

    def notifier() -> int:
        calls.append(1)
        return 0

    unregister_first = space.register_purge_notifier(notifier)
    unregister_second = space.register_purge_notifier(notifier)
    for expected, unregister in ((2, unregister_first), (1, unregister_first), (1, unregister_second)):
        calls.clear()
        with pytest.raises(OutOfAddresses):
            space.alloc(P)
        assert len(calls) == expected
        unregister()
    calls.clear()
    with pytest.raises(OutOfAddresses):
        space.alloc(P)
    assert calls == []


def test_an_overflow_empties_the_pools_of_other_nodes() -> None:
    space = AddressSpace(START, START + 16 * P, cpus=2)
    areas = [space.alloc(2 * P, cpu=1) for _ in range(8)]
    for address in areas[:3]:
        space.free(address)
    space.purge()
    assert [area.start for area in space.pooled()] == [areas[2], areas[1], areas[0]]
    assert space.alloc(2 * P, cpu=0) == areas[0]
    assert space.pooled() == []


def test_a_retry_does_not_look_at_the_pool_that_a_notifier_filled() -> None:
    recorder = Recorder()
    space = AddressSpace(START, START + 16 * P, cpus=2, observer=recorder)
    areas = [space.alloc(2 * P, cpu=1) for _ in range(8)]

    def notifier() -> int:
        space.free(areas[3])
        space.purge()
        assert [area.start for area in space.pooled()] == [areas[3]]
        return 1

    space.register_purge_notifier(notifier)
    recorder.events.clear()
    assert space.alloc(2 * P, cpu=1) == areas[3]
    assert recorder.names == [
        *(ATTEMPT, PURGE, ATTEMPT),
        *("free_vmap_area_noflush", PURGE),
        *(ATTEMPT, PURGE, ATTEMPT),
    ]
    assert space.stats()["pool_hits"] == 0


def test_groups_purge_once_and_ask_nobody() -> None:
    space, recorder = full()
    space.register_purge_notifier(lambda: pytest.fail("per-CPU areas ask no notifier"))
    space.free(START + 3 * P)
    recorder.events.clear()
    assert space.pcpu_get_vm_areas([0], [P], P) == [START + 3 * P]
    assert recorder.names == [PURGE]
    with pytest.raises(OutOfAddresses) as failure:
        space.pcpu_get_vm_areas([0], [P], P)
    assert (failure.value.start, failure.value.end) == (START, START + 16 * P)
    assert recorder.names == [PURGE, PURGE]


def test_pool_hits_are_traced_like_any_other_attempt() -> None:
    recorder = Recorder()
    space = lived_in(observer=recorder)
    recorder.events.clear()
    address = space.pooled()[0].start
    assert space.alloc(2 * P, cpu=0) == address
    fields = {"va_start": address, "size": 2 * P, "align": 1, "vstart": START, "vend": END, "failed": 0}
    assert recorder.events == [(ATTEMPT, fields)]
    assert space.stats()["pool_hits"] == 1


@pytest.mark.parametrize(
    ("kernel", "word_bits", "shown"),
    [
        ("6.19", 64, (1 << 64) - 34),
        ("6.19", 32, (1 << 32) - 34),
        ("6.12", 64, START + 16 * P),
        ("6.1", 32, START + 16 * P),
    ],
)
def test_what_a_failed_attempt_shows(kernel: str, word_bits: int, shown: int) -> None:
    space, recorder = full(kernel, word_bits=word_bits)
    with pytest.raises(OutOfAddresses):
        space.alloc_nowait(P)
    assert recorder.events == [
        (
            ATTEMPT,
            {"va_start": shown, "size": P, "align": 1, "vstart": START, "vend": START + 16 * P, "failed": 1},
        )
    ]


# -- lazy, drain, flush -----------------------------------------------------------------------------------------------


def lazy_space(kernel: str = "6.19", **options: Any) -> tuple[AddressSpace, list[int]]:
    """A space with a threshold of 8192 pages and three areas: two that reach it, and one page more."""
    space = AddressSpace(START, 1 << 40, kernel=kernel, **options)
    return space, [space.alloc(size * P) for size in (4096, 4096, 1)]


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_drain_runs_once_when_pending(kernel: str) -> None:
    space, areas = lazy_space(kernel)
    assert space.drain() is None
    assert [space.free(address) for address in areas] == [False, False, True]
    assert space.drain_pending
    count = 1 if kernel == "6.1" else 3
    assert space.drain() == Purged(areas[0], areas[2] + P, count)
    assert not space.drain_pending
    assert space.drain() is None
    assert space.nr_lazy == 0


def test_the_work_stays_queued_when_somebody_else_purges_first() -> None:
    space, areas = lazy_space()
    for address in areas:
        space.free(address)
    assert space.purge().count == 3
    assert space.drain_pending
    assert space.drain() == Purged(TOP, 0, 0)


@pytest.mark.parametrize(("kernel", "passes"), [("6.1", 2), ("6.12", 1), ("6.19", 1)])
def test_before_6_9_the_drain_repeats_while_frees_keep_it_above_the_threshold(
    kernel: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    space, areas = lazy_space(kernel, observer=recorder)
    more = [space.alloc(size * P) for size in (4096, 4096, 1)]
    purge = space._purge_locked

    def purge_and_free(*args: Any, **options: Any) -> Purged:
        """A purge during which another thread frees: put between the two passes without racing."""
        result = purge(*args, **options)
        while more:
            space._free_locked(more.pop(0))
        return result

    monkeypatch.setattr(space, "_purge_locked", purge_and_free)
    for address in areas:
        space.free(address)
    space.drain()
    assert recorder.names.count(PURGE) == passes
    assert space.nr_lazy == (0 if passes == 2 else 8193)
    assert space.drain_pending  # the frees in between queued the work again


def test_the_threshold_follows_the_online_cpus() -> None:
    space = AddressSpace(START, END, cpus=8)
    assert space.lazy_max_pages == 32768
    space.online_cpus = 1
    assert space.lazy_max_pages == 8192
    with pytest.raises(BadRequest):
        space.online_cpus = 9
    assert AddressSpace(START, END, cpus=4, online_cpus=2, page_size=65536).lazy_max_pages == 2 * 512


def test_what_a_purge_owes_is_flushed_before_it_is_reported() -> None:
    order: list[tuple[str, int, int]] = []

    def observer(event: str, /, **fields: int | str) -> None:
        if event == PURGE:
            order.append((event, int(fields["start"]), int(fields["end"])))

    space = AddressSpace(START, END, observer=observer, flush=lambda start, end: order.append(("flush", start, end)))
    a, b = space.alloc(P), space.alloc(P)
    space.purge()
    assert order == [(PURGE, TOP, 0)]  # nothing lazy, nothing owed
    order.clear()
    space.free(a)
    space.free(b)
    space.purge()
    assert order == [("flush", a, b + P), (PURGE, a, b + P)]
    order.clear()
    space.unmap_aliases(START, START + P, flush=True)
    assert order == [(PURGE, START, START + P), ("flush", START, START + P)]
    assert (space.stats()["flush_hulls"], space.stats()["flush_hull_bytes"]) == (2, 3 * P)


def test_an_overflow_flushes_before_it_reuses() -> None:
    flushed: list[tuple[int, int]] = []
    space = AddressSpace(START, START + 4 * P, flush=lambda start, end: flushed.append((start, end)))
    areas = [space.alloc(P) for _ in range(4)]
    space.free(areas[1])
    assert space.alloc(P) == areas[1]
    assert flushed == [(areas[1], areas[1] + P)]


# -- looking ----------------------------------------------------------------------------------------------------------


def test_pictures_of_areas() -> None:
    space = AddressSpace(START, END, cpus=4)
    address = space.alloc(2 * P, cpu=3, flags=1)
    area = space.find(address + 5)
    assert area == VmapArea(address, address + 2 * P, 0x401, 0, "busy")
    assert area is not None
    assert (area.size, str(area)) == (2 * P, "0x100000-0x102000 busy")
    space.free(address)
    assert space.lazy() == [VmapArea(address, address + 2 * P, 0x401, 3, "lazy")]
    space.purge()
    assert space.pooled() == [VmapArea(address, address + 2 * P, 0x401, 3, "pooled")]


@pytest.mark.parametrize("address", [-1, 0, START - 1, END, TOP, 1 << 64])
def test_find_says_none_outside(address: int) -> None:
    space = AddressSpace(START, END)
    space.alloc(P)
    assert space.find(address) is None


@pytest.mark.parametrize("cpus", [1, 3])
def test_the_first_area_ending_above(cpus: int) -> None:
    space = AddressSpace(START, END, cpus=cpus)
    for first, count in ((0, 20), (24, 2), (40, 1)):
        space.reserve(START + first * P, START + (first + count) * P)

    def above(address: int) -> int | None:
        area = space.first_ending_above(address)
        return area and (area.start - START) // P

    assert above(0) == above(-5) == above(START) == above(START + 20 * P - 1) == 0
    assert above(START + 20 * P) == above(START + 25 * P) == 24
    assert above(START + 26 * P) == above(START + 41 * P - 1) == 40
    assert above(START + 41 * P) is above(1 << 65) is None


def test_statistics() -> None:
    space = lived_in(cpus=2)
    for address in [area.start for area in space.busy()][:2]:
        space.free_now(address)
    stats = space.stats()
    assert stats["busy_areas"] == 4
    assert stats["busy_bytes"] == 8 * P
    assert (stats["lazy_areas"], stats["lazy_pages"]) == (2, 4)
    assert (stats["pooled_areas"], stats["pooled_pages"]) == (4, 8)
    window = END - START
    assert stats["free_bytes"] == window - (8 + 4 + 8) * P
    free = [b for b in space.free_blocks() if b.end > START and b.start < END]
    assert stats["free_blocks"] == len(free)
    assert stats["largest_free"] == window - 24 * P
    assert stats["fragmentation"] == pytest.approx(1 - stats["largest_free"] / stats["free_bytes"])
    assert (stats["pool_hits"], stats["purges"], stats["flush_hulls"]) == (0, 1, 1)
    space.alloc(2 * P)
    assert space.stats()["pool_hits"] == 1


def test_statistics_of_a_full_and_of_an_empty_range() -> None:
    space, _recorder = full()
    stats = space.stats()
    assert (stats["free_blocks"], stats["free_bytes"], stats["largest_free"], stats["fragmentation"]) == (0, 0, 0, 0)
    stats = AddressSpace(START, END).stats()
    assert (stats["free_blocks"], stats["largest_free"], stats["fragmentation"]) == (1, END - START, 0)


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(address_space).failed == 0


# -- threads ----------------------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_threads_never_get_the_same_address() -> None:
    space = AddressSpace(START, START + 4096 * P, cpus=4)
    owned: dict[int, int] = {}
    lock = threading.Lock()

    def work(number: int) -> None:
        mine: list[int] = []
        for i in range(200):
            try:
                address = space.alloc((i % 5 + 1) * P, cpu=number)
            except OutOfAddresses:
                continue
            with lock:
                assert address not in owned
                owned[address] = number
            mine.append(address)
            if i % 3 == 0:
                gone = mine.pop(i % len(mine))
                with lock:
                    del owned[gone]
                space.free(gone)
            if i % 50 == 0:
                space.purge()
            if i % 20 == 0:
                space.stats()
                space.find(address)

    in_threads(4, work)
    space.validate()
    assert sorted(owned) == sorted(area.start for area in space.busy())


def test_threads_that_overflow_together_all_come_to_an_end() -> None:
    space = AddressSpace(START, START + 32 * P, cpus=2)
    space.register_purge_notifier(lambda: 0)

    def work(number: int) -> None:
        for _ in range(60):
            try:
                address = space.alloc(3 * P, cpu=number % 2)
            except OutOfAddresses:
                continue
            space.free(address)

    in_threads(4, work)
    space.validate()
    assert space.busy() == []
