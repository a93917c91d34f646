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
4. *It came before the last purge* (``try_before_purge``), though it is written after its begin: the replay goes back to
   the moment before the purge and does everything since again.

Whatever cannot be foreseen is tried on a checkpoint and undone when it does not explain the address.
"""

import cython

from vmalloc.trace.replay.schedule import Schedule

if not cython.compiled:
    from vmalloc.areas.free_tree import ERROR_VALUES
    from vmalloc.areas.pools import NO_CLASS
    from vmalloc.areas.states import MAX_POOL_PAGES, NIL
    from vmalloc.trace.events import ALLOC, FLUSH, FREE
    from vmalloc.trace.replay.schedule import ALIASES, CPU_MOVED, POPULATED_EARLY, PURGES_BEGUN_EARLY, RECENT, REORDERED
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
        return self.try_purge(i) or self.try_reorder(i) or self.try_other_cpu(i) or self.try_before_purge(i)

    def try_purge(self, i):
        """Hypothesis 1."""
        if self.begun:
            if self.nr_detached == self.allocator.nodes.nr_nodes and self.purge_row(i) == NIL and not self.holds(i):
                return False
        elif self.k >= self.nr_purges or self.purge_bound[self.k] >= i:
            return False
        elif self.timestamp[self.purge_event[self.k]] - self.timestamp[i] > 5 * self.slack or not self.purge_shows(i):
            return False
        if not self.mark():
            return False
        if not self.begun:
            self.counter[PURGES_BEGUN_EARLY] += 1
            self.start_purge(i)
        if self.advance(i):
            self.keep()
            return True
        self.roll_back()
        return False

    def advance(self, i):
        """Takes the running purge further, step by step, until ``i`` gets its recorded address; False if it never does.

        First node by node through the decays and detaches; then the pool of its node is refilled up to the recorded
        range; then the nodes that hold it are finished.
        """
        while self.nr_detached < self.allocator.nodes.nr_nodes:
            self.detach_next()
            if self.agrees(i):
                self.agree(i)
                return True
        return self.populate(i) or self.finish_holder(i)

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

    def holds(self, i):
        """Tells whether the recorded range overlaps anything on a purge list."""
        for n in range(self.allocator.nodes.nr_nodes):
            if self.overlaps(self.allocator.purge.pending[n], i) or self.overlaps(self.allocator.purge.returning[n], i):
                return True
        return False

    def overlaps(self, v, i):
        """Tells whether a row of the list ``v`` overlaps the recorded range of ``i``."""
        row = self.allocator.rows.row
        while v != NIL:
            if row[v].va_start < self.va_end[i] and self.va_start[i] < row[v].va_end:
                return True
            v = row[v].list_next
        return False

    def finish_holder(self, i):
        """Ends the running purge on the nodes whose lists hold the recorded range, for ranges that enter no pool."""
        for n in range(self.allocator.nodes.nr_nodes):
            if self.overlaps(self.allocator.purge.pending[n], i) or self.overlaps(self.allocator.purge.returning[n], i):
                self.allocator.purge.finish(n)
                if self.agrees(i):
                    self.agree(i)
                    self.counter[POPULATED_EARLY] += 1
                    return True
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
        for n in range(self.allocator.nodes.nr_nodes):
            v = self.allocator.nodes.maps.at_or_below(self.allocator.nodes.nr_nodes + n, self.va_end[i] - 1)
            if v != NIL and row[v].va_end > start:
                return True  # part of it is lazy: detached and back in the free tree by now
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
                if self.same_task(i, j) and self.timestamp[j] != self.timestamp[i]:
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

    def try_before_purge(self, i):
        """Hypothesis 4: ``i`` happened before the last purge began, though it is written after that.

        Goes back to the moment before that purge, carries ``i`` out there, and does everything since again. Accepted
        only if all of that agrees again.
        """
        if not self.before.valid or self.redoing or self.trial.valid:
            return False
        if self.timestamp[i] - self.timestamp[self.before.event] > 5 * self.slack or self.task_acted_since(i):
            return False
        last = self.nr_journal
        if last > RECENT // 2 or not self.store(self.present, i):
            return False
        self.undo(self.before.journal, last)
        self.reopen_flushes(i, 0)
        self.load(self.before)
        ok = self.agrees(i)
        if ok:
            self.agree(i)
            self.redoing = True
            self.redo_failed = False
            self.rerun(self.before.event, i)
            self.redoing = False
            ok = not self.redo_failed
        self.before.valid = False
        if ok:
            self.nr_journal = 0
            self.counter[REORDERED] += 1
            return True
        self.undo(last, self.nr_journal)
        self.nr_journal = last
        self.load(self.present)
        self.reopen_flushes(i, 1)
        for n in range(self.before.journal, last):
            self.redo_notes(n)
        return False

    def task_acted_since(self, i):
        """Tells whether the task of ``i`` did something between the last purge's begin and ``i``."""
        for n in range(self.before.journal, self.nr_journal):
            if self.same_task(self.journal_event[n], i) and self.timestamp[self.journal_event[n]] != self.timestamp[i]:
                return True
        return False

    def reopen_flushes(self, i, done):
        """Marks the flush events between the last purge's begin and ``i`` as done, or not: they begin purges."""
        for n in range(self.before.event, i):
            if self.kind[n] == FLUSH:
                self.done[n] = done

    def redo_notes(self, n):
        """Notes again that the ``n``-th event of the journal happened, exactly as it did."""
        j = self.journal_event[n]
        self.done[j] = 1
        if self.kind[j] == ALLOC:
            self.verdict[j] = AGREED
            self.placed[j] = self.va_start[j]
        elif self.kind[j] == FREE:
            self.placed[j] = self.va_start[j]
            if self.journal_alias[n] != 0:
                self.notes.remove(ALIASES, self.va_start[j])
                self.placed[j] = self.placed[self.journal_alias[n] - 1]

    def rerun(self, first, last):
        """Carries out the events ``[first, last)`` that have not happened; ``Engine`` does it."""
        self.redo_failed = True
