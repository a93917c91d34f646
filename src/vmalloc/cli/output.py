"""Standard output for tables: as wide as the terminal, and unfolded where there is none."""

from __future__ import annotations

from rich.console import Console

__all__ = ["Output"]

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
