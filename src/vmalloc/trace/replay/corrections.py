"""Judging a mismatch, and bringing the state back to what the kernel shows.

Idea: a recording that does not start at boot leaves three things unknown - the shape of the free tree, what the pools
hold, and to which node each busy area will return - and some moments inside a purge.  A wrong guess about one of them
shows as an address the model did not choose.  ``judge`` names the cause, from where the recorded range is in the model:

========================== ===========================================================================================
the recorded range is      so
========================== ===========================================================================================
in a pool, or hidden       POOL_STATE
free, the model offered    POOL_STATE
  a pool entry
free, the model offered    TREE_SHAPE for an alignment above a page, else POOL_STATE: the lowest fit is exact, so the
  another free block       block offered is not really free; if nothing is unknown, UNEXPLAINED
lazy or being purged       PURGE_MOMENT
busy                       ORDER
========================== ===========================================================================================

In corrected mode the recorded range is then made busy, wherever it was, and what the mismatch *proves* about the rest
of the state is used (each rule was kept because it raised the agreement on real recordings; ``docs/fidelity.md`` has
the figures): entries above the one the kernel took move down to their place by address, and to the free tree when that
happens again; a block too small to be searched for is re-linked as a leaf, where a search does not meet it; a range
that is offered in vain again and again is hidden until the kernel uses it.  In open loop nothing is corrected: the area
stays where the model put it, under the alias of its recorded address.
"""

import cython

from vmalloc.trace.replay.hypotheses import Hypotheses

if not cython.compiled:
    from vmalloc.areas.free_tree import ERROR_VALUES
    from vmalloc.areas.pools import NO_CLASS
    from vmalloc.areas.states import LAZY, LOOSE, MAX_POOL_PAGES, NIL, NOW_PROVEN, POOLED, PURGING
    from vmalloc.trace.replay.schedule import (
        ALIASES,
        CORRECTED,
        DEMOTED,
        EVICTED,
        HIDDEN,
        HIDES,
        NOT_PLACED,
        REJECTIONS,
    )
    from vmalloc.trace.replay.verdicts import ORDER, POOL_STATE, PURGE_MOMENT, TREE_SHAPE, UNEXPLAINED

    PATIENCE = 2
    MOST_MOVED = 64

__all__ = ["Corrections"]


