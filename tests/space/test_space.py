"""What only the space itself does: notifiers, house-keeping, closing, deferred work (sections 4.10, 10.2)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, picture, settled
from vmalloc.errors import BadContext, OutOfAddresses
from vmalloc.kernels import profile
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_notifiers_free_areas_through_the_space_when_addresses_run_out(kernel: str) -> None:
    """Section 4.10: asked at the second overflow; what they free is purged before the next attempt."""
    space = make(kernel)
    start = space.state.vmalloc_start + (1 << 40)
    window = (start, start + 4 * PAGE)
    held = [space.vmalloc_node_range(3 * PAGE, 1, *window)]
    asked: list[int] = []

    def notifier() -> int:
        asked.append(len(held))
        freed = len(held)
        for area in held:
            space.vfree(area)
        held.clear()
        return freed

    end = space.register_purge_notifier(notifier)
    area = space.vmalloc_node_range(3 * PAGE, 1, *window)
    assert area.address == start
    assert asked == [1]
    with pytest.raises(OutOfAddresses):
        space.vmalloc_node_range(3 * PAGE, 1, *window)
    assert asked == [1, 0]
    end()
    with pytest.raises(OutOfAddresses):
        space.vmalloc_node_range(3 * PAGE, 1, *window)
    assert asked == [1, 0]
    space.validate()


@every_kernel
def test_the_final_complaint_is_the_kernels(kernel: str) -> None:
    """Section 1.10 step 11 as a space prints it."""
    space = make(kernel)
    start = space.state.vmalloc_start
    with pytest.raises(OutOfAddresses):
        space.vmalloc_node_range(PAGE, 1, start, start + PAGE)
    expected = profile(kernel).overflow_message.format(size=2 * PAGE, start=start, end=start + PAGE)
    assert space.dmesg()[0] == expected


@every_kernel
def test_the_shrinker_empties_the_pools(kernel: str) -> None:
    """Section 4.10: full decay of every node, lazy areas untouched."""
    space = make(kernel)
    for area in [space.vmalloc(PAGE) for _ in range(6)]:
        area.free()
    space.purge()
    pooled = 6 if profile(kernel).has_nodes else 0
    assert space.stats()["pooled_areas"] == pooled
    space.vmalloc(3 * PAGE).free()
    assert space.shrink() == pooled
    assert space.stats()["pooled_areas"] == 0
    assert space.stats()["lazy_areas"] == 1


@every_kernel
def test_meminfo_counts_frames_of_vmalloc_alone(kernel: str) -> None:
    """Section 10.2: not vmap, not ioremap, not guard pages, not per-CPU areas."""
    space = make(kernel)
    kept = [space.vmalloc(3 * PAGE), space.vmap(space.alloc_pages(5)), space.ioremap(1 << 40, PAGE)]
    kept += space.pcpu_get_vm_areas([0], [8 * PAGE], PAGE)
    lines = dict(line.split(":") for line in space.meminfo().splitlines())
    assert {name: value.split() for name, value in lines.items()} == {
        "VmallocTotal": ["34359738367", "kB"],
        "VmallocUsed": ["12", "kB"],
        "VmallocChunk": ["0", "kB"],
        "Percpu": ["0", "kB"],
    }
    assert len(kept) == 4


@every_kernel
def test_closing_frees_everything(kernel: str) -> None:
    space = make(kernel)
    before = picture(space)["used"]
    kept = [space.vmalloc(700 * PAGE), space.vmalloc_huge(4 * MIB), space.kvmalloc(PAGE), space.vmalloc_user(1)]
    kept += [space.get_vm_area(PAGE), space.ioremap(1 << 40, PAGE), *space.pcpu_get_vm_areas([0], [PAGE], PAGE)]
    with space.in_context("hardirq"):
        kept[0].free()
        with pytest.raises(BadContext):
            space.close()
    with space:
        pass
    assert not any(area.alive for area in kept)
    numbers = space.state.machine.frames.stats()
    tables = space.machine.page_table.table_bytes // PAGE
    assert sum(node.used for node in numbers) - tables == before
    space.state.validate()


@every_kernel
def test_trim_gives_idle_memory_back(kernel: str) -> None:
    space = make(kernel)
    space.vmalloc(MIB).free()
    tables = space.stats()["page_table_bytes"]
    assert space.trim() > 0
    assert space.stats()["page_table_bytes"] < tables
    assert space.stats()["frames_cached"] == 0
    space.validate()


@every_kernel
def test_work_runs_before_the_next_call_in_task_context_only(kernel: str) -> None:
    space = make(kernel)
    done: list[int] = []
    space.machine.defer(lambda: done.append(space.machine.context), 2)
    with space.in_context("softirq"):
        space.free_pages(space.alloc_pages(1))
    assert space.find_vm_area(0) is None
    assert space.vmallocinfo() == ""
    assert done == []
    area = space.vmalloc(1)
    assert done == [0]
    assert area.alive


@every_kernel
def test_a_full_purge_leaves_one_free_range(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    for area in [space.vmalloc(n * PAGE) for n in range(1, 9)]:
        area.free()
    assert settled(space) == before
    assert space.stats()["free_blocks"] == 1
