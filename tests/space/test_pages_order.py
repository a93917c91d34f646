"""In which order page frames are asked for (section 3.3), seen from outside with a machine that remembers."""

from __future__ import annotations

import pytest

from space.rig import KERNELS, asked_for, recording_space
from vmalloc.flags import (
    GFP_ACCOUNT,
    GFP_KERNEL,
    GFP_NOWAIT,
    GFP_THISNODE,
    GFP_ZERO,
    NUMA_NO_NODE,
    TAKE_INTERLEAVED,
    TAKE_MAY_DRAIN,
    TAKE_STRICT,
    TAKE_ZERO,
)
from vmalloc.machine.wrappers.recording import RecordingMachine
from vmalloc.space.simulated import SimulatedSpace

P = 4096


def orders(space: SimulatedSpace, machine: RecordingMachine, nr_pages: int, **how: int) -> list[tuple[str, int]]:
    """What ``vmalloc`` of so many pages asks for: takes by order, batches by count."""
    machine.log.clear()
    area = space.vmalloc_node_range(
        nr_pages * P, 1, space.state.vmalloc_start, space.state.vmalloc_end, gfp=how.get("gfp", GFP_KERNEL)
    )
    found = asked_for(machine, "take", "take_bulk")
    assert area.nr_pages == nr_pages
    area.free()
    return found


#: What 6.19 asks for: blocks as large as what remains, then what is left of a batch.
LARGE_BLOCKS = {
    1: [("take", 0)],
    2: [("take", 1)],
    3: [("take", 1), ("take_bulk", 1)],
    7: [("take", 2), ("take", 1), ("take_bulk", 1)],
    8: [("take", 3)],
    255: [("take", order) for order in (7, 6, 5, 4, 3, 2, 1)] + [("take_bulk", 1)],
    2048 + 6: [("take", 10), ("take", 10), ("take", 2), ("take", 1)],
}


@pytest.mark.parametrize("nr_pages", [n for n in LARGE_BLOCKS if n <= 512])
def test_6_19_asks_for_blocks_as_large_as_what_remains(nr_pages: int) -> None:
    """Section 3.3 step 1: a plain vmalloc of 7 pages asks for orders 2 and 1, then for one single page."""
    assert orders(*recording_space(), nr_pages) == LARGE_BLOCKS[nr_pages]


def test_the_largest_block_is_of_order_10() -> None:
    """Section 3.3: ``MAX_PAGE_ORDER``; the list of frames is an area of its own and asks first."""
    found = orders(*recording_space(nodes=(1 << 15,)), 2054)
    assert found == [("take", 2), ("take_bulk", 1), *LARGE_BLOCKS[2054]]  # 2054 * 8 bytes: 5 pages


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(
    ("nr_pages", "batches"),
    [(2, [2]), (7, [7]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50]), (500, [100] * 5)],
)
def test_older_kernels_ask_for_batches_of_a_hundred(kernel: str, nr_pages: int, batches: list[int]) -> None:
    """Section 3.3 step 2; step 1 does not exist."""
    assert orders(*recording_space(kernel=kernel), nr_pages) == [("take_bulk", count) for count in batches]


@pytest.mark.parametrize("kernel", KERNELS)
def test_accounted_pages_come_one_by_one(kernel: str) -> None:
    """Section 3.3 step 2: the bulk allocator degrades to a single page when memcg accounting is requested."""
    found = orders(*recording_space(kernel=kernel), 5, gfp=GFP_KERNEL | GFP_ACCOUNT)
    first = [("take", 2)] if kernel == "6.19" else []
    assert found == first + [("take_bulk", 1)] * (1 if first else 5)


def test_a_block_that_is_not_there_lowers_the_cap_for_good() -> None:
    """Section 3.3 step 1: after a failure the cap is one less, and stays; success recomputes from the remainder."""
    space, machine = recording_space(nodes=(4096,))
    frames = space.alloc_pages(4096 - sum(node.used for node in machine.frames.stats()))
    machine.frames.drain()
    # Give back two blocks of 8 and eight single frames, none of which can merge: nothing above order 3 is left.
    numbers = list(frames)
    first = next(n for n in numbers if n % 64 == 0 and set(range(n, n + 64)) <= set(numbers))
    block = list(range(first, first + 64))
    space.free_pages([*block[0:8], *block[16:24], *block[32:64:4]])
    machine.frames.drain()
    machine.log.clear()
    area = space.vmalloc(20 * P)
    found = asked_for(machine, "take", "take_bulk")
    # 20: order 4 fails, 3 and 3 succeed; 4 remain: order 2 fails, 1 fails; then the batch.
    assert found[:6] == [("take", 4), ("take", 3), ("take", 3), ("take", 2), ("take", 1), ("take_bulk", 4)]
    assert {*block[0:8], *block[16:24]} <= set(area.pages)
    space.validate()


