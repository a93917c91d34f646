"""Vmap nodes: which busy set an address is in, which lazy set and pools a freed area goes to.

Idea (specification sections 4.5-4.7): to spread one global lock, 6.9 cut the busy set by *address* into zones of 16
pages dealt out to N nodes, and gave each CPU a home node, ``cpu mod N``.  Two different mappings meet in a record:

* **by address**: ``addr_to_node(a) = a / zone mod N``; says in which busy set the record is.  An area that spans zones
  is only in the node of its first byte, so looking up an inner address walks the nodes (section 1.12);
* **by allocating CPU**: ``flags`` carries ``(cpu mod N + 1) << 8``; says into which lazy set the area goes when it is
  freed and into which pools when it is purged.  0 means none: then the address decides.

Before 6.9 (profile 6.1) there is one node, and lazily freed neighbours are merged with each other (``merges_lazy``).

Shape: ``maps`` holds 2 N ordered maps: ``n`` is the busy set of node ``n``, ``N + n`` its lazy set.

Invariants (``validate.validate_nodes``): busy and lazy rows are disjoint and have the matching state; a busy row is in
the map of its address's node, a lazy row in the map of its home; ``lazy_areas`` and ``nr_lazy`` are the sums.
"""

import cython

from vmalloc.areas.ordered_map import OrderedMaps
from vmalloc.areas.pools import Pools

if not cython.compiled:
    from vmalloc.areas.states import BUSY, LAZY, LOOSE, NIL, NOW_BUSY, NOW_GONE, PURGING

__all__ = ["VmapNodes", "encode_node", "zone_of"]


def encode_node(node):
    """The bits of ``flags`` that say "allocated by a CPU of this node" (section 4.7)."""
    return (node + 1) << 8


def zone_of(nr_nodes, page_shift):
    """Bytes of address space dealt to one node at a time: 16 pages, or 1 byte with a single node (section 4.5)."""
    return 16 << page_shift if nr_nodes > 1 else 1


