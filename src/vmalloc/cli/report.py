"""The replay's report for people: what was replayed, how well it agrees, and on which assumptions."""

from __future__ import annotations

from pathlib import PurePath

from rich.console import Console
from rich.table import Table

from vmalloc.cli.output import Output, counted
from vmalloc.trace.replay.result import MachineResult, ReplayResult
from vmalloc.units import format_address, format_range, format_size

__all__ = ["print_report"]

_STARTS = {
    "boot": "an empty space at boot",
    "snapshot": "the snapshot before",
    "rewound": "the snapshot after, rewound through the trace",
    "unknown": "not known: older areas are not in the model",
}

_ASSUMPTIONS = {
    "cpu_moved": "allocations served by the pool of another CPU than the one that wrote the event",
    "frees_early": "frees that a purge had taken before they were written",
    "frees_late": "frees that a purge had not taken although they were written before it",
    "purges_begun_early": "purges begun before their flush event, because an allocation shows it",
    "purges_begun_by_count": "purges begun when the recorded number of areas was reached",
    "populated_early": "pools refilled before the purge event, because an allocation shows it",
    "unknown_frees": "frees of areas that are not in the model",
    "purge_counts_wrong": "purges that took another number of areas than recorded",
    "chunks_wrong": "per-CPU chunks at another base than recorded",
    "failures_wrong": "failed attempts that found room in the model",
    "not_placed": "corrections that were impossible",
    "evicted": "areas freed by a correction, because the kernel allocates where they are",
    "demoted": "small free blocks re-linked as leaves by corrections",
    "hidden": "ranges that corrections found not to be free",
}


def print_report(result: ReplayResult, console: Console | None = None) -> None:
    """Prints the report to standard output (or ``console``)."""
    out = console if console is not None else Output()
    out.print(_what(result))
    out.print(_agreement(result))
    for difference in result.snapshots:
        parts = []
        for name in ("busy_missing", "busy_extra", "lazy_missing", "lazy_extra"):
            ranges = getattr(difference, name)
            if ranges:
                parts.append(f"{len(ranges)} {name.replace('_', ' ')} (first {format_range(*ranges[0])})")
        flight = f"; {difference.in_flight} in flight left out" if difference.in_flight else ""
        found = ", ".join(parts) or "0 differences"
        out.print(f"snapshot {PurePath(difference.snapshot).name}: {found}{flight}", soft_wrap=True)
    machine = result.machine
    if machine is not None:
        out.print(_machine(machine))
    out.print(
        f"read in {result.read_seconds:.2f} s, replayed in {result.seconds:.2f} s "
        + (f"and {machine.seconds:.2f} s on the machine " if machine is not None else "")
        + f"({result.events_per_second / 1e6:.2f} million events per second)"
    )


def _what(result: ReplayResult) -> Table:
    """The recorded machine."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("trace", result.trace)
    table.add_row("kernel", f"{result.kernel} ({result.kernel_from})")
    cpus, nodes = counted(result.cpus, "CPU"), counted(result.nodes, "vmap node")
    table.add_row("machine", f"{cpus}, {nodes}, {format_size(result.page_size)} pages")
    table.add_row("range", format_range(result.vmalloc_start, result.vmalloc_end))
    table.add_row("starts from", _STARTS[result.start] + ("; open loop" if result.open_loop else ""))
    skipped = f" ({result.skipped_events:,} older than the snapshot)" if result.skipped_events else ""
    table.add_row(
        "events", f"{result.events:,}: {result.allocations:,} allocations, {result.frees:,} frees, "
        f"{result.purges:,} purges{skipped}",
    )
    if result.lost_events or result.overwritten:
        table.add_row("lost", f"{result.lost_events:,} events lost, {result.overwritten:,} overwritten, says ftrace")
    table.add_row("peak busy", format_size(result.peak_busy_bytes))
    hole = format_size(result.largest_hole)
    table.add_row("free at end", f"largest hole {hole}, fragmentation {result.fragmentation:.2%}")
    return table


def _agreement(result: ReplayResult) -> Table:
    """The agreement, the mismatches by cause, and the assumptions."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", style="bold")
    table.add_column(overflow="fold")
    share = _percent(result.agreement, result.agreed == result.allocations)
    failed = result.allocations - result.placements
    note = f" ({result.placements:,} placements, {failed:,} failed attempts)" if failed else ""
    table.add_row(f"{result.agreed:,}", f"of {result.allocations:,} allocations at the kernel's address, {share}{note}")
    for cause, count in result.mismatches.items():
        table.add_row(f"{count:,}", f"elsewhere: {cause}")
    if result.reordered:
        table.add_row(f"{result.reordered:,}", "allocations happened before one that was written earlier")
    if result.pcpu_chunks:
        unseen = result.pcpu_chunks_hidden
        hidden = f" ({unseen:,} of them recorded with a hashed base)" if unseen else ""
        many = counted(result.pcpu_chunks, "per-CPU chunk")
        table.add_row(f"{result.pcpu_chunks_agreed:,}", f"of {many} at the kernel's base{hidden}")
    for name, count in result.assumptions.items():
        table.add_row(f"{count:,}", _ASSUMPTIONS.get(name, name))
    first = result.first_mismatch
    if first is not None:
        table.add_row(
            "first", f"line {first.line}, CPU {first.cpu}, pid {first.pid}: {format_size(first.size)} aligned to "
            f"{format_size(first.align)} at {format_address(first.recorded)}, here {format_address(first.modelled)}",
        )
    return table


def _machine(machine: MachineResult) -> Table:
    """What the simulated machine met."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    nodes = counted(machine.numa_nodes, "NUMA node")
    memory = format_size(machine.memory_bytes)
    table.add_row("simulated", f"{machine.arch}, {counted(machine.cpus, 'CPU')}, {nodes}, {memory} of memory")
    levels = ", ".join(f"{count:,} {name}" for name, count in machine.tables.items())
    table.add_row("page tables", f"{format_size(machine.page_table_bytes)}: {levels}")
    made = ", ".join(f"{count:,} of {format_size(size)}" for size, count in machine.mappings_made.items())
    table.add_row("mappings", f"{made or 'none'}; {counted(machine.huge_fallbacks, 'area')} without blocks to be huge")
    proven = f", {machine.proven_flushes:,} of them proven by corrections" if machine.proven_flushes else ""
    kinds = f"{machine.ranged_flushes:,} of a range ({machine.flushed_pages:,} pages), {machine.full_flushes:,} full"
    table.add_row("TLB flushes", f"{machine.flushes:,}: {kinds}{proven}; {counted(machine.ipis, 'interrupt')}")
    failed = f", {machine.failed_accesses:,} FAILED" if machine.failed_accesses else ""
    stale = f"{machine.stale_accesses:,} through stale translations{failed}"
    table.add_row("accesses", f"{machine.accesses:,}: {machine.tlb_misses:,} missed the TLB, {stale}")
    table.add_row("frames", f"{machine.frames_taken:,} taken; in use at the peak {_each(machine.frames_at_peak)}")
    table.add_row("", f"in use at the end {_each(machine.frames_at_end)}, for {counted(machine.areas, 'area')}")
    return table


def _each(frames: tuple[int, ...]) -> str:
    """Frames per node."""
    if len(frames) == 1:
        return f"{frames[0]:,}"
    return ", ".join(f"{count:,} on node {node}" for node, count in enumerate(frames))


def _percent(share: float, exact: bool) -> str:
    """A share in per cent that never rounds up to 100."""
    return "100 %" if exact else f"{min(share * 100, 99.9999):.4f} %"
