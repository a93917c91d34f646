"""A storm of forks on two CPUs as ftrace text: a stand-in for ``h14_storm_1M``, a recording too large to ship.

Idea: what reading and replaying a file costs depends on what is in it, so the stand-in has what the recording has:
1.34 million events in 212 MB of text, in two zstd parts cut in the middle of a line; kernel stacks only, in bursts that
two CPUs make and two workers free, line by line side by side; a purge whenever more than 16,384 pages are lazy, while
the other CPU goes on; no flush events; and a snapshot before, with a thousand areas and what was lazy, taken when pools
and tree already have a past that no snapshot shows.  So a replay of it tries versions, shapes of the tree and orders of
events as a replay of the recording does.  Addresses are right, because the package's own allocator chose them.

Shape: each CPU is a generator that makes one event per step; ``Storm.run`` lets one or the other take the next step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import zstandard
from workload import STACK_ALIGN, STACK_PAGES, WINDOW, make_kernel

from vmalloc.kernels import lazy_max_pages
from vmalloc.trace.vmallocinfo import UNPURGED, SnapshotArea, format_line
from vmalloc.units import ADDRESS_MAX, PAGE_SIZE

__all__ = ["EVENTS", "StormFiles", "write_storm"]

#: Allocations and frees of the recording.
EVENTS = 1_344_594
CPUS = 2
#: What is busy before the storm: pages and alignment.
RESIDENTS = ((2, 1), (3, 1), (4, 1), (5, STACK_ALIGN), (5, STACK_ALIGN), (9, 1), (65, 1))
#: How many of them, and events before the snapshot.
RESIDENT, WARM_UP = 1000, 60_000
#: Longest burst of forks on one CPU; areas processed by a purge per event of the other CPU.
LONGEST_BURST, PURGED_PER_STEP = 300, 64
#: Lines per write.
LINES = 1 << 16

STACK = STACK_PAGES * PAGE_SIZE
WORKERS = (25360, 25702)
HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {events}/{events}   #P:{cpus}
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


@dataclass(frozen=True)
class StormFiles:
    """What was written.

    Attributes:
        plain: the whole text; ``parts``: the same in two zstd files; ``before``, ``after``: snapshots.
        events: lines that are allocations, frees or purges.
    """

    plain: Path
    parts: tuple[Path, Path]
    before: Path
    after: Path
    events: int

    @property
    def text_bytes(self) -> int:
        """Size of the text."""
        return self.plain.stat().st_size


class Storm:
    """Two CPUs that fork and reap on one allocator, and the lines they trace."""

    def __init__(self, seed: int) -> None:
        self.allocator = make_kernel(CPUS)
        self.random = random.Random(seed)
        self.lazy_max = lazy_max_pages(CPUS)
        self.lines: list[str] = []
        self.events = 0
        self.now_us = 2026_000_000
        self.next_pid = 17_816
        self.purging = False
        self.dead: list[list[int]] = []  # stacks of finished bursts, to be freed by some worker
        for _ in range(RESIDENT):
            pages, align = self.random.choice(RESIDENTS)
            self._allocate(pages * PAGE_SIZE, align, self.random.randrange(CPUS))
        self.cpus = [self._cpu(cpu) for cpu in range(CPUS)]

    def run(self, events: int, write: Callable[[list[str]], None]) -> None:
        """Lets the CPUs make ``events`` further events; their lines go to ``write``, many at a time."""
        last = self.events + events
        while self.events < last:
            cpu = self.cpus[self.random.random() < 0.5]
            for _ in range(self.random.randrange(1, 6)):
                next(cpu)
            if len(self.lines) >= LINES:
                write(self.lines)
                self.lines = []
        write(self.lines)
        self.lines = []

    def mark(self, text: str) -> None:
        """Traces a marker, as the recording script does."""
        self._line("rec.sh", 17_807, 0, "...1.", f"tracing_mark_write: KT {text}")

    def snapshot(self) -> str:
        """``/proc/vmallocinfo`` now: busy areas node by node, then the lazy ones node by node."""
        nodes, rows = self.allocator.nodes, self.allocator.rows
        found = []
        for of, kind in ((nodes.busy, "area"), (nodes.lazy, UNPURGED)):
            for v in (v for node in range(nodes.nr_nodes) for v in of(node)):
                row = rows.get(v)
                start, end = row["va_start"], row["va_end"]
                words = {"caller": "kernel_clone+0x94/0x3e0", "words": ("vmalloc",)} if kind == "area" else {}
                found.append(format_line(SnapshotArea(start, end, end - start, kind=kind, **words)))
        return "\n".join(found) + "\n"

    # -- what one CPU does ------------------------------------------------------------------------------------------

    def _cpu(self, cpu: int) -> Generator[None]:
        """Forks a burst, then lets the CPU's worker free bursts that are over; for ever."""
        while True:
            pid, forks = self.next_pid, self.random.randrange(8, LONGEST_BURST)
            self.next_pid += 1
            name = "wl" if pid % 3 else "<...>"
            burst = []
            for _ in range(forks):
                start = self._allocate(STACK, STACK_ALIGN, cpu)
                self._line(
                    name, pid, cpu, ".....",
                    f"alloc_vmap_area: va_start: {start} size={STACK} align={STACK_ALIGN} "
                    f"vstart={WINDOW[0]:#x} vend={WINDOW[1]:#x} failed=0",
                )
                burst.append(start)
                yield
            self.random.shuffle(burst)
            self.dead.append(burst)
            while len(self.dead) > 1:
                yield from self._reap(self.dead.pop(0), cpu)

    def _reap(self, stacks: list[int], cpu: int) -> Generator[None]:
        """The worker of ``cpu`` frees ``stacks``, and purges when that is due."""
        for start in stacks:
            self.allocator.free_lazily(start)
            nr_lazy = self.allocator.nodes.nr_lazy
            self._line(
                f"kworker/{cpu}:0", WORKERS[cpu], cpu, ".....",
                f"free_vmap_area_noflush: va_start={start:#x} nr_lazy={nr_lazy} nr_lazy_max={self.lazy_max}",
            )
            yield
            if nr_lazy > self.lazy_max and not self.purging:
                yield from self._purge(cpu)

    def _purge(self, cpu: int) -> Generator[None]:
        """A purge, step by step: the other CPU goes on between its begin, its refills and its event."""
        purge, nodes = self.allocator.purge, range(self.allocator.nodes.nr_nodes)
        self.purging = True
        purge.do_begin(ADDRESS_MAX, 0, False)
        for node in nodes:
            purge.do_decay(node, False)
            purge.do_detach(node)
        yield
        for node in nodes:
            while all(purge.do_step(node) for _ in range(PURGED_PER_STEP)):
                yield
            purge.do_finish(node)
        self._line(
            f"kworker/{cpu}:0", WORKERS[cpu], cpu, ".....",
            f"purge_vmap_area_lazy: start={purge.start:#x} end={purge.end:#x} num_purged={purge.count}",
        )
        self.purging = False
        yield

    def _allocate(self, size: int, align: int, cpu: int) -> int:
        start: int = self.allocator.allocate(size, align, WINDOW[0], WINDOW[1], cpu, 0, True)
        return start

    def _line(self, task: str, pid: int, cpu: int, flags: str, event: str) -> None:
        self.now_us += self.random.randrange(1, 65)
        seconds, fraction = divmod(self.now_us, 1_000_000)
        self.lines.append(f"{task:>16}-{pid:<7} [{cpu:03d}] {flags} {seconds:5d}.{fraction:06d}: {event}\n")
        self.events += 1


