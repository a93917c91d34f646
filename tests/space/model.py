"""The plain model of a space: what a kernel's vmalloc means to those who use it, with nothing clever in it.

* ``table`` is the page table: one dictionary from page address to mapping.
* ``areas`` is a sorted list; what is in it is allocated, guard page included.
* ``frames`` has the bytes of each frame that somebody holds.  A byte that nobody has written or read yet is unknown: a
  new frame may show anything, but what it showed once it must go on showing.
* ``tlbs`` has, for each CPU, every translation that it used since the last flush that covered it.  Nothing is ever
  evicted; who compares gives the real TLBs room for everything.
* ``gone`` is every range that was ever freed; ``queue`` the work that interrupts left behind.

Where addresses and frames come from is not its business: it is told, and checks that they were nobody's.  It finds
everything by looking at all there is, one after the other.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Area", "Failure", "Frame", "Mapping", "Model", "Remembered"]


class Mapping(NamedTuple):
    """What a page maps: a frame, its protection bits, and log2 of the mapping's bytes."""

    pfn: int
    prot: int
    shift: int


class Remembered(NamedTuple):
    """A TLB entry: ``[start, end)`` translates to frames from ``pfn`` on."""

    start: int
    end: int
    pfn: int
    prot: int


class Failure(NamedTuple):
    """An access that cannot be made: the kind of fault and the first address at fault."""

    kind: str
    address: int


@dataclass(slots=True)
class Frame:
    """The bytes of a frame, and which of them are known."""

    data: bytearray
    known: bytearray

    def write(self, offset: int, data: bytes) -> None:
        self.data[offset : offset + len(data)] = data
        self.known[offset : offset + len(data)] = b"\1" * len(data)


@dataclass(eq=False, slots=True)
class Area:
    """An allocated range.

    Attributes:
        start, end: bytes, guard page included.
        usable: bytes without the guard page.
        kind: ``"alloc"``, ``"map"``, ``"put"`` (mapped, and owns its frames), ``"io"``, ``"reserved"``, ``"sparse"``,
            ``"pcpu"``, ``"contiguous"``; of ``vm_map_ram`` ``"block"``, and ``"ram"``: a range of its own.
        requested: bytes asked for.
        pfns: frames that it owns, in order.
        pending: it waits for a worker to free it.
        reset_perms: freeing it flushes at once.
        array: the area that holds its list of frames, or None.
        handle: who holds it in the program under test.
    """

    start: int
    end: int
    usable: int
    kind: str
    requested: int
    pfns: list[int] = field(default_factory=list)
    pending: bool = False
    reset_perms: bool = False
    user: bool = False
    array: Area | None = None
    handle: object = None

    def __lt__(self, other: Area) -> bool:
        return self.start < other.start


