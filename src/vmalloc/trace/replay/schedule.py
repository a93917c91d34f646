"""Carrying out recorded events on the allocator, in an order that may differ from the order they were written in.

Idea: a trace event is written *after* the thing it tells of, outside the lock.  So each event has a moment it was
written and an unknown, earlier moment it happened; on one CPU the two orders are the same, on several they may not be.
``Schedule`` holds the allocator, the events, and which of them have happened; its methods carry one event out.  Which
goes first is decided above (``hypotheses``).

What a purge is here: the ``purge_vmap_area_lazy`` event is written when the purge has *ended*.  Its decays and detaches
happened before its TLB flush, and the areas reached the pools between the flush and the event.  A purge is therefore
begun (decay and detach on every node) at

* its flush event, where one was recorded (``csd_queue_cpu``, or the 6.1 probe);
* else the moment when as many areas were lazy as the event says it purged (``num_purged``);
* else its own event;

and earlier if an allocation proves it.  ``num_purged`` also tells which frees were in time: when more areas are lazy
than were purged, the last frees of other tasks came too late (``keep_late_frees``); when fewer, the next frees of other
tasks happened before they were written (``pull_early_frees``).

Purges exclude each other (a mutex), so at most one is running: number ``k``, between ``start_purge`` and ``end_purge``.

``notes`` are three ordered maps: ALIASES, recorded address -> event, for areas the model placed elsewhere (open loop);
HIDES, ranges taken out of the free set; REJECTIONS, how often an address was wrongly offered.
"""

import cython

from vmalloc.areas.ordered_map import OrderedMaps
from vmalloc.trace.replay.moment import Moment
from vmalloc.trace.replay.verdicts import COUNTERS

if not cython.compiled:
    from vmalloc.areas.free_tree import ERROR_VALUES
    from vmalloc.areas.states import LAZY, NIL
    from vmalloc.trace.events import FREE

    RECENT = 4096
    MOST_PULLED = 16
    LARGEST_REDO = 262144
    NR_COUNTERS = len(COUNTERS)
    ALIASES, HIDES, REJECTIONS = 0, 1, 2
    (
        REORDERED, CPU_MOVED, FREES_EARLY, FREES_LATE, PURGES_BEGUN_EARLY, PURGES_BEGUN_BY_COUNT, POPULATED_EARLY,
        UNKNOWN_FREES, PURGE_COUNTS_WRONG, CHUNKS_WRONG, FAILURES_AGREED, FAILURES_WRONG, CORRECTED, NOT_PLACED,
        EVICTED, DEMOTED, HIDDEN,
    ) = range(len(COUNTERS))

__all__ = ["Schedule"]


