"""The allocator's hot core: one attempt to allocate, one free, in the kernel's steps and with the kernel's error
values.

Idea: the verbs of ``alloc_vmap_area`` that decide an address (specification section 1.10, steps 3 to 9) and of
``free_vmap_area_noflush`` (4.2), without policy: who retries, who purges, who raises is ``address_space`` (for Python
callers) or the replay (which is told by the trace).  Everything here runs without the interpreter lock and reports
failure as an error value, as the kernel does.

Preconditions of all calls: addresses and sizes are page multiples, alignments powers of two; the callers check.
"""

import cython

from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.nodes import VmapNodes
from vmalloc.areas.purge import Purge
from vmalloc.areas.rows import AreaRows

if not cython.compiled:
    from vmalloc.areas.free_tree import ADDRESS_MAX, ERROR_VALUES
    from vmalloc.areas.pools import NO_CLASS
    from vmalloc.areas.states import EINVAL, ENOMEM, NIL

__all__ = ["Allocator"]


class Allocator:
    """Free tree, nodes, pools and purge of one address space, assembled for one version profile.

    Args:
        vmalloc_start, vmalloc_end: the range whose requests use pools; the end may be odd (section 1.5).
        nr_nodes: vmap nodes.
        page_shift: log2 of the base page.
        merges_lazy, small_pools_drain, returns_ascending, walk_step: see ``kernels.KernelProfile``.
        lowest_fit, decay_divisor, populates: see ``policy.Policy``; by default the kernel's rules.
    """

    def __init__(
        self,
        vmalloc_start,
        vmalloc_end,
        nr_nodes,
        page_shift,
        merges_lazy,
        small_pools_drain,
        returns_ascending,
        walk_step,
        lowest_fit=False,
        decay_divisor=4,
        populates=True,
    ):
        self.rows = AreaRows()
        self.free = FreeTree(self.rows, 1 << page_shift, lowest_fit)
        self.nodes = VmapNodes(self.rows, nr_nodes, page_shift, merges_lazy, walk_step)
        self.purge = Purge(
            self.rows, self.free, self.nodes, small_pools_drain, returns_ascending, decay_divisor, populates
        )
        self.vmalloc_start = vmalloc_start
        self.vmalloc_end = vmalloc_end
        self.page_shift = page_shift
        self.pool_hits = 0
        self.chosen = 0
        self.chosen_block = NIL
        self.chosen_class = NO_CLASS
        self.rotate_class = NO_CLASS
        self.chosen_flags = 0

    def pooled_request(self, vstart, vend):
        """Tells whether a request in this window looks at pools and is marked with its CPU's node (section 4.7)."""
        return self.nodes.nr_nodes > 1 and vstart == self.vmalloc_start and vend == self.vmalloc_end

    def choose(self, size, align, vstart, vend, cpu, try_pool):
        """The address an attempt would return now, or its error value; nothing is moved or taken yet.

        What was found is noted for ``take_choice``, which must follow before anything else changes.
        """
        self.chosen_class = NO_CLASS
        self.rotate_class = NO_CLASS
        self.chosen_block = NIL
        self.chosen_flags = 0
        if self.pooled_request(vstart, vend):
            node = cpu % self.nodes.nr_nodes
            self.chosen_flags = (node + 1) << 8
            c = self.nodes.pools.class_of(node, size)
            if try_pool and c != NO_CLASS:
                head = self.nodes.pools.pool[c].head
                if head != NIL:
                    if self.rows.row[head].va_start & (align - 1) == 0:
                        self.chosen_class = c
                        self.chosen = self.rows.row[head].va_start
                        return self.chosen
                    self.rotate_class = c
        self.chosen = self.free.choose(size, align, vstart, vend)
        self.chosen_block = self.free.chosen
        return self.chosen

    def take_choice(self, size, va_flags):
        """Carries out the last ``choose``: the area is busy afterwards. Returns the address or an error value.

        A misaligned pool head moves to the tail of its list even when the attempt fails (section 4.8).
        """
        flags = va_flags | self.chosen_flags
        if self.chosen_class != NO_CLASS:
            v = self.nodes.pools.pop(self.chosen_class)
            self.rows.row[v].flags = flags
            self.pool_hits += 1
            if self.nodes.insert_busy(v) != 0:
                self.nodes.pools.push(self.chosen_class, v)
                return ADDRESS_MAX - ENOMEM + 1
            return self.chosen
        if self.rotate_class != NO_CLASS:
            self.nodes.pools.rotate(self.rotate_class)
        if self.chosen >= ERROR_VALUES:
            return self.chosen
        # A split takes one record and the area itself another: with both at hand nothing below can fail half way.
        if self.rows.reserve(2) != 0:
            return ADDRESS_MAX - ENOMEM + 1
        if self.free.clip(self.chosen_block, self.chosen, size) != 0:
            return ADDRESS_MAX - EINVAL + 1
        v = self.rows.take(self.chosen, self.chosen + size)
        self.rows.row[v].flags = flags
        if self.nodes.insert_busy(v) != 0:
            self.free.give(v)
            return ADDRESS_MAX - ENOMEM + 1
        return self.chosen

    def attempt(self, size, align, vstart, vend, cpu, va_flags, try_pool):
        """One attempt to allocate: pool of the CPU's node first, then the free tree; the area is busy afterwards.

        Returns the address or an error value.
        """
        self.choose(size, align, vstart, vend, cpu, try_pool)
        return self.take_choice(size, va_flags)

    def place(self, start, end, flags):
        """Makes exactly ``[start, end)`` busy, whatever a search would choose; 0, or a negative errno unchanged.

        For early areas, for snapshots, and for a replay that corrects itself.
        """
        if self.rows.reserve(2) != 0:
            return -ENOMEM
        if self.free.carve(start, end) != 0:
            return -EINVAL
        v = self.rows.take(start, end)
        self.rows.row[v].flags = flags
        if self.nodes.insert_busy(v) != 0:
            self.free.give(v)
            return -ENOMEM
        return 0

    def make_lazy(self, address):
        """Frees the area that contains ``address`` lazily (sections 1.12 and 4.2); 0, or ``-EINVAL`` when none does."""
        v = self.nodes.unlink(address)
        if v == NIL:
            return -EINVAL
        if self.nodes.insert_lazy(v) != 0:
            self.nodes.insert_busy(v)
            return -ENOMEM
        return 0

    def give_back(self, address):
        """Returns the area straight to the free tree: an allocation that failed later (section 1.10, step 10)."""
        v = self.nodes.unlink(address)
        if v == NIL:
            return -EINVAL
        self.purge.give(v)
        return 0

    def take_groups(self, groups):
        """Finds a base for per-CPU ``groups`` and makes their ranges busy, without node marks (section 7.1).

        Returns the base or an error value.
        """
        if self.rows.reserve(3 * groups.nr_groups) != 0:
            return ADDRESS_MAX - ENOMEM + 1
        base = groups.take(self.free)
        if base >= ERROR_VALUES:
            return base
        for g in range(groups.nr_groups):
            v = self.rows.take(base + groups.offset[g], base + groups.offset[g] + groups.size[g])
            if self.nodes.insert_busy(v) != 0:
                self.free.give(v)
                return ADDRESS_MAX - ENOMEM + 1
        return base

    # Python's side: the same calls for ``address_space`` and for tests.

    def allocate(self, size, align, vstart, vend, cpu, va_flags, try_pool):
        """``attempt`` for Python callers."""
        return self.attempt(size, align, vstart, vend, cpu, va_flags, try_pool)

    def foresee(self, size, align, vstart, vend, cpu):
        """``choose`` for Python callers: what an allocation would get."""
        return self.choose(size, align, vstart, vend, cpu, True)

    def put(self, start, end, flags):
        """``place`` for Python callers."""
        return self.place(start, end, flags)

    def free_lazily(self, address):
        """``make_lazy`` for Python callers."""
        return self.make_lazy(address)

    def free_now(self, address):
        """``give_back`` for Python callers."""
        return self.give_back(address)

    def find_busy(self, address):
        """The row of the busy area that contains ``address``, or 0."""
        return self.nodes.find(address)

    def claim_groups(self, groups):
        """``take_groups`` for Python callers."""
        return self.take_groups(groups)

    def adopt(self, start, end, flags, lazy):
        """Adds an area that exists already, busy or lazy, whose range is in no structure yet: for snapshots.

        Raises:
            MemoryError: no record; nothing was changed.
            ValueError: another area starts there.
        """
        v = self.rows.take(start, end)
        if v == NIL:
            raise MemoryError("no memory for a vmap_area record")
        self.rows.row[v].flags = flags
        result = self.nodes.insert_lazy(v) if lazy else self.nodes.insert_busy(v)
        if result != 0:
            self.rows.release(v)
            raise ValueError(f"two areas start at {start:#x}")

    def run_purge(self, start, end, full):
        """A whole purge: ``(start, end, count)`` of the flush the caller now owes."""
        self.purge.run(start, end, full)
        return (self.purge.start, self.purge.end, self.purge.count)
