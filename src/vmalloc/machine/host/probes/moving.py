"""Moving pages without copying them, and advice on many ranges at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.probes.question import Answer, Ground, Question

__all__ = ["QUESTIONS"]


def _dontunmap(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.private(size) as source, scratch.private(size) as target:
        syscalls.store_byte(source, 77)
        flags = syscalls.MREMAP_MAYMOVE | syscalls.MREMAP_FIXED | syscalls.MREMAP_DONTUNMAP
        syscalls.mremap(source, size, size, flags, target)
        moved = syscalls.load_byte(target) == 77
        left = scratch.mappings_of(source, size) == 1 and syscalls.load_byte(source) == 0
    how = f"the page {'moved' if moved else 'did NOT move'}, leaving {'empty memory' if left else 'NOTHING usable'}"
    return Answer(moved and left, how)


def _vectored(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.private(3 * size) as address:
        syscalls.touch(address, 3 * size, size)
        pidfd = syscalls.pidfd_open(os.getpid())
        try:
            spans = [(address, address + size), (address + 2 * size, address + 3 * size)]
            advised = syscalls.process_madvise(pidfd, spans, syscalls.MADV_DONTNEED)
        finally:
            os.close(pidfd)
        seen = [syscalls.load_byte(address + n * size) for n in range(3)]
    return Answer(advised == 2 * size and seen == [0, 1, 0], f"{advised} of {2 * size} bytes in two ranges given back")


@contextmanager
def _userfaultfd() -> Iterator[int]:
    """Yields a userfaultfd that needs no privilege."""
    fd = syscalls.userfaultfd(syscalls.UFFD_USER_MODE_ONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def _uffd(ground: Ground) -> Answer:
    with _userfaultfd() as fd:
        features = syscalls.uffd_features(fd)
    return Answer(True, f"opened for user mode, features {features:#x}", {"features": features})


def _uffd_move(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with _userfaultfd() as fd, scratch.private(size) as source, scratch.private(size) as target:
        syscalls.uffd_features(fd, syscalls.UFFD_FEATURE_MOVE)
        syscalls.uffd_register(fd, target, size)
        syscalls.store_byte(source, 77)
        syscalls.uffd_move(fd, target, source, size)
        # Read only when the page is there: a load of a missing page under a userfaultfd waits for ever.
        moved = scratch.bytes_of("Rss", target, size) == size and syscalls.load_byte(target) == 77
    return Answer(moved, f"a page {'was' if moved else 'was NOT'} moved")


QUESTIONS = (
    Question(
        "dontunmap", "moving", "move pages and leave the mapping (MREMAP_DONTUNMAP)",
        "mremap, and map the hole again: one more system call and mapping", "Linux 5.7", _dontunmap,
    ),
    Question(
        "vectored", "moving", "advise many ranges in one call (process_madvise)",
        "one madvise for each range, neighbours merged", "Linux 6.13", _vectored,
    ),
    Question(
        "userfaultfd", "moving", "page faults in our own hands (userfaultfd)",
        "nothing: no feature depends on it alone", "Linux 5.11, and a seccomp profile that allows userfaultfd", _uffd,
    ),
    Question(
        "uffd_move", "moving", "move base pages without mappings (UFFDIO_MOVE)",
        "mremap for units of a huge page, a copy below", "Linux 6.8", _uffd_move, ("userfaultfd",),
    ),
)  # fmt: skip
