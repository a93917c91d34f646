"""``Counters``: the numbers of ``stats``, by the same names, at any moment."""

from __future__ import annotations

import pytest

from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import Wrapper
from vmalloc.space.simulated import simulated
from vmalloc.space.space import VmallocSpace
from vmalloc.units import MIB
from vmalloc.views.counters import Counters

pytestmark = pytest.mark.both_builds


class Bare(Wrapper):
    """A machine without parts to look at."""

    def __getattribute__(self, name: str) -> object:
        if name == "mmu":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)


@pytest.mark.parametrize("kernel", ["6.1", "6.19"])
def test_they_are_those_of_stats_whatever_happens(kernel: str) -> None:
    space = simulated(kernel=kernel, cpus=3, memory="256MiB")
    counters = Counters(space.state)
    assert dict(zip(counters.names, counters.read(), strict=True)) == dict.fromkeys(counters.names, 0)
    space.machine.fail_next("map_range")
    areas = [space.vmalloc_huge(2 * MIB), *[space.vmalloc(4096) for _ in range(40)]]
    for area in areas:
        area.read(0, 1)
        area.free()
    space.purge()
    space.kvfree_rcu(space.vmalloc(4096))
    space.rcu_barrier()
    stats = space.stats()
    found = dict(zip(counters.names, counters.read(), strict=True))
    assert found == {name: stats[name] for name in counters.names}
    zero = {name for name, value in found.items() if not value}
    assert zero <= {"vmalloc_faults", "spurious_faults", "tlb_range_flushes", "tlb_flushed_pages", "pool_hits"}


def test_a_machine_without_parts_has_fewer() -> None:
    machine = Bare(SimulatedMachine(ARCHITECTURES["x86_64"], profile("6.19"), cpus=2, nodes=[1 << 14]))
    counters = Counters(VmallocSpace(machine, profile("6.19")).state)
    assert set(counters.names) == {"purges", "pool_hits", "rcu_grace_periods", "huge_fallbacks", "failures"}
    assert counters.read() == (0,) * 5
