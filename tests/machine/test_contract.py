"""The simulated machine, on every architecture, and the machines around it: all keep the conventions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machine.contract import MachineContract
from vmalloc.errors import Fault
from vmalloc.flags import TAKE_STRICT, TAKE_ZERO
from vmalloc.kernels import PROFILES
from vmalloc.machine.base import Machine, Running
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import CountingMachine, FailingMachine, RecordingMachine, Wrapper
from vmalloc.pages import Pages


def simulated(arch: str, kernel: str = "6.19") -> SimulatedMachine:
    """Two nodes; the second one lies above what a 32-bit device reaches where the architecture tells the two apart."""
    found = ARCHITECTURES[arch]
    nodes: list[object] = [(0, 2048), (2048, 2048)]
    if found.dma32_limit is not None:
        nodes = [(0, 2048), (1 << (33 - found.page_shift), 2048)]
    return SimulatedMachine(found, PROFILES[kernel], cpus=4, nodes=nodes)


def planned(inner: Machine) -> FailingMachine:
    """One that has failed and had its plans taken back."""
    machine = FailingMachine(inner)
    machine.fail_randomly(1, seed=3)
    assert machine.take(0, 0, 0) == -1
    machine.clear()
    return machine


MACHINES: dict[str, Callable[[], Machine]] = {
    **{arch: lambda arch=arch: simulated(arch) for arch in ARCHITECTURES},
    "x86_64 of 6.1": lambda: simulated("x86_64", "6.1"),
    "x86_32_pae of 6.1": lambda: simulated("x86_32_pae", "6.1"),
    "wrapper": lambda: Wrapper(simulated("x86_64")),
    "failing": lambda: FailingMachine(simulated("x86_64")),
    "failing, after failures": lambda: planned(simulated("arm64_4k")),
    "counting": lambda: CountingMachine(simulated("riscv64_sv39")),
    "recording": lambda: RecordingMachine(simulated("x86_64")),
    "all of them": lambda: FailingMachine(CountingMachine(Wrapper(RecordingMachine(simulated("x86_64"))))),
    "the other way round": lambda: RecordingMachine(CountingMachine(FailingMachine(simulated("s390x")))),
}
#: Uncompiled, three stand for all.
BOTH_BUILDS = ("x86_64", "x86_32_pae", "all of them")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.both_builds if name in BOTH_BUILDS else ()) for name in MACHINES]
)
class TestMachine(MachineContract):
    @pytest.fixture
    def machine(self, name: str) -> Machine:
        return MACHINES[name]()


class TakesNothingStrictly(Wrapper):
    def take(self, order: int, node: int, how: int) -> int:
        return self.inner.take(order, node, how & ~TAKE_STRICT)


class ForgetsToZero(Wrapper):
    def take_bulk(self, pages: Pages, count: int, node: int, how: int) -> int:
        return self.inner.take_bulk(pages, count, node, how & ~TAKE_ZERO)


class KeepsHalfOfWhatIsBusy(Wrapper):
    def map_pages(self, address: int, pages: Pages, first: int, count: int, prot: int) -> int:
        code = 0
        for i in range(count):
            code = code or self.inner.map_pages(address + (i << self.info.page_shift), pages, first + i, 1, prot)
        return code


class NeverFlushes(Wrapper):
    def flush(self, start: int, end: int) -> int:
        return 0


class StoresWhatItCan(Wrapper):
    def store(self, address: int, data: bytes) -> None:
        for i in range(len(data)):
            self.inner.store(address + i, data[i : i + 1])


class RunsWorkAtOnce(Wrapper):
    def defer(self, work: Callable[[], None], cpu: int) -> None:
        work()


class RunsByItself(Wrapper):
    def __init__(self, inner: Machine) -> None:
        super().__init__(inner)
        self.running = Running()


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (TakesNothingStrictly, MachineContract.test_a_full_node_is_helped_by_another_unless_the_caller_is_strict),
        (ForgetsToZero, MachineContract.test_frames_are_zeros_when_asked_for_so),
        (NeverFlushes, MachineContract.test_after_a_flush_nobody_reaches_what_was_unmapped),
        (StoresWhatItCan, MachineContract.test_a_store_is_done_whole_or_not_at_all),
        (RunsWorkAtOnce, MachineContract.test_work_runs_later_in_order_on_its_cpu_in_task_context),
        (RunsByItself, MachineContract.test_work_runs_later_in_order_on_its_cpu_in_task_context),
    ],
)
def test_a_machine_that_breaks_a_convention_is_found(broken: type[Wrapper], test: Callable[..., None]) -> None:
    with pytest.raises((AssertionError, Fault, pytest.fail.Exception)):
        test(MachineContract(), broken(simulated("x86_64")))


def test_a_machine_that_keeps_half_of_what_is_busy_is_found() -> None:
    with pytest.raises(AssertionError):
        MachineContract().test_pages_over_a_mapping_are_refused_and_nothing_is_changed(
            KeepsHalfOfWhatIsBusy(simulated("x86_64")), 5
        )
