"""An allocator that meets a recorded demand under a policy, and decides by itself when to purge.

Idea: open loop.  Rows of the demand are carried out one after the other in the order they were written; nothing is ever
looked up in the recording but what was asked.  What the kernel does on its own is done here:

* a free that finds more lazy pages than the threshold **queues** the drain work, once;
* the work begins a *lag* later: pools decay, lazy sets are detached, the hull is flushed.  From here on the threshold
  can queue it again;
* it ends a *span* later: most of that is the flush, then, node by node, areas reach their pools or the free tree,
  and only then are their pages lazy no more (up to 6.8 the work repeats while the threshold is exceeded);
* a request without room ends a running purge, purges everything, pools too, and tries once more; then it has failed,
  and so has its free.

Lags and spans are those of the recorded drain nearest in time (``drains``).  Purges exclude each other: one that is
forced, or due, waits until the running one has ended - in no time at all, for the clock is the recorded one.
"""

from __future__ import annotations

import time as clock
from array import array
from collections.abc import Callable
from typing import Any

from vmalloc.areas.states import ERROR_VALUES
from vmalloc.policy import Policy
from vmalloc.trace.replay.replay import Opening
from vmalloc.trace.replay.start import make_allocator
from vmalloc.trace.whatif.demand import ASK, CHUNK, DROP, FORCE, Demand
from vmalloc.trace.whatif.drains import DRAIN, FORCED, OVERFLOW, PurgeRecord
from vmalloc.trace.whatif.figures import Figures, lazy_figures, purge_figures
from vmalloc.units import ADDRESS_MAX

__all__ = ["Model"]

#: No address: the request failed.
NOWHERE = 0
NEVER = (1 << 63) - 1

#: How long a purge takes to hand on one area, in nanoseconds, at most (on recorded hardware it took about 140): what is
#: left of its span is spent before, on the flush.
AREA_TIME = 200

#: Rows between two calls of ``progress``.
STEP = 1 << 16


