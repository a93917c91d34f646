"""What only a modelled computer can do: who runs, memory policies, arrays of accesses."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import simulated

np = pytest.importorskip("numpy")
pytestmark = pytest.mark.both_builds


def test_who_runs_ends_where_it_began() -> None:
    space = make()
    with space.on_cpu(2), space.in_context("softirq"), space.in_context("nmi"), space.on_cpu(1):
        assert (space.machine.cpu, space.machine.context) == (1, 3)
    assert (space.machine.cpu, space.machine.context) == (0, 0)
    with pytest.raises(ZeroDivisionError), space.on_cpu(3), space.in_context("hardirq"):
        _ = 1 // 0
    assert (space.machine.cpu, space.machine.context) == (0, 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_policies_decide_where_frames_come_from(kernel: str) -> None:
    """Section 3.3 step 2, as a space offers it."""
    space = make(kernel)
    with space.mempolicy("bind", [1]):
        area = space.vmalloc(8 * PAGE)
        with space.mempolicy("preferred", [0]):
            assert space.vmalloc(PAGE).node == 0
    assert {space.machine.node_of(pfn) for pfn in area.pages} == {1}
    assert space.vmalloc(PAGE).node == 0
    with pytest.raises(BadRequest, match="weights"), space.mempolicy("weighted", [0, 1], {0: 1}):
        pass


def test_an_array_of_accesses_counts_and_never_stops() -> None:
    space = make()
    area = space.vmalloc(4 * PAGE)
    addresses = np.arange(area.address, area.end + PAGE, 512, dtype=np.uint64)
    found = space.access(addresses, cpu=1)
    assert found.accesses == len(addresses)
    assert found.misses >= 4
    assert space.machine.tlb(1).misses
    assert not space.machine.tlb(0).misses


def test_a_machine_is_described() -> None:
    space = simulated("arm64_16k", "6.12", cpus=2, memory=["64MiB", "32MiB"])
    text = repr(space)
    for words in ("arm64_16k", "2 CPUs on 2 nodes", "96 MiB in pages of 16 KiB", "kernel 6.12"):
        assert words in text


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_an_architecture_by_name_or_itself(arch: str) -> None:
    first, second = simulated(arch, memory="64MiB"), simulated(ARCHITECTURES[arch], memory=64 << 20)
    assert first.vmalloc(1).address == second.vmalloc(1).address


def test_what_there_cannot_be_says_so() -> None:
    for setting, words in (
        ({"seed": "x"}, "seed 'x': a whole number"), ({"tlb": {"ways": 1}}, "with sizes, policy"),
        ({"missing": ("pse",)}, "missing 'pse': one of"), ({"memory": 1.5}, "memory 1.5: bytes, text"),
    ):  # fmt: skip
        with pytest.raises(BadRequest, match=words):
            simulated(**setting)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="no shadow offset is known for loongarch64; these have one: x86_64"):
        simulated("loongarch64", kasan=True)
    with pytest.raises(BadRequest, match="3 NUMA nodes, but the memory of 2"):
        simulated(nodes=3, memory=["64MiB", "64MiB"])
