"""Reckons every number of ``docs/experiments.md``: what the kernel's aligned search costs, and what laziness buys.

    make experiments                          the recordings of this repository
    make experiments ARGS='FOLDER'            recordings elsewhere, named in the same way
    make experiments ARGS='FOLDER --json'     for programs
    make experiments ARGS='FOLDER --picture FILE.png'   the picture of the page (needs matplotlib)
    make experiments ARGS='--only lazy'       one table: search, room, lazy, pools, lag

All tables are of the open-loop model of ``vmalloc replay --set`` (``vmalloc.trace.whatif``), which is deterministic:
the same recordings give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median

from fidelity import recordings
from rich.console import Console
from rich.progress import track

from vmalloc.policy import Policy
from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import Opening, find_opening
from vmalloc.trace.replay.start import Start
from vmalloc.trace.shipped import shipped_trace
from vmalloc.trace.vmallocinfo import read_snapshot
from vmalloc.trace.whatif.demand import ASK, CHUNK, DROP, Demand, read_demand
from vmalloc.trace.whatif.drains import Drains
from vmalloc.trace.whatif.figures import Figures
from vmalloc.trace.whatif.model import Model
from vmalloc.units import MIB

HERE = Path(__file__).parent

#: The recordings of the second question, and the thresholds it is asked for.
SWEPT = ("h04_mix_2cpu", "h12_fork_1cpu", "h14_storm_1M")
THRESHOLDS = tuple(1 << n for n in range(10))  # MiB

#: Requests aligned to more are left out of shrunken ranges: they test the range itself (32 TiB in one recording).
MOST_ALIGN = 4 * MIB

#: Recordings with fewer aligned requests say nothing about aligned search.
ENOUGH_ALIGNED = 100

Row = dict[str, object]


@dataclass(frozen=True)
class Recording:
    """A recording, ready to be run."""

    name: str
    opening: Opening
    demand: Demand

    def run(self, policy: Policy) -> Figures:
        """The figures under a policy."""
        return Model(self.demand, self.opening, policy, self.name).run()

    @property
    def page_size(self) -> int:
        return 1 << self.opening.page_shift

    @property
    def aligned(self) -> int:
        """Requests for an alignment above a page."""
        demand = self.demand
        return sum(op == ASK and demand.align[n] > self.page_size for op, n in zip(demand.op, demand.area, strict=True))


def read(name: str, files: list[Path]) -> Recording:
    """Reads a recording with its snapshots."""
    folder = files[0].parent
    trace = read_trace([str(path) for path in files])
    before = [read_snapshot(str(path)) for path in sorted(folder.glob(f"{name}.before.*"))]
    later = sorted([*folder.glob(f"{name}.after.*"), *folder.glob(f"{name}.snap-*")])
    opening = find_opening(
        trace, before=before[0] if before else None, after=[read_snapshot(str(path)) for path in later]
    )
    return Recording(name, opening, read_demand(trace, opening))


# -- what the aligned search costs ---------------------------------------------------------------------------------


def search(recording: Recording) -> Iterator[Row]:
    """The kernel's search against the lowest fit, in the range the recording has."""
    if not recording.aligned:
        return
    kernel, lowest = Policy(), Policy(fit="lowest")
    models = [Model(recording.demand, recording.opening, policy) for policy in (kernel, lowest)]
    theirs, ours = (model.run() for model in models)
    demand = recording.demand
    asked = [n for op, n in zip(demand.op, demand.area, strict=True) if op == ASK]
    elsewhere = sum(models[0].placed[n] != models[1].placed[n] for n in asked)
    yield {
        "recording": recording.name,
        "requests": theirs.allocations,
        "aligned": recording.aligned,
        "searches": theirs.aligned_searches,
        "elsewhere": elsewhere,
        "span_kernel": theirs.span_bytes,
        "span_lowest": ours.span_bytes,
        "failed_kernel": theirs.failures,
        "failed_lowest": ours.failures,
        "rescued": ours.rescued,
        "visits_kernel": theirs.visits_per_search,
        "visits_lowest": ours.visits_per_search,
        "module_aligned": sum(
            demand.align[n] > recording.page_size and demand.windows[demand.window[n]] != recording.opening.window
            for n in asked
        ),
    }