class Schedule:
    """The events of a trace, the allocator they are carried out on, and how far they have been.

    Args:
        allocator: in the state the trace starts from.
        trace: the events (``events.Trace``).
        plan: what was worked out about them beforehand (``plan.Plan``).
        groups: geometry of per-CPU chunks (``PcpuGroups``), or None when the trace has none.
        slack: how much later than it happened an event may be written, in the trace's time unit (ns).
        state_known: the start is exact (an empty space at boot).
        counts_known: the lazy sets at the start are exact, so ``num_purged`` can be relied on; if not, they are so
        after
            the first purge, which takes them all.
    """

    def __init__(self, allocator, trace, plan, groups, slack, state_known, counts_known):
        events = trace.events
        self.allocator = allocator
        self.groups = groups
        self.slack = slack
        self.state_known = state_known
        self.counts_known = counts_known
        self.notes = OrderedMaps(3)
        self.nr_events = len(events)
        self.kind = events.kind
        self.cpu = events.cpu
        self.pid = events.pid
        self.timestamp = events.timestamp
        self.va_start = events.va_start
        self.va_end = events.va_end
        self.align = events.align
        self.window = events.window
        self.window_start = plan.window_start
        self.window_end = plan.window_end
        self.retry = plan.retry
        self.purge_event = plan.purge_event
        self.purge_flush = plan.purge_flush
        self.purge_bound = plan.purge_bound
        self.purge_count = plan.purge_count
        self.purge_full = plan.purge_full
        self.nr_purges = plan.nr_purges
        self.done = plan.done
        self.placed = plan.placed
        self.verdict = plan.verdict
        self.counter = plan.counter
        self.k = 0
        self.begun = False
        self.busy_bytes = plan.busy_bytes
        self.peak_busy_bytes = plan.busy_bytes
        if not cython.compiled:
            self.recent_event = [0] * RECENT
            self.recent_row = [0] * RECENT
            self.late_row = [0] * RECENT
            self.journal_event = [0] * RECENT
            self.journal_alias = [0] * RECENT
        self.recent_frees = 0
        self.nr_late = 0
        self.nr_detached = 0
        self.trial = Moment()
        self.before = Moment()
        self.present = Moment()
        self.stored_in_trial = False
        self.redoing = False
        self.redo_failed = False
        self.nr_journal = 0
        self.many_cpus = trace.cpus > 1 or max(events.cpu, default=0) > 0
        self.trials = 0

    def happened(self, i, alias):
        """Notes that event ``i`` was carried out, and the alias it used up, so that it can be undone."""
        self.done[i] = 1
        if not self.trial.valid and not self.before.valid:
            return
        if self.nr_journal == RECENT:
            self.before.valid = False
            return
        self.journal_event[self.nr_journal] = i
        self.journal_alias[self.nr_journal] = alias
        self.nr_journal += 1

    def store(self, moment, i):
        """Stores this moment, before event ``i``, in ``moment``; False when there is no memory for it."""
        moment.valid = self.checkpoint_of(moment)
        moment.event = i
        moment.journal = self.nr_journal
        moment.k = self.k
        moment.begun = self.begun
        moment.nr_detached = self.nr_detached
        moment.counts_known = self.counts_known
        moment.busy_bytes = self.busy_bytes
        moment.peak_busy_bytes = self.peak_busy_bytes
        moment.recent_frees = self.recent_frees
        for n in range(NR_COUNTERS):
            moment.counter[n] = self.counter[n]
        return moment.valid

    def checkpoint_of(self, moment):
        """Copies the allocator into ``moment``; False when memory is exhausted."""
        return moment.checkpoint.save(self.allocator) == 0

    def load(self, moment):
        """Returns to a stored moment, but for the events carried out since: ``undo`` sees to those."""
        moment.checkpoint.restore(self.allocator)
        self.k = moment.k
        self.begun = moment.begun
        self.nr_detached = moment.nr_detached
        self.counts_known = moment.counts_known
        self.busy_bytes = moment.busy_bytes
        self.peak_busy_bytes = moment.peak_busy_bytes
        self.recent_frees = moment.recent_frees
        for n in range(NR_COUNTERS):
            self.counter[n] = moment.counter[n]

    def undo(self, first, last):
        """Takes the journal's entries ``[first, last)`` back, the youngest first: they have not happened."""
        while last > first:
            last -= 1
            n = self.journal_event[last]
            self.done[n] = 0
            self.verdict[n] = 0
            if self.journal_alias[last] != 0:
                self.notes.insert(ALIASES, self.va_start[n], self.journal_alias[last])

    def mark(self):
        """Begins a trial: what follows may be rolled back. False when there is no memory for it."""
        if self.nr_journal > RECENT // 2:
            self.before.valid = False
            self.nr_journal = 0
        self.trials += 1
        return self.store(self.trial, 0)

    def keep(self):
        """Ends a trial that is kept."""
        self.trial.valid = False

    def roll_back(self):
        """Ends a trial that failed: everything is as it was at its ``mark``."""
        self.undo(self.trial.journal, self.nr_journal)
        self.nr_journal = self.trial.journal
        self.load(self.trial)
        self.trial.valid = False
        if self.stored_in_trial:
            self.before.valid = False
            self.stored_in_trial = False

    def same_task(self, i, j):
        """Tells whether two events are of one task; the idle tasks all have number 0, one per CPU."""
        return self.pid[i] == self.pid[j] and (self.pid[i] != 0 or self.cpu[i] == self.cpu[j])

    def size_of(self, i):
        """Bytes the allocation event ``i`` asked for, guard included."""
        return self.va_end[i] - self.va_start[i]

    def choose(self, i, cpu):
        """The address allocation ``i`` would get now if it ran on ``cpu``; noted for ``take``."""
        w = self.window[i]
        return self.allocator.choose(
            self.size_of(i), self.align[i], self.window_start[w], self.window_end[w], cpu, self.retry[i] == 0
        )

    def take(self, i):
        """Carries out the choice just made for allocation ``i``; returns the address, or an error value."""
        self.allocator.nodes.cpu = self.cpu[i]
        start = self.allocator.take_choice(self.size_of(i), 0)
        self.placed[i] = start
        self.happened(i, 0)
        if start < ERROR_VALUES:
            self.count_busy(i)
        return start

    def count_busy(self, i):
        """Counts the bytes of allocation ``i`` as busy, and the peak."""
        self.busy_bytes += self.size_of(i)
        if self.busy_bytes > self.peak_busy_bytes:
            self.peak_busy_bytes = self.busy_bytes

    def fail(self, i):
        """Carries out a failed attempt; if it finds room here, the room is given back at once: no area was there."""
        moment = self.allocator.nodes.moment()
        start = self.allocator.attempt(
            self.va_end[i], self.align[i], self.window_start[self.window[i]], self.window_end[self.window[i]],
            self.cpu[i], 0, self.retry[i] == 0,
        )
        self.happened(i, 0)
        if start >= ERROR_VALUES:
            self.counter[FAILURES_AGREED] += 1
        else:
            self.counter[FAILURES_WRONG] += 1
            self.allocator.give_back(start)
            self.allocator.nodes.go_back(moment)

    def free(self, i):
        """Carries out free ``i``: the area becomes lazy. False when no busy area starts there."""
        address = self.va_start[i]
        alias = self.notes.remove(ALIASES, address)
        self.happened(i, alias)
        if alias != 0:
            address = self.placed[alias - 1]
        self.allocator.nodes.cpu = self.cpu[i]
        v = self.allocator.nodes.unlink_exact(address)
        if v == NIL:
            self.counter[UNKNOWN_FREES] += 1
            return False
        self.busy_bytes -= self.allocator.rows.row[v].va_end - self.allocator.rows.row[v].va_start
        self.allocator.nodes.insert_lazy(v)
        self.placed[i] = address
        self.recent_event[self.recent_frees % RECENT] = i
        self.recent_row[self.recent_frees % RECENT] = v
        self.recent_frees += 1
        return True

    def may_pull(self, i, j):
        """Tells whether free ``j`` may have happened before event ``i``: its area is busy, its task did nothing since.

        The order of one task is certain, except among equal time stamps.
        """
        if not self.is_busy(j):
            return False
        for n in range(i + 1, j):
            if self.same_task(n, j) and self.done[n] == 0 and self.timestamp[n] != self.timestamp[j]:
                return False
        return True

    def is_busy(self, i):
        """Tells whether the area that free ``i`` names is busy now; it may not even be allocated yet."""
        address = self.va_start[i]
        alias = self.notes.get(ALIASES, address)
        if alias != 0:
            address = self.placed[alias - 1]
        return self.allocator.nodes.maps.get(self.allocator.nodes.addr_to_node(address), address) != NIL

    def due_by_count(self, i):
        """Tells whether the next purge must have detached before free ``i``: its number of areas is reached.

        Where freed neighbours merge (up to 6.8) the number of lazy areas falls again, and says nothing.
        """
        n = self.k
        return (
            self.counts_known
            and not self.allocator.nodes.merges_lazy
            and n < self.nr_purges
            and not self.begun
            and self.purge_flush[n] < 0
            and self.purge_count[n] > 0
            and self.purge_bound[n] < i
            and self.allocator.nodes.lazy_areas >= cython.cast(cython.ulonglong, self.purge_count[n])
        )

    def start_purge(self, i):
        """Starts purge ``k`` at event ``i``: which frees it takes is settled, no node has been detached yet."""
        self.remember_before(i)
        if self.counts_known and self.purge_count[self.k] >= 0 and not self.allocator.nodes.merges_lazy:
            excess = self.allocator.nodes.lazy_areas
            excess -= self.purge_count[self.k]
            if excess > 0:
                self.keep_late_frees(excess)
            elif excess < 0 and -excess <= MOST_PULLED:
                self.pull_early_frees(i, -excess)
        self.allocator.purge.begin(ERROR_VALUES, 0, self.purge_full[self.k] != 0)
        self.begun = True
        self.nr_detached = 0

    def remember_before(self, i):
        """Stores the moment before a purge, for allocations that turn out to have come before it."""
        if self.redoing or not self.many_cpus or self.allocator.rows.used > LARGEST_REDO:
            return
        if not self.trial.valid:
            self.nr_journal = 0
        self.stored_in_trial = self.trial.valid
        self.store(self.before, i)

    def detach_next(self):
        """Decays and detaches the next node of the running purge; after the last one, late frees are lazy again."""
        self.allocator.nodes.cpu = self.cpu[self.purge_event[self.k]]
        self.allocator.purge.decay(self.nr_detached, self.purge_full[self.k] != 0)
        self.allocator.purge.detach(self.nr_detached)
        self.nr_detached += 1
        if self.nr_detached == self.allocator.nodes.nr_nodes:
            for j in range(self.nr_late):
                self.allocator.nodes.insert_lazy(self.late_row[j])
            self.nr_late = 0

    def begin_purge(self, i):
        """Makes sure that purge ``k`` has begun at event ``i``: every node is decayed and detached."""
        if not self.begun:
            self.start_purge(i)
        while self.nr_detached < self.allocator.nodes.nr_nodes:
            self.detach_next()

    def keep_late_frees(self, excess):
        """Takes the last ``excess`` frees of other tasks out of the lazy sets until the detach is done."""
        end = self.purge_event[self.k]
        back = 0
        while excess > 0 and back < self.recent_frees and back < RECENT:
            back += 1
            slot = (self.recent_frees - back) % RECENT
            event = self.recent_event[slot]
            v = self.recent_row[slot]
            if self.timestamp[event] + 5 * self.slack < self.timestamp[end]:
                return
            if self.same_task(event, end) or self.allocator.rows.row[v].state != LAZY:
                continue
            if self.allocator.rows.row[v].va_start != self.placed[event]:
                continue
            if self.allocator.nodes.unlink_lazy(v) != NIL:
                self.late_row[self.nr_late] = v
                self.nr_late += 1
                self.counter[FREES_LATE] += 1
                excess -= 1

    def pull_early_frees(self, i, missing):
        """Carries out up to ``missing`` frees of other tasks that are written after event ``i``."""
        end = self.purge_event[self.k]
        j = i + 1
        while missing > 0 and j < self.nr_events and j - i < RECENT:
            if self.timestamp[j] > self.timestamp[end] + self.slack:
                return
            if self.kind[j] == FREE and self.done[j] == 0 and not self.same_task(j, end) and self.may_pull(i, j):
                self.free(j)
                self.counter[FREES_EARLY] += 1
                missing -= 1
            j += 1

    def end_purge(self, i):
        """Ends purge ``k`` at its event ``i``: everything detached reaches its pool or the free tree."""
        self.begin_purge(i)
        for node in range(self.allocator.nodes.nr_nodes):
            self.allocator.purge.finish(node)
        if self.purge_count[self.k] >= 0 and self.allocator.purge.count != cython.cast(
            cython.ulonglong, self.purge_count[self.k]
        ):
            self.counter[PURGE_COUNTS_WRONG] += 1
        # Whatever was lazy before is gone: from here on the lazy sets are those the trace tells of.
        self.counts_known = True
        self.k += 1
        self.begun = False
        self.happened(i, 0)

    def create_chunk(self, i):
        """Carries out the creation of a per-CPU chunk; its recorded base (0: not recorded) is compared, not used."""
        self.happened(i, 0)
        if self.groups is None:
            return
        self.allocator.nodes.cpu = self.cpu[i]
        base = self.allocator.take_groups(self.groups)
        self.placed[i] = base
        if self.va_start[i] != 0 and base != self.va_start[i]:
            self.counter[CHUNKS_WRONG] += 1
