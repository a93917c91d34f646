"""Programs with one bug each, and what KASAN says of it: kind, exact byte, who allocated, who freed, who did it.

The programs are data (``planted_bugs.py``).  Each runs on every kernel with KASAN, where all are found, and without,
where the table says which are missed and which the page tables catch: the last granule and the rest of the last page
are KASAN's alone.

A program has a neighbour to its left, whose guard page lies right before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from calls.watch import KERNELS
from kasan import planted_bugs
from kasan.planted_bugs import ACCESSES, FREES, KINDS, LEFT, MOMENTS, Bad, BadFreeing, Moment, Space, line_of
from vmalloc.calls.validate import validate_shadow
from vmalloc.errors import BadAddress, BadFree, Fault
from vmalloc.kasan.report import KasanReport
from vmalloc.kasan.tracks import Stack
from vmalloc.space.simulated import simulated


@dataclass
class Program:
    """A program up to its bug."""

    space: Space
    left: Any
    area: Any

    def at(self, moment: Moment, cpu: int | None = None) -> ExitStack:
        stack = ExitStack()
        stack.enter_context(self.space.on_cpu(moment.cpu if cpu is None else cpu))
        stack.enter_context(self.space.in_context(moment.context))
        return stack


def begin(kernel: str, kind: str, moment: str, kasan: bool) -> Program:
    """A space, a neighbour, the area, and what happens to it."""
    space = simulated(kernel=kernel, cpus=2, nodes=2, memory="48MiB", kasan=kasan)
    left = LEFT.make(space)
    area = KINDS[kind].make(space)
    prepared = MOMENTS[moment]
    prepared.prepare(space, area, prepared.free)
    return Program(space, left, area)


def expect_stack(stack: Stack, function: Any) -> None:
    """The innermost call that is not the package's is in this line of the program, or of this file."""
    name, file, line = next(iter(stack))
    assert file in (planted_bugs.__file__, __file__)
    assert (file, line) == (function.__code__.co_filename, line_of(function)), name


def expect_owner(report: KasanReport, program: Program, kind: str, moment: str, owner: str | None) -> None:
    """Whom the byte is charged to, and where that was allocated and freed."""
    allocation = report.allocation
    if owner is None:
        assert allocation is None
        return
    assert allocation is not None
    area, made = program.area, KINDS[kind]
    if owner == "left":
        area, made = program.left, LEFT
    assert (allocation.start, allocation.size) == (area.address, made.size)
    expect_stack(allocation.allocated.stack, made.make)
    assert (allocation.allocated.cpu, allocation.allocated.context) == (0, "task")
    if moment.startswith("live"):
        assert allocation.freed is None
        return
    assert allocation.freed is not None
    expect_stack(allocation.freed.stack, MOMENTS[moment].free)
    assert allocation.freed.context == MOMENTS[moment].freed_in
    assert allocation.freed.cpu == (1 if MOMENTS[moment].freed_in == "hardirq" else 0)


#: By whether it writes.
DO: dict[bool, Callable[[Space, int, int], object]] = {
    False: lambda s, at, size: s.load(at, size),
    True: lambda s, at, size: s.store(at, bytes(size)),
}


def access(space: Space, bug: Bad, address: int) -> object:
    return DO[bug.write](space, address, bug.size)


def runs_on(bug: Bad | BadFreeing, kernel: str) -> bool:
    """``vrealloc`` is not in every kernel."""
    own = bug.not_on if isinstance(bug, BadFreeing) else ()
    return kernel not in KINDS[bug.kind].not_on + MOMENTS[bug.moment].not_on + own


def on_every_kernel(bugs: Sequence[Bad] | Sequence[BadFreeing]) -> Any:
    """Each program on each kernel that has its calls; every fourth on both builds, with the newest kernel."""
    both = (pytest.mark.both_builds,)
    return pytest.mark.parametrize(
        ("bug", "kernel"),
        [
            pytest.param(bug, kernel, id=f"{bug.name}-{kernel}", marks=both if kernel == "6.19" and i % 4 == 0 else ())
            for i, bug in enumerate(bugs) for kernel in KERNELS if runs_on(bug, kernel)
        ],
    )  # fmt: skip


def test_there_are_many() -> None:
    assert len(ACCESSES) >= 100
    assert len(FREES) >= 30
    assert len({bug.name for bug in ACCESSES}) == len(ACCESSES)
    assert {bug.kind for bug in ACCESSES} == set(KINDS)
    assert {bug.moment for bug in [*ACCESSES, *FREES]} == set(MOMENTS)
    assert sum(bug.off is None for bug in ACCESSES) >= 60


