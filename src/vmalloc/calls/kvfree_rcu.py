"""``kvfree_rcu``: frees memory that readers may still hold, after a grace period (``rcu`` says what that is).

Nothing of the memory changes before: it is mapped, its handle is alive, readers go on reading.  What waits can be freed
by nobody else; a second ``kvfree_rcu``, or a ``vfree``, of it is an error here and a corruption in the kernel.

The kernel has two forms.  With two arguments the object carries room for the list in itself (``rcu_head``), so the call
works in any context that may touch memory at all, whatever runs out.  With one argument (``kvfree_rcu_mightsleep``) it
does not, and when there is no page for the list the caller waits for the grace period himself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmalloc.calls.kvmalloc import kfree
from vmalloc.calls.vfree import expect_not_waiting, find_area_to_free, free_area
from vmalloc.errors import BadAddress
from vmalloc.flags import NMI, TASK
from vmalloc.units import format_address

if TYPE_CHECKING:
    from vmalloc.calls.state import VmallocState
    from vmalloc.calls.vm_struct import VmStruct

__all__ = ["expect_no_reader", "kvfree_rcu", "kvfree_rcu_mightsleep", "rcu_barrier", "synchronize_rcu"]


def kvfree_rcu(state: VmallocState, address: int) -> None:
    """Frees what ``vmalloc`` or ``kvmalloc`` gave after a grace period, from any context but NMI.

    Where no page for the list is to be had, the first two words of the memory become it: a link and a function, the
    kernel's ``rcu_head``.

    Raises:
        BadContext: in an NMI.
        BadAddress: not page aligned, in no area, or waiting to be freed already.
        Fault: there was no page, and the memory cannot be written.
    """
    vm = _find(state, address, "kvfree_rcu")
    if state.rcu.room():
        state.rcu.add(vm, _release(state))
    else:
        state.machine.store(vm.addr, bytes(2 * state.pointer_size))
        state.rcu.add_linked(vm, _release(state))
    _name_the_caller(state, vm)


def kvfree_rcu_mightsleep(state: VmallocState, address: int) -> None:
    """``kvfree_rcu`` with one argument: without a page for the list it waits, and frees at once.

    Raises:
        BadContext: in an interrupt, or in a read-side section: it may sleep.
        BadAddress: as ``kvfree_rcu``.
    """
    call = "kvfree_rcu_mightsleep"
    if state.machine.running.context != TASK:
        raise state.refuse(call, "it may sleep: task context only")
    if state.rcu.reading[state.machine.running.cpu]:
        raise state.refuse(call, f"it may sleep, and CPU {state.machine.running.cpu} is in a read-side section")
    vm = _find(state, address, call)
    if state.rcu.room():
        state.rcu.add(vm, _release(state))
        _name_the_caller(state, vm)
        return
    expect_no_reader(state, call)
    state.rcu.synchronize()
    _release(state)(vm)


def synchronize_rcu(state: VmallocState) -> None:
    """Waits for a grace period: all other CPUs run until each has passed a quiescent state.

    Raises:
        BadContext: in an interrupt; or a CPU is in a read-side section, which nothing can end while the call waits.
    """
    expect_no_reader(state, "synchronize_rcu")
    state.rcu.synchronize()


def rcu_barrier(state: VmallocState) -> None:
    """Waits until everything that ``kvfree_rcu`` was given has been freed. Raises as ``synchronize_rcu``."""
    expect_no_reader(state, "rcu_barrier")
    state.rcu.synchronize()
    state.machine.run_deferred()


def expect_no_reader(state: VmallocState, call: str) -> None:
    """Raises BadContext where waiting would be for ever: in an interrupt, or with a CPU in a read-side section."""
    if state.machine.running.context != TASK:
        raise state.refuse(call, "it sleeps: task context only")
    cpu = state.rcu.reader()
    if cpu is not None:
        raise state.refuse(call, f"it would wait for ever: CPU {cpu} is in a read-side section")


def _find(state: VmallocState, address: int, call: str) -> VmStruct:
    """The memory at an address, which nobody has begun to free; raises BadContext or BadAddress."""
    if state.machine.running.context == NMI:
        raise state.refuse(call, "not even deferred frees may be asked for in an NMI")
    contiguous = state.contiguous.get(address)
    if contiguous is not None:
        expect_not_waiting(state, contiguous, address)
        return contiguous
    vm: VmStruct = find_area_to_free(state, address, call)
    if state.machine.has_deferred():  # else nothing waits for a worker; there may be thousands of CPUs to ask
        for pending in state.deferred_frees:
            if vm in pending:
                raise BadAddress(address, f"is in the area {format_address(vm.addr)}, which waits to be freed already")
    return vm


def _name_the_caller(state: VmallocState, vm: VmStruct) -> None:
    """KASAN shall name who called, not the worker that frees."""
    if state.kasan is not None and state.kasan.covers(vm.addr, vm.end):
        state.kasan.free_later(vm.addr)


def _release(state: VmallocState) -> Any:
    """What frees memory once it is due."""

    def release(vm: VmStruct) -> None:
        if state.contiguous.get(vm.addr) is vm:
            kfree(state, vm.addr)
        else:
            free_area(state, vm)

    return release
