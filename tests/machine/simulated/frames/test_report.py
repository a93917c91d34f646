"""Counts per node and zone, and their text."""

from __future__ import annotations

import pytest

from vmalloc.machine.simulated.frames.memory import PhysicalMemory

pytestmark = pytest.mark.both_builds


def test_buddyinfo_has_the_kernels_form() -> None:
    memory = PhysicalMemory([1 << 21, 5000], page_shift=12)
    assert memory.buddyinfo() == (
        "Node 0, zone    DMA32      0      0      0      0      0      0      0      0      0      0   1024 \n"
        "Node 0, zone   Normal      0      0      0      0      0      0      0      0      0      0   1024 \n"
        "Node 1, zone   Normal      0      0      0      1      0      0      0      1      1      1      4 \n"
    )


def test_counts_of_a_node_are_the_sums_of_its_zones() -> None:
    memory = PhysicalMemory([2048 + 512, 1024, 0], dma32_limit=1024 << 12, batch=4, high=8)
    memory.allocate(5)
    memory.allocate()
    memory.allocate(zone_limit=0)
    node, other, empty = memory.stats()
    assert (node.node, node.nr_frames, node.used, node.pcp, node.free) == (0, 2560, 34, 6, 2520)
    low, normal = node.zones["DMA32"], node.zones["Normal"]
    assert (low.nr_frames, low.used, low.pcp, low.free) == (1024, 1, 3, 1020)
    assert (normal.nr_frames, normal.used, normal.pcp, normal.free) == (1536, 33, 3, 1500)
    assert node.free_blocks == tuple(a + b for a, b in zip(low.free_blocks, normal.free_blocks, strict=True))
    assert sum(count << order for order, count in enumerate(node.free_blocks)) == node.free
    assert (other.used, list(other.zones)) == (0, ["Normal"])
    assert (empty.nr_frames, empty.free, empty.zones, empty.free_blocks) == (0, 0, {}, (0,) * 11)
