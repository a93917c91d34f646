"""A purge: decay the pools, detach the lazy sets, owe one flush, then hand the ranges on (specification section 4.9).

Idea: a purge is told as the kernel's steps, so that a caller may run it whole (``run``) or take the steps one by one
(the replay does, because on another CPU an allocation can fall between any two of them)::

    begin                                   an empty hull, or the one the caller hands in (vm_unmap_aliases)
    for each node, ascending:
        decay(node)                         a quarter of each pool, from the head, goes back to the free tree
        detach(node)                        its lazy set becomes its purge list; the hull grows
    -- here the caller owes flush_tlb_kernel_range(start, end), and the ledger, if there is one, says so --
    for each node, ascending:
        step(node), step(node), ...         lowest address first: to the node's pool if it may, else aside
        finish(node)                        what was put aside goes to the free tree, last put first

Orders that addresses depend on: areas enter their pool in ascending order, so the next allocation gets the highest;
areas that return to the free tree do so in *descending* order, because they were pushed on a list head (6.1, which has
no nodes: ascending); decayed entries are merged with each other first and return in ascending order.

The rule for partial decay is a profile value: ``len >> 2`` entries, and up to 6.12 all of a pool with fewer than four
(a counter underflow, ``small_pools_drain``).  A policy may ask for another part (``decay_divisor``: one in so many, 0
none), or for no pools at all (``populates``).

Invariant: between ``begin`` and the last ``finish`` a row is in exactly one of pool, purge list, put-aside list, free
tree; ``nodes.nr_lazy`` counts the pages not yet processed.
"""

import cython

from vmalloc.areas.free_tree import FreeTree

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.areas.free_tree import ADDRESS_MAX
    from vmalloc.areas.states import LOOSE, MAX_POOL_PAGES, NIL, NOW_FLUSHED

__all__ = ["Purge"]


