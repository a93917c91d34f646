"""The specification's worked examples, A.1 to A.16: what the kernel's own code printed, address by address."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from oracle import TOP, draw, shape_of
from vmalloc.areas.address_space import AddressSpace
from vmalloc.errors import OutOfAddresses

pytestmark = pytest.mark.both_builds

P = 0x1000
SINCE_612 = ["6.12", "6.19"]
ALL = ["6.1", "6.12", "6.19"]


class Trace:
    """Collects the trace events of a space."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, int | str]]] = []

    def __call__(self, event: str, /, **fields: int | str) -> None:
        self.events.append((event, fields))

    def take(self) -> list[tuple[str, dict[str, int | str]]]:
        events, self.events = self.events, []
        return events


class Example:
    """A space in the words of Appendix A."""

    def __init__(self, start: int, end: int, kernel: str = "6.19", cpus: int = 1) -> None:
        self.trace = Trace()
        self.space = AddressSpace(start, end, kernel=kernel, cpus=cpus, observer=self.trace)

    def a(self, nr_pages: int, align: int = 1, window: tuple[int, int] = (0, 0), cpu: int = 0) -> int:
        vstart, vend = window if window != (0, 0) else (None, None)
        address = self.space.alloc(nr_pages * P, align, vstart, vend, cpu=cpu)
        self.space.validate()
        return address

    def f(self, *addresses: int) -> None:
        for address in addresses:
            self.space.free(address)

    def F(self, *addresses: int) -> None:
        for address in addresses:
            self.space.free_now(address)

    @property
    def free(self) -> str:
        return " ".join(f"[{b.start:#x},{'END' if b.end == TOP else hex(b.end)})" for b in self.space.free_blocks())

    @property
    def lazy(self) -> list[tuple[int, int]]:
        return [(a.start, a.end) for a in self.space.lazy()]

    def pool(self, node: int, nr_pages: int) -> list[int]:
        return [a.start for a in self.space.pooled() if a.node == node and a.size == nr_pages * P]

    @property
    def tree(self) -> str:
        return draw(shape_of(self.space.allocator.free))

    def row(self, start: int) -> int:
        """The record of the free block that starts at ``start``."""
        rows = self.space.allocator.rows
        (found,) = [n for n in range(1, rows.used) if rows.get(n)["va_start"] == start and rows.get(n)["state"] == 2]
        return found


def purged(space: AddressSpace, **options: bool) -> tuple[int, int, int]:
    result = space.purge(**options)
    return result.start, result.end, result.count