class Model:
    """The model of one space.

    Args:
        page_size: bytes.
        cpus: how many there are.
        whole_flush: a flush of more pages than this forgets everything; None for no limit.
        special: the protection bit of device memory.
    """

    def __init__(self, page_size: int, cpus: int, whole_flush: int | None, special: int) -> None:
        self.page_size = page_size
        self.whole_flush = whole_flush
        self.special = special
        self.areas: list[Area] = []
        self.contiguous: list[Area] = []
        self.table: dict[int, Mapping] = {}
        self.frames: dict[int, Frame] = {}
        self.holders: Counter[int] = Counter()
        self.devices: dict[int, Frame] = {}
        self.tlbs: list[list[Remembered]] = [[] for _ in range(cpus)]
        self.gone: list[tuple[int, int]] = []
        self.hidden = {"io", "sparse"}  # what reads as zeros
        self.dirty: set[int] = set()  # pages of blocks that were handed out and returned
        self.pending: list[list[Area]] = [[] for _ in range(cpus)]

    def page_of(self, address: int) -> int:
        return address - address % self.page_size

    def pages(self, start: int, end: int) -> range:
        return range(start, end, self.page_size)

    # -- areas -----------------------------------------------------------------------------------------------------

    def add_area(self, area: Area) -> Area:
        for other in self.areas:
            assert area.end <= other.start or other.end <= area.start, f"{area} overlaps {other}"
        insort(self.areas, area)
        return area

    def remove_area(self, area: Area) -> None:
        """Frees an area's addresses and mappings; not its frames."""
        self.unmap(area.start, area.end)
        self.areas.remove(area)
        if area.kind == "block":
            self.dirty.difference_update(self.pages(area.start, area.end))
        self.gone.append((area.start, area.end))

    def area_at(self, address: int) -> Area | None:
        return next((area for area in self.areas if area.start <= address < area.end), None)

    def was_freed(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.gone)

    # -- frames ----------------------------------------------------------------------------------------------------

    def take(self, pfns: list[int], *, zero: bool) -> None:
        """Somebody has these frames from now on, and nobody had them before."""
        for pfn in pfns:
            assert not self.holders[pfn], f"frame {pfn:#x} has two owners"
            self.holders[pfn] = 1
            self.frames[pfn] = Frame(bytearray(self.page_size), bytearray([zero]) * self.page_size)

    def hold(self, pfn: int) -> None:
        assert self.holders[pfn] > 0
        self.holders[pfn] += 1

    def put(self, pfns: list[int]) -> None:
        for pfn in pfns:
            self.holders[pfn] -= 1
            assert self.holders[pfn] >= 0
            if not self.holders[pfn]:
                del self.frames[pfn], self.holders[pfn]

    def device(self, pfn: int) -> Frame:
        """A page of a device: ones, until something is stored."""
        if pfn not in self.devices:
            self.devices[pfn] = Frame(bytearray(b"\xff") * self.page_size, bytearray(b"\1") * self.page_size)
        return self.devices[pfn]

    def zero(self, area: Area, start: int, end: int) -> None:
        """Zeroes bytes ``[start, end)`` of an area."""
        while start < end:
            offset = start % self.page_size
            n = min(self.page_size - offset, end - start)
            self.frames[area.pfns[start // self.page_size]].write(offset, bytes(n))
            start += n

    def copy(self, to: Area, source: Area, size: int) -> None:
        """Copies the first bytes of an area, unknown ones as such."""
        for k, at in enumerate(range(0, size, self.page_size)):
            here, there, n = self.frames[to.pfns[k]], self.frames[source.pfns[k]], min(self.page_size, size - at)
            here.data[:n], here.known[:n] = there.data[:n], there.known[:n]

    # -- mappings and translations ----------------------------------------------------------------------------------

    def map(self, address: int, mapping: Mapping) -> None:
        assert address not in self.table, f"{address:#x} is mapped twice"
        self.table[address] = mapping

    def unmap(self, start: int, end: int) -> None:
        for page in self.pages(start, end):
            self.table.pop(page, None)

    def flush(self, start: int, end: int) -> None:
        """A flush by whole entries, or of everything where it is large."""
        if start >= end:
            return
        first, last = self.page_of(start), self.page_of(end - 1) + self.page_size
        whole = self.whole_flush is not None and (last - first) // self.page_size > self.whole_flush
        for entries in self.tlbs:
            entries[:] = [] if whole else [e for e in entries if e.end <= first or last <= e.start]

    def flush_all(self) -> None:
        for entries in self.tlbs:
            entries.clear()

    def remembered(self, cpu: int, address: int) -> Remembered | None:
        found = [e for e in self.tlbs[cpu] if e.start <= address < e.end]
        return min(found, key=lambda e: e.end - e.start, default=None)

    def remembers_any(self, start: int, end: int) -> bool:
        """Whether some CPU may still translate one of these addresses."""
        return any(e.start < end and start < e.end for entries in self.tlbs for e in entries)

    def touch(self, cpu: int, address: int, *, write: bool) -> tuple[str, Mapping | None]:
        """One access to one page; ``"ok"`` or the kind of fault, and what it reaches."""
        page = self.page_of(address)
        now = self.table.get(page)
        entry = self.remembered(cpu, address)
        kind = "ok"
        if entry is not None:
            reached = Mapping(entry.pfn + (page - entry.start) // self.page_size, entry.prot, 0)
            if now is None or now[:2] != reached[:2]:
                kind = "stale_tlb"
        elif now is None:
            return self.kind_of_nothing(address), None
        else:
            reached = now
            start = page >> now.shift << now.shift
            pfn = now.pfn - (page - start) // self.page_size
            self.tlbs[cpu].append(Remembered(start, start + (1 << now.shift), pfn, now.prot))
        if write and not reached.prot & 2:
            return "readonly", reached
        return kind, reached

    def kind_of_nothing(self, address: int) -> str:
        area = self.area_at(address)
        if area is not None and area.kind == "block":
            return "freed" if self.page_of(address) in self.dirty else "unmapped"
        if area is not None:
            behind = address >= area.start + area.usable and area.kind != "pcpu"  # those have no guard page
            return "guard" if behind else "unmapped"
        return "freed" if self.was_freed(address) else "unmapped"

    def reach(self, cpu: int, address: int, size: int, *, write: bool) -> Failure | list[tuple[Mapping, int, int]]:
        """The pieces ``(mapping, offset, size)`` of an access, or where it fails."""
        pieces = []
        at = address
        while at < address + size:
            offset = at % self.page_size
            n = min(self.page_size - offset, address + size - at)
            kind, mapping = self.touch(cpu, at, write=write)
            if kind != "ok" or mapping is None:
                return Failure(kind, at)
            pieces.append((mapping, offset, n))
            at += n
        return pieces

    # -- bytes -----------------------------------------------------------------------------------------------------

    def bytes_of(self, mapping: Mapping) -> Frame | None:
        """What is behind a mapping; None for a frame that nobody holds any more."""
        return self.device(mapping.pfn) if mapping.prot & self.special else self.frames.get(mapping.pfn)

    def store(self, cpu: int, address: int, data: bytes) -> Failure | None:
        pieces = self.reach(cpu, address, len(data), write=True)
        if isinstance(pieces, Failure):
            return pieces
        for mapping, offset, n in pieces:
            frame = self.bytes_of(mapping)
            if frame is not None:
                frame.write(offset, data[:n])
            data = data[n:]
        return None

    def agree(self, pieces: list[tuple[Mapping, int, int]], got: bytes) -> None:
        """Bytes that were read are those that are known; what was not known is known from now on."""
        assert len(got) == sum(n for _mapping, _offset, n in pieces)
        for mapping, offset, n in pieces:
            frame = self.bytes_of(mapping)
            if frame is not None:
                for k in range(n):
                    if frame.known[offset + k]:
                        assert got[k] == frame.data[offset + k], f"frame {mapping.pfn:#x} at {offset + k:#x}"
                frame.write(offset, got[:n])
            got = got[n:]

    def read_tolerantly(self, address: int, size: int) -> list[tuple[Mapping | None, int, int]]:
        """The pieces of ``vread``: None for what reads as zeros."""
        pieces: list[tuple[Mapping | None, int, int]] = []
        at = address
        while at < address + size:
            offset = at % self.page_size
            n = min(self.page_size - offset, address + size - at)
            area = self.area_at(at)
            mapping = self.table.get(self.page_of(at))
            hidden = area is None or area.kind in self.hidden or at >= area.start + area.usable
            pieces.append((None if hidden else mapping, offset, n))
            at += n
        return pieces
