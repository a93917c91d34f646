"""The whole machine of a recorded kernel: which architecture it is, how much memory it needs, and what came of it.

Told from top to bottom: choose the architecture (``choose_arch``), at once, so that a wrong one is refused before
anything is replayed; when the replay has ended and its ledger is settled, make a machine that has memory for the
busiest moment, follow the ledger (``follower``), check that machine and allocator agree, and count (``follow``).

Any architecture will do that has the recorded page size and word, and whose kernel addresses hold the recorded range:
addresses are the allocator's affair.  A kernel that randomises its layout has moved the range; the machine's is then
moved to where the recorded one is, and what depends on the unmoved one (the shadows of KASAN and KMSAN) is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from vmalloc.areas.allocator import Allocator
from vmalloc.areas.ledger import Ledger
from vmalloc.errors import BadRequest, ValidationError
from vmalloc.kernels import KernelProfile
from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch, validate_arch
from vmalloc.machine.simulated.frames.states import MAX_ORDER
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.trace.replay.follower import Follower
from vmalloc.trace.replay.result import MachineResult
from vmalloc.units import MIB, TIB, align_up, format_range, format_size

__all__ = ["choose_arch", "follow", "validate_follower"]

#: Entries of a ledger between two calls of ``progress``.
STEP = 1 << 14

#: Memory beside what areas hold at the busiest moment: the share, against fragmentation, and the bytes per node and per
#: CPU, for page tables and the lists of the CPUs.
SPARE, NODE_SPARE, CPU_SPARE = 2, 64 * MIB, 4 * MIB

#: The most that may be busy at once: every page has a record, an entry in a table and a place in a list of frames.
MOST_BUSY = TIB

#: Frames in use up to which every structure of the machine is checked, too: that takes some 4 us for each of them;
#: comparing machine and allocator, which is always done, takes 0.1 us.
MOST_VALIDATED = 1 << 19

Progress = Callable[[int, int], None]


def choose_arch(name: str | None, window: tuple[int, int], page_shift: int) -> Arch:
    """Finds the architecture to replay on, with its vmalloc range where the recorded kernel has it.

    Args:
        name: an architecture of the table; None: the one whose vmalloc range is the recorded one, or else the first
            that can have it.
        window: the recorded vmalloc range, ``(vstart, vend)`` as passed to the allocator.
        page_shift: log2 of the recorded base page.

    Raises:
        BadRequest: there is no such architecture, or it cannot have the recorded range; the facts are named.
    """
    if name is not None:
        if name not in ARCHITECTURES:
            raise BadRequest(f"no architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
        reason = _why_not(ARCHITECTURES[name], window, page_shift)
        if reason:
            raise BadRequest(f"the trace cannot be replayed on {name}: {reason}")
        return _moved(ARCHITECTURES[name], window)
    fitting = [arch for arch in ARCHITECTURES.values() if not _why_not(arch, window, page_shift)]
    if not fitting:
        raise BadRequest(
            f"no architecture has {format_size(1 << page_shift)} pages and kernel addresses around the recorded range "
            f"{format_range(*window)}"
        )
    exact = [arch for arch in fitting if (arch.vmalloc_start, arch.vmalloc_end) == window]
    return _moved((exact or fitting)[0], window)


def _why_not(arch: Arch, window: tuple[int, int], page_shift: int) -> str:
    """Why an architecture cannot have the recorded range; an empty text when it can."""
    if arch.page_shift != page_shift:
        return f"its pages have {format_size(arch.page_size)}, the recorded kernel's {format_size(1 << page_shift)}"
    word_bits = 64 if window[1] >> 32 else 32
    if arch.word_bits != word_bits:
        return f"its words have {arch.word_bits} bits, the recorded kernel's {word_bits}"
    if not arch.kernel_start <= window[0] < window[1] <= arch.kernel_end:
        kernel = format_range(arch.kernel_start, arch.kernel_end)
        return f"the recorded range {format_range(*window)} is not within its kernel addresses {kernel}"
    try:
        validate_arch(_moved(arch, window))
    except ValidationError as error:
        return f"it cannot have the recorded range: {error}"
    return ""


def _moved(arch: Arch, window: tuple[int, int]) -> Arch:
    """The architecture with its vmalloc range at ``window``."""
    if (arch.vmalloc_start, arch.vmalloc_end) == window:
        return arch
    return replace(
        arch, vmalloc_start=window[0], vmalloc_end=window[1], kasan_shadow_offset=None, kasan_sw_tags_offset=None,
        kmsan_vmalloc_end=None,
    )


def follow(
    allocator: Allocator, ledger: Ledger, kernel: KernelProfile, arch: Arch, cpus: int, numa_nodes: int,
    progress: Progress | None = None,
) -> MachineResult:
    """Does on a machine what the allocator did, and checks that both agree.

    Args:
        allocator: as it is after the replay.
        ledger: all that happened to it, not settled yet.
        kernel: the version profile.
        arch: from ``choose_arch``.
        cpus: CPUs of the machine.
        numa_nodes: over how many nodes its memory is spread.
        progress: called with (entries done, entries in all) now and then.

    Raises:
        BadRequest: there can be no such machine: no memory of that size, no such number of nodes, areas outside its
            addresses.
        ValidationError: machine and allocator contradict each other.
    """
    began = time.perf_counter()
    ledger.settle()
    most, busiest = ledger.peak()
    low, high = ledger.hull()
    if most and not (arch.kernel_start <= low and high <= arch.kernel_end):
        kernel_range = format_range(arch.kernel_start, arch.kernel_end)
        raise BadRequest(f"areas in {format_range(low, high)}; the kernel addresses of {arch.name} are {kernel_range}")
    machine = SimulatedMachine(arch, kernel, cpus=cpus, nodes=_nodes(most, arch, cpus, numa_nodes))
    if most and not (arch.vmalloc_start <= low and high <= arch.vmalloc_start + arch.vmalloc_size):
        # Boot prepares the tables of processes for the vmalloc range. A kernel does the same for that of modules, which
        # a trace does not name: there the kernel's own table is what every CPU would see.
        for cpu in range(cpus):
            machine.mmu.do_switch_to(cpu, 0)
    follower = Follower(machine, ledger, kernel)
    total = len(ledger)
    _run(follower, busiest, total, progress)
    at_peak = _used(machine)
    peak_tables = machine.page_table.table_bytes
    _run(follower, total, total, progress)
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    validate_follower(follower, allocator)
    at_end = _used(machine)
    validated = sum(at_end) <= MOST_VALIDATED
    if validated:
        machine.validate()
    counts = machine.mmu.counters()
    made = follower.mappings_made()
    return MachineResult(
        arch=arch.name,
        cpus=cpus,
        numa_nodes=numa_nodes,
        memory_bytes=machine.info.nr_pages << arch.page_shift,
        entries=total,
        areas=len(follower.areas),
        page_table_bytes=machine.page_table.table_bytes,
        page_table_bytes_at_peak=peak_tables,
        tables=machine.page_table.tables_by_level(),
        mappings_made={1 << shift: made[shift] for shift in sorted(made)},
        mappings={1 << shift: count for shift, count in machine.page_table.leaves_by_shift().items()},
        huge_areas=follower.huge_areas,
        huge_fallbacks=follower.huge_fallbacks,
        flushes=counts["flushes"],
        full_flushes=counts["full_flushes"],
        ranged_flushes=counts["range_flushes"],
        proven_flushes=follower.proven_flushes,
        flushed_pages=counts["flushed_pages"],
        ipis=counts["ipis"],
        accesses=follower.accesses,
        tlb_misses=counts["misses"],
        stale_accesses=counts["stale_tlb"],
        failed_accesses=counts["unmapped"] + counts["readonly"],
        frames_taken=follower.frames_taken,
        frames_at_peak=at_peak,
        frames_at_end=at_end,
        validated=validated,
        seconds=seconds,
        validation_seconds=time.perf_counter() - began,
    )


def _nodes(most: int, arch: Arch, cpus: int, numa_nodes: int) -> list[int]:
    """Frames per node that suffice when ``most`` bytes are busy, whichever CPUs ask for them; raises BadRequest."""
    if numa_nodes < 1:
        raise BadRequest(f"a machine needs at least one NUMA node, got {numa_nodes}")
    if most > MOST_BUSY:
        raise BadRequest(
            f"areas of {format_size(most)} are busy at once; a simulated machine is made for {format_size(MOST_BUSY)}"
        )
    spare = numa_nodes * NODE_SPARE + cpus * CPU_SPARE
    frames = -(-(SPARE * most + spare) // (numa_nodes << arch.page_shift))
    return [align_up(frames, 1 << MAX_ORDER)] * numa_nodes


def _run(follower: Follower, last: int, total: int, progress: Progress | None) -> None:
    """Follows the ledger up to entry ``last``, in steps."""
    while follower.done < last:
        follower.run(min(last, follower.done + STEP))
        if progress is not None:
            progress(follower.done, total)


def _used(machine: SimulatedMachine) -> tuple[int, ...]:
    """Frames in use per node, page tables included."""
    return tuple(node.used for node in machine.frames.stats())


def validate_follower(follower: Follower, allocator: Allocator) -> None:
    """Checks that a machine has exactly the areas that an allocator has, page by page.

    Raises:
        ValidationError: it is not so.
    """
    nodes = allocator.nodes
    busy = sorted(nodes.range_of(v) for n in range(nodes.nr_nodes) for v in nodes.busy(n))
    page = 1 << nodes.page_shift
    expected = [(start, end if end - start == page else end - page) for start, end in busy]
    mapped = follower.ranges()
    if mapped != expected:
        wrong = min(set(mapped) ^ set(expected))
        told = "mapped and not busy" if wrong in set(mapped) else "busy and not mapped"
        raise ValidationError("machine that follows a replay", f"range {format_range(*wrong)}", told)
    follower.check()
