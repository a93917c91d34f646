"""Addresses without memory: how much can be reserved, and whether it can be written without asking again.

A reserve is tried from large to small, always without access: a process that locks its future memory (mlockall) would
otherwise get all of it at once. The largest one is found to a sixteenth.
"""

from __future__ import annotations

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host.probes.question import Answer, Ground, Question
from vmalloc.units import GIB, MIB, TIB, align_down, format_size

__all__ = ["QUESTIONS"]

NOBODY = syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS | syscalls.MAP_NORESERVE
READ_WRITE = syscalls.PROT_READ | syscalls.PROT_WRITE

#: A user address space of 47 bits, the smallest of the 64-bit machines, holds no more in one piece.
MOST = 64 * TIB
LEAST = 16 * MIB

#: One reserve that is large enough never to be the reason for anything: what a growable array asks for unless told.
ENOUGH = 64 * GIB


def _fits(size: int, prot: int) -> bool:
    """Tells whether the kernel maps ``size`` bytes in one piece, and gives them back."""
    try:
        address = syscalls.mmap(0, size, prot, NOBODY)
    except OSError:
        return False
    syscalls.munmap(address, size)
    return True


def largest_reserve(most: int = MOST) -> int:
    """Returns the size of the largest reserve that can be had, in bytes; 0 when not even ``LEAST`` can."""
    size = most
    while not _fits(size, syscalls.PROT_NONE):
        size //= 2
        if size < LEAST:
            return 0
    step = size // 2
    while step >= max(size // 16, LEAST) and size < most:
        if _fits(size + step, syscalls.PROT_NONE):
            size += step
        step //= 2
    return size


def _reserve(ground: Ground) -> Answer:
    room = ground.limits["address_space"].room
    most = MOST if room is None else min(MOST, align_down(room, MIB))
    size = largest_reserve(most) if most >= LEAST else 0
    enough = max(ENOUGH, 2 * ground.facts.physical_bytes)
    limited = "" if room is None else f", {ground.limits['address_space'].how} leaves {format_size(room)}"
    return Answer(
        size >= enough, f"mapped {format_size(size)} in one piece without access{limited}", {"largest_bytes": size},
        None if room is not None else "raise what limits the address space: ulimit -v, or the sandbox",
    )


def _noreserve(ground: Ground) -> Answer:
    if ground.facts.future_locked:
        how = "not tried: mlockall locks every new mapping into memory"
        return Answer(False, how, remedy="do without mlockall(MCL_FUTURE)")
    size = min(2 * ground.facts.physical_bytes, largest_reserve() // 2)
    rooms = [ground.limits[name].room for name in ("address_space", "data", "commit")]
    size = align_down(min([size, *(room for room in rooms if room is not None)]), MIB)
    said = f"writable {format_size(size)}, memory {format_size(ground.facts.physical_bytes)}"
    if size < ground.facts.physical_bytes:
        return Answer(False, f"limits leave {said}", {"tried_bytes": size}, "raise the limits of the address space")
    return Answer(_fits(size, READ_WRITE), f"mapped {said}", {"tried_bytes": size})


QUESTIONS = (
    Question(
        "reserve", "addresses", "one reserve of addresses for everything",
        "several smaller reserves, sized from what the limit leaves", "ulimit -v unlimited", _reserve,
    ),
    Question(
        "noreserve", "addresses", "writable addresses beyond memory",
        "reserves without access; each extent is made writable when it is used", "sysctl -w vm.overcommit_memory=0",
        _noreserve,
    ),
)  # fmt: skip
