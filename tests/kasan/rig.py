"""What the tests of KASAN share: small machines with it, and pictures of its shadow."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from vmalloc.kasan.kasan import Kasan
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.machine.wrappers.recording import RecordingMachine
from vmalloc.space.simulated import SimulatedSpace, simulated

PAGE = 4096
UNIT = 8 * PAGE


def checked(kernel: str = "6.19", **how: Any) -> SimulatedSpace:
    """A small x86-64 with KASAN."""
    how = {"cpus": 2, "memory": "32MiB", "kasan": True} | how
    return simulated(how.pop("arch", "x86_64"), kernel=kernel, **how)


def recorded(kernel: str = "6.19", cpus: int = 2) -> tuple[SimulatedSpace, RecordingMachine]:
    """One whose machine remembers what was asked of it."""
    profile = PROFILES[kernel]
    inner = SimulatedMachine(ARCHITECTURES["x86_64"], profile, cpus=cpus, nodes=[8192])
    machine = RecordingMachine(FailingMachine(inner))
    kasan = Kasan(machine, in_bulk=profile.shadow_in_bulk, release_merged=profile.shadow_goes_with_neighbours)
    return SimulatedSpace(machine, profile, (), None, kasan), machine


def runs(space: SimulatedSpace, start: int, size: int) -> list[tuple[int | None, int]]:
    """The shadow of a range: each value, and how many granules have it in a row; None where there is none."""
    cells = space.kasan.bytes_of(start, size >> 3)
    return [(value, len(list(group))) for value, group in groupby(cells)]


def shadow_mappings(space: SimulatedSpace) -> set[int]:
    """The numbers of the shadow pages that the page tables map, whatever KASAN thinks; walked one by one."""
    kasan = space.kasan
    found = set()
    for area in [*space.state.space.busy(), *space.state.space.lazy(), *space.state.space.pooled()]:
        for page in range(*kasan.pages_of(area.start - UNIT, area.end + UNIT)):
            if space.machine.translate(page << kasan.page_shift) >= 0:
                found.add(page)
    return found
