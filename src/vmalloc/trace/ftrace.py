"""Reads a recording of a kernel, ftrace's own text or ``trace-cmd report``, into one ``Trace``.

::

    Source ------> _Reader ---------> LineParser     hot events, complete        lines.py (compiled)
    chunks         whole lines   `--> SideEvents     percpu, csd, workqueue      side_events.py
                                 `--> KprobeEvents   6.1's probes, paired        kprobes.py

This file owns what is about *lines*: it joins lines that chunks or files cut in two, counts them per file, knows the
lines that are not events (headers, losses, stack traces), and tells foreign input from damaged input.

Nothing is repaired and nothing is guessed: a line is read completely, counted as skipped by name, or the reading ends
with a ``TraceError`` that names the file and the line.  What the recording itself lost (overwritten or dropped events)
is reported in the trace, for the reader of the trace to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vmalloc.errors import TraceError
from vmalloc.trace.events import LOST, Trace
from vmalloc.trace.kprobes import KprobeEvents
from vmalloc.trace.side_events import SideEvents
from vmalloc.trace.sink import Sink
from vmalloc.trace.source import Paths, Source
from vmalloc.trace.stops import BACKWARDS, END, FAULTS, ODD, OTHER

__all__ = ["Progress", "read_trace"]

#: Called with the bytes read so far and their number in all, ``None`` when that is not known.
Progress = Callable[[int, int | None], None]

#: No line of a recording is longer: the kernel's line buffer has two pages.
MAX_LINE = 1 << 16
TRACE_DAT_MAGIC = b"\x17\x08\x44tracing"

_NAME = re.compile(rb"([\w.-]+(?:[:/][\w.-]+)*):(?:\s+|$)")
_FUNCTION = re.compile(rb"[\w.]+ <-[\w.]+")
_ENTRIES = re.compile(rb"entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})")
_CPUS = re.compile(rb"#P:(\d{1,6})|^cpus=(\d{1,6})")
_LOST = re.compile(rb"\s*CPU:\s*(\d{1,4}) \[(?:LOST )?(?:(\d{1,18}) )?EVENTS(?: DROPPED)?\]\s*")
_STACK = re.compile(rb"\s*(?:=> |=>$|<(?:user )?stack trace ?>)")
_TRACE_CMD = re.compile(rb"(?:version = \d|cpus=\d|CPU:? ?\d+ is empty|overriding event|trace-cmd version|\s*$)")
_VMALLOCINFO = re.compile(rb"0x[0-9a-f]{8,16}-0x[0-9a-f]{8,16} +\d+")
_KNOWN = re.compile(rb"(?:alloc_vmap_area|free_vmap_area_noflush|purge_vmap_area_lazy|percpu_\w+_chunk):")


def read_trace(paths: Paths, *, progress: Progress | None = None) -> Trace:
    """Reads a recording whole.

    Args:
        paths: a path, ``"-"`` for standard input, or several paths that are the parts of one recording in order.
            Plain text or compressed with gzip, xz or zstd.
        progress: called after every chunk, about once per MiB.

    Returns:
        The events, and what the recording says about itself.

    Raises:
        TraceError: the input cannot be read, is no recording, is damaged, or has no vmalloc event.
    """
    with Source(paths) as source:
        reader = _Reader(source.name)
        for chunk in source:
            reader.feed(source.file, chunk)
            if progress:
                progress(source.bytes_read, source.bytes_total)
        return reader.finish()


class _Reader:
    """Lines out of chunks, and each line to the one who reads it."""

    def __init__(self, name: str) -> None:
        self.trace = Trace(name)
        self.sink = Sink(self.trace)
        self.parser = self.sink.parser
        self.side_events = SideEvents(self.sink)
        self.kprobes = KprobeEvents(self.sink)
        self._file = ""  # of the chunk fed last; sink.file is the one of the current line
        self._carry = b""  # the beginning of a line, whose end is in the next chunk
        self._after_mark = False

    # -- chunks to lines --------------------------------------------------------------------------------------------

    def feed(self, file: str, data: bytes) -> None:
        """Reads the lines that are complete with this chunk.

        Raises:
            TraceError: a line is damaged, or the input is no text.
        """
        if file != self._file:
            self._file = file
            if data.startswith(TRACE_DAT_MAGIC):
                raise TraceError(
                    file, 0, "is trace-cmd's binary format; convert it with: trace-cmd report -t FILE > FILE.txt"
                )
            if not self._carry:
                self._begin_file()
        first = data.find(b"\n") + 1
        if b"\0" in data:
            self._refuse_binary(data)
        if not first:
            self._keep(self._carry + data)
            return
        begin = 0
        if self._carry:
            self._scan(self._carry + data[:first], 0)
            begin = first
            if self.sink.file != file:
                self._begin_file()
                self.parser.line = 2  # line 1 of this file was the end of that line
        last = data.rfind(b"\n") + 1
        if last > begin:
            self._scan(data[:last], begin)
        self._keep(data[last:])

    def finish(self) -> Trace:
        """Ends the input.

        Raises:
            TraceError: it ends in the middle of a line, was empty, or has no vmalloc event.
        """
        if self._carry:
            self.sink.cut = True
            self._scan(self._carry + b"\n", 0)
        self.kprobes.finish()
        self.parser.finish()
        trace = self.trace
        trace.windows = list(self.parser.windows)
        trace.nr_lazy_max = self.parser.nr_lazy_max
        if not self._file:
            raise TraceError(trace.name, 0, "is empty")
        if self.parser.hot_events and self.kprobes.seen:
            raise TraceError(trace.name, 0, "holds both tracepoints and kprobes: every allocation is there twice")
        if not self.parser.hot_events and not self.kprobes.seen:
            raise TraceError(trace.name, 0, f"has no vmalloc event ({self._contents()})")
        trace.source = "kprobes" if self.kprobes.seen else "tracepoints"
        return trace

    def _keep(self, carry: bytes) -> None:
        self._carry = carry
        if len(carry) > MAX_LINE:
            raise TraceError(self._file, self._line(), f"no line ends within {MAX_LINE} bytes: this is no recording")

    def _begin_file(self) -> None:
        self.sink.file = self._file
        self.parser.line = 1

    def _line(self) -> int:
        """Gives the number of the line that begins next, in the file fed last."""
        return int(self.parser.line) if self.sink.file == self._file else 1

    def _refuse_binary(self, data: bytes) -> None:
        line = self._line() + data.count(b"\n", 0, data.find(b"\0"))
        raise TraceError(self._file, line, "binary data (a NUL byte): this is no text, or it was damaged")

    def _contents(self) -> str:
        counts = sorted(self.trace.skipped.items(), key=lambda item: -item[1])[:3]
        return "it has " + ", ".join(f"{count} {name}" for name, count in counts) if counts else "it has no event"

    # -- lines to readers -------------------------------------------------------------------------------------------

    def _scan(self, data: bytes, pos: int) -> None:
        """Reads whole lines; those the parser stops at are read here."""
        parser, sink = self.parser, self.sink
        while (code := parser.scan(data, pos)) != END:
            pos = parser.pos
            sink.text = data[parser.line_start : parser.line_end]
            if code == OTHER:
                self._event(data[parser.name_start : parser.line_end])
            elif code == ODD:
                self._odd_line(sink.text)
            else:
                raise self._fault(code)

    def _event(self, text: bytes) -> None:
        """Reads an event line from its name on."""
        self._after_mark = False
        found = _NAME.match(text)
        if not found:
            self._nameless(text)
            return
        name = found[1].decode()
        fields = text[found.end() :]
        short = name.replace("/", ":").rpartition(":")[2]  # without the system or group
        if reader := self.side_events.readers.get(short):
            reader(fields)
            self._after_mark = short in ("tracing_mark_write", "print")
        elif not self.kprobes.read(short, fields):
            self.sink.skip(short)

    def _nameless(self, text: bytes) -> None:
        if _STACK.match(text):
            self.sink.skip("stack trace")
        elif _FUNCTION.match(text):
            self.sink.skip("function")
        elif self.sink.cut:
            raise self.sink.error("no event name")
        else:
            self.sink.skip("(events without a name)")

    def _fault(self, code: int) -> TraceError:
        parser = self.parser
        reason = FAULTS[code]
        if code == BACKWARDS:
            reason += f" ({parser.timestamp} after {parser.last_timestamp})"
        return self.sink.error(reason, around=parser.fault_at - parser.line_start)

    # -- lines that are no events -----------------------------------------------------------------------------------

    def _odd_line(self, text: bytes) -> None:
        if text.startswith(b"#"):
            self._header(text)
        elif _STACK.match(text):
            self.sink.skip("stack trace")
        elif lost := _LOST.fullmatch(text):
            self._lost(int(lost[1]), int(lost[2] or 0))
        elif _TRACE_CMD.match(text):
            self._cpus(text)
        elif self._after_mark and not self.sink.cut and not _KNOWN.search(text):
            self.sink.skip("further lines of a mark")  # whoever writes to trace_marker may write several lines
        elif _VMALLOCINFO.match(text):
            raise self.sink.error("this is a snapshot (/proc/vmallocinfo), not a recording")
        else:
            raise self.sink.error("this is no line of ftrace or of trace-cmd report")

    def _header(self, text: bytes) -> None:
        if entries := _ENTRIES.search(text):
            self.trace.overwritten += max(0, int(entries[2]) - int(entries[1]))
        elif text.startswith(b"#####"):
            self.sink.skip("CPU buffer started")
        elif b" latency trace v" in text:
            raise self.sink.error("recorded in latency format; record with: trace_options nolatency-format")
        self._cpus(text)

    def _cpus(self, text: bytes) -> None:
        if found := _CPUS.search(text):
            self.trace.cpus = max(self.trace.cpus, int(found[1] or found[2]))

    def _lost(self, cpu: int, count: int) -> None:
        parser = self.parser
        self.trace.lost_events += count or 1
        parser.add(LOST, cpu, 0, parser.last_timestamp, 0, 0, count, 0, 0, parser.line - 1)
