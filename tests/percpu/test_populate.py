"""Pages for all CPUs or none (section 7.2)."""

from __future__ import annotations

from typing import Any

import pytest

from percpu.rig import KIB, PAGE, SMALL, fill_without_reserve, make, picture
from vmalloc.errors import OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_KERNEL, GFP_THISNODE
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds


def with_gaps() -> tuple[SimulatedSpace, Any, list[Any]]:
    """A chunk of 16 pages: 0 to 5 used, 6, 7 and 12 empty, the others without frames; and what must stay alive."""
    space = make(percpu={**SMALL, "atom_size": 128 * KIB})
    held = fill_without_reserve(space)
    pages = [space.alloc_percpu(PAGE, PAGE) for _ in range(16)]
    chunk = pages[0].found.chunk
    assert [p.found.chunk for p in pages] == [chunk] * 16
    for i in (*range(4, 12), *range(13, 16)):
        pages[i].free()
    space.run_deferred()  # 4 to 7 are kept
    taken = [space.alloc_percpu(PAGE, PAGE, gfp=GFP_ATOMIC) for _ in range(2)]
    pages[12].free()
    space.run_deferred()
    assert [page for page in range(16) if chunk.populated[page]] == [0, 1, 2, 3, 4, 5, 6, 7, 12]
    assert chunk.empty_pages() == [6, 7, 12]
    return space, chunk, [*held, *pages, *taken]


def test_an_object_over_several_gaps_fills_them_all() -> None:
    space, chunk, held = with_gaps()
    p = space.alloc_percpu(32 * KIB, PAGE)
    assert (p.found.chunk, p.found.offset) == (chunk, 6 * PAGE)
    assert all(p.read(cpu) == bytes(32 * KIB) for cpu in range(4))
    space.validate()
    assert held


@pytest.mark.parametrize(("operation", "most"), [("take", 20), ("map_pages", 8)])
def test_a_failure_in_any_gap_takes_all_of_them_back(operation: str, most: int) -> None:
    """Two gaps, of four pages and of one, for four CPUs."""
    space, chunk, held = with_gaps()
    for after in range(most):
        before = picture(space)
        space.machine.fail_next(operation, after=after)
        with pytest.raises(OutOfFrames, match="no frame"):
            space.alloc_percpu(32 * KIB, PAGE)
        assert picture(space) == before
        space.validate()
    space.machine.fail_next(operation, after=most)
    p = space.alloc_percpu(32 * KIB, PAGE)
    assert p.found.chunk is chunk
    assert held


def test_this_node_only_means_it() -> None:
    """``__GFP_THISNODE``: each CPU's frames from its own node, or not at all."""
    space = make(memory=["32MiB", "32MiB"])
    held = fill_without_reserve(space)
    space.machine.frames.drain()
    blocker = space.alloc_pages(space.machine.frames.stats()[1].free, node=1, gfp=GFP_KERNEL | GFP_THISNODE)
    before = picture(space)
    with pytest.raises(OutOfFrames, match="no frame for CPU 2"):
        space.alloc_percpu(20 * KIB, gfp=GFP_KERNEL | GFP_THISNODE)
    assert picture(space) == before
    p = space.alloc_percpu(20 * KIB)  # without it, from wherever there are some
    assert {space.machine.node_of(pfn) for pfn in p.found.chunk.frames_of(0)} == {0}
    space.free_pages(blocker)
    space.validate()
    assert held
