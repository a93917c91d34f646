"""``vmalloc.simulated()``: a space over a modelled computer, and what only such a one can do.

Who runs is a setting here: ``on_cpu`` and ``in_context`` are context managers, so that a test reads as a story - "on
CPU 1, in a hard interrupt, free this" - and ends where it began.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vmalloc.calls.early import EarlyAreas
from vmalloc.errors import BadRequest
from vmalloc.flags import CONTEXT_NAMES
from vmalloc.kasan.kasan import Kasan
from vmalloc.kasan.layout import shadow_range
from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch, LeafNeed
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.simulated.mempolicy import MemPolicy
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.percpu.layout import PercpuSettings
from vmalloc.policy import Policy, policy_of
from vmalloc.space.space import VmallocSpace
from vmalloc.units import align_up, format_size, parse_size

__all__ = ["SimulatedSpace", "simulated"]

#: Node sizes are whole blocks of the largest order.
_SECTION_FRAMES = 1024


class SimulatedSpace(VmallocSpace):
    """An allocator over a simulated machine.

    ``machine`` is a ``FailingMachine`` around the ``SimulatedMachine``: ``space.machine.fail_next("take")`` makes an
    operation run short; everything else passes through to the machine and its parts.
    """

    # -- who runs --------------------------------------------------------------------------------------------------

    @contextmanager
    def on_cpu(self, cpu: int) -> Iterator[SimulatedSpace]:
        """What follows runs on this CPU.

        Raises:
            BadRequest: there is no such CPU.
        """
        if not 0 <= cpu < self.machine.info.cpus:
            raise BadRequest(f"CPU {cpu} of a machine whose CPUs are 0 to {self.machine.info.cpus - 1}")
        before = self.machine.running.cpu
        self.machine.running.cpu = cpu
        try:
            yield self
        finally:
            self.machine.running.cpu = before

    @contextmanager
    def in_context(self, context: str) -> Iterator[SimulatedSpace]:
        """What follows runs in ``"task"``, ``"softirq"``, ``"hardirq"`` or ``"nmi"`` context.

        Raises:
            BadRequest: no such context, or one that cannot interrupt the present one.
        """
        if context not in CONTEXT_NAMES:
            raise BadRequest(f"context {context!r}: one of {', '.join(CONTEXT_NAMES)}")
        before = self.machine.running.context
        if CONTEXT_NAMES.index(context) < before:
            raise BadRequest(f"{context} cannot interrupt {CONTEXT_NAMES[before]}")
        self.machine.running.context = CONTEXT_NAMES.index(context)
        try:
            yield self
        finally:
            self.machine.running.context = before

    @contextmanager
    def mempolicy(
        self, kind: str, nodes: Sequence[int], weights: Mapping[int, int] | None = None
    ) -> Iterator[SimulatedSpace]:
        """What follows runs under a memory policy (section 3.3): ``bind``, ``preferred``, ``interleave``, ``weighted``.

        Raises:
            BadRequest: no such policy, or a node that does not exist.
        """
        before = self.machine.policy
        self.machine.set_policy(MemPolicy(kind, tuple(nodes), dict(weights or {})))
        try:
            yield self
        finally:
            self.machine.set_policy(before)

    @contextmanager
    def rcu_read_lock(self) -> Iterator[SimulatedSpace]:
        """What follows is a read-side section of the running CPU: no grace period ends before it does."""
        cpu = self.machine.running.cpu
        self.state.rcu.reading[cpu] += 1
        try:
            yield self
        finally:
            self.state.rcu.reading[cpu] = max(0, self.state.rcu.reading[cpu] - 1)  # close() ends all of them

    def context_switch(self, process: int) -> int:
        """Makes the running CPU run a process, on that one's page tables (section 8.4); how many entries were copied.

        Raises:
            BadRequest: there is no such process; there are as many as CPUs.
        """
        with self.lock:
            copied: int = self.machine.context_switch(process)
        return copied

    # -- rules ----------------------------------------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The rules this space works by; ``policy.describe()`` tells where they are not the kernel's."""
        policy: Policy = self.state.policy
        return policy

    # -- access ----------------------------------------------------------------------------------------------------

    def access(self, addresses: Any, *, write: bool = False, cpu: int | None = None) -> Any:
        """Runs an array of addresses through one CPU's TLB and page tables, without stopping at faults.

        Args:
            addresses: NumPy array of unsigned 64-bit integers, or any buffer of such.
            write: whether they are stores.
            cpu: which CPU; the running one by default.

        Returns:
            Counts: accesses, hits, misses, walks, faults by kind, and the first that failed.

        Raises:
            BadRequest: there is no such CPU.
        """
        number = self.machine.running.cpu if cpu is None else cpu
        if not 0 <= number < self.machine.info.cpus:
            raise BadRequest(f"CPU {number} of a machine whose CPUs are 0 to {self.machine.info.cpus - 1}")
        with self.lock:
            if self.closed:
                raise BadRequest("this space was closed")
            return self.machine.access(addresses, write, number)

    def __repr__(self) -> str:
        return f"<simulated space: {self.machine.describe()}, kernel {self.state.kernel.name}>"


