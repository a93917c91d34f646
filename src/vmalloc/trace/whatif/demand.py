"""What a recorded kernel was asked for, freed from where it put things: the *demand* of a trace.

Idea: an event tells a request and its answer.  For "what if" only the request counts: so many bytes, so aligned, in
this window, on this CPU; and later: the area that *that* request got is freed.  So every allocation becomes an area
with a number, and every free names one of these numbers.  Where the recorded kernel put it stays beside it.

What is demand, and what is the kernel's own doing:

* an allocation is demand; a failed attempt that the same task repeats is not, its repetition is; one that failed in the
  end is demand that was refused;
* a free is demand, of the area that has been longest at its address (events of several CPUs may cross);
* a per-CPU chunk is demand: all groups of one geometry;
* a purge because of the threshold (the drain work) or because addresses ran out is **not**: a policy decides on those.
  A purge that somebody forced (``vm_unmap_aliases``, direct-map permissions that are reset) is demand (``drains``).

Under a policy the demand itself changes in two ways (``requests``).  ``guard=off`` takes the guard page off each
request that has one.  Nobody recorded which do, but all of ``__get_vm_area_node`` have, and what has none shows: a
request of one page, and one whose size is its alignment (blocks of ``vm_map_ram``: 4 MiB aligned to 4 MiB).  Large
ranges of ``vm_map_ram`` (above 32 pages, page aligned) do not show, and lose a page here.  ``huge=off`` takes the
alignment off requests that are whole huge pages and a guard, aligned to a huge page or more; their size stays the
rounded one, because the size before was not recorded.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from vmalloc.policy import Policy
from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FREE, PCPU_CREATE, PURGE, Trace
from vmalloc.trace.replay.replay import Opening
from vmalloc.trace.whatif.drains import FORCED, DrainReader, Drains

__all__ = ["ASK", "CHUNK", "DROP", "FORCE", "REFUSED", "Demand", "read_demand"]

#: What a row of a demand asks: an area; the end of one; a chunk; a purge; an area that the kernel could not give.
ASK, DROP, CHUNK, FORCE, REFUSED = range(5)


@dataclass
class Demand:
    """The demand of one trace.

    Attributes:
        op, time, area, cpu: per row: what is asked (``ASK`` ...), when in nanoseconds, for which area (for ``FORCE``:
            which of ``hulls``), by which CPU.
        size, align, window, recorded: per area: bytes with guard, bytes, index into ``windows``, the kernel's address
            (0: not recorded).
        windows: ranges ``(vstart, vend)``.
        kept: per area that was busy at the start, its address.
        hulls: per forced purge, the range ``(start, end)`` that was handed in, empty as ``(2**64 - 1, 0)``.
        unknown_frees: frees of addresses where nothing was.
        last_time: of the last event.
        peak_busy_bytes: most bytes busy at once, in the order of writing.
        drains: when and how the recorded kernel purged, and what was lazy meanwhile.
    """

    op: array[int] = field(default_factory=lambda: array("B"))
    time: array[int] = field(default_factory=lambda: array("q"))
    area: array[int] = field(default_factory=lambda: array("I"))
    cpu: array[int] = field(default_factory=lambda: array("H"))
    size: array[int] = field(default_factory=lambda: array("Q"))
    align: array[int] = field(default_factory=lambda: array("Q"))
    window: array[int] = field(default_factory=lambda: array("H"))
    recorded: array[int] = field(default_factory=lambda: array("Q"))
    windows: list[tuple[int, int]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    hulls: list[tuple[int, int]] = field(default_factory=list)
    unknown_frees: int = 0
    last_time: int = 0
    peak_busy_bytes: int = 0
    drains: Drains = field(default_factory=Drains)

    def __len__(self) -> int:
        return len(self.op)

    def requests(self, policy: Policy, page_size: int) -> tuple[array[int], array[int]]:
        """Sizes and alignments of all areas under ``policy``."""
        if policy.guard and policy.huge:
            return self.size, self.align
        size, align = array("Q", self.size), array("Q", self.align)
        huge = page_size * (page_size // 8)
        for n in range(len(self.kept), len(size)):
            if not policy.huge and align[n] >= huge and (size[n] - page_size) % huge == 0:
                align[n] = 1
            if not policy.guard and page_size < size[n] != self.align[n]:
                size[n] -= page_size
        return size, align


def read_demand(trace: Trace, opening: Opening) -> Demand:
    """Takes the demand out of ``trace``, whose start is known."""
    return _Reader(trace, opening).read()


class _Reader:
    """One pass over the events; areas that are busy in the recording are in ``live``, address to number."""

    def __init__(self, trace: Trace, opening: Opening) -> None:
        self.trace = trace
        self.opening = opening
        self.demand = Demand(windows=list(trace.windows))
        self.live: dict[int, int] = {}
        self.waiting: dict[int, list[int]] = {}  # areas that came to an address before the one there was freed
        self.busy_bytes = 0
        self.drains = DrainReader(trace, opening)
        for area in opening.start.areas:
            if area.kind != "unpurged":
                self._add(area.end - area.start, 1, 0, area.start)
                self.demand.kept.append(area.start)

    def read(self) -> Demand:
        """The pass."""
        events, done, demand = self.trace.events, self.opening.plan.done, self.demand
        page_shift, retry = self.opening.page_shift, self.opening.plan.retry
        rows = zip(events.kind, events.va_start, events.va_end, events.cpu, events.timestamp, strict=True)
        for i, (kind, start, end, cpu, time) in enumerate(rows):
            if done[i]:
                continue
            if kind == ALLOC:
                self._row(ASK, time, self._add(end - start, events.align[i], events.window[i], start), cpu)
            elif kind == FREE:
                area = self._remove(start)
                if area is None:
                    demand.unknown_frees += 1
                    self.drains.unknown(i, time, start)
                else:
                    self._row(DROP, time, area, cpu)
                    self.drains.free(i, time, start, demand.size[area] >> page_shift)
            elif kind == PURGE:
                if self.drains.purge(i, time) == FORCED:
                    demand.hulls.append(self._handed_in(start, end))
                    self._row(FORCE, time, len(demand.hulls) - 1, cpu)
            elif kind == ALLOC_FAILED:
                if retry[i]:
                    self._row(REFUSED, time, self._new(end, events.align[i], events.window[i], 0), cpu)
            elif kind == PCPU_CREATE:
                self._chunk(start, time, cpu)
            else:
                self.drains.other(i, kind)
        demand.drains = self.drains.finish()
        demand.last_time = max(events.timestamp, default=0)
        return demand

    def _row(self, op: int, time: int, area: int, cpu: int) -> None:
        demand = self.demand
        demand.op.append(op)
        demand.time.append(time)
        demand.area.append(area)
        demand.cpu.append(cpu)

    def _new(self, size: int, align: int, window: int, recorded: int) -> int:
        """A new area's number."""
        demand = self.demand
        demand.size.append(size)
        demand.align.append(align)
        demand.window.append(window)
        demand.recorded.append(recorded)
        return len(demand.size) - 1

    def _add(self, size: int, align: int, window: int, start: int) -> int:
        """A new area that the recording has at ``start``."""
        area = self._new(size, align, window, start)
        if start in self.live:
            self.waiting.setdefault(start, []).append(area)
        else:
            self.live[start] = area
        self.busy_bytes += size
        if self.busy_bytes > self.demand.peak_busy_bytes:
            self.demand.peak_busy_bytes = self.busy_bytes
        return area

    def _remove(self, start: int) -> int | None:
        """The area that has been longest at ``start``, which is there no more."""
        area = self.live.pop(start, None)
        if area is None:
            return None
        if self.waiting and start in self.waiting:
            self.live[start] = self.waiting[start].pop(0)
            if not self.waiting[start]:
                del self.waiting[start]
        self.busy_bytes -= self.demand.size[area]
        return area

    def _chunk(self, base: int, time: int, cpu: int) -> None:
        """A per-CPU chunk: an area per group, numbered one after the other; the row names the first."""
        groups = self.opening.groups
        if groups is None:
            return
        numbers = [self._chunk_area(offset, size, base) for offset, size in groups.groups()]
        self._row(CHUNK, time, numbers[0], cpu)

    def _chunk_area(self, offset: int, size: int, base: int) -> int:
        window = self.demand.windows.index(self.opening.window)
        if base:
            return self._add(size, 1, window, base + offset)
        self.busy_bytes += size
        return self._new(size, 1, window, 0)

    def _handed_in(self, start: int, end: int) -> tuple[int, int]:
        """What the caller of a purge wanted flushed beside lazy areas: seen where it begins below the vmalloc range."""
        low = self.opening.window[0]
        return (start, min(end, low)) if start < low and start < end else ((1 << 64) - 1, 0)
