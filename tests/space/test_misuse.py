"""Every misuse: the right class, a message with the facts, and unchanged state.

The state is compared whole (``calls.watch.picture``): busy areas with their flags, frames and mappings, all ranges,
``vmallocinfo``, frames in use, counters; then everything is validated.
"""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.errors import (
    BadAddress,
    BadContext,
    BadFrame,
    BadRequest,
    BadSize,
    ExceedsMemory,
    OutOfAddresses,
    OutOfFrames,
)
from vmalloc.flags import GFP_ATOMIC
from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
ALLOCATORS = (
    "vmalloc",
    "vzalloc",
    "vmalloc_huge",
    "vmalloc_user",
    "vmalloc_32",
    "vmalloc_32_user",
    "kvmalloc",
    "get_vm_area",
)


@pytest.fixture(params=KERNELS)
def space(request: pytest.FixtureRequest) -> SimulatedSpace:
    """A space of each profile with something in it."""
    found = make(request.param)
    found.kept = [found.vmalloc(3 * PAGE), found.vmalloc_huge(2 * MIB), found.vmap(found.alloc_pages(2))]  # type: ignore[attr-defined]
    found.vmalloc(PAGE).free()
    return found


@pytest.mark.parametrize("call", ALLOCATORS)
def test_sizes_that_are_none(space: SimulatedSpace, call: str) -> None:
    for size in (0, -1, -(1 << 70)):
        with refused(space, BadSize, f"{size} bytes"):
            getattr(space, call)(size)
    for size in (1.5, "4096", None, [1]):
        with refused(space, TypeError, "."):
            getattr(space, call)(size)


@pytest.mark.parametrize("call", [call for call in ALLOCATORS if call != "get_vm_area"])
def test_sizes_beyond_all_memory(space: SimulatedSpace, call: str) -> None:
    for size in (64 * MIB + PAGE, 1 << 47, 1 << 64, 1 << 100):
        with refused(space, ExceedsMemory, rf"{size} bytes \(.*\) exceed the 16384 pages \(64 MiB\)"):
            getattr(space, call)(size)


def test_nodes_and_cpus_and_contexts_that_are_not_there(space: SimulatedSpace) -> None:
    for node in (2, -2, 1 << 70):
        for call in (space.vmalloc_node, space.vzalloc_node, space.vmalloc_huge):
            with refused(space, BadRequest, f"node {node} of a machine whose nodes are 0 to 1"):
                call(PAGE, node)
        with refused(space, BadRequest, f"node {node}"):
            space.kvmalloc(PAGE, node=node)
    for cpu in (4, -1):
        with refused(space, BadRequest, f"CPU {cpu} of a machine whose CPUs are 0 to 3"), space.on_cpu(cpu):
            pass
        with refused(space, BadRequest, f"CPU {cpu}"):
            space.access([], cpu=cpu)
    with refused(space, BadRequest, "context 'irq'"), space.in_context("irq"):
        pass
    with space.in_context("hardirq"), refused(space, BadRequest, "task cannot interrupt hardirq"):
        space.in_context("task").__enter__()
    for kind, nodes in (("interleave", [7]), ("other", [0]), ("bind", [])):
        with refused(space, BadRequest, "."), space.mempolicy(kind, nodes):
            pass


def test_machines_that_cannot_be() -> None:
    with pytest.raises(BadRequest, match="architecture 'pdp11': one of"):
        simulated("pdp11")
    for kernel in ("5.15", "new"):
        with pytest.raises(ValueError, match=r"kernel"):
            simulated(kernel=kernel)
    for how in ({"cpus": 0}, {"cpus": 5000}, {"nodes": 0}, {"memory": 0}, {"memory": "4KiB", "nodes": 2}):
        with pytest.raises(BadRequest, match=r"."):
            simulated(**how)  # type: ignore[arg-type]


def test_alignments_windows_and_protections(space: SimulatedSpace) -> None:
    low, high = space.state.vmalloc_start, space.state.vmalloc_end
    for align in (0, 3, -1, -PAGE, 1 << 64, 1 << 70):
        with refused(space, BadSize, f"alignment {align:#x} is no power of two"):
            space.vmalloc_node(PAGE, 0, align=align)
        with refused(space, BadSize, f"alignment {align:#x}"):
            space.vmalloc_node_range(PAGE, align, low, high)
    for start, end in ((low + 8, high), (high - 4095, low), (low, low), (-PAGE, high), (low, 1 << 70), (0, high)):
        with refused(space, BadAddress, f"no window ends at {end:#x}"):
            space.vmalloc_node_range(PAGE, 1, start, end)
    for prot in ("x", "", None, 3, ["r"]):
        with refused(space, BadRequest, "protection"):
            space.vmalloc_node_range(PAGE, 1, low, high, prot=prot)
        with refused(space, BadRequest, "protection"):
            space.vmap([1], prot=prot)
    for value in (-1, 1 << 32):
        with refused(space, BadRequest, "32 bits"):
            space.vmalloc_node_range(PAGE, 1, low, high, vm_flags=value)
        with refused(space, BadRequest, "32 bits"):
            space.vmalloc(PAGE, gfp=value)
        with refused(space, BadRequest, "32 bits"):
            space.vmap([1], flags=value)


