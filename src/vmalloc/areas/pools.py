"""Size-class pools: ranges kept ready for reuse by exact page count (specification section 4.8).

Idea: since 6.9 each vmap node keeps, for every area size from 1 to 256 pages, a list of purged ranges.  An allocation
looks only at the **head** of the list of its exact size: if it is aligned it is popped, if it is not it moves to the
tail and the allocation goes to the free tree instead.  Purging pushes at the head.  So reuse is last in, first out, and
a misaligned head costs a global allocation even when the next entry would do; traces cannot be replayed otherwise.

Shape: ``pool[c]`` with ``c = node * 256 + pages - 1`` is a singly linked list (``list_next``) with head, tail, length.

Invariants (``validate.validate_pools``): each row on a list is ``POOLED`` and has exactly the class's page count; the
length is right; the tail is the last row; a row is on one list only.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.areas.plain import Pool, extend
    from vmalloc.areas.states import MAX_POOL_PAGES, NIL, POOLED

    NO_CLASS = 0x7FFFFFFF

__all__ = ["Pools"]


class Pools:
    """The pools of all nodes."""

    def __cinit__(self, rows, nr_nodes, page_shift):
        self.rows = rows
        self.nr_nodes = nr_nodes
        self.page_shift = page_shift
        if cython.compiled:
            self.pool = cython.cast(
                cython.pointer(size_class), calloc(nr_nodes * MAX_POOL_PAGES, cython.sizeof(size_class))
            )
            if self.pool == cython.NULL:
                raise MemoryError(f"no memory for the pools of {nr_nodes} nodes")
        else:
            self.pool = []
            extend(self.pool, nr_nodes * MAX_POOL_PAGES, Pool)

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.pool)

    def class_of(self, node, size):
        """The list for areas of ``size`` bytes on ``node``; ``NO_CLASS`` when they are too large to be pooled."""
        nr_pages = size >> self.page_shift
        if nr_pages > MAX_POOL_PAGES:
            return NO_CLASS
        return node * MAX_POOL_PAGES + nr_pages - 1

    def push(self, c, v):
        """Puts row ``v`` at the head of list ``c``."""
        self.rows.row[v].state = POOLED
        self.rows.row[v].list_next = self.pool[c].head
        self.pool[c].head = v
        if self.pool[c].tail == NIL:
            self.pool[c].tail = v
        self.pool[c].length += 1

    def pop(self, c):
        """Takes the head of list ``c``; ``NIL`` when it is empty. The row's state is the caller's to set."""
        v = self.pool[c].head
        if v == NIL:
            return NIL
        self.pool[c].head = self.rows.row[v].list_next
        if self.pool[c].head == NIL:
            self.pool[c].tail = NIL
        self.rows.row[v].list_next = NIL
        self.pool[c].length -= 1
        return v

    def rotate(self, c):
        """Moves the head of list ``c`` to its tail: what a misaligned head is punished with."""
        v = self.pop(c)
        if v == NIL:
            return
        if self.pool[c].tail == NIL:
            self.pool[c].head = v
        else:
            self.rows.row[self.pool[c].tail].list_next = v
        self.pool[c].tail = v
        self.pool[c].length += 1

    def find(self, c, start):
        """The row of list ``c`` that starts at ``start``, or ``NIL``. A linear look, for replay's corrections."""
        v = self.pool[c].head
        while v != NIL and self.rows.row[v].va_start != start:
            v = self.rows.row[v].list_next
        return v

    def remove(self, c, wanted):
        """Takes row ``wanted`` out of the middle of list ``c``; False when it is not there."""
        before = NIL
        v = self.pool[c].head
        while v != NIL and v != wanted:
            before = v
            v = self.rows.row[v].list_next
        if v == NIL:
            return False
        if before == NIL:
            self.pool[c].head = self.rows.row[v].list_next
        else:
            self.rows.row[before].list_next = self.rows.row[v].list_next
        if self.pool[c].tail == v:
            self.pool[c].tail = before
        self.rows.row[v].list_next = NIL
        self.pool[c].length -= 1
        return True

    def insert_by_address(self, c, v):
        """Puts row ``v`` into list ``c`` before the first entry with a lower address: where its purge would have put
        it.

        For replay's corrections only; the kernel never inserts in the middle.
        """
        before = NIL
        after = self.pool[c].head
        while after != NIL and self.rows.row[after].va_start > self.rows.row[v].va_start:
            before = after
            after = self.rows.row[after].list_next
        self.rows.row[v].state = POOLED
        self.rows.row[v].list_next = after
        if before == NIL:
            self.pool[c].head = v
        else:
            self.rows.row[before].list_next = v
        if after == NIL:
            self.pool[c].tail = v
        self.pool[c].length += 1

    # Python's side: for tests, validators and printing.

    def entries(self, node, nr_pages):
        """Row numbers of the pool of ``node`` for areas of ``nr_pages`` pages, head first."""
        found = []
        v = self.pool[node * MAX_POOL_PAGES + nr_pages - 1].head
        while v != NIL:
            found.append(v)
            if v >= self.rows.used or len(found) > self.rows.used:
                break  # a broken list, out of the table or in a circle: the validator reports it
            v = self.rows.row[v].list_next
        return found

    def description(self, node, nr_pages):
        """``(head, tail, length)`` as stored."""
        c = node * MAX_POOL_PAGES + nr_pages - 1
        return (self.pool[c].head, self.pool[c].tail, self.pool[c].length)

    def poke(self, node, nr_pages, field, value):
        """Overwrites ``head``, ``tail`` or ``length``: for the tests that break structures on purpose."""
        c = node * MAX_POOL_PAGES + nr_pages - 1
        if field == "head":
            self.pool[c].head = value
        elif field == "tail":
            self.pool[c].tail = value
        elif field == "length":
            self.pool[c].length = value
        else:
            raise KeyError(field)
