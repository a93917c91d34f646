"""Thousands of random programs without a bug: KASAN says nothing, and every byte is what was written last.

A program allocates in every way there is, writes and reads within what it asked for - to the last byte, across pages,
from every CPU and context -, resizes, frees in every way, purges, and lets things fail.  Machines are of every
architecture that has shadow, of every kernel.  The generator is seeded by the program's number, so that one that fails
can be run again by itself.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from calls.watch import KERNELS
from vmalloc.calls.validate import validate_shadow
from vmalloc.errors import OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_KERNEL, VM_IOREMAP, VM_SPARSE
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import SimulatedSpace, simulated

ARCHES = [name for name, arch in ARCHITECTURES.items() if arch.kasan_shadow_offset is not None]
PROGRAMS, TOGETHER, STEPS = 2000, 100, 14
FAILURES = ("take", "take_bulk", "slab", "map_pages", "map_range", "page_table")


class Program:
    """One program: its machine, and what it holds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.random = random.Random(number)
        choose = self.random.choice
        self.arch, self.kernel = choose(ARCHES), choose(KERNELS)
        self.page = ARCHITECTURES[self.arch].page_size
        self.space: SimulatedSpace = simulated(
            self.arch, kernel=self.kernel, cpus=choose((1, 2, 4)), nodes=choose((1, 1, 2)), kasan=True,
            memory=4096 * self.page, seed=number,
        )  # fmt: skip
        self.cpus, self.nr_nodes = self.space.machine.info.cpus, self.space.machine.info.nodes
        self.areas: list[tuple[Any, bytearray]] = []
        self.maps: list[tuple[Any, str]] = []
        self.groups: list[list[Any]] = []
        self.failed = 0

    # -- sizes and places ------------------------------------------------------------------------------------------

    def size(self) -> int:
        pages = self.random.choice((0, 0, 1, 1, 2, 3, 7, 8, 9, 20, 40))
        return max(1, pages * self.page + self.random.choice((0, 1, -1, 3, -5, 100, self.page // 2 - 13)))

    def node(self) -> int | None:
        return self.random.choice((None, self.random.randrange(self.nr_nodes)))

    # -- steps -----------------------------------------------------------------------------------------------------

    def allocate(self) -> None:
        space, size, way = self.space, self.size(), self.random.randrange(12)
        start, end = space.state.vmalloc_start, space.state.vmalloc_end
        zero = way in (1, 3, 4, 6, 8, 9)
        area = (
            lambda: space.vmalloc(size),
            lambda: space.vzalloc(size),
            lambda: space.vmalloc_node(size, self.node()),
            lambda: space.vzalloc_node(size, self.node()),
            lambda: space.vmalloc_user(size),
            lambda: space.vmalloc_32(size),
            lambda: space.vmalloc_32_user(size),
            lambda: space.vmalloc_huge(self.random.choice((size, 3 << 20 if self.page == 4096 else size))),
            lambda: space.vcalloc(1, size),
            lambda: space.kvmalloc(size, zero=True),
            lambda: space.vmalloc(size, gfp=self.random.choice((GFP_KERNEL, GFP_ATOMIC))),
            lambda: space.vmalloc_node_range(size, self.page << self.random.randrange(4), start, end),
        )[way]()
        self.hold(area, zero)

    def hold(self, area: Any, zero: bool) -> None:
        size = area.requested_size
        held = bytes(size) if zero else self.space.load(area.address, size)
        assert self.space.load(area.address, size) == held
        self.areas.append((area, bytearray(held)))

    def touch(self) -> None:
        """Writes and reads any part, most often its edges."""
        if not self.areas:
            return
        area, held = self.random.choice(self.areas)
        n = min(self.random.choice((1, 2, 4, 8, 16, 3, 64, 5000)), len(held))
        offset = self.random.choice((0, len(held) - n, self.random.randint(0, len(held) - n)))
        data = self.random.randbytes(n)
        self.space.store(area.address + offset, data)
        held[offset : offset + n] = data
        with self.space.on_cpu(self.random.randrange(self.cpus)), self.space.in_context(self.context("nmi")):
            n = min(self.random.choice((1, 8, 24, 4097)), len(held))
            offset = self.random.choice((0, len(held) - n, self.random.randint(0, len(held) - n)))
            assert self.space.load(area.address + offset, n) == held[offset : offset + n]

    def context(self, *more: str) -> str:
        """From the one there is, to the one that reads without mending: a vmalloc fault in an NMI is none."""
        mends = any(sync.vmalloc_faults for sync in ARCHITECTURES[self.arch].table_syncs)
        return self.random.choice(("task", "softirq", "hardirq", *(() if mends else more)))

    def free(self) -> None:
        if not self.areas:
            return
        area, held = self.areas.pop(self.random.randrange(len(self.areas)))
        assert self.space.load(area.address, len(held)) == held
        space = self.space
        if not area.is_vmalloc:
            space.kvfree(area)
            return
        way = self.random.randrange(7)
        if way == 0:
            with space.in_context(self.random.choice(("softirq", "hardirq"))):
                space.vfree(area)
        elif way == 1:
            space.vfree_atomic(area)
        elif way == 2:
            space.vfree(area.address)
        elif way == 3:
            del area  # its handle goes
        elif way == 4:
            space.kvfree_sensitive(area, len(held))
        else:
            area.free()

    def resize(self) -> None:
        at = self.random.randrange(len(self.areas)) if self.areas else -1
        if at < 0 or self.kernel == "6.1" or not self.areas[at][0].is_vmalloc:
            return
        area, held = self.areas[at]
        size = self.random.choice((self.size(), max(1, len(held) - 9), len(held) + 9))
        zero = self.random.random() < 0.5
        area = self.space.vrealloc(area, size, zero=zero)
        kept = min(len(held), size)
        found = self.space.load(area.address, size)
        assert found[:kept] == held[:kept]
        self.areas[at] = (area, bytearray(found))

    def map(self) -> None:
        space, way = self.space, self.random.randrange(5)
        if way == 0 and self.areas:
            area, _ = self.random.choice(self.areas)
            self.maps.append((space.vmap(list(area.pages)[:5], prot="r"), "vunmap"))
            space.load(self.maps[-1][0].address, 9)
        elif way == 1:
            area = space.vmap(space.alloc_pages(3), put_pages=True)
            self.maps.append((area, "vfree"))
            space.store(area.address + self.page - 3, b"across")
        elif way == 2:
            phys = space.machine.info.phys_end - 64 * self.page
            self.maps.append((space.ioremap(phys + 5, self.size()), "iounmap"))
        elif way == 3:
            flags = self.random.choice((0, VM_IOREMAP, VM_SPARSE))
            self.maps.append((space.get_vm_area(self.size(), flags), "free_vm_area"))
        else:
            unit = 4 * self.page
            self.groups.append(space.pcpu_get_vm_areas([0, 3 * unit], [unit, 2 * unit], unit))

    def unmap(self) -> None:
        if self.maps:
            area, call = self.maps.pop(self.random.randrange(len(self.maps)))
            getattr(self.space, call)(area)
        elif self.groups:
            self.space.pcpu_free_vm_areas(self.groups.pop())

    def purge(self) -> None:
        call = self.random.choice((self.space.purge, self.space.vm_unmap_aliases, self.space.shrink, self.space.trim,
                                   self.space.run_deferred, lambda: self.space.purge(full=True)))  # fmt: skip
        call()

    def fail(self) -> None:
        """Something runs short in what comes next."""
        self.space.machine.fail_next(self.random.choice(FAILURES), self.random.randrange(6), 1)

    def run(self) -> None:
        steps = (self.allocate, self.allocate, self.allocate, self.touch, self.touch, self.free, self.free, self.resize,
                 self.map, self.unmap, self.purge, self.fail)  # fmt: skip
        for _ in range(STEPS):
            self.space.machine.cpu = self.random.randrange(self.cpus)
            try:
                self.random.choice(steps)()
            except (OutOfFrames, OutOfAddresses):
                self.failed += 1
        if self.number % 5 == 0:
            self.space.validate()
        else:  # the validator of shadow alone: the others have tests of their own, and are slow
            validate_shadow(self.space.state)
        assert self.space.kasan.reports == 0
        self.space.machine.clear()
        self.areas.clear()
        self.maps.clear()
        self.groups.clear()
        self.space.close()
        if self.number % 20 == 0:
            self.space.state.validate()
        assert (self.space.kasan.reports, len(self.space.kasan.present)) == (0, 0)


@pytest.mark.parametrize("first", range(0, PROGRAMS, TOGETHER))
def test_correct_programs_give_no_report(first: int) -> None:
    """Section 9.6: nothing that is allowed is forbidden."""
    failed = checks = 0
    for number in range(first, first + TOGETHER):
        program = Program(number)
        program.run()
        failed += program.failed
        checks += program.space.kasan.checks
    assert failed > 0
    assert checks > TOGETHER


@pytest.mark.both_builds
def test_a_few_of_them_on_both_builds() -> None:
    for number in range(PROGRAMS, PROGRAMS + 8):
        Program(number).run()


@pytest.mark.campaign
@pytest.mark.parametrize("first", range(PROGRAMS, 100_000, 2000))
def test_many_more_correct_programs(first: int) -> None:
    for number in range(first, first + 2000):
        Program(number).run()
