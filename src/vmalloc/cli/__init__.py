"""``vmalloc``: the command.

One file per command; this one parses what is common, and turns errors into one line on standard error.  Exit status: 0
done, 1 the answer is bad, 2 the request was bad, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vmalloc import __version__
from vmalloc.errors import VmallocError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    from vmalloc.cli import bench, info, replay

    parser = argparse.ArgumentParser(
        prog="vmalloc", description="Linux's vmalloc as a Python package.", epilog="Each command has its own --help."
    )
    parser.add_argument("--version", action="version", version=f"vmalloc {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    replay.add_parser(commands)
    bench.add_parser(commands)
    info.add_parser(commands)
    arguments, rest = parser.parse_known_args(argv)
    if rest and hasattr(arguments, "parameters") and not any(text.startswith("-") for text in rest):
        arguments.parameters += rest  # argparse takes positional arguments of a command in one piece only
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except (VmallocError, ValueError) as error:
        print(f"vmalloc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): not an error, and nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # what was printed could not be written
        print(f"vmalloc: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vmalloc: interrupted", file=sys.stderr)
        return 130
