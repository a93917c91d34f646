"""What reports are printed to: standard output as it is."""

from __future__ import annotations

from rich.console import Console

__all__ = ["Output", "counted"]

_UNFOLDED = 100_000
"""Columns of what is not a terminal: a file or a pipe gets each line whole, however long a path is."""


class Output(Console):
    """Standard output as it is: names may look like markup, and a reader that has gone is for ``main`` to judge."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = _UNFOLDED

    def on_broken_pipe(self) -> None:
        """Rich would exit with status 1, which means a bad answer here."""
        raise BrokenPipeError


def counted(count: int, noun: str) -> str:
    """A count with its noun in the right number."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