@pytest.mark.parametrize("kernel", ALL)
def test_a1_first_fit_lazy_free_purge_reuse(kernel: str) -> None:
    x = Example(0x100000, 0x140000, kernel)
    assert x.free == "[0x1,END)"
    assert x.a(3) == 0x100000
    assert x.free == "[0x1,0x100000) [0x103000,END)"
    assert x.tree == "B[0x103000,END) {R[0x1,0x100000) ; -}"
    assert [x.a(1), x.a(2)] == [0x103000, 0x104000]
    assert x.free == "[0x1,0x100000) [0x106000,END)"
    x.trace.take()
    x.f(0x103000)
    assert x.trace.take() == [("free_vmap_area_noflush", {"va_start": 0x103000, "nr_lazy": 1, "nr_lazy_max": 8192})]
    assert x.free == "[0x1,0x100000) [0x106000,END)"
    assert x.lazy == [(0x103000, 0x104000)]
    assert x.a(1) == 0x106000
    assert x.free == "[0x1,0x100000) [0x107000,END)"
    assert x.lazy == [(0x103000, 0x104000)]
    assert purged(x.space) == (0x103000, 0x104000, 1)
    assert x.free == "[0x1,0x100000) [0x103000,0x104000) [0x107000,END)"
    assert x.tree == "B[0x103000,0x104000) {R[0x1,0x100000) ; R[0x107000,END)}"
    root = shape_of(x.space.allocator.free)
    assert root is not None
    assert root[3] == TOP - 0x107000
    assert x.a(1) == 0x103000
    assert x.free == "[0x1,0x100000) [0x107000,END)"
    assert x.lazy == []


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a2_merging_and_which_record_survives(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel)
    for _ in range(7):
        x.a(2)
    tail, low = x.row(0x10E000), x.row(1)

    x.F(0x102000)
    hole = x.row(0x102000)
    assert x.tree == "B[0x102000,0x104000) {R[0x1,0x100000) ; R[0x10e000,END)}"
    assert (x.row(1), x.row(0x10E000)) == (low, tail)

    x.F(0x106000)
    assert x.tree == ("B[0x102000,0x104000) {B[0x1,0x100000) ; B[0x10e000,END) {R[0x106000,0x108000) ; -}}")
    x.F(0x104000)
    assert x.tree == "B[0x102000,0x108000) {B[0x1,0x100000) ; B[0x10e000,END)}"
    assert x.row(0x102000) == hole

    x.F(0x100000)
    assert x.tree == "B[0x10e000,END) {R[0x1,0x108000) ; -}"
    assert (x.row(1), x.row(0x10E000)) == (low, tail)
    assert x.space.allocator.rows.get(hole)["state"] != 2


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a3_the_four_fit_types(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel)
    for nr_pages in (8, 8, 1):
        x.a(nr_pages)
    x.F(0x108000)

    def holes() -> list[str]:
        return x.free.split(" ")[1:-1]

    assert holes() == ["[0x108000,0x110000)"]
    assert (x.a(2), holes()) == (0x108000, ["[0x10a000,0x110000)"])
    assert (x.a(1, 0x2000), holes()) == (0x10A000, ["[0x10b000,0x110000)"])
    assert (x.a(1, 0x4000), holes()) == (0x10C000, ["[0x10b000,0x10c000)", "[0x10d000,0x110000)"])
    assert x.tree == ("B[0x10d000,0x110000) {B[0x1,0x100000) {- ; R[0x10b000,0x10c000)} ; B[0x111000,END)}")
    window = (0x10E000, 0x110000)
    assert (x.a(2, 1, window), holes()) == (0x10E000, ["[0x10b000,0x10c000)", "[0x10d000,0x10e000)"])
    assert (x.a(1), holes()) == (0x10B000, ["[0x10d000,0x10e000)"])


def fragmented(kernel: str, end: int, *frees: int) -> Example:
    """A.4's areas with S and T freed in the given order."""
    x = Example(0x100000, end, kernel)
    assert [x.a(n) for n in (4, 4, 4, 1, 3)] == [0x100000, 0x104000, 0x108000, 0x10C000, 0x10D000]
    x.F(*frees)
    return x


S, T = 0x104000, 0x10C000


@pytest.mark.parametrize("kernel", ALL)
def test_a4_same_free_set_different_history_different_address(kernel: str) -> None:
    x = fragmented(kernel, 0x180000, S, T)
    assert x.tree == ("B[0x104000,0x108000) {B[0x1,0x100000) ; B[0x110000,END) {R[0x10c000,0x10d000) ; -}}")
    assert [x.a(4, 0x4000), x.a(4)] == [0x104000, 0x110000]

    y = fragmented(kernel, 0x180000, T, S)
    assert y.tree == ("B[0x10c000,0x10d000) {B[0x1,0x100000) {- ; R[0x104000,0x108000)} ; B[0x110000,END)}")
    assert [y.a(4, 0x4000), y.a(4)] == [0x110000, 0x104000]


