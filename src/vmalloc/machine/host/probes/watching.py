"""Watching: names on mappings, memory pressure, and AddressSanitizer beside us."""

from __future__ import annotations

from pathlib import Path

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.maps import mappings_in
from vmalloc.machine.host.probes.question import Answer, Ground, Question

__all__ = ["QUESTIONS"]

PRESSURE = Path("/proc/pressure/memory")


def _names(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.private(size) as address:
        syscalls.name_range(address, size, "vmalloc probe")
        names = [mapping.name for mapping in mappings_in(address, address + size)]
    return Answer(names == ["[anon:vmalloc probe]"], f"/proc/self/maps shows {names}")


def _pressure(ground: Ground) -> Answer:
    # A kernel with psi=0 has the file and refuses to have it read.
    first = PRESSURE.read_text(encoding="utf-8").partition("\n")[0]
    return Answer(first.startswith("some avg10="), f"{PRESSURE}: {first}")


def _asan(ground: Ground) -> Answer:
    there = syscalls.symbol("__asan_poison_memory_region") != 0
    return Answer(there, f"__asan_poison_memory_region is {'in' if there else 'not in'} this process")


QUESTIONS = (
    Question(
        "names", "watching", "names in /proc/self/maps (PR_SET_VMA_ANON_NAME)",
        "shared memory has the name of its file, private memory none", "a kernel with CONFIG_ANON_VMA_NAME", _names,
    ),
    Question(
        "pressure", "watching", "memory pressure of the machine (PSI)",
        "idle memory is given back by time and limits alone", "boot with psi=1", _pressure,
    ),
    Question(
        "asan", "watching", "AddressSanitizer in this process",
        "guards, and accesses that are checked",
        "LD_PRELOAD=$(gcc -print-file-name=libasan.so), where it is wanted", _asan,
    ),
)  # fmt: skip
