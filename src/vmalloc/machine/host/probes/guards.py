"""Guards: pages that nobody may touch, made so that a hit shows - and what each costs in mappings.

Whether a guard holds is asked of the kernel: reading the byte through a system call says EFAULT, where a load would be
a signal.
"""

from __future__ import annotations

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.probes.question import Answer, Ground, Question

__all__ = ["QUESTIONS"]


def _tried(address: int, page_size: int) -> Answer:
    """Guards the middle one of three pages and takes the guard away again."""
    middle = address + page_size
    syscalls.madvise(middle, page_size, syscalls.MADV_GUARD_INSTALL)
    held = not syscalls.readable(middle) and syscalls.readable(address) and syscalls.readable(middle + page_size)
    added = scratch.mappings_of(address, 3 * page_size) - 1
    syscalls.madvise(middle, page_size, syscalls.MADV_GUARD_REMOVE)
    opened = syscalls.readable(middle)
    how = f"the page {'cannot' if held else 'CAN'} be read, and {'can' if opened else 'CANNOT'} afterwards; "
    return Answer(held and opened and added == 0, f"{how}mappings added: {added}", {"mappings_each": added})


def _guard(ground: Ground) -> Answer:
    with scratch.private(3 * ground.facts.page_size) as address:
        return _tried(address, ground.facts.page_size)


def _guard_shared(ground: Ground) -> Answer:
    with scratch.shared(3 * ground.facts.page_size) as (_, address):
        return _tried(address, ground.facts.page_size)


def _protect(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.private(3 * size) as address:
        syscalls.mprotect(address + size, size, syscalls.PROT_NONE)
        held = not syscalls.readable(address + size) and syscalls.readable(address + 2 * size)
        each = scratch.mappings_of(address, 3 * size) - 1
    room = ground.limits["maps"].room
    numbers: dict[str, int | str] = {"mappings_each": each}
    how = f"the page {'cannot' if held else 'CAN'} be read; mappings added: {each}"
    if room is not None:
        numbers["guards_possible"] = room // max(each, 1)
        how += f", so there is room for {numbers['guards_possible']:,} guards"
    return Answer(held, how, numbers)


QUESTIONS = (
    Question(
        "guard", "guards", "guard pages that cost no mapping (MADV_GUARD_INSTALL)",
        "mprotect: two mappings a guard, out of a budget", "Linux 6.13; no mlockall", _guard,
    ),
    Question(
        "guard_shared", "guards", "the same on shared memory",
        "mprotect: two mappings a guard, out of a budget", "Linux 6.15; no mlockall", _guard_shared, ("memfd",),
    ),
    Question(
        "protect", "guards", "guard pages by mprotect",
        "no guards at all", "", _protect,
    ),
)  # fmt: skip