def confined(recording: Recording, *, aligned_only: bool) -> Demand:
    """The demand of the vmalloc range, of areas that the recording makes; no chunks, none of the largest alignments."""
    demand, opening = recording.demand, recording.opening
    window = demand.windows.index(opening.window)
    least = recording.page_size if aligned_only else 0
    wanted = bytearray(
        n >= len(demand.kept) and demand.window[n] == window and least < demand.align[n] <= MOST_ALIGN
        for n in range(len(demand.size))
    )
    chunk_sizes = opening.groups.groups() if opening.groups is not None else []
    for op, n in zip(demand.op, demand.area, strict=True):
        if op == CHUNK:
            wanted[n : n + len(chunk_sizes)] = bytes(len(chunk_sizes))
    kept = [
        row for row in zip(demand.op, demand.time, demand.area, demand.cpu, strict=True)
        if row[0] in (ASK, DROP) and wanted[row[2]]
    ]  # fmt: skip
    columns = list(zip(*kept, strict=True)) or [(), (), (), ()]
    return replace(
        demand, op=array("B", columns[0]), time=array("q", columns[1]), area=array("I", columns[2]),
        cpu=array("H", columns[3]), kept=[0] * len(demand.kept),
    )  # fmt: skip


def peak(demand: Demand) -> int:
    """Most bytes that a confined demand has busy at once."""
    now = most = 0
    for op, n in zip(demand.op, demand.area, strict=True):
        now += demand.size[n] if op == ASK else -demand.size[n]
        most = max(most, now)
    return most


def in_range(recording: Recording, demand: Demand, policy: Policy, size: int, *, until_failure: bool) -> Figures:
    """Runs a confined demand in an empty range of ``size`` bytes."""
    low = recording.opening.window[0]
    windows = [(low, low + size) if window == recording.opening.window else window for window in demand.windows]
    opening = replace(recording.opening, window=(low, low + size), start=Start("boot"), groups=None, shape=0)
    # Nothing of a 64-bit kernel's nodes: what runs out of addresses has one.
    rules = replace(policy, vmap_nodes=1)
    return Model(replace(demand, windows=windows, kept=[]), opening, rules).run(until_failure=until_failure)


def least_range(recording: Recording, demand: Demand, policy: Policy, floor: int) -> int:
    """The smallest range, in bytes, in which nothing of ``demand`` fails: by bisection over pages."""

    def fits(pages: int) -> bool:
        return not in_range(recording, demand, policy, pages * page, until_failure=True).failures

    page = recording.page_size
    high = low = floor // page
    while not fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high * page


def room(recording: Recording) -> Iterator[Row]:
    """The smallest range for a demand under each fit; how much fails of the kernel's where the lowest fit just does."""
    if recording.aligned < ENOUGH_ALIGNED:
        return
    kernel, lowest = Policy(), Policy(fit="lowest")
    for aligned_only in (False, True):
        demand = confined(recording, aligned_only=aligned_only)
        most = peak(demand)
        if not most:
            continue
        theirs, ours = (least_range(recording, demand, policy, most) for policy in (kernel, lowest))
        yield {
            "recording": recording.name,
            "demand": "aligned only" if aligned_only else "all",
            "requests": demand.op.count(ASK),
            "peak": most,
            "range_kernel": theirs,
            "range_lowest": ours,
            "failed_kernel": in_range(recording, demand, kernel, ours, until_failure=False).failures,
            "failed_lowest": in_range(recording, demand, lowest, theirs, until_failure=False).failures,
        }


# -- what laziness costs and saves -----------------------------------------------------------------------------------


def lazy(recording: Recording) -> Iterator[Row]:
    """Thresholds from 1 to 512 MiB; ``flushes at once``: the same if the worker took no time."""
    if recording.name not in SWEPT:
        return
    at_once = replace(recording, demand=with_drains(recording, AtOnce))
    for mib in THRESHOLDS:
        policy = Policy(lazy_max_pages=f"{mib}MiB")
        figures = recording.run(policy)
        purges, held = figures.purges, figures.lazy
        yield {
            "recording": recording.name,
            "threshold_mib": mib,
            "default": mib * MIB // recording.page_size == recording.demand.drains.threshold,
            "flushes": purges.flushes,
            "flushes_at_once": at_once.run(policy).purges.flushes,
            "ranged": purges.ranged_flushes,
            "per_1000_frees": 1000 * purges.flushes / max(1, recording.demand.op.count(DROP)),
            "mean_pages": held.mean_pages,
            "p99_pages": held.p99_pages,
            "most_pages": held.max_pages,
            "longest_areas": purges.longest_areas,
            "longest_pages": purges.longest_pages,
            "pool_hits": figures.pool_hits,
            "span": figures.span_bytes,
        }


def pools(recording: Recording) -> Iterator[Row]:
    """Pools and their decay."""
    if recording.name not in SWEPT:
        return
    for setting in ("kernel", "pools=off", "decay=none", "decay=half", "decay=all", "vmap_nodes=1", "guard=off"):
        name, _, value = setting.partition("=")
        figures = recording.run(Policy() if setting == "kernel" else _policy(name, value))
        yield {
            "recording": recording.name,
            "set": setting,
            "pool_hits": figures.pool_hits,
            "pool_share": (figures.pool_hits or 0) / max(1, figures.allocations),
            "span": figures.span_bytes,
            "smallest_largest_hole": figures.smallest_largest_hole,
            "fragmentation": figures.fragmentation,
            "flushes": figures.purges.flushes,
            "aligned_searches": figures.aligned_searches,
            "visits": figures.visits_per_search,
        }


