"""The state that all verbs work on: one machine, one address space, and the areas in it.

Idea: ``areas.AddressSpace`` knows addresses, ``Machine`` knows memory; here is what neither can know: which frames are
behind which addresses (``areas``), what is owed (work that waits for task context), and what the kernel would have
printed (``log``).

Locking::

    space.lock                     taken by every method of VmallocSpace, for the whole call
      AddressSpace._lock           taken by its methods, one at a time; ``observer`` and ``flush`` run under it

The hot path goes past ``AddressSpace``, straight to its ``Allocator``, because the space's lock protects both.  The one
place that lets go of the lock in the middle of a call is the overflow path, around the purge notifiers, which free
areas (``reserve.alloc_vmap_area``); nothing is held or half done there.

Contexts: a verb says with ``must_be`` what contexts it may be called in.  Work that an interrupt cannot do is deferred
to the machine's work queue; ``VmallocSpace`` runs what is queued before the next call in task context that allocates or
frees, which is what a worker would have done by then, and on ``run_deferred``.

Messages: ``warn`` keeps what the kernel would print, with the words of section 2.1.  The kernel prints at most one
allocation failure in ten seconds; there is no clock here, so all of them are kept, the newest ``LOG_LINES``.
"""

from collections import deque

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.block_geometry import block_geometry
from vmalloc.areas.vmap_blocks import VmapBlocks
from vmalloc.calls.observed import Observed
from vmalloc.calls.rcu import Rcu, validate_rcu
from vmalloc.calls.validate import validate_areas, validate_shadow
from vmalloc.errors import BadContext, OutOfFrames
from vmalloc.flags import CONTEXT_NAMES, GFP_NOWARN, format_gfp
from vmalloc.policy import Policy
from vmalloc.units import format_range

__all__ = ["LOG_LINES", "VmallocState"]

LOG_LINES = 1000


class VmallocState:
    """What a space has beside its lock.

    Args:
        machine: the machine.
        kernel: a ``KernelProfile``.
        early: areas that exist before the allocator does, ascending ``(start, end)``.
        observer: told what the kernel would trace, as ``AddressSpace`` takes it; its errors are printed, not raised.
        kasan: a ``Kasan`` over the same machine; None for a kernel without.
        policy: rules that differ from the kernel's (``policy.Policy``), or None.
        nr_cpus: for how many CPUs the kernel was built; as many as the machine has by default.
    """

    def __init__(self, machine, kernel, early=(), observer=None, kasan=None, policy=None, nr_cpus=None):
        info = machine.info
        self.machine = machine
        self.info = info
        self.kernel = kernel
        observer = None if observer is None else Observed(observer)
        self.observer = observer
        self.policy = Policy() if policy is None else policy
        self.page_shift = info.page_shift
        self.page_size = 1 << info.page_shift
        self.pointer_size = info.word_bits // 8
        self.vmalloc_start = info.vmalloc_start
        self.vmalloc_end = info.vmalloc_end
        self.nr_nodes = info.nodes
        self.total_pages = info.nr_pages
        self.space = AddressSpace(
            info.vmalloc_start,
            info.vmalloc_end,
            kernel=kernel,
            cpus=info.cpus,
            page_size=self.page_size,
            word_bits=info.word_bits,
            early=early,
            observer=observer,
            flush=self.flush_hull,
            release=None if kasan is None else kasan.purged,
            policy=self.policy,
        )
        self.kasan = kasan
        self.allocator = self.space.allocator
        self.lazy_max = self.policy.threshold(info.cpus, self.page_size)
        self.blocks = VmapBlocks(
            block_geometry(info.word_bits, info.page_shift, info.cpus if nr_cpus is None else nr_cpus),
            info.vmalloc_start,
            info.cpus,
            kernel.blocks_by_slot,
        )
        self.ram_ranges = {}
        self.areas = {}
        self.contiguous = {}
        self.nr_vmalloc_pages = 0
        self.percpu_pages = 0
        self.drain_queued = False
        self.deferred_frees = [[] for _ in range(info.cpus)]
        self.failed_areas = []
        self.user_mappings = []
        self.huge_vmalloc = self.policy.huge
        self.huge_ioremap = self.policy.huge
        self.guard_size = self.page_size if self.policy.guard else 0
        self.rcu_waiting = {}
        self.rcu = Rcu(machine, self.rcu_waiting)
        self.init_on_alloc = False
        self.debug_pagealloc = False
        self.comm = "python"
        self.log = deque(maxlen=LOG_LINES)
        self.warned = set()
        self.failures = 0
        self.huge_fallbacks = 0
        self.unlock_for = None

        if kasan is not None:
            for start, end in self.space.early:
                self.populate_early(start, end)

    def populate_early(self, start, end):
        """Makes the shadow of an area that was there before the allocator; all of it may be touched."""
        if self.kasan.covers(start, end):
            if self.kasan.populate(start, end, True) != 0:
                raise OutOfFrames(f"no frames for the shadow of the early area {format_range(start, end)}")
            self.kasan.allocated(start, end, end - start)

    def trim_shadow(self):
        """Gives back shadow of free addresses, of which a purge leaves pages behind (section 9.4)."""
        if self.kasan is not None:
            taken = [*self.space.busy(), *self.space.lazy(), *self.space.pooled()]
            self.kasan.trimmed([(area.start, area.end) for area in taken])

    def flush_hull(self, start, end):
        """Flushes what a purge owes, before one of its addresses can be used again."""
        self.machine.flush(start, end)

    # -- contexts --------------------------------------------------------------------------------------------------

    def context_name(self):
        """``"task"``, ``"softirq"``, ``"hardirq"`` or ``"nmi"``."""
        return CONTEXT_NAMES[self.machine.running.context]

    def refuse(self, call, reason):
        """The error of a call that must not be made now."""
        return BadContext(call, self.context_name(), reason)

    # -- messages --------------------------------------------------------------------------------------------------

    def warn(self, message):
        """Keeps a line that the kernel would print; returns it."""
        self.log.append(message)
        return message

    def warn_once(self, message, place):
        """``warn``, the first time only that it comes from this place (``WARN_ONCE``), whatever it says then."""
        if place not in self.warned:
            self.warned.add(place)
            self.warn(message)
        return message

    def warn_alloc(self, gfp, message):
        """Keeps an allocation failure as section 2.1 lays it out, unless ``__GFP_NOWARN``; returns the message."""
        if not gfp & GFP_NOWARN:
            self.warn(f"{self.comm}: {message}, mode:{gfp:#x}({format_gfp(gfp)}), nodemask=(null)")
        return message

    # -- areas -----------------------------------------------------------------------------------------------------

    def find(self, address):
        """The area that contains ``address``, or None: also when only a ``vmap_area`` without a ``vm_struct`` does."""
        row = self.allocator.nodes.find(address)
        if row == 0:
            return None
        return self.areas.get(self.allocator.rows.row[row].va_start)

    def find_area(self, address):
        """``find`` for Python callers, of any number."""
        if not 0 <= address <= self.space.address_max:
            return None
        return self.find(address)

    # -- checks ----------------------------------------------------------------------------------------------------

    def validate(self):
        """Checks the machine, the addresses, and that areas, addresses and memory agree; raises ValidationError."""
        self.machine.validate()
        self.space.validate()
        validate_areas(self)
        if self.kasan is not None:
            validate_shadow(self)
        validate_rcu(self.rcu)
