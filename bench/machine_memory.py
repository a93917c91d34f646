"""Measures the memory of a large modelled computer in a process of its own, and prints it as one JSON object.

    python bench/machine_memory.py AREAS MEMORY

``AREAS`` areas of 1 to 4 pages are live at the end, each with its handle in Python, its frames, its page-table entries
and its place among the addresses.  What counts is the resident memory of the whole process, the interpreter included:
that is what has to fit into a laptop.  The bytes of the frames are not written to; a frame that was gets memory of its
own size.
"""

from __future__ import annotations

import json
import resource
import sys

from vmalloc.space.simulated import simulated


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(areas: int, memory: str) -> dict[str, float]:
    """Makes the machine, then the areas; resident bytes at three moments."""
    before = resident()
    space = simulated("x86_64", kernel="6.19", cpus=4, memory=memory)
    machine = resident()
    page = space.state.page_size
    held = [space.vmalloc((1 + k % 4) * page) for k in range(areas)]
    whole = resident()
    counts = space.stats()
    assert counts["areas"] == areas == len(held)
    return {
        "areas": areas,
        "pages": counts["pages"],
        "page_table_bytes": counts["page_table_bytes"],
        "before": before,
        "machine": machine,
        "whole": whole,
        "per_area": (whole - machine) / areas,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2])))