def _policy(name: str, value: str) -> Policy:
    from vmalloc.policy import parse_knobs

    return parse_knobs([f"{name}={value}"])


# -- how far the model can be trusted ----------------------------------------------------------------------------------


class AtOnce(Drains):
    """The drain work begins, and ends, at the crossing."""

    def near(self, time: int) -> tuple[int, int]:
        return 0, 0


class Usual(Drains):
    """Always the median lag and span."""

    def near(self, time: int) -> tuple[int, int]:
        return (int(median(self.lag)), int(median(self.span))) if self.lag else super().near(time)


def with_drains(recording: Recording, kind: type[Drains]) -> Demand:
    """The demand with another model of the drain worker."""
    drains = recording.demand.drains
    seen = {field.name: getattr(drains, field.name) for field in fields(Drains)}
    return replace(recording.demand, drains=kind(**seen))


def lag(recording: Recording) -> Iterator[Row]:
    """The three models of the drain worker, by the kernel's rules, against the recorded kernel."""
    drains = recording.demand.drains
    if not drains.lag:
        return
    row: Row = {
        "recording": recording.name,
        "drains": sum(p.why == "drain" for p in drains.purges),
        "purged_pages": sum(p.pages for p in drains.purges),
    }
    for name, kind in (("at_once", AtOnce), ("median", Usual), ("nearest", Drains)):
        figures = replace(recording, demand=with_drains(recording, kind)).run(Policy())
        row[f"{name}_drains"] = figures.purges.drains
        row[f"{name}_agreement"] = figures.agreement
    yield row


# -- tables ------------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[Recording], Iterator[Row]]] = {
    "search": search, "room": room, "lazy": lazy, "pools": pools, "lag": lag,
}  # fmt: skip
BYTES = {
    "span_kernel", "span_lowest", "peak", "range_kernel", "range_lowest", "span", "smallest_largest_hole",
}  # fmt: skip
SHARES = {"pool_share", "at_once_agreement", "median_agreement", "nearest_agreement"}


def cell(name: str, value: object) -> str:
    """A value as the page shows it."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "", None: "-"}[value]
    if name in BYTES and isinstance(value, int):
        return f"{value / MIB:,.2f}"
    if name in SHARES and isinstance(value, float):
        return f"{100 * value:.2f} %"
    if name == "fragmentation" and isinstance(value, float):
        return f"{value:.2e}"
    if isinstance(value, float):
        return f"{value:,.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def markdown(rows: list[Row]) -> str:
    """Rows as a table of a page; sizes in MiB."""
    names = list(rows[0])
    heads = [name.replace("_", " ") + (" (MiB)" if name in BYTES else "") for name in names]
    kinds = ["---" if isinstance(rows[0][name], str) else "---:" for name in names]
    lines = [heads, kinds, *([cell(name, row[name]) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(rows: list[Row], file: Path) -> None:
    """The picture: flushes against lazily held pages, a line per recording."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name in dict.fromkeys(row["recording"] for row in rows):
        mine = [row for row in rows if row["recording"] == name]
        (line,) = axes.loglog(
            [row["mean_pages"] for row in mine], [row["flushes"] for row in mine], marker="o", label=str(name)
        )
        for row in mine:
            text = f"{row['threshold_mib']}" + (" (kernel)" if row["default"] else "")
            axes.annotate(text, (row["mean_pages"], row["flushes"]), textcoords="offset points", xytext=(4, 4),
                          fontsize=7, color=line.get_color())  # fmt: skip
    axes.set_xlabel("pages held lazily, mean over time")
    axes.set_ylabel("TLB flushes")
    axes.set_title("lazy_max_pages from 1 to 512 MiB")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=list(TABLES), action="append", help="only this table; may be repeated")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw flushes against lazy pages")
    arguments = parser.parse_args()
    folders = arguments.folders or [shipped_trace().parent, HERE.parent / "tests" / "recorded"]
    todo = [item for folder in folders for item in recordings(folder).items()]
    found: dict[str, list[Row]] = {name: [] for name in arguments.only or TABLES}
    console = Console(stderr=True)
    for name, files in track(todo, "running", console=console, disable=not sys.stderr.isatty()):
        recording = read(name, files)
        for table, rows in found.items():
            rows.extend(TABLES[table](recording))
    if arguments.picture is not None and found.get("lazy"):
        draw(found["lazy"], arguments.picture)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for table, rows in found.items():
        print(f"\n{table}: {(TABLES[table].__doc__ or '').strip()}\n")
        print(markdown(rows) if rows else "no recording for this table")
    return 0


if __name__ == "__main__":
    sys.exit(main())
