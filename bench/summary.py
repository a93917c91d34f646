"""What a run of the benchmarks measured, as a table for people and as JSON for programs.

A row is one figure: what was measured, the median and the quartiles of its rounds, the bar it is held against, what was
warm and what was cold, and the command that measures it again.  A missed bar is reported and nothing more: the machine
may be slow or busy, so no benchmark fails because of a time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["AT_LEAST", "AT_MOST", "Bar", "Row", "Say", "Summary"]

#: Tells what a long preparation is at.
Say = Callable[[str], None]

AT_LEAST, AT_MOST = "at least", "at most"


@dataclass(frozen=True)
class Bar:
    """What a figure should reach; ``relation`` is ``AT_LEAST`` or ``AT_MOST``."""

    relation: str
    value: float

    def is_reached(self, value: float) -> bool:
        """Whether ``value`` is on the right side."""
        return value >= self.value if self.relation == AT_LEAST else value <= self.value


@dataclass(frozen=True)
class Row:
    """One figure; see the module's opening. ``reached`` is None where there is no bar."""

    what: str
    unit: str
    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int
    bar: Bar | None
    reached: bool | None
    state: str
    command: str
    note: str = ""


@dataclass
class Summary:
    """All rows of a run, in the order they were measured, and tables for what does not fit into a row."""

    rows: list[Row] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def add(
        self, what: str, values: Sequence[float], unit: str, *, state: str, test: str, bar: Bar | None = None,
        note: str = "",
    ) -> Row:
        """Adds a figure from its rounds; ``test`` is what ``-k`` selects it by."""
        middle = statistics.median(values)
        lower, _, upper = statistics.quantiles(values, n=4) if len(values) > 1 else (middle, middle, middle)
        reached = bar.is_reached(middle) if bar else None
        command = f"make bench ARGS='-k {test}'" if " " not in test else f"make bench ARGS='-k \"{test}\"'"
        row = Row(what, unit, middle, lower, upper, len(values), bar, reached, state, command, note)
        self.rows.append(row)
        return row

    def as_json(self) -> dict[str, object]:
        """Plain values."""
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "rows": [asdict(row) for row in self.rows],
            "files": [str(path) for path in self.files],
        }

    def write(self, path: Path) -> None:
        """Writes the JSON."""
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")

    def lines(self) -> list[str]:
        """The table for people."""
        found = [f"{key}: {value}" for key, value in machine().items()]
        for row in self.rows:
            spread = f" (quartiles {_number(row.lower_quartile)} to {_number(row.upper_quartile)}, {row.rounds} rounds)"
            figure = f"{_number(row.median)} {row.unit}".strip()
            found += ["", row.what, f"    {figure}{spread if row.rounds > 1 else ''}{_verdict(row)}"]
            found += [f"    {text}" for text in (row.note, row.state, row.command) if text]
        for title, table in self.tables.items():
            found += ["", title, *_columns(table)]
        return [*found, "", *(f"written: {path}" for path in self.files)]


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "not known"
    return {
        "processor": f"{model}, {os.cpu_count()} CPUs",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load average at the end (1, 5, 15 minutes)": load,
    }


def _verdict(row: Row) -> str:
    if row.bar is None:
        return ""
    return f" -- bar: {row.bar.relation} {_number(row.bar.value)}, {'reached' if row.reached else 'MISSED'}"


def _number(value: float) -> str:
    """Three figures, four decimals below 1, and whole numbers from 100 on."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.4f}"


def _columns(table: list[list[str]]) -> list[str]:
    """Right-aligned columns, the first one left-aligned."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    found = []
    for first, *others in table:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        found.append("    " + "  ".join(cells))
    return found
