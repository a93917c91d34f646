"""A space under other rules: each knob does what it says, everything else stays as it was, and all of it validates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calls.watch import KERNELS, PAGE, make
from vmalloc.errors import BadRequest, Fault
from vmalloc.flags import VM_SPARSE
from vmalloc.policy import Policy

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_policy_is_given_in_any_form_and_shown(kernel: str) -> None:
    for given_as in (Policy(fit="lowest"), {"fit": "lowest"}, ["fit=lowest"], "fit=lowest"):
        space = make(kernel, policy=given_as)
        assert space.policy == Policy(fit="lowest")
        assert space.policy.describe() == "fit=lowest"
    assert make(kernel).policy == Policy()
    with pytest.raises(BadRequest, match="no knob 'fat'"):
        make(kernel, policy={"fat": "lowest"})


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_guard_pages_areas_touch(kernel: str) -> None:
    """Section 1.11 step 5 turned off, for every kind of area that has one."""
    space = make(kernel, policy={"guard": False})
    pages = space.alloc_pages(2)
    areas = [space.vmalloc(2 * PAGE), space.vmap(pages), space.get_vm_area(PAGE), space.vmalloc(1)]
    assert [area.size for area in areas] == [2 * PAGE, 2 * PAGE, PAGE, PAGE]
    for left, right in pairwise(areas):
        assert left.address + left.size == right.address
    space.store(areas[0].address + 2 * PAGE - 1, b"ab")  # runs over into its neighbour, and nothing stops it
    assert space.load(areas[1].address, 1) == b"b"
    space.validate()
    for area in areas:
        area.free()
    space.purge(full=True)
    space.validate()
    guarded = make(kernel)
    area = guarded.vmalloc(2 * PAGE)
    end = area.end
    with pytest.raises(Fault, match="guard"):
        guarded.store(end - 1, b"ab")


@pytest.mark.parametrize("kernel", ["6.12", "6.19"])
def test_sparse_areas_work_without_guard_pages(kernel: str) -> None:
    """They refuse ``VM_NO_GUARD`` (section 2.4), which is what a caller asks for and not what a policy does."""
    space = make(kernel, policy={"guard": False})
    area = space.get_vm_area(4 * PAGE, VM_SPARSE)
    pages = space.alloc_pages(4)
    space.vm_area_map_pages(area, area.address, area.address + 4 * PAGE, pages)
    space.store(area.address + 3 * PAGE, b"last")
    assert space.load(area.address + 3 * PAGE, 4) == b"last"
    space.validate()


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_huge_mappings_there_are_none(kernel: str) -> None:
    """Section 3.2 turned off."""
    size = 4 << 20
    assert make(kernel, nodes=1).vmalloc_huge(size).page_shift == 21
    space = make(kernel, nodes=1, policy=["huge=off"])
    area = space.vmalloc_huge(size)
    assert area.page_shift == 12
    assert area.address == space.state.vmalloc_start
    space.validate()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threshold", [0, 4, "64KiB"])
def test_the_threshold_is_the_one_asked_for(kernel: str, threshold: int | str) -> None:
    """Section 4.3: strictly above it the drain work is due."""
    space = make(kernel, policy={"lazy_max_pages": threshold})
    limit = threshold if isinstance(threshold, int) else 16
    assert (space.state.lazy_max, space.state.space.lazy_max_pages) == (limit, limit)
    for _ in range(limit // 2):
        space.vmalloc(1).free()
    assert (space.stats()["lazy_pages"], space.state.drain_queued) == (limit, False)
    space.vmalloc(1).free()
    assert space.state.drain_queued
    space.run_deferred()
    assert space.stats()["lazy_pages"] == 0
    space.validate()


def test_the_number_of_nodes_is_the_one_asked_for() -> None:
    space = make("6.19", policy={"vmap_nodes": 3})
    assert space.state.allocator.nodes.nr_nodes == 3
    with space.on_cpu(3):
        area = space.vmalloc(1)
    assert space.state.space.busy()[0].flags == 1 << 8  # CPU 3 of three nodes is at home on node 0
    area.free()
    space.validate()


@settings(max_examples=20)
@given(
    script=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3), st.booleans()), min_size=1, max_size=40),
    policy=st.sampled_from(
        [{"pools": False}, {"decay": "all"}, {"decay": "none"}, {"fit": "lowest"}, {"guard": False}, {"vmap_nodes": 2},
         {"lazy_max_pages": 64, "fit": "lowest", "decay": "half", "huge": False}]
    ),
)  # fmt: skip
def test_under_any_policy_areas_keep_their_bytes_and_everything_validates(
    script: list[tuple[int, int, bool]], policy: dict[str, Any]
) -> None:
    space = make(policy=policy)
    live: list[tuple[Any, bytes]] = []
    for number, (pages, cpu, frees) in enumerate(script):
        with space.on_cpu(cpu):
            area = space.vmalloc(pages * PAGE)
            mark = number.to_bytes(8, "little")
            space.store(area.address, mark)
            space.store(area.address + pages * PAGE - 8, mark)
            live.append((area, mark))
            if frees:
                area, mark = live.pop(number % len(live))
                assert space.load(area.address, 8) == mark
                area.free()
    for area, mark in live:
        assert space.load(area.address, 8) == space.load(area.address + area.size - 8, 8) == mark
    space.validate()
