"""Events around the allocator: who drained, when the TLBs were flushed, and what the per-CPU allocator took.

None of these belongs to the ``vmalloc`` system, yet a replay needs them: per-CPU chunks are carved out of the same free
tree without an ``alloc_vmap_area`` event, and the flush inside a purge tells when the lazy lists were detached, which
``purge_vmap_area_lazy``, written at the end, does not.

=========================== =========================================== ==============================================
event                       row                                         only when
=========================== =========================================== ==============================================
percpu_create_chunk         PCPU_CREATE                                 the base address is a real one, not a hash
percpu_destroy_chunk        PCPU_DESTROY                                likewise
csd_queue_cpu               FLUSH (one per other CPU), range unknown    func flushes kernel TLB entries
workqueue_queue_work        QUEUE_DRAIN                                 function is drain_vmap_area_work
workqueue_execute_start     PURGE_BEGIN                                 likewise
workqueue_execute_end       PURGE_WORK_END                              likewise, or the task's work began as such
tracing_mark_write, print   MARK
=========================== =========================================== ==============================================

The rest of these events is counted as skipped.  A kernel prints ``%p`` pointers hashed unless told otherwise; a chunk
whose address is hashed is an event at address 0, and counted under a name that says so: the rest of such a recording is
as good as ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vmalloc.trace.events import FLUSH, MARK, PCPU_CREATE, PCPU_DESTROY, PURGE_BEGIN, PURGE_WORK_END, QUEUE_DRAIN
from vmalloc.trace.sink import Sink

__all__ = ["SideEvents"]

#: The functions a kernel runs on other CPUs to flush translations of its own addresses (x86-64, 6.12 and 6.18).
FLUSH_FUNCTIONS = frozenset({b"do_flush_tlb_all", b"do_kernel_range_flush"})
DRAIN_FUNCTION = b"drain_vmap_area_work"

_BASE = re.compile(rb"base_addr=(?:0x)?([0-9a-f]{1,16})\s*$")
_HIDDEN_BASE = re.compile(rb"base_addr=\(\S+\)\s*$")
_FUNC = re.compile(rb"func=([\w.]+)")
_WORK = re.compile(rb"work struct[ =:]*(\S+?):?(?:\s|$)(?:.*?function[ =]([\w.]+))?")
_MARK_PREFIX = re.compile(rb"(?:tracing_mark_write|(?:0x)?[0-9a-f]{8,16}): ")


class SideEvents:
    """Reads the events of the table above.

    Attributes:
        readers: by event name, what reads the text behind ``name: ``.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.readers: dict[str, Callable[[bytes], None]] = {
            "percpu_create_chunk": self._create_chunk,
            "percpu_destroy_chunk": self._destroy_chunk,
            "csd_queue_cpu": self._csd,
            "workqueue_queue_work": self._queue_work,
            "workqueue_execute_start": self._execute_start,
            "workqueue_execute_end": self._execute_end,
            "tracing_mark_write": self._mark,
            "print": self._mark,
        }
        # Work struct each task is draining with: before 5.x, workqueue_execute_end does not name the function.
        self._draining: dict[tuple[int, int], bytes] = {}

    def _create_chunk(self, text: bytes) -> None:
        self._chunk(text, "percpu_create_chunk", PCPU_CREATE)

    def _destroy_chunk(self, text: bytes) -> None:
        self._chunk(text, "percpu_destroy_chunk", PCPU_DESTROY)

    def _chunk(self, text: bytes, name: str, kind: int) -> None:
        found = _BASE.search(text)
        if not found and not _HIDDEN_BASE.search(text):
            raise self.sink.error("field base_addr is missing or garbled")
        address = int(found[1], 16) if found else 0
        # A hash has 32 bits, printed as wide as a pointer. The chunk was made all the same: its address is not known.
        if address & 4095 or (address < 1 << 32 and (not found or len(found[1]) > 8)):
            self.sink.skip(f"{name} (hashed address)")
            address = 0
        self.sink.add(kind, va_start=address)

    def _csd(self, text: bytes) -> None:
        func = _FUNC.search(text)
        if not func:
            raise self.sink.error("field func is missing or garbled")
        if func[1] in FLUSH_FUNCTIONS:
            self.sink.add(FLUSH)
        else:
            self.sink.skip("csd_queue_cpu")

    def _work(self, text: bytes) -> tuple[bytes, bytes]:
        """Gives the work struct and its function, empty when not printed."""
        found = _WORK.search(text)
        if not found:
            raise self.sink.error("work struct is missing or garbled")
        return found[1], found[2] or b""

    def _queue_work(self, text: bytes) -> None:
        if self._work(text)[1] == DRAIN_FUNCTION:
            self.sink.add(QUEUE_DRAIN)
        else:
            self.sink.skip("workqueue_queue_work")

    def _execute_start(self, text: bytes) -> None:
        work, function = self._work(text)
        if function == DRAIN_FUNCTION:
            self._draining[self._task()] = work
            self.sink.add(PURGE_BEGIN)
        else:
            self.sink.skip("workqueue_execute_start")

    def _execute_end(self, text: bytes) -> None:
        work, function = self._work(text)
        drained = self._draining.get(self._task()) == work
        if function == DRAIN_FUNCTION or (drained and not function):
            self._draining.pop(self._task(), None)
            self.sink.add(PURGE_WORK_END)
        else:
            self.sink.skip("workqueue_execute_end")

    def _task(self) -> tuple[int, int]:
        """Names the running task; every CPU has an idle task of its own, and all have PID 0."""
        parser = self.sink.parser
        return parser.pid, parser.cpu if parser.pid == 0 else 0

    def _mark(self, text: bytes) -> None:
        prefix = _MARK_PREFIX.match(text)
        if prefix:
            text = text[prefix.end() :]
        marks = self.sink.trace.marks
        marks.append(text.rstrip(b"\r").decode("utf-8", "replace"))
        self.sink.add(MARK, count=len(marks) - 1)
