"""What could have happened, when the model's address is not the recorded one.

Idea: on several CPUs the order of writing is not the order of happening (see ``schedule``).  Before an address counts
as a mismatch, the orders that the trace *permits* are tried, and one is accepted only if under it the allocator by
itself chooses the recorded address.  The allocator's state is never edited here, so this holds in open loop too; every
accepted hypothesis is counted and reported.

In the order they are tried:

1. *A purge was further than its events say.*  Between its begin and its end event a purge detaches, flushes, and
   refills the pools area by area, while other CPUs allocate.  If the recorded range is on the purge list it had been
   refilled (``try_populate``); if it is lazy, or was about to be decayed, the purge had begun (``try_purge_begun``).
2. *Another allocation came first* (``try_reorder``): a later event of another task (or one with the very same time
   stamp) takes the address, or a part of the range, that the model offers; carried out first, as often as needed.
3. *The task moved* (``try_other_cpu``): the pool was consulted on one CPU, the event written on another.

Whatever cannot be foreseen is tried on a checkpoint and undone when it does not explain the address.
"""

import cython

from vmalloc.trace.replay.schedule import Schedule

if not cython.compiled:
    from vmalloc.areas.free_tree import ERROR_VALUES
    from vmalloc.areas.pools import NO_CLASS
    from vmalloc.areas.states import MAX_POOL_PAGES, NIL
    from vmalloc.trace.events import ALLOC, FREE
    from vmalloc.trace.replay.schedule import CPU_MOVED, POPULATED_EARLY, PURGES_BEGUN_EARLY, REORDERED
    from vmalloc.trace.replay.verdicts import AGREED

    LONGEST_REORDER = 64

__all__ = ["Hypotheses"]


