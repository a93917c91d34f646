"""Which node frames come from: placement, fallback, THISNODE, memory policies, low memory (sections 2.2, 2.3, 3.3)."""

from __future__ import annotations

from collections import Counter

import pytest

from space.rig import KERNELS, settle, validate
from vmalloc.errors import BadRequest, OutOfFrames
from vmalloc.flags import GFP_KERNEL, GFP_THISNODE
from vmalloc.space.area import Area
from vmalloc.space.simulated import SimulatedSpace, simulated

P = 4096
#: Node 1 is nearer to 3, node 0 to 2.
DISTANCES = [[10, 30, 20, 40], [30, 10, 40, 20], [20, 40, 10, 30], [40, 20, 30, 10]]


def four_nodes(kernel: str = "6.19", memory: str = "16MiB") -> SimulatedSpace:
    return simulated("x86_64", kernel, cpus=8, memory=[memory] * 4, distances=DISTANCES)


def nodes_of(space: SimulatedSpace, area: Area) -> dict[int, int]:
    """Frames of an area by node."""
    return dict(Counter(space.machine.node_of(pfn) for pfn in area.pages))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nr_pages", [1, 7, 150])
def test_without_a_node_frames_come_from_the_cpus_own(kernel: str, nr_pages: int) -> None:
    """Section 3.3: otherwise the local node."""
    space = four_nodes(kernel)
    for cpu in range(8):
        with space.on_cpu(cpu):
            area = space.vmalloc(nr_pages * P)
        assert nodes_of(space, area) == {cpu // 2: nr_pages}
        assert area.node == cpu // 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("nr_pages", [1, 7, 150])
@pytest.mark.parametrize("node", range(4))
def test_with_a_node_frames_come_from_there(kernel: str, nr_pages: int, node: int) -> None:
    """Section 2.2: ``vmalloc_node``."""
    space = four_nodes(kernel)
    assert nodes_of(space, space.vmalloc_node(nr_pages * P, node)) == {node: nr_pages}
    zeroed = space.vzalloc_node(nr_pages * P, node)
    assert nodes_of(space, zeroed) == {node: nr_pages}
    assert zeroed.read() == bytes(nr_pages * P)
    validate(space)


def fill(space: SimulatedSpace, node: int, leave: int) -> object:
    """Takes the frames of a node but so many."""
    space.machine.frames.drain()
    free = space.machine.frames.stats()[node].free
    held = space.alloc_pages(free - leave, node=node, gfp=GFP_KERNEL | GFP_THISNODE) if free > leave else None
    space.machine.frames.drain()
    return held


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_node_does_not_have_comes_from_the_nearest(kernel: str) -> None:
    """Section 3.3: fallback in order of distance."""
    space = four_nodes(kernel)
    fill(space, 1, 3)
    area = space.vmalloc_node(10 * P, 1)
    found = nodes_of(space, area)
    assert set(found) <= {1, 3}
    assert found[3] >= 7
    fill(space, 3, 0)
    fill(space, 1, 0)
    assert nodes_of(space, space.vmalloc_node(10 * P, 1)) == {0: 10}
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_thisnode_takes_nothing_from_elsewhere(kernel: str) -> None:
    """Section 2.3: ``__GFP_THISNODE``: from there or not at all, and what was found is given back."""
    space = four_nodes(kernel)
    held = fill(space, 1, 3)
    used = [node.used for node in space.machine.frames.stats()]
    with pytest.raises(OutOfFrames) as caught:
        space.vmalloc_node(10 * P, 1, gfp=GFP_KERNEL | GFP_THISNODE)
    assert caught.value.node == 1
    settle(space)
    assert [node.used for node in space.machine.frames.stats()][1:] == used[1:]
    assert nodes_of(space, space.vmalloc_node(3 * P, 1, gfp=GFP_KERNEL | GFP_THISNODE)) == {1: 3}
    space.free_pages(held)
    assert nodes_of(space, space.vmalloc_node(10 * P, 1, gfp=GFP_KERNEL | GFP_THISNODE)) == {1: 10}
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_unknown_node_is_refused(kernel: str) -> None:
    space = four_nodes(kernel)
    for node in (4, -2, 99):
        with pytest.raises(BadRequest, match="nodes are 0 to 3"):
            space.vmalloc_node(P, node)
    assert not space.state.areas


# -- policies of the task (section 3.3 step 2) -------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    ("nodes", "nr_pages", "expected"),
    [
        ((0, 1, 2, 3), 8, {0: 2, 1: 2, 2: 2, 3: 2}),
        ((0, 1, 2, 3), 10, {0: 3, 1: 3, 2: 2, 3: 2}),
        ((1, 3), 7, {1: 4, 3: 3}),
        # Two batches: 100 = 34 + 33 + 33 and 51 = 17 each.
        ((0, 1, 3), 151, {0: 51, 1: 50, 3: 50}),
    ],
)
def test_interleaving_divides_each_batch_evenly(
    kernel: str, nodes: tuple[int, ...], nr_pages: int, expected: dict[int, int]
) -> None:
    """Section 3.3 step 2: pages divided evenly over the nodes, the first ``rest`` nodes get one more per call."""
    space = four_nodes(kernel)
    with space.mempolicy("interleave", nodes):
        area = space.vmalloc(nr_pages * P)
    assert nodes_of(space, area) == expected


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_weighted_interleaving_divides_by_weight(kernel: str) -> None:
    space = four_nodes(kernel)
    with space.mempolicy("weighted", (0, 2), {0: 3, 2: 1}):
        assert nodes_of(space, space.vmalloc(8 * P)) == {0: 6, 2: 2}