def simulated(
    arch: str | Arch = "x86_64",
    kernel: str = "6.19",
    cpus: int = 4,
    nodes: int = 1,
    memory: str | int | Sequence[str | int] = "4GiB",
    kasan: bool = False,
    seed: int = 0,
    *,
    distances: Sequence[Sequence[int]] | None = None,
    early: EarlyAreas | Iterable[tuple[int, int]] = (),
    observer: Callable[..., None] | None = None,
    tlb: Mapping[str, Any] | None = None,
    missing: Collection[LeafNeed] = (),
    policy: Policy | Mapping[str, object] | Iterable[str] | None = None,
    percpu: PercpuSettings | Mapping[str, Any] | None = None,
) -> SimulatedSpace:
    """Makes an allocator over a modelled computer.

    Args:
        arch: an architecture's name, or an ``Arch`` of one's own.
        kernel: version such as ``"6.12"``.
        cpus: number of CPUs.
        nodes: number of NUMA nodes; each has an equal part of the CPUs and of the memory.
        memory: in all, as bytes or text; or a list with the memory of each node.
        kasan: check every access against shadow memory (section 9); ``space.kasan`` is what checks.
        seed: of what is random (TLBs that replace at random).
        distances: between nodes, as a square table.
        early: areas that exist before the allocator does.
        observer: told what the kernel would trace: ``observer(event, **fields)``.
        tlb: ``sizes`` and ``policy`` of the TLBs.
        missing: ``LeafNeed`` that the CPUs do not have.
        policy: rules that differ from the kernel's: a ``Policy``, a mapping, or texts such as ``"fit=lowest"``.
        percpu: sizes of the first per-CPU chunk, and where it is: values of ``PercpuSettings``.

    Raises:
        BadRequest: there can be no such machine. ValueError: an unknown kernel version, or no size.

    >>> space = simulated("x86_64", cpus=2)
    >>> area = space.vmalloc(10000)
    >>> area.size, hex(area.address)
    (12288, '0xffffc90000000000')
    """
    found = _arch(arch)
    version = profile(kernel)
    _check_settings(seed, tlb, missing)
    if kasan and found.kasan_shadow_offset is None:
        known = ", ".join(name for name, arch in ARCHITECTURES.items() if arch.kasan_shadow_offset is not None)
        raise BadRequest(f"KASAN: no shadow offset is known for {found.name}; these have one: {known}")
    rules = policy_of(policy)
    machine = SimulatedMachine(
        found, version, cpus=cpus, nodes=_frames_per_node(found, memory, nodes), distances=distances,
        missing=frozenset(missing), seed=seed, tlb=None if tlb is None else dict(tlb),
        shared_ranges=[_shadow_range(found)] if kasan else (),
    )  # fmt: skip
    failing = FailingMachine(machine)
    checker = None
    if kasan:
        checker = Kasan(failing, in_bulk=version.shadow_in_bulk, release_merged=version.shadow_goes_with_neighbours)
    return SimulatedSpace(failing, version, early, observer, checker, rules, PercpuSettings.of(percpu))


def _shadow_range(arch: Arch) -> tuple[int, int]:
    """The shadow of an architecture's vmalloc range, in whole pages."""
    end = align_up(arch.vmalloc_end, arch.page_size)
    return shadow_range(arch.kasan_shadow_offset or 0, arch.vmalloc_start, end, arch.page_size)


def _check_settings(seed: Any, tlb: Any, missing: Any) -> None:
    """Raises BadRequest for settings of another kind than they have."""
    if not isinstance(seed, int):
        raise BadRequest(f"seed {seed!r}: a whole number")
    if tlb is not None and (not isinstance(tlb, Mapping) or set(tlb) - {"sizes", "policy"}):
        raise BadRequest(f"tlb {tlb!r}: a mapping with sizes, policy, or both")
    wrong = [need for need in missing if not isinstance(need, LeafNeed)]
    if wrong:
        raise BadRequest(f"missing {wrong[0]!r}: one of {', '.join(str(need) for need in LeafNeed)}")


def _arch(arch: str | Arch) -> Arch:
    if isinstance(arch, Arch):
        return arch
    if arch not in ARCHITECTURES:
        raise BadRequest(f"architecture {arch!r}: one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[arch]


def _frames_per_node(arch: Arch, memory: str | int | Sequence[str | int], nodes: int) -> list[int]:
    """How many frames each node has."""
    if not isinstance(memory, (str, int, Sequence)):
        raise BadRequest(f"memory {memory!r}: bytes, text such as 4GiB, or a list of those, one for each node")
    if isinstance(memory, (str, int)):
        if nodes < 1:
            raise BadRequest(f"{nodes} NUMA nodes: at least one")
        total = _bytes(memory)
        each = (total >> arch.page_shift) // nodes
        if nodes > 1:
            each -= each % _SECTION_FRAMES
        sizes = [each] * nodes
    else:
        sizes = [_bytes(part) >> arch.page_shift for part in memory]
        if nodes not in (1, len(sizes)):
            raise BadRequest(f"{nodes} NUMA nodes, but the memory of {len(sizes)}")
    if sum(sizes) == 0:
        least = format_size(_SECTION_FRAMES << arch.page_shift)
        raise BadRequest(f"{memory!r} is not enough memory for {nodes} nodes of at least {least}")
    return sizes


def _bytes(size: str | int) -> int:
    return parse_size(size) if isinstance(size, str) else size
