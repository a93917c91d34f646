"""The events of a 6.1 kernel, which has no vmalloc tracepoints: kprobes at entries and returns, paired here.

They are recorded with these definitions (group and file ``kprobe_events``)::

    p:kt/alloc alloc_vmap_area size=$arg1:u64 align=$arg2:u64 vstart=$arg3:x64 vend=$arg4:x64 node=$arg5:s32
    r10:kt/alloc_ret alloc_vmap_area va=$retval:x64 va_start=+0($retval):x64 va_end=+8($retval):x64
    p:kt/free free_vmap_area_noflush va_start=+0($arg1):x64 va_end=+8($arg1):x64
    p:kt/purge __purge_vmap_area_lazy start=$arg1:x64 end=$arg2:x64
    r10:kt/purge_ret __purge_vmap_area_lazy ret=$retval:u8
    p:kt/pcpu_get pcpu_get_vm_areas nr_vms=$arg3:s32 align=$arg4:u64 off0=+0($arg1):u64 sz0=+0($arg2):u64
    r10:kt/pcpu_get_ret pcpu_get_vm_areas addr0=+8(+0($retval)):x64
    p:kt/flush flush_tlb_kernel_range start=$arg1:x64 end=$arg2:x64

An entry waits for the return of the same task (PID 0 is one idle task per CPU), and the row is written where the return
is.  What a return does not tell, is taken from the entry; what neither tells, is said here:

* PURGE: the range is the one of the task's last flush inside this purge, ``(2**64 - 1, 0)`` if there was none;
  ``count`` is the function's answer, 1 when something was purged and 0 when not.  The number of areas is not recorded.
* FLUSH: only flushes inside a purge; the same function serves others, which are skipped.
* PCPU_CREATE: only the first group is recorded.  With one group the entry of ``Trace.pcpu_groups`` is complete; with
  more, it holds one offset and one size of several, and ``Trace.skipped`` says so.

An entry without return (the probe was busy, the recording ends, events were lost) counts in ``Trace.unpaired``; a
return without entry is skipped under a name of its own.  The short names could belong to anyone's probes: lines whose
parentheses name another function are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FLUSH, FREE, PCPU_CREATE, PURGE, PURGE_BEGIN
from vmalloc.trace.sink import Sink
from vmalloc.trace.stops import ALIGN_ODD, FAULTS, SIZE_UNALIGNED, SIZE_ZERO, START_UNALIGNED
from vmalloc.units import ADDRESS_MAX, PAGE_SIZE, format_range, is_power_of_two

__all__ = ["KprobeEvents"]

#: ``MAX_ERRNO`` of the kernel: pointers from here on are error codes.
FIRST_ERROR_POINTER = ADDRESS_MAX + 1 - 4095

_PROBES = {
    "alloc": b"alloc_vmap_area",
    "alloc_ret": b"alloc_vmap_area",
    "free": b"free_vmap_area_noflush",
    "purge": b"__purge_vmap_area_lazy",
    "purge_ret": b"__purge_vmap_area_lazy",
    "pcpu_get": b"pcpu_get_vm_areas",
    "pcpu_get_ret": b"pcpu_get_vm_areas",
    "flush": b"flush_tlb_kernel_range",
}
# `(function+0x0/0x880)` at an entry, `(caller+0xb1/0x150 <- function)` at a return; trace-cmd prints bare addresses.
_PLACE = re.compile(rb"\((?:[^()]*? <- )?([^()\s+]+)[^()]*\)")
_ADDRESS = re.compile(rb"(?:0x)?[0-9a-f]{8,16}")


@dataclass(slots=True)
class _AllocArgs:
    size: int
    align: int
    window: int


@dataclass(slots=True)
class _ChunkArgs:
    nr_vms: int
    align: int
    offset: int
    size: int


class KprobeEvents:
    """Pairs entries and returns, and makes rows of them.

    Attributes:
        seen: number of kprobe events read.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.seen = 0
        self._readers: dict[str, Callable[[dict[bytes, bytes]], None]] = {
            "alloc": self._alloc,
            "alloc_ret": self._alloc_ret,
            "free": self._free,
            "purge": self._purge,
            "purge_ret": self._purge_ret,
            "pcpu_get": self._pcpu_get,
            "pcpu_get_ret": self._pcpu_get_ret,
            "flush": self._flush,
        }
        self._allocs: dict[int, _AllocArgs] = {}
        self._chunks: dict[int, _ChunkArgs] = {}
        self._purges: dict[int, tuple[int, int]] = {}

    def read(self, name: str, text: bytes) -> bool:
        """Reads an event, if it is one of the table above.

        Args:
            name: the event's name, without a group.
            text: what follows the name and its colon.

        Returns:
            False when the event is someone else's.
        """
        if name not in self._readers:
            return False
        place = _PLACE.match(text)
        if not place:
            if self.sink.cut:
                raise self.sink.error(f"{name} has no place")
            return False
        function = place[1].split(b".")[0]  # the compiler's clones: name.part.0, name.constprop.0
        if function != _PROBES[name] and not _ADDRESS.fullmatch(function):
            return False
        self.seen += 1
        self._readers[name](self.sink.fields(text[place.end() :]))
        return True

    def finish(self) -> None:
        """Counts the entries that are still waiting."""
        self.sink.trace.unpaired += len(self._allocs) + len(self._chunks) + len(self._purges)

    def _task(self) -> int:
        """Names the running task: its PID, or a negative number for the idle task of a CPU."""
        parser = self.sink.parser
        return int(parser.pid) or -1 - int(parser.cpu)

    # -- allocations and frees --------------------------------------------------------------------------------------

    def _alloc(self, fields: dict[bytes, bytes]) -> None:
        sink = self.sink
        size, align = sink.number(fields, b"size"), sink.number(fields, b"align")
        vstart, vend = sink.number(fields, b"vstart"), sink.number(fields, b"vend")
        if size == 0 or size % PAGE_SIZE:
            raise sink.error(FAULTS[SIZE_UNALIGNED if size else SIZE_ZERO])
        if not is_power_of_two(align):
            raise sink.error(FAULTS[ALIGN_ODD])
        if self._task() in self._allocs:
            sink.trace.unpaired += 1
        self._allocs[self._task()] = _AllocArgs(size, align, sink.window(vstart, vend))

    def _alloc_ret(self, fields: dict[bytes, bytes]) -> None:
        sink = self.sink
        va = sink.number(fields, b"va")
        start, end = sink.number_or_fault(fields, b"va_start"), sink.number_or_fault(fields, b"va_end")
        args = self._allocs.pop(self._task(), None)
        if args is None:
            sink.skip("alloc_ret without alloc")
        elif start is None or end is None or va >= FIRST_ERROR_POINTER:
            sink.add(ALLOC_FAILED, va_start=va, va_end=args.size, align=args.align, window=args.window)
        elif start % PAGE_SIZE:
            raise sink.error(FAULTS[START_UNALIGNED])
        elif start + args.size == end:
            sink.add(ALLOC, va_start=start, va_end=end, align=args.align, window=args.window)
        elif sink.trace.lost_events:
            sink.trace.unpaired += 1  # the return of another call: events between the two were lost
            sink.skip("alloc_ret without alloc")
        else:
            raise sink.error(f"{format_range(start, end)} is not of the {args.size} bytes that were asked for")

    def _free(self, fields: dict[bytes, bytes]) -> None:
        start, end = self.sink.number(fields, b"va_start"), self.sink.number(fields, b"va_end")
        if start % PAGE_SIZE or end % PAGE_SIZE:
            raise self.sink.error(FAULTS[START_UNALIGNED])
        if start >= end:
            raise self.sink.error(f"the area {format_range(start, end)} is empty")
        self.sink.add(FREE, va_start=start, va_end=end)

    # -- purges -----------------------------------------------------------------------------------------------------

    def _purge(self, fields: dict[bytes, bytes]) -> None:
        start, end = self.sink.number(fields, b"start"), self.sink.number(fields, b"end")
        if self._task() in self._purges:
            self.sink.trace.unpaired += 1
        self._purges[self._task()] = (ADDRESS_MAX, 0)
        self.sink.add(PURGE_BEGIN, va_start=start, va_end=end)

    def _flush(self, fields: dict[bytes, bytes]) -> None:
        start, end = self.sink.number(fields, b"start"), self.sink.number(fields, b"end")
        if self._task() not in self._purges:
            self.sink.skip("flush outside of a purge")
            return
        self._purges[self._task()] = (start, end)
        self.sink.add(FLUSH, va_start=start, va_end=end)

    def _purge_ret(self, fields: dict[bytes, bytes]) -> None:
        answer = self.sink.number(fields, b"ret")
        hull = self._purges.pop(self._task(), None)
        if hull is None:
            self.sink.skip("purge_ret without purge")
        else:
            self.sink.add(PURGE, va_start=hull[0], va_end=hull[1], count=answer)

    # -- per-CPU chunks ---------------------------------------------------------------------------------------------

    def _pcpu_get(self, fields: dict[bytes, bytes]) -> None:
        sink = self.sink
        args = _ChunkArgs(
            sink.number(fields, b"nr_vms"),
            sink.number(fields, b"align"),
            sink.number(fields, b"off0"),
            sink.number(fields, b"sz0"),
        )
        if self._task() in self._chunks:
            sink.trace.unpaired += 1
        self._chunks[self._task()] = args

    def _pcpu_get_ret(self, fields: dict[bytes, bytes]) -> None:
        sink = self.sink
        address = sink.number_or_fault(fields, b"addr0")
        args = self._chunks.pop(self._task(), None)
        if args is None:
            sink.skip("pcpu_get_ret without pcpu_get")
        elif not address:
            sink.skip("pcpu_get_ret of a failure")
        elif address < args.offset or address % PAGE_SIZE:
            raise sink.error("addr0 is not where an area of a chunk can be")
        else:
            if args.nr_vms > 1:
                sink.skip("further groups of pcpu_get (not recorded)")
            sink.trace.pcpu_groups.append(([args.offset], [args.size], args.align))
            sink.add(PCPU_CREATE, va_start=address - args.offset, count=len(sink.trace.pcpu_groups))
