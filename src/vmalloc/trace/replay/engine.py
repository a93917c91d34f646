"""The replay's loop: one recorded event after the other, without the interpreter lock.

Idea: ``Schedule`` carries events out, ``Hypotheses`` explains addresses by permitted orders, ``Corrections`` judges
what is left; this module only decides, per event, which of them is asked.  The fast path of an allocation is one
choice, one comparison and one commit.
"""

import cython

from vmalloc.trace.replay.corrections import Corrections

if not cython.compiled:
    from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FLUSH, FREE, LOST, PCPU_CREATE, PURGE
    from vmalloc.trace.replay.schedule import PURGES_BEGUN_BY_COUNT

    LARGE_TABLE = 32768
    FAR_AHEAD = 12
    NEAR_AHEAD = 6

__all__ = ["Engine"]


class Engine(Corrections):
    """A trace being replayed; see ``Schedule`` for the arguments. ``correcting``: False is open loop."""

    def __init__(self, allocator, trace, plan, groups, slack, state_known, counts_known, correcting):
        Corrections.__init__(self, allocator, trace, plan, groups, slack, state_known, counts_known)
        self.correcting = correcting

    def run_events(self, first, last):
        """Replays the events ``[first, last)`` that have not happened yet."""
        large = self.allocator.rows.used > LARGE_TABLE
        for i in range(first, last):
            if large and i + FAR_AHEAD < last:
                self.look_ahead(i)
            if self.done[i] != 0:
                continue
            kind = self.kind[i]
            if kind == ALLOC:
                self.allocate(i)
            elif kind == FREE:
                if self.due_by_count(i):
                    self.counter[PURGES_BEGUN_BY_COUNT] += 1
                    self.begin_purge(i)
                if self.done[i] == 0:
                    self.free(i)
            elif kind == FLUSH:
                if self.k < self.nr_purges and self.purge_flush[self.k] == i:
                    self.begin_purge(i)
            elif kind == PURGE:
                self.end_purge(i)
            elif kind == ALLOC_FAILED:
                self.fail(i)
            elif kind == PCPU_CREATE:
                self.create_chunk(i)
            elif kind == LOST:
                self.counts_known = False
                self.drifted = True
            self.done[i] = 1

    def look_ahead(self, i):
        """Fetches into the cache what events shortly after ``i`` will touch: a trace tells where it goes next.

        Far ahead the run of the busy map that holds, or will hold, the address; nearer, the record of an area that is
        freed. Only a hint: whatever happens in between, the answers stay the same.
        """
        if cython.compiled:
            j = i + FAR_AHEAD
            if self.kind[j] == ALLOC or self.kind[j] == FREE:
                self.allocator.nodes.fetch_run(self.va_start[j])
            j = i + NEAR_AHEAD
            if self.kind[j] == FREE:
                self.allocator.nodes.fetch_row(self.va_start[j])

    def allocate(self, i):
        """Replays one successful allocation."""
        if self.agrees(i):
            self.agree(i)
        elif not self.explain(i):
            if self.redoing:
                self.redo_failed = True
            else:
                self.mismatch(i, self.correcting)

    def rerun(self, first, last):
        """Carries out the events ``[first, last)`` again, as part of a redo; stops at the first that disagrees."""
        i = first
        while i < last and not self.redo_failed:
            self.run_events(i, i + 1)
            i += 1

    @cython.locals(first=cython.uint, last=cython.uint)
    def run(self, first, last):
        """``run_events`` for Python callers; the interpreter lock is released meanwhile."""
        if cython.compiled:
            with cython.nogil:
                self.run_events(first, last)
        else:
            self.run_events(first, last)
