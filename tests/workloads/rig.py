"""What the tests of workloads share: small runs, and a space some of whose calls are other ones."""

from __future__ import annotations

from typing import Any

from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.workloads.cases import Case, find_case
from vmalloc.workloads.parameters import Parameters

PAGE = 4096
#: Cases whose calls every space has.
PLAIN = (
    "fix_size_alloc", "full_fit_alloc", "long_busy_list_alloc", "random_size_alloc", "fix_align_alloc",
    "random_size_align_alloc", "align_shift_alloc", "kvfree_rcu_1_arg", "kvfree_rcu_2_arg",
)  # fmt: skip


class Other:
    """A space that lacks some calls, or has others in their place."""

    def __init__(self, space: Any, hidden: tuple[str, ...] = (), **calls: Any) -> None:
        self._space = space
        self._hidden = hidden
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden:
            raise AttributeError(name)
        return getattr(self._space, name)


def make(kernel: str = "6.19", cpus: int = 2, **how: Any) -> SimulatedSpace:
    """A small machine."""
    return simulated(how.pop("arch", "x86_64"), kernel=kernel, cpus=cpus, **{"memory": "256MiB"} | how)


def small(**more: Any) -> Parameters:
    """Few loops, small set-ups."""
    how = {"nr_threads": 2, "test_loop_count": 12, "sequential_test_order": True, "setup_divisor": 500}
    return Parameters(**(how | {"nr_pcpu_objects": 20} | more))


def blocks_by_vmap(space: SimulatedSpace) -> dict[str, Any]:
    """Stand-ins for ``vm_map_ram`` and ``vm_unmap_ram``: the same contract, an area each."""

    def vm_map_ram(pages: Any, node: int | None = None) -> int:
        return space.vmap(pages).detach()

    def vm_unmap_ram(address: int, count: int) -> None:
        area = space.find_vm_area(address)
        assert area is not None
        assert area.size == count * PAGE
        space.vunmap(address)

    return {"vm_map_ram": vm_map_ram, "vm_unmap_ram": vm_unmap_ram}


def case(name: str) -> Case:
    """A case by its name."""
    return find_case(name)
