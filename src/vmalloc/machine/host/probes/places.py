"""Places: the NUMA node of memory, asked for and read back, and the CPU of the calling thread."""

from __future__ import annotations

import vmalloc.machine.host.syscalls as syscalls
from vmalloc.machine.host import scratch
from vmalloc.machine.host.probes.question import Answer, Ground, Question

__all__ = ["QUESTIONS"]

SANDBOX = "a container that may: docker run --cap-add SYS_NICE"
TRIES = 8


def _page_nodes(ground: Ground) -> Answer:
    size = ground.facts.page_size
    with scratch.private(2 * size) as address:
        syscalls.store_byte(address, 1)
        there, missing = syscalls.page_nodes([address, address + size])
    return Answer(there in ground.facts.nodes and missing < 0, f"a page is on node {there}; an untouched one on none")


def _mbind(ground: Ground) -> Answer:
    size = ground.facts.page_size
    wanted = ground.facts.nodes_allowed[-1]
    with scratch.private(size) as address:
        syscalls.mbind(address, size, syscalls.MPOL_BIND, [wanted])
        syscalls.store_byte(address, 1)
        got, _ = syscalls.get_mempolicy(address, syscalls.MPOL_F_ADDR | syscalls.MPOL_F_NODE)
    nodes = len(ground.facts.nodes_allowed)
    alone = "; there is no other" if nodes == 1 else f", of {nodes}"
    return Answer(got == wanted, f"a page bound to node {wanted} is on node {got}{alone}", {"nodes": nodes})


def _rseq(ground: Ground) -> Answer:
    cpu = syscalls.rseq_cpu()
    if cpu < 0:
        return Answer(False, "libc registers no restartable sequences")
    for _ in range(TRIES):  # the thread may move between the two
        cpu, (by_call, _node) = syscalls.rseq_cpu(), syscalls.getcpu()
        if cpu == by_call:
            return Answer(True, "the thread's own memory names the CPU that the kernel names")
    return Answer(False, f"the thread's own memory says CPU {cpu}, the kernel {by_call}")


QUESTIONS = (
    Question(
        "mbind", "places", "memory on a chosen NUMA node (mbind)",
        "the node of the CPU that touches a page first", SANDBOX, _mbind,
    ),
    Question(
        "page_nodes", "places", "read back on which node each page is (move_pages)",
        "placement is not known", SANDBOX, _page_nodes,
    ),
    Question(
        "rseq", "places", "the current CPU without a call (rseq)",
        "sched_getcpu: 2 ns", "glibc 2.35, on x86-64 or arm64", _rseq,
    ),
)  # fmt: skip
