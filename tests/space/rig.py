"""What the tests of sections 3, 4 and 8 share: small spaces, pictures of a whole space, machines that are watched."""

from __future__ import annotations

from collections import Counter
from typing import Any

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.machine.wrappers.recording import RecordingMachine
from vmalloc.space.simulated import SimulatedSpace
from vmalloc.space.space import VmallocSpace

KERNELS = tuple(PROFILES)
#: One of each kind: small and large pages, groups of PTEs, 32 bits with and without huge mappings, the cares of 8.4.
ARCHES = ("x86_64", "arm64_16k", "x86_32_pae", "arm32", "riscv64_sv48", "s390x")


def validate(space: VmallocSpace) -> None:
    """Checks everything there is: frames, page tables of all roots, TLBs, addresses, areas."""
    space.validate()


def settle(space: VmallocSpace) -> None:
    """Lets everything that is owed happen: deferred work, then a full purge."""
    space.run_deferred()
    space.purge(full=True)


def frames_of_tables(space: VmallocSpace) -> Counter[int]:
    """Frames that page tables have, by node."""
    memory = space.machine.frames
    found: Counter[int] = Counter()
    for block in memory.outstanding("page table"):
        found[memory.find_node(block.pfn)] += 1 << block.order
    return found


def picture(space: VmallocSpace) -> dict[str, Any]:
    """Everything that a call which failed must leave as it was: two pictures are equal, or something was lost.

    Page tables only grow (section 8.6), so of each node the frames **without** theirs are in it; what their memory may
    do is the caller's to say (``table_bytes``).
    """
    state, machine = space.state, space.machine
    tables = frames_of_tables(space)
    return {
        "areas": {
            vm.addr: (vm.size, vm.flags, vm.nr_pages, vm.requested_size, None if vm.pages is None else list(vm.pages))
            for vm in state.areas.values()
        },
        "busy": state.space.busy(),
        "lazy": state.space.lazy(),
        "pooled": state.space.pooled(),
        "free": state.space.free_blocks(),
        "contiguous": sorted(state.contiguous),
        "nr_vmalloc_pages": state.nr_vmalloc_pages,
        "waiting": (len(state.failed_areas), [len(pending) for pending in state.deferred_frees], state.drain_queued),
        "queue": machine.has_deferred(),
        "frames": {node.node: node.used - tables[node.node] for node in machine.frames.stats()},
        "mappings": {shift: count for shift, count in machine.page_table.leaves_by_shift().items() if count},
        "held twice": dict(machine.shared),
        "direct map": set(machine.invalid_direct),
        "user": [(mapping.start, list(mapping.pfns)) for mapping in state.user_mappings],
        "running": (machine.cpu, machine.context),
        "tables may wait": bool(machine.page_table.may_drain),
    }


def table_bytes(space: VmallocSpace) -> int:
    """Memory of all page tables."""
    found: int = space.machine.page_table.table_bytes
    return found


def recording_space(
    arch: str = "x86_64", kernel: str = "6.19", *, cpus: int = 1, nodes: tuple[int, ...] = (1 << 14,)
) -> tuple[SimulatedSpace, RecordingMachine]:
    """A space whose machine remembers what was asked of it; ``nodes``: frames of each node."""
    inner = SimulatedMachine(ARCHITECTURES[arch], PROFILES[kernel], cpus=cpus, nodes=nodes)
    machine = RecordingMachine(FailingMachine(inner))
    return SimulatedSpace(machine, PROFILES[kernel]), machine


def asked_for(machine: RecordingMachine, *operations: str) -> list[tuple[str, Any]]:
    """What was asked for: ``("take", order)``, ``("take_bulk", count)``, ``("slab", record)``, others by arguments."""
    first = ("take", "take_bulk", "slab")
    return [
        (entry.operation, entry.arguments[0] if entry.operation in first else entry.arguments)
        for entry in machine.log
        if entry.operation in operations
    ]
