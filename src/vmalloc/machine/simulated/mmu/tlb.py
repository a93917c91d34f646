"""A TLB: the translations a CPU remembers, right or wrong, until they are flushed or make room for others.

Idea: the kernel defers flushes, so what a CPU still remembers is what decides whether a use after free goes unnoticed.
This is a set-associative memory as hardware has it: the low bits of a virtual page number choose a set, and the page
can be in any of the ways of that set.  Each page size has entries of its own, and a lookup asks only the sizes that
have entries in use.  It asks the smallest first: when a base page and a huge page around it are both remembered, which
can happen after a change without a flush, the base page answers.  (Hardware promises nothing there.)

Shape: per size three tables: tags, stamps, and the rest.  The tags of a set lie together, and so do its stamps.  They
are compared without branches: which way is hit, or has the oldest stamp, is as good as random, and a wrong guess of the
branch predictor would cost more than the other comparisons.

A mapping larger than an entry size fills the largest entries that are not larger, as hardware without entries of that
size does.

Replacement: the clock counts fills, and under LRU also uses; the entry with the oldest stamp makes room, which is exact
and costs one store per hit.  RANDOM throws dice of its own (xorshift, seeded), so that runs can be repeated.

An entry's ``generation`` is not the TLB's: the MMU compares it with that of the page tables.

Invariants (``validate.validate_tlb``): a tag is in the set its low bits say, once; the counts are what is there; stamps
differ and are not ahead of the clock; entries filled = entries there + evicted + flushed.

Not modelled: a first level (hits are hits), ASIDs (kernel translations are global), and caches of upper levels of the
page tables: a walk always begins at the root.  So a walk never sees a table that was replaced.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.mmu.records import TlbEntry
from vmalloc.units import format_range

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
    from cython.cimports.libc.string import memset
else:
    from vmalloc.machine.simulated.mmu.plain import TlbClass
    from vmalloc.machine.simulated.mmu.states import EMPTY, FIFO, LRU, MAX_CLASSES, RANDOM

    ADDRESS_MAX = (1 << 64) - 1

__all__ = ["Tlb"]

COUNTERS = ("hits", "misses", "fills", "evictions", "flushed", "range_flushes", "full_flushes")


class Tlb:
    """The TLB of one CPU, empty at first.

    Args:
        page_shift: log2 of the base page.
        sizes: ``(shift, entries, ways)`` per page size, the base page first, ascending (``sizes.check_sizes``).
        policy: ``"lru"``, ``"fifo"`` or ``"random"``.
        seed: of the random replacement.

    Raises:
        BadRequest: no base page among the sizes, or too many of them.
        MemoryError: the host has no memory for the entries.
    """

    def __cinit__(self, page_shift, sizes, policy="lru", seed=1):
        if not 1 <= len(sizes) <= MAX_CLASSES or sizes[0][0] != page_shift:
            raise BadRequest(f"sizes {sizes} of a TLB with base pages of 2**{page_shift} bytes")
        self.page_shift = page_shift
        self.policy = {"lru": LRU, "fifo": FIFO, "random": RANDOM}[policy]
        # Never zero, which xorshift would never leave; a multiplier that tells neighbouring seeds apart at once.
        self.dice = (seed * 2654435769 + 88172645463325252) % 18446744073709551615 + 1
        self.nr_classes = 0
        self.clock = self.count = 0
        self.hits = self.misses = self.fills = self.evictions = 0
        self.flushed = self.range_flushes = self.full_flushes = 0
        if not cython.compiled:
            self.sizes = []
            self.class_of = [0] * 65
        for shift, nr_entries, ways in sizes:
            self.add_class(shift, nr_entries // ways, ways)
        for shift in range(65):
            for k in range(self.nr_classes):
                if self.sizes[k].shift <= shift:
                    self.class_of[shift] = k

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            for k in range(self.nr_classes):
                free(self.sizes[k].tag)
                free(self.sizes[k].stamp)
                free(self.sizes[k].entry)
                free(self.sizes[k])

    def add_class(self, shift, nr_sets, ways):
        """Makes the entries of one more page size."""
        if cython.compiled:
            c = cython.cast(cython.pointer(tlb_class), calloc(1, cython.sizeof(tlb_class)))
            if c == cython.NULL:
                raise MemoryError("no memory for a TLB")
            self.sizes[self.nr_classes] = c
            self.nr_classes += 1
            c.tag = cython.cast("uint64_t*", calloc(nr_sets * ways, 8))
            c.entry = cython.cast(cython.pointer(tlb_entry), calloc(nr_sets * ways, cython.sizeof(tlb_entry)))
            c.stamp = cython.cast("uint64_t*", calloc(nr_sets * ways, 8))
            if c.tag == cython.NULL or c.entry == cython.NULL or c.stamp == cython.NULL:
                raise MemoryError(f"no memory for {nr_sets * ways} entries of a TLB")
            memset(c.tag, 255, 8 * nr_sets * ways)
            c.shift = shift
            c.nr_sets = nr_sets
            c.ways = ways
            c.set_mask = nr_sets - 1
        else:
            self.sizes.append(TlbClass(shift, nr_sets, ways))
            self.nr_classes += 1
        return 0

    # The simulation's side.

    def way_of(self, c, vpn):
        """Which way of its set has a page; the number of ways when none has."""
        first = (vpn & c.set_mask) * c.ways
        found = c.ways
        for w in range(c.ways):
            found = w if c.tag[first + w] == vpn else found
        return found

    def lookup(self, address):
        """The entry that translates ``address``, counted as a hit or a miss; NULL (None) for none."""
        for k in range(self.nr_classes):
            c = self.sizes[k]
            if c.count != 0:
                i = self.way_of(c, address >> c.shift)
                if i < c.ways:
                    i += ((address >> c.shift) & c.set_mask) * c.ways
                    if self.policy == LRU:
                        self.clock += 1
                        c.stamp[i] = self.clock
                    self.hits += 1
                    if cython.compiled:
                        return c.entry + i
                    else:
                        return c.entry[i]
        self.misses += 1
        return cython.NULL if cython.compiled else None

    def insert(self, address, pfn, shift, prot, generation):
        """Remembers a translation: ``pfn`` is the frame of the base page that has ``address``, ``shift`` the mapping's.

        An entry for the same page and size is overwritten, which counts as an eviction.
        """
        c = self.sizes[self.class_of[shift]]
        vpn = address >> c.shift
        i = self.place_for(c, vpn)
        if c.tag[i] == EMPTY:
            c.count += 1
            self.count += 1
        else:
            self.evictions += 1
        self.clock += 1
        self.fills += 1
        c.tag[i] = vpn
        if cython.compiled:
            e = c.entry + i
        else:
            e = c.entry[i]
        e.pfn = pfn - ((address - (vpn << c.shift)) >> self.page_shift)
        e.generation = generation
        c.stamp[i] = self.clock
        e.shift = c.shift
        e.prot = prot

    def place_for(self, c, vpn):
        """Where an entry goes: over the one of the same page, else to the first empty way, else over the victim."""
        first = (vpn & c.set_mask) * c.ways
        w = self.way_of(c, vpn)
        if w == c.ways and c.count < c.nr_sets * c.ways:
            w = self.way_of_empty(c, first)
        if w < c.ways:
            return first + w
        if self.policy == RANDOM:
            return first + self.throw() % c.ways
        victim = 0
        oldest = c.stamp[first]
        for w in range(1, c.ways):
            stamp = c.stamp[first + w]
            victim = w if stamp < oldest else victim
            oldest = stamp if stamp < oldest else oldest
        return first + victim

    def way_of_empty(self, c, first):
        """The first unused way of the set at ``first``; the number of ways when all are used."""
        for w in range(c.ways):
            if c.tag[first + w] == EMPTY:
                return w
        return c.ways

    def throw(self):
        """The next random number: xorshift with 64 bits, the low ones dropped, which are the least random."""
        if cython.compiled:
            self.dice ^= self.dice << 13
            self.dice ^= self.dice >> 7
            self.dice ^= self.dice << 17
        else:
            self.dice = (self.dice ^ (self.dice << 13)) & ADDRESS_MAX
            self.dice ^= self.dice >> 7
            self.dice = (self.dice ^ (self.dice << 17)) & ADDRESS_MAX
        return self.dice >> 33

    def flush_range(self, start, end):
        """Removes every entry, of any size, that overlaps ``[start, end)``; how many."""
        removed = 0
        if start < end:
            for k in range(self.nr_classes):
                c = self.sizes[k]
                if c.count != 0:
                    removed += self.flush_class(c, start, end)
        self.range_flushes += 1
        self.flushed += removed
        self.count -= removed
        return removed

    def flush_class(self, c, start, end):
        """Removes the entries of one size: page by page, or entry by entry where that is less."""
        first = start >> c.shift
        last = (end - 1) >> c.shift
        removed = 0
        if last - first < c.nr_sets:
            for vpn in range(first, last + 1):
                i = self.way_of(c, vpn)
                if i < c.ways:
                    c.tag[(vpn & c.set_mask) * c.ways + i] = EMPTY
                    removed += 1
        else:
            for i in range(c.nr_sets * c.ways):
                if c.tag[i] != EMPTY and first <= c.tag[i] and c.tag[i] <= last:
                    c.tag[i] = EMPTY
                    removed += 1
        c.count -= removed
        return removed

    def flush_all(self):
        """Removes every entry; how many."""
        removed = self.count
        for k in range(self.nr_classes):
            c = self.sizes[k]
            if c.count != 0:
                if cython.compiled:
                    memset(c.tag, 255, 8 * c.nr_sets * c.ways)
                else:
                    c.tag[:] = [EMPTY] * len(c.tag)
                c.count = 0
        self.full_flushes += 1
        self.flushed += removed
        self.count = 0
        return removed

    # Python's side.

    def do_lookup(self, address):
        """``lookup`` as ``(pfn, shift, prot)`` of the base page that has ``address``, or None."""
        e = self.lookup(address)
        if not e:
            return None
        return (e.pfn + ((address & ((1 << e.shift) - 1)) >> self.page_shift), e.shift, e.prot)

    def do_peek(self, address):
        """What ``do_lookup`` would find; neither counted nor a use of the entry."""
        for e in self.entries():  # smallest pages first
            if e.start <= address < e.start + (1 << e.shift):
                return (e.pfn + ((address - e.start) >> self.page_shift), e.shift, e.prot)
        return None

    def do_insert(self, address, pfn, shift, prot, generation=0):
        """``insert``."""
        self.insert(address, pfn, shift, prot, generation)

    def do_flush_range(self, start, end):
        """``flush_range``."""
        return self.flush_range(start, end)

    def do_flush_all(self):
        """``flush_all``."""
        return self.flush_all()

    def geometry(self):
        """``(shift, sets, ways, entries in use)`` per page size, smallest first."""
        return [
            (self.sizes[k].shift, self.sizes[k].nr_sets, self.sizes[k].ways, self.sizes[k].count)
            for k in range(self.nr_classes)
        ]

    def places(self, k):
        """All places of one size, set by set: a ``TlbEntry``, or None where nothing is."""
        return [self.entry_at(k, i) for i in range(self.sizes[k].nr_sets * self.sizes[k].ways)]

    def entry_at(self, k, i):
        c = self.sizes[k]
        if c.tag[i] == EMPTY:
            return None
        e = c.entry[i]
        return TlbEntry(c.tag[i] << c.shift, e.shift, e.pfn, e.prot, e.generation, c.stamp[i])

    def entries(self):
        """All entries, by size and then by address."""
        found = []
        for k in range(self.nr_classes):
            found += sorted([entry for entry in self.places(k) if entry is not None])
        return found

    def dump(self):
        """The entries as text, one a line."""
        lines = [f"{self.count} entries; {', '.join([f'{n} {name}' for name, n in self.counters().items()])}"]
        for e in self.entries():
            where = format_range(e.start, e.start + (1 << e.shift))
            lines.append(f"{where} frame {e.pfn:#x} prot {e.prot} generation {e.generation} stamp {e.stamp}")
        return "\n".join(lines) + "\n"

    def ticks(self):
        """The clock: entries filled so far, and under LRU used."""
        return self.clock

    def counters(self):
        """All counters by name."""
        return {name: getattr(self, name) for name in COUNTERS}

    def __len__(self):
        return self.count

    def __repr__(self):
        return f"<Tlb: {self.count} entries, {self.hits} hits, {self.misses} misses>"

    def poke(self, k, i, field, value):
        """Overwrites one field of a place: for the tests that break structures on purpose, and for nothing else."""
        if field == "tag":
            self.sizes[k].tag[i] = value
        elif field == "pfn":
            self.sizes[k].entry[i].pfn = value
        elif field == "shift":
            self.sizes[k].entry[i].shift = value
        elif field == "prot":
            self.sizes[k].entry[i].prot = value
        elif field == "generation":
            self.sizes[k].entry[i].generation = value
        elif field == "stamp":
            self.sizes[k].stamp[i] = value
        elif field == "class_count":
            self.sizes[k].count = value
        elif field == "count":
            self.count = value
        elif field == "fills":
            self.fills = value
        else:
            raise KeyError(field)