class Purge:
    """The purge of one allocator: its running state and its steps."""

    def __cinit__(self, rows, free, nodes, small_pools_drain, returns_ascending, decay_divisor=4, populates=True):
        self.rows = rows
        self.free = free
        self.nodes = nodes
        self.scratch = FreeTree(rows, free.page_size)
        self.small_pools_drain = small_pools_drain
        self.returns_ascending = returns_ascending
        self.decay_divisor = decay_divisor
        self.populates = populates
        if cython.compiled:
            self.pending = cython.cast(cython.p_uint, calloc(nodes.nr_nodes, cython.sizeof(cython.uint)))
            self.returning = cython.cast(cython.p_uint, calloc(nodes.nr_nodes, cython.sizeof(cython.uint)))
            if self.pending == cython.NULL or self.returning == cython.NULL:
                raise MemoryError(f"no memory for the purge lists of {nodes.nr_nodes} nodes")
        else:
            self.pending = [NIL] * nodes.nr_nodes
            self.returning = [NIL] * nodes.nr_nodes
        self.skip_populate = False
        self.start = ADDRESS_MAX
        self.end = 0
        self.count = 0
        self.overlaps = 0

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.pending)
            free(self.returning)

    def begin(self, start, end, full):
        """Starts a purge whose hull already covers ``[start, end)``; ``full`` empties pools and fills none."""
        self.start = start
        self.end = end
        self.count = 0
        self.skip_populate = full or not self.populates

    def decay_amount(self, c, full):
        """How many entries a decay takes from the head of pool ``c``."""
        length = self.nodes.pools.pool[c].length
        if full:
            return length
        if self.decay_divisor == 0:
            return 0
        amount = length // self.decay_divisor
        if amount == 0 and self.small_pools_drain:
            return length
        return amount

    def decay(self, node, full):
        """Returns a quarter of each pool of ``node``, or all of it, to the free tree."""
        for pages in range(MAX_POOL_PAGES):
            c = node * MAX_POOL_PAGES + pages
            if self.nodes.pools.pool[c].length == 0:
                continue
            amount = self.decay_amount(c, full)
            for k in range(amount):
                v = self.nodes.pools.pop(c)
                self.rows.row[v].state = LOOSE
                if self.scratch.give(v) != 0:
                    self.rows.release(v)
                    self.overlaps += 1
        if self.scratch.root == NIL:
            return
        self.give_list(self.scratch.drain())

    def detach(self, node):
        """Makes the lazy set of ``node`` its purge list; returns the first row, ``NIL`` when it was empty."""
        first = self.nodes.detach(node)
        self.pending[node] = first
        if first != NIL:
            self.widen(first)
        if node + 1 == self.nodes.nr_nodes and self.start < self.end:
            self.nodes.note(NOW_FLUSHED, self.start, self.end)
        return first

    def widen(self, v):
        """Makes the hull cover the list ``v``, which ascends."""
        if self.rows.row[v].va_start < self.start:
            self.start = self.rows.row[v].va_start
        while self.rows.row[v].list_next != NIL:
            v = self.rows.row[v].list_next
        if self.rows.row[v].va_end > self.end:
            self.end = self.rows.row[v].va_end

    def step(self, node):
        """Processes the lowest area of ``node``'s purge list; False when there is none left."""
        v = self.pending[node]
        if v == NIL:
            return False
        self.pending[node] = self.rows.row[v].list_next
        self.count += 1
        pages = (self.rows.row[v].va_end - self.rows.row[v].va_start) >> self.nodes.page_shift
        self.nodes.nr_lazy -= pages
        encoded = self.rows.row[v].flags >> 8
        if encoded != 0 and encoded <= self.nodes.nr_nodes and not self.skip_populate and pages <= MAX_POOL_PAGES:
            c = node * MAX_POOL_PAGES + pages - 1
            self.nodes.pools.push(c, v)
            return True
        self.rows.row[v].state = LOOSE
        self.rows.row[v].list_next = self.returning[node]
        self.returning[node] = v
        return True

    def finish(self, node):
        """Processes what is left of ``node``'s purge list and returns what was put aside to the free tree."""
        while self.step(node):
            pass
        v = self.returning[node]
        self.returning[node] = NIL
        if self.returns_ascending:
            following = v
            v = NIL
            while following != NIL:  # turn the list round
                self.rows.row[following].list_next, v, following = v, following, self.rows.row[following].list_next
        self.give_list(v)

    def give_list(self, v):
        """Returns the rows of the list ``v`` to the free tree, in their order."""
        warmed = v
        while v != NIL:
            if v == warmed:
                warmed = self.free.warm(v)
            following = self.rows.row[v].list_next
            self.give(v)
            v = following

    def give(self, v):
        """Returns row ``v`` to the free tree; a record that overlaps is lost, as the kernel loses it, and counted."""
        if self.free.give(v) != 0:
            self.rows.release(v)
            self.overlaps += 1

    def run(self, start, end, full):
        """The whole purge; returns the number of areas it took. The caller owes the flush of ``[start, end)``."""
        self.begin(start, end, full)
        for node in range(self.nodes.nr_nodes):
            self.decay(node, full)
            self.detach(node)
        for node in range(self.nodes.nr_nodes):
            self.finish(node)
        return self.count

    def shrink(self):
        """The shrinker ``vmap-node``: empties the pools of every node and leaves the lazy sets alone (4.10)."""
        for node in range(self.nodes.nr_nodes):
            self.decay(node, True)

    # Python's side.

    def execute(self, start, end, full):
        """``run`` for Python callers: ``(start, end, count)`` of the flush the caller now owes."""
        self.run(start, end, full)
        return (self.start, self.end, self.count)

    def shrink_pools(self):
        """``shrink`` for Python callers."""
        self.shrink()

    def pending_ranges(self, node):
        """What the purge took from ``node`` and has not processed yet, ascending: ``(start, end)`` of each."""
        found = []
        v = self.pending[node]
        while v != NIL:
            found.append((self.rows.row[v].va_start, self.rows.row[v].va_end))
            v = self.rows.row[v].list_next
        return found

    # The steps one by one, for a caller that lets other CPUs act between them.

    def do_begin(self, start, end, full):
        """``begin`` for Python callers."""
        self.begin(start, end, full)

    def do_decay(self, node, full):
        """``decay`` for Python callers."""
        self.decay(node, full)

    def do_detach(self, node):
        """``detach`` for Python callers."""
        return self.detach(node)

    def do_step(self, node):
        """``step`` for Python callers."""
        return self.step(node)

    def do_finish(self, node):
        """``finish`` for Python callers."""
        self.finish(node)
