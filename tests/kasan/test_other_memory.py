"""KASAN of memory that is no area of ``vmalloc``: pieces of ``vm_map_ram``, per-CPU chunks, what RCU frees."""

from __future__ import annotations

import pytest

from vmalloc.errors import BadFree, Fault
from vmalloc.space.simulated import SimulatedSpace, simulated

pytestmark = pytest.mark.both_builds
PAGE = 4096
every_kernel = pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])


def make(kernel: str = "6.19") -> SimulatedSpace:
    return simulated(kernel=kernel, cpus=2, memory="64MiB", kasan=True)


@every_kernel
@pytest.mark.parametrize("count", [1, 3, 64, 65])
def test_a_piece_of_vm_map_ram_is_its_owners_up_to_the_last_byte(kernel: str, count: int) -> None:
    """Sections 5.4 and 9.3: ``count * P`` bytes, of a block as of a range of its own."""
    space = make(kernel)
    neighbour = space.vm_map_ram(space.alloc_pages(4))
    address = space.vm_map_ram(space.alloc_pages(count))
    end = address + count * PAGE
    space.store(end - 8, b"last one")
    space.validate()
    with pytest.raises(Fault) as caught:
        space.load(end - 4, 8)
    assert (caught.value.kind, caught.value.address) == ("kasan", end)
    assert caught.value.report.cause == "out-of-bounds"
    assert "right behind the mapping by vm_map_ram" in str(caught.value)
    assert space.load(neighbour, 1)


@every_kernel
@pytest.mark.parametrize("settled", [False, True], ids=["dirty", "flushed"])
def test_a_piece_that_was_unmapped_on_another_cpu_is_reported(kernel: str, settled: bool) -> None:
    """Section 5.5: poisoned before it is unmapped; both stacks are known."""
    space = make(kernel)
    address = space.vm_map_ram(space.alloc_pages(2))
    space.load(address, 1)
    with space.on_cpu(1):
        space.vm_unmap_ram(address, 2)
    if settled:
        space.vm_unmap_aliases()
    with pytest.raises(Fault) as caught:
        space.store(address + 5000, b"late")
    report = caught.value.report
    assert (caught.value.kind, caught.value.address, report.cause) == ("kasan", address + 5000, "use-after-free")
    assert report.allocation.freed.cpu == 1
    assert next(iter(report.allocation.freed.stack))[0].startswith("test_a_piece")
    space.validate()


def test_the_shadow_of_a_block_goes_with_the_block() -> None:
    space = make()
    address = space.vm_map_ram(space.alloc_pages(1))
    assert space.kasan.stats()["shadow_pages"] == 128  # 4 MiB / 32 KiB
    space.vm_unmap_ram(address, 1)
    space.purge(full=True)
    assert space.kasan.stats()["shadow_pages"] == 0
    space.validate()


def test_a_block_whose_shadow_finds_no_memory_is_not_made() -> None:
    space = make()
    pages = space.alloc_pages(1)
    before = space.stats()
    space.machine.fail_next("take", times=None)
    space.machine.fail_next("take_bulk", times=None)
    with pytest.raises(MemoryError, match="KASAN shadow"):
        space.vm_map_ram(pages)
    space.machine.clear()
    after = space.stats()
    changed = {name for name in before if before[name] != after[name]}
    caches = ("tlb_", "page_", "ipis", "frames_free", "frames_cached")
    assert not [name for name in changed if not name.startswith(caches)]
    space.validate()


def test_per_cpu_objects_live_in_chunks_that_are_allowed_as_a_whole() -> None:
    """Section 9.3: the areas of a chunk are allowed whole; what an object is, only their allocator knows."""
    space = simulated(cpus=2, memory="64MiB", kasan=True, percpu={"first_chunk": "page"})
    objects = [space.alloc_percpu(64, 8) for _ in range(3000)]
    for cpu in (0, 1):
        objects[-1].write(cpu, 0, b"x" * 64)
    space.validate()
    del objects
    space.run_deferred()
    space.trim()
    space.validate()
    assert space.kasan.stats()["reports"] == 0


def test_what_waits_for_readers_may_be_read_and_not_be_freed_again() -> None:
    space = make()
    area = space.vmalloc(100)
    space.kvfree_rcu(area)
    assert space.load(area.address, 1)
    for free in (space.kvfree_rcu, space.vfree):
        with pytest.raises(BadFree) as caught:
            free(area.address)
        assert caught.value.report.cause == "double-free"
    space.rcu_barrier()
    with pytest.raises(Fault) as late:
        space.load(area.address, 1)
    assert late.value.report.cause == "use-after-free"
    function, _file, _line = next(iter(late.value.report.allocation.freed.stack))
    assert function == "test_what_waits_for_readers_may_be_read_and_not_be_freed_again"
    space.validate()
