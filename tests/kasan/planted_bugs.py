"""Programs with one bug each, as data: what is allocated, what happens to it, and the bad access or free at the end.

``test_planted_bugs.py`` runs them.  Every call that a report must name is a lambda in one line, so that the line to be
named is known from the code object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from calls.watch import PAGE
from vmalloc.space.simulated import SimulatedSpace

Space = SimulatedSpace
Make = Callable[[Space], Any]
Free = Callable[[Space, Any], object]

OOB, FREED, WILD = "vmalloc-out-of-bounds", "vmalloc-out-of-bounds", "wild-memory-access"
DEVICE = (1 << 46) - (1 << 30)


def line_of(function: Any) -> int:
    line: int = function.__code__.co_firstlineno
    return line


@dataclass(frozen=True)
class Kind:
    """What is allocated: how, how many bytes may be touched, and how many are mapped."""

    make: Make
    size: int
    usable: int
    not_on: tuple[str, ...] = ()


LEFT = Kind(lambda s: s.vmalloc(PAGE), PAGE, PAGE)
KINDS = {
    "vmalloc": Kind(lambda s: s.vmalloc(5001), 5001, 2 * PAGE),
    "one byte": Kind(lambda s: s.vmalloc(1), 1, PAGE),
    "whole pages": Kind(lambda s: s.vmalloc(3 * PAGE), 3 * PAGE, 3 * PAGE),
    "large": Kind(lambda s: s.vmalloc(100_000), 100_000, 25 * PAGE),
    "vzalloc": Kind(lambda s: s.vzalloc(4090), 4090, PAGE),
    "vmalloc_node": Kind(lambda s: s.vmalloc_node(6000, 1), 6000, 2 * PAGE),
    "vzalloc_node": Kind(lambda s: s.vzalloc_node(6002, 1), 6002, 2 * PAGE),
    "vmalloc_user": Kind(lambda s: s.vmalloc_user(4100), 4100, 2 * PAGE),
    "vmalloc_32": Kind(lambda s: s.vmalloc_32(12_285), 12_285, 3 * PAGE),
    "vmalloc_32_user": Kind(lambda s: s.vmalloc_32_user(20), 20, PAGE),
    "vcalloc": Kind(lambda s: s.vcalloc(9, 1000), 9000, 3 * PAGE),
    "huge": Kind(lambda s: s.vmalloc_huge((8 << 20) - 77), (8 << 20) - 77, 8 << 20),
    "in a window": Kind(lambda s: s.vmalloc_node_range(7003, 4 * PAGE, *window(s)), 7003, 2 * PAGE),
    "kvmalloc": Kind(lambda s: s.kvmalloc((5 << 20) + 3), (5 << 20) + 3, 6 << 20),
    "vmap": Kind(lambda s: s.vmap(s.alloc_pages(3)), 3 * PAGE, 3 * PAGE),
    "ioremap": Kind(lambda s: s.ioremap(DEVICE, 2 * PAGE), 2 * PAGE, 2 * PAGE),
    "reserved": Kind(lambda s: s.get_vm_area(5003), 5003, 0),
    "per-CPU": Kind(lambda s: s.pcpu_get_vm_areas([0, 0x10000], [0x8000, 0x8000], 0x8000)[0], 0x8000, 0),
    "list of frames": Kind(lambda s: array_of(s.vmalloc(600 * PAGE)), 4800, 2 * PAGE),
    "shrunk": Kind(lambda s: s.vrealloc(s.vmalloc(9000), 3001), 3001, 3 * PAGE, ("6.1",)),
    "grown in place": Kind(lambda s: s.vrealloc(s.vrealloc(s.vmalloc(9000), 50), 4203), 4203, 3 * PAGE, ("6.1",)),
    "grown by moving": Kind(lambda s: s.vrealloc(s.vmalloc(100), 9001), 9001, 3 * PAGE, ("6.1",)),
}


class Inside:
    """The area that holds an area's list of frames, as a handle that keeps the owner alive."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.address = owner.vm.array_area.addr


def array_of(owner: Any) -> Inside:
    return Inside(owner)


def window(space: Space) -> tuple[int, int]:
    return space.state.vmalloc_start + (1 << 30), space.state.vmalloc_start + (2 << 30)


@dataclass(frozen=True)
class Moment:
    """What happens before the bug, and who runs when it does."""

    prepare: Callable[[Space, Any, Free], object] = lambda space, area, free: None
    free: Free = lambda s, a: None
    cpu: int = 0
    context: str = "task"
    freed_in: str = "task"
    not_on: tuple[str, ...] = ()


