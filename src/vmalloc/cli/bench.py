"""``vmalloc bench``: the kernel's own workloads on a simulated machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vmalloc.cli.progress import progress_bars
from vmalloc.kernels import PROFILES
from vmalloc.policy import knob_table, parse_knobs
from vmalloc.units import GIB, MIB
from vmalloc.workloads.cases import CASES, cases_of, find_case
from vmalloc.workloads.parameters import ALL_CASES, PRESETS, Parameters, parse_parameters, preset

__all__ = ["add_parser", "machine_for"]

_EPILOG = """\
PARAMETER=VALUE are those of the kernel's module, by their names there: nr_threads, sequential_test_order,
test_repeat_count, test_loop_count, nr_pages, use_huge, run_test_mask, nr_pcpu_objects; and setup_divisor, which makes
the set-ups of full_fit_alloc and long_busy_list_alloc smaller. A preset is what the module's script gives it:
performance (in order, 3 repetitions of 1,000,000 loops), smoke (10 of 10,000), stress (a worker per CPU, 20 of
1,000,000). Without one it is a quick look: a worker per CPU, in order, 1,000 loops, 2,000 per-CPU objects, set-ups a
sixteenth of the kernel's.

Times are those of this computer; everything else depends on the arguments alone.

Knobs of --set, with the kernel's rules as defaults:
{knobs}

Exit status: 0 done; 1 a case failed that should not; 2 the request was bad.
"""

_QUICK_LOOPS = 1_000
_QUICK_OBJECTS = 2_000
_QUICK_SETUP = 16
#: Memory by default, and per CPU where there are many: what the full set-ups need.
_MEMORY, _MEMORY_PER_CPU = 4 * GIB, 512 * MIB


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser of ``vmalloc``."""
    parser = commands.add_parser(
        "bench",
        help="run the workloads of the kernel's test module on a simulated machine",
        description="Runs the cases of the kernel's test module (lib/test_vmalloc.c) on a simulated machine.",
        epilog=_EPILOG.format(knobs=knob_table()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parameters", nargs="*", metavar="PARAMETER=VALUE", help="parameter of the module; see below")
    parser.add_argument(
        "--workload", metavar="NAME", action="append", default=[],
        help="case to run, may be repeated; default: all that the kernel has",
    )
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    parser.add_argument("--cpus", type=int, default=4, metavar="N", help="CPUs; default: 4")
    parser.add_argument("--arch", default="x86_64", metavar="NAME", help="architecture; default: x86_64")
    parser.add_argument("--kernel", default="6.19", metavar="VERSION", help="6.1, 6.12, 6.19, or any release")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="NUMA nodes; default: 1")
    parser.add_argument("--memory", metavar="SIZE", help="default: 4GiB, with more than 8 CPUs 512MiB for each")
    parser.add_argument("--loops", type=int, metavar="N", help="the same as test_loop_count=N")
    parser.add_argument("--preset", choices=PRESETS, help="parameters as the module's script gives them")
    parser.add_argument(
        "--set", metavar="KNOB=VALUE", action="append", default=[],
        help="change the allocator's policy; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of sizes and interleaving; default: 0")
    parser.add_argument("--kasan", action="store_true", help="check every access against shadow memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    # Here and not above: they bring machines along, which other commands need not wait for.
    from vmalloc.cli.bench_report import print_cases, print_run
    from vmalloc.workloads.runner import run_workloads

    if arguments.list:
        if arguments.json:
            print(json.dumps(_cases(), indent=2))
        else:
            print_cases(_cases())
        return 0
    for name in arguments.workload:
        find_case(name)  # before a machine is made for it
    parameters = _parameters(arguments)
    space = machine_for(arguments)
    with progress_bars() as bars:
        result = run_workloads(
            space, parameters, workloads=arguments.workload, seed=arguments.seed, progress=bars("running", None)
        )
    if arguments.json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        print_run(result)
    return 1 if result.failed else 0


def _parameters(arguments: argparse.Namespace) -> Parameters:
    """The module's parameters: of a preset or the quick look, then what was said for itself."""
    if arguments.preset is not None:
        base = preset(arguments.preset, arguments.cpus)
    else:
        base = Parameters(
            nr_threads=max(arguments.cpus, 1), sequential_test_order=True, test_loop_count=_QUICK_LOOPS,
            nr_pcpu_objects=_QUICK_OBJECTS, setup_divisor=_QUICK_SETUP,
        )  # fmt: skip
    loops = [] if arguments.loops is None else [f"test_loop_count={arguments.loops}"]
    return parse_parameters([*loops, *arguments.parameters], base)


def machine_for(arguments: argparse.Namespace) -> Any:
    """The simulated machine that the arguments describe.

    Raises:
        BadRequest: there can be no such machine.
    """
    from vmalloc.machine.simulated.arch import ARCHITECTURES
    from vmalloc.space.simulated import simulated

    memory = arguments.memory
    if memory is None:
        memory = _MEMORY
        arch = ARCHITECTURES.get(arguments.arch)
        if arch is not None and arch.word_bits == 64:
            memory = max(memory, arguments.cpus * _MEMORY_PER_CPU)
    more: dict[str, Any] = {}
    if arguments.kasan:
        more["kasan"] = True
    if arguments.set:
        more["policy"] = parse_knobs(arguments.set)
    return simulated(
        arguments.arch, kernel=arguments.kernel, cpus=arguments.cpus, nodes=arguments.nodes, memory=memory,
        seed=arguments.seed, **more,
    )  # fmt: skip


def _cases() -> list[dict[str, Any]]:
    """The cases as plain values."""
    found = []
    for case in CASES:
        kernels = [name for name, kernel in PROFILES.items() if case in cases_of(kernel, ALL_CASES)]
        found.append(
            {
                "name": case.name, "bit": case.bit, "stresses": case.stresses, "expected_to_fail": case.fails,
                "kernels": kernels,
            }
        )  # fmt: skip
    return found
