"""What follows when a range becomes lazy, whoever had it (section 4.2)."""

from __future__ import annotations

import pytest

from calls.ram import BLOCK, MAPPED, Watched
from calls.watch import KERNELS
from vmalloc.kernels import lazy_max_pages

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("kernel", KERNELS)
def test_blocks_count_as_lazy_pages_and_queue_the_drain(kernel: str) -> None:
    """Sections 4.2, 4.3 and 5.5: eight blocks are the threshold of one CPU, the ninth is above it."""
    w = Watched(kernel, cpus=1)
    pieces = [[w.map(64) for _ in range(16)] for _ in range(9)]
    w.events()
    for nr_blocks, block in enumerate(pieces, start=1):
        for address in block:
            w.unmap(address, 64)
        lazy = w.events()
        expected = {"va_start": block[0], "nr_lazy": 1024 * nr_blocks, "nr_lazy_max": lazy_max_pages(1)}
        assert lazy == [("free_vmap_area_noflush", expected)]
        assert w.machine.has_deferred() == (nr_blocks == 9)
    w.space.run_deferred()
    assert w.flushes() == [(MAPPED, MAPPED + 9 * BLOCK)]
    assert w.space.stats()["lazy_pages"] == 0
