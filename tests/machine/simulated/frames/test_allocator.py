"""The calls that simulate, in numbers: nodes and zones in order, batches, codes of frees, splits."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.frames.allocator import FrameAllocator
from vmalloc.machine.simulated.frames.states import (
    DOUBLE_FREE,
    FOREIGN,
    INSIDE_BLOCK,
    WRONG_ORDER,
    ZONE_DMA32,
    ZONE_NORMAL,
)
from vmalloc.machine.simulated.frames.validate import validate_frames

pytestmark = pytest.mark.both_builds

PAGE_SHIFT = 12


def allocator(*nodes: Any, batch: int = 4, high: int = 8, dma32: int = 0, **more: Any) -> FrameAllocator:
    """A small machine; ``dma32`` in frames."""
    return FrameAllocator(nodes, PAGE_SHIFT, 2, dma32_limit=dma32 << PAGE_SHIFT, batch=batch, high=high, **more)


def batch_of(frames: FrameAllocator, count: int, node: int = 0, zone_limit: int = ZONE_NORMAL) -> list[int]:
    out = array("Q", [1 << 63] * count)
    taken = frames.try_alloc_bulk(node, out, zone_limit, 0)
    assert set(out[taken:]) <= {1 << 63}
    validate_frames(frames)
    return list(out[:taken])


# -- where frames come from ------------------------------------------------------------------------------------------


def test_the_nearest_other_node_helps_out() -> None:
    frames = allocator(1024, 1024, 1024, distances=[[10, 30, 20], [30, 10, 20], [20, 20, 10]])
    assert [frames.try_alloc(10, 0, ZONE_NORMAL, 0) for _ in range(4)] == [0, 2048, 1024, -1]


@pytest.mark.parametrize("order", [0, 10])
def test_a_strict_request_stays_on_its_node(order: int) -> None:
    frames = allocator(1024, 1024)
    taken = [frames.try_alloc_strict(order, 1, ZONE_NORMAL, 0) for _ in range(1024 >> order)]
    assert sorted(taken) == list(range(1024, 2048, 1 << order))
    assert frames.try_alloc_strict(order, 1, ZONE_NORMAL, 0) == -1
    assert frames.try_alloc(order, 1, ZONE_NORMAL, 0) == 0


def test_a_node_without_frames_is_served_by_others() -> None:
    frames = allocator(0, 1024)
    assert frames.try_alloc(3, 0, ZONE_NORMAL, 0) == 0
    assert frames.try_alloc_strict(3, 0, ZONE_NORMAL, 0) == -1
    assert batch_of(frames, 5) == [8]


@pytest.mark.parametrize("order", [0, 3])
def test_a_limited_request_gets_low_frames_only(order: int) -> None:
    frames = allocator(2048, 1024, dma32=1024)
    assert frames.try_alloc(order, 1, ZONE_DMA32, 0) == 0
    assert frames.try_alloc_strict(order, 1, ZONE_DMA32, 0) == -1
    taken = [frames.try_alloc(order, 0, ZONE_DMA32, 0) for _ in range((1024 >> order) - 1)]
    assert 0 < max(taken) < 1024
    assert frames.try_alloc(order, 0, ZONE_DMA32, 0) == -1
    assert frames.try_alloc(order, 0, ZONE_NORMAL, 0) == 1024


def test_low_frames_are_kept_for_last_on_a_node_but_come_before_other_nodes() -> None:
    frames = allocator(2048, 1024, dma32=1024)
    assert [frames.try_alloc(10, 0, ZONE_NORMAL, 0) for _ in range(3)] == [1024, 0, 2048]


@pytest.mark.parametrize("order", range(12))
def test_exhaustion_changes_nothing(order: int) -> None:
    frames = allocator(1500, 700, batch=3, high=5)
    assert frames.try_alloc(0, 0, ZONE_NORMAL, 1) >= 0  # so that CPU 1 keeps some
    while frames.try_alloc(order, 0, ZONE_NORMAL, 0) >= 0:
        pass
    before = picture(frames)
    for call in (frames.try_alloc, frames.try_alloc_strict):
        assert [call(order, node, ZONE_NORMAL, 0) for node in (0, 1)] == [-1, -1]
    assert picture(frames) == before
    validate_frames(frames)


def picture(frames: FrameAllocator) -> list[Any]:
    """Everything that is stored."""
    zones = range(4)
    return [
        [frames.table.rows(k) for k in frames.table.sections()],
        [frames.buddy.describe(z) for z in zones],
        [frames.lists.describe(z, cpu) for z in zones for cpu in (0, 1)],
    ]


def test_frames_on_another_cpus_list_are_reached_by_draining() -> None:
    frames = allocator(4)
    assert frames.try_alloc(0, 0, ZONE_NORMAL, 1) == 0
    assert frames.try_alloc(0, 0, ZONE_NORMAL, 0) == -1
    assert frames.try_alloc_draining(0, 0, ZONE_NORMAL, 0) == 1
    assert frames.lists.describe(1, 1)[2] == 0
    assert frames.try_alloc_draining(2, 0, ZONE_NORMAL, 0) == -1
    assert frames.try_alloc(1, 0, ZONE_NORMAL, 0) == 2
    validate_frames(frames)


# -- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_comes_from_the_list_first() -> None:
    frames = allocator(1024)
    frames.try_free(frames.try_alloc(0, 0, ZONE_NORMAL, 0), 0, 0)
    assert batch_of(frames, 6) == [0, 1, 2, 3, 4, 5]
    assert frames.lists.describe(1, 0) == (6, 7, 2)


def test_a_batch_comes_whole_from_one_zone_of_its_node() -> None:
    frames = allocator(1024 + 100, 1024, dma32=1024)
    assert set(batch_of(frames, 101)) <= set(range(1024))
    assert len(batch_of(frames, 90)) == 90


def test_the_last_batch_may_take_everything() -> None:
    frames = allocator(100)
    frames.try_alloc(0, 0, ZONE_NORMAL, 0)
    assert len(batch_of(frames, 99)) == 99
    assert batch_of(frames, 1) == []


def test_a_batch_that_no_zone_of_the_node_has_degrades_to_one_frame() -> None:
    frames = allocator(50, 1024)
    assert len(batch_of(frames, 51)) == 1
    assert len(batch_of(frames, 49)) == 49
    assert batch_of(frames, 100) == [1024]
    while frames.try_alloc(0, 0, ZONE_NORMAL, 0) >= 0:
        pass
    assert batch_of(frames, 100) == []
    assert batch_of(frames, 0) == []


def test_frames_on_another_cpus_list_do_not_count_for_a_batch() -> None:
    frames = allocator(8, batch=4)
    frames.try_alloc(0, 0, ZONE_NORMAL, 1)
    assert len(batch_of(frames, 5)) == 1
    assert len(batch_of(frames, 3)) == 3
    assert batch_of(frames, 2) == []


def test_a_limited_batch_gets_low_frames_only() -> None:
    frames = allocator(2048, 1024, dma32=1024)
    assert max(batch_of(frames, 500, 0, ZONE_DMA32)) < 1024
    assert len(batch_of(frames, 100, 1, ZONE_DMA32)) == 1


def test_freeing_a_batch_stops_at_the_first_bad_frame() -> None:
    frames = allocator(1024)
    found = array("Q", batch_of(frames, 6))
    found[3] = found[1]
    assert frames.try_free_bulk(found, 0) == 3
    assert frames.why_not(found[3], 0) == DOUBLE_FREE
    assert frames.why_not(found[4], 0) == 0
    assert frames.try_free_bulk(found[4:], 0) == 2
    assert frames.try_free_bulk(array("Q"), 0) == 0
    validate_frames(frames)


# -- frees -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pfn", "order", "code"),
    [
        (0, 4, 0),
        (0, 3, WRONG_ORDER),
        (0, 0, WRONG_ORDER),
        (0, 11, WRONG_ORDER),
        (1, 0, INSIDE_BLOCK),
        (8, 3, INSIDE_BLOCK),
        (15, 4, INSIDE_BLOCK),
        (16, 0, 0),
        (16, 1, WRONG_ORDER),
        (17, 0, DOUBLE_FREE),  # on the CPU's list
        (20, 2, DOUBLE_FREE),  # first of a free block
        (700, 0, DOUBLE_FREE),  # inside a free block
        (1024, 0, DOUBLE_FREE),  # never handed out
        (2048, 0, DOUBLE_FREE),  # never handed out, in a ragged section
        (2099, 0, DOUBLE_FREE),
        (2100, 0, FOREIGN),
        (3071, 0, FOREIGN),
        (3072, 0, FOREIGN),
        (1 << 40, 0, FOREIGN),
        ((1 << 64) - 1, 0, FOREIGN),
    ],
)
def test_a_free_says_what_is_wrong_and_changes_nothing(pfn: int, order: int, code: int) -> None:
    frames = allocator(2048, 52)
    assert frames.try_alloc(4, 0, ZONE_NORMAL, 0) == 0
    assert frames.try_alloc(0, 0, ZONE_NORMAL, 0) == 16  # 17, 18 and 19 are on the list now
    before = picture(frames)
    assert frames.why_not(pfn, order) == code
    assert frames.try_free(pfn, order, 0) == code
    if code != 0:
        assert frames.try_split(pfn, order) == code
        assert picture(frames) == before
    validate_frames(frames)


def test_a_freed_block_is_not_freed_again_whatever_became_of_it() -> None:
    frames = allocator(1024, batch=0, high=0)
    low, high = frames.try_alloc(3, 0, ZONE_NORMAL, 0), frames.try_alloc(3, 0, ZONE_NORMAL, 0)
    assert frames.try_free(high, 3, 0) == 0
    assert frames.try_free(high, 3, 0) == DOUBLE_FREE
    assert frames.try_free(low, 3, 0) == 0
    assert [frames.try_free(pfn, 3, 0) for pfn in (low, high)] == [DOUBLE_FREE, DOUBLE_FREE]
    assert frames.try_alloc(4, 0, ZONE_NORMAL, 0) == low
    assert frames.try_free(low, 3, 0) == WRONG_ORDER
    assert frames.try_free(high, 3, 0) == INSIDE_BLOCK
    validate_frames(frames)


# -- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(11))
def test_a_split_block_is_freed_frame_by_frame(order: int) -> None:
    frames = allocator(2048)
    pfn = frames.try_alloc(order, 0, ZONE_NORMAL, 0)
    assert frames.try_split(pfn, order) == 0
    validate_frames(frames)
    if order:
        assert frames.try_free(pfn, order, 0) == WRONG_ORDER
    for frame in range(pfn, pfn + (1 << order)):
        assert frames.try_free(frame, 0, 0) == 0
    frames.try_drain_all()
    validate_frames(frames)
    assert frames.buddy.free_blocks(1) == [0] * 10 + [2]


def test_the_frames_of_a_split_block_have_its_owner() -> None:
    frames = allocator(1024)
    pfn = frames.try_alloc(2, 0, ZONE_NORMAL, 0)
    frames.tag(pfn, 7)
    frames.try_split(pfn, 2)
    assert [row[4] for row in frames.table.rows(0)[: pfn + 5]] == [7, 7, 7, 7, 0]


def test_a_new_allocation_has_no_owner() -> None:
    frames = allocator(1024)
    pfn = frames.try_alloc(2, 0, ZONE_NORMAL, 0)
    frames.tag(pfn, 7)
    frames.try_free(pfn, 2, 0)
    assert frames.try_alloc(2, 0, ZONE_NORMAL, 0) == pfn
    assert frames.table.rows(0)[pfn][4] == 0


# -- records ---------------------------------------------------------------------------------------------------------


def test_a_terabyte_has_no_records_until_it_is_used() -> None:
    frames = allocator(1 << 28)
    assert frames.table.made == 0
    frames.try_alloc(10, 0, ZONE_NORMAL, 0)
    frames.try_alloc(0, 0, ZONE_NORMAL, 0)
    assert frames.table.sections() == [0, 1]


@pytest.mark.parametrize("settings", [{"batch": 5, "high": 4}, {"batch": -1}, {"high": 1 << 32}])
def test_lists_that_cannot_be_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BadRequest, match="CPUs with lists of"):
        allocator(1024, **settings)


def test_a_machine_without_cpus_is_refused() -> None:
    for cpus in (0, 1 << 17):
        with pytest.raises(BadRequest, match=f"{cpus} CPUs"):
            FrameAllocator([1024], PAGE_SHIFT, cpus)