def write_storm(folder: Path, events: int = EVENTS, seed: int = 1) -> StormFiles:
    """Writes a storm of ``events`` events into ``folder``, compressed and plain, with its snapshots."""
    storm = Storm(seed)
    storm.run(WARM_UP, lambda lines: None)
    files = StormFiles(
        folder / "storm.trace", (folder / "storm.trace.part00.zst", folder / "storm.trace.part01.zst"),
        folder / "storm.before.vmallocinfo", folder / "storm.after.vmallocinfo", events,
    )
    storm.mark("snapshot-before begin")
    files.before.write_text(storm.snapshot(), encoding="ascii")
    storm.mark("snapshot-before end")
    with files.plain.open("w", encoding="ascii", newline="\n") as out:
        out.write(HEADER.format(events=events, cpus=CPUS))
        storm.run(events, out.writelines)
        storm.mark("snapshot-after begin")
        files.after.write_text(storm.snapshot(), encoding="ascii")
        storm.mark("snapshot-after end")
        out.writelines(storm.lines)
    text = files.plain.read_bytes()
    half = len(text) // 2
    for path, part in zip(files.parts, (text[:half], text[half:]), strict=True):
        # Long matches, as in the recording: what a task repeats lies megabytes back.
        path.write_bytes(zstandard.ZstdCompressor(level=6, threads=2).compress(part))
    return files