def run(space: Space, area: Any, free: Free) -> None:
    free(space, area)


def then_purge(space: Space, area: Any, free: Free) -> None:
    free(space, area)
    space.purge()


def then_full_purge(space: Space, area: Any, free: Free) -> None:
    free(space, area)
    space.purge(full=True)


def warm_elsewhere(space: Space, area: Any, free: Free) -> None:
    """CPU 1 has the translation when CPU 0 frees."""
    with space.on_cpu(1):
        space.load(area.address, 1)
    free(space, area)


def then_worker(space: Space, area: Any, free: Free) -> None:
    free(space, area)
    assert space.run_deferred() == 1


def from_interrupt(space: Space, area: Any, free: Free) -> None:
    with space.on_cpu(1), space.in_context("hardirq"):
        free(space, area)
    assert space.run_deferred() == 1


MOMENTS = {
    "live": Moment(),
    "live, CPU 1": Moment(cpu=1),
    "live, softirq": Moment(context="softirq"),
    "live, hardirq": Moment(context="hardirq", cpu=1),
    "live, NMI": Moment(context="nmi"),
    "freed": Moment(run, lambda s, a: s.vfree(a)),
    "freed by address": Moment(run, lambda s, a: s.vfree(a.address)),
    "freed by its handle": Moment(run, lambda s, a: a.free()),
    "freed, hardirq": Moment(run, lambda s, a: s.vfree(a), context="hardirq"),
    "freed, CPU 1 warm": Moment(warm_elsewhere, lambda s, a: s.vfree(a), cpu=1),
    "purged": Moment(then_purge, lambda s, a: s.vfree(a)),
    "purged, CPU 1": Moment(then_purge, lambda s, a: s.vfree(a), cpu=1),
    "purged fully": Moment(then_full_purge, lambda s, a: s.vfree(a)),
    "vfree_atomic": Moment(then_worker, lambda s, a: s.vfree_atomic(a)),
    "freed in an interrupt": Moment(from_interrupt, lambda s, a: s.vfree(a), freed_in="hardirq"),
    "vunmap": Moment(run, lambda s, a: s.vunmap(a)),
    "vunmap, purged": Moment(then_purge, lambda s, a: s.vunmap(a)),
    "iounmap": Moment(run, lambda s, a: s.iounmap(a)),
    "free_vm_area": Moment(run, lambda s, a: s.free_vm_area(a)),
    "kvfree": Moment(run, lambda s, a: s.kvfree(a)),
    "moved by vrealloc": Moment(run, lambda s, a: s.vrealloc(a, 30_000).detach(), not_on=("6.1",)),
    "moved, purged": Moment(then_purge, lambda s, a: s.vrealloc(a, 30_000).detach(), not_on=("6.1",)),
    "group freed": Moment(run, lambda s, a: s.pcpu_free_vm_areas([a])),
}

@dataclass(frozen=True)
class Bad:
    """A bad access: ``size`` bytes at ``base + delta``; the base is the area's start, its size, or its mapped end.

    Attributes:
        bad: how far behind the access's first byte the first forbidden one is.
        owner: who the byte is charged to: the area, the neighbour on its left, or nobody.
        off: the fault without KASAN; None: it is missed.
    """

    kind: str
    moment: str
    base: str
    delta: int
    size: int
    off: str | None
    write: bool = False
    cause: str = "out-of-bounds"
    bug: str = OOB
    bad: int = 0
    owner: str | None = "area"

    @property
    def name(self) -> str:
        verb = "write" if self.write else "read"
        return f"{self.kind}, {self.moment}: {verb} {self.size} at {self.base}{self.delta:+}"

    def address(self, area: Any) -> int:
        kind = KINDS[self.kind]
        start: int = area.address
        return start + {"start": 0, "size": kind.size, "end": kind.usable}[self.base] + self.delta