class Model:
    """One run of a demand under a policy; see the module's opening.

    Args:
        demand: what is asked.
        opening: where it starts.
        policy: by which rules; its threshold replaces the recorded one only if it is set.
        file: names the trace in errors.

    Raises:
        BadRequest: a policy that the recorded kernel cannot have.
    """

    def __init__(self, demand: Demand, opening: Opening, policy: Policy, file: str = "") -> None:
        kernel = opening.kernel
        word_bits = 64 if opening.window[1] >> 32 else 32
        self.nr_nodes = policy.nr_nodes(kernel, opening.cpus, word_bits=word_bits)
        self.page_size = 1 << opening.page_shift
        self.demand = demand
        self.opening = opening
        self.allocator: Any = make_allocator(
            kernel, opening.window, self.nr_nodes, opening.page_shift, opening.start, opening.shape, file, policy
        )
        self.nodes, self.purge = self.allocator.nodes, self.allocator.purge
        asked = policy.lazy_max_pages is not None
        self.threshold = policy.threshold(opening.cpus, self.page_size) if asked else demand.drains.threshold
        self.repeats = kernel.drain_repeats
        self.size, self.align = demand.requests(policy, self.page_size)
        self.placed = array("Q", demand.kept) + array("Q", bytes(8 * (len(demand.size) - len(demand.kept))))
        self.allocations = self.agreed = self.failures = self.rescued = 0
        self.busy_bytes = self.peak_busy_bytes = sum(demand.size[: len(demand.kept)])
        self.highest, self.smallest = opening.window[0], ADDRESS_MAX
        self.purges: list[PurgeRecord] = []
        self.lazy_time, self.lazy_pages = array("q"), array("q")
        self.queued = self.running = False
        self.due = 0
        self.finished = self.purged_pages = 0  # of the running purge: nodes and pages it is done with
        self.ends: list[int] = []  # when it finishes each node
        self.span = 0  # how long the work takes that was queued last
        self.next = NEVER  # when the next step of a purge is due

    def run(
        self,
        *,
        until_failure: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Figures:
        """Carries out all rows, or those up to the first failure; returns the figures. Run once."""
        began = clock.perf_counter()
        demand, placed, size, align = self.demand, self.placed, self.size, self.align
        window, windows, recorded = demand.window, demand.windows, demand.recorded
        allocate, free_lazily = self.allocator.allocate, self.allocator.free_lazily
        largest_in, nodes, threshold = self.allocator.free.largest_in, self.nodes, self.threshold
        low, high = self.opening.window
        lazy_time, lazy_pages = self.lazy_time, self.lazy_pages
        total = len(demand)
        done = 0
        for op, now, n, cpu in zip(demand.op, demand.time, demand.area, demand.cpu, strict=True):
            done += 1
            if now > self.next:
                self._catch_up(now)
            if op == DROP:
                if placed[n] == NOWHERE:
                    continue
                free_lazily(placed[n])
                nr_lazy = nodes.nr_lazy
                lazy_time.append(now)
                lazy_pages.append(nr_lazy)
                self.busy_bytes -= size[n]
                if nr_lazy > threshold and not self.queued:
                    self._queue(now)
            elif op == ASK:
                start, end = windows[window[n]]
                address = allocate(size[n], align[n], start, end, cpu, 0, True)
                self.allocations += 1
                if address >= ERROR_VALUES:
                    address = self._overflow(n, cpu, now)
                    if address == NOWHERE:
                        if until_failure:
                            break
                        continue
                placed[n] = address
                if address == recorded[n]:
                    self.agreed += 1
                self.busy_bytes += size[n]
                if self.busy_bytes > self.peak_busy_bytes:
                    self.peak_busy_bytes = self.busy_bytes
                if start == low and address + size[n] > self.highest:
                    self.highest = address + size[n]
                hole = largest_in(low, high + 1)
                if hole < self.smallest:
                    self.smallest = hole
            else:
                self._seldom(op, n, cpu, now)
            if progress is not None and not done % STEP:
                progress(done, total)
        self._catch_up(demand.last_time + 1)
        return self._figures(clock.perf_counter() - began)

    # -- what is asked seldom -----------------------------------------------------------------------------------------

    def _seldom(self, op: int, n: int, cpu: int, now: int) -> None:
        if op == CHUNK:
            self._chunk(n, now)
        elif op == FORCE:
            self._end(now)
            self._whole(FORCED, *self.demand.hulls[n], now)
        else:
            start, end = self.demand.windows[self.demand.window[n]]
            address = self.allocator.allocate(self.size[n], self.align[n], start, end, cpu, 0, True)
            self.allocations += 1
            if address >= ERROR_VALUES:
                address = self._overflow(n, cpu, now)
                self.agreed += address == NOWHERE
            if address != NOWHERE:  # nobody recorded what would have become of it
                self.rescued += 1
                self.allocator.free_now(address)

    def _chunk(self, first: int, now: int) -> None:
        """A per-CPU chunk (section 7.1): purges once when there is no base."""
        groups = self.opening.groups
        assert groups is not None
        base = self.allocator.claim_groups(groups)
        if base >= ERROR_VALUES:
            self._end(now)
            self._whole(OVERFLOW, ADDRESS_MAX, 0, now)
            base = self.allocator.claim_groups(groups)
        if base >= ERROR_VALUES:
            self.failures += 1
            return
        for number, (offset, size) in enumerate(groups.groups(), first):
            self.placed[number] = base + offset
            self.busy_bytes += size
        self.peak_busy_bytes = max(self.peak_busy_bytes, self.busy_bytes)

    def _overflow(self, n: int, cpu: int, now: int) -> int:
        """No room (section 1.10 step 11): purge everything and try again, past the pools; ``NOWHERE`` when in vain."""
        self._end(now)
        self._whole(OVERFLOW, ADDRESS_MAX, 0, now)
        start, end = self.demand.windows[self.demand.window[n]]
        address: int = self.allocator.allocate(self.size[n], self.align[n], start, end, cpu, 0, False)
        if address >= ERROR_VALUES:
            self.failures += 1
            return NOWHERE
        return address

    # -- purges -------------------------------------------------------------------------------------------------------

    def _queue(self, now: int) -> None:
        """Queues the drain work."""
        lag, self.span = self.demand.drains.near(now)
        self.queued = True
        self.due = now + lag
        self._schedule()

    def _schedule(self) -> None:
        if self.running:
            self.next = self.ends[self.finished]
        else:
            self.next = self.due if self.queued else NEVER

    def _catch_up(self, now: int) -> None:
        """Does what became due before ``now``."""
        while now > self.next:
            if self.running:
                self._finish_node(self.next)
            else:
                self.queued = False
                self._begin(self.due)

    def _begin(self, now: int) -> None:
        """The work begins: what is lazy is detached."""
        self.running = True
        self.finished = 0
        self.purge.do_begin(ADDRESS_MAX, 0, False)
        lazy = [self.nodes.lazy_areas]
        for node in range(self.nr_nodes):
            self.purge.do_decay(node, False)
            self.purge.do_detach(node)
            lazy.append(self.nodes.lazy_areas)
        each = min(AREA_TIME, self.span // max(1, lazy[0]))
        self.ends = [now + self.span - each * left for left in lazy[1:]]
        self._schedule()

    def _finish_node(self, now: int) -> None:
        """What was detached from the next node reaches pools and free tree; after the last node the purge ends."""
        before = self.nodes.nr_lazy
        self.purge.do_finish(self.finished)
        self.purged_pages += before - self.nodes.nr_lazy
        self.finished += 1
        self.lazy_time.append(now)
        self.lazy_pages.append(self.nodes.nr_lazy)
        if self.finished == self.nr_nodes:
            self.running = False
            self._note(DRAIN, self.purged_pages)
            self.purged_pages = 0
            self.due = max(self.due, now)
            if self.repeats and self.nodes.nr_lazy > self.threshold:
                self._begin(now)
        self._schedule()

    def _end(self, now: int) -> None:
        """Ends the running purge, if there is one."""
        while self.running:
            self._finish_node(now)

    def _whole(self, why: str, start: int, end: int, now: int) -> None:
        """A purge that begins and ends at once; it is full when addresses ran out."""
        before = self.nodes.nr_lazy
        self.allocator.run_purge(start, end, why == OVERFLOW)
        self._note(why, before - self.nodes.nr_lazy)
        self.lazy_time.append(now)
        self.lazy_pages.append(self.nodes.nr_lazy)

    def _note(self, why: str, pages: int) -> None:
        """Keeps the record of the purge that has just ended."""
        self.purges.append(PurgeRecord(why, self.purge.count, pages, self.purge.start, self.purge.end))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _figures(self, seconds: float) -> Figures:
        low, high = self.opening.window
        free = self.allocator.free
        holes = [min(end, high + 1) - max(start, low) for start, end in free.blocks() if start <= high and end > low]
        times = self.demand.time
        return Figures(
            self.allocations, self.agreed, self.failures, self.rescued, max(holes, default=0), sum(holes),
            self.smallest if self.smallest != ADDRESS_MAX else max(holes, default=0), self.highest - low,
            self.peak_busy_bytes, self.allocator.pool_hits, free.aligned_searches, free.aligned_visits,
            purge_figures(self.purges, self.page_size),
            lazy_figures(self.lazy_time, self.lazy_pages, min(times, default=0), max(times, default=0)), seconds,
        )  # fmt: skip
