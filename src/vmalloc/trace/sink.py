"""Where the readers of single events put what they read: one row, one count, or one error.

``ftrace.py`` walks the lines; ``side_events.py`` and ``kprobes.py`` each know some events.  They meet in the ``Sink``:
it knows the current line (its file, number, text and parsed prefix), so that the reader of an event only says what is
special about that event.
"""

from __future__ import annotations

import re
from typing import Any

from vmalloc.errors import TraceError
from vmalloc.trace.events import Trace
from vmalloc.trace.lines import LineParser
from vmalloc.trace.quote import quote
from vmalloc.trace.stops import FAULTS, WINDOWS_FULL
from vmalloc.units import ADDRESS_MAX

__all__ = ["Sink"]

#: Different names kept in ``Trace.skipped``; trace_printk texts look like names and could be without number.
MAX_SKIPPED_NAMES = 1000

_FIELD = re.compile(rb"([A-Za-z_]\w*)=(\S+)")
_NUMBER = re.compile(rb"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}")


class Sink:
    """The current line of a recording, and the trace it goes to.

    Attributes:
        trace: what is being read.
        parser: the line parser; its attributes are the prefix of the current line.
        file: the file the current line begins in.
        text: the current line, without its newline.
        cut: the current line is the last one and has no newline.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.parser: Any = LineParser(trace.events)
        self.file = trace.name
        self.text = b""
        self.cut = False

    def add(
        self,
        kind: int,
        *,
        va_start: int = 0,
        va_end: int = 0,
        count: int = 0,
        align: int = 0,
        window: int = 0,
    ) -> None:
        """Adds a row with the prefix of the current line."""
        parser = self.parser
        parser.add(
            kind, parser.cpu, parser.pid, parser.timestamp, va_start, va_end, count, align, window, parser.line - 1
        )

    def window(self, vstart: int, vend: int) -> int:
        """Gives the index of a window of addresses.

        Raises:
            TraceError: there are more than the table can number.
        """
        index: int = self.parser.window_of(vstart, vend)
        if index < 0:
            raise self.error(FAULTS[WINDOWS_FULL])
        return index

    def skip(self, what: str) -> None:
        """Counts a line that is not ours to read."""
        skipped = self.trace.skipped
        if what not in skipped and len(skipped) >= MAX_SKIPPED_NAMES:
            what = "(other events)"
        skipped[what] = skipped.get(what, 0) + 1

    def error(self, reason: str, around: int = 0) -> TraceError:
        """Makes the error of the current line, which is quoted from about offset ``around``."""
        if self.cut:
            reason = f"truncated: the input ends in the middle of this line ({reason})"
        return TraceError(self.file, self.parser.line - 1, f"{reason}: {quote(self.text, around)}")

    def fields(self, text: bytes) -> dict[bytes, bytes]:
        """Takes the ``name=value`` pairs of an event's text."""
        return dict(_FIELD.findall(text))

    def number(self, fields: dict[bytes, bytes], name: bytes) -> int:
        """Gives a field as an unsigned 64-bit number, decimal or ``0x`` hexadecimal.

        Raises:
            TraceError: the field is missing, no number, or too big.
        """
        value = self.number_or_fault(fields, name)
        if value is None:
            raise self.error(f"{name.decode()} could not be read by the kernel when it was recorded")
        return value

    def number_or_fault(self, fields: dict[bytes, bytes], name: bytes) -> int | None:
        """Like ``number``, but gives ``None`` for ``(fault)``: the kernel could not read the memory of a probe."""
        text = fields.get(name, b"")
        if text == b"(fault)":
            return None
        if not _NUMBER.fullmatch(text):
            raise self.error(f"field {name.decode()} is missing or garbled")
        value = int(text, 16 if text.startswith(b"0x") else 10)
        if value > ADDRESS_MAX:
            raise self.error(f"{name.decode()} does not fit in 64 bits")
        return value
