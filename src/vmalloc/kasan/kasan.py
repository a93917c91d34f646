"""KASAN of one machine: its shadow, who allocated what, and how much it reported.

Idea: ``Shadow`` decides what may be touched and costs what it costs; ``Tracks`` remembers who had it.  This class ties
the two at the moments of an allocation's life, which the calls tell it::

    populate      addresses were found: shadow for all of them, guard page included      (section 9.3)
    allocated     the memory is its owner's: what was asked for is allowed, not a byte more
    resized       another size in the same place                                          (section 9.5)
    freed         nothing is allowed any more; the range goes into quarantine
    release       a purge hands addresses on: shadow that describes nothing else goes     (section 9.4)

Only the first report goes to the log, unless ``multi_shot`` (section 9.7); every bad access raises.

Protected by the lock of the space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmalloc.flags import CONTEXT_NAMES
from vmalloc.kasan.layout import GRANULE, shadow_layout
from vmalloc.kasan.shadow import Shadow
from vmalloc.kasan.tracks import Track, Tracks
from vmalloc.units import align_down, align_up

if TYPE_CHECKING:
    from vmalloc.machine.base import Machine, MachineInfo

__all__ = ["Kasan"]


class Kasan(Shadow):
    """KASAN of one machine.

    Args:
        machine: the machine.
        in_bulk: shadow pages are asked for in bulk (6.19).
        release_merged: shadow goes when the free region around it allows it, with a flush for each range (6.1); else
            only what a range covers alone, with one flush for all (6.12).

    Attributes:
        tracks: who allocated and who freed.
        multi_shot: log every report, not the first only.
        reports: how many there were. last: the newest, or None.
        left_open: freed ranges, start to end, that freeing does not forbid: the last page of areas of per-CPU groups,
            taken for a guard page (section 9.3).

    Raises:
        BadRequest: the specification gives no offset for the architecture.
    """

    def __init__(self, machine: Machine, *, in_bulk: bool, release_merged: bool) -> None:
        info: MachineInfo = machine.info  # type: ignore[attr-defined]
        Shadow.__init__(self, machine, shadow_layout(info), in_bulk)
        self.tracks = Tracks()
        self.release_merged = release_merged
        self.multi_shot = False
        self.reports = 0
        self.last: object = None
        self.left_open: dict[int, int] = {}
        self._later: dict[int, Track] = {}

    def covers(self, start: int, end: int) -> bool:
        """Whether a range has shadow at all: windows outside the vmalloc range have none."""
        return bool(self.start <= start and end <= self.end)

    def track(self) -> Track:
        """Where the program is now."""
        running = self.machine.running
        return Track(self.tracks.stack(), running.cpu, CONTEXT_NAMES[running.context])

    def allocated(self, start: int, end: int, size: int, what: str = "area") -> None:
        """Allows the first ``size`` bytes of ``[start, end)`` and notes who asked."""
        self.unpoison(start, size)
        self.tracks.allocate(start, end, size, what, self.track())

    def resized(self, start: int, old: int, new: int) -> None:
        """Allows ``new`` bytes where ``old`` were (section 9.5)."""
        if new <= old:
            self.poison(align_up(start + new, GRANULE), align_up(old, GRANULE) - align_up(new, GRANULE))
            first = align_down(new, GRANULE)
            self.unpoison(start + first, new - first)
        else:
            first = align_down(old, GRANULE)
            self.unpoison(start + first, new - first)
        found = self.tracks.live.get(start)
        if found is not None:
            found.size = new

    def free_later(self, start: int) -> None:
        """Notes who frees what a worker will free: that one, not the worker, is to be named."""
        self._later[start] = self.track()

    def waits(self, start: int) -> bool:
        """Whether a worker is to free what starts there."""
        return start in self._later

    def freed(self, start: int, size: int) -> None:
        """Forbids ``size`` bytes, all that may have been allowed, and puts the range into quarantine."""
        self.poison(start, size)
        track = self._later.pop(start, None)
        found = self.tracks.live.get(start)
        if found is not None:
            if size < found.size:
                self.left_open[start + size] = start + found.size
            self.tracks.free(start, self.track() if track is None else track)

    def purged(self, ranges: list[tuple[int, int]], regions: list[tuple[int, int]]) -> int:
        """Releases the shadow of purged ranges; how many pages. ``regions``: the free region around each, or itself."""
        inside = [i for i, (start, end) in enumerate(ranges) if self.covers(start, end)]
        return self._release([ranges[i] for i in inside], [regions[i] for i in inside], self.release_merged)

    def undone(self, ranges: list[tuple[int, int]], regions: list[tuple[int, int]]) -> int:
        """Releases the shadow of ranges that an error path gave back: as in 6.1, whatever the kernel (section 9.4)."""
        return self._release(ranges, regions, True)

    def trimmed(self, busy: list[tuple[int, int]]) -> int:
        """Gives back the shadow of what is free; how many pages. ``busy``: what is not."""
        taken = int(self.trim([(start, end) for start, end in busy if self.covers(start, end)]))
        self._forget_released()
        return taken

    def _release(self, ranges: list[tuple[int, int]], regions: list[tuple[int, int]], flush_each: bool) -> int:
        taken = int(self.release(ranges, regions, flush_each))
        self._forget_released()
        return taken

    def _forget_released(self) -> None:
        """What is left open in shadow that is gone is open no more: new shadow forbids everything."""
        for start in [start for start in self.left_open if self.bytes_of(start, 1)[0] is None]:
            del self.left_open[start]

    def stats(self) -> dict[str, int]:
        """Counters: what it costs, and what it found."""
        return {
            "shadow_pages": len(self.present),
            "shadow_pages_peak": self.peak,
            "shadow_bytes": len(self.present) * self.page_size,
            "populated": self.populated,
            "released": self.released,
            "shadow_flushes": self.flushes,
            "checks": self.checks,
            "unchecked": self.unchecked,
            "quarantined": len(self.tracks.freed),
            "reports": self.reports,
        }

    def expected(self, size: int) -> bytes:
        """The shadow of ``size`` bytes, a granule's start first, that may be touched."""
        whole, part = divmod(size, GRANULE)
        return bytes(whole) + bytes([part] if part else [])
