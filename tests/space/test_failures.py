"""Every way to fail, driven by failures that are injected at each step (sections 3.1, 3.5, 6.4; 2.4, 2.5, 2.7, 7.1).

Idea: a table of calls.  Each is made again and again, with one operation of the machine running short at its first
request, its second, ... until the call no longer gets that far.  What came of it is either an error of the right class,
or success by another way that the specification names; and when all deferred work has run and everything is purged,
nothing shows that it was ever tried - but page tables, which only grow (section 8.6).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from space.rig import ARCHES, KERNELS, picture, settle, table_bytes, validate
from vmalloc.calls.remap import UserMapping
from vmalloc.calls.vfree import vfree
from vmalloc.errors import OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_DIRECT_RECLAIM, GFP_KERNEL, GFP_NOFAIL, GFP_NOWARN, VM_SPARSE
from vmalloc.space.simulated import SimulatedSpace, simulated

#: What can run short; ``flush`` cannot: no machine forgets one.
OPERATIONS = ("take", "take_bulk", "slab", "map_pages", "map_range", "page_table")
SHORT = (OutOfFrames, OutOfAddresses)

MEMORY = {"arm64_16k": ["192MiB", "64MiB"]}


def make_space(arch: str, kernel: str) -> SimulatedSpace:
    """Two nodes, so that frames of each are counted; CPU 0, and with it all page tables, is on node 0."""
    return simulated(arch, kernel, cpus=2, memory=MEMORY.get(arch, ["24MiB", "8MiB"]))


@dataclass
class Call:
    """One call of the surface.

    Attributes:
        name: its name.
        run: makes it; the result.
        undo: takes the result back.
        prepare: what must be there before; given to ``run``.
        clean: takes that away again.
        other_ways: operations whose failure may be made up for, as the specification says; ``take`` and ``take_bulk``
            always may, because frames are asked for in several ways (section 3.3).
        has: whether a space has this call.
    """

    name: str
    run: Callable[[SimulatedSpace, Any], Any]
    undo: Callable[[SimulatedSpace, Any], None] = lambda space, area: space.vfree(area)
    prepare: Callable[[SimulatedSpace], Any] = lambda space: None
    clean: Callable[[SimulatedSpace, Any], None] = lambda space, context: None
    other_ways: frozenset[str] = frozenset()
    has: Callable[[SimulatedSpace], bool] = lambda space: True

    def __str__(self) -> str:
        return self.name


def pages(space: SimulatedSpace, count: int) -> int:
    return count * space.state.page_size


def long_list(space: SimulatedSpace) -> int:
    """Bytes of an area whose list of frames is longer than a page, and an area itself (section 3.3)."""
    return pages(space, space.state.page_size // space.state.pointer_size + 40)


def huge_size(space: SimulatedSpace) -> int:
    """Bytes of an area of two mappings above the base page: where there are none, of as many frames."""
    shifts = space.machine.info.vmalloc_shifts
    return 2 << shifts[-1] if shifts else 2 << 20


def no_frames(space: SimulatedSpace, count: int) -> list[int]:
    """Frame numbers of no memory."""
    end = space.machine.frames.frames.layout.end_pfn
    return [end + 16 + 3 * i for i in range(count)]


def grown(space: SimulatedSpace, area: Any) -> Any:
    """Grows an area by moving it; whatever comes of it, the bytes are there."""
    try:
        return space.vrealloc(area.address, pages(space, 9))
    finally:
        live = space.find_vm_area(area.address)
        if live is not None and live.vm is area.vm:
            assert area.read(0, 5) == b"first"
            assert area.requested_size == pages(space, 2)


def to_grow(space: SimulatedSpace) -> Any:
    area = space.vmalloc(pages(space, 2))
    area.write(0, b"first")
    return area


def check_grown(space: SimulatedSpace, area: Any) -> None:
    assert area.read(0, 5) == b"first"
    space.vfree(area)


def free_if_live(space: SimulatedSpace, area: Any) -> None:
    if area.alive:
        space.vfree(area)


def sparse_map(space: SimulatedSpace, context: Any) -> Any:
    area, frames = context
    start = area.address + pages(space, 3)
    space.vm_area_map_pages(area, start, start + pages(space, 4), frames)
    return area


def sparse_unmap(space: SimulatedSpace, area: Any) -> None:
    start = area.address + pages(space, 3)
    space.vm_area_unmap_pages(area, start, start + pages(space, 4))


def clean_sparse(space: SimulatedSpace, context: Any) -> None:
    area, frames = context
    space.free_vm_area(area)
    space.free_pages(frames)


def remap(space: SimulatedSpace, area: Any) -> UserMapping:
    mapping = UserMapping(0x10000, pages(space, 3), space.state.page_size)
    space.remap_vmalloc_range(mapping, area)
    return mapping


def pcpu(space: SimulatedSpace, _context: Any) -> Any:
    unit = pages(space, 4)
    return space.pcpu_get_vm_areas([0, 4 * unit], [unit, unit], unit)


def far_window(space: SimulatedSpace) -> tuple[int, int]:
    """A window that ends the vmalloc range, where no page tables are yet."""
    state = space.state
    size = pages(space, 64)
    start = (state.vmalloc_end - 4 * size) & ~(size - 1)
    return start, start + size


#: The list of frames of a huge attempt is mapped with base pages.
HUGE_WAYS = frozenset({"slab", "map_pages", "map_range", "page_table"})

CALLS = (
    Call("vmalloc 1 page", lambda space, _: space.vmalloc(100)),
    Call("vmalloc 7 pages", lambda space, _: space.vmalloc(pages(space, 7))),
    Call("vmalloc with a long list", lambda space, _: space.vmalloc(long_list(space))),
    Call("vzalloc", lambda space, _: space.vzalloc(pages(space, 5))),
    Call("vmalloc_node", lambda space, _: space.vmalloc_node(pages(space, 5), 1)),
    Call("vmalloc_huge", lambda space, _: space.vmalloc_huge(huge_size(space), 0), other_ways=HUGE_WAYS),
    Call("vmalloc_user", lambda space, _: space.vmalloc_user(pages(space, 3))),
    Call("vmalloc_32", lambda space, _: space.vmalloc_32(pages(space, 3))),
    Call(
        "vmalloc in a window",
        lambda space, _: space.vmalloc_node_range(pages(space, 3), 1, *far_window(space)),
    ),
    Call("vmalloc that must not wait", lambda space, _: space.vmalloc(pages(space, 3), gfp=GFP_ATOMIC)),
    Call(
        "vrealloc that moves",
        grown,
        check_grown,
        to_grow,
        free_if_live,
        has=lambda space: space.state.kernel.has_vrealloc,
    ),
    Call("kvmalloc", lambda space, _: space.kvmalloc(pages(space, 3)), lambda space, area: space.kvfree(area)),
    Call(
        "kvmalloc of more than a block",
        lambda space, _: space.kvmalloc(pages(space, 1025), node=0),
        lambda space, area: space.kvfree(area),
        other_ways=HUGE_WAYS,
    ),
    Call(
        "vmap",
        lambda space, frames: space.vmap(frames),
        lambda space, area: space.vunmap(area),
        lambda space: space.alloc_pages(9),
        lambda space, frames: space.free_pages(frames),
    ),
    Call(
        "vm_map_ram",
        lambda space, frames: space.vm_map_ram(frames),
        lambda space, address: space.vm_unmap_ram(address, 9),
        lambda space: space.alloc_pages(9),
        lambda space, frames: space.free_pages(frames),
    ),
    Call(
        "vm_map_ram of a range",
        lambda space, frames: space.vm_map_ram(frames),
        lambda space, address: space.vm_unmap_ram(address, 65),
        lambda space: space.alloc_pages(65),
        lambda space, frames: space.free_pages(frames),
    ),
    Call(
        "vmap_pfn",
        lambda space, pfns: space.vmap_pfn(pfns),
        lambda space, area: space.vunmap(area),
        lambda space: no_frames(space, 5),
    ),
    Call(
        "get_vm_area",
        lambda space, _: space.get_vm_area(pages(space, 5)),
        lambda space, area: space.free_vm_area(area),
    ),
    Call(
        "ioremap",
        lambda space, pfns: space.ioremap(pfns[0] * space.state.page_size, 3 << 20),
        lambda space, area: space.iounmap(area),
        lambda space: no_frames(space, 1),
    ),
    Call(
        "vm_area_map_pages",
        sparse_map,
        sparse_unmap,
        lambda space: (space.get_vm_area(pages(space, 16), VM_SPARSE), space.alloc_pages(4)),
        clean_sparse,
        has=lambda space: space.state.kernel.has_sparse,
    ),
    Call("pcpu_get_vm_areas", pcpu, lambda space, areas: space.pcpu_free_vm_areas(areas)),
    Call(
        "alloc_pages",
        lambda space, _: space.alloc_pages(3, order=1),
        lambda space, frames: space.free_pages(frames),
    ),
    Call(
        "remap_vmalloc_range",
        remap,
        lambda space, mapping: space.unmap_user(mapping),
        lambda space: space.vmalloc_user(pages(space, 3)),
        lambda space, area: space.vfree(area),
    ),
)


def expect_restored(space: SimulatedSpace, before: dict[str, Any], tables: int) -> None:
    """After everything that is owed, nothing but the page tables is as it was not."""
    settle(space)
    validate(space)
    after = picture(space)
    assert after == before
    huge = max(space.machine.info.vmap_shifts, default=0) != 0
    # One exception: a leaf takes the place of an empty table. Its entry is empty now, and a table is missing.
    assert table_bytes(space) >= tables or (huge and space.machine.page_table.tables_replaced > 0)


def drive(space: SimulatedSpace, call: Call, operation: str, what: str | None = None) -> tuple[int, int]:
    """Makes a call with the failure at each place it can be; how often it raised and how often it went another way."""
    raised = went_on = after = 0
    while True:
        context = call.prepare(space)
        settle(space)
        before, tables = picture(space), table_bytes(space)
        failures = space.machine.failures
        space.machine.fail_next(operation, after=after, what=what)
        short = None
        try:
            result = call.run(space, context)
        except SHORT as error:
            short = error
        if short is not None:
            assert space.machine.failures == failures + 1, f"{short}, and nothing had been made to fail"
            assert str(short)
            raised += 1
            validate(space)  # also while a failed area waits for its worker
            expect_restored(space, before, tables)
            call.clean(space, context)
            after += 1
            continue
        hit = space.machine.failures > failures
        space.machine.clear()
        validate(space)
        call.undo(space, result)
        if call.name != "vrealloc that moves":
            expect_restored(space, before, tables)
        call.clean(space, context)
        if not hit:
            return raised, went_on
        assert operation in call.other_ways | {"take", "take_bulk"}, (
            f"{call}: {operation} number {after} was not missed"
        )
        went_on += 1
        after += 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_call_that_fails_at_any_step_leaves_nothing_behind(call: Call, arch: str, kernel: str) -> None:
    """Sections 3.1, 3.5 and 6.4: one failure, at each request of each operation."""
    space = make_space(arch, kernel)
    if not call.has(space):
        pytest.skip(f"no such call in Linux {kernel}")
    counts = {operation: drive(space, call, operation) for operation in OPERATIONS}
    total = sum(raised + went_on for raised, went_on in counts.values())
    assert total > 0 or call.name == "remap_vmalloc_range", counts


#: How often a call raises, on x86-64: so that a step that is no longer asked for, or no longer undone, is seen.
RAISES = {
    ("vmalloc 1 page", "6.19"): {"take": 1, "take_bulk": 0, "slab": 3, "map_pages": 1, "map_range": 0, "page_table": 1},
    ("vmalloc 7 pages", "6.19"): {
        "take": 0,
        "take_bulk": 0,
        "slab": 3,
        "map_pages": 1,
        "map_range": 0,
        "page_table": 1,
    },
    # Two areas with their records, and the short list of the array's own frames.
    ("vmalloc with a long list", "6.19"): {"take": 0, "slab": 5, "map_pages": 2, "map_range": 0},
    ("vmalloc_huge", "6.1"): {"take": 0, "slab": 0, "map_pages": 0, "map_range": 0, "page_table": 0},
    ("vmap", "6.12"): {"take": 0, "slab": 2, "map_pages": 1, "page_table": 1},
    ("vm_map_ram", "6.19"): {"take": 0, "slab": 2, "map_pages": 1, "map_range": 0, "page_table": 1},
    ("vm_map_ram of a range", "6.1"): {"take": 0, "slab": 1, "map_pages": 1, "map_range": 0, "page_table": 1},
    ("ioremap", "6.19"): {"slab": 2, "map_pages": 0, "map_range": 1},
    ("get_vm_area", "6.1"): {"take": 0, "slab": 2, "map_pages": 0, "map_range": 0, "page_table": 0},
    ("pcpu_get_vm_areas", "6.19"): {"take": 0, "slab": 4, "page_table": 0},
    ("alloc_pages", "6.1"): {"take": 3, "take_bulk": 0, "slab": 0},
    ("kvmalloc", "6.12"): {"take": 0, "slab": 0, "map_pages": 0},
    ("remap_vmalloc_range", "6.12"): dict.fromkeys(OPERATIONS, 0),
}


@pytest.mark.parametrize(("name", "kernel"), RAISES)
def test_each_step_is_asked_for_as_often_as_the_call_says(name: str, kernel: str) -> None:
    space = make_space("x86_64", kernel)
    call = next(call for call in CALLS if call.name == name)
    expected = RAISES[name, kernel]
    assert {operation: drive(space, call, operation)[0] for operation in expected} == expected


#: What is asked for in the end by whatever way: without it there is no success.
NEEDED = {
    "vmalloc 1 page": ("take", "slab", "map_pages", "page_table"),
    "vmalloc with a long list": ("slab", "map_pages", "page_table"),
    "vmalloc_huge": ("slab", "page_table"),
    "vmap": ("slab", "map_pages", "page_table"),
    "vmap_pfn": ("slab", "map_pages", "page_table"),
    "ioremap": ("slab", "map_range", "page_table"),
    "pcpu_get_vm_areas": ("slab",),
    "alloc_pages": ("take",),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", NEEDED)
def test_a_call_fails_for_good_when_something_stays_missing(name: str, arch: str, kernel: str) -> None:
    """Section 3.1: the base-page attempt of a huge allocation is the last one."""
    space = make_space(arch, kernel)
    call = next(call for call in CALLS if call.name == name)
    for operation in NEEDED[name]:
        context = call.prepare(space)
        settle(space)
        before, tables = picture(space), table_bytes(space)
        space.machine.fail_next(operation, times=None)
        with pytest.raises(SHORT):
            call.run(space, context)
        space.machine.clear()
        validate(space)
        expect_restored(space, before, tables)
        call.clean(space, context)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["vmalloc 7 pages", "vmalloc with a long list", "vzalloc", "vmalloc_huge"])
def test_frames_that_run_out_half_way_are_all_given_back(name: str, kernel: str) -> None:
    """Section 3.3: some frames were found and counted, the rest is not to be had in any way."""
    space = make_space("x86_64", kernel)
    call = next(call for call in CALLS if call.name == name)
    missing = 0
    for after in range(4):
        settle(space)
        before, tables = picture(space), table_bytes(space)
        space.machine.fail_next("take_bulk", after=after, times=None)
        space.machine.fail_next("take", after=after, times=None)
        with suppress(*SHORT):
            call.undo(space, call.run(space, None))
            missing -= 1
        missing += 1
        space.machine.clear()
        validate(space)
        expect_restored(space, before, tables)
    assert missing > 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_failure_that_was_met_is_told_in_the_kernels_words(kernel: str) -> None:
    """Section 3.1 and 3.3: which step it was; the size of missing frames is what was obtained."""
    for operation, what, words in (
        ("slab", "vm_struct", "vmalloc error: size 12288, vm_struct allocation failed"),
        ("slab", "vmap_area", "vmalloc error: size 12288, vm_struct allocation failed"),
        ("slab", "page array", "vmalloc error: size 12288, failed to allocated page array size 24"),
        ("map_pages", None, "vmalloc error: size 12288, failed to map pages"),
    ):
        space = make_space("x86_64", kernel)
        space.machine.fail_next(operation, what=what)
        with pytest.raises(OutOfFrames):
            space.vmalloc(12288)
        assert [line for line in space.dmesg() if f"{words}, mode:" in line], space.dmesg()
    space = make_space("x86_64", kernel)
    space.machine.fail_next("take", times=None)
    space.machine.fail_next("take_bulk", times=None)
    with pytest.raises(OutOfFrames, match="1 of 2 page frames are missing"):
        space.vmalloc(8192)
    assert "vmalloc error: size 4096, failed to allocate pages" in space.dmesg()[-1]
    with pytest.raises(OutOfFrames):
        space.vmalloc_node(8192, None, gfp=GFP_KERNEL | GFP_NOWARN)
    assert len(space.dmesg()) == 1  # __GFP_NOWARN


# -- the clean-up itself (section 3.5) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_failed_area_is_taken_apart_at_once_or_by_a_worker(kernel: str) -> None:
    """Section 3.5: since 6.19 the area stays busy until the worker ran; then, or up to 6.18 at once, it is lazy."""
    space = make_space("x86_64", kernel)
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(8192)
    waits = kernel == "6.19"
    assert space.stats()["failed_areas"] == (1 if waits else 0)
    assert len(space.state.space.busy()) == (1 if waits else 0)
    assert len(space.state.space.lazy()) == (0 if waits else 1)
    assert space.vmalloc_nr_pages() == (2 if waits else 0)
    validate(space)
    space.run_deferred()
    assert space.stats()["failed_areas"] == 0
    assert not space.state.space.busy()
    assert len(space.state.space.lazy()) == 1
    assert space.vmalloc_nr_pages() == 0
    validate(space)
    # Nothing of it may be handed out before a flush.
    assert space.vmalloc(8192).address > space.state.space.lazy()[0].start


def test_several_failed_areas_share_one_piece_of_work() -> None:
    """Section 3.5: a lock-free list and one worker."""
    space = make_space("x86_64", "6.19")
    space.machine.fail_next("map_pages", times=2)
    done = space.stats()["deferred_done"]
    with pytest.raises(OutOfFrames):
        space.vmalloc(long_list(space))  # its list of frames cannot be mapped: two areas wait
    assert space.stats()["failed_areas"] == 2
    assert space.run_deferred() == 1
    assert space.stats()["deferred_done"] == done + 1
    settle(space)
    validate(space)
    assert not space.state.areas


def test_a_failed_area_in_no_interrupt_is_cleaned_before_the_next_call_in_task_context() -> None:
    space = make_space("x86_64", "6.19")
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(8192)
    space.load(space.state.vmalloc_start, 0)  # only looks
    assert space.stats()["failed_areas"] == 1
    area = space.vmalloc(4096)
    assert space.stats()["failed_areas"] == 0
    area.free()


# -- __GFP_NOFAIL (section 2.3) ----------------------------------------------------------------------------------------


class Sleeper:
    """Somebody else's work, queued in the middle of the next call; when it runs, what was missing is there again."""

    def __init__(self, space: SimulatedSpace) -> None:
        self.space = space
        self.ran = self.queued = 0
        space.state.observer = self

    def __call__(self, event: str, /, **fields: object) -> None:
        if event == "alloc_vmap_area" and self.queued == 0:
            self.queued = 1
            self.space.machine.defer(self.work, 0)

    def work(self) -> None:
        self.ran += 1
        self.space.machine.clear()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nr_pages", [1, 3, 500])
