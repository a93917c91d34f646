"""``vmalloc info``: what this machine offers for real memory, what serves instead of what it lacks, how to get it."""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING, Any

from vmalloc import __version__, _build
from vmalloc.errors import MachineUnavailable
from vmalloc.machine.host import require
from vmalloc.units import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from vmalloc.machine.host.capabilities import Capability, Facts, HostCapabilities, Limit

__all__ = ["add_parser"]

_EPILOG = """\
Each capability is found out by doing it, once, on a scratch piece of memory; --how tells what was seen. A missing one
is no error: what is used instead stands beside it, and what to change.

VMALLOC_HOST_WITHOUT=guard,collapse takes capabilities away by name, VMALLOC_HOST_LIMITS=maps=5000,address_space=4GiB
lowers limits: so it can be seen what a lesser machine would do. Both are marked as forced.

Exit status: 0; 2 the request or one of the two variables is bad.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser of ``vmalloc``."""
    parser = commands.add_parser(
        "info",
        help="show what this machine offers, with fallbacks and limits",
        description="Shows what this machine offers for real memory, what serves instead of what it lacks, and limits.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--how", action="store_true", help="also tell how each answer was found out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    missing, found = "", None
    try:
        require()
        from vmalloc.machine.host.probe import host_capabilities  # does not exist where there is no host machine

        found = host_capabilities()
    except MachineUnavailable as error:
        missing = str(error)
    if arguments.json:
        host = {"available": True} | found.as_json() if found is not None else {"available": False, "reason": missing}
        print(json.dumps({"versions": _versions(), "host": host}, indent=2))
    else:
        _print(found, missing, how=arguments.how)
    return 0


def _versions() -> dict[str, Any]:
    """What runs here."""
    modules = _build.compiled_modules().values()
    try:
        numpy = version("numpy")  # without importing it
    except PackageNotFoundError:
        numpy = None
    return {
        "vmalloc": __version__,
        "compiled_modules": sum(modules),
        "modules": len(modules),
        "pure": _build.PURE,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "numpy": numpy,
        "kernel": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }


def _print(found: HostCapabilities | None, missing: str, how: bool) -> None:
    """Prints the tables."""
    from vmalloc.cli.output import Output

    out = Output()
    out.begin_capture()
    out.print(_head(found, _versions()))
    if found is None:
        out.print(f"\n{missing}")
    else:
        out.print(_capabilities(found, how))
        out.print(_limits(found))
        out.print(_sum(found))
    # Cells are padded to their columns; nobody wants the spaces at the end of a line in a file.
    print("\n".join(line.rstrip() for line in out.end_capture().rstrip("\n").split("\n")))


def _sum(found: HostCapabilities) -> str:
    """How much is there, and whether anything of this was given from outside."""
    capabilities = found.capabilities.values()
    forced = sum(c.forced for c in capabilities) + sum(limit.forced for limit in found.limits.values())
    there = sum(capability.available for capability in capabilities)
    said = f"\n{there} of {len(capabilities)} capabilities are there; "
    return said + (f"FORCED from outside: {forced} of all answers" if forced else "nothing is forced")


def _table(*widths: int) -> Table:
    """A table without lines; the first column is bold, and each is at least so wide."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for place, width in enumerate(widths):
        table.add_column(style="" if place else "bold", overflow="fold", min_width=width)
    return table


def _head(found: HostCapabilities | None, versions: dict[str, Any]) -> Table:
    """Versions, and the machine in numbers."""
    table = _table(10, 1)
    count = f"{versions['compiled_modules']} of {versions['modules']} modules compiled"
    table.add_row("vmalloc", f"{versions['vmalloc']}, {'uncompiled (VMALLOC_PURE)' if versions['pure'] else count}")
    python, numpy = f"{versions['implementation']} {versions['python']}", versions["numpy"] or "not there"
    table.add_row("python", f"{python}, NumPy {numpy}")
    system = (versions["kernel"], versions["machine"], versions["libc"])
    table.add_row("system", ", ".join(filter(None, system)))
    if found is not None:
        _add_facts(table, found.facts)
    return table


def _add_facts(table: Table, facts: Facts) -> None:
    """Adds the rows of sizes and numbers."""
    huge = f", huge pages of {format_size(facts.huge_size)}" if facts.huge_size else ", no huge pages"
    locked = ", every new mapping locked (mlockall)" if facts.future_locked else ""
    pages = f"pages of {format_size(facts.page_size)}{huge}{locked}"
    table.add_row("memory", f"{format_size(facts.physical_bytes)} in {pages}")
    settings = f"private {facts.thp or '-'}, defrag {facts.thp_defrag or '-'}, shared {facts.thp_shared or '-'}"
    disabled = ", DISABLED for this process (PR_SET_THP_DISABLE)" if facts.thp_disabled else ""
    table.add_row("huge pages", settings + disabled)
    table.add_row("overcommit", {0: "0: guessed", 1: "1: always", 2: "2: never"}.get(facts.overcommit, "unknown"))
    cpus = f"{facts.cpus_online} online, {facts.cpus_allowed} for this process, {facts.cpus_possible} possible"
    table.add_row("CPUs", cpus)
    for node, distances in facts.nodes.items():
        own = "" if node in facts.nodes_allowed else ", not for this process"
        table.add_row(f"node {node}", f"distances {' '.join(map(str, distances))}{own}")


def _capabilities(found: HostCapabilities, how: bool) -> Table:
    """One line per capability, in groups."""
    table = _table(3, 13, 1, 1)
    for group, members in groupby(found.capabilities.values(), key=lambda capability: capability.group):
        table.add_row()
        table.add_row("", f"-- {group}")
        for capability in members:
            forced = " (forced)" if capability.forced else ""
            row = ("yes" if capability.available else "no", capability.name, capability.title + forced)
            table.add_row(*row, _notes(capability, how))
    return table


def _notes(capability: Capability, how: bool) -> str:
    """What serves instead, what to change, and how that was found out."""
    notes = []
    if not capability.available:
        notes.append(f"instead: {capability.fallback}")
        if capability.remedy:
            notes.append(f"to change: {capability.remedy}")
    if how:
        notes.append(f"seen: {capability.how}")
    return "; ".join(notes)


def _limits(found: HostCapabilities) -> Table:
    """One line per limit: how much, what is used, from where, and how to raise it."""
    table = _table(3, 13, 1, 1, 1, 1)
    table.add_row()
    table.add_row("", "-- limits")
    for limit in found.limits.values():
        title = limit.title + (" (forced)" if limit.forced else "")
        used = "" if limit.used is None else f"{_written(limit, limit.used)} used"
        if limit.value is None:
            table.add_row("", limit.name, title, "no limit", used, limit.how)
        else:
            note = f"{limit.how}; to change: {limit.remedy}"
            table.add_row("", limit.name, title, _written(limit, limit.value), used, note)
    return table


def _written(limit: Limit, number: int) -> str:
    """A number of a limit, in its unit."""
    return format_size(number) if limit.unit == "bytes" else f"{number:,}"
