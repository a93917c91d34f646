"""When there is no memory for shadow: the call fails, and everything is as before (section 9.3)."""

from __future__ import annotations

from typing import Any

import pytest

from calls.watch import KERNELS, picture
from kasan.rig import PAGE, UNIT, checked
from vmalloc.errors import OutOfFrames
from vmalloc.flags import GFP_ATOMIC
from vmalloc.space.simulated import SimulatedSpace

FAILING_CALLS = {
    "vmalloc": lambda space: space.vmalloc(5 * UNIT + 3),
    "vmalloc, a list of frames": lambda space: space.vmalloc(600 * PAGE),
    "vmalloc_huge": lambda space: space.vmalloc_huge(4 << 20),
    "vmalloc, not waiting": lambda space: space.vmalloc(5 * UNIT, gfp=GFP_ATOMIC),
    "vmap": lambda space: space.vmap(space.SOME_PAGES),
    "ioremap": lambda space: space.ioremap((1 << 46) - (1 << 30), 3 * UNIT),
    "get_vm_area": lambda space: space.get_vm_area(514 * UNIT),
    "per-CPU": lambda space: space.pcpu_get_vm_areas([0, UNIT + PAGE], [UNIT, 2 * UNIT + PAGE], PAGE),
    "vrealloc": lambda space: space.vrealloc(space.LEFT, 7 * UNIT),
}


class Prepared(SimulatedSpace):
    """With what the calls need."""

    LEFT: Any
    SOME_PAGES: Any


def prepared(kernel: str) -> Any:
    space = checked(kernel, memory="64MiB")
    space.__class__ = Prepared
    space.LEFT = space.vmalloc(6000)
    space.SOME_PAGES = space.alloc_pages(70)
    return space


def shadow_picture(space: SimulatedSpace) -> dict[str, Any]:
    """What a call that failed must leave; the shadow's page tables stay, as all do (section 8.6)."""
    kasan = space.kasan
    tracks = {start: (found.end, found.size) for start, found in kasan.tracks.live.items()}
    frames = {page: space.machine.translate(page << 12) for page in kasan.present}
    cells = {page: bytes(space.machine.read_frame(pfn, 0, PAGE)) for page, pfn in frames.items()}
    return {**picture(space), "shadow": cells, "tracks": tracks}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("call", FAILING_CALLS)
@pytest.mark.parametrize("operation", ["take", "take_bulk", "map_pages", "page_table"])
def test_without_memory_for_shadow_the_call_fails_and_nothing_has_changed(
    operation: str, call: str, kernel: str
) -> None:
    """Section 9.3: failures at each of the first requests, and now and then later."""
    if call == "vrealloc" and kernel == "6.1":
        return
    failed = 0
    for after in (0, 1, 2, 3, 4, 5, 7, 8, 33, 300, 512, 513):
        space = prepared(kernel)
        before = shadow_picture(space)
        # ``take_bulk`` that runs short is followed by single frames, so those must run short too
        space.machine.fail_next(operation, after, times=None)
        if operation == "take_bulk":
            space.machine.fail_next("take", 0, times=None)
        try:
            FAILING_CALLS[call](space)
        except OutOfFrames as error:
            space.machine.clear()
            if "KASAN shadow" in str(error) and call not in ("vmalloc, a list of frames", "vmalloc_huge"):
                failed += 1
                assert shadow_picture(space) == before
            else:  # it failed later, and went through the lazy stage
                space.run_deferred()
                space.purge(full=True)
                space.trim()
                assert shadow_picture(space) == before
            space.validate()
        else:
            space.machine.clear()
            space.validate()
            break
    asks_otherwise = operation == ("take" if kernel == "6.19" else "take_bulk")
    tried_again = call in ("vmalloc, a list of frames", "vmalloc_huge")
    assert failed > 0 or asks_otherwise or tried_again


def test_the_second_range_of_a_group_fails_and_the_first_is_undone() -> None:
    """Section 9.4: by the rule of 6.1 on every kernel, and a page that two ranges share is given back once."""
    for kernel in KERNELS:
        space = checked(kernel)
        before = shadow_picture(space)
        space.machine.fail_next("map_pages", 1)
        with pytest.raises(OutOfFrames, match="KASAN shadow"):
            space.pcpu_get_vm_areas([0, UNIT + PAGE, 2 * UNIT], [UNIT + PAGE, PAGE, 9 * PAGE], PAGE)
        assert shadow_picture(space) == before
        space.validate()