@pytest.mark.parametrize("operation", ["map_pages", "page_table", "frames"])
def test_nofail_gets_everything_in_the_end(operation: str, nr_pages: int, kernel: str) -> None:
    """Section 2.3: whatever was missing, once it is there the area is whole."""
    space = make_space("x86_64", kernel)
    sleeper = Sleeper(space)
    before = picture(space)
    if operation == "frames":
        space.machine.fail_next("take_bulk", times=None)
        space.machine.fail_next("take", times=None)
    else:
        space.machine.fail_next(operation, times=None)
    area = space.vmalloc(nr_pages * 4096, gfp=GFP_KERNEL | GFP_NOFAIL)
    assert sleeper.ran == 1
    assert area.nr_pages == nr_pages
    assert len(area.read()) == nr_pages * 4096
    validate(space)
    area.free()
    settle(space)
    validate(space)
    assert picture(space) == before


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_list_of_frames_is_not_nofail(kernel: str) -> None:
    """Section 3.3: only the reclaim bits apply to it; when it fails nobody sleeps, and the call fails."""
    space = make_space("x86_64", kernel)
    sleeper = Sleeper(space)
    before = picture(space)
    space.machine.fail_next("map_pages", times=None)
    with pytest.raises(OutOfFrames, match="list of page frames"):
        space.vmalloc(600 * 4096, gfp=GFP_KERNEL | GFP_NOFAIL)
    assert sleeper.ran == 0
    settle(space)
    assert picture(space) == before


