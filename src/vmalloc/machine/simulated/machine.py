"""The simulated machine: frames, page tables, TLBs and CPUs of a modelled computer behind the boundary.

Idea: the parts know nothing of each other - ``frames`` who has which frame, ``page_tables`` what is mapped where,
``mmu`` what each CPU believes - and this class ties them as hardware and the kernel's lowest floor do: memory for page
tables comes from the frames, mapping tells the other page tables, an access goes through the TLB of the CPU that makes
it, a flush interrupts the others.

Who runs: one CPU at a time, in one context (``running``).  Machines are simulated one step after the other; "at the
same time" means that translations of several CPUs exist at once, and that work is deferred.

Frames that somebody holds a second time (``hold``: a user mapping) are given back when the last one lets go, as
``put_page`` does; all others have one holder, and giving one back twice is found.

The direct map is no page table here: an access to a permanent address goes straight to the frame, unless it was made
invalid (section 4.11).  Device memory begins where memory ends: it keeps what is stored there and reads as ones before.

Protected by the lock of the space.
"""

from collections import deque

import cython

from vmalloc.errors import BadFrame, BadRequest, Fault
from vmalloc.flags import CONTEXT_NAMES
from vmalloc.machine.base import Machine, MachineInfo
from vmalloc.machine.simulated.arch import HugeUse
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.sizes import make_tlbs
from vmalloc.machine.simulated.mmu.states import OUTCOME_NAMES
from vmalloc.machine.simulated.mmu.validate import validate_mmu
from vmalloc.machine.simulated.page_tables.tables import PageTables
from vmalloc.machine.simulated.page_tables.validate import validate_page_tables
from vmalloc.units import format_address, format_range, format_size

if not cython.compiled:
    from vmalloc.flags import NMI, TAKE_DMA32, TAKE_INTERLEAVED, TAKE_MAY_DRAIN, TAKE_STRICT, TAKE_ZERO, TASK
    from vmalloc.machine.simulated.frames.states import ZEROED, ZONE_DMA32, ZONE_NORMAL
    from vmalloc.machine.simulated.mmu.states import OK, STALE
    from vmalloc.machine.simulated.page_tables.entries import EBUSY, MAX_WARNINGS

__all__ = ["FILL", "SimulatedMachine"]

#: What a frame reads as before its new owner stores something: whoever sees it reads what nobody wrote.
FILL = 0xAA

_WHY = {
    "unmapped": "nothing is mapped there",
    "readonly": "the mapping does not allow it",
    "stale_tlb": "this CPU's TLB still translates it as before; the page tables say otherwise and no flush came",
    "bus_error": "no memory and no device answers",
}


def shifts_of(arch, kernel, use, missing):
    """log2 of the mapping sizes above the base page that a machine has, largest first."""
    return tuple([leaf.shift for leaf in arch.leaves(kernel, use) if not leaf.needs & missing])


