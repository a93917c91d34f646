"""The event schema: what one line of any recording becomes, and what every later reader and writer uses.

A trace is a table of events, one row each, held as typed columns (``array.array``), so that the compiled replay reads
them without the interpreter lock, NumPy can view them without a copy, and uncompiled code gets plain integers.

Columns (all rows have all of them; a column that means nothing for a kind is 0):

========== ==== =====================================================================================================
column     type meaning
========== ==== =====================================================================================================
kind       B    one of the constants below
cpu        H    CPU that wrote the event
pid        i    task that wrote the event (0 is the idle task of that CPU)
timestamp  q    nanoseconds on the trace's clock (a clock that counts events gives the count)
va_start   Q    ALLOC, FREE: first address. ALLOC_FAILED: the error value printed. PURGE, FLUSH: start of the hull.
                PCPU_CREATE, PCPU_DESTROY: base address of the chunk (0: hashed). PURGE_BEGIN: start handed in by the
                caller
va_end     Q    ALLOC: ``va_start + size``. ALLOC_FAILED: ``size``. FREE: end if recorded (6.1), else 0. PURGE, FLUSH,
                PURGE_BEGIN: end
count      Q    FREE: ``nr_lazy`` in pages after adding this area (0 when not recorded). PURGE: ``num_purged``.
                LOST: number of lost events (0 when ftrace does not say). MARK: index into ``Trace.marks``.
                PCPU_CREATE: index into ``Trace.pcpu_groups`` plus 1, 0 when the offsets were not recorded
align      Q    ALLOC, ALLOC_FAILED: alignment in bytes, a power of two
window     H    ALLOC, ALLOC_FAILED: index into ``Trace.windows``, a list of ``(vstart, vend)``
line       I    1-based line number in the input, for messages
========== ==== =====================================================================================================

Sizes include the guard page, exactly as the kernel records them (specification section 10.3).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

__all__ = [
    "ALLOC",
    "ALLOC_FAILED",
    "FLUSH",
    "FREE",
    "KIND_NAMES",
    "LOST",
    "MARK",
    "PCPU_CREATE",
    "PCPU_DESTROY",
    "PURGE",
    "PURGE_BEGIN",
    "PURGE_WORK_END",
    "QUEUE_DRAIN",
    "EventTable",
    "Trace",
]

ALLOC = 1  #: an address was chosen (6.3+: alloc_vmap_area failed=0; 6.1: kt/alloc paired with kt/alloc_ret)
ALLOC_FAILED = 2  #: an attempt found nothing (failed=1); a purge and a retry usually follow
FREE = 3  #: an area became lazy
PURGE = 4  #: a purge has ended
PURGE_BEGIN = 5  #: a purge may begin: workqueue_execute_start of drain_vmap_area_work, or 6.1's kt/purge
FLUSH = 6  #: the TLB flush inside a purge: csd_queue_cpu of do_flush_tlb_all / do_kernel_range_flush, or 6.1's kt/flush
PCPU_CREATE = 7  #: percpu_create_chunk, or 6.1's kt/pcpu_get paired with kt/pcpu_get_ret
PCPU_DESTROY = 8  #: percpu_destroy_chunk
MARK = 9  #: tracing_mark_write
QUEUE_DRAIN = 10  #: workqueue_queue_work of drain_vmap_area_work
PURGE_WORK_END = 11  #: workqueue_execute_end of drain_vmap_area_work
LOST = 12  #: ftrace says that events were lost here

KIND_NAMES = {
    ALLOC: "alloc",
    ALLOC_FAILED: "alloc failed",
    FREE: "free",
    PURGE: "purge",
    PURGE_BEGIN: "purge begin",
    FLUSH: "flush",
    PCPU_CREATE: "percpu create",
    PCPU_DESTROY: "percpu destroy",
    MARK: "mark",
    QUEUE_DRAIN: "queue drain",
    PURGE_WORK_END: "purge work end",
    LOST: "lost",
}

COLUMNS = {
    "kind": "B",
    "cpu": "H",
    "pid": "i",
    "timestamp": "q",
    "va_start": "Q",
    "va_end": "Q",
    "count": "Q",
    "align": "Q",
    "window": "H",
    "line": "I",
}


class EventTable:
    """Typed columns of equal length, one row per event; see the module's opening for their meaning."""

    def __init__(self) -> None:
        self.kind = array("B")
        self.cpu = array("H")
        self.pid = array("i")
        self.timestamp = array("q")
        self.va_start = array("Q")
        self.va_end = array("Q")
        self.count = array("Q")
        self.align = array("Q")
        self.window = array("H")
        self.line = array("I")

    def __len__(self) -> int:
        return len(self.kind)

    def append(
        self,
        kind: int,
        *,
        cpu: int = 0,
        pid: int = 0,
        timestamp: int = 0,
        va_start: int = 0,
        va_end: int = 0,
        count: int = 0,
        align: int = 0,
        window: int = 0,
        line: int = 0,
    ) -> None:
        """Adds one row; for tests and for writers of traces (readers fill the columns in bulk)."""
        row = (kind, cpu, pid, timestamp, va_start, va_end, count, align, window, line)
        for name, value in zip(COLUMNS, row, strict=True):
            getattr(self, name).append(value)


@dataclass
class Trace:
    """A recording, read whole.

    Attributes:
        name: what the user called it: file names joined by ``" + "``, or ``-``.
        events: the rows, in the order of the recording.
        windows: the address windows ``(vstart, vend)`` requests were restricted to, in order of first use.
        marks: texts of ``tracing_mark_write`` events.
        pcpu_groups: ``(offsets, sizes, align)`` of per-CPU chunks, where recorded (6.1); entries may be partial.
        cpus: number of CPUs the header names (``#P:N`` or ``cpus=N``), 0 when it does not say.
        nr_lazy_max: the last ``nr_lazy_max`` seen, in pages; 0 when none was recorded.
        source: ``"tracepoints"`` (6.3+) or ``"kprobes"`` (the 6.1 events), ``""`` for a trace without either.
        skipped: lines of other events, by event name, that are not ours to read.
        lost_events: number of events ftrace reports as lost (a loss of unknown size counts 1).
        overwritten: events written but no longer in the buffer (``entries-written - entries-in-buffer``).
        unpaired: 6.1 entry events whose return was never seen.
    """

    name: str
    events: EventTable = field(default_factory=EventTable)
    windows: list[tuple[int, int]] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    pcpu_groups: list[tuple[list[int], list[int], int]] = field(default_factory=list)
    cpus: int = 0
    nr_lazy_max: int = 0
    source: str = ""
    skipped: dict[str, int] = field(default_factory=dict)
    lost_events: int = 0
    overwritten: int = 0
    unpaired: int = 0

    def __len__(self) -> int:
        return len(self.events)
