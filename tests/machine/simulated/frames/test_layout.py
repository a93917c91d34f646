"""The shape of a machine: where nodes and zones begin, and which zone is asked after which."""

from __future__ import annotations

from typing import Any

import pytest

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.frames.layout import Layout, Zone, layout_of
from vmalloc.machine.simulated.frames.states import ZONE_DMA32, ZONE_NORMAL


def asked(layout: Layout, node: int, zone_limit: int = ZONE_NORMAL) -> list[tuple[int, int]]:
    """The zones a request asks, in order, as ``(node, kind)``."""
    return [(layout.zones[z].node, layout.zones[z].kind) for z in layout.asked[node * 2 + zone_limit]]


def test_sizes_alone_put_nodes_one_behind_the_other() -> None:
    layout = layout_of([3000, 1, 2048], 12, dma32_limit=0)
    assert [zone[2:] for zone in layout.zones if zone.nr_frames] == [(0, 3000), (3072, 3073), (4096, 6144)]
    assert (layout.nr_nodes, layout.end_pfn) == (3, 6144)


def test_nodes_stand_where_they_are_told() -> None:
    layout = layout_of([(0x100000, 5000), (0x400, 100)], 12)
    assert layout.zones == (
        Zone(0, ZONE_DMA32, 0x100000, 0x100000),
        Zone(0, ZONE_NORMAL, 0x100000, 0x100000 + 5000),
        Zone(1, ZONE_DMA32, 0x400, 0x400 + 100),
        Zone(1, ZONE_NORMAL, 0x400 + 100, 0x400 + 100),
    )


@pytest.mark.parametrize(
    ("page_shift", "limit", "cut"),
    [(12, 4 << 30, 1 << 20), (16, 4 << 30, 1 << 16), (12, 0, 0), (12, (4 << 20) - 1, 0), (12, 9 << 20, 2048)],
)
def test_a_node_is_cut_at_the_limit_rounded_down_to_a_block(page_shift: int, limit: int, cut: int) -> None:
    layout = layout_of([1 << 21], page_shift, dma32_limit=limit)
    assert [zone.nr_frames for zone in layout.zones] == [cut, (1 << 21) - cut]


def test_nodes_are_asked_by_distance_then_number_normal_before_dma32() -> None:
    far = [[10, 30, 20, 20], [30, 10, 40, 20], [20, 40, 10, 11], [20, 20, 11, 10]]
    layout = layout_of([2048, 1024, 1024, 1024], 12, far, dma32_limit=1024 << 12)
    assert asked(layout, 0) == [(0, 1), (0, 0), (2, 1), (3, 1), (1, 1)]
    assert asked(layout, 1) == [(1, 1), (3, 1), (0, 1), (0, 0), (2, 1)]
    assert asked(layout, 3, ZONE_DMA32) == [(0, 0)]
    assert layout.near == (1, 2, 0, 1, 0, 1, 0, 1)


def test_without_distances_others_are_equally_far() -> None:
    layout = layout_of([1024] * 3, 12, dma32_limit=0)
    assert layout.distances == ((10, 20, 20), (20, 10, 20), (20, 20, 10))
    assert asked(layout, 2) == [(2, 1), (0, 1), (1, 1)]


def test_a_node_may_have_no_frames() -> None:
    layout = layout_of([0, 1024], 12, dma32_limit=0)
    assert asked(layout, 0) == [(1, 1)]
    assert layout.near[1] == 0


@pytest.mark.parametrize(
    ("nodes", "more", "complaint"),
    [
        ([], {}, "without frames"),
        ([0, 0], {}, "without frames"),
        ([(512, 100)], {}, "node 0 begins at frame 0x200, not at a multiple of 0x400"),
        ([1] * 1025, {}, "1025 nodes: at most 1024"),
        ([-5], {}, "of node 0: frame numbers"),
        ([(-1024, 5)], {}, "of node 0: frame numbers"),
        ([(0, 1 << 32)], {}, "frame numbers have 32 bits"),
        ([(0, 1025), (1024, 10)], {}, "node 1 begins at frame 0x400, below 0x401 where node 0 ends"),
        ([(4096, 10), (0, 5000)], {}, "node 0 begins at frame 0x1000, below 0x1388 where node 1 ends"),
        ([10, 10], {"distances": [[10, 20]]}, "a table of 2 x 2"),
        ([10, 10], {"distances": [[10, 20], [20]]}, "a table of 2 x 2"),
        ([10, 10], {"distances": [[10, 10], [20, 10]]}, "another node is as near to node 0 as itself"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(nodes: Any, more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        layout_of(nodes, 12, **more)


def test_the_last_frame_number_is_nobodys() -> None:
    assert layout_of([(0, (1 << 32) - 1)], 12).end_pfn == (1 << 32) - 1
