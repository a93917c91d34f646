"""What a replay found, as values: for the report, for ``--json`` and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = ["MachineResult", "Mismatch", "ReplayResult", "SnapshotDifference"]


@dataclass(frozen=True)
class Mismatch:
    """One allocation that the model placed elsewhere.

    Attributes:
        event: 0-based number of the event; ``line``: 1-based line in the input.
        timestamp: nanoseconds on the trace's clock; ``cpu``, ``pid``: who.
        size, align: bytes, guard included.
        recorded, modelled: the kernel's address and ours (an error value when the model found no room).
        cause: one of ``verdicts.VERDICT_NAMES``.
    """

    event: int
    line: int
    timestamp: int
    cpu: int
    pid: int
    size: int
    align: int
    recorded: int
    modelled: int
    cause: str


@dataclass(frozen=True)
class SnapshotDifference:
    """A snapshot compared with the model at the moment it was read.

    Attributes:
        snapshot: the file.
        event: number of the event before which it was compared.
        busy_missing, busy_extra: areas ``(start, end)`` that only the snapshot, or only the model, has.
        lazy_missing, lazy_extra: likewise for the unpurged areas.
        in_flight: areas left out, because they were made or freed while the snapshot was read.
    """

    snapshot: str
    event: int
    busy_missing: tuple[tuple[int, int], ...]
    busy_extra: tuple[tuple[int, int], ...]
    lazy_missing: tuple[tuple[int, int], ...]
    lazy_extra: tuple[tuple[int, int], ...]
    in_flight: int

    @property
    def count(self) -> int:
        """Number of differences."""
        return len(self.busy_missing) + len(self.busy_extra) + len(self.lazy_missing) + len(self.lazy_extra)


@dataclass(frozen=True)
class MachineResult:
    """What a machine met that had the replay's areas (``replay(..., machine="simulated")``).

    Attributes:
        arch: the architecture; ``cpus``, ``numa_nodes``, ``memory_bytes``: the machine.
        entries: what happened to areas: they came, went, or a flush fell due; ``areas``: mapped at the end.
        page_table_bytes: at the end; tables are never freed, so that is the most, too.
        page_table_bytes_at_peak: when most addresses were busy.
        tables: by level, at the end.
        mappings_made, mappings: by size in bytes; over the whole replay, and at the end.
        huge_areas: areas with huge mappings; ``huge_fallbacks``: those that got base pages, for want of blocks.
        flushes: of the TLBs of all CPUs; ``full_flushes``, ``ranged_flushes``: their two kinds; ``proven_flushes``:
            those that corrections need, because the kernel had flushed.
        flushed_pages: one by one, by ranged flushes; ``ipis``: interrupts of other CPUs.
        accesses: each area is used when it is made; ``tlb_misses``: of these.
        stale_accesses: through translations that were no more; 0 unless a flush is missing.
        failed_accesses: others that failed; 0 unless something is broken.
        frames_taken: for areas, over the whole replay.
        frames_at_peak, frames_at_end: frames in use per NUMA node, page tables included.
        validated: machine and allocator always agree; whether every structure of the machine was checked, too, which
            is left out where very many frames are in use.
        seconds: of the machine alone; ``validation_seconds``: of checking it all at the end.
    """

    arch: str
    cpus: int
    numa_nodes: int
    memory_bytes: int
    entries: int
    areas: int
    page_table_bytes: int
    page_table_bytes_at_peak: int
    tables: dict[str, int]
    mappings_made: dict[int, int]
    mappings: dict[int, int]
    huge_areas: int
    huge_fallbacks: int
    flushes: int
    full_flushes: int
    ranged_flushes: int
    proven_flushes: int
    flushed_pages: int
    ipis: int
    accesses: int
    tlb_misses: int
    stale_accesses: int
    failed_accesses: int
    frames_taken: int
    frames_at_peak: tuple[int, ...]
    frames_at_end: tuple[int, ...]
    validated: bool
    seconds: float
    validation_seconds: float

    def as_json(self) -> dict[str, object]:
        """A dictionary of plain values; sizes of mappings are keys in bytes, as text."""
        found = asdict(self)
        for name in ("mappings_made", "mappings"):
            found[name] = {str(size): count for size, count in found[name].items()}
        for name in ("frames_at_peak", "frames_at_end"):
            found[name] = list(found[name])
        return found


@dataclass
class ReplayResult:
    """Everything a replay reports.

    Attributes:
        trace: what was replayed; ``kernel``: version profile; ``kernel_from``: how that is known.
        cpus, nodes, page_size: the modelled machine; ``vmalloc_start``, ``vmalloc_end``: the recorded kernel's range.
        start: ``boot``, ``snapshot``, ``rewound`` or ``unknown``; ``shape``: number of the assumed shape of the free
        tree (``start``);
            ``open_loop``: nothing was corrected.
        events: events replayed; ``skipped_events``: those before the snapshot.
        allocations: attempts, failed ones included; ``placements``: the successful ones; ``frees``, ``purges``.
        agreed: allocations placed where the kernel placed them (or that failed as the kernel's did).
        reordered, corrected, unexplained: counts; ``mismatches``: by cause; ``assumptions``: all other counters.
        first_mismatch: the first one, or None.
        snapshots: comparisons with the after snapshots.
        pcpu_chunks: per-CPU chunks made; ``pcpu_chunks_agreed``: those at the recorded base, of
            ``pcpu_chunks - pcpu_chunks_hidden`` whose base was recorded and not hashed.
        lost_events, overwritten: what ftrace says it lost.
        seconds: replay alone; ``read_seconds``: reading and parsing.
        peak_busy_bytes, largest_hole, free_bytes: bytes inside the vmalloc range, at the end (peak: over time).
        machine: what the simulated machine met; None when only areas were replayed.
    """

    trace: str
    kernel: str
    kernel_from: str
    cpus: int
    nodes: int
    page_size: int
    vmalloc_start: int
    vmalloc_end: int
    start: str
    shape: int
    open_loop: bool
    events: int = 0
    skipped_events: int = 0
    allocations: int = 0
    placements: int = 0
    frees: int = 0
    purges: int = 0
    agreed: int = 0
    reordered: int = 0
    corrected: int = 0
    unexplained: int = 0
    mismatches: dict[str, int] = field(default_factory=dict)
    assumptions: dict[str, int] = field(default_factory=dict)
    first_mismatch: Mismatch | None = None
    snapshots: list[SnapshotDifference] = field(default_factory=list)
    pcpu_chunks: int = 0
    pcpu_chunks_agreed: int = 0
    pcpu_chunks_hidden: int = 0
    lost_events: int = 0
    overwritten: int = 0
    seconds: float = 0.0
    read_seconds: float = 0.0
    peak_busy_bytes: int = 0
    largest_hole: int = 0
    free_bytes: int = 0
    machine: MachineResult | None = None

    @property
    def agreement(self) -> float:
        """Share of allocations at the recorded address, 0 to 1; 1 for a trace without allocations."""
        return self.agreed / self.allocations if self.allocations else 1.0

    @property
    def fragmentation(self) -> float:
        """``1 - largest hole / free bytes`` inside the vmalloc range, at the end."""
        return 1 - self.largest_hole / self.free_bytes if self.free_bytes else 0.0

    @property
    def events_per_second(self) -> float:
        """Events replayed per second, by the machine too where there is one; reading and checks not included."""
        seconds = self.seconds + (self.machine.seconds if self.machine else 0.0)
        return self.events / seconds if seconds else 0.0

    @property
    def after_snapshot_differences(self) -> int | None:
        """Differences to all after snapshots together; None when there is none to compare with."""
        return sum(difference.count for difference in self.snapshots) if self.snapshots else None

    def as_json(self) -> dict[str, object]:
        """A dictionary of plain values: numbers, strings, lists; addresses in first_mismatch as hexadecimal text."""
        found = asdict(self)
        found["agreement"] = self.agreement
        found["fragmentation"] = self.fragmentation
        found["events_per_second"] = self.events_per_second
        found["after_snapshot_differences"] = self.after_snapshot_differences
        for name in ("vmalloc_start", "vmalloc_end"):
            found[name] = f"{found[name]:#x}"
        if self.first_mismatch is not None:
            first = asdict(self.first_mismatch)
            found["first_mismatch"] = first | {name: f"{first[name]:#x}" for name in ("recorded", "modelled")}
        found["machine"] = self.machine.as_json() if self.machine is not None else None
        found["snapshots"] = [
            {"snapshot": d.snapshot, "event": d.event, "in_flight": d.in_flight, "differences": d.count}
            | {
                name: [f"{start:#x}-{end:#x}" for start, end in getattr(d, name)]
                for name in ("busy_missing", "busy_extra", "lazy_missing", "lazy_extra")
            }
            for d in self.snapshots
        ]
        return found