def test_large_blocks_make_nobody_wait() -> None:
    """Section 3.3 step 1: without direct reclaim; the single pages may wait."""
    space, machine = recording_space()
    space.vmalloc(3 * P).free()
    how = {entry.operation: entry.arguments[2] for entry in machine.log if entry.operation in ("take", "take_bulk")}
    assert not how["take"] & TAKE_MAY_DRAIN
    assert how["take_bulk"] & TAKE_MAY_DRAIN
    machine.log.clear()
    space.vmalloc(3 * P, gfp=GFP_NOWAIT).free()
    assert all(
        not entry.arguments[2] & TAKE_MAY_DRAIN for entry in machine.log if entry.operation in ("take", "take_bulk")
    )


def test_the_flags_of_the_request_go_to_the_pages() -> None:
    """Section 2.3: the full gfp applies to pages; without a node batches follow the policy of the task."""
    space, machine = recording_space(kernel="6.12", nodes=(1 << 13, 1 << 13))
    space.vmalloc_node(3 * P, 1, gfp=GFP_KERNEL | GFP_THISNODE | GFP_ZERO).free()
    bulk = next(entry for entry in machine.log if entry.operation == "take_bulk")
    assert bulk.arguments == (3, 1, TAKE_MAY_DRAIN | TAKE_ZERO | TAKE_STRICT)
    machine.log.clear()
    space.vmalloc(3 * P).free()
    bulk = next(entry for entry in machine.log if entry.operation == "take_bulk")
    assert bulk.arguments == (3, NUMA_NO_NODE, TAKE_MAY_DRAIN | TAKE_INTERLEAVED)


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_a_short_batch_is_the_last_one(kernel: str) -> None:
    """Section 3.3 steps 2 and 3: stop at the first short answer, then one by one."""
    space, machine = recording_space(kernel=kernel)
    machine.fail_next("take_bulk", after=1)
    area = space.vmalloc(206 * P)
    found = asked_for(machine, "take", "take_bulk")
    assert found == [("take_bulk", 100), ("take_bulk", 100), *[("take", 0)] * 56]
    assert area.nr_pages == 206
    area.free()


def test_a_short_batch_after_large_blocks_is_the_last_one() -> None:
    """Section 3.3: all three steps in one area."""
    space, machine = recording_space()
    machine.fail_next("take", times=3)
    machine.fail_next("take_bulk")
    area = space.vmalloc(15 * P)
    # Orders 3, 2, 1 are not to be had; half of the batch of 15 is; the rest come singly.
    blocks = [("take", 3), ("take", 2), ("take", 1)]
    assert asked_for(machine, "take", "take_bulk") == [*blocks, ("take_bulk", 15), *[("take", 0)] * 8]
    area.free()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_huge_area_asks_for_huge_blocks_only(kernel: str) -> None:
    """Section 3.3 step 3: one by one at the order of the mapping; above it only 6.19 tries; no batches."""
    space, machine = recording_space(kernel=kernel, nodes=(1 << 14,))
    machine.log.clear()
    area = space.vmalloc_huge(6 << 20)
    found = [order for operation, order in asked_for(machine, "take", "take_bulk") if operation == "take"]
    assert [order for order in found if order > 2] == ([10, 9] if kernel == "6.19" else [9, 9, 9])
    splits = [entry.arguments[1] for entry in machine.log if entry.operation == "split"]
    assert [order for order in splits if order > 2] == ([10, 9] if kernel == "6.19" else [9, 9, 9])
    assert area.nr_pages == 1536  # base pages, each for itself
    area.free()


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_list_of_frames_is_an_area_behind_its_own(kernel: str) -> None:
    """Section 3.3: more than 512 pages: the array is vmalloc'ed after the main area was placed; zeroed."""
    space, machine = recording_space(kernel=kernel)
    for nr_pages, has_array in ((512, False), (513, True)):
        machine.log.clear()
        area = space.vmalloc(nr_pages * P)
        arrays = [vm for vm in space.state.areas.values() if vm is not area.vm]
        assert bool(arrays) is has_array
        records = [what for operation, what in asked_for(machine, "slab") if operation == "slab"]
        if has_array:
            assert arrays[0].addr == area.address + (nr_pages + 1) * P
            assert arrays[0].requested_size == nr_pages * 8
            assert records == ["vm_struct", "vmap_area"] * 2 + ["page array"]
            assert space.vread(arrays[0].addr, 64) == bytes(64)
        else:
            assert records == ["vm_struct", "vmap_area", "page array"]
        area.free()
        assert not space.state.areas
        space.purge(full=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_frames_of_a_block_are_recorded_ascending_but_mapped_one_by_one(kernel: str) -> None:
    """Sections 3.3 and 3.4: the contiguity that was found is not made use of."""
    space, machine = recording_space(kernel=kernel)
    area = space.vmalloc(512 * P)
    if kernel == "6.19":
        assert list(area.pages) == list(range(area.pages[0], area.pages[0] + 512))
    assert area.page_shift == 12
    assert space.stats()["mappings_shift12"] == 512
    assert space.stats()["mappings_shift21"] == 0
    assert [entry.operation for entry in machine.log if entry.operation.startswith("map_")] == ["map_pages"]
