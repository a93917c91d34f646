"""The meter: costs go to the case that was running, and nothing is lost or counted twice."""

from __future__ import annotations

from vmalloc.workloads.meter import Meter
from workloads.rig import PAGE, case, make


def test_costs_go_to_who_was_running() -> None:
    space = make()
    space.vfree(space.vmalloc(PAGE))
    meter = Meter(space.state)  # what was before is nobody's
    one, two = case("fix_size_alloc"), case("vrealloc")
    meter.switch(one)
    space.purge()
    meter.switch(two)
    area = space.vmalloc(PAGE)
    area.read(0, 1)
    meter.switch(one)
    meter.switch(one)
    for _ in range(2):
        space.purge()
    meter.switch(None)
    assert meter.costs(one)["purges"] == 3
    assert meter.costs(two)["purges"] == 0
    assert (meter.costs(two)["page_walks"], meter.costs(two)["pool_hits"]) == (1, 1)
    assert (meter.costs(one)["ipis"], meter.costs(one)["tlb_range_flushes"]) == (1, 1)
    assert set(meter.costs(None).values()) == {0}
    assert meter.costs(case("vm_map_ram")) == dict.fromkeys(meter.costs(one), 0)
