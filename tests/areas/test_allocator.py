"""The hot core: single attempts, error values, and choices that change nothing before they are carried out."""

from __future__ import annotations

import pytest

from oracle import shape_of
from vmalloc.areas.allocator import Allocator
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.states import BUSY, EINVAL, ENOENT, ERANGE, LAZY, VMAP_BLOCK, VMAP_RAM, error_value
from vmalloc.areas.validate import validate_allocator

pytestmark = pytest.mark.both_builds

P = 0x1000
START, END = 0x100000, 0x140000
TOP = (1 << 64) - 1


def allocator(nr_nodes: int = 2, start: int = START, end: int = END) -> Allocator:
    made = Allocator(start, end, nr_nodes, 12, False, False, False, -1)
    made.free.add(1, TOP)
    return made


def take(a: Allocator, nr_pages: int, align: int = 1, cpu: int = 0, flags: int = 0, try_pool: bool = True) -> int:
    address: int = a.allocate(nr_pages * P, align, START, END, cpu, flags, try_pool)
    validate_allocator(a)
    return address


def with_pool(count: int = 3) -> Allocator:
    a = allocator()
    for address in [take(a, 2, cpu=1) for _ in range(count)]:
        a.free_lazily(address)
    a.run_purge(TOP, 0, False)
    return a


def test_an_attempt_makes_the_area_busy() -> None:
    a = allocator()
    address = take(a, 3, cpu=1, flags=VMAP_RAM)
    row = a.rows.get(a.find_busy(address))
    assert (row["va_start"], row["va_end"], row["flags"], row["state"]) == (START, START + 3 * P, 0x201, BUSY)
    assert a.find_busy(address + 3 * P - 1) == a.find_busy(address)
    assert a.find_busy(address + 3 * P) == 0


@pytest.mark.parametrize(
    ("nr_pages", "window", "error"),
    [(0x41, (START, END), ERANGE), (1, (TOP - P + 1, TOP), ENOENT), (2, (END - P, END), ERANGE)],
)
def test_a_failed_attempt_changes_nothing(nr_pages: int, window: tuple[int, int], error: int) -> None:
    a = allocator()
    before = shape_of(a.free)
    assert a.allocate(nr_pages * P, 1, *window, 0, 0, True) == error_value(error)
    assert shape_of(a.free) == before
    validate_allocator(a)


@pytest.mark.parametrize(("align", "comes_from_pool"), [(1, True), (2 * P, True), (8 * P, False)])
def test_a_choice_foretells_the_attempt_and_changes_nothing(align: int, comes_from_pool: bool) -> None:
    a = with_pool()
    before = shape_of(a.free), a.nodes.pools.entries(1, 2)
    chosen = a.foresee(2 * P, align, START, END, 1)
    assert (shape_of(a.free), a.nodes.pools.entries(1, 2)) == before
    validate_allocator(a)
    assert take(a, 2, align, cpu=1) == chosen
    assert a.pool_hits == comes_from_pool


def test_a_choice_foretells_a_failure() -> None:
    assert allocator().foresee(0x41 * P, 1, START, END, 0) == error_value(ERANGE)


def test_cpus_share_nodes_modulo_their_number() -> None:
    a = allocator(nr_nodes=2)
    for cpu, mark in ((0, 0x100), (1, 0x200), (2, 0x100), (5, 0x200)):
        assert a.rows.get(a.find_busy(take(a, 1, cpu=cpu)))["flags"] == mark


def test_place_takes_exactly_the_range() -> None:
    a = allocator()
    assert a.put(START + 3 * P, START + 5 * P, 0x300 | VMAP_BLOCK) == 0
    assert a.rows.get(a.find_busy(START + 4 * P))["flags"] == 0x302
    validate_allocator(a)
    for start, end in ((START + 4 * P, START + 5 * P), (START + 2 * P, START + 4 * P), (START + 4 * P, START + 9 * P)):
        before = shape_of(a.free)
        assert a.put(start, end, 0) == -EINVAL
        assert shape_of(a.free) == before
        validate_allocator(a)


def test_freeing_lazily_keeps_the_range_from_reuse() -> None:
    a = allocator()
    address = take(a, 2)
    assert a.free_lazily(address + P) == 0
    assert take(a, 2) == address + 2 * P
    assert a.nodes.nr_lazy == 2
    rows = [a.rows.get(n) for n in a.nodes.lazy(0)]
    assert [(row["va_start"], row["state"]) for row in rows] == [(address, LAZY)]


def test_freeing_what_is_not_busy_is_refused() -> None:
    a = allocator()
    address = take(a, 2)
    a.free_lazily(address)
    assert a.free_lazily(address) == -EINVAL
    assert a.free_now(address) == -EINVAL
    assert a.free_now(address + 2 * P) == -EINVAL
    assert a.nodes.nr_lazy == 2
    validate_allocator(a)


def test_giving_back_merges_at_once() -> None:
    a = allocator()
    address = take(a, 2)
    assert a.free_now(address) == 0
    assert a.free.blocks() == [(1, TOP)]
    validate_allocator(a)


def test_groups_become_busy_without_marks() -> None:
    a = allocator()
    base = a.claim_groups(PcpuGroups([0, 4 * P], [P, 2 * P], P, START, END))
    assert base == END - 6 * P
    for start, size in ((base, P), (base + 4 * P, 2 * P)):
        row = a.rows.get(a.find_busy(start))
        assert (row["va_start"], row["va_end"] - row["va_start"], row["flags"]) == (start, size, 0)
    validate_allocator(a)


def test_groups_that_do_not_fit_change_nothing() -> None:
    a = allocator()
    a.put(START, END, 0)
    before = shape_of(a.free)
    assert a.claim_groups(PcpuGroups([0, 4 * P], [P, 2 * P], P, START, END)) == error_value(ENOENT)
    assert shape_of(a.free) == before


def test_pages_of_16_kib() -> None:
    a = Allocator(1 << 20, 1 << 24, 2, 14, False, False, False, -1)
    a.free.add(1, TOP)
    address = a.allocate(2 << 14, 1, 1 << 20, 1 << 24, 1, 0, True)
    assert (address, a.nodes.zone_size) == (1 << 20, 16 << 14)
    a.free_lazily(address)
    assert a.nodes.nr_lazy == 2
    assert a.run_purge(TOP, 0, False) == (address, address + (2 << 14), 1)
    assert len(a.nodes.pools.entries(1, 2)) == 1
    validate_allocator(a)
