"""Shared memory: a file without a path, its huge frames, and giving parts of it back.

Huge frames need no privilege and no setting: touch **one** page of two megabytes, and ask the kernel to collapse the
range. Touching all of them first would make the kernel copy 512 pages.
"""

from __future__ import annotations

import errno
import os

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.probes.private import undo_thp_disable, untried_huge
from vmalloc.machine.host.probes.question import Answer, Ground, Question
from vmalloc.units import format_size

__all__ = ["QUESTIONS"]

TRIES = 3


def _memfd(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.shared(size) as (fd, address), scratch.private(size) as second:
        flags = syscalls.MAP_SHARED | syscalls.MAP_FIXED
        syscalls.mmap(second, size, syscalls.PROT_READ, flags, fd)
        syscalls.store_byte(address, 77)
        seen = syscalls.load_byte(second) == 77
    return Answer(seen, "a store through one mapping was " + ("seen" if seen else "NOT seen") + " through another")


def _punch_hole(ground: Ground) -> Answer:
    size = 2 * ground.facts.page_size
    with scratch.shared(size) as (fd, address):
        syscalls.touch(address, size, ground.facts.page_size)
        before = os.fstat(fd).st_blocks * 512
        mode = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE
        syscalls.fallocate(fd, mode, 0, ground.facts.page_size)
        after = os.fstat(fd).st_blocks * 512
        cleared = syscalls.load_byte(address) == 0
    return Answer(after < before and cleared, f"the file shrank from {format_size(before)} to {format_size(after)}")


def _mapped_huge(address: int, size: int) -> int:
    """The bytes of a file that a mapping has as huge pages, after one load."""
    syscalls.load_byte(address)
    return scratch.bytes_of("ShmemPmdMapped", address, size)


def _collapse(ground: Ground) -> Answer:
    untried = untried_huge(ground)
    if untried is not None:
        return untried
    size = ground.facts.huge_size or 0
    with scratch.shared(size, size) as (_, address):
        syscalls.store_byte(address, 1)
        _collapse_patiently(address, size)
        got = _mapped_huge(address, size)
    how = f"one page touched and collapsed: {format_size(got)} of {format_size(size)} mapped huge, says smaps"
    return Answer(got >= size, how, {"huge_size": size})


def _collapse_patiently(address: int, size: int) -> None:
    """Collapses a range; the kernel says EAGAIN when pages are on the way somewhere."""
    for tries_left in reversed(range(TRIES)):
        try:
            syscalls.madvise(address, size, syscalls.MADV_COLLAPSE)
            return
        except OSError as error:
            if error.errno != errno.EAGAIN or not tries_left:
                raise


def _huge_shared(ground: Ground) -> Answer:
    untried = untried_huge(ground)
    if untried is not None:
        return untried
    size = ground.facts.huge_size or 0
    with scratch.shared(size, size) as (_, address):
        syscalls.madvise(address, size, syscalls.MADV_HUGEPAGE)
        syscalls.store_byte(address, 1)
        got = _mapped_huge(address, size)
    how = f"one byte touched made {format_size(got)} of {format_size(size)} huge, says smaps"
    return Answer(got >= size, how, {"shmem_enabled": ground.facts.thp_shared})


QUESTIONS = (
    Question(
        "memfd", "shared memory", "page frames that can be mapped more than once (memfd)",
        "no vmap of real frames, no sharing between processes", "Linux 3.17", _memfd,
    ),
    Question(
        "punch_hole", "shared memory", "give shared frames back one by one",
        "they stay until their file is closed", "Linux 3.5", _punch_hole, ("memfd",),
    ),
    Question(
        "collapse", "shared memory", "huge shared frames without root (MADV_COLLAPSE)",
        "base pages: mapping scattered frames costs a fault for each", "Linux 6.1", _collapse, ("memfd",),
        undo_thp_disable,
    ),
    Question(
        "huge_shared", "shared memory", "huge shared frames at the first touch",
        "touch one page and collapse, where collapse is there",
        "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled", _huge_shared, ("memfd",), undo_thp_disable,
    ),
)  # fmt: skip
