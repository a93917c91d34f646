"""The first chunk: embedded in the permanent map, or mapped in the vmalloc range (section 7.2)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percpu.rig import KIB, PAGE, SMALL, make
from vmalloc.errors import OutOfFrames
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.percpu import first_chunk
from vmalloc.space.simulated import simulated
from vmalloc.units import MIB


def test_an_embedded_first_chunk_has_permanent_addresses_and_real_distances() -> None:
    """Section 7.2: offsets of groups are the physical distances of their memory."""
    space = simulated("x86_64", cpus=4, nodes=2, memory="256MiB")
    p = space.alloc_percpu(64)
    layout, info = space.percpu.layout, space.machine.info
    assert layout.kind == "embed"
    for cpu in range(4):
        address = p.address(cpu)
        assert info.direct_map_start <= address < info.direct_map_end
        pfn = (address - info.direct_map_start) // PAGE
        assert space.machine.node_of(pfn) == cpu // 2
        p.write(cpu, 0, bytes([cpu]) * 64)
        assert space.machine.read_frame(pfn, address % PAGE, 64) == bytes([cpu]) * 64
    starts = [p.address(group.cpus[0]) for group in layout.groups]
    assert starts[1] - starts[0] == layout.group_offsets[1] - layout.group_offsets[0] >= 128 * MIB - 4 * MIB
    assert not space.state.areas
    space.validate()


def test_later_chunks_repeat_the_distances_inside_the_vmalloc_range() -> None:
    space = simulated("x86_64", cpus=4, nodes=2, memory="256MiB")
    held = []
    while len(space.percpu.chunks) < 3:
        held.append(space.alloc_percpu(32 * KIB))
    layout = space.percpu.layout
    for chunk in space.percpu.chunks[1:]:
        assert [vm.addr - chunk.base for vm in chunk.areas] == list(layout.group_offsets)
        assert [vm.size for vm in chunk.areas] == list(layout.group_sizes) == [2 * MIB, 2 * MIB]
    first, second = space.percpu.chunks[1:3]
    top = space.state.vmalloc_end & ~(2 * MIB - 1)
    assert first.base + layout.span == top  # from the top of the range down
    assert second.base == first.base - 2 * MIB
    p = held[-1]
    assert len({p.address(cpu) - p.base for cpu in range(4)}) == 4
    space.validate()


def test_what_the_first_chunk_does_not_need_is_given_back() -> None:
    """Ends of units, and units of no CPU: three CPUs have an alloc of four units."""
    space = simulated("x86_64", cpus=3, memory="64MiB")
    before = space.stats()["frames_used"]
    space.alloc_percpu(8).detach()
    layout = space.percpu.layout
    assert (layout.upa, layout.groups[0].nr_units) == (4, 4)
    assert space.stats()["frames_used"] - before == 3 * layout.size_sum // PAGE


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
@pytest.mark.parametrize("first", ["embed", "page"])
def test_every_architecture_has_both_placements(arch: str, first: str) -> None:
    space = simulated(arch, cpus=3, memory="512MiB", percpu={"first_chunk": first})
    page = space.state.page_size
    assert space.alloc_percpu(8).alive
    assert space.percpu.layout.kind == first
    held = [space.alloc_percpu(24 * KIB, min(page, 4096)) for _ in range(20)]
    assert any(not p.found.chunk.fixed for p in held) or space.percpu.layout.size_sum > 20 * 24 * KIB
    for i, p in enumerate(held):
        for cpu in range(3):
            p.write(cpu, 24 * KIB - 4, bytes([i, cpu, 1, 2]))
    for i, p in enumerate(held):
        assert [p.read(cpu, 24 * KIB - 4) for cpu in range(3)] == [bytes([i, cpu, 1, 2]) for cpu in range(3)]
    space.validate()


def test_without_memory_in_a_row_the_first_chunk_is_mapped_page_by_page() -> None:
    space = simulated("x86_64", cpus=2, memory="64MiB", percpu={"static_size": 16 * KIB})
    blocks = []
    while True:  # no block of 2 MiB is left, and many of a page
        try:
            blocks.append(space.alloc_pages(1, order=9))
        except OutOfFrames:
            break
    for block in blocks:
        space.free_pages(block[::2])
    p = space.alloc_percpu(100)
    assert space.percpu.layout.kind == "page"
    assert any("embedding failed, using page size" in line for line in space.dmesg())
    areas = [vm for vm in space.state.areas.values() if vm.addr <= p.address(0) < vm.end]
    assert [vm.size for vm in areas] == [2 * space.percpu.layout.unit_size]
    p.write(1, 0, b"x" * 100)
    assert p.read(0) == bytes(100)
    space.validate()
    space.close()


def test_groups_too_far_apart_are_warned_about_and_not_embedded() -> None:
    """Section 7.2: a span of more than three quarters of the vmalloc range."""
    space = simulated("x86_32", cpus=2, memory=["120MiB", "120MiB"], percpu=SMALL)
    p = space.alloc_percpu(8)
    layout = space.percpu.layout
    total = space.state.vmalloc_end - space.state.vmalloc_start
    assert layout.kind == "page"
    assert layout.span < 3 * total // 4
    assert any("max_distance=" in line and "too large for vmalloc space" in line for line in space.dmesg())
    assert p.read(1) == bytes(8)
    space.validate()
    stubborn = simulated("x86_32", cpus=2, memory=["120MiB", "120MiB"], percpu={**SMALL, "first_chunk": "embed"})
    assert stubborn.alloc_percpu(8).alive
    assert stubborn.percpu.layout.span > 3 * total // 4
    assert any("max_distance=" in line for line in stubborn.dmesg())
    stubborn.validate()


def test_the_first_object_may_be_asked_for_in_an_interrupt() -> None:
    """The boot made the first chunk, whoever asks first."""
    for first in ("embed", "page"):
        space = make(percpu={**SMALL, "first_chunk": first})
        with space.in_context("hardirq"):
            p = space.alloc_percpu(8)
            assert space.machine.context == 2
        assert p.read(3) == bytes(8)
        space.validate()


def test_parts_that_share_a_page_do_not_share_bytes() -> None:
    settings = {"static_size": 1000, "reserved_size": 1000, "dynamic_size": 20 * KIB}
    space = simulated("x86_64", cpus=2, memory="64MiB", percpu=settings)
    kept, common = space.alloc_percpu(1000, 8, reserved=True), space.alloc_percpu(2096, 8)
    layout = space.percpu.layout
    zero = kept.address(0) - 1000
    assert zero % PAGE == 0
    assert common.address(0) == zero + 2000
    kept.write(0, 0, b"k" * 1000)
    common.write(0, 0, b"c" * 2096)
    assert (kept.read(0), common.read(0)) == (b"k" * 1000, b"c" * 2096)
    assert layout.size_sum == 24 * KIB
    space.validate()


@settings(max_examples=25)
@given(
    nr_pages=st.integers(1, 5000), align=st.sampled_from([1, 2, 512]), holes=st.lists(st.integers(0, 9), max_size=6)
)
def test_a_run_is_in_a_row_aligned_and_nothing_else_is_kept(nr_pages: int, align: int, holes: list[int]) -> None:
    space = simulated("x86_64", cpus=1, memory="48MiB")
    held = [space.alloc_pages(1, order=order) for order in holes]
    used = space.stats()["frames_used"]
    try:
        first = first_chunk.take_run(space.state, nr_pages, align, 0)
    except OutOfFrames:
        assert nr_pages > 1024
        assert space.stats()["frames_used"] == used
        return
    assert first % align == 0
    assert space.stats()["frames_used"] == used + nr_pages
    for pfn in range(first, first + nr_pages):
        assert space.machine.give(pfn, 0) == 0
    assert space.stats()["frames_used"] == used
    assert len(held) == len(holes)
    space.machine.validate()
