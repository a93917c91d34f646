"""Areas from before the allocator (sections 1.5, 2.7)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make
from vmalloc.calls.early import EarlyAreas
from vmalloc.errors import BadAddress, BadSize

pytestmark = pytest.mark.both_builds
START, END = 0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF


@pytest.mark.parametrize("kernel", KERNELS)
def test_early_areas_are_busy_from_the_beginning(kernel: str) -> None:
    """Section 1.5 step 3."""
    early = EarlyAreas(START, END)
    assert early.register(2 * PAGE, PAGE) == START
    early.add(START + 3 * PAGE, PAGE)
    space = make(kernel, early=early)
    assert str(next(iter(space.state.space.busy()))).startswith(f"{START:#018x}")
    assert space.vmalloc(PAGE).address == START + 4 * PAGE
    assert space.find_vm_area(START) is None
    with pytest.raises(BadAddress, match="without a vm_struct"):
        space.vfree(START)
    space.validate()


def test_the_first_place_that_fits_is_taken() -> None:
    """Section 2.7: first fit over the sorted list."""
    early = EarlyAreas(START, END)
    early.add(START + 4 * PAGE, PAGE)
    early.add(START + PAGE, PAGE)
    assert early.ranges == [(START + PAGE, START + 2 * PAGE), (START + 4 * PAGE, START + 5 * PAGE)]
    assert early.register(1, PAGE) == START
    assert early.register(2 * PAGE, PAGE) == START + 2 * PAGE
    assert early.register(PAGE, 1 << 20) == START + (1 << 20)
    assert early.register(PAGE, PAGE) == START + 5 * PAGE


def test_what_the_kernel_stops_at() -> None:
    """Section 2.7: BUG on overlap, on no room."""
    early = EarlyAreas(START, START + 4 * PAGE)
    early.add(START, 2 * PAGE)
    before = list(early.ranges)
    with pytest.raises(BadAddress, match="overlaps"):
        early.add(START + PAGE, PAGE)
    with pytest.raises(BadAddress, match="page aligned"):
        early.add(START + 5, PAGE)
    for size in (0, -PAGE, 5):
        with pytest.raises(BadSize, match="whole pages"):
            early.add(START + 3 * PAGE, size)
    with pytest.raises(BadAddress, match="do not fit"):
        early.register(3 * PAGE, PAGE)
    assert early.ranges == before
