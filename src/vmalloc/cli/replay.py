"""``vmalloc replay``: a recorded kernel trace against the allocator."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

from vmalloc.cli.progress import progress_bars
from vmalloc.errors import BadRequest
from vmalloc.policy import knob_table, parse_knobs
from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.replay.result import ReplayResult
from vmalloc.trace.shipped import shipped_snapshots, shipped_trace
from vmalloc.trace.vmallocinfo import read_snapshot

if TYPE_CHECKING:
    from vmalloc.trace.events import Trace
    from vmalloc.trace.vmallocinfo import Snapshot

__all__ = ["add_parser"]

_EPILOG = """\
TRACE is ftrace text (/sys/kernel/tracing/trace), `trace-cmd report` text, or the kprobe events of kernels without the
vmalloc tracepoints; several files are read one after the other. Files may be plain, .gz, .xz or .zst, or - for standard
input. Without TRACE, the recording that comes with the package is replayed from the kernel's boot on.

With --machine simulated the same areas get page frames and page tables, and are used through TLBs: the report then has
page-table memory, sizes of mappings, flushes and interrupts, and frames per NUMA node.

With --set the recorded requests are served under other rules, and what comes out is printed beside the recorded kernel
and the model by the kernel's rules. The knobs:
KNOBS
Exit status: 0 the replay is sound; 1 an address is unexplained, a snapshot differs, or the machine met a stale
translation; 2 the request or a file is bad. With --set always 0 or 2: nothing is bad about being different.
""".replace("KNOBS", knob_table())


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser of ``vmalloc``."""
    parser = commands.add_parser(
        "replay",
        help="replay a recorded kernel trace and compare every address",
        description="Replays a trace of a real kernel and compares every address with the kernel's.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", nargs="*", metavar="TRACE", help="recording; default: the one shipped")
    parser.add_argument("--before", metavar="SNAPSHOT", help="/proc/vmallocinfo (real addresses) the trace starts from")
    parser.add_argument(
        "--after", metavar="SNAPSHOT", action="append", default=[], help="snapshot to compare with; may be repeated"
    )
    parser.add_argument("--kernel", metavar="VERSION", help="6.1, 6.12, 6.19, or any release; default: find out")
    parser.add_argument("--cpus", type=int, metavar="N", help="possible CPUs of the kernel; default: from the trace")
    parser.add_argument(
        "--machine", choices=["areas", "simulated"], default="areas",
        help="what to replay on: addresses alone (areas, the default), or with page frames, page tables and TLBs too",
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="architecture of the simulated machine; default: one with the recorded range"
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="NUMA nodes of the simulated machine; default: 1")
    parser.add_argument("--open-loop", action="store_true", help="never correct the state to the recorded address")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], dest="knobs",
        help="what if the kernel had this rule? see below; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    traces, after = arguments.trace, arguments.after
    if not traces:
        traces = [str(shipped_trace())]
        after = after or [str(path) for path in shipped_snapshots()]
    if arguments.knobs:
        _check_set(arguments)
    began = time.perf_counter()
    before = read_snapshot(arguments.before) if arguments.before else None
    snapshots = [read_snapshot(path) for path in after]
    with progress_bars() as bars:
        trace: Trace = read_trace(traces, progress=bars("reading", None))
        read_seconds = time.perf_counter() - began
        if arguments.knobs:
            return _what_if(arguments, trace, before, snapshots, bars)
        result = replay(
            trace, before=before, after=snapshots, kernel=arguments.kernel, cpus=arguments.cpus,
            open_loop=arguments.open_loop, machine=arguments.machine, arch=arguments.arch, numa_nodes=arguments.nodes,
            progress=bars("replaying", len(trace)),
            machine_progress=bars("machine", None) if arguments.machine == "simulated" else None,
        )
    result.read_seconds = read_seconds
    if arguments.json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        from vmalloc.cli.report import print_report

        print_report(result)
    return 1 if _bad(result) else 0


def _check_set(arguments: argparse.Namespace) -> None:
    """Refuses, before anything is read, what does not go together with ``--set``, and knobs that there are not."""
    parse_knobs(arguments.knobs)
    if arguments.machine != "areas" or arguments.arch is not None or arguments.nodes is not None:
        raise BadRequest("--set is about addresses: it does not go together with --machine, --arch and --nodes")


def _what_if(
    arguments: argparse.Namespace, trace: Trace, before: Snapshot | None, after: list[Snapshot], bars: Any
) -> int:
    """``--set``: the comparison of three columns."""
    from vmalloc.trace.whatif.whatif import what_if

    found = what_if(
        trace, parse_knobs(arguments.knobs), before=before, after=after, kernel=arguments.kernel, cpus=arguments.cpus,
        bars=lambda text: bars(text, len(trace)),
    )
    if arguments.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        from vmalloc.cli.whatif_report import print_what_if

        print_what_if(found)
    return 0


def _bad(result: ReplayResult) -> bool:
    """Tells whether the replay contradicts the kernel, or itself, in a way nothing explains."""
    machine = result.machine
    broken = machine is not None and (machine.stale_accesses or machine.failed_accesses)
    return bool(result.unexplained or result.after_snapshot_differences or broken)