class Hypotheses(Schedule):
    """A schedule that looks for a permitted order under which an allocation gets its recorded address."""

    def agrees(self, i):
        """Tells whether allocation ``i`` would get its recorded address now, on its own CPU."""
        return self.choose(i, self.cpu[i]) == self.va_start[i]

    def agree(self, i):
        """Carries out the choice just made for ``i``, which is the recorded one."""
        self.take(i)
        self.verdict[i] = AGREED

    def explain(self, i):
        """Carries out ``i`` if a permitted order leads to its recorded address; False, unchanged, if none does."""
        if self.slack <= 0:
            return False
        return self.try_purge(i) or self.try_reorder(i) or self.try_other_cpu(i)

    def try_purge(self, i):
        """Hypothesis 1."""
        if self.begun:
            return self.try_populate(i) or self.try_finish(i)
        if self.k >= self.nr_purges or self.purge_bound[self.k] >= i:
            return False
        if self.timestamp[self.purge_event[self.k]] - self.timestamp[i] > 5 * self.slack:
            return False
        return self.purge_shows(i) and self.try_purge_begun(i)

    def try_purge_begun(self, i):
        """Begins the next purge now, refills what the allocation shows, and keeps that if the address follows."""
        if not self.mark():
            return False
        self.begin_purge(i)
        if self.agrees(i):
            self.agree(i)
        elif not self.populate(i):
            self.roll_back()
            return False
        self.keep()
        self.counter[PURGES_BEGUN_EARLY] += 1
        return True

    def try_populate(self, i):
        """Refills the pool of the allocation's node, in a running purge, and keeps that if the address follows."""
        if self.purge_row(i) == NIL or not self.mark():
            return False
        if not self.populate(i):
            self.roll_back()
            return False
        self.keep()
        return True

    def purge_row(self, i):
        """The row of the recorded range, if it is on the purge list of the allocation's node and fits; else ``NIL``."""
        if not self.allocator.pooled_request(self.window_start[self.window[i]], self.window_end[self.window[i]]):
            return NIL
        row = self.allocator.rows.row
        v = self.allocator.purge.pending[self.cpu[i] % self.allocator.nodes.nr_nodes]
        while v != NIL and row[v].va_start != self.va_start[i]:
            v = row[v].list_next
        return v if v != NIL and row[v].va_end == self.va_end[i] else NIL

    def populate(self, i):
        """Refills up to and including the recorded range and carries ``i`` out; False when it is not the head then."""
        v = self.purge_row(i)
        if v == NIL:
            return False
        node = self.cpu[i] % self.allocator.nodes.nr_nodes
        while self.allocator.purge.pending[node] != v:
            self.allocator.purge.step(node)
        self.allocator.purge.step(node)
        if not self.agrees(i):
            return False
        self.agree(i)
        self.counter[POPULATED_EARLY] += 1
        return True

    def try_finish(self, i):
        """Ends the running purge on the node whose list holds the recorded range, for ranges that enter no pool."""
        row = self.allocator.rows.row
        for n in range(self.allocator.nodes.nr_nodes):
            v = self.allocator.purge.pending[n]
            while v != NIL and (row[v].va_start >= self.va_end[i] or self.va_start[i] >= row[v].va_end):
                v = row[v].list_next
            if v == NIL:
                v = self.allocator.purge.returning[n]
                while v != NIL and (row[v].va_start >= self.va_end[i] or self.va_start[i] >= row[v].va_end):
                    v = row[v].list_next
            if v == NIL:
                continue
            if not self.mark():
                return False
            self.allocator.purge.finish(n)
            if self.agrees(i):
                self.agree(i)
                self.keep()
                self.counter[POPULATED_EARLY] += 1
                return True
            self.roll_back()
        return False

    def purge_shows(self, i):
        """Tells whether beginning the next purge could free the recorded address: a cheap test before a trial."""
        row = self.allocator.rows.row
        start = self.va_start[i]
        full = self.purge_full[self.k] != 0
        if self.allocator.pooled_request(self.window_start[self.window[i]], self.window_end[self.window[i]]):
            node = self.cpu[i] % self.allocator.nodes.nr_nodes
            v = self.allocator.nodes.maps.get(self.allocator.nodes.nr_nodes + node, start)
            if v != NIL and row[v].va_end == self.va_end[i]:
                return True  # it is lazy on this node: detached and refilled by now
            c = self.allocator.nodes.pools.class_of(node, self.size_of(i))
            if c != NO_CLASS:
                v = self.allocator.nodes.pools.pool[c].head
                for k in range(self.allocator.purge.decay_amount(c, full)):
                    v = row[v].list_next
                if v != self.allocator.nodes.pools.pool[c].head and (v == NIL or row[v].va_start == start):
                    return True  # the decay takes the head away
        if self.allocator.free.holds(start, self.va_end[i]):
            return False
        return self.decay_frees(i)

    def decay_frees(self, i):
        """Tells whether a decay would return an entry that overlaps the recorded range to the free tree."""
        row = self.allocator.rows.row
        start = self.va_start[i]
        full = self.purge_full[self.k] != 0
        for c in range(self.allocator.nodes.nr_nodes * MAX_POOL_PAGES):
            if self.allocator.nodes.pools.pool[c].length == 0:
                continue
            v = self.allocator.nodes.pools.pool[c].head
            for k in range(self.allocator.purge.decay_amount(c, full)):
                if row[v].va_start < self.va_end[i] and start < row[v].va_end:
                    return True
                v = row[v].list_next
        return False

    def try_reorder(self, i):
        """Hypothesis 2: carries out, before ``i``, the later allocations that take what the model offers to ``i``."""
        n = 0
        j = self.taker(i)
        if j == 0 or not self.mark():
            return False
        while j != 0 and n < LONGEST_REORDER:
            self.agree(j)
            n += 1
            if self.agrees(i):
                self.agree(i)
                self.keep()
                self.counter[REORDERED] += n
                return True
            j = self.taker(i)
        self.roll_back()
        return False

    def taker(self, i):
        """The next allocation that takes (part of) what the model offers to ``i``, chosen and ready; 0 when none may.

        Only a task's own order is certain, except among equal time stamps. The first event that touches the offered
        range decides: if it is a free, or an allocation that would not get its address now, there is no such order.
        """
        start = self.choose(i, self.cpu[i])
        if start >= ERROR_VALUES:
            return 0
        size = self.size_of(i)
        j = i + 1
        while j < self.nr_events and self.timestamp[j] <= self.timestamp[i] + self.slack:
            if self.done[j] != 0 or self.va_start[j] >= start + size:
                j += 1
                continue
            if self.kind[j] == FREE and self.va_start[j] >= start:  # where a freed area ends is not always recorded
                return 0
            if self.kind[j] == ALLOC and self.va_end[j] > start:
                if self.pid[j] == self.pid[i] and self.timestamp[j] != self.timestamp[i]:
                    return 0
                return j if self.agrees(j) else 0
            j += 1
        return 0

    def try_other_cpu(self, i):
        """Hypothesis 3: the recorded range is the head of another node's pool."""
        if not self.allocator.pooled_request(self.window_start[self.window[i]], self.window_end[self.window[i]]):
            return False
        own = self.cpu[i] % self.allocator.nodes.nr_nodes
        for node in range(self.allocator.nodes.nr_nodes):
            if node != own and self.choose(i, node) == self.va_start[i] and self.allocator.chosen_class != NO_CLASS:
                self.agree(i)
                self.counter[CPU_MOVED] += 1
                return True
        return False
