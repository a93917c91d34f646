"""Quoting a piece of the input in a message."""

from __future__ import annotations

__all__ = ["quote"]

#: Characters of a line that a message shows.
WIDTH = 80


def quote(text: bytes, around: int = 0) -> str:
    """Quotes about 80 characters of a line for a message, those at offset ``around`` among them.

    Example:
        >>> quote(b"CPU:1 [LOST 12 EVENTS]")
        "'CPU:1 [LOST 12 EVENTS]'"
    """
    start = max(0, min(around - WIDTH // 2, len(text) - WIDTH))
    part = text[start : start + WIDTH].decode("utf-8", "replace")
    return f"{'...' if start else ''}{part!r}{'...' if start + WIDTH < len(text) else ''}"
