"""A machine that runs short when it is told to.

Idea: a failure is planned - "the third ``take`` from now on runs short, once" - and looks as the conventions of
``machine.base`` say, so that nothing behind it can tell it from a real one.  An operation that fails has not been done,
with two exceptions that real machines have, too: ``take_bulk`` answers with half of what was asked for; and a mapping
whose ``page_table`` fails is made up to the table for which there is no memory.  Each page table of the lowest level
that a mapping reaches counts as one request, whether it exists already or not.

What may fail now is one word of bits (``armed``): where nothing is planned, an operation costs one look at it.

Protected by the lock of the space.
"""

import random

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.wrappers.wrapper import Wrapper

if not cython.compiled:
    from vmalloc.areas.states import ENOMEM

    FAIL_TAKE, FAIL_TAKE_BULK, FAIL_SLAB, FAIL_MAP_PAGES, FAIL_MAP_RANGE, FAIL_PAGE_TABLE, FAIL_FLUSH = [
        1 << place for place in range(7)
    ]

__all__ = ["FAILING", "RECORDS", "FailingMachine"]

#: What can be made to fail; all but the last happen to real machines.
FAILING = ("take", "take_bulk", "slab", "map_pages", "map_range", "page_table", "flush")

#: Records that calls ask ``slab`` for.
RECORDS = ("vm_struct", "vmap_area", "page array", "vmap_block")


class Plan:
    """One planned failure.

    Attributes:
        after: how many requests go through before.
        times: how many fail then; -1 for all.
        what: the record it is about; None for any.
    """

    def __cinit__(self, after, times, what):
        self.after = after
        self.times = times
        self.what = what

    if not cython.compiled:
        __init__ = __cinit__


class FailingMachine(Wrapper):
    """A machine that runs short when it is told to.

    Attributes:
        plans: failures to come, by operation.
        probability: with which any operation but ``flush`` fails, besides.
        failures: how many there were.
    """

    def __init__(self, inner):
        Wrapper.__init__(self, inner)
        self.page_shift = inner.info.page_shift
        self.table_shift = inner.info.pmd_shift
        self.failures = 0
        self.clear()

    def clear(self):
        """Forgets all plans: from now on nothing fails on purpose."""
        self.plans = {operation: [] for operation in FAILING}
        self.probability = 0.0
        self.draw = None
        self.armed = 0

    def fail_next(self, operation, after=0, times=1, what=None):
        """Plans a failure; plans for one operation count each for themselves.

        Args:
            operation: one of ``FAILING``. ``"page_table"``: memory for the page tables of a mapping; ``"flush"``: the
                flush does nothing, which no machine does, and which shows what flushes are for.
            after: how many requests go through before.
            times: how many fail then; None for all.
            what: for ``"slab"``: only requests for this record, one of ``RECORDS``.

        Raises:
            BadRequest: there is no such operation, number or record.
        """
        if operation not in FAILING:
            raise BadRequest(f"operation {operation!r} cannot be made to fail; these can: {', '.join(FAILING)}")
        if after < 0 or (times is not None and times < 1):
            raise BadRequest(f"a failure after {after} requests, {times} times: at least 0, and at least 1")
        if what is not None and (operation != "slab" or what not in RECORDS):
            raise BadRequest(f"record {what!r} of {operation}: only slab is asked for records: {', '.join(RECORDS)}")
        self.plans[operation].append(Plan(after, -1 if times is None else times, what))
        self.armed |= 1 << FAILING.index(operation)

    def drop_flushes(self, n=None):
        """The next ``n`` flushes, or all from now on, do nothing: what CPUs remember goes stale."""
        self.fail_next("flush", times=n)

    def fail_randomly(self, probability, seed=0):
        """Lets every operation that can run short do so at random.

        Args:
            probability: of each request, 0 to 1; 0 ends it.
            seed: the same seed and the same requests give the same failures.

        Raises:
            BadRequest: no such probability.
        """
        if not 0 <= probability <= 1:
            raise BadRequest(f"probability {probability}: between 0 and 1")
        self.probability = probability
        self.draw = random.Random(seed).random
        for place in range(len(FAILING)):
            if probability > 0 and FAILING[place] != "flush":
                self.armed |= 1 << place

    def fails(self, operation, what):
        """Whether a request fails now: every plan counts it, and chance is asked."""
        hit = self.plan_fails(operation, what)
        if not hit and self.probability > 0 and operation != "flush":
            hit = self.draw() < self.probability
        if hit:
            self.failures += 1
        return hit

    def plan_fails(self, operation, what):
        """Whether a plan says that a request fails."""
        hit = False
        for plan in list(self.plans[operation]):
            if plan.what is not None and plan.what != what:
                continue
            if plan.after > 0:
                plan.after -= 1
                continue
            hit = True
            if plan.times > 0:
                plan.times -= 1
                if plan.times == 0:
                    self.plans[operation].remove(plan)
        if not self.plans[operation] and (self.probability == 0 or operation == "flush"):
            self.armed &= ~(1 << FAILING.index(operation))
        return hit

    def size_before_failure(self, address, size):
        """How many bytes of a mapping are made before a page table is missing; all of them where none is."""
        reach = 0
        table_size = 1
        table_size <<= self.table_shift
        while reach < size:
            if self.fails("page_table", None):
                return reach
            piece = table_size - ((address + reach) & (table_size - 1))
            if piece > size - reach:
                piece = size - reach
            reach += piece
        return size

    def take(self, order, node, how):
        """Takes a block, or runs short."""
        if self.armed & FAIL_TAKE and self.fails("take", None):
            return -1
        return self.inner.take(order, node, how)

    def take_bulk(self, pages, count, node, how):
        """Takes a batch; when it fails, half of one."""
        if self.armed & FAIL_TAKE_BULK and self.fails("take_bulk", None):
            count = count >> 1
            if count == 0:
                return 0
        return self.inner.take_bulk(pages, count, node, how)

    def slab(self, what):
        """Asks for a record, or runs short."""
        if self.armed & FAIL_SLAB and self.fails("slab", what):
            return False
        return self.inner.slab(what)

    def map_pages(self, address, pages, first, count, prot):
        """Maps frames, or runs short: of everything, or of a page table on the way."""
        if self.armed & FAIL_MAP_PAGES and self.fails("map_pages", None):
            return -ENOMEM
        if self.armed & FAIL_PAGE_TABLE:
            size = count << self.page_shift
            part = self.size_before_failure(address, size)
            if part < size:
                code = self.inner.map_pages(address, pages, first, part >> self.page_shift, prot)
                return code if code != 0 else -ENOMEM
        return self.inner.map_pages(address, pages, first, count, prot)

    def map_range(self, address, pfn, size, max_shift, prot):
        """Maps contiguous memory, or runs short: of everything, or of a page table on the way."""
        if self.armed & FAIL_MAP_RANGE and self.fails("map_range", None):
            return -ENOMEM
        if self.armed & FAIL_PAGE_TABLE:
            part = self.size_before_failure(address, size)
            if part < size:
                code = self.inner.map_range(address, pfn, part, max_shift, prot)
                return code if code != 0 else -ENOMEM
        return self.inner.map_range(address, pfn, size, max_shift, prot)

    def flush(self, start, end):
        """Flushes, or forgets to."""
        if self.armed & FAIL_FLUSH and self.fails("flush", None):
            return 0
        return self.inner.flush(start, end)