def test_large_blocks_follow_the_policy_one_by_one() -> None:
    """Section 3.3 step 1 (6.19): from the task policy: each block as a whole from the next node."""
    space = four_nodes()
    with space.mempolicy("interleave", (0, 1, 2, 3)):
        area = space.vmalloc(14 * P)
    assert nodes_of(space, area) == {0: 8, 1: 4, 2: 2}


@pytest.mark.parametrize("kernel", KERNELS)
def test_interleaving_goes_elsewhere_when_a_node_is_full(kernel: str) -> None:
    """Section 3.3: a batch that comes short is followed by single pages."""
    space = four_nodes(kernel)
    fill(space, 1, 0)
    with space.mempolicy("interleave", (0, 1)):
        area = space.vmalloc(20 * P)
    assert area.nr_pages == 20
    assert 1 not in nodes_of(space, area)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_bind_takes_from_its_nodes_alone_nearest_first(kernel: str) -> None:
    """Section 3.3: the local node with the policy's node mask."""
    space = four_nodes(kernel)
    with space.on_cpu(0), space.mempolicy("bind", (1, 2)):
        assert nodes_of(space, space.vmalloc(9 * P)) == {2: 9}
        space.vmalloc_node(P, 3).free()  # a node that is asked for is no business of the policy
        fill(space, 2, 0)
        assert nodes_of(space, space.vmalloc(9 * P)) == {1: 9}
        fill(space, 1, 4)
        with pytest.raises(OutOfFrames):
            space.vmalloc(9 * P)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_preferred_nodes_are_left_when_they_are_full(kernel: str) -> None:
    """Section 3.3: preferred-many."""
    space = four_nodes(kernel)
    with space.on_cpu(0), space.mempolicy("preferred", (3,)):
        assert nodes_of(space, space.vmalloc(9 * P)) == {3: 9}
        fill(space, 3, 0)
        assert nodes_of(space, space.vmalloc(9 * P)) == {0: 9}


def test_a_node_that_is_asked_for_comes_before_the_policy() -> None:
    space = four_nodes()
    with space.mempolicy("interleave", (0, 1, 2, 3)):
        assert nodes_of(space, space.vmalloc_node(9 * P, 2)) == {2: 9}


# -- low memory (section 2.2) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_vmalloc_32_gives_what_a_32_bit_device_reaches(kernel: str) -> None:
    """Section 2.2: ``GFP_DMA32`` on 64 bits: below 4 GiB, wherever the CPU is; node 1 here has nothing there."""
    space = simulated("x86_64", kernel, cpus=2, memory=["4GiB", "1GiB"])
    with space.on_cpu(1):
        plain, low, both = space.vmalloc(9 * P), space.vmalloc_32(9 * P), space.vmalloc_32_user(9 * P)
    assert nodes_of(space, plain) == {1: 9}
    for area in (low, both):
        assert nodes_of(space, area) == {0: 9}
        assert max(area.pages) < (4 << 30) // P
    assert both.read() == bytes(9 * P)


@pytest.mark.parametrize("arch", ["x86_32", "arm32"])
def test_vmalloc_32_on_32_bits_takes_no_high_memory(arch: str) -> None:
    """Section 2.2: no effect beyond the normal zone."""
    space = simulated(arch, memory="2GiB", cpus=1)
    low = space.machine.arch.lowmem_limit
    assert max(space.vmalloc(9 * P).pages) * P >= low  # plain vmalloc prefers high memory
    assert max(space.vmalloc_32(9 * P).pages) * P < low