class VmapNodes:
    """The busy sets, lazy sets and pools of all nodes."""

    def __init__(self, rows, nr_nodes, page_shift, merges_lazy, walk_step):
        self.rows = rows
        self.nr_nodes = nr_nodes
        self.page_shift = page_shift
        self.zone_size = zone_of(nr_nodes, page_shift)
        self.merges_lazy = merges_lazy
        self.walk_step = walk_step
        self.maps = OrderedMaps(2 * nr_nodes)
        self.pools = Pools(rows, nr_nodes, page_shift)
        self.nr_lazy = 0
        self.lazy_areas = 0
        self.ledger = None
        self.cpu = 0

    def note(self, kind, start, end):
        """Writes to the ledger what happens to a range, if there is a ledger."""
        if self.ledger is not None:
            self.ledger.write(kind, start, end, self.cpu)

    def moment(self):
        """The present moment of the ledger."""
        return self.ledger.tip if self.ledger is not None else 0

    def go_back(self, moment):
        """Makes a stored moment the present one: what was noted since has not happened."""
        if self.ledger is not None:
            self.ledger.tip = moment

    def addr_to_node(self, address):
        """The node whose busy set holds areas that start at ``address`` (section 4.6)."""
        if self.nr_nodes == 1:
            return 0
        return (address // self.zone_size) % self.nr_nodes

    def home(self, v):
        """The node row ``v`` returns to: that of the CPU that allocated it, else that of its address."""
        encoded = self.rows.row[v].flags >> 8
        if encoded == 0 or encoded > self.nr_nodes:
            return self.addr_to_node(self.rows.row[v].va_start)
        return encoded - 1

    def insert_busy(self, v):
        """Makes the loose row ``v`` busy; 0, or -1 without change when memory is exhausted or the start is taken."""
        if self.maps.insert(self.addr_to_node(self.rows.row[v].va_start), self.rows.row[v].va_start, v) != 0:
            return -1
        self.rows.row[v].state = BUSY
        self.note(NOW_BUSY, self.rows.row[v].va_start, self.rows.row[v].va_end)
        return 0

    def find(self, address):
        """The busy row that contains ``address``, walking the nodes as the profile does; ``NIL`` when none does."""
        node = self.addr_to_node(address)
        for k in range(self.nr_nodes):
            v = self.maps.at_or_below(node, address)
            if v != NIL and address < self.rows.row[v].va_end:
                return v
            node = (node + self.nr_nodes + self.walk_step) % self.nr_nodes
        return NIL

    def fetch_run(self, start):
        """Fetches into the cache the run of the busy map where an area that starts at ``start`` is, or would be."""
        node = self.addr_to_node(start)
        if self.maps.map[node].nr_blocks != 0:
            self.maps.find_block(node, start)  # fetches the run it finds, in a large map

    def fetch_row(self, start):
        """Fetches into the cache the row of the busy area that starts at ``start``."""
        v = self.maps.get(self.addr_to_node(start), start)
        if cython.compiled and v != NIL:
            vmalloc_prefetch(cython.address(self.rows.row[v]))

    def unlink(self, address):
        """Takes the busy row that contains ``address`` out of its set; it is loose then. ``NIL`` when none does."""
        v = self.find(address)
        if v != NIL:
            self.maps.remove(self.addr_to_node(self.rows.row[v].va_start), self.rows.row[v].va_start)
            self.rows.row[v].state = LOOSE
            self.note(NOW_GONE, self.rows.row[v].va_start, self.rows.row[v].va_end)
        return v

    def unlink_exact(self, start):
        """``unlink`` for an address that must be the start of an area."""
        v = self.maps.remove(self.addr_to_node(start), start)
        if v != NIL:
            self.rows.row[v].state = LOOSE
            self.note(NOW_GONE, self.rows.row[v].va_start, self.rows.row[v].va_end)
        return v

    def insert_lazy(self, v):
        """Makes the loose row ``v`` lazy on its home node; 0, or -1 when memory is exhausted."""
        if self.merges_lazy:
            return self.merge_lazy(v)
        if self.maps.insert(self.nr_nodes + self.home(v), self.rows.row[v].va_start, v) != 0:
            return -1
        self.rows.row[v].state = LAZY
        self.nr_lazy += (self.rows.row[v].va_end - self.rows.row[v].va_start) >> self.page_shift
        self.lazy_areas += 1
        return 0

    def merge_lazy(self, v):
        """Makes ``v`` lazy and merges it with the lazy ranges it touches (profile 6.1, section 4.2)."""
        m = self.nr_nodes
        pages = (self.rows.row[v].va_end - self.rows.row[v].va_start) >> self.page_shift
        near = self.maps.at_or_below(m, self.rows.row[v].va_start)
        if near != NIL and self.rows.row[near].va_end == self.rows.row[v].va_start:
            self.rows.row[near].va_end = self.rows.row[v].va_end
            self.rows.release(v)
            v = near
        else:
            if self.maps.insert(m, self.rows.row[v].va_start, v) != 0:
                return -1
            self.rows.row[v].state = LAZY
            self.lazy_areas += 1
        self.nr_lazy += pages
        near = self.maps.remove(m, self.rows.row[v].va_end)
        if near != NIL:
            self.rows.row[v].va_end = self.rows.row[near].va_end
            self.rows.release(near)
            self.lazy_areas -= 1
        return 0

    def unlink_lazy(self, v):
        """Takes the lazy row ``v`` back out: for a replay that learns a free came after a purge. It is loose then."""
        if self.maps.remove(self.nr_nodes + self.home(v), self.rows.row[v].va_start) == NIL:
            return NIL
        self.rows.row[v].state = LOOSE
        self.nr_lazy -= (self.rows.row[v].va_end - self.rows.row[v].va_start) >> self.page_shift
        self.lazy_areas -= 1
        return v

    def detach(self, node):
        """Empties the lazy set of ``node`` into a list joined by ``list_next``, ascending; returns its first row.

        ``nr_lazy`` still counts the pages: they are subtracted when the list has been processed (section 4.9).
        """
        m = self.nr_nodes + node
        first = NIL
        last = NIL
        for i in range(self.maps.map[m].nr_blocks):
            b = self.maps.map[m].block[i]
            for k in range(self.maps.block[b].count):
                v = self.maps.block[b].values[k]
                self.rows.row[v].state = PURGING
                self.rows.row[v].list_next = NIL
                if last == NIL:
                    first = v
                else:
                    self.rows.row[last].list_next = v
                last = v
        self.lazy_areas -= self.maps.map[m].count
        self.maps.clear(m)
        return first

    # Python's side: for tests, validators and printing.

    def attach_ledger(self, ledger):
        """Writes to ``ledger`` from now on, first what is busy already; None: to none any more."""
        self.ledger = ledger
        if ledger is not None:
            for start, end in sorted([self.range_of(v) for n in range(self.nr_nodes) for v in self.busy(n)]):
                self.note(NOW_BUSY, start, end)

    def range_of(self, v):
        """``(start, end)`` of a row."""
        return (self.rows.row[v].va_start, self.rows.row[v].va_end)

    def busy(self, node):
        """Row numbers of the busy set of ``node``, ascending."""
        return [v for _start, v in self.maps.items(node)]

    def lazy(self, node):
        """Row numbers of the lazy set of ``node``, ascending."""
        return [v for _start, v in self.maps.items(self.nr_nodes + node)]

    def node_of_address(self, address):
        """``addr_to_node`` for Python callers."""
        return self.addr_to_node(address)

    def home_of(self, v):
        """``home`` for Python callers."""
        return self.home(v)