@on_every_kernel(ACCESSES)
def test_a_bad_access_is_found(bug: Bad, kernel: str) -> None:
    """Sections 9.6 and 9.7."""
    program = begin(kernel, bug.kind, bug.moment, kasan=True)
    space, moment = program.space, MOMENTS[bug.moment]
    address = bug.address(program.area)
    with program.at(moment), pytest.raises(Fault) as caught:
        access(space, bug, address)
    fault = caught.value
    report: Any = fault.report
    assert (fault.kind, fault.address, fault.size) == ("kasan", address + bug.bad, bug.size)
    assert (report.cause, report.bug, report.bad_address) == (bug.cause, bug.bug, address + bug.bad)
    assert (report.access, report.address, report.size) == ("write" if bug.write else "read", address, bug.size)
    assert (report.cpu, report.context) == (moment.cpu, moment.context)
    expect_stack(report.stack, DO[bug.write])
    expect_owner(report, program, bug.kind, bug.moment, bug.owner)
    validate_shadow(space.state)


@on_every_kernel(ACCESSES)
def test_without_kasan_page_tables_find_what_is_not_mapped_and_no_more(bug: Bad, kernel: str) -> None:
    program = begin(kernel, bug.kind, bug.moment, kasan=False)
    address = bug.address(program.area)
    with program.at(MOMENTS[bug.moment]):
        if bug.off is None:
            access(program.space, bug, address)
        else:
            with pytest.raises(Fault) as caught:
                access(program.space, bug, address)
            off = bug.off
            if off == "freed" and kernel == "6.1" and "purged" in bug.moment:
                off = "unmapped"  # there are no pools: what is purged is free
            assert (caught.value.kind, caught.value.report) == (off, None)
            if off == "stale_tlb":
                program.space.machine.mmu.follow_stale = True  # as hardware does it
                access(program.space, bug, address)


@on_every_kernel(FREES)
def test_a_bad_free_is_found_and_changes_nothing(bug: BadFreeing, kernel: str) -> None:
    program = begin(kernel, bug.kind, bug.moment, kasan=True)
    before = program.space.areas().tolist()
    moment = MOMENTS[bug.moment]
    with program.at(moment, bug.cpu), pytest.raises(BadFree) as caught:
        bug.free(program.space, program.area)
    report: Any = caught.value.report
    assert isinstance(caught.value, BadAddress)
    assert (report.cause, report.bug, report.access) == (bug.cause, bug.cause, "free")
    assert report.address == report.bad_address == caught.value.address
    assert (report.cpu, report.context) == (moment.cpu if bug.cpu is None else bug.cpu, moment.context)
    expect_stack(report.stack, bug.free)
    expect_owner(report, program, bug.kind, bug.moment, bug.owner)
    assert program.space.areas().tolist() == before
    program.space.validate()


@pytest.mark.parametrize("bug", FREES, ids=lambda bug: bug.name)
def test_a_bad_free_without_kasan_is_a_bad_address(bug: BadFreeing) -> None:
    program = begin("6.19", bug.kind, bug.moment, kasan=False)
    with program.at(MOMENTS[bug.moment]), pytest.raises(BadAddress) as caught:
        bug.free(program.space, program.area)
    assert not isinstance(caught.value, Fault)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("by_handle", [False, True])
def test_a_second_deferred_free_is_found_before_the_worker_runs(kernel: str, by_handle: bool) -> None:
    space = simulated(kernel=kernel, cpus=2, memory="16MiB", kasan=True)
    area = space.vmalloc(5001)
    with space.in_context("hardirq"):
        space.vfree_atomic(area)
        with pytest.raises(BadFree) as caught:
            space.vfree_atomic(area if by_handle else area.address)
    report: Any = caught.value.report
    assert report.cause == "double-free"
    assert "waits to be freed" in str(caught.value)
    assert space.run_deferred() == 1
    space.validate()


def test_protection_makes_no_difference() -> None:
    """An executable or read-only area has shadow as any other."""
    space = simulated(memory="16MiB", kasan=True)
    for prot in ("r", "rw", "rx"):
        area = space.vmalloc_node_range(100, 1, space.state.vmalloc_start, space.state.vmalloc_end, prot=prot)
        with pytest.raises(Fault) as caught:
            space.load(area.address, 101)
        assert caught.value.address == area.address + 100
