"""What the tests of calls share: spaces of every profile, and a whole picture of a space to compare before and after.

The picture leaves out what a failed call may change: messages, counters of what was tried, entries of TLBs, lists of
frames of CPUs (a frame that was taken and given back stays on one), and page tables, which are never freed (section
8.6).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vmalloc.space.simulated import SimulatedSpace, simulated

KERNELS = ("6.1", "6.12", "6.19")
PAGE = 4096
NAMES = ("areas", "pages", "contiguous_blocks", "busy_areas", "busy_bytes", "deferred_frees", "failed_areas")


def make(kernel: str = "6.19", **how: Any) -> SimulatedSpace:
    """A small x86-64 of two nodes and four CPUs."""
    how = {"cpus": 4, "nodes": 2, "memory": "64MiB"} | how
    return simulated(how.pop("arch", "x86_64"), kernel=kernel, **how)


def picture(space: SimulatedSpace) -> dict[str, Any]:
    """Everything that a call which fails must leave as it was: busy areas, their bytes, frames, addresses."""
    state = space.state
    numbers = space.stats()
    busy = []
    for start, vm in sorted(state.areas.items()):
        mapped = [state.machine.translate(at) for at in range(vm.addr, vm.addr + vm.size, state.page_size)]
        frames = None if vm.pages is None else list(vm.pages)
        busy.append((start, vm.size, vm.flags, vm.requested_size, vm.nr_pages, frames, mapped, vm.live, vm.page_order))
    return {
        "busy": busy,
        "ranges": [str(area) for area in [*state.space.busy(), *state.space.lazy(), *state.space.pooled()]],
        "vmallocinfo": space.vmallocinfo(),
        "used": numbers["frames_used"] - numbers["page_table_bytes"] // state.page_size,
        "mappings": {name: number for name, number in numbers.items() if name.startswith("mappings_")},
        **{name: numbers[name] for name in NAMES},
    }


@contextmanager
def unchanged(space: SimulatedSpace) -> Iterator[None]:
    """What is done inside leaves the space as it was."""
    before = picture(space)
    yield
    after = picture(space)
    assert after == before
    space.validate()


@contextmanager
def refused(space: SimulatedSpace, error: type[BaseException], match: str) -> Iterator[None]:
    """What is done inside raises exactly this error, whose message has these facts, and leaves the space as it was."""
    with unchanged(space), pytest.raises(error, match=match) as caught:
        yield
    assert type(caught.value) is error


def settled(space: SimulatedSpace) -> dict[str, Any]:
    """The picture after all clean-up: workers have run, nothing is lazy or pooled."""
    space.run_deferred()
    space.purge(full=True)
    return picture(space)
