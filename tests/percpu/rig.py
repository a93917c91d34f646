"""What the tests of per-CPU objects share: small spaces, and pictures of one."""

from __future__ import annotations

from typing import Any

from space.rig import frames_of_tables
from vmalloc.space.simulated import SimulatedSpace, simulated

PAGE = 4096
KIB = 1024
#: A small unit, so that chunks fill up: 12 KiB of the first chunk, 32 KiB units.
SMALL = {"static_size": 4 * KIB, "reserved_size": 4 * KIB, "dynamic_size": 20 * KIB, "atom_size": 32 * KIB}


def make(arch: str = "x86_64", kernel: str = "6.19", **how: Any) -> SimulatedSpace:
    """Four CPUs on two nodes, units of 32 KiB."""
    return simulated(arch, kernel, **({"cpus": 4, "nodes": 2, "memory": "64MiB", "percpu": SMALL} | how))


def picture(space: SimulatedSpace) -> dict[str, Any]:
    """What a call that fails must leave as it was, when everything owed was done."""
    space.run_deferred()
    space.purge(full=True)
    percpu, state = space.percpu, space.state
    tables = frames_of_tables(space)
    return {
        "chunks": [
            (chunk.base, chunk.nr_populated, chunk.nr_empty, chunk.map.bits(), sorted(chunk.objects), chunk.allocated)
            for chunk in percpu.chunks
        ],
        "reserved": None if percpu.reserved is None else percpu.reserved.map.bits(),
        "counters": (percpu.nr_objects, percpu.nr_empty, percpu.nr_populated, state.percpu_pages),
        "busy": state.space.busy(),
        "free": state.space.free_blocks(),
        "frames": {node.node: node.used - tables[node.node] for node in space.machine.frames.stats()},
        "mappings": {shift: count for shift, count in space.machine.page_table.leaves_by_shift().items() if count},
    }


def fill_first(space: SimulatedSpace) -> list[Any]:
    """Takes all of the first chunk's dynamic part, so that the next object needs a chunk of its own."""
    held = []
    first = space.alloc_percpu(4)
    while first.found.chunk.free_bytes() >= KIB:
        held.append(space.alloc_percpu(KIB, 4))
    return [first, *held]


def fill_without_reserve(space: SimulatedSpace) -> list[Any]:
    """``fill_first``, where no chunk can be made for the reserve meanwhile: the next object needs one."""
    space.machine.fail_next("slab", times=None)
    held = fill_first(space)
    space.run_deferred()
    space.machine.clear()
    assert len(space.percpu.chunks) == 1
    return held
