"""Private memory: huge pages, taking pages before they are touched, giving them back lazily, and what a fork sees."""

from __future__ import annotations

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.probes.question import Answer, Ground, Question
from vmalloc.units import MIB, format_size

__all__ = ["QUESTIONS", "undo_thp_disable", "untried_huge"]

#: Huge pages above this are not tried: taking and clearing one (512 MiB with 64 KiB pages) is no small matter.
LARGEST_TRIED = 32 * MIB

THP = "/sys/kernel/mm/transparent_hugepage"
NR_PAGES = 64


def untried_huge(ground: Ground) -> Answer | None:
    """The answer where trying for a huge page is out of the question; None when it may be tried."""
    size = ground.facts.huge_size
    if size is None:
        return Answer(False, f"no {THP}", remedy="a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
    if size > LARGEST_TRIED:
        how = f"not tried: a huge page has {format_size(size)}"
        return Answer(False, how, {"huge_size": size}, "smaller base pages")
    return None


def undo_thp_disable(ground: Ground) -> str | None:
    """What to change where the process has forbidden itself huge pages; None where it has not."""
    return "start the process without PR_SET_THP_DISABLE (prctl)" if ground.facts.thp_disabled else None


def switch_thp_on(ground: Ground) -> str | None:
    """What to change where private huge pages are switched off, by the process or for all."""
    off = f"echo madvise > {THP}/enabled" if ground.facts.thp == "never" else None
    return undo_thp_disable(ground) or off


def _huge(ground: Ground) -> Answer:
    untried = untried_huge(ground)
    if untried is not None:
        return untried
    size = ground.facts.huge_size or 0
    with scratch.private(size, size) as address:
        syscalls.madvise(address, size, syscalls.MADV_HUGEPAGE)
        syscalls.store_byte(address, 1)
        got = scratch.bytes_of("AnonHugePages", address, size)
    numbers: dict[str, int | str] = {"huge_size": size, "enabled": ground.facts.thp, "defrag": ground.facts.thp_defrag}
    how = f"one byte touched made {format_size(got)} of {format_size(size)} huge, says smaps"
    return Answer(got >= size, how, numbers)


def _populate(ground: Ground) -> Answer:
    size = NR_PAGES * ground.facts.page_size
    with scratch.private(size) as address:
        syscalls.madvise(address, size, syscalls.MADV_POPULATE_WRITE)
        got = scratch.bytes_of("Rss", address, size)
    return Answer(got >= size, f"{format_size(got)} of {format_size(size)} resident untouched, says smaps")


def _lazy_free(ground: Ground) -> Answer:
    size = NR_PAGES * ground.facts.page_size
    with scratch.private(size) as address:
        syscalls.touch(address, size, ground.facts.page_size)
        syscalls.madvise(address, size, syscalls.MADV_FREE)
        kept = scratch.bytes_of("Rss", address, size)
        marked = scratch.bytes_of("LazyFree", address, size)
    # The kernel marks in batches, so a part of them says enough; memory that is gone at once would not be lazy.
    how = f"{format_size(kept)} of {format_size(size)} still resident, {format_size(marked)} marked, says smaps"
    return Answer(kept >= size and marked > 0, how)


def _flag(advice: int, flag: str) -> Answer:
    """Gives an advice that can only be seen at a fork, and looks for its flag."""
    with scratch.private(scratch.PAGE_SIZE) as address:
        syscalls.madvise(address, scratch.PAGE_SIZE, advice)
        there = flag in scratch.flags_of(address)
    return Answer(there, f"VmFlags {'has' if there else 'lacks'} {flag}, says smaps")


QUESTIONS = (
    Question(
        "huge", "private memory", "huge pages without asking root",
        "base pages: more page faults and TLB misses, all else the same",
        "free memory in one piece: echo 1 > /proc/sys/vm/compact_memory", _huge, cause=switch_thp_on,
    ),
    Question(
        "populate", "private memory", "take pages before they are touched (MADV_POPULATE_WRITE)",
        "touch one byte of each page", "Linux 5.14", _populate,
    ),
    Question(
        "lazy_free", "private memory", "give pages back when memory is short (MADV_FREE)",
        "give them back at once (MADV_DONTNEED): the next use faults again", "Linux 4.5", _lazy_free,
    ),
    Question(
        "dont_fork", "private memory", "keep idle memory from a forked child (MADV_DONTFORK)",
        "give idle memory back before a fork", "",
        lambda ground: _flag(syscalls.MADV_DONTFORK, "dc"),
    ),
    Question(
        "wipe_on_fork", "private memory", "clear memory in a forked child (MADV_WIPEONFORK)",
        "compare process numbers after a fork", "Linux 4.14",
        lambda ground: _flag(syscalls.MADV_WIPEONFORK, "wf"),
    ),
)  # fmt: skip
