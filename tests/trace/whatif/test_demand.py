"""The demand of a trace: who asked for what, and which area each free ends."""

from __future__ import annotations

from dataclasses import replace

from scripted_kernel import MODULES, PAGE, US, WINDOW, Event, ScriptedKernel, page

from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.policy import Policy
from vmalloc.trace.events import FREE, PURGE
from vmalloc.trace.replay.replay import find_opening
from vmalloc.trace.whatif.demand import ASK, CHUNK, DROP, FORCE, REFUSED, Demand, read_demand


def demand_of(kernel: ScriptedKernel, **known: object) -> Demand:
    opening = find_opening(kernel.trace, kernel=kernel.kernel.name, **known)  # type: ignore[arg-type]
    return read_demand(kernel.trace, opening)


def rows(demand: Demand) -> list[tuple[int, int]]:
    return list(zip(demand.op, demand.area, strict=True))


def test_each_allocation_is_an_area_and_each_free_ends_one() -> None:
    kernel = ScriptedKernel(cpus=2)
    first, second = kernel.allocs(2, 3)
    kernel.frees(first, cpu=1)
    kernel.allocs(4, align=0x4000)
    kernel.frees(second)
    demand = demand_of(kernel)
    assert rows(demand) == [(ASK, 0), (ASK, 1), (DROP, 0), (ASK, 2), (DROP, 1)]
    assert [size // PAGE for size in demand.size] == [2, 3, 4]
    assert list(demand.align) == [1, 1, 0x4000]
    assert list(demand.recorded) == [first.va_start, second.va_start, page(8)]
    assert list(demand.cpu) == [0, 0, 1, 0, 0]
    assert list(demand.time) == [n * US for n in range(1, 6)]
    assert (demand.peak_busy_bytes, demand.unknown_frees, demand.last_time) == (7 * PAGE, 0, 5 * US)


def test_a_reused_address_is_another_area() -> None:
    kernel = ScriptedKernel()
    for _ in range(2):
        (area,) = kernel.allocs(2)
        kernel.frees(area)
        kernel.purges()
    demand = demand_of(kernel)
    assert [row for row in rows(demand) if row[0] != FORCE] == [(ASK, 0), (DROP, 0), (ASK, 1), (DROP, 1)]
    assert demand.recorded[0] == demand.recorded[1]


def test_when_events_cross_the_older_area_is_the_one_that_is_freed() -> None:
    """The new owner's event is written before the old owner's free."""
    kernel = ScriptedKernel(cpus=2)
    (area,) = kernel.allocs(2)
    free = kernel.free(area)
    kernel.purge()
    again = kernel.alloc(2, pid=7)
    assert again.va_start == area.va_start
    kernel.write(again, free)
    kernel.frees(again)
    assert rows(demand_of(kernel)) == [(ASK, 0), (ASK, 1), (DROP, 0), (DROP, 1)]


def test_an_attempt_that_is_repeated_is_one_request_and_one_that_is_not_was_refused() -> None:
    kernel = ScriptedKernel("6.12")
    kernel.allocs(1)
    full = kernel.write(kernel.alloc(64, window=MODULES))
    kernel.write(kernel.alloc(1, window=MODULES))  # fails
    kernel.write(kernel.free(full, pid=8))
    kernel.write(kernel.purge(full=True, pid=100))
    kernel.write(kernel.alloc(1, window=MODULES, try_pool=False))
    kernel.write(kernel.alloc(64, window=MODULES, pid=7))
    kernel.write(kernel.purge(full=True, pid=7))
    kernel.write(kernel.alloc(64, window=MODULES, pid=7, try_pool=False))
    demand = demand_of(kernel)
    assert list(demand.op) == [ASK, ASK, DROP, ASK, REFUSED]
    assert [demand.window[n] for n in demand.area] == [0, 1, 1, 1, 1]
    assert demand.recorded[demand.area[-1]] == 0


def test_what_was_busy_at_the_start_is_kept_where_it_is() -> None:
    kernel = ScriptedKernel()
    first, second, third = (kernel.alloc(2) for _ in range(3))
    kernel.free(third)  # lazy at the start
    before = kernel.snapshot("x.before.vmallocinfo")
    kernel.frees(second)
    kernel.allocs(1)
    demand = demand_of(kernel, before=before)
    assert demand.kept == [first.va_start, second.va_start]
    assert rows(demand) == [(DROP, 1), (ASK, 2)]
    assert demand.peak_busy_bytes == 4 * PAGE


def test_a_free_of_nothing_is_counted_and_left_out() -> None:
    kernel = ScriptedKernel()
    kernel.allocs(1)
    kernel.write(Event(FREE, 0, 1, page(77), count=2))
    demand = demand_of(kernel)
    assert (rows(demand), demand.unknown_frees) == ([(ASK, 0)], 1)


def test_a_chunk_is_an_area_per_group() -> None:
    kernel = ScriptedKernel(cpus=2)
    kernel.allocs(1)
    groups = PcpuGroups([0, 8 << 20], [2 << 20, 2 << 20], 2 << 20, *WINDOW)
    chunk = kernel.write(kernel.chunk(groups))
    kernel.write(kernel.free(chunk.va_start + (8 << 20)), kernel.free(chunk.va_start))
    opening = find_opening(kernel.trace, kernel=kernel.kernel.name)
    demand = read_demand(kernel.trace, replace(opening, groups=groups))
    assert rows(demand) == [(ASK, 0), (CHUNK, 1), (DROP, 2), (DROP, 1)]
    assert list(demand.recorded[1:]) == [chunk.va_start, chunk.va_start + (8 << 20)]


def test_a_purge_that_a_caller_forced_is_demand_with_what_it_hands_in() -> None:
    kernel = ScriptedKernel()
    (area,) = kernel.allocs(2)
    kernel.frees(area)
    purged = kernel.purge()
    kernel.write(Event(PURGE, 0, 9, 0xFFFF888000001000, purged.va_end, purged.count))
    kernel.allocs(1)
    demand = demand_of(kernel)
    assert rows(demand) == [(ASK, 0), (DROP, 0), (FORCE, 0), (ASK, 1)]
    assert demand.hulls == [(0xFFFF888000001000, WINDOW[0])]


def test_requests_lose_their_guard_page_unless_they_have_none() -> None:
    kernel = ScriptedKernel()
    kernel.allocs(1, 2, 5)
    kernel.allocs(5, align=0x4000)  # a stack
    kernel.allocs(1024, align=4 << 20)  # a block of vm_map_ram
    kernel.allocs(513, align=2 << 20)  # a huge page and a guard
    demand = demand_of(kernel)
    sizes, aligns = demand.requests(Policy(guard=False), PAGE)
    assert [size // PAGE for size in sizes] == [1, 1, 4, 4, 1024, 512]
    assert list(aligns) == list(demand.align)
    sizes, aligns = demand.requests(Policy(huge=False), PAGE)
    assert list(sizes) == list(demand.size)
    assert list(aligns) == [1, 1, 1, 0x4000, 4 << 20, 1]
    sizes, aligns = demand.requests(Policy(huge=False, guard=False), PAGE)
    assert [size // PAGE for size in sizes] == [1, 1, 4, 4, 1024, 512]
    assert demand.requests(Policy(fit="lowest"), PAGE) == (demand.size, demand.align)
    assert [size // PAGE for size in demand.size] == [1, 2, 5, 5, 1024, 513]


def test_areas_of_the_start_are_not_requests() -> None:
    kernel = ScriptedKernel()
    kernel.alloc(5)
    before = kernel.snapshot("x.before.vmallocinfo")
    kernel.allocs(5)
    sizes, _aligns = demand_of(kernel, before=before).requests(Policy(guard=False), PAGE)
    assert [size // PAGE for size in sizes] == [5, 4]
