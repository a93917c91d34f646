"""Pieces of memory to try things on: mapped, tried, unmapped, whatever happened in between.

Each piece stands between two pages that nobody may touch. They keep the kernel from merging it with a neighbour that is
alike, so that what smaps says of the piece is said of the piece alone; and a probe that goes wrong by a byte hits them.

Pieces are asked for at low addresses, below the program and its libraries, where there is usually nothing: the files
of ``/proc`` come in the order of addresses, and smaps walks page tables for every mapping it writes of. Looking at a
piece behind 60,000 other mappings takes half a second, in front of them next to none. Where there is something already,
the kernel chooses another place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host.maps import mappings_in, usage_in
from vmalloc.units import GIB, align_up

__all__ = ["bytes_of", "flags_of", "mappings_of", "private", "shared", "shared_file"]

PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
NOBODY = syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS | syscalls.MAP_NORESERVE
LOW_PLACES = cycle(range(64 * GIB, 128 * GIB, GIB))
READ_WRITE = syscalls.PROT_READ | syscalls.PROT_WRITE


@contextmanager
def _place(size: int, align: int) -> Iterator[int]:
    """Yields an address with room for ``size`` bytes, aligned, apart from all neighbours; takes it back whole."""
    whole = size + align + 2 * PAGE_SIZE
    start = syscalls.mmap(next(LOW_PLACES), whole, syscalls.PROT_NONE, NOBODY)
    try:
        yield align_up(start + PAGE_SIZE, align)
    finally:
        syscalls.munmap(start, whole)


@contextmanager
def private(size: int, align: int = PAGE_SIZE) -> Iterator[int]:
    """Yields the address of ``size`` bytes of private memory, untouched; bytes, a multiple of the page size."""
    with _place(size, align) as address:
        syscalls.mmap(address, size, READ_WRITE, NOBODY | syscalls.MAP_FIXED)
        yield address


def shared_file(name: str) -> int:
    """Opens a file of memory that is never executed; returns its descriptor.

    ``vm.memfd_noexec=2`` refuses files that do not promise that; kernels before 6.3 do not know the promise.
    """
    flags = syscalls.MFD_CLOEXEC | syscalls.MFD_ALLOW_SEALING
    with suppress(OSError):
        return int(syscalls.memfd_create(name, flags | syscalls.MFD_NOEXEC_SEAL))
    return int(syscalls.memfd_create(name, flags))


@contextmanager
def shared(size: int, align: int = PAGE_SIZE) -> Iterator[tuple[int, int]]:
    """Yields ``(fd, address)`` of a file of memory of ``size`` bytes, empty, and a shared mapping of it."""
    fd = shared_file("vmalloc probe")
    try:
        syscalls.ftruncate(fd, size)
        with _place(size, align) as address:
            syscalls.mmap(address, size, READ_WRITE, syscalls.MAP_SHARED | syscalls.MAP_FIXED, fd)
            yield fd, address
    finally:
        os.close(fd)


def bytes_of(kind: str, address: int, size: int) -> int:
    """What smaps counts of a kind (``Rss``, ``AnonHugePages``) in a piece, in bytes; 0 where it lacks the kind."""
    return sum(usage.sizes.get(kind, 0) for usage in usage_in(address, address + size))


def flags_of(address: int) -> frozenset[str]:
    """The ``VmFlags`` of the mapping of an address."""
    return frozenset().union(*(usage.flags for usage in usage_in(address, address + 1)))


def mappings_of(address: int, size: int) -> int:
    """How many mappings a piece consists of."""
    return len(mappings_in(address, address + size))