class Corrections(Hypotheses):
    """Hypotheses, and what to do when none of them explains an address."""

    def __init__(self, allocator, trace, plan, groups, slack, state_known, counts_known):
        Hypotheses.__init__(self, allocator, trace, plan, groups, slack, state_known, counts_known)
        self.drifted = not state_known
        self.own_class = self.found_class = NO_CLASS
        self.head = self.found = NIL
        self.first_offer = 0
        if not cython.compiled:
            self.above = [NIL] * MOST_MOVED

    def mismatch(self, i, correct):
        """Judges allocation ``i``, whose address no permitted order explains, and carries it out."""
        if self.first_offer == 0:
            self.first_offer = self.choose(i, self.cpu[i])
        # What follows is no longer only the allocator's doing: there is no way back past it.
        self.before.valid = False
        self.nr_journal = 0
        self.survey(i)
        verdict = self.judge(i)
        self.verdict[i] = verdict
        if correct:
            self.correct(i)
        else:
            self.go_astray(i)
        self.drifted = True

    def survey(self, i):
        """Finds what the allocation looked at (``own_class``, ``head``) and where the recorded range is (``found``)."""
        row = self.allocator.rows.row
        self.own_class = NO_CLASS
        self.head = NIL
        if self.allocator.pooled_request(self.window_start[self.window[i]], self.window_end[self.window[i]]):
            node = self.cpu[i] % self.allocator.nodes.nr_nodes
            self.own_class = self.allocator.nodes.pools.class_of(node, self.size_of(i))
        if self.own_class != NO_CLASS:
            self.head = self.allocator.nodes.pools.pool[self.own_class].head
            if self.head != NIL and row[self.head].va_start & (self.align[i] - 1) != 0:
                self.head = NIL
        self.find_range(i)

    def find_range(self, i):
        """Looks for the recorded range in the pools, among the hidden, lazy, purged and busy ones."""
        row = self.allocator.rows.row
        self.found_class = NO_CLASS
        for n in range(self.allocator.nodes.nr_nodes):
            c = self.allocator.nodes.pools.class_of(n, self.size_of(i))
            if c == NO_CLASS:
                break
            v = self.allocator.nodes.pools.find(c, self.va_start[i])
            if v != NIL:
                self.found = v
                self.found_class = c
                return
        self.found = self.notes.get(HIDES, self.va_start[i])
        if self.found != NIL:
            return
        for n in range(self.allocator.nodes.nr_nodes):
            self.found = self.allocator.nodes.maps.get(self.allocator.nodes.nr_nodes + n, self.va_start[i])
            if self.found != NIL:
                return
            v = self.allocator.purge.pending[n]
            while v != NIL and row[v].va_start != self.va_start[i]:
                v = row[v].list_next
            if v != NIL:
                self.found = v
                return
        self.found = self.allocator.nodes.find(self.va_start[i])

    def judge(self, i):
        """The cause of the mismatch, by the table in the module's opening."""
        row = self.allocator.rows.row
        if self.found != NIL:
            if row[self.found].state == LAZY or row[self.found].state == PURGING:
                return PURGE_MOMENT
            if row[self.found].state == POOLED or row[self.found].state == LOOSE:
                return POOL_STATE if self.drifted else UNEXPLAINED
            return ORDER
        if not self.drifted:
            return UNEXPLAINED
        if self.head != NIL or self.align[i] <= self.allocator.free.page_size:
            return POOL_STATE
        return TREE_SHAPE

    def go_astray(self, i):
        """Open loop: carries ``i`` out at the model's address and remembers the alias for its free."""
        self.choose(i, self.cpu[i])
        start = self.take(i)
        if start < ERROR_VALUES and start != self.va_start[i]:
            self.notes.remove(ALIASES, self.va_start[i])
            self.notes.insert(ALIASES, self.va_start[i], i + 1)

    def correct(self, i):
        """Makes the recorded range busy and uses what the mismatch proves."""
        row = self.allocator.rows.row
        self.happened(i, 0)
        self.placed[i] = self.va_start[i]
        self.allocator.nodes.cpu = self.cpu[i]
        flags = 0
        if self.allocator.pooled_request(self.window_start[self.window[i]], self.window_end[self.window[i]]):
            flags = (self.cpu[i] % self.allocator.nodes.nr_nodes + 1) << 8
        if self.own_class != NO_CLASS and self.head == NIL:
            self.allocator.nodes.pools.rotate(self.own_class)  # the kernel met a misaligned head here, too
        self.counter[CORRECTED] += 1
        if self.found_class != NO_CLASS:
            self.take_from_pool(i, flags)
            return
        if self.found != NIL and row[self.found].va_end == self.va_end[i]:
            if row[self.found].state == LOOSE:
                self.notes.remove(HIDES, self.va_start[i])
                self.settle(i, self.found, flags)
                self.reject_head()
                return
            if row[self.found].state == LAZY and self.allocator.nodes.unlink_lazy(self.found) != NIL:
                self.expect_one_less()
                self.was_flushed(self.found)
                self.settle(i, self.found, flags)
                return
        self.unhide(self.va_start[i], self.va_end[i])
        if not self.allocator.free.holds(self.va_start[i], self.va_end[i]):
            self.clear_range(self.va_start[i], self.va_end[i])
        elif self.head != NIL:
            self.reject_head()
        else:
            self.demote(i)
            self.hide_offer(i)
        if self.allocator.place(self.va_start[i], self.va_end[i], flags) == 0:
            self.count_busy(i)
            return
        self.counter[CORRECTED] -= 1
        self.counter[NOT_PLACED] += 1

    def clear_range(self, start, end):
        """Returns whatever overlaps ``[start, end)`` to the free set: the kernel allocates there, so it must be free.

        Pool entries were decayed earlier than the model thinks, lazy areas purged, busy areas freed (the event of their
        free comes later, or was lost; it will count as unknown).
        """
        row = self.allocator.rows.row
        for c in range(self.allocator.nodes.nr_nodes * MAX_POOL_PAGES):
            v = self.allocator.nodes.pools.pool[c].head
            while v != NIL:
                w = row[v].list_next
                if row[v].va_start < end and start < row[v].va_end and self.allocator.nodes.pools.remove(c, v):
                    row[v].state = LOOSE
                    self.allocator.purge.give(v)
                v = w
        for n in range(self.allocator.nodes.nr_nodes):
            v = self.allocator.nodes.maps.at_or_below(self.allocator.nodes.nr_nodes + n, end - 1)
            while v != NIL and row[v].va_end > start and self.allocator.nodes.unlink_lazy(v) != NIL:
                self.expect_one_less()
                self.was_flushed(v)
                self.allocator.purge.give(v)
                v = self.allocator.nodes.maps.at_or_below(self.allocator.nodes.nr_nodes + n, end - 1)
            v = self.allocator.nodes.maps.at_or_below(n, end - 1)
            while v != NIL and row[v].va_end > start:
                self.busy_bytes -= row[v].va_end - row[v].va_start
                self.allocator.nodes.unlink_exact(row[v].va_start)
                self.was_flushed(v)
                self.allocator.purge.give(v)
                self.counter[EVICTED] += 1
                v = self.allocator.nodes.maps.at_or_below(n, end - 1)

    def was_flushed(self, v):
        """Notes that a purge, and so a flush, must have met row ``v``, because the kernel uses its addresses again."""
        row = self.allocator.rows.row
        self.allocator.nodes.note(NOW_PROVEN, row[v].va_start, row[v].va_end)

    def expect_one_less(self):
        """Notes that a lazy area was used: the purge that comes next has taken it already and counts it.

        Otherwise that purge would look for one more free, take one that belongs to the next purge, and so on for ever.
        """
        if self.k < self.nr_purges and not self.begun and self.purge_count[self.k] > 0:
            self.purge_count[self.k] -= 1

    def settle(self, i, v, flags):
        """Makes row ``v``, which is in no structure any more, the busy area of allocation ``i``."""
        self.allocator.rows.row[v].flags = flags
        if self.allocator.nodes.insert_busy(v) != 0:
            return False
        self.count_busy(i)
        return True

    def take_from_pool(self, i, flags):
        """The recorded range is in a pool, but not where the model looked."""
        row = self.allocator.rows.row
        if self.found_class != self.own_class:
            # Another node's pool: the task had been there, or the area was freed to the wrong node in the snapshot.
            flags = (self.found_class // 256 + 1) << 8
            self.allocator.nodes.pools.remove(self.found_class, self.found)
            self.settle(i, self.found, flags)
            return
        # The entries above it cannot be above it.  Most often the second of two close purges detached a little earlier
        # or later than assumed: their place is further down, by address.
        n = 0
        v = self.allocator.nodes.pools.pool[self.own_class].head
        while v != self.found and n < MOST_MOVED:
            self.above[n] = v
            n += 1
            v = row[v].list_next
        self.allocator.nodes.pools.remove(self.own_class, self.found)
        self.settle(i, self.found, flags)
        if v != self.found:
            self.reject_head()
            return
        while n > 0:
            n -= 1
            self.allocator.nodes.pools.remove(self.own_class, self.above[n])
            if self.too_often(row[self.above[n]].va_start):
                row[self.above[n]].state = LOOSE
                self.allocator.purge.give(self.above[n])
            else:
                self.allocator.nodes.pools.insert_by_address(self.own_class, self.above[n])

    def too_often(self, address):
        """Counts a wrong offer of ``address``; True, and the count starts anew, when patience is at an end."""
        n = self.notes.remove(REJECTIONS, address) + 1
        if n >= PATIENCE:
            return True
        self.notes.insert(REJECTIONS, address, n)
        return False

    def reject_head(self):
        """The pool's head was offered in vain: after some patience it moves to the other node's pool, or is hidden."""
        row = self.allocator.rows.row
        if self.head == NIL or not self.too_often(row[self.head].va_start):
            return
        self.allocator.nodes.pools.remove(self.own_class, self.head)
        if self.allocator.nodes.nr_nodes == 2:
            # Two nodes: if it is not this one's, it is the other's.
            self.own_class ^= 256
            row[self.head].flags = (self.own_class // 256 + 1) << 8
            self.allocator.nodes.pools.insert_by_address(self.own_class, self.head)
            return
        row[self.head].state = LOOSE
        self.notes.insert(HIDES, row[self.head].va_start, self.head)
        self.counter[HIDDEN] += 1

    def demote(self, i):
        """Re-links free blocks that an aligned search met although they are too small to be searched for.

        Such a block is only met if it lies on the search's path; a leaf seldom does.
        """
        row = self.allocator.rows.row
        if self.align[i] <= self.allocator.free.page_size:
            return
        want = self.size_of(i) + self.align[i] - 1
        for tries in range(32):
            start = self.choose(i, self.cpu[i])
            n = self.allocator.chosen_block
            if n == NIL or start >= ERROR_VALUES or start == self.va_start[i]:
                return
            if row[n].va_end - row[n].va_start >= want:
                return
            if row[n].va_start <= self.va_start[i] and self.va_start[i] < row[n].va_end:
                return
            self.allocator.free.erase(n)
            self.allocator.free.give(n)
            self.counter[DEMOTED] += 1

    def hide_offer(self, i):
        """What the model still offers instead of the recorded range is not free: hides it, at once or after patience.

        At once if both are in one block and the alignment is a page: then exactly the bytes before the recorded range
        cannot be free.
        """
        row = self.allocator.rows.row
        start = self.choose(i, self.cpu[i])
        n = self.allocator.chosen_block
        if n == NIL or start >= ERROR_VALUES or start == self.va_start[i]:
            return
        if row[n].va_start <= self.va_start[i] and self.va_start[i] < row[n].va_end:
            if self.align[i] <= self.allocator.free.page_size and row[n].va_start == start:
                self.hide(start, self.va_start[i])
            return
        if self.too_often(start):
            self.hide(start, start + self.size_of(i))

    def hide(self, start, end):
        """Takes the free range ``[start, end)`` out of the free set until the kernel uses it."""
        if self.allocator.rows.reserve(2) != 0 or self.allocator.free.carve(start, end) != 0:
            return False
        self.notes.insert(HIDES, start, self.allocator.rows.take(start, end))
        self.counter[HIDDEN] += 1
        return True

    def unhide(self, start, end):
        """Returns every hidden range that overlaps ``[start, end)`` to the free set."""
        row = self.allocator.rows.row
        v = self.notes.at_or_below(HIDES, end - 1)
        while v != NIL and row[v].va_end > start:
            self.notes.remove(HIDES, row[v].va_start)
            self.allocator.purge.give(v)
            v = self.notes.at_or_below(HIDES, end - 1)
