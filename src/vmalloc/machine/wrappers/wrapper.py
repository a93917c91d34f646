"""A machine that does what the one inside does: what all wrappers begin with.

What is one thing on all layers: ``info``, and ``running`` - the very object of the innermost machine.  Whoever says, on
whatever layer, that another CPU runs says it to all of them.  Everything that is no operation - page tables, TLBs,
counters of the simulated machine - is looked up on the machine inside.

Protected by the lock of the space.
"""

from vmalloc.errors import BadRequest
from vmalloc.machine.base import Machine

__all__ = ["OPERATIONS", "Wrapper"]

#: Every operation of a machine.
OPERATIONS = (
    "take", "take_bulk", "split", "give", "give_bulk", "hold", "why_not", "node_of", "slab", "map_pages", "map_range",
    "unmap", "flush", "translate", "set_direct_map", "set_scope", "load", "store", "read_frame", "zero_frame",
    "copy_frame", "defer", "run_deferred", "has_deferred", "trim", "validate",
)  # fmt: skip


class Wrapper(Machine):
    """A machine that does what the one inside does.

    Args:
        inner: the machine inside.

    Raises:
        BadRequest: that is no machine.
    """

    def __init__(self, inner):
        if not isinstance(inner, Machine):
            raise BadRequest(f"a wrapper goes around a machine, not around {inner!r}")
        self.inner = inner
        self.info = inner.info
        self.running = inner.running

    def __getattr__(self, name):
        if name == "inner":  # asked for before __init__ has run, uncompiled: there is nothing to look it up on
            raise AttributeError(name)
        return getattr(self.inner, name)

    # -- page frames --------------------------------------------------------------------------------------------------

    def take(self, order, node, how):
        """Asks the machine inside."""
        return self.inner.take(order, node, how)

    def take_bulk(self, pages, count, node, how):
        """Asks the machine inside."""
        return self.inner.take_bulk(pages, count, node, how)

    def split(self, pfn, order):
        """Asks the machine inside."""
        return self.inner.split(pfn, order)

    def give(self, pfn, order):
        """Asks the machine inside."""
        return self.inner.give(pfn, order)

    def give_bulk(self, pages, first, count):
        """Asks the machine inside."""
        return self.inner.give_bulk(pages, first, count)

    def hold(self, pfn):
        """Asks the machine inside."""
        return self.inner.hold(pfn)

    def why_not(self, pfn, order):
        """Asks the machine inside."""
        return self.inner.why_not(pfn, order)

    def node_of(self, pfn):
        """Asks the machine inside."""
        return self.inner.node_of(pfn)

    def slab(self, what):
        """Asks the machine inside."""
        return self.inner.slab(what)

    # -- mappings -----------------------------------------------------------------------------------------------------

    def map_pages(self, address, pages, first, count, prot):
        """Asks the machine inside."""
        return self.inner.map_pages(address, pages, first, count, prot)

    def map_range(self, address, pfn, size, max_shift, prot):
        """Asks the machine inside."""
        return self.inner.map_range(address, pfn, size, max_shift, prot)

    def unmap(self, start, end):
        """Asks the machine inside."""
        return self.inner.unmap(start, end)

    def flush(self, start, end):
        """Asks the machine inside."""
        return self.inner.flush(start, end)

    def translate(self, address):
        """Asks the machine inside."""
        return self.inner.translate(address)

    def set_direct_map(self, pages, first, count, valid):
        """Asks the machine inside."""
        return self.inner.set_direct_map(pages, first, count, valid)

    def set_scope(self, reclaim):
        """Asks the machine inside."""
        return self.inner.set_scope(reclaim)

    # -- bytes --------------------------------------------------------------------------------------------------------

    def load(self, address, size):
        """Asks the machine inside."""
        return self.inner.load(address, size)

    def store(self, address, data):
        """Asks the machine inside."""
        return self.inner.store(address, data)

    def read_frame(self, pfn, offset, size):
        """Asks the machine inside."""
        return self.inner.read_frame(pfn, offset, size)

    def zero_frame(self, pfn, offset, size):
        """Asks the machine inside."""
        return self.inner.zero_frame(pfn, offset, size)

    def copy_frame(self, pfn, source, size):
        """Asks the machine inside."""
        return self.inner.copy_frame(pfn, source, size)

    # -- deferred work ------------------------------------------------------------------------------------------------

    def defer(self, work, cpu):
        """Asks the machine inside."""
        return self.inner.defer(work, cpu)

    def run_deferred(self):
        """Asks the machine inside."""
        return self.inner.run_deferred()

    def has_deferred(self):
        """Asks the machine inside."""
        return self.inner.has_deferred()

    # -- keeping house ------------------------------------------------------------------------------------------------

    def trim(self):
        """Asks the machine inside."""
        return self.inner.trim()

    def validate(self):
        """Asks the machine inside."""
        return self.inner.validate()
