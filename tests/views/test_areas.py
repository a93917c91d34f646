"""``areas_table``: a row for every range, and what it says is what the area says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from vmalloc.areas.states import VMAP_RAM
from vmalloc.flags import VM_ALLOC, VM_IOREMAP, VM_MAP
from vmalloc.space.simulated import simulated
from vmalloc.views.areas import FIELDS, areas_table

pytestmark = pytest.mark.both_builds

PAGE = 4096


def test_an_empty_space_has_an_empty_table_with_all_fields() -> None:
    table = areas_table(simulated().state)
    assert table.shape == (0,)
    assert table.dtype.names == (
        "start", "end", "size", "requested_size", "flags", "nr_pages", "node", "state", "caller",
    )  # fmt: skip
    assert table.dtype.names == tuple(name for name, _ in FIELDS)


def test_a_row_says_what_its_area_says() -> None:
    space = simulated(nodes=2, cpus=2, kernel="6.1", memory="1GiB")
    areas = [
        space.vmalloc_node(10_000, 1),
        space.vmalloc_user(1),
        space.vmap(space.alloc_pages(2, node=1), put_pages=True),
        space.ioremap(0xFE000000, 3 * PAGE),
        space.get_vm_area(5, VM_ALLOC, caller="a driver"),
    ]
    table = areas_table(space.state)
    by_start = {int(row["start"]): row for row in table}
    for area in areas:
        row = by_start[area.address]
        assert int(row["end"]) == area.end + PAGE
        assert int(row["size"]) == area.size + PAGE
        assert int(row["requested_size"]) == area.requested_size
        assert int(row["flags"]) == area.flags
        assert int(row["nr_pages"]) == area.nr_pages
        assert int(row["node"]) == (-1 if area.node is None else area.node)
        assert row["state"] == "busy"
        assert row["caller"] == area.caller
    assert len(table) == len(areas)
    assert [int(by_start[area.address]["node"]) for area in areas] == [1, 0, 1, -1, -1]
    assert [int(by_start[area.address]["flags"]) & 7 for area in areas[2:]] == [VM_MAP, VM_IOREMAP, VM_ALLOC]


def test_freed_ranges_are_lazy_then_pooled_and_keep_only_their_addresses() -> None:
    space = simulated(cpus=2)
    kept, freed = space.vmalloc(PAGE), space.vmalloc(3 * PAGE)
    start = freed.address
    freed.free()
    for state in ("lazy", "pooled"):
        table = areas_table(space.state)
        assert list(table["state"]) == ["busy", state]
        assert table[1].tolist() == (start, start + 4 * PAGE, 4 * PAGE, 0, 0, 0, -1, state, "")
        space.purge()
    space.purge(True)
    assert areas_table(space.state)["start"].tolist() == [kept.address]


def test_ranges_without_an_area_have_a_row_too() -> None:
    early = (0xFFFFC90000100000, 0xFFFFC90000102000)
    space = simulated(cpus=1, early=[early])
    block = space.state.space.alloc(0x400000, 0x400000, flags=VMAP_RAM)
    assert areas_table(space.state)[["start", "state", "requested_size", "node", "caller"]].tolist() == [
        (early[0], "busy", 0, -1, ""),
        (block, "busy", 0, -1, ""),
    ]


def test_one_can_compute_with_it() -> None:
    space = simulated(cpus=4)
    areas = [space.vmalloc(n * PAGE) for n in range(1, 30)]
    table = areas_table(space.state)
    assert int(table["nr_pages"].sum()) == space.vmalloc_nr_pages() == sum(range(1, 30))
    assert int((table["end"] - table["start"]).sum()) == space.state.space.stats()["busy_bytes"]
    assert np.unique(table["caller"]).size == 1
    assert all(area.alive for area in areas)


def test_numpy_is_imported_only_for_a_table(run_pure: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        "import sys; from vmalloc.views.areas import areas_table; from vmalloc.space.simulated import simulated\n"
        "space = simulated(); print('numpy' in sys.modules); space.areas(); print('numpy' in sys.modules)"
    )
    assert run_pure("-c", code).stdout.split() == ["False", "True"]
