"""Observers that misbehave: the calls that tell them go on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vmalloc.errors import BadRequest
from vmalloc.space.simulated import SimulatedSpace, simulated

pytestmark = pytest.mark.both_builds
PAGE = 4096


def raising(event: str, **_fields: object) -> None:
    raise RuntimeError(event)


@pytest.mark.parametrize("kasan", [False, True])
def test_an_observer_that_raises_harms_no_call(kasan: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its errors are printed; areas, addresses and frames are as without it."""
    space, quiet = simulated(observer=raising, kasan=kasan), simulated(kasan=kasan)

    def program(on: SimulatedSpace) -> dict[str, Any]:
        area, other = on.vmalloc(PAGE), on.vmalloc_huge(4 << 20)
        on.vfree(area)
        address = on.vm_map_ram(on.alloc_pages(3))
        counter = on.alloc_percpu(64)
        on.purge(full=True)
        on.validate()
        found = on.stats()
        on.vm_unmap_ram(address, 3)
        del counter, other
        on.close()
        assert not on.state.areas
        assert on.state.space.busy() == []
        return found

    assert program(space) == program(quiet)
    printed = capsys.readouterr().err
    for event in ("alloc_vmap_area", "free_vmap_area_noflush", "purge_vmap_area_lazy", "percpu_alloc_percpu"):
        assert f"the observer of {event} raised:" in printed
    assert isinstance(space.state.observer.last_error, RuntimeError)
    assert space.state.observer.errors == printed.count("the observer of ")


CALLS: dict[str, Callable[[SimulatedSpace], object]] = {
    "vmalloc": lambda space: space.vmalloc(PAGE),
    "stats": lambda space: space.stats(),
    "load": lambda space: space.load(space.state.vmalloc_start, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_observer_that_calls_the_space_back_is_refused(call: str) -> None:
    met: list[Exception] = []
    spaces: list[SimulatedSpace] = []

    def observer(event: str, **_fields: object) -> None:
        try:
            CALLS[call](spaces[0])
        except BadRequest as error:
            met.append(error)

    spaces.append(simulated(observer=observer))
    spaces[0].vmalloc(PAGE)
    assert "an observer must not call the space that tells it" in str(met[0])
    CALLS["stats"](spaces[0])
    spaces[0].validate()
