"""Time per operation against the number of live areas: the measurement, the fit and the plot.

Idea: for each size a ``Workload`` is made whose timed part consists of *segments* of one kind - frees, purges,
page-aligned allocations, 16 KiB-aligned stacks - of which each is timed alone while the engine replays it.  All sizes
are in memory at once and are visited in turn, several times, so that whatever the machine does besides falls on all of
them; the first rounds of a visit bring the caches back and are not counted.  The medians over all other rounds are the
result.  Looking up is no event and is timed afterwards, through Python calls whose own cost is measured and subtracted.

``operation`` is the mean cost of one event of the steady state: half of them frees, of which each area is also purged
once, 35 % page-aligned allocations, 15 % stacks.

What "logarithmic" means here: of ``a + b log2(n)``, ``a + b sqrt(n)`` and ``a + b n``, fitted by least squares, the
first leaves the smallest rest.  Two things are judged so: ``levels``, how many blocks of the free tree lie on the way
to a random address, which is what the algorithm does; and the time, in which each level costs more the larger the
tables are, because a thousand areas lie in the nearest cache and ten million in main memory.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from workload import Kernel, Recorder, Replay, Workload, stacks, unaligned

__all__ = ["KINDS", "LOGARITHM", "MEANING", "Growth", "Space", "make_space", "measure", "plot"]

KINDS = ("operation", "free", "purge", "alloc", "aligned", "find")
MEANING = {
    "operation": "one event of the steady state",
    "free": "free: find the area, unlink it, make it lazy",
    "purge": "purge, per area purged",
    "alloc": "allocate, page aligned",
    "aligned": "allocate a stack, aligned to 16 KiB",
    "find": "find the area of an address",
}

#: Frees, page-aligned and 16 KiB-aligned allocations of a round.
FREES, UNALIGNED, STACKS = 128, 90, 38
#: Rounds of a visit, of which the first are not counted, and visits.
ROUNDS, UNCOUNTED, VISITS = 120, 20, 8
#: Addresses looked up per timing, and timings.
FINDS, FIND_ROUNDS = 8192, 15
#: Addresses whose way down the free tree is counted.
LEVEL_SAMPLES = 1000

#: Maps a column of sizes to the column it is fitted to.
Law = Callable[[np.ndarray], np.ndarray]
LOGARITHM = "a + b log2(n)"
LAWS: dict[str, Law] = {LOGARITHM: np.log2, "a + b sqrt(n)": np.sqrt, "a + b n": np.array}


@dataclass(frozen=True)
class Segment:
    """Events ``[first, last)``, all of one kind; ``units`` is what the time is divided by."""

    kind: str
    first: int
    last: int
    units: int


@dataclass
class Space:
    """One size: its workload on the engine, and the times taken so far.

    Attributes:
        rounds: the segments of each round.
        times: nanoseconds per unit, by kind.
        holes: free blocks when the timing began.
        levels: blocks of the free tree on the way to a random address, after it.
    """

    live: int
    replay: Replay
    rounds: list[list[Segment]]
    times: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    holes: int = 0
    levels: float = 0.0


def make_space(live: int, seed: int = 1) -> Space:
    """Makes the workload of ``live`` areas and replays its beginning."""
    kernel = Kernel(1, live * 5 // 4 + (1 << 16), seed)
    recorder = Recorder(kernel)
    recorder.populate(live)
    first = recorder.events
    rounds = [list(_round(recorder)) for _ in range(ROUNDS * VISITS)]
    workload = Workload(recorder.trace(), 1, live, first, kernel.start[: kernel.live].copy())
    del kernel, recorder
    space = Space(live, Replay(workload), rounds)
    space.replay.run(0, first)
    space.holes = int(space.replay.engine.allocator.free.count)
    return space


def _round(recorder: Recorder) -> Iterator[Segment]:
    """Records one round."""
    rng = recorder.kernel.rng
    yield _segment(recorder, "free", lambda: recorder.free(FREES), FREES)
    first = recorder.events
    purged = recorder.purge_if_due()
    if purged:
        yield Segment("purge", first, recorder.events, purged)
    yield _segment(recorder, "alloc", lambda: recorder.allocate(unaligned(rng, UNALIGNED)), UNALIGNED)
    yield _segment(recorder, "aligned", lambda: recorder.allocate(stacks(rng, STACKS)), STACKS)


def _segment(recorder: Recorder, kind: str, work: Callable[[], None], units: int) -> Segment:
    first = recorder.events
    work()
    return Segment(kind, first, recorder.events, units)


@dataclass(frozen=True)
class Growth:
    """The result.

    Attributes:
        sizes: live areas.
        median: nanoseconds per unit, by kind and in the order of ``sizes``.
        quartiles: (lower, upper) likewise.
        holes, levels: of each size, see ``Space``.
    """

    sizes: list[int]
    median: dict[str, list[float]]
    quartiles: dict[str, list[tuple[float, float]]]
    holes: list[int]
    levels: list[float]

    def fit(self, values: list[float], of: Law = np.log2) -> tuple[float, float, float]:
        """``a``, ``b`` and R² of ``a + b of(n)`` by least squares."""
        x, y = of(np.array(self.sizes, dtype=float)), np.array(values)
        b, a = np.polyfit(x, y, 1)
        spread = float(((y - y.mean()) ** 2).sum())
        return float(a), float(b), 1 - float(((y - a - b * x) ** 2).sum()) / spread if spread else 1.0

    def laws(self, values: list[float]) -> dict[str, float]:
        """R² of each law tried."""
        return {name: self.fit(values, law)[2] for name, law in LAWS.items()}

    def exponent(self, values: list[float]) -> float:
        """``p`` of ``t ~ n**p`` between the smallest and the largest size: 0 is constant, 1 linear."""
        return float(np.log(values[-1] / values[0]) / np.log(self.sizes[-1] / self.sizes[0]))

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "live_areas": self.sizes,
            "holes": self.holes,
            "unit": "ns",
            "meaning": MEANING,
            "median": self.median,
            "quartiles": self.quartiles,
            "levels": self.levels,
            "fit": {kind: dict(zip(("a", "b", "r2"), self.fit(self.median[kind]), strict=True)) for kind in KINDS},
            "laws_r2": {kind: self.laws(self.median[kind]) for kind in KINDS} | {"levels": self.laws(self.levels)},
            "exponent": {kind: self.exponent(self.median[kind]) for kind in KINDS},
        }


def measure(spaces: list[Space]) -> Growth:
    """Times all segments of all spaces, in turn, and then the look-ups."""
    for visit in range(VISITS):
        for space in spaces:
            _visit(space, space.rounds[visit * ROUNDS : (visit + 1) * ROUNDS])
    for space in spaces:
        space.replay.check()
    samples = [_sample(space) for space in spaces]
    for _ in range(FIND_ROUNDS):
        for space, sample in zip(spaces, samples, strict=True):
            _find(space, sample)
    for space, sample in zip(spaces, samples, strict=True):
        _sum_up(space)
        space.levels = statistics.fmean(_levels(space, address) for address in sample[:LEVEL_SAMPLES])
    return Growth(
        sizes=[space.live for space in spaces],
        median={kind: [statistics.median(space.times[kind]) for space in spaces] for kind in KINDS},
        quartiles={kind: [_quartiles(space.times[kind]) for space in spaces] for kind in KINDS},
        holes=[space.holes for space in spaces],
        levels=[space.levels for space in spaces],
    )


def _visit(space: Space, rounds: list[list[Segment]]) -> None:
    """Replays and times some rounds of one space."""
    clock, run = time.perf_counter_ns, space.replay.run
    at = rounds[0][0].first
    empty = []
    for _ in range(101):
        began = clock()
        run(at, at)
        empty.append(clock() - began)
    overhead = statistics.median(empty)
    for number, segments in enumerate(rounds):
        for segment in segments:
            began = clock()
            run(segment.first, segment.last)
            taken = clock() - began
            if number >= UNCOUNTED:
                space.times[segment.kind].append(max(0.0, taken - overhead) / segment.units)


def _sample(space: Space) -> list[int]:
    """Addresses of areas that are live now, at random."""
    found: list[int] = np.random.default_rng(0).choice(space.replay.workload.held, FINDS).tolist()
    return found


def _find(space: Space, sample: list[int]) -> None:
    """Times the look-up of ``sample``; a call of the same form that only divides is what a Python call costs."""
    allocator = space.replay.engine.allocator
    clock = time.perf_counter_ns
    began = clock()
    deque(map(allocator.nodes.node_of_address, sample), maxlen=0)
    called = clock()
    deque(map(allocator.find_busy, sample), maxlen=0)
    found = clock()
    space.times["find"].append(max(0, (found - called) - (called - began)) / len(sample))


def _levels(space: Space, address: int) -> int:
    """Blocks of the free tree on the way from the root to ``address``, which is not free."""
    allocator = space.replay.engine.allocator
    number, levels = allocator.free.root, 0
    while number:
        block = allocator.rows.get(number)
        number = block["left"] if address < block["va_start"] else block["right"]
        levels += 1
    return levels


def _sum_up(space: Space) -> None:
    """Adds ``operation``, the sum of the kinds in the proportions of the steady state."""
    middle = {kind: statistics.median(space.times[kind]) for kind in KINDS if space.times[kind]}
    of = FREES + UNALIGNED + STACKS
    space.times["operation"].append(
        (FREES * (middle["free"] + middle["purge"]) + UNALIGNED * middle["alloc"] + STACKS * middle["aligned"]) / of
    )


def _quartiles(times: list[float]) -> tuple[float, float]:
    if len(times) < 2:
        return times[0], times[0]
    lower, _, upper = statistics.quantiles(times, n=4)
    return lower, upper


def plot(growth: Growth, folder: Path) -> tuple[Path, Path]:
    """Writes ``time_per_operation.png`` and ``.json`` into ``folder``; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.5, 5.5), layout="constrained")
    sizes = np.array(growth.sizes, dtype=float)
    dense = np.geomspace(sizes[0], sizes[-1], 100)
    for kind in KINDS:
        a, b, r2 = growth.fit(growth.median[kind])
        label = f"{MEANING[kind]}: {a:.0f} + {b:.1f} log2 n ns, R² {r2:.2f}"
        (dots,) = axes.plot(sizes, growth.median[kind], "o", label=label)
        width = 2.5 if kind == "operation" else 1
        axes.plot(dense, a + b * np.log2(dense), color=dots.get_color(), linewidth=width, alpha=0.7)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("live areas n")
    axes.set_ylabel("nanoseconds (median)")
    axes.set_title("Time per operation: dots measured, lines a + b log2 n")
    axes.grid(alpha=0.3)
    steps = axes.twinx()
    a, b, r2 = growth.fit(growth.levels)
    label = f"levels of the free tree (right): {a:.1f} + {b:.2f} log2 n, R² {r2:.3f}"
    steps.plot(sizes, growth.levels, "--", marker="x", color="grey", label=label)
    steps.set_ylim(0, 2 * max(growth.levels))
    steps.set_ylabel("levels")
    handles, labels = (first + second for first, second in zip(axes.get_legend_handles_labels(),
                                                               steps.get_legend_handles_labels(), strict=True))
    axes.legend(handles, labels, fontsize=8, loc="upper left")
    image, numbers = folder / "time_per_operation.png", folder / "time_per_operation.json"
    figure.savefig(image, dpi=120)
    plt.close(figure)
    numbers.write_text(json.dumps(growth.as_json(), indent=2) + "\n", encoding="utf-8")
    return image, numbers