@pytest.mark.parametrize("kernel", KERNELS)
def test_nofail_waits_for_addresses_too(kernel: str) -> None:
    """Sections 2.3 and 3.1: the complaint says ``Retrying.``, and the next attempt finds what a worker freed."""
    space = make_space("x86_64", kernel)
    start, end = far_window(space)
    last = space.vmalloc_node_range(pages(space, 63), 1, start, end)

    def free_it(event: str, /, **fields: object) -> None:
        if event == "printk":  # the attempt failed for good
            space.machine.defer(lambda: vfree(space.state, last.address), 0)

    space.state.observer = free_it
    area = space.vmalloc_node_range(pages(space, 63), 1, start, end, gfp=GFP_KERNEL | GFP_NOFAIL)
    assert area.address == start
    assert not last.alive
    assert [line for line in space.dmesg() if "vm_struct allocation failed. Retrying., mode:" in line]
    area.free()
    settle(space)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("operation", ["map_pages", "take", "slab"])
def test_nofail_that_could_never_succeed_is_raised(operation: str, kernel: str) -> None:
    """Retrying for ever when nothing else can happen: raised, after which nothing is left."""
    space = make_space("x86_64", kernel)
    before = picture(space)
    space.machine.fail_next(operation, times=None)
    if operation == "take":
        space.machine.fail_next("take_bulk", times=None)
    with pytest.raises(OutOfFrames) as caught:
        space.vmalloc(4096, gfp=GFP_KERNEL | GFP_NOFAIL)
    if operation == "slab":
        assert "Retrying." in space.dmesg()[0]
        assert "retry for ever" in "\n".join(caught.value.__notes__)
    space.machine.clear()
    settle(space)
    validate(space)
    assert picture(space) == before


