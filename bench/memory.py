"""Measures the memory of an allocator in a process of its own, and prints it as one JSON object.

    python bench/memory.py LIVE CPUS

Resident memory is what counts, and it can be told apart only where nothing else is: every array and list that drives
the allocator is there, and has been written to, before the first look.  Two looks: ``grown``, when LIVE areas have
been allocated and none freed; ``thinned``, when a quarter more were allocated and that quarter, chosen at random, was
freed and purged: LIVE areas, and three holes for every ten of them, each of which is a row of the table, too.

``tables`` is the room the structures have asked for, used or not; what is asked for and never written to costs no
memory.
"""

from __future__ import annotations

import gc
import json
import resource
import sys

from workload import BATCH, SURPLUS, Kernel, mixed

#: Sizes of the C structs ``vmap_area`` and ``ordered_block`` (``areas/rows.pxd``, ``areas/ordered_map.pxd``).
ROW_BYTES, RUN_BYTES = 64, 8 + 128 * (8 + 4)


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def allocate(kernel: Kernel, count: int) -> None:
    """``count`` allocations in batches."""
    for first in range(0, count, BATCH):
        requests = mixed(kernel.rng, min(BATCH, count - first))
        kernel.allocate(requests, kernel.random_cpus(len(requests)))


def free(kernel: Kernel, count: int) -> None:
    """``count`` frees at random, with purges when due, and one at the end, so that nothing is left lazy."""
    for first in range(0, count, 256):
        starts, _sizes = kernel.take(min(256, count - first))
        kernel.free(starts)
        if kernel.nr_lazy > kernel.lazy_max:
            kernel.purge()
    kernel.purge()


def measure(live: int, cpus: int) -> dict[str, float]:
    """Brings an allocator to ``live`` areas; bytes per live area at both looks."""
    # The interpreter's own memory grows here, not below. Kept to the end: after a large free, malloc would place the
    # growing tables where they leave holes behind.
    warm = Kernel(cpus, 2 * BATCH, seed=0)
    allocate(warm, 2 * BATCH)
    free(warm, BATCH)
    kernel = Kernel(cpus, int(live * (1 + SURPLUS)) + BATCH, seed=1)
    before = resident()
    allocate(kernel, live)
    grown = resident() - before
    surplus = int(live * SURPLUS)
    allocate(kernel, surplus)
    free(kernel, surplus)
    assert kernel.live == live
    assert warm.live
    thinned = resident() - before
    rows, maps = kernel.allocator.rows, kernel.allocator.nodes.maps
    tables = rows.capacity * ROW_BYTES + maps.block_capacity * RUN_BYTES
    return {
        "live": live,
        "cpus": cpus,
        "grown": grown / live,
        "thinned": thinned / live,
        "tables": tables / live,
        "holes": kernel.allocator.free.count / live,
        "rows_used": rows.used / live,
        "keys_per_run": kernel.live / (maps.blocks_used - len(maps.spares())),
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