@pytest.mark.parametrize("kernel", ALL)
def test_a4_an_aligned_request_fails_although_a_block_fits_exactly(kernel: str) -> None:
    x = fragmented(kernel, 0x110000, T, S)
    x.trace.take()
    with pytest.raises(OutOfAddresses) as failure:
        x.a(4, 0x4000)
    failed = {
        "va_start": 0x110000 if kernel != "6.19" else (1 << 64) - 34,
        "size": 0x4000,
        "align": 0x4000,
        "vstart": 0x100000,
        "vend": 0x110000,
        "failed": 1,
    }
    message = failure.value.__notes__[0]
    assert x.trace.take() == [
        ("alloc_vmap_area", failed),
        ("purge_vmap_area_lazy", {"start": TOP, "end": 0, "num_purged": 0}),
        ("alloc_vmap_area", failed),
        ("printk", {"message": message}),
    ]
    if kernel == "6.1":
        assert message == "vmap allocation for size 16384 failed: use vmalloc=<size> to increase size"
    else:
        assert message == "vmalloc_node_range for size 16384 failed: Address range restricted to 0x100000 - 0x110000"
    assert x.a(4) == 0x104000


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a5_windows(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel)
    for _ in range(3):
        x.a(16)
    x.F(0x110000)
    assert x.free == "[0x1,0x100000) [0x110000,0x120000) [0x130000,END)"
    assert x.a(4, 1, (0x114000, 0x140000)) == 0x114000
    assert x.free == "[0x1,0x100000) [0x110000,0x114000) [0x118000,0x120000) [0x130000,END)"
    assert x.a(4, 0x4000, (0x110000, 0x114000)) == 0x110000
    assert x.a(1, 0x4000, (0x118000, 0x119000)) == 0x118000
    x.trace.take()
    with pytest.raises(OutOfAddresses) as failure:
        x.a(2, 0x4000, (0x118000, 0x11A000))
    assert failure.value.__notes__ == [
        "vmalloc_node_range for size 8192 failed: Address range restricted to 0x118000 - 0x11a000"
    ]
    first, purge, second, _message = x.trace.take()
    assert first == second
    assert purge[0] == "purge_vmap_area_lazy"
    assert first[1]["va_start"] == (18446744073709551582 if kernel == "6.19" else 0x11A000)
    assert first[1]["failed"] == 1
    with pytest.raises(OutOfAddresses):
        x.a(8, 1, (0x110000, 0x120000))


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a6_the_last_page_of_an_odd_range_is_never_used(kernel: str) -> None:
    start = 0xFFFFC90000000000
    x = Example(start, start + 0x4000 - 1, kernel)
    assert [x.a(1) for _ in range(3)] == [start, start + 0x1000, start + 0x2000]
    x.trace.take()
    with pytest.raises(OutOfAddresses):
        x.a(1)
    shown = x.trace.take()[0][1]["va_start"]
    assert shown == ((1 << 64) - 34 if kernel == "6.19" else start + 0x4000 - 1)


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a7_the_threshold_is_strict(kernel: str) -> None:
    x = Example(0x100000, 0x10000000, kernel)
    assert x.space.lazy_max_pages == 8192
    first, second, third = x.a(4096), x.a(4096), x.a(1)
    x.trace.take()
    assert (x.space.free(first), x.space.drain_pending) == (False, False)
    assert (x.space.free(second), x.space.drain_pending) == (False, False)
    assert (x.space.free(third), x.space.drain_pending) == (True, True)
    assert [fields["nr_lazy"] for _event, fields in x.trace.take()] == [4096, 8192, 8193]


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a8_nodes_and_pools(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel, cpus=4)
    assert x.space.lazy_max_pages == 24576
    assert x.space.allocator.nodes.nr_nodes == 4
    assert x.space.allocator.nodes.zone_size == 0x10000
    got = [x.a(2, cpu=cpu) for cpu in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert got == list(range(0x100000, 0x110000, 0x2000))
    assert {area.node for area in x.space.busy()} == {0}
    assert [area.flags for area in x.space.busy()] == [0x100, 0x100, 0x200, 0x200, 0x300, 0x300, 0x400, 0x400]
    before = x.free
    x.f(0x100000, 0x102000, 0x106000)
    lazy = [(a.node, a.start) for a in x.space.lazy()]
    assert lazy == [(0, 0x100000), (0, 0x102000), (1, 0x106000)]
    x.trace.take()
    assert purged(x.space) == (0x100000, 0x108000, 3)
    assert x.trace.take() == [("purge_vmap_area_lazy", {"start": 0x100000, "end": 0x108000, "num_purged": 3})]
    assert x.pool(0, 2) == [0x102000, 0x100000]
    assert x.pool(1, 2) == [0x106000]
    assert x.free == before
    assert x.a(2, cpu=0) == 0x102000
    assert x.a(2, cpu=1) == 0x106000
    assert [x.a(2, cpu=0), x.a(2, cpu=0)] == [0x100000, 0x110000]
    area = x.space.find(0x110000)
    assert area is not None
    assert (area.node, area.flags) == (1, 0x100)
    assert x.a(1, cpu=0) == 0x112000


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a9_a_misaligned_pool_head_goes_to_the_tail(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel, cpus=2)
    assert [x.a(2, cpu=1) for _ in range(3)] == [0x100000, 0x102000, 0x104000]
    x.f(0x100000, 0x102000, 0x104000)
    x.space.purge()
    assert x.pool(1, 2) == [0x104000, 0x102000, 0x100000]
    assert x.a(2, 0x8000, cpu=1) == 0x108000
    assert "[0x106000,0x108000)" in x.free
    assert x.pool(1, 2) == [0x102000, 0x100000, 0x104000]
    assert x.a(2, cpu=1) == 0x102000


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a10_interior_pointers_and_the_node_walk(kernel: str) -> None:
    x = Example(0x100000, 0x200000, kernel, cpus=4)
    assert [x.a(15, cpu=2), x.a(4, cpu=2)] == [0x100000, 0x10F000]
    for inner in (0x112000, 0x112FFF):
        area = x.space.find(inner)
        assert area is not None
        assert (area.start, area.end, area.node) == (0x10F000, 0x113000, 0)
    assert x.space.find(0x113000) is None
    x.f(0x112000)
    assert [(a.node, a.start, a.end) for a in x.space.lazy()] == [(2, 0x10F000, 0x113000)]
    assert x.space.find(0x112000) is None


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a11_blocks_of_vm_map_ram(kernel: str) -> None:
    """The part of A.11 that is address arithmetic: the blocks' areas, their flags, the hulls handed in and purged.

    Which pages of a block are free or dirty belongs to ``vm_map_ram``; the dirty ranges it would find are given here.
    """
    x = Example(0x10000000, 0x14000000, kernel, cpus=2)
    block, nr_pages = 0x400000, 1024
    ram_block = 0x3
    first = x.space.alloc(block, block, cpu=0, flags=ram_block)
    second = x.space.alloc(block, block, cpu=1, flags=ram_block)
    assert [first, second] == [0x10000000, 0x10400000]
    assert [(event, fields["size"]) for event, fields in x.trace.take()] == [("alloc_vmap_area", 4194304)] * 2
    assert {a.start: a.flags for a in x.space.busy()} == {first: 0x103, second: 0x203}

    assert x.space.unmap_aliases(0x10001000, 0x10005000, True) == (0x10001000, 0x10005000)
    assert x.trace.take() == [("purge_vmap_area_lazy", {"start": 0x10001000, "end": 0x10005000, "num_purged": 0})]
    assert x.space.unmap_aliases(0x10000000, 0x1000E000, True) == (0x10000000, 0x1000E000)
    assert x.space.unmap_aliases() is None

    x.f(first)
    assert x.space.nr_lazy == nr_pages
    assert purged(x.space, full=True) == (0x10000000, 0x10400000, 1)
    assert x.free == "[0x1,0x10400000) [0x10800000,END)"


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a11_a_block_destroyed_while_unmapping_aliases_is_purged_in_the_same_call(kernel: str) -> None:
    """The end of A.11's one-CPU example: the dirty range [768,832) and the whole block, in one hull."""
    x = Example(0x10000000, 0x14000000, kernel)
    base = x.space.alloc(0x400000, 0x400000, flags=0x3)
    assert x.space.unmap_aliases(base, base + 768 * P, True) == (0x10000000, 0x10300000)
    x.f(base)
    assert x.space.unmap_aliases() == (0x10000000, 0x10400000)
    assert x.space.pooled() == []  # 1024 pages are too many for a pool
    assert x.free == "[0x1,END)"


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a12_huge_stride(kernel: str) -> None:
    x = Example(0x40000000, 0x80000000, kernel)
    assert [x.a(0x201, 0x200000), x.a(0x201, 0x200000), x.a(2)] == [0x40000000, 0x40400000, 0x40201000]
    assert x.free == "[0x1,0x40000000) [0x40203000,0x40400000) [0x40601000,END)"


@pytest.mark.parametrize(("kernel", "left"), [("6.19", [7, 6, 5, 4, 3, 3]), ("6.12", [7, 6, 5, 4, 3, 0])])
def test_a13_decay(kernel: str, left: list[int]) -> None:
    x = Example(0x100000, 0x200000, kernel, cpus=2)
    addresses = [x.a(1, cpu=1) for _ in range(9)]
    assert addresses == list(range(0x100000, 0x109000, P))
    x.f(*addresses)
    x.space.purge()
    assert x.pool(1, 1) == addresses[::-1]
    lengths = []
    for drain in range(6):
        x.trace.take()
        assert purged(x.space) == (TOP, 0, 0)
        assert x.trace.take() == [("purge_vmap_area_lazy", {"start": TOP, "end": 0, "num_purged": 0})]
        lengths.append(len(x.pool(1, 1)))
        if drain == 0:
            assert x.pool(1, 1) == addresses[6::-1]
        if drain == 1:
            assert x.pool(1, 1) == addresses[5::-1]
    assert lengths == left
    assert x.space.shrinker_count() == left[-1]
    x.space.shrink()
    assert x.tree == "B[0x1,END)"


def overflowing(kernel: str) -> Example:
    x = Example(0x100000, 0x110000, kernel)
    for _ in range(16):
        x.a(1)
    x.f(0x103000, 0x104000, 0x108000)
    x.trace.take()
    return x


@pytest.mark.parametrize("kernel", ALL)
def test_a14_overflow(kernel: str) -> None:
    x = overflowing(kernel)
    assert x.lazy == (
        [(0x103000, 0x105000), (0x108000, 0x109000)]
        if kernel == "6.1"
        else [(0x103000, 0x104000), (0x104000, 0x105000), (0x108000, 0x109000)]
    )
    assert x.a(2) == 0x103000
    error = (1 << 64) - 34 if kernel == "6.19" else 0x110000
    events = x.trace.take()
    assert [(event, fields.get("va_start"), fields.get("failed")) for event, fields in events] == [
        ("alloc_vmap_area", error, 1),
        ("purge_vmap_area_lazy", None, None),
        ("alloc_vmap_area", 0x103000, 0),
    ]
    count = 2 if kernel == "6.1" else 3
    assert events[1][1] == {"start": 0x103000, "end": 0x109000, "num_purged": count}
    assert x.tree == "B[0x108000,0x109000) {B[0x1,0x100000) ; B[0x110000,END)}"
    with pytest.raises(OutOfAddresses):
        x.a(2)
    assert [event for event, _fields in x.trace.take()] == [
        "alloc_vmap_area",
        "purge_vmap_area_lazy",
        "alloc_vmap_area",
        "printk",
    ]


@pytest.mark.parametrize("kernel", SINCE_612)
def test_a15_per_cpu_areas(kernel: str) -> None:
    x = Example(0x100000, 0x180000, kernel)

    def chunk() -> list[int]:
        found = x.space.pcpu_get_vm_areas([0, 0x20000], [0x8000, 0x8000], 0x8000)
        x.space.validate()
        return found

    assert chunk() == [0x158000, 0x178000]
    assert x.free == "[0x1,0x158000) [0x160000,0x178000) [0x180000,END)"
    x.space.reserve(0x168000, 0x16C000)
    assert "[0x160000,0x168000) [0x16c000,0x178000)" in x.free
    assert chunk() == [0x150000, 0x170000]
    assert x.free == "[0x1,0x150000) [0x160000,0x168000) [0x16c000,0x170000) [0x180000,END)"
    assert x.a(2) == 0x100000
    assert chunk() == [0x140000, 0x160000]
    assert x.free == ("[0x1,0x100000) [0x102000,0x140000) [0x148000,0x150000) [0x16c000,0x170000) [0x180000,END)")


def test_a16_the_purge_tree_of_6_1_merges() -> None:
    x = Example(0x100000, 0x140000, "6.1")
    assert [x.a(nr_pages) for nr_pages in (3, 1, 2, 1)] == [0x100000, 0x103000, 0x104000, 0x106000]
    x.f(0x103000)
    assert x.lazy == [(0x103000, 0x104000)]
    x.f(0x104000)
    assert x.lazy == [(0x103000, 0x106000)]
    assert purged(x.space) == (0x103000, 0x106000, 1)
    assert x.free == "[0x1,0x100000) [0x103000,0x106000) [0x107000,END)"
    assert x.a(1) == 0x103000
    assert x.free == "[0x1,0x100000) [0x104000,0x106000) [0x107000,END)"


def test_a16_in_newer_kernels_the_two_would_be_separate_pool_entries() -> None:
    x = Example(0x100000, 0x140000, "6.19", cpus=2)
    for nr_pages in (3, 1, 2):
        x.a(nr_pages)
    x.f(0x103000, 0x104000)
    assert x.lazy == [(0x103000, 0x104000), (0x104000, 0x106000)]
    x.space.purge()
    assert (x.pool(0, 1), x.pool(0, 2)) == ([0x103000], [0x104000])


def test_each_example_has_its_tests() -> None:
    def has(number: int) -> Callable[[str], Any]:
        return re.compile(rf"test_a{number}_").match

    assert all(any(map(has(number), globals())) for number in range(1, 17))
