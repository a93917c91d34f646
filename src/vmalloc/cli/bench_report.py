"""The report of ``vmalloc bench`` for people: a row per case, the space at the end, the module's own lines."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from vmalloc.cli.output import Output, counted
from vmalloc.units import format_size
from vmalloc.workloads.result import CaseResult, RunResult

__all__ = ["print_cases", "print_run"]

_MOST_SUMMARY_LINES = 60


def print_run(result: RunResult, console: Console | None = None) -> None:
    """Prints a run to standard output (or ``console``)."""
    out = console if console is not None else Output()
    lines = result.summary_lines()
    for line in lines[:_MOST_SUMMARY_LINES]:
        out.print(line, soft_wrap=True)
    if len(lines) > _MOST_SUMMARY_LINES:
        out.print(f"({len(lines) - _MOST_SUMMARY_LINES:,} lines more of other workers; --json has them)")
    out.print(_what(result))
    out.print(_costs(result))
    for case in result.cases:
        if case.missing:
            out.print(f"{case.case.name}: not available: this space has no {', '.join(case.missing)}", soft_wrap=True)
        for reason in case.reasons:
            word = "failed as expected" if case.case.fails else "FAILED"
            out.print(f"{case.case.name} {word}: {reason}", soft_wrap=True)
    out.print(_end(result))


def _what(result: RunResult) -> Table:
    """The machine, and how it was run."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    machine, how = result.machine, result.parameters
    memory = format_size(machine["memory_bytes"])
    table.add_row(
        "machine", f"{machine['arch']}, Linux {machine['kernel']}, {counted(machine['cpus'], 'CPU')}, "
        f"{counted(machine['nodes'], 'NUMA node')}, {memory}",
    )  # fmt: skip
    order = "in order" if how.sequential_test_order else "shuffled"
    setup = "" if how.setup_divisor == 1 else f", set-ups 1/{how.setup_divisor} of the kernel's"
    table.add_row(
        "run", f"{counted(how.nr_threads, 'worker')}, {how.test_repeat_count} x {how.test_loop_count:,} loops, {order}"
        f"{setup}, seed {result.seed}; {result.seconds:.2f} s",
    )  # fmt: skip
    return table


#: Columns of what the machine counted, by the names of ``stats``; those that are 0 everywhere are left out.
_COSTS = {
    "purges": "purges",
    "full flushes": "tlb_full_flushes",
    "ranged": "tlb_range_flushes",
    "IPIs": "ipis",
    "TLB misses": "page_walks",
    "faults": "vmalloc_faults",
    "spurious": "spurious_faults",
    "pool hits": "pool_hits",
    "huge fallbacks": "huge_fallbacks",
    "grace periods": "rcu_grace_periods",
}


def _costs(result: RunResult) -> Table:
    """A row per case: how it went, how long a loop took here, and what it cost the simulated machine."""
    cases = [case for case in result.cases if not case.missing]
    shown = {title: name for title, name in _COSTS.items() if any(case.costs.get(name) for case in cases)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workload", no_wrap=True)
    table.add_column("result")
    for title in ("best ns/loop", "mean", *shown):
        table.add_column(title, justify="right")
    for case in cases:
        times = [f"{case.best_ns_per_loop:,.0f}", f"{case.mean_ns_per_loop:,.0f}"]
        table.add_row(case.case.name, _went(case), *times, *(f"{case.costs[name]:,}" for name in shown.values()))
    return table


def _went(case: CaseResult) -> str:
    """Passed, failed and failed as expected, those that there were."""
    counts = {"passed": case.total("passed"), "FAILED": case.total("failed"), "xfailed": case.total("xfailed")}
    return ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)


def _end(result: RunResult) -> Table:
    """The space afterwards."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    end = result.end
    hole = format_size(int(end["largest_free"]))
    table.add_row("free at end", f"largest hole {hole}, fragmentation {end['fragmentation']:.4%}")
    table.add_row("not reusable yet", f"{end['lazy_pages']:,} pages lazy, {end['pooled_pages']:,} in pools")
    if "page_table_bytes" in end:
        table.add_row("page tables", format_size(int(end["page_table_bytes"])))
    kept = " (per-CPU chunks, which are kept)" if end["areas"] and not end["pages"] else ""
    table.add_row("left behind", f"{counted(int(end['areas']), 'area')}{kept}")
    return table


def print_cases(cases: list[dict[str, Any]]) -> None:
    """Prints what there is to run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("workload")
    table.add_column("bit", justify="right")
    for name in ("stresses", "kernels", "expected"):
        table.add_column(name)
    for case in cases:
        expected = "to fail" if case["expected_to_fail"] else "to pass"
        table.add_row(case["name"], str(case["bit"]), case["stresses"], " ".join(case["kernels"]), expected)
    Output().print(table)
