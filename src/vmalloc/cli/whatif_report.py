"""The report of ``vmalloc replay --set``: the recorded kernel, the model, the model under a policy, side by side."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from vmalloc.cli.output import Output, counted
from vmalloc.trace.whatif.figures import Figures
from vmalloc.trace.whatif.whatif import WhatIf
from vmalloc.units import format_size

__all__ = ["print_what_if"]

#: Below this share of recorded addresses the report says that the model went its own way.
_TRUSTED = 0.5

#: Where a figure cannot be known.
_UNKNOWN = "-"


def print_what_if(found: WhatIf, console: Console | None = None) -> None:
    """Prints the comparison to standard output (or ``console``)."""
    out = console if console is not None else Output()
    out.print(_what(found))
    out.print(_comparison(found))
    out.print(f"in {found.seconds:.2f} s")
    if found.kernels.agreement < _TRUSTED:
        known = "" if found.start != "unknown" else "; what was busy before is not known: give --before SNAPSHOT"
        out.print(f"take care: the model without knobs parts from the recording early, compare the columns only{known}")


def _what(found: WhatIf) -> Table:
    """What was replayed, and how."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("trace", found.trace)
    table.add_row("kernel", f"{found.kernel}, {counted(found.cpus, 'CPU')}, starts from: {found.start}")
    table.add_row("policy", found.policy.describe())
    nodes = f"{found.recorded_nodes} -> {found.nodes}" if found.nodes != found.recorded_nodes else str(found.nodes)
    table.add_row("vmap nodes", nodes)
    threshold = f"{found.recorded_threshold_pages:,} pages"
    if found.threshold_pages != found.recorded_threshold_pages:
        threshold += f" -> {found.threshold_pages:,} pages"
    table.add_row("threshold", threshold)
    lag = found.median_lag_us
    lags = "none recorded, usual ones assumed" if lag is None else f"median {lag:,.0f} us"
    table.add_row("drain lag", f"{lags} ({found.drains_seen:,} drains)")
    if found.unknown_frees:
        table.add_row("left out", f"{found.unknown_frees:,} frees of areas that nothing is known of")
    return table


def _comparison(found: WhatIf) -> Table:
    """The figures, a line each."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("recorded kernel", "model", "with the policy"):
        table.add_column(title, justify="right")
    for name, show in _LINES:
        table.add_row(name, *(show(column) for column in (found.recorded, found.kernels, found.changed)))
    return table


def _count(number: float | None) -> str:
    return _UNKNOWN if number is None else f"{number:,.0f}"


def _size(number: int | None) -> str:
    return _UNKNOWN if number is None else format_size(number)


def _share(column: Figures) -> str:
    """The agreement in per cent, which never rounds up to 100."""
    return "100 %" if column.agreed == column.allocations else f"{min(100 * column.agreement, 99.99):.2f} %"


def _flushes(column: Figures) -> str:
    purges = column.purges
    return f"{purges.full_flushes:,} + {purges.ranged_flushes:,}"


def _visits(column: Figures) -> str:
    visits = column.visits_per_search
    return _UNKNOWN if visits is None else f"{visits:,.1f}"


_LINES: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("at the recorded address", _share),
    ("requests", lambda c: _count(c.allocations)),
    ("failures", lambda c: _count(c.failures)),
    ("recorded failures that had room", lambda c: _count(c.rescued)),
    ("largest hole at the end", lambda c: _size(c.largest_hole)),
    ("smallest largest hole", lambda c: _size(c.smallest_largest_hole)),
    ("fragmentation at the end", lambda c: f"{c.fragmentation:.4%}"),
    ("used from the bottom (span)", lambda c: _size(c.span_bytes)),
    ("peak busy", lambda c: _size(c.peak_busy_bytes)),
    ("purges", lambda c: _count(c.purges.purges)),
    ("  by threshold", lambda c: _count(c.purges.drains)),
    ("  forced by callers", lambda c: _count(c.purges.forced)),
    ("  addresses had run out", lambda c: _count(c.purges.overflows)),
    ("TLB flushes, full + ranged", _flushes),
    ("purges with nothing to flush", lambda c: _count(c.purges.empty)),
    ("lazy pages, mean", lambda c: _count(c.lazy.mean_pages)),
    ("lazy pages, 99 % of the time below", lambda c: _count(c.lazy.p99_pages)),
    ("lazy pages, most", lambda c: _count(c.lazy.max_pages)),
    ("longest purge, areas", lambda c: _count(c.purges.longest_areas)),
    ("longest purge, pages", lambda c: _count(c.purges.longest_pages)),
    ("served by pools", lambda c: _count(c.pool_hits)),
    ("aligned searches of the tree", lambda c: _count(c.aligned_searches)),
    ("nodes looked at by each", _visits),
)
