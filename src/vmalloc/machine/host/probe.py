"""Finding out what this machine offers: each thing once, by doing it, never by the kernel's version.

Versions lie in both directions: distributions carry features back, containers and security modules take them away. So a
probe maps a scratch piece of memory, does the thing, and looks at the result - in ``/proc``, through a second mapping,
or in the bytes. Afterwards the process has the mappings and descriptors it had before.

The answers are kept for the life of the process, and a child made by fork inherits them. Two threads that ask first at
the same time both probe, and one of the two equal answers is kept: a lock would be one more thing to be held by another
thread at a fork.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.errors import MachineUnavailable
from vmalloc.machine.host import scratch
from vmalloc.machine.host.capabilities import Capability, Facts, HostCapabilities
from vmalloc.machine.host.forced import WITHOUT, Forced, read_forced
from vmalloc.machine.host.limits import LIMIT_NAMES, kib_lines, number_in, read_limits
from vmalloc.machine.host.probes import addresses, guards, moving, places, private, shared, watching
from vmalloc.machine.host.probes.question import Ground, Question

__all__ = ["CAPABILITY_NAMES", "QUESTIONS", "host_capabilities", "probe"]

#: Every question, in the order in which they are asked and shown; what one needs stands before it.
QUESTIONS: tuple[Question, ...] = (
    *addresses.QUESTIONS, *private.QUESTIONS, *shared.QUESTIONS, *guards.QUESTIONS, *moving.QUESTIONS,
    *places.QUESTIONS, *watching.QUESTIONS,
)  # fmt: skip
CAPABILITY_NAMES = tuple(question.name for question in QUESTIONS)

SYSTEM = Path("/sys")
THP = SYSTEM / "kernel/mm/transparent_hugepage"

_found: list[HostCapabilities] = []


def host_capabilities() -> HostCapabilities:
    """Returns what this machine offers, with what the environment forces; probes at the first call of the process.

    Raises:
        BadRequest: VMALLOC_HOST_WITHOUT or VMALLOC_HOST_LIMITS names what there is not.
    """
    if not _found:
        _found.append(probe(read_forced(os.environ)))
    return _found[0]


def probe(forced: Forced = Forced()) -> HostCapabilities:  # noqa: B008 (frozen)
    """Probes the machine now, and keeps nothing.

    Args:
        forced: capabilities that are not to be tried and are then not there, and limits that are to count as lower.

    Raises:
        BadRequest: ``forced`` names a capability or a limit that there is not.
        MachineUnavailable: ``/proc`` cannot be read.
    """
    forced.check(CAPABILITY_NAMES, LIMIT_NAMES)
    try:
        ground = Ground(read_facts(), read_limits(forced.limits))
    except OSError as error:
        raise MachineUnavailable(f"no host machine: /proc cannot be read: {error}") from error
    answers: dict[str, Capability] = {}
    for question in QUESTIONS:
        missing = [name for name in question.needs if not answers[name].available]
        if question.name in forced.without:
            answers[question.name] = question.forced_away(WITHOUT)
        elif missing:
            answers[question.name] = question.without(missing[0])
        else:
            answers[question.name] = question.answered(ground)
    return HostCapabilities(answers, ground.limits, ground.facts)


def read_facts() -> Facts:
    """Reads what has no fallback: sizes, CPUs, nodes, and the kernel's settings."""
    nodes = _numbers(SYSTEM / "devices/system/node/online") or (0,)
    huge_size = number_in(THP / "hpage_pmd_size")
    return Facts(
        page_size=scratch.PAGE_SIZE,
        huge_size=huge_size or None,
        cpus_possible=max(_numbers(SYSTEM / "devices/system/cpu/possible"), default=(os.cpu_count() or 1) - 1) + 1,
        cpus_online=os.cpu_count() or 1,
        cpus_allowed=len(os.sched_getaffinity(0)),
        nodes={node: _distances(node) for node in nodes},
        nodes_allowed=_nodes_allowed() or nodes,
        physical_bytes=kib_lines(Path("/proc/meminfo"))["MemTotal"],
        overcommit=number_in(Path("/proc/sys/vm/overcommit_memory")) or 0,
        thp=_chosen(THP / "enabled"),
        thp_defrag=_chosen(THP / "defrag"),
        thp_shared=_chosen(THP / "shmem_enabled"),
        thp_disabled=_thp_disabled(),
        future_locked=_future_locked(),
    )


def _numbers(file: Path) -> tuple[int, ...]:
    """The numbers of a list such as ``0-3,8``; none when there is no such file."""
    numbers: list[int] = []
    with suppress(OSError):
        for part in filter(None, file.read_text(encoding="utf-8").strip().split(",")):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    return tuple(numbers)


def _distances(node: int) -> tuple[int, ...]:
    """The distances of a node to every online node, as the firmware gives them; 10 is itself."""
    with suppress(OSError):
        text = (SYSTEM / f"devices/system/node/node{node}/distance").read_text(encoding="utf-8")
        return tuple(map(int, text.split()))
    return (10,)


def _nodes_allowed() -> tuple[int, ...]:
    """The nodes whose memory this process may use; none when the kernel does not say."""
    with suppress(OSError):
        _, nodes = syscalls.get_mempolicy(0, syscalls.MPOL_F_MEMS_ALLOWED)
        return tuple(nodes)
    return ()


def _chosen(file: Path) -> str:
    """The word in brackets: ``always [madvise] never``."""
    with suppress(OSError):
        return file.read_text(encoding="utf-8").partition("[")[2].partition("]")[0]
    return ""


def _thp_disabled() -> bool:
    """Whether PR_SET_THP_DISABLE is in force; kernels without it cannot have it."""
    with suppress(OSError):
        return bool(syscalls.prctl(syscalls.PR_GET_THP_DISABLE))
    return False


def _future_locked() -> bool:
    """Whether a new mapping is locked into memory, which no call tells: its flags do."""
    with suppress(OSError), scratch.private(scratch.PAGE_SIZE) as address:
        return "lo" in scratch.flags_of(address)
    return False
