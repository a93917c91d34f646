"""A ledger: what happened to ranges of addresses, in order, for whoever follows an allocator at a distance.

Idea: the allocator decides about addresses and knows nothing of memory.  A machine that is to have the same areas must
hear of three things: a range became busy (something may be mapped there), a range stopped being busy (nothing is any
more), and a purge owed a flush.  An allocator to which a ledger is attached (``VmapNodes.attach_ledger``) writes them
down; without one it pays a comparison.

=========== ==========================================================================================================
kind        so
=========== ==========================================================================================================
NOW_BUSY    the range belongs to an area from here on
NOW_GONE    the area is no more; its addresses may still be translated by CPUs
NOW_FLUSHED the hull of a purge, written when its last node is detached: before any of it can be used again
NOW_PROVEN  a flush that nobody recorded, but that must have been: a replay found the range in use again
=========== ==========================================================================================================

Shape: a replay tries things and takes them back, or does a piece of the past again in another order.  So the ledger is
not a list that is cut: each entry names the one before it, and a **moment** is the number of the last one, ``tip``.
Going back is setting ``tip``; what was written since stays where it is, in no history, until somebody goes back to
*that* moment - which a replay does when the other order turns out wrong.  A list would have to be copied for that.

``straighten`` ends this: it leaves the history alone, one entry after the other from 1 to ``tip``.  Moments from before
are void then.

An entry has 24 bytes.  When there is no memory for one, it is counted in ``lost``: the allocator must not fail for it,
and nobody may follow a ledger that lost something.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import free, realloc
else:
    from vmalloc.areas.plain import Happening, extend
    from vmalloc.areas.states import NOW_BUSY, NOW_GONE

    MOST_ENTRIES = 0xFFFFFFFE

__all__ = ["Ledger"]


class Ledger:
    """An empty ledger."""

    def __cinit__(self):
        self.used = 1
        self.capacity = 0
        self.tip = 0
        self.lost = 0
        if not cython.compiled:
            self.entry = []

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.entry)

    def grow(self):
        """Makes room for more entries; 0, or -1 when memory is exhausted."""
        wanted = self.capacity  # in 64 bits before it is doubled
        wanted = 2 * wanted if wanted != 0 else 1024
        if wanted > MOST_ENTRIES:
            return -1
        if cython.compiled:
            grown = realloc(self.entry, wanted * cython.sizeof(happening))
            if grown == cython.NULL:
                return -1
            self.entry = cython.cast("happening*", grown)
        else:
            extend(self.entry, wanted, Happening)
        self.capacity = wanted
        return 0

    def write(self, kind, start, end, cpu):
        """Adds an entry to the history."""
        if self.used >= self.capacity and self.grow() != 0:
            self.lost += 1
            return
        n = self.used
        self.used += 1
        self.entry[n].start = start
        self.entry[n].end = end
        self.entry[n].previous = self.tip
        self.entry[n].cpu = cpu
        self.entry[n].kind = kind
        self.tip = n

    def straighten(self):
        """Drops what is in no history: entries 1 to ``tip`` are the history now, and nothing else is there.

        In place: the links are turned round, then each entry moves down.  It never meets one that has still to move,
        because a history only ever names entries written earlier.
        """
        at = self.tip
        following = 0
        while at != 0:
            before = self.entry[at].previous
            self.entry[at].previous = following
            following = at
            at = before
        n = 0
        while following != 0:
            at = following
            following = self.entry[at].previous
            n += 1
            self.entry[n].start = self.entry[at].start
            self.entry[n].end = self.entry[at].end
            self.entry[n].cpu = self.entry[at].cpu
            self.entry[n].kind = self.entry[at].kind
            self.entry[n].previous = n - 1
        self.tip = n
        self.used = n + 1

    # Python's side.

    def settle(self):
        """``straighten``, when nobody will go back any more.

        Raises:
            MemoryError: entries were lost.
        """
        if self.lost != 0:
            raise MemoryError(f"{self.lost} entries of a ledger were lost: there was no memory for them")
        self.straighten()

    def add(self, kind, start, end, cpu=0):
        """``write`` for Python callers."""
        self.write(kind, start, end, cpu)

    def entries(self):
        """The history as tuples ``(kind, start, end, cpu)``, oldest first."""
        found = []
        at = self.tip
        while at != 0:
            found.append((self.entry[at].kind, self.entry[at].start, self.entry[at].end, self.entry[at].cpu))
            at = self.entry[at].previous
        found.reverse()
        return found

    @cython.locals(at=cython.uint, now=cython.ulonglong, most=cython.ulonglong, when=cython.uint)
    def peak(self):
        """The most bytes that were busy at once, and the entry after which they first were; (0, 0) for none.

        Preconditions: settled.
        """
        now = most = when = 0
        for at in range(1, self.tip + 1):
            if self.entry[at].kind == NOW_BUSY:
                now += self.entry[at].end - self.entry[at].start
                if now > most:
                    most = now
                    when = at
            elif self.entry[at].kind == NOW_GONE:
                now -= self.entry[at].end - self.entry[at].start
        return (most, when)

    @cython.locals(at=cython.uint, low=cython.ulonglong, high=cython.ulonglong)
    def hull(self):
        """``(start, end)`` around every range that was ever busy; (0, 0) for none. Preconditions: settled."""
        low = high = 0
        for at in range(1, self.tip + 1):
            if self.entry[at].kind == NOW_BUSY:
                if high == 0 or self.entry[at].start < low:
                    low = self.entry[at].start
                if self.entry[at].end > high:
                    high = self.entry[at].end
        return (low, high)

    def __len__(self):
        """Entries of the history once it is settled; before that, entries ever written."""
        return self.used - 1
