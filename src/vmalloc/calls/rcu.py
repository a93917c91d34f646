"""Grace periods: who may still be looking at what is about to be freed.

Idea: a reader announces itself (``rcu_read_lock``) and takes no lock; who wants to free something that readers may hold
waits until every CPU has passed a *quiescent state* - a moment at which it holds nothing - since then.  That wait is a
*grace period*.

The machine runs one CPU at a time and has no clock, so a quiescent state is something that is said or done:

* ``rcu_quiescent(cpu)`` says it: a scheduler calls it at its ticks and context switches, as that of the workloads does;
* a call that waits (``synchronize_rcu``, ``rcu_barrier``), ``run_deferred`` and ``close`` let everything else go on
  meanwhile, so every CPU passes one - idle CPUs are quiescent;
* more than ``QHIMARK`` waiting objects ask for one of every CPU, as the kernel then forces them: work of its own, done
  before the next call in task context.

A CPU in a read-side section passes none, whoever asks; leaving the section is none by itself, as without preemption.
Nothing else is one: allocating and freeing go on for as long as they like without ending a grace period.

====================== ================================================== ==========================================
an object is           from                                               until
====================== ================================================== ==========================================
*arriving*             it was given, while a grace period ran             that one has ended, and the next begins
*held*                 its grace period began (at once, if none ran)      every CPU has passed a quiescent state
*due*                  then; a worker of the CPU that gave it is queued   that worker has called back
====================== ================================================== ==========================================

Objects come in batches per CPU, each a page of pointers from the frames; an object that found no page for it is linked
by its own first words and is in a batch without one.  Protected by the lock of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vmalloc.errors import ValidationError
from vmalloc.flags import NUMA_NO_NODE

if TYPE_CHECKING:
    from vmalloc.calls.vm_struct import VmStruct

__all__ = ["QHIMARK", "Batch", "Rcu", "validate_rcu"]

#: Waiting objects above which quiescent states are forced (the kernel's ``rcutree.qhimark``).
QHIMARK = 10_000

#: Words at the head of a page of pointers: a link and a count.
_HEADER_WORDS = 2


class Batch:
    """Objects of one CPU that wait together.

    Attributes:
        pfn: the page of pointers; -1 for none: the objects themselves hold the list.
        entries: the objects, and who is called when they are due.
    """

    __slots__ = ("entries", "pfn")

    def __init__(self, pfn: int) -> None:
        self.pfn = pfn
        self.entries: list[tuple[VmStruct, Callable[[VmStruct], None]]] = []


class Rcu:
    """The grace periods of a machine.

    Args:
        machine: where frames for batches come from and work goes to.
        waiting: filled by this: what waits, by its address. A caller that is not compiled may just look into it.

    Attributes:
        owing: the CPUs that have not passed a quiescent state since the grace period began, as bits; 0: none runs.
        reading: per CPU, how many read-side sections it is in.
        completed: grace periods that have ended.
        capacity: objects in a page of pointers.
    """

    def __init__(self, machine: Any, waiting: dict[int, VmStruct]) -> None:
        info = machine.info
        self.machine = machine
        self.waiting = waiting
        self.everybody = (1 << info.cpus) - 1
        self.capacity = (1 << info.page_shift) // (info.word_bits // 8) - _HEADER_WORDS
        self.owing = 0
        self.reading = [0] * info.cpus
        self.completed = 0
        self.arriving: list[list[Batch]] = [[] for _ in range(info.cpus)]
        self.held: list[list[Batch]] = [[] for _ in range(info.cpus)]
        self.due: list[list[Batch]] = [[] for _ in range(info.cpus)]
        self.forcing = False

    # -- objects ---------------------------------------------------------------------------------------------------

    def room(self) -> bool:
        """Makes room for one object more of the running CPU; False when there is no page for it."""
        batches = self.arriving[self.machine.running.cpu]
        if batches and batches[-1].pfn >= 0 and len(batches[-1].entries) < self.capacity:
            return True
        pfn: int = self.machine.take(0, NUMA_NO_NODE, 0)
        if pfn < 0:
            return False
        batches.append(Batch(pfn))
        return True

    def add(self, vm: VmStruct, callback: Callable[[VmStruct], None]) -> None:
        """Lets an object wait for a grace period that begins now or later; there was ``room`` for it."""
        self.arriving[self.machine.running.cpu][-1].entries.append((vm, callback))
        self._arrived(vm)

    def add_linked(self, vm: VmStruct, callback: Callable[[VmStruct], None]) -> None:
        """``add`` for an object whose first words are the list."""
        batches = self.arriving[self.machine.running.cpu]
        if not batches or batches[-1].pfn >= 0:
            batches.append(Batch(-1))
        batches[-1].entries.append((vm, callback))
        self._arrived(vm)

    def _arrived(self, vm: VmStruct) -> None:
        self.waiting[vm.addr] = vm
        if not self.owing:
            self._begin()
        if len(self.waiting) > QHIMARK and not self.forcing:
            self.forcing = True
            self.machine.defer(self._force, self.machine.running.cpu)

    # -- grace periods ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begins a grace period for what has arrived, if anything has."""
        if any(self.arriving):
            self.held, self.arriving = self.arriving, self.held
            self.owing = self.everybody

    def _end(self) -> None:
        """Ends the grace period: what it held is due, and what arrived meanwhile is held by the next one."""
        self.owing = 0
        self.completed += 1
        for cpu, batches in enumerate(self.held):
            if batches:
                if not self.due[cpu]:
                    self.machine.defer(_Callbacks(self, cpu), cpu)
                self.due[cpu] += batches
                self.held[cpu] = []
        self._begin()

    def quiescent(self, cpus: Iterable[int]) -> None:
        """CPUs pass a quiescent state. Those in a read-side section do not."""
        for cpu in cpus:
            if not self.reading[cpu]:
                self.owing &= ~(1 << cpu)
        if not self.owing and any(self.held):
            self._end()

    def let_pass(self) -> bool:
        """Every CPU that is in no section passes a quiescent state; whether that ended a grace period."""
        before = self.completed
        if self.owing:
            self.quiescent(range(len(self.reading)))
        return self.completed != before

    def _force(self) -> None:
        self.forcing = False
        self.let_pass()

    def reader(self) -> int | None:
        """A CPU that is in a read-side section; None when there is none."""
        return next((cpu for cpu, depth in enumerate(self.reading) if depth), None)

    def synchronize(self) -> None:
        """Lets a whole grace period pass, one that begins now or later; there must be no ``reader``."""
        if not self.owing:
            self.completed += 1  # nothing waits: it begins and ends here
        while self.let_pass():
            pass

    def abandon(self) -> None:
        """Ends all sections and grace periods: the machine stops."""
        self.reading = [0] * len(self.reading)
        while self.let_pass():
            pass

    def batches(self) -> Iterator[tuple[str, Batch]]:
        """All batches, each with the state of its objects."""
        for state in ("arriving", "held", "due"):
            for batches in getattr(self, state):
                yield from ((state, batch) for batch in batches)