def test_nofail_that_must_not_wait_is_no_nofail() -> None:
    """Section 2.3 (6.19): NOFAIL combined with non-blocking is treated as not NOFAIL."""
    space = make_space("x86_64", "6.19")
    sleeper = Sleeper(space)
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(8192, gfp=(GFP_KERNEL & ~GFP_DIRECT_RECLAIM) | GFP_NOFAIL)
    assert sleeper.ran == 0
    settle(space)
    validate(space)
    assert not space.state.areas


# -- memory that really ends -------------------------------------------------------------------------------------------


def leave(space: SimulatedSpace, count: int) -> Any:
    """Takes all frames but ``count``."""
    space.machine.frames.drain()
    free = sum(node.free for node in space.machine.frames.stats())
    frames = space.alloc_pages(free - count)
    space.machine.frames.drain()
    return frames


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ARCHES)
def test_frames_for_page_tables_run_out_for_real(arch: str, kernel: str) -> None:
    """Section 8.6: a machine with just enough frames for the area, and fewer than its page tables need."""
    outcomes = []
    for spare in (0, 1, 2, 3, 5, 8, 600):
        space = simulated(arch, kernel, cpus=1, memory="16MiB" if arch != "arm64_16k" else "32MiB")
        held = leave(space, 4 + spare)
        before, tables = picture(space), table_bytes(space)
        try:
            area = space.vmalloc_node_range(pages(space, 4), 1, *far_window(space))
        except OutOfFrames:
            outcomes.append(False)
        else:
            outcomes.append(True)
            area.write(0, b"here")
            assert area.read(0, 4) == b"here"
            validate(space)
            space.vfree(area)
        validate(space)
        expect_restored(space, before, tables)
        used = (table_bytes(space) - tables) >> space.state.page_shift
        assert used <= 4 + spare
        space.free_pages(held)
        space.vmalloc_node_range(pages(space, 4), 1, *far_window(space)).free()  # with memory it works
    assert outcomes == sorted(outcomes), "more memory never makes it worse"
    assert outcomes[-1]
    assert not outcomes[0], "not even the lowest tables of the range are made at boot"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ARCHES)