@pytest.mark.parametrize("call", ["vfree", "vunmap", "vfree_atomic", "free_vm_area"])
def test_foreign_addresses(space: SimulatedSpace, call: str) -> None:
    [kept, huge, _] = space.kept  # type: ignore[attr-defined]
    wrong = [0, PAGE, kept.address + (1 << 40), 1 << 64, 1 << 70, -PAGE, 0xFFFF888000000000]
    if call != "free_vm_area":
        wrong += [kept.address + 1, huge.address + MIB + 8]
    for address in wrong:
        with refused(space, BadAddress, f"{address:#x}".removeprefix("-").removeprefix("0x")):
            getattr(space, call)(address)
    for nothing in (1.5, "0x1000", [kept]):
        with refused(space, TypeError, "."):
            getattr(space, call)(nothing)


def test_freed_twice_by_address_by_handle_and_later(space: SimulatedSpace) -> None:
    area = space.vmalloc(PAGE)
    address = area.address
    space.vfree(address)
    for again in (lambda: space.vfree(address), lambda: space.vfree_atomic(address)):
        with refused(space, BadAddress, f"{address:#x}.*(lazy|pooled) since an earlier free"):
            again()
    for again in (
        lambda: space.vfree(area),
        area.free,
        lambda: space.vunmap(area),
        lambda: space.vfree_atomic(area),
        lambda: space.kvfree(area),
        lambda: space.free_vm_area(area),
        lambda: area.read(0, 1),
        lambda: area.write(0, b"x"),
    ):
        with refused(space, BadAddress, f"{address:#x}: this area was freed"):
            again()
    area = space.vmalloc(PAGE)
    with space.in_context("hardirq"):
        space.vfree_atomic(area)
        with refused(space, BadAddress, "waits to be freed already"):
            space.vfree_atomic(area)
    with pytest.raises(BadAddress, match="freed already"):
        space.vfree(area)  # the worker came first
    space.validate()


def test_a_new_area_at_the_old_address_is_not_freed_by_the_old_handle(space: SimulatedSpace) -> None:
    old = space.vmalloc(PAGE)
    old.free()
    space.purge(full=True)
    new = space.vmalloc_node_range(PAGE, 1, old.address, old.address + 2 * PAGE)
    assert new.address == old.address
    with refused(space, BadAddress, "freed already"):
        space.vfree(old)
    del old
    space.run_deferred()
    assert new.alive


@pytest.mark.parametrize("context", ["softirq", "hardirq", "nmi"])
def test_calls_that_an_interrupt_must_not_make(space: SimulatedSpace, context: str) -> None:
    [kept, _, mapped] = space.kept  # type: ignore[attr-defined]
    calls: list[tuple[Any, ...]] = [
        *((getattr(space, call), PAGE) for call in ALLOCATORS if call != "kvmalloc"),
        (space.vmalloc, PAGE),
        (space.vmap, [1]),
        (space.vmap_pfn, [1 << 28]),
        (space.vunmap, mapped),
        (space.free_vm_area, kept),
        (space.ioremap, 1 << 40, PAGE),
        (space.pcpu_get_vm_areas, [0], [PAGE], PAGE),
        (space.purge,),
        (space.vm_unmap_aliases,),
        (space.shrink,),
        (space.trim,),
        (space.close,),
    ]
    if context == "nmi":
        calls += [(space.vfree, kept), (space.vfree_atomic, kept), (kept.free,), (space.kvmalloc, PAGE)]
        calls += [(space.alloc_pages, 1), (space.free_pages, [1])]
    with space.in_context(context):
        for call, *arguments in calls:
            with refused(space, BadContext, f"in {context} context"):
                call(*arguments)
        with refused(space, BadContext, context):
            space.vmalloc(PAGE, gfp=GFP_ATOMIC)
        assert space.find_vm_area(kept.address) == kept
        assert space.vread(kept.address, 8) == space.load(kept.address, 8)


