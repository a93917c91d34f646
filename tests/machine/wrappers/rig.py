"""A small machine to be wrapped."""

from __future__ import annotations

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.units import align_up

RW = 3
ENOMEM = 12
P = 4096
PMD = 1 << 21


def small(nodes: int = 2) -> SimulatedMachine:
    return SimulatedMachine(ARCHITECTURES["x86_64"], PROFILES["6.19"], cpus=2, nodes=[2048] * nodes)


BASE = align_up(ARCHITECTURES["x86_64"].vmalloc_start, PMD)