def test_frames_for_areas_run_out_for_real(arch: str, kernel: str) -> None:
    """Section 3.3: allocate until nothing is left, fail, free everything: all frames are back."""
    space = simulated(arch, kernel, cpus=2, nodes=2, memory="16MiB" if arch != "arm64_16k" else "64MiB")
    settle(space)
    before = picture(space)
    areas = []
    while True:
        try:
            areas.append(space.vmalloc(pages(space, 37 if len(areas) % 2 else 300)))
        except OutOfFrames:
            break
    assert areas
    validate(space)
    settle(space)
    full = picture(space)
    for _ in range(2):
        with pytest.raises(OutOfFrames):
            space.vmalloc(pages(space, 300))
        settle(space)
        assert picture(space) == full
    for area in areas:
        area.free()
    settle(space)
    validate(space)
    assert picture(space) == before


@pytest.mark.parametrize("kernel", KERNELS)
def test_addresses_run_out_and_nothing_is_taken(kernel: str) -> None:
    """Section 1.10: a window with no room left; frames, tables and areas stay."""
    space = make_space("x86_64", kernel)
    start, end = far_window(space)
    area = space.vmalloc_node_range(pages(space, 60), 1, start, end)
    settle(space)
    before = picture(space)
    for _ in range(2):
        with pytest.raises(OutOfAddresses) as caught:
            space.vmalloc_node_range(pages(space, 8), 1, start, end)
        assert caught.value.size == pages(space, 9)
        assert picture(space) == before
    overflow = "use vmalloc=" if kernel == "6.1" else f"restricted to {start:#x} - {end:#x}"
    assert [line for line in space.dmesg() if overflow in line]
    area.free()
    space.vmalloc_node_range(pages(space, 8), 1, start, end).free()  # the purge makes room


def test_the_test_would_see_a_leak() -> None:
    """The picture shows what a bad undo would leave: a frame, a mapping, an area, a lazy range."""
    space = make_space("x86_64", "6.19")
    before = picture(space)
    frame = space.machine.take(0, 0, 0)
    assert picture(space)["frames"] != before["frames"]
    area = space.state.vmalloc_start + (1 << 30)
    space.machine.map_range(area, frame, 4096, 12, 3)
    assert picture(space)["mappings"] != before["mappings"]
    space.machine.unmap(area, area + 4096)
    space.machine.give(frame, 0)
    assert picture(space) == before  # the tables stay, and are not in it
    kept = space.get_vm_area(4096)
    assert picture(space)["areas"] != before["areas"]
    kept.free()
    assert picture(space)["lazy"] != before["lazy"]
    settle(space)
    assert picture(space) == before
