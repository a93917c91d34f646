"""Bars on standard error while a command works."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress_bars"]


@contextmanager
def progress_bars() -> Iterator[Any]:
    """Yields a maker of progress callbacks: bars on standard error when that is a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda text, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    percent = TextColumn("{task.percentage:3.0f}%")
    columns = (TextColumn("{task.description:>10}"), BarColumn(), percent, TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def make(text: str, total: int | None) -> Any:
            task = bars.add_task(text, total=total)

            def update(done: int, of: int | None) -> None:
                bars.update(task, completed=done, total=of)

            return update

        yield make