class _Callbacks:
    """The worker of one CPU: calls back for everything that is due there."""

    def __init__(self, rcu: Rcu, cpu: int) -> None:
        self.rcu = rcu
        self.cpu = cpu

    def __call__(self) -> None:
        rcu = self.rcu
        batches, rcu.due[self.cpu] = rcu.due[self.cpu], []
        for batch in batches:
            for vm, _ in batch.entries:
                del rcu.waiting[vm.addr]
            if batch.pfn >= 0:
                rcu.machine.give(batch.pfn, 0)
        for batch in batches:
            for vm, callback in batch.entries:
                callback(vm)


def validate_rcu(rcu: Rcu) -> None:
    """Checks that what waits, the batches and the grace period agree.

    Raises:
        ValidationError: two of them contradict each other; it names both.
    """
    found: dict[int, str] = {}
    for state, batch in rcu.batches():
        name = f"a batch of {len(batch.entries)} objects that are {state}"
        _expect(bool(batch.entries), name, "its being kept")
        _expect(batch.pfn < 0 or len(batch.entries) <= rcu.capacity, name, f"a page for {rcu.capacity}")
        why = rcu.machine.why_not(batch.pfn, 0) if batch.pfn >= 0 else ""
        _expect(not why, name, f"its frame {batch.pfn:#x}: {why}")
        for vm, _ in batch.entries:
            _expect(vm.live, f"{vm!r}", f"its being {state}: it was freed")
            _expect(vm.addr not in found, f"{vm!r}", f"its being {state} and {found.get(vm.addr)}")
            _expect(rcu.waiting.get(vm.addr) is vm, f"{vm!r}", f"its being {state} and not among what waits")
            found[vm.addr] = state
    for address, vm in rcu.waiting.items():
        _expect(address in found, f"{vm!r}, which waits", "the batches, where it is in none")
    running = f"grace period that CPUs {rcu.owing:#x} owe a quiescent state"
    _expect(not rcu.owing & ~rcu.everybody, running, f"CPUs {rcu.everybody:#x}")
    _expect(bool(rcu.owing) == any(rcu.held), running, f"{sum(map(len, rcu.held))} batches that are held")
    _expect(bool(rcu.owing) or not any(rcu.arriving), running, "objects that arrived while none ran")


def _expect(holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError("RCU", first, second)
