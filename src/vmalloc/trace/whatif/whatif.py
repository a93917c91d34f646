"""``what_if``: a recording and a policy go in; the recorded kernel, the model, and the model with the policy come out.

Told from top to bottom: find out how the recording begins (as ``replay`` does), take the demand out of it, reckon what
the recorded kernel did, and run the demand twice, by the kernel's rules and by the policy's.  The middle column is to
be compared with both: what it has in common with the first is how far the model can be trusted, and the difference
between it and the third is what the policy does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from vmalloc.policy import Policy
from vmalloc.trace.events import Trace
from vmalloc.trace.replay.replay import SHAPES, Opening, find_opening, replay
from vmalloc.trace.vmallocinfo import Snapshot
from vmalloc.trace.whatif.demand import ASK, REFUSED, Demand, read_demand
from vmalloc.trace.whatif.figures import Figures, lazy_figures, purge_figures
from vmalloc.trace.whatif.model import Model

__all__ = ["WhatIf", "recorded_figures", "what_if"]

#: Given a text, makes what is called with (done, in all) now and then, or None.
Bars = Callable[[str], Callable[[int, int], None] | None]


@dataclass(frozen=True)
class WhatIf:
    """The comparison.

    Attributes:
        trace: what was replayed; ``kernel``, ``cpus``, ``start``: as ``replay`` found them.
        policy: what was changed; ``nodes``, ``threshold_pages``: under it.
        recorded_nodes, recorded_threshold_pages: of the recorded kernel.
        drains_seen, median_lag_us: recorded drains whose threshold crossing was seen, and how much later they detached.
        unknown_frees: frees of areas that nothing is known of; they are left out.
        recorded, kernels, changed: three columns: what was recorded, the model by the kernel's rules, by ``policy``.
        seconds: in all, reading not included.
    """

    trace: str
    kernel: str
    cpus: int
    start: str
    policy: Policy
    nodes: int
    recorded_nodes: int
    threshold_pages: int
    recorded_threshold_pages: int
    drains_seen: int
    median_lag_us: float | None
    unknown_frees: int
    recorded: Figures
    kernels: Figures
    changed: Figures
    seconds: float

    def as_json(self) -> dict[str, object]:
        """A dictionary of plain values."""
        columns = ("recorded", "kernels", "changed")
        found = {name: value for name, value in asdict(self).items() if name not in (*columns, "policy")}
        found["policy"] = self.policy.knobs()
        found["set"] = self.policy.changed()
        return found | {name: getattr(self, name).as_json() for name in columns}


def what_if(
    trace: Trace,
    policy: Policy,
    *,
    before: Snapshot | None = None,
    after: Sequence[Snapshot] = (),
    kernel: str | None = None,
    cpus: int | None = None,
    shapes: int = SHAPES,
    bars: Bars = lambda text: None,
) -> WhatIf:
    """Replays the demand of a trace under a policy.

    Args:
        trace, before, after, kernel, cpus, shapes: as for ``replay``; an after snapshot only helps to find the start.
        policy: the rules to try.
        bars: makes what is told how far each part is.

    Raises:
        TraceError, ValueError: as for ``replay``.
        BadRequest: a policy that this kernel cannot have.
    """
    began = time.perf_counter()
    opening = find_opening(trace, before=before, after=after, kernel=kernel, cpus=cpus, shapes=shapes)
    demand = read_demand(trace, opening)
    changed = Model(demand, opening, policy, trace.name)  # first, because it may refuse
    kernels = Model(demand, opening, Policy(), trace.name)
    recorded = recorded_figures(trace, opening, demand, before, after, bars("recorded"))
    drains = demand.drains
    found = WhatIf(
        trace.name, opening.kernel.name, opening.cpus, opening.start.kind, policy, changed.nr_nodes, kernels.nr_nodes,
        changed.threshold, drains.threshold, len(drains.lag), median(drains.lag) / 1000 if drains.lag else None,
        demand.unknown_frees, recorded, kernels.run(progress=bars("kernel")), changed.run(progress=bars("policy")), 0.0,
    )  # fmt: skip
    object.__setattr__(found, "seconds", time.perf_counter() - began)
    return found


def recorded_figures(
    trace: Trace,
    opening: Opening,
    demand: Demand,
    before: Snapshot | None,
    after: Sequence[Snapshot],
    progress: Callable[[int, int], None] | None = None,
) -> Figures:
    """What the recorded kernel did.

    Requests, purges and lazy pages are those of the events.  Free blocks are in no event: the holes are those of the
    corrected replay, whose state follows the recorded one.
    """
    began = time.perf_counter()
    result = replay(
        trace, before=before, after=after, kernel=opening.kernel.name, cpus=opening.cpus, shape=opening.shape,
        progress=progress,
    )
    low = opening.window[0]
    window = demand.windows.index(opening.window)
    asked = [n for op, n in zip(demand.op, demand.area, strict=True) if op == ASK]
    highest = max((demand.recorded[n] + demand.size[n] for n in asked if demand.window[n] == window), default=low)
    refused = demand.op.count(REFUSED)
    drains = demand.drains
    return Figures(
        len(asked) + refused, len(asked) + refused, refused, None, result.largest_hole, result.free_bytes, None,
        highest - low, demand.peak_busy_bytes, None, None, None, purge_figures(drains.purges, 1 << opening.page_shift),
        lazy_figures(drains.lazy_time, drains.lazy_pages, min(demand.time, default=0), max(demand.time, default=0)),
        time.perf_counter() - began,
    )  # fmt: skip