def test_areas_of_another_space(space: SimulatedSpace) -> None:
    other = make()
    theirs = other.vmalloc(2 * PAGE)
    for call in ("vfree", "vunmap", "vfree_atomic", "kvfree", "free_vm_area", "iounmap"):
        with unchanged(other), refused(space, BadAddress, f"{theirs.address:#x}: this area belongs to another space"):
            getattr(space, call)(theirs)
    for call in ("vmap", "free_pages"):
        with unchanged(other), refused(space, BadAddress, "another space"):
            getattr(space, call)([theirs])
    if space.state.kernel.has_vrealloc:
        with unchanged(other), refused(space, BadAddress, "another space"):
            space.vrealloc(theirs, 5 * PAGE)


def test_a_closed_space_does_nothing_more(space: SimulatedSpace) -> None:
    [kept, *_] = space.kept  # type: ignore[attr-defined]
    space.close()
    space.close()
    assert not kept.alive
    for call, *arguments in (
        (space.vmalloc, PAGE),
        (space.vfree, kept),
        (space.kvmalloc, PAGE),
        (space.alloc_pages, 1),
        (space.find_vm_area, 0),
        (space.load, 0, 1),
        (space.store, 0, b""),
        (space.vread, 0, 1),
        (space.vmallocinfo,),
        (space.stats,),
        (space.access, []),
        (space.run_deferred,),
        (space.validate,),
        (space.purge,),
    ):
        with pytest.raises(BadRequest, match="closed"):
            call(*arguments)
    space.kept.clear()  # type: ignore[attr-defined]
    gc.collect()


def test_nothing_left(space: SimulatedSpace) -> None:
    before = settled(space)
    areas = []
    with pytest.raises(OutOfFrames, match=r"\d+ of 2048 page frames are missing for 8388608 bytes \(8 MiB\)"):
        areas.extend(space.vmalloc(8 * MIB) for _ in itertools.count())
    areas.clear()
    gc.collect()
    assert settled(space) == before
    space.validate()
    start = space.state.vmalloc_start + (1 << 40)
    window = (start, start + 8 * PAGE)
    first = space.vmalloc_node_range(5 * PAGE, 1, *window)
    before = settled(space)
    with pytest.raises(OutOfAddresses, match=rf"16384 bytes \(16 KiB\).*{start:#x}-{start + 8 * PAGE:#x}"):
        space.vmalloc_node_range(3 * PAGE, 1, *window)
    assert settled(space) == before
    space.machine.fail_next("page_table")
    with pytest.raises(OutOfFrames, match=r"page table to map 4096 bytes \(4 KiB\)"):
        space.vmalloc(PAGE)
    assert settled(space) == before
    assert first.alive
    space.validate()


def test_frames_that_are_not_there(space: SimulatedSpace) -> None:
    for pfn in (-1, 16384, 1 << 40, 1 << 64):
        with refused(space, BadFrame, f"frame {pfn:#x}"):
            space.vmap([pfn])
    with refused(space, BadSize, "no page"):
        space.vmap([])
    for wrong in ("abc", b"abc", None, 1.5, [None]):
        with refused(space, TypeError, "."):
            space.vmap(wrong)
    reserved = space.get_vm_area(PAGE)
    with refused(space, BadRequest, "no frames of its own"):
        space.vmap(reserved)


def test_a_buffer_of_modelled_memory_is_not_to_be_had(space: SimulatedSpace) -> None:
    [kept, *_] = space.kept  # type: ignore[attr-defined]
    with refused(space, TypeError, "bytes-like"):
        memoryview(kept)


@every_kernel
def test_handles_that_are_collected_inside_a_call_are_freed_by_the_next(kernel: str) -> None:
    """From an observer, which runs under the lock: garbage is collected there too."""
    dying: list[Any] = []

    def observe(event: str, **fields: int | str) -> None:
        dying.clear()
        gc.collect()

    space = make(kernel, observer=observe)
    before = settled(space)
    dying.append(space.vmalloc(PAGE))
    cycle: list[Any] = [space.vmalloc(2 * PAGE)]
    cycle.append(cycle)
    del cycle
    area = space.vmalloc(PAGE)
    assert space.stats()["areas"] >= 1
    area.free()
    space.run_deferred()
    assert space.stats()["areas"] == 0
    assert settled(space) == before
    space.validate()


@every_kernel
def test_several_threads_hammer_one_space(kernel: str) -> None:
    space = make(kernel)
    before = settled(space)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            held: list[Any] = []
            for i in range(24):
                area = space.vmalloc(1 + (i * 7919 * number) % (6 * PAGE))
                area.write(0, bytes([number]))
                held.append(area)
                if i % 3 == 0:
                    assert held[0].read(0, 1) == bytes([number])
                    held.pop(0).free()
                if i % 5 == 0 and held:
                    held.pop()
                if i % 7 == 0 and held:
                    space.vmap(held[-1]).free()
                    space.purge()
                if i % 12 == 0:
                    space.validate()
            for area in held:
                space.vfree_atomic(area)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    gc.collect()
    assert settled(space) == before
    space.validate()
