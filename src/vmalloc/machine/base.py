"""What an allocator may ask of a machine: the boundary, whole.

One sentence: **areas decide which addresses; a machine knows what memory is; calls are the only place where the two
meet** - here.  Calls hold a ``Machine`` and nothing else of the world; which one it is they cannot tell.

Conventions, for every operation:

* An operation that can run short says so in its result - a frame or -1, 0 or ``-errno`` - and never raises for it:
  running short is an ordinary event, and the caller has something to undo.
* ``-ENOMEM`` from an operation over a range leaves what it did before it ran short: the caller undoes the whole range,
  which is what it would have to do anyway when a later step fails.  Everything else that fails has changed nothing.
* Ranges are ``[start, end)`` in bytes of whole pages; lists of frames are ``Pages`` and a part of one is a first place
  and a count; nodes are numbers or ``NUMA_NO_NODE``.
* Everything is done by the CPU, in the context, that the machine says is running: ``running``, one object that a
  machine and all that wrap it share, because work that the innermost one runs later comes in again by the outermost.
* Unmapping makes no translation unreachable: CPUs may go on using what they remember until ``flush``.  Who frees the
  frames before that, or gives the addresses away, must know what he does.
* How frames are taken is a sum of ``TAKE_*`` (``vmalloc.flags``). They hold old bytes, unless ``TAKE_ZERO`` is in it.
* Callers hold the lock of the space; no machine locks, except the host's for what happens without that lock.

Differences between machines are data, in ``info``, never a question for the type.  A machine that wraps another one
(``machine.wrappers``) answers for it.  All of them pass one suite, ``tests/machine/contract.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import cython

__all__ = ["Machine", "MachineInfo", "Running"]


@dataclass(frozen=True)
class MachineInfo:
    """What kind of machine it is; nothing here ever changes.

    Attributes:
        name: ``"simulated"`` or ``"host"``.
        arch: the architecture's name.
        word_bits: 32 or 64.
        page_shift: log2 of the base page.
        vmalloc_start, vmalloc_end: the range for areas; the end may be odd (section 1.5).
        cpus: possible CPUs, all online.
        nodes: NUMA nodes.
        nr_pages: frames in all.
        vmap_shifts: log2 of the mapping sizes above the base page that ``map_range`` can make, largest first.
        vmalloc_shifts: those that an allocation may ask for (section 3.2), largest first.
        pmd_shift: the size from which an allocation may be mapped by a middle-level entry.
        shmlba: alignment of what is shared with user space, bytes (section 2.2).
        ioremap_max_order: log2 of the largest alignment of an I/O mapping (section 1.11).
        has_dma32: whether there are frames above what a 32-bit device reaches.
        phys_end: where physical addresses end.
        direct_map_start, direct_map_end: where all frames, or the low ones, are always mapped.
        kernel_start, kernel_end: addresses that are the kernel's.
        kasan_shadow_offset: where KASAN's shadow begins (section 9.1); None where there is none.
    """

    name: str
    arch: str
    word_bits: int
    page_shift: int
    vmalloc_start: int
    vmalloc_end: int
    cpus: int
    nodes: int
    nr_pages: int
    vmap_shifts: tuple[int, ...]
    vmalloc_shifts: tuple[int, ...]
    pmd_shift: int
    shmlba: int
    ioremap_max_order: int
    has_dma32: bool
    phys_end: int
    direct_map_start: int
    direct_map_end: int
    kernel_start: int
    kernel_end: int
    kasan_shadow_offset: int | None = None


class Running:
    """Who runs.

    Attributes:
        cpu: the CPU's number.
        context: ``TASK``, ``SOFTIRQ``, ``HARDIRQ`` or ``NMI``.
    """

    def __cinit__(self):
        self.cpu = 0
        self.context = 0

    if not cython.compiled:
        __init__ = __cinit__


class Machine:
    """A machine as an allocator sees it.

    Attributes:
        info: what kind of machine it is.
        running: who runs, for compiled callers.
        cpu, context: the same, for everybody else.
    """

    # Made before any __init__, so that no machine is ever without: compiled callers do not look.
    if cython.compiled:

        def __cinit__(self):
            self.running = Running()

    else:

        def __new__(cls, *args, **kwargs):
            machine = object.__new__(cls)
            machine.running = Running()
            return machine

    @property
    def cpu(self):
        """The CPU that runs."""
        return self.running.cpu

    @cpu.setter
    def cpu(self, number):
        self.running.cpu = number

    @property
    def context(self):
        """The context that it runs in."""
        return self.running.context

    @context.setter
    def context(self, number):
        self.running.context = number

    # -- page frames -----------------------------------------------------------------------------------------------

    def take(self, order, node, how):
        """Takes a block of ``2**order`` frames; its first frame, or -1. ``split`` makes it single frames."""
        raise NotImplementedError

    def take_bulk(self, pages, count, node, how):
        """Appends up to ``count`` single frames to ``pages``, which has room; how many.

        A short answer says no more than "go on one by one" (section 3.3 step 2).
        """
        raise NotImplementedError

    def split(self, pfn, order):
        """Makes a block that was taken single frames; each is given back for itself."""
        raise NotImplementedError

    def give(self, pfn, order):
        """Gives a block back, or one reference to it where others hold it, too; 0, or an error code of the machine.

        Nothing is changed by an error: the frame is not held, or not in this way.
        """
        raise NotImplementedError

    def give_bulk(self, pages, first, count):
        """Gives single frames back; how many, up to the first that cannot be."""
        raise NotImplementedError

    def hold(self, pfn):
        """Takes another reference to a single frame that somebody has; ``give`` drops it again.

        Raises:
            BadFrame: nobody has it.
        """
        raise NotImplementedError

    def why_not(self, pfn, order):
        """Says in words why a frame cannot be given back; an empty text when it can."""
        raise NotImplementedError

    def node_of(self, pfn):
        """The NUMA node of a frame; -1 for none: it is no memory."""
        raise NotImplementedError

    def slab(self, what):
        """Asks for memory for a record of the allocator's own (``"vm_struct"``, ...); False when there is none."""
        raise NotImplementedError

    # -- mappings --------------------------------------------------------------------------------------------------

    def map_pages(self, address, pages, first, count, prot):
        """Maps frames of a list one after the other from ``address`` on, page by page.

        0, ``-EBUSY`` for an address that is mapped already, ``-ENOMEM`` for no memory for page tables.
        """
        raise NotImplementedError

    def map_range(self, address, pfn, size, max_shift, prot):
        """Maps ``size`` bytes of contiguous physical memory with the largest pieces up to ``1 << max_shift`` that fit.

        0, ``-EBUSY``, or ``-ENOMEM`` (section 3.4).
        """
        raise NotImplementedError

    def unmap(self, start, end):
        """Removes the mappings of a range, holes included; CPUs may still remember them."""
        raise NotImplementedError

    def flush(self, start, end):
        """Makes every CPU forget the mappings of a range that are no more."""
        raise NotImplementedError

    def translate(self, address):
        """The frame that is mapped at an address; -1 for none."""
        raise NotImplementedError

    def set_direct_map(self, pages, first, count, valid):
        """Makes frames accessible, or inaccessible, at their permanent addresses, where they have such."""
        raise NotImplementedError

    def set_scope(self, reclaim):
        """Says whether memory for page tables may be waited for from now on (a task scope of section 2.3)."""
        raise NotImplementedError

    # -- bytes -----------------------------------------------------------------------------------------------------

    def load(self, address, size):
        """Reads bytes as the running CPU.

        Raises:
            Fault: of kind ``unmapped`` or ``stale_tlb``.
        """
        raise NotImplementedError

    def store(self, address, data):
        """Writes bytes as the running CPU; all of them or none.

        Raises:
            Fault: of kind ``unmapped``, ``readonly`` or ``stale_tlb``.
        """
        raise NotImplementedError

    def read_frame(self, pfn, offset, size):
        """Reads bytes of a frame, wherever it is mapped."""
        raise NotImplementedError

    def zero_frame(self, pfn, offset, size):
        """Zeroes bytes of a frame, wherever it is mapped."""
        raise NotImplementedError

    def copy_frame(self, pfn, source, size):
        """Copies the first ``size`` bytes of frame ``source`` to frame ``pfn``."""
        raise NotImplementedError

    # -- deferred work ---------------------------------------------------------------------------------------------

    def defer(self, work, cpu):
        """Queues ``work``, a function without arguments, to run later in task context on a CPU."""
        raise NotImplementedError

    def run_deferred(self):
        """Runs queued work in task context, what it queues meanwhile included; how many pieces of work there were."""
        raise NotImplementedError

    def has_deferred(self):
        """Whether work is queued."""
        raise NotImplementedError

    # -- keeping house ---------------------------------------------------------------------------------------------

    def trim(self):
        """Gives idle memory of the machine's own back - lists of frames, empty page tables; bytes given back."""
        raise NotImplementedError

    def validate(self):
        """Checks every structure; raises ValidationError."""
        raise NotImplementedError
