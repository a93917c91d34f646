"""How an access by a CPU becomes a frame: TLB, walk, and what the kernel does about faults; and flushes.

Idea: a CPU asks its TLB first and believes it.  Unmapping clears page tables and defers the flush, so between the two a
CPU may use a translation that is no more: this is where that is found out, exactly and at little cost.  The page tables
count each change of a present entry (``generation``), and an entry of a TLB remembers the count at its fill:

* equal: nothing has changed since, the entry is right;
* not equal: the model looks into the tables itself (``recheck``).  If they say the same, the entry gets the present
  count, so that one change costs one look per entry; if not, the access is ``STALE``.  The entry stays, as in hardware,
  and says so again next time, until it is flushed or makes room.

Two details of that look.  The entry gets the new count only if one leaf covers all that it covers: a huge entry whose
leaf was split may be right here and wrong on its next page.  And where the CPU's own root says nothing, the reference
is asked: a top entry that was not copied yet is no translation that was taken away.

What is allowed is decided by the entry, stale or not, as in hardware: a store through a read-only one is ``READONLY``.
A mapping that cannot be read cannot be used at all: ``UNMAPPED``, and no TLB remembers it.

A miss walks the CPU's own root.  If that finds nothing, there is a fault, and the kernel may mend it (section 8.4):

* the vmalloc fault: the handler copies a missing top entry from the reference, where the architecture has such faults
  and the context allows it (``may_fault``; in NMI it must not);
* the fence (riscv): such a core also remembers pages that it found invalid, and faults there even when they have been
  mapped meanwhile.  ``flush_cache_vmap`` after mapping sets a bit per CPU; the next fault of a CPU with the bit set
  makes it forget all of them, clears the bit and repeats the access.  Without the bit, the access fails, mapped or not.
  How many pages a core remembers is the model's choice: 64, one per value of the low bits of the page number.

A flush covers all CPUs, page by page up to the architecture's limit, else whole (section 4.12); it takes one interrupt
per other CPU, or none where an instruction is heard by all of them.

Kernel translations are global: switching to another root flushes nothing.  Not modelled: paging-structure caches, so
a walk never goes through a table that has been replaced (``tlb``); and accessed and dirty bits.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import TableCare

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free
else:
    from vmalloc.flags import PROT_READ, PROT_WRITE
    from vmalloc.machine.simulated.mmu.plain import MmuCpu
    from vmalloc.machine.simulated.mmu.states import (
        EMPTY,
        INVALID_MASK,
        NR_INVALID,
        NR_OUTCOMES,
        OK,
        READONLY,
        STALE,
        UNMAPPED,
    )
    from vmalloc.machine.simulated.mmu.tlb import Tlb
    from vmalloc.machine.simulated.page_tables.plain import LeafFound

__all__ = ["Translator"]

COUNTERS = ("walks", "rechecks", "vmalloc_faults", "spurious_faults", "fences")
FLUSH_COUNTERS = ("flushes", "range_flushes", "full_flushes", "local_flushes", "flushed_pages", "ipis")

#: More pages than there are: no flush is too large to be ranged.
NO_LIMIT = (1 << 64) - 1


class Translator:
    """The CPUs' way through TLBs and page tables; ``Mmu`` adds bytes."""

    def set_up(self, tables, tlbs, arch, sync):
        """Fills in everything; the TLBs are one per CPU, and all CPUs run on root 0."""
        if len(tlbs) == 0 or len({id(tlb) for tlb in tlbs}) < len(tlbs):
            raise BadRequest(f"{len(tlbs)} TLBs: one for each CPU, and each CPU one of its own")
        for tlb in tlbs:
            if tlb.page_shift != arch.page_shift:
                raise BadRequest(f"a TLB of 2**{tlb.page_shift} byte pages, {arch.name} has 2**{arch.page_shift}")
        self.tables = tables
        self.tlbs = list(tlbs)
        self.page_shift = arch.page_shift
        self.kernel_start = arch.kernel_start
        self.kernel_size = arch.kernel_end - arch.kernel_start
        self.caches_invalid = sync.care is TableCare.FENCE
        self.by_broadcast = arch.flush_by_broadcast
        self.max_ranged = NO_LIMIT if arch.max_ranged_flush_pages is None else arch.max_ranged_flush_pages
        self.may_fault = True
        self.walks = self.rechecks = self.vmalloc_faults = self.spurious_faults = self.fences = 0
        self.flushes = self.range_flushes = self.full_flushes = self.local_flushes = 0
        self.flushed_pages = self.ipis = 0
        self.nr_cpus = 0
        if not cython.compiled:
            self.outcomes = [0] * NR_OUTCOMES
            self.leaf = LeafFound()
            self.cpus = []
        else:
            self.cpus = cython.cast("mmu_cpu**", calloc(len(tlbs), cython.sizeof(cython.p_void)))
            if self.cpus == cython.NULL:
                raise MemoryError(f"no memory for {len(tlbs)} CPUs")
        for tlb in self.tlbs:
            self.add_cpu(tlb)
        return 0

    def add_cpu(self, tlb):
        """Makes one more CPU."""
        if cython.compiled:
            c = cython.cast(cython.pointer(mmu_cpu), calloc(1, cython.sizeof(mmu_cpu)))
            if c == cython.NULL:
                raise MemoryError("no memory for a CPU")
            self.cpus[self.nr_cpus] = c
            c.tlb = cython.cast(cython.p_void, tlb)
            for k in range(NR_INVALID):
                c.invalid[k] = EMPTY
        else:
            self.cpus.append(MmuCpu())
            self.cpus[self.nr_cpus].tlb = tlb
        self.nr_cpus += 1
        return 0

    def __dealloc__(self):
        if cython.compiled:
            for k in range(self.nr_cpus):
                free(self.cpus[k])
            free(self.cpus)

    # The simulation's side.

    def translate(self, cpu, address, write, out):
        """What an access goes to: an outcome, and ``out`` unless it is ``UNMAPPED``."""
        c = self.cpus[cpu]
        outcome = OK
        if address < self.kernel_start or address - self.kernel_start >= self.kernel_size:
            outcome = UNMAPPED  # nothing that the tables translate; their upper bits they would not even see
        else:
            e = cython.cast(Tlb, c.tlb).lookup(address)
            if e:
                out.pfn = e.pfn + ((address & ((cython.cast("uint64_t", 1) << e.shift) - 1)) >> self.page_shift)
                out.shift = e.shift
                out.prot = e.prot
                if e.generation != self.tables.generation and not self.recheck(c, address, e, out):
                    outcome = STALE
            elif not self.fill(c, address, out):
                outcome = UNMAPPED
            if write and outcome != UNMAPPED and (out.prot & PROT_WRITE) == 0:
                outcome = READONLY
        self.outcomes[outcome] += 1
        return outcome

    def fill(self, c, address, out):
        """Serves a miss: fills ``out`` and the TLB; False where nothing is mapped that can be used."""
        if not self.find(c, address) or (self.leaf.prot & PROT_READ) == 0:
            return False
        out.pfn = self.leaf.pfn
        out.shift = self.leaf.shift
        out.prot = self.leaf.prot
        cython.cast(Tlb, c.tlb).insert(address, out.pfn, out.shift, out.prot, self.tables.generation)
        return True

    def recheck(self, c, address, e, out):
        """Whether the tables still say what an entry from before their last change says about ``address``."""
        self.rechecks += 1
        if not self.look(c.root, address) and (c.root == 0 or not self.look(0, address)):
            return False
        if self.leaf.pfn != out.pfn or self.leaf.prot != out.prot:
            return False
        if self.leaf.shift >= e.shift:
            e.generation = self.tables.generation
        return True

    def find(self, c, address):
        """Walks, and mends the fault if the kernel would."""
        if self.caches_invalid:
            return self.find_or_fence(c, address)
        if self.walk(c.root, address):
            return True
        if self.may_fault and self.tables.has_faults and self.tables.fault(c.root, address) != 0:
            self.vmalloc_faults += 1
            return self.walk(c.root, address)
        return False

    def find_or_fence(self, c, address):
        """``find`` on a core that remembers invalid pages."""
        page = address >> self.page_shift
        k = page & INVALID_MASK
        if c.invalid[k] != page and self.walk(c.root, address):
            return True
        c.invalid[k] = page
        if not c.fence:
            return False
        c.fence = False
        self.fences += 1
        self.forget_invalid(c, 0, EMPTY - 1)
        if self.walk(c.root, address):
            self.spurious_faults += 1
            return True
        c.invalid[k] = page
        return False

    def walk(self, root, address):
        """A walk by hardware."""
        self.walks += 1
        return self.look(root, address)

    def look(self, root, address):
        """Whether a root maps ``address``; ``leaf`` says what."""
        if cython.compiled:
            return self.tables.walk(root, address, cython.address(self.leaf)) != 0
        else:
            return self.tables.walk(root, address, self.leaf) != 0

    def switch_to(self, cpu, root):
        """Makes a CPU run on another root; the number of top entries that the switch copied."""
        self.cpus[cpu].root = root
        return self.tables.context_switch(root)

    def flush_cache_vmap(self):
        """What the kernel calls after mapping: each CPU shall fence at its next fault, where invalid pages are kept."""
        if self.caches_invalid:
            for k in range(self.nr_cpus):
                self.cpus[k].fence = True

    # Flushes. Each answers how many entries it removed.

    def flush(self, start, end):
        """Makes all CPUs forget ``[start, end)``: page by page, or everything where that is too many pages."""
        nr_pages = self.nr_pages_of(start, end)
        if nr_pages > self.max_ranged:
            return self.flush_all()
        if nr_pages == 0:
            return 0
        self.range_flushes += 1
        self.flushed_pages += nr_pages
        self.count_flush()
        removed = 0
        for k in range(self.nr_cpus):
            removed += self.flush_cpu(self.cpus[k], start, end)
        return removed

    def flush_all(self):
        """Makes all CPUs forget everything."""
        self.full_flushes += 1
        self.count_flush()
        removed = 0
        for k in range(self.nr_cpus):
            removed += self.flush_cpu_all(self.cpus[k])
        return removed

    def flush_local(self, cpu, start, end):
        """``flush`` of one CPU, which needs no interrupt."""
        if self.nr_pages_of(start, end) == 0:
            return 0
        self.local_flushes += 1
        if self.nr_pages_of(start, end) > self.max_ranged:
            return self.flush_cpu_all(self.cpus[cpu])
        return self.flush_cpu(self.cpus[cpu], start, end)

    def count_flush(self):
        self.flushes += 1
        if not self.by_broadcast:
            self.ipis += self.nr_cpus - 1

    def nr_pages_of(self, start, end):
        """Pages that a range touches."""
        return 0 if start >= end else ((end - 1) >> self.page_shift) - (start >> self.page_shift) + 1

    def flush_cpu(self, c, start, end):
        if self.caches_invalid:
            self.forget_invalid(c, start >> self.page_shift, (end - 1) >> self.page_shift)
        return cython.cast(Tlb, c.tlb).flush_range(start, end)

    def flush_cpu_all(self, c):
        if self.caches_invalid:
            self.forget_invalid(c, 0, EMPTY - 1)
        return cython.cast(Tlb, c.tlb).flush_all()

    def forget_invalid(self, c, first, last):
        """Forgets which of the pages ``first`` to ``last`` were invalid."""
        for k in range(NR_INVALID):
            if c.invalid[k] >= first and c.invalid[k] <= last:
                c.invalid[k] = EMPTY

    # Python's side.

    def expect_cpu(self, cpu):
        """Raises BadRequest where there is no such CPU."""
        if not 0 <= cpu < self.nr_cpus:
            raise BadRequest(f"CPU {cpu} of a machine with {self.nr_cpus} CPUs")
        return cpu

    def do_switch_to(self, cpu, root):
        """``switch_to``.

        Raises:
            BadRequest: there is no such CPU or root.
        """
        if not 0 <= root < max(1, self.tables.nr_roots):
            raise BadRequest(f"root {root} of {self.tables.nr_roots}")
        return self.switch_to(self.expect_cpu(cpu), root)

    def do_flush_cache_vmap(self):
        """``flush_cache_vmap``."""
        self.flush_cache_vmap()

    def do_flush(self, start, end):
        """``flush``."""
        return self.flush(start, end)

    def do_flush_all(self):
        """``flush_all``."""
        return self.flush_all()

    def do_flush_local(self, cpu, start, end):
        """``flush_local``; raises BadRequest where there is no such CPU."""
        return self.flush_local(self.expect_cpu(cpu), start, end)

    def root_of(self, cpu):
        """The root that a CPU runs on."""
        return self.cpus[self.expect_cpu(cpu)].root

    def fence_due(self, cpu):
        """Whether the next fault of a CPU makes it fence."""
        return bool(self.cpus[self.expect_cpu(cpu)].fence)

    def invalid_pages(self, cpu):
        """Page numbers that a CPU remembers to be invalid, by place: all of them, ``EMPTY`` where there is none."""
        self.expect_cpu(cpu)
        return [self.cpus[cpu].invalid[k] for k in range(NR_INVALID)]

    def outcome_counts(self):
        """Translations by outcome."""
        return [self.outcomes[k] for k in range(NR_OUTCOMES)]

    def counters(self):
        """All counters by name."""
        return {
            "translations": sum(self.outcome_counts()),
            "unmapped": self.outcomes[UNMAPPED],
            "readonly": self.outcomes[READONLY],
            "stale_tlb": self.outcomes[STALE],
            "hits": sum([tlb.hits for tlb in self.tlbs]),
            "misses": sum([tlb.misses for tlb in self.tlbs]),
            "evictions": sum([tlb.evictions for tlb in self.tlbs]),
            "flushed_entries": sum([tlb.flushed for tlb in self.tlbs]),
            **{name: getattr(self, name) for name in (*COUNTERS, *FLUSH_COUNTERS)},
        }

    def poke(self, cpu, field, value, place=0):
        """Overwrites one field: for the tests that break structures on purpose, and for nothing else."""
        if field == "invalid":
            self.cpus[cpu].invalid[place] = value
        elif field == "fence":
            self.cpus[cpu].fence = value
        elif field == "ipis":
            self.ipis = value
        elif field == "flushes":
            self.flushes = value
        elif field == "outcomes":
            self.outcomes[place] = value
        elif field == "spurious_faults":
            self.spurious_faults = value
        else:
            raise KeyError(field)