def last_granule_and_slack() -> list[Bad]:
    """What no page table can see: 5001 bytes end one byte into a granule and 3191 bytes before a page's end."""
    rows = [Bad("vmalloc", "live", "size", delta, 1, None, write=write)
            for delta in (0, 1, 6, 7, 8, 100, 3190) for write in (False, True)]  # fmt: skip
    rows += [
        Bad("vmalloc", "live", "size", 1 - size, size, None, bad=size - 1, write=write)
        for size in (2, 4, 8, 16, 32, 64) for write in (False, True)
    ]  # fmt: skip
    rows += [Bad("vmalloc", "live", "size", -size // 2, size, None, bad=size // 2) for size in (6, 24, 48)]
    rows.append(Bad("vmalloc", "live", "start", 0, 5002, None, bad=5001))
    rows += [Bad("vmalloc", moment, "size", 0, 4, None) for moment in MOMENTS if moment.startswith("live,")]
    return rows


def guard_pages() -> list[Bad]:
    """Overruns into the guard page behind, and underruns into that of the neighbour before."""
    rows = [Bad("whole pages", "live", "end", delta, 1, "guard", write=write)
            for delta in (0, 1, PAGE - 1) for write in (False, True)]  # fmt: skip
    rows += [Bad("whole pages", "live", "end", -size + 1, size, "guard", bad=size - 1) for size in (2, 4, 8, 16, 64)]
    rows += [Bad("vmalloc", "live", "end", -4, 8, "guard"), Bad("vmalloc", "live", "end", PAGE - 8, 8, "guard")]
    # A byte between two areas is charged to the nearer one.
    rows += [Bad("vmalloc", "live", "start", delta, size, "guard", write=write,
                 owner="left" if delta == -PAGE else "area")
             for delta, size, write in ((-1, 1, False), (-1, 2, True), (-4, 8, False), (-PAGE, 1, True),
                                        (-64, 64, False), (-1, 64, True), (-PAGE, 16, False))]  # fmt: skip
    rows.append(Bad("vmalloc", "live, hardirq", "start", -8, 8, "guard"))
    return rows


def other_areas() -> list[Bad]:
    """The slack and the guard page of every other kind of area."""
    slack = [name for name, kind in KINDS.items() if kind.size < kind.usable and name != "vmalloc"]
    rows = [Bad(kind, "live", "size", 0, 1, None) for kind in slack]
    rows += [Bad(kind, "live", "size", -1, 2, None, bad=1, write=True) for kind in slack]
    rows += [Bad(kind, "live", "end", 0, 1, "guard") for kind in slack]
    rows += [Bad(kind, "live", "end", 0, 8, "guard") for kind in ("vmap", "ioremap")]
    rows += [Bad("reserved", "live", "size", 0, 1, "unmapped")]
    rows += [Bad("per-CPU", "live", "size", delta, 1, "unmapped") for delta in (0, 100)]
    # A group fills its shadow page, and there is no other beside it.
    rows = [replace(row, bug=WILD) if row.kind == "per-CPU" else row for row in rows]
    rows += [Bad("per-CPU", "live", "start", -8, 8, "unmapped", bug=WILD)]
    return rows


def nowhere() -> list[Bad]:
    """Far from every area: with shadow, because an area is near, and without."""
    wild = {"cause": "wild-access", "owner": None}
    return [
        Bad("whole pages", "live", "end", PAGE + 8, 4, "unmapped"),
        Bad("whole pages", "live", "end", 2 * PAGE + 8, 4, "unmapped", **wild),
        Bad("whole pages", "live", "end", 1 << 30, 4, "unmapped", bug=WILD, **wild),
    ]


def after_free() -> list[Bad]:
    """Every way to free, and every stage behind it."""
    use = {"cause": "use-after-free", "bug": FREED}
    rows = []
    for moment in MOMENTS:
        if moment.startswith("live") or moment == "group freed":
            continue
        kind = {"vunmap": "vmap", "iounmap": "ioremap", "kvfree": "kvmalloc"}.get(moment.split(",")[0], "vmalloc")
        # The CPU that defers a free writes a link into the area, and so has its translation.
        warm = "warm" in moment or moment == "vfree_atomic"
        off = "stale_tlb" if warm else "unmapped" if "fully" in moment else "freed"
        rows += [Bad(kind, moment, "start", delta, size, off, **use) for delta, size in ((0, 1), (8, 8), (4095, 1))]
        rows.append(Bad(kind, moment, "start", 16, 64, off, write=True, **use))
    # Shadow that describes this area alone goes with the purge: then there is none to tell by.
    rows += [Bad("large", moment, "start", 40_000, 8, "unmapped" if "fully" in moment else "freed",
                 cause="use-after-free", bug=WILD) for moment in ("purged", "purged fully")]  # fmt: skip
    rows.append(Bad("large", "freed", "start", 40_000, 8, "freed", **use))
    rows.append(Bad("huge", "freed", "start", (5 << 20) + 3, 64, "freed", **use))
    rows.append(Bad("per-CPU", "group freed", "start", 0, 8, "freed", **use))
    rows.append(Bad("per-CPU", "group freed", "start", 0x7000 - 1, 8, "freed", **use))
    return rows


ACCESSES = [*last_granule_and_slack(), *guard_pages(), *other_areas(), *nowhere(), *after_free()]


@dataclass(frozen=True)
class BadFreeing:
    """A free that is none: after ``moment``, ``free`` is called, on ``cpu`` or where the moment is."""

    name: str
    kind: str
    moment: str
    free: Free
    cause: str = "double-free"
    owner: str | None = "area"
    not_on: tuple[str, ...] = ()
    cpu: int | None = None


FREES = [
    BadFreeing("twice by handle", "vmalloc", "freed", lambda s, a: s.vfree(a)),
    BadFreeing("twice by address", "vmalloc", "freed", lambda s, a: s.vfree(a.address)),
    BadFreeing("twice by its own method", "vmalloc", "freed by its handle", lambda s, a: a.free()),
    BadFreeing("in its middle", "vmalloc", "freed", lambda s, a: s.vfree(a.address + PAGE)),
    BadFreeing("on another CPU", "vmalloc", "freed", lambda s, a: s.vfree(a.address), cpu=1),
    BadFreeing("after a purge", "vmalloc", "purged", lambda s, a: s.vfree(a.address)),
    BadFreeing("after a purge, on another CPU", "vmalloc", "purged, CPU 1", lambda s, a: s.vfree(a.address)),
    BadFreeing("after a full purge", "vmalloc", "purged fully", lambda s, a: s.vfree(a.address)),
    BadFreeing("large, after a purge", "large", "purged", lambda s, a: s.vfree(a)),
    BadFreeing("after a worker freed it", "vmalloc", "vfree_atomic", lambda s, a: s.vfree(a.address)),
    BadFreeing("after an interrupt freed it", "vmalloc", "freed in an interrupt", lambda s, a: s.vfree_atomic(a)),
    BadFreeing("vunmap of what was freed", "vmalloc", "freed", lambda s, a: s.vunmap(a.address)),
    BadFreeing("vunmap twice", "vmap", "vunmap", lambda s, a: s.vunmap(a.address)),
    BadFreeing("iounmap twice", "ioremap", "iounmap", lambda s, a: s.iounmap(a)),
    BadFreeing("iounmap twice, by address", "ioremap", "iounmap", lambda s, a: s.iounmap(a.address)),
    BadFreeing("kvfree twice", "kvmalloc", "kvfree", lambda s, a: s.kvfree(a)),
    BadFreeing("free_vm_area twice", "reserved", "free_vm_area", lambda s, a: s.free_vm_area(a)),
    BadFreeing("free_vm_area twice, by address", "reserved", "free_vm_area", lambda s, a: s.free_vm_area(a.address)),
    BadFreeing("a group twice", "per-CPU", "group freed", lambda s, a: s.pcpu_free_vm_areas([a])),
    BadFreeing("what vrealloc moved away", "vmalloc", "moved by vrealloc", lambda s, a: s.vfree(a.address)),
    BadFreeing("vrealloc of what was freed", "vmalloc", "freed", lambda s, a: s.vrealloc(a, 10), not_on=("6.1",)),
    BadFreeing("the same, by address", "vmalloc", "freed", lambda s, a: s.vrealloc(a.address, 10), not_on=("6.1",)),
    BadFreeing("unaligned", "vmalloc", "live", lambda s, a: s.vfree(a.address + 8), "invalid-free"),
    BadFreeing("unaligned, in its middle", "vmalloc", "live", lambda s, a: s.vfree(a.address + 4100), "invalid-free"),
    BadFreeing("unaligned, behind it", "vmalloc", "live", lambda s, a: s.vfree(a.address + 5001), "invalid-free"),
    BadFreeing("unaligned, of what was freed", "vmalloc", "freed", lambda s, a: s.vfree(a.address + 8), "invalid-free"),
    BadFreeing("unaligned, in an interrupt", "vmalloc", "live, hardirq", lambda s, a: s.vfree(a.address + 8),
               "invalid-free"),
    BadFreeing("never allocated", "vmalloc", "live", lambda s, a: s.vfree(a.address + (1 << 30)), "invalid-free", None),
    BadFreeing("not of the range", "vmalloc", "live", lambda s, a: s.vfree(PAGE), "invalid-free", None),
    BadFreeing("vunmap, never allocated", "vmap", "live", lambda s, a: s.vunmap(a.address + (1 << 30)), "invalid-free",
               None),
    BadFreeing("vrealloc in its middle", "vmalloc", "live", lambda s, a: s.vrealloc(a.address + PAGE, 10),
               "invalid-free", not_on=("6.1",)),
]  # fmt: skip
