"""Prints how well the replay agrees with every recording of a folder, as a table for ``docs/fidelity.md``.

    make fidelity                         the recordings of this repository
    make fidelity ARGS='FOLDER ...'       recordings elsewhere, named in the same way
    make fidelity ARGS='--json'           for programs

A recording is ``NAME.trace*`` or ``NAME.report.txt*`` (parts are read in the order of their names), with snapshots
``NAME.before.*``, ``NAME.after.*`` and ``NAME.snap-*``.  Columns: open loop; corrected; corrected, but events taken in
the order they were written (no slack); corrected, but with one assumed shape of the free tree only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.shipped import shipped_trace
from vmalloc.trace.vmallocinfo import read_snapshot

HERE = Path(__file__).parent


def recordings(folder: Path) -> dict[str, list[Path]]:
    """The recordings of ``folder``: name to its files in order."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name, _, kind = path.name.partition(".")
        if kind.startswith(("trace", "report.txt")) and not kind.startswith("trace.dat"):
            found.setdefault(name, []).append(path)
    return found


def measure(name: str, files: list[Path]) -> dict[str, object]:
    """Replays one recording in all ways."""
    folder = files[0].parent
    trace = read_trace([str(path) for path in files])
    before = [read_snapshot(str(path)) for path in sorted(folder.glob(f"{name}.before.*"))]
    later = sorted([*folder.glob(f"{name}.after.*"), *folder.glob(f"{name}.snap-*")])
    after = [read_snapshot(str(path)) for path in later]
    known = {"before": before[0] if before else None, "after": after}
    opened = replay(trace, open_loop=True, **known)
    corrected = replay(trace, **known)
    return {
        "name": name,
        "kernel": corrected.kernel,
        "nodes": corrected.nodes,
        "start": corrected.start,
        "allocations": corrected.allocations,
        "open_loop": opened.agreed,
        "corrected": corrected.agreed,
        "in_written_order": replay(trace, slack=0, **known).agreed,
        "one_shape": replay(trace, shapes=1, **known).agreed,
        "reordered": corrected.reordered,
        "mismatches": corrected.mismatches,
        "after_snapshot_differences": corrected.after_snapshot_differences,
    }


def share(part: object, whole: object) -> str:
    """A share in per cent that never rounds up to 100."""
    assert isinstance(part, int)
    assert isinstance(whole, int)
    return "100 %" if part == whole else f"{min(100 * part / whole, 99.9999):.4f} %"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folders = arguments.folders or [shipped_trace().parent, HERE.parent / "tests" / "recorded"]
    todo = [item for folder in folders for item in recordings(folder).items()]
    console = Console(stderr=True)
    shown = track(todo, "replaying", console=console, disable=not sys.stderr.isatty())
    rows = [measure(name, files) for name, files in shown]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table(box=None)
    for title in ("recording", "kernel", "start", "allocations", "open loop", "corrected", "misses", "reordered",
                  "no slack", "one shape", "snapshot differences"):
        table.add_column(title, justify="left" if title in ("recording", "kernel", "start") else "right")
    for row in rows:
        n = row["allocations"]
        assert isinstance(n, int)
        assert isinstance(row["corrected"], int)
        table.add_row(
            str(row["name"]), f"{row['kernel']}, {row['nodes']} nodes", str(row["start"]), f"{n:,}",
            share(row["open_loop"], n), share(row["corrected"], n), f"{n - row['corrected']:,}", str(row["reordered"]),
            share(row["in_written_order"], n), share(row["one_shape"], n), str(row["after_snapshot_differences"]),
        )
    Console(width=200).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