class SimulatedMachine(Machine):
    """A modelled computer.

    Args:
        arch: an ``Arch``.
        kernel: a ``KernelProfile``: some page-table rules depend on it.
        cpus: number of CPUs; node ``k`` has the ``k``-th part of them.
        nodes: per NUMA node ``(start_pfn, nr_frames)``, or ``nr_frames`` alone.
        distances: between nodes, as a square table.
        missing: ``LeafNeed`` that do not hold: no huge mappings that need them.
        seed: of TLBs that replace at random.
        tlb: further arguments of ``make_tlbs``.
        fill: the byte that frames read as before something is stored.
        shared_ranges: ``(start, end)`` whose page tables are kept current as those of the vmalloc range are.

    Raises:
        BadRequest: there can be no such machine.
    """

    def __init__(
        self,
        arch,
        kernel,
        *,
        cpus=1,
        nodes=(1 << 18,),
        distances=None,
        missing=frozenset(),
        seed=0,
        tlb=None,
        fill=FILL,
        shared_ranges=(),
    ):
        if not 1 <= cpus <= 4096:
            raise BadRequest(f"{cpus} CPUs: between 1 and 4096")
        low = arch.dma32_limit if arch.dma32_limit is not None else arch.lowmem_limit
        frames = PhysicalMemory(
            nodes, page_shift=arch.page_shift, cpus=cpus, distances=distances, dma32_limit=low or 0, fill=fill
        )
        end = frames.frames.layout.end_pfn << arch.page_shift
        if end > 1 << arch.phys_bits:
            raise BadRequest(
                f"memory ends at {format_size(end)}, but {arch.name} has {arch.phys_bits} bits of physical address "
                f"({format_size(1 << arch.phys_bits)})"
            )
        self.arch = arch
        self.kernel = kernel
        self.frames = frames
        self.allocator = frames.frames
        self.contents = frames.contents
        self.page_table = PageTables(
            frames.frames, frames.contents, arch, kernel, 1 + cpus, frames.owner_number("page table"), missing,
            shared_ranges,
        )
        self.tlbs = make_tlbs(arch, cpus, seed=seed, **(tlb or {}))
        self.mmu = Mmu(self.page_table, frames.contents, self.tlbs)
        for cpu in range(cpus):
            self.mmu.do_switch_to(cpu, 1 + cpu)
        self.page_shift = arch.page_shift
        self.nr_cpus = cpus
        self.nr_nodes = frames.frames.nr_nodes
        self.zeroed_pages = 0
        self.policy = None
        self.shared = {}
        self.nr_shared = 0
        self.queue = deque()
        self.work_done = 0
        self.slab_requests = 0
        self.invalid_direct = set()
        self.direct_map_changes = 0
        self.direct_start = arch.direct_map_start
        self.direct_end = arch.direct_map_end(end)
        self.info = MachineInfo(
            name="simulated",
            arch=arch.name,
            word_bits=arch.word_bits,
            page_shift=arch.page_shift,
            vmalloc_start=arch.vmalloc_start,
            vmalloc_end=arch.vmalloc_end,
            cpus=cpus,
            nodes=self.nr_nodes,
            nr_pages=frames.nr_frames,
            vmap_shifts=shifts_of(arch, kernel, HugeUse.VMAP, missing),
            vmalloc_shifts=shifts_of(arch, kernel, HugeUse.VMALLOC, missing),
            pmd_shift=arch.level("pmd").shift,
            shmlba=arch.shmlba,
            ioremap_max_order=arch.ioremap_max_order,
            has_dma32=arch.dma32_limit is not None,
            phys_end=1 << arch.phys_bits,
            direct_map_start=self.direct_start,
            direct_map_end=self.direct_end,
            kernel_start=arch.kernel_start,
            kernel_end=arch.kernel_end,
            kasan_shadow_offset=arch.kasan_shadow_offset,
        )

    # -- page frames -----------------------------------------------------------------------------------------------

    def take(self, order, node, how):
        """Takes a block; see ``Machine``."""
        if node < 0 and self.policy is not None:
            pfn = self.take_by_policy(order, how)
        else:
            pfn = self.take_from(order, self.home_node() if node < 0 else node, how)
        if pfn >= 0 and how & TAKE_ZERO:
            self.zero_block(pfn, 1 << order)
        return pfn

    def home_node(self):
        """The node of the running CPU."""
        return self.running.cpu * self.nr_nodes // self.nr_cpus

    def take_from(self, order, node, how):
        """Takes a block from a node on, or from it alone."""
        limit = ZONE_DMA32 if how & TAKE_DMA32 else ZONE_NORMAL
        if how & TAKE_STRICT:
            pfn = self.allocator.alloc_strict(order, node, limit, self.running.cpu)
            if pfn < 0 and how & TAKE_MAY_DRAIN and self.allocator.lists.drain_all() != 0:
                pfn = self.allocator.alloc_strict(order, node, limit, self.running.cpu)
            return pfn
        if how & TAKE_MAY_DRAIN:
            return self.allocator.alloc_draining(order, node, limit, self.running.cpu)
        return self.allocator.alloc(order, node, limit, self.running.cpu)

    def take_by_policy(self, order, how):
        """Takes a block as the memory policy says."""
        for node in self.policy.order(self.frames.frames.layout.distances[self.home_node()]):
            pfn = self.take_from(order, node, how | TAKE_STRICT)
            if pfn >= 0:
                return pfn
        return -1 if self.policy.only_these else self.take_from(order, self.home_node(), how)

    def zero_block(self, pfn, count):
        """Makes whole frames read as zeros."""
        for i in range(count):
            self.contents.set_plain(pfn + i, ZEROED)
        self.zeroed_pages += count

    def take_bulk(self, pages, count, node, how):
        """Takes a batch; see ``Machine``. Raises BadRequest for a list that has no room."""
        if pages.room - pages.nr_pages < count:
            raise BadRequest(f"a batch of {count} frames for a list with room for {pages.room - pages.nr_pages}")
        if node < 0 and self.policy is not None:
            return self.bulk_by_policy(pages, count, how)
        return self.bulk_from(pages, count, self.home_node() if node < 0 else node, how)

    def bulk_from(self, pages, count, node, how):
        """Takes a batch from one node."""
        limit = ZONE_DMA32 if how & TAKE_DMA32 else ZONE_NORMAL
        first = pages.nr_pages
        if cython.compiled:
            taken = self.allocator.alloc_bulk(node, count, pages.pfn + first, limit, self.running.cpu)
        else:
            found = [0] * count
            taken = self.allocator.alloc_bulk(node, count, found, limit, self.running.cpu)
            pages.pfn[first : first + taken] = found[:taken]
        if how & TAKE_STRICT:
            taken = self.keep_local(pages, first, taken, node)
        if how & TAKE_ZERO:
            for i in range(taken):
                self.contents.set_plain(pages.pfn[first + i], ZEROED)
            self.zeroed_pages += taken
        pages.nr_pages = first + taken
        return taken

    def keep_local(self, pages, first, taken, node):
        """Gives back the one frame that a batch may have found on another node."""
        if taken == 1 and self.frames.node_of(pages.pfn[first]) != node:
            self.allocator.free(pages.pfn[first], 0, self.running.cpu)
            return 0
        return taken

    def bulk_by_policy(self, pages, count, how):
        """Takes a batch as the memory policy divides it, or one frame where it does not."""
        shares = self.policy.division(count) if how & TAKE_INTERLEAVED else []
        if shares:
            return sum([self.bulk_from(pages, share, node, how | TAKE_STRICT) for node, share in shares])
        pfn = self.take(0, -1, how)
        if pfn < 0:
            return 0
        pages.pfn[pages.nr_pages] = pfn
        pages.nr_pages += 1
        return 1

    def split(self, pfn, order):
        """Makes a block single frames; see ``Machine``."""
        return self.allocator.split(pfn, order)

    def give(self, pfn, order):
        """Gives a block or a reference back; see ``Machine``."""
        if self.nr_shared != 0 and self.let_go(pfn):
            return 0
        return self.allocator.free(pfn, order, self.running.cpu)

    def give_bulk(self, pages, first, count):
        """Gives frames back; see ``Machine``."""
        if self.nr_shared == 0:
            if cython.compiled:
                return self.allocator.free_bulk(pages.pfn + first, count, self.running.cpu)
            else:
                return self.allocator.free_bulk(pages.pfn[first : first + count], count, self.running.cpu)
        for i in range(count):
            if self.give(pages.pfn[first + i], 0) != 0:
                return i
        return count

    def hold(self, pfn):
        """Takes another reference to a single frame (``get_page``); raises BadFrame when nobody has it."""
        code = self.allocator.check(pfn, 0)
        if code != 0:
            raise BadFrame(pfn, self.why_not(pfn, 0), code)
        self.shared[pfn] = self.shared.get(pfn, 0) + 1
        self.nr_shared += 1

    def let_go(self, pfn):
        """Drops a reference other than the last; False when there is only one."""
        held = self.shared.get(pfn, 0)
        if held == 0:
            return False
        if held == 1:
            del self.shared[pfn]
        else:
            self.shared[pfn] = held - 1
        self.nr_shared -= 1
        return True

    def why_not(self, pfn, order):
        """Why a frame cannot be given back; see ``Machine``."""
        return self.frames.why_not(pfn, order)

    def node_of(self, pfn):
        """The node of a frame; see ``Machine``."""
        return self.frames.find_node(pfn)

    def slab(self, what):
        """Counts a record; the model's slabs never run short (``machine.wrappers`` makes them)."""
        self.slab_requests += 1
        return True

    # -- mappings --------------------------------------------------------------------------------------------------

    def place_tables(self):
        """Page tables are taken on the running CPU and its node."""
        self.page_table.table_cpu = self.running.cpu
        self.page_table.table_node = self.home_node()

    def map_pages(self, address, pages, first, count, prot):
        """Maps frames page by page; see ``Machine``."""
        self.place_tables()
        if cython.compiled:
            code = self.page_table.map_pages(address, pages.pfn + first, count, prot)
        else:
            code = self.page_table.map_pages(address, pages.pfn[first : first + count], count, prot)
        if code == -EBUSY:
            self.undo_until_occupied(address)
        self.mmu.flush_cache_vmap()
        return code

    def map_range(self, address, pfn, size, max_shift, prot):
        """Maps contiguous memory; see ``Machine``. A table that made room for a huge leaf is flushed first."""
        self.place_tables()
        code = self.page_table.map_range(address, pfn, size, max_shift, prot)
        if code == -EBUSY:
            self.undo_until_occupied(address)
        if self.page_table.owed_flush_end != 0:
            self.mmu.flush(self.page_table.owed_flush_start, self.page_table.owed_flush_end)
            self.page_table.settle_flush()
        self.mmu.flush_cache_vmap()
        return code

    def undo_until_occupied(self, address):
        """Removes what was mapped before an address that is mapped already: that one, and more, is somebody else's."""
        last = (self.page_table.warnings - 1) % MAX_WARNINGS
        if self.page_table.warned[last].address > address:
            self.page_table.unmap(address, self.page_table.warned[last].address)

    def unmap(self, start, end):
        """Removes mappings; see ``Machine``."""
        self.page_table.unmap(start, end)
        return 0

    def flush(self, start, end):
        """Flushes the TLBs of all CPUs; see ``Machine``."""
        self.mmu.flush(start, end)
        return 0

    def translate(self, address):
        """The frame mapped at an address; see ``Machine``."""
        found = self.page_table.do_walk(address)
        return -1 if found is None else found[0]

    def set_direct_map(self, pages, first, count, valid):
        """Makes permanent addresses valid or invalid; see ``Machine``."""
        for i in range(count):
            if valid:
                self.invalid_direct.discard(pages.pfn[first + i])
            else:
                self.invalid_direct.add(pages.pfn[first + i])
        self.direct_map_changes += count
        return 0

    def set_scope(self, reclaim):
        """Whether page tables may wait for frames; see ``Machine``."""
        self.page_table.may_drain = reclaim
        return 0

    # -- bytes -----------------------------------------------------------------------------------------------------

    def load(self, address, size):
        """Reads bytes as the running CPU; see ``Machine``. Raises OverflowError for more than any object can hold."""
        if size >> 63:
            raise OverflowError(f"{size} bytes in one object")
        if self.direct_start <= address < self.direct_end:
            return self.load_direct(address, size)
        self.mmu.may_fault = self.running.context != NMI
        if cython.compiled:
            data = PyBytes_FromStringAndSize(cython.NULL, size)
            outcome = self.mmu.load(self.running.cpu, address, size, cython.cast("uint8_t*", PyBytes_AS_STRING(data)))
        else:
            buffer = bytearray(size)
            outcome = self.mmu.load(self.running.cpu, address, size, memoryview(buffer))
            data = bytes(buffer)
        if outcome != OK and not (outcome == STALE and self.mmu.follow_stale):
            raise self.fault(outcome, "read", size)
        return data

    def store(self, address, data):
        """Writes bytes as the running CPU; see ``Machine``."""
        view = memoryview(data).cast("B")
        if self.direct_start <= address < self.direct_end:
            self.store_direct(address, view)
            return
        self.mmu.may_fault = self.running.context != NMI
        outcome = self.mmu.store_from(self.running.cpu, address, len(view), view)
        if outcome != OK and not (outcome == STALE and self.mmu.follow_stale):
            raise self.fault(outcome, "write", len(view))

    def fault(self, outcome, access, size):
        """The error of an access that failed at ``mmu.failed_address``."""
        kind = OUTCOME_NAMES[outcome]
        if kind == "host_memory":
            return MemoryError("no memory for the contents of a frame")
        reason = _WHY[kind]
        if kind == "bus_error":
            kind = "unmapped"
        return Fault(self.mmu.failed_address, access, kind, reason, size=size, cpu=self.running.cpu)

    def load_direct(self, address, size):
        """Reads through the direct map, frame by frame."""
        return b"".join([self.contents.load(*piece) for piece in self.direct_pieces(address, size, "read")])

    def store_direct(self, address, view):
        """Writes through the direct map, frame by frame."""
        done = 0
        for pfn, offset, size in self.direct_pieces(address, len(view), "write"):
            self.contents.store(pfn, offset, view[done : done + size])
            done += size

    def direct_pieces(self, address, size, access):
        """The parts of frames that a range of permanent addresses is; raises Fault where there are none."""
        pieces = []
        end = address + size
        at = address
        while at < end:
            pfn = (at - self.direct_start) >> self.page_shift
            if at >= self.direct_end or pfn in self.invalid_direct or self.node_of(pfn) < 0:
                reason = "no frame has this permanent address now"
                raise Fault(at, access, "unmapped", reason, size=size, cpu=self.running.cpu)
            offset = at & ((1 << self.page_shift) - 1)
            piece = min(end - at, (1 << self.page_shift) - offset)
            pieces.append((pfn, offset, piece))
            at += piece
        return pieces

    def read_frame(self, pfn, offset, size):
        """Reads bytes of a frame; see ``Machine``."""
        return self.contents.load(pfn, offset, size)

    def zero_frame(self, pfn, offset, size):
        """Zeroes bytes of a frame; see ``Machine``."""
        self.contents.zero(pfn, offset, size)

    def copy_frame(self, pfn, source, size):
        """Copies bytes between frames; see ``Machine``."""
        self.contents.copy(pfn, 0, source, 0, size)

    # -- deferred work ---------------------------------------------------------------------------------------------

    def defer(self, work, cpu):
        """Queues work; see ``Machine``."""
        self.queue.append((cpu, work))

    def run_deferred(self):
        """Runs the work queue; see ``Machine``. Work that raises is done with; what is behind it stays queued."""
        done = 0
        cpu, context = self.running.cpu, self.running.context
        try:
            while self.queue:
                self.running.cpu, work = self.queue.popleft()
                self.running.context = TASK
                done += 1
                self.work_done += 1
                work()
        finally:
            self.running.cpu, self.running.context = cpu, context
        return done

    def has_deferred(self):
        """Whether work is queued; see ``Machine``."""
        return len(self.queue) != 0

    # -- keeping house ---------------------------------------------------------------------------------------------

    def trim(self):
        """Gives idle memory back; see ``Machine``. The kernel never frees page tables; ``trim`` is there to."""
        freed = self.page_table.free_empty_tables()
        self.mmu.flush_all()
        self.frames.drain()
        return freed + (self.contents.trim() << self.page_shift)

    # -- looking ---------------------------------------------------------------------------------------------------

    def tlb(self, cpu):
        """The TLB of a CPU. Raises BadRequest where there is no such CPU."""
        if not 0 <= cpu < self.nr_cpus:
            raise BadRequest(f"CPU {cpu} of a machine whose CPUs are 0 to {self.nr_cpus - 1}")
        return self.tlbs[cpu]

    def context_switch(self, process):
        """Makes the running CPU run a process: on its page tables from now on (section 8.4); entries that were copied.

        There are as many processes as CPUs; at the start CPU ``n`` runs process ``n``. Kernel translations are global:
        the TLB keeps them.

        Raises:
            BadRequest: there is no such process.
        """
        if not 0 <= process < self.nr_cpus:
            raise BadRequest(f"process {process} of a machine whose processes are 0 to {self.nr_cpus - 1}")
        root = 1 + process if self.page_table.nr_roots > 1 else 0  # one table for all: nothing to switch
        return self.mmu.do_switch_to(self.running.cpu, root)

    def access(self, addresses, write, cpu):
        """Runs an array of addresses through the TLB and page tables of a CPU; counts (``Mmu.access``)."""
        self.mmu.may_fault = self.running.context != NMI
        return self.mmu.access(addresses, write, cpu)

    @property
    def faults(self):
        """What accesses met that did not simply go through, as counts."""
        return self.mmu.counters()

    def set_policy(self, policy):
        """Sets the memory policy of the running task; None for the default. Raises BadRequest."""
        if policy is not None:
            policy.check(self.nr_nodes)
        self.policy = policy

    def describe(self):
        """The machine in a few lines."""
        info = self.info
        return (
            f"{info.arch}, {self.nr_cpus} CPUs on {self.nr_nodes} nodes, "
            f"{format_size(info.nr_pages << info.page_shift)} in pages of {format_size(1 << info.page_shift)}; "
            f"vmalloc range {format_range(info.vmalloc_start, info.vmalloc_end)}; CPU {self.running.cpu} in "
            f"{CONTEXT_NAMES[self.running.context]} context; direct map at {format_address(self.direct_start)}"
        )

    def validate(self):
        """Checks every part, and that they agree; raises ValidationError."""
        self.frames.validate()
        validate_page_tables(self.page_table)
        validate_mmu(self.mmu)
