"""``alloc_percpu`` and ``free_percpu`` through a space (section 7.2, and the per-CPU failures of section 12)."""

from __future__ import annotations

import pytest

from percpu.rig import KIB, PAGE, SMALL, fill_first, fill_without_reserve, make, picture
from space.rig import asked_for
from test_flags import SOURCE, constants
from vmalloc.errors import BadAddress, BadContext, BadSize, Fault, OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_KERNEL, GFP_NOWAIT, GFP_ZERO
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import FailingMachine
from vmalloc.machine.wrappers.recording import RecordingMachine
from vmalloc.percpu import layout
from vmalloc.space.simulated import SimulatedSpace, simulated

pytestmark = pytest.mark.both_builds


def test_compiled_numbers_are_those_of_the_layout() -> None:
    numbers = constants((SOURCE / "percpu/allocator.pxd").read_text(encoding="utf-8"))
    for name in ("EMPTY_LOW", "EMPTY_HIGH"):
        assert numbers[name] == getattr(layout, name)
    assert numbers["MAX_SIZE"] == layout.MIN_UNIT_SIZE


def test_every_cpu_has_a_zeroed_copy_of_its_own_at_a_constant_offset() -> None:
    space = make()
    p, q = space.alloc_percpu(100), space.alloc_percpu(12, 64)
    for cpu in range(4):
        assert p.read(cpu) == bytes(100)
        p.write(cpu, 0, bytes([cpu + 1]) * 100)
        assert p.address(cpu) - p.base == q.address(cpu) - q.base == space.percpu.layout.unit_offsets[cpu]
    assert [p.read(cpu) for cpu in range(4)] == [bytes([cpu + 1]) * 100 for cpu in range(4)]
    assert all(q.read(cpu) == bytes(12) for cpu in range(4))
    with space.on_cpu(3):
        assert p.address() == p.address(3)
        assert p.read() == b"\x04" * 100
    space.validate()
    base = p.base
    p.free()
    again = space.alloc_percpu(100)
    assert again.base == base
    assert all(again.read(cpu) == bytes(100) for cpu in range(4))  # zeroed, not just new


@pytest.mark.parametrize("size", [0, -1, 32 * KIB + 1, 32792])
def test_sizes_that_are_refused_in_the_kernels_words(size: int) -> None:
    """Section 12, per-CPU failures: 32,792 bytes are the case of sched-ext."""
    space = make()
    before = picture(space)
    with pytest.raises(BadSize, match=rf"illegal size \({size}\) or align \(8\) for percpu allocation"):
        space.alloc_percpu(size)
    assert space.dmesg()[-1] == f"illegal size ({size}) or align (8) for percpu allocation"
    assert picture(space) == before


@pytest.mark.parametrize("align", [0, 3, -8, 2 * PAGE])
def test_alignments_that_are_refused(align: int) -> None:
    with pytest.raises(BadSize, match=rf"illegal size \(8\) or align \({align}\)"):
        make().alloc_percpu(8, align)


def test_the_largest_object_and_the_largest_alignment_are_served() -> None:
    space = make()
    p = space.alloc_percpu(32 * KIB, PAGE)
    assert p.found.chunk.nr_pages == 8
    assert all(p.address(cpu) % PAGE == 0 for cpu in range(4))
    p.write(2, 32 * KIB - 2, b"hi")
    assert p.read(2, 32 * KIB - 4) == b"\0\0hi"
    space.validate()


def test_nothing_is_made_before_the_first_object() -> None:
    used, unused = make(), make(percpu=None)
    assert picture(used) == picture(unused)
    assert used.percpu_stats()["chunks"] == used.percpu_stats()["unit_size"] == 0
    used.validate()


def test_frames_of_a_unit_are_on_the_node_of_its_cpu() -> None:
    """Section 7.2: pages are taken from the CPU's node, in the first chunk and in later ones."""
    space = simulated("x86_64", cpus=6, nodes=3, memory="96MiB", percpu=SMALL)
    objects = [*fill_first(space), space.alloc_percpu(20 * KIB)]
    assert not objects[-1].found.chunk.fixed
    for p in objects:
        chunk = p.found.chunk
        for page in range(chunk.nr_pages):
            for cpu, pfn in enumerate(chunk.frames_of(page)):
                with space.on_cpu(cpu):
                    own = space.vmalloc(1)
                assert space.machine.node_of(pfn) == cpu // 2 == space.machine.node_of(own.pages[0])
    space.validate()


def test_pages_are_populated_for_all_cpus_when_an_object_needs_them() -> None:
    """Section 7.2: mapped on demand, per CPU, with base pages; what no object needs is not there."""
    space = make()
    held = fill_first(space)
    space.run_deferred()
    p = space.alloc_percpu(32 * KIB)
    chunk = p.found.chunk
    assert chunk.nr_populated == 8
    q = space.alloc_percpu(5 * KIB, PAGE)
    other = q.found.chunk
    assert other is not chunk
    for page in range(8):
        units = [other.base + offset for offset in space.percpu.unit_offsets]
        mapped = [space.machine.translate(unit + page * PAGE) for unit in units]
        assert (mapped == other.frames_of(page)) if other.populated[page] else (mapped == [-1] * 4)
    assert space.state.percpu_pages == 4 * space.percpu_stats()["pages_populated"]
    assert held


def test_the_fullest_chunk_that_fits_is_taken_from() -> None:
    space = make()
    held = fill_first(space)
    big = [space.alloc_percpu(12 * KIB), space.alloc_percpu(24 * KIB)]
    assert big[0].found.chunk is not big[1].found.chunk
    space.run_deferred()
    assert space.alloc_percpu(4 * KIB).found.chunk is big[1].found.chunk
    small = space.alloc_percpu(10 * KIB)
    assert small.found.chunk is big[0].found.chunk
    assert held


# -- atomic ------------------------------------------------------------------------------------------------------------


def test_an_atomic_caller_gets_what_is_populated_and_nothing_else() -> None:
    space = make()
    held = fill_first(space)
    space.run_deferred()
    reserve = space.percpu_stats()["pages_empty"]
    assert 2 <= reserve <= 4
    before = space.percpu_stats()["pages_populated"]
    with space.in_context("softirq"):
        taken = [space.alloc_percpu(4 * KIB)]
    with space.in_context("hardirq"):
        taken += [space.alloc_percpu(4 * KIB) for _ in range(reserve - 1)]
        with pytest.raises(OutOfFrames, match="must not wait"):
            space.alloc_percpu(4 * KIB)
    assert "percpu: allocation failed, size=4096 align=8 atomic=1" in space.dmesg()[-1]
    assert space.percpu_stats()["pages_populated"] == before
    assert space.percpu_stats()["pages_empty"] == 0
    space.run_deferred()
    with space.in_context("hardirq"):
        space.alloc_percpu(4 * KIB)
    assert all(p.alive for p in held + taken)
    space.validate()


@pytest.mark.parametrize("gfp", [GFP_ATOMIC, GFP_NOWAIT])
def test_a_gfp_without_reclaim_is_as_atomic_as_an_interrupt(gfp: int) -> None:
    space = make()
    held = fill_first(space)
    space.run_deferred()
    log = len(space.dmesg())
    made = space.percpu_stats()["chunks_created"]
    with pytest.raises(OutOfFrames, match="must not wait"):
        space.alloc_percpu(24 * KIB, gfp=gfp)
    assert len(space.dmesg()) == log + (gfp == GFP_ATOMIC)  # GFP_NOWAIT has __GFP_NOWARN
    assert space.percpu_stats()["chunks_created"] == made
    assert space.alloc_percpu(24 * KIB, gfp=gfp).alive  # the balance work came in between
    assert held


def test_an_atomic_caller_is_given_more_by_the_next_balance() -> None:
    """What he missed is populated beyond the reserve, in one piece."""
    space = make()
    held = fill_first(space)
    with space.in_context("softirq"), pytest.raises(OutOfFrames):
        space.alloc_percpu(24 * KIB)
    space.run_deferred()
    with space.in_context("softirq"):
        p = space.alloc_percpu(24 * KIB)
    assert p.read(1, 24 * KIB - 1) == b"\0"
    assert held
    space.validate()


def test_populated_pages_need_not_be_neighbours() -> None:
    """An atomic search skips fits that are not populated throughout."""
    space = make(percpu={**SMALL, "atom_size": 64 * KIB})
    held = fill_first(space)
    space.run_deferred()
    a, b = space.alloc_percpu(4 * KIB, PAGE), space.alloc_percpu(24 * KIB, PAGE)
    chunk = a.found.chunk
    assert chunk is b.found.chunk
    b.free()
    space.run_deferred()  # pages are given back until the reserve is left
    with space.in_context("softirq"):
        c = space.alloc_percpu(4 * KIB, PAGE)
        with pytest.raises(OutOfFrames):
            space.alloc_percpu(30 * KIB)
    assert chunk.populated[c.found.offset // PAGE]
    assert held
    space.validate()


def test_reserved_objects_come_from_the_first_chunk_alone() -> None:
    """Section 7.2: the reserved part of the first chunk."""
    space = make()
    p = space.alloc_percpu(3 * KIB, reserved=True)
    assert p.found.chunk is space.percpu.reserved
    with pytest.raises(OutOfAddresses, match="reserved part"):
        space.alloc_percpu(2 * KIB, reserved=True)
    assert "percpu: reserved allocation failed, size=2048" in space.dmesg()[-1]
    with space.in_context("hardirq"):
        q = space.alloc_percpu(KIB, reserved=True)
    assert space.percpu_stats()["reserved_bytes_free"] == 0
    assert space.percpu_stats()["objects"] == 0
    space.validate()
    p.free()
    q.free()
    assert space.percpu_stats()["reserved_bytes_free"] == 4 * KIB
    bare = make(percpu={**SMALL, "reserved_size": 0})
    with pytest.raises(OutOfAddresses, match="reserved part"):
        bare.alloc_percpu(8, reserved=True)


# -- free --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["task", "softirq", "hardirq"])
def test_freeing_works_in_any_context(context: str) -> None:
    space = make()
    held = [*fill_first(space), *(space.alloc_percpu(32 * KIB) for _ in range(3))]
    assert space.percpu_stats()["chunks"] >= 4
    with space.in_context(context):
        for p in held:
            space.free_percpu(p)
    space.run_deferred()
    assert space.percpu_stats()["objects"] == 0
    assert space.percpu_stats()["chunks"] == 2  # the first one, and one spare
    space.validate()


def test_an_nmi_may_do_neither() -> None:
    space = make()
    p = space.alloc_percpu(8)
    before = picture(space)
    with space.in_context("nmi"):
        with pytest.raises(BadContext, match="alloc_percpu"):
            space.alloc_percpu(8)
        with pytest.raises(BadContext, match="free_percpu"):
            p.free()
    assert picture(space) == before
    assert p.alive


def test_what_is_no_object_is_not_freed() -> None:
    space, other = make(), make()
    p, foreign = space.alloc_percpu(8), other.alloc_percpu(8)
    keep = space.alloc_percpu(8)
    p.free()
    before = picture(space)
    with pytest.raises(BadAddress, match="freed already"):
        p.free()
    with pytest.raises(BadAddress, match="freed already"):
        space.free_percpu(p)
    with pytest.raises(BadAddress, match="another space"):
        space.free_percpu(foreign)
    for base in (p.base, keep.base + 4, 0, 1 << 64, keep.address(1)):
        with pytest.raises(BadAddress, match="is not the base of a live per-CPU object"):
            space.free_percpu(base)
    assert picture(space) == before
    space.free_percpu(None)
    space.free_percpu(keep.base)
    assert not keep.alive


def test_chunks_without_objects_are_destroyed_but_for_one() -> None:
    """Section 7.2: destroyed without a flush: the purge that makes the addresses usable again flushes them."""
    space = make()
    held = fill_first(space)
    big = [space.alloc_percpu(32 * KIB) for _ in range(5)]
    space.run_deferred()
    chunks = {p.found.chunk for p in big}
    before = picture(space)["frames"]
    flushes = space.stats()["tlb_flushes"]
    for p in big:
        p.free()
    space.run_deferred()
    left = [chunk for chunk in space.percpu.chunks if not chunk.fixed]
    assert len(left) == 1
    gone = [chunk for chunk in chunks if chunk not in left]
    assert len(gone) == len(chunks) - 1
    assert space.stats()["tlb_flushes"] == flushes + 1  # the spare gave pages back; the others were not flushed
    assert space.stats()["lazy_areas"] == 2 * space.percpu_stats()["chunks_destroyed"]
    assert all(not vm.live for chunk in gone for vm in chunk.areas)
    assert sum(picture(space)["frames"].values()) < sum(before.values())
    assert space.stats()["lazy_areas"] == 0
    space.validate()
    assert held


def test_a_chunk_that_lives_on_gives_empty_pages_back_with_one_flush() -> None:
    """Section 7.2: flushed from the lowest unit to the highest."""
    inner = SimulatedMachine(ARCHITECTURES["x86_64"], PROFILES["6.19"], cpus=4, nodes=(1 << 13, 1 << 13))
    machine = RecordingMachine(FailingMachine(inner))
    space = SimulatedSpace(machine, PROFILES["6.19"], percpu=SMALL)
    held = fill_first(space)
    a, b = space.alloc_percpu(4 * KIB), space.alloc_percpu(28 * KIB, 4)
    chunk = b.found.chunk
    assert a.found.chunk is chunk
    assert chunk.nr_populated == 8
    space.run_deferred()
    machine.log.clear()
    b.free()
    space.run_deferred()
    units = space.percpu.layout
    low, high = chunk.base + units.lowest_unit, chunk.base + units.highest_unit
    first = chunk.nr_populated * PAGE
    assert asked_for(machine, "flush") == [("flush", (low + first, high + 8 * PAGE))]
    assert len(asked_for(machine, "unmap")) == 4
    assert space.percpu_stats()["pages_empty"] == 4
    assert all(p.alive for p in (a, *held))
    space.validate()


def test_a_page_given_back_is_not_reached_by_any_cpu_that_had_used_it() -> None:
    space = make()
    held = fill_first(space)
    a, b = space.alloc_percpu(4 * KIB), space.alloc_percpu(28 * KIB, 4)
    address = b.address(3) + 27 * KIB
    for cpu in range(4):
        with space.on_cpu(cpu):
            space.store(address, b"seen")
    b.free()
    space.run_deferred()
    assert not b.found.chunk.populated[7]
    for cpu in range(4):
        with space.on_cpu(cpu), pytest.raises(Fault) as caught:
            space.load(address, 4)
        assert caught.value.kind == "unmapped"  # the last page of an area, and no guard page
    assert held
    assert a.alive


# -- what runs short ---------------------------------------------------------------------------------------------------


def test_areas_of_a_chunk_are_nobody_elses_to_free() -> None:
    space = make()
    held = [*fill_first(space), space.alloc_percpu(32 * KIB)]
    start = held[-1].found.chunk.areas[0].addr
    before = picture(space)
    for call in (space.vfree, space.vunmap, space.free_vm_area, space.vfree_atomic):
        with pytest.raises(BadAddress, match="part of a chunk of the per-CPU allocator"):
            call(start)
    with pytest.raises(BadAddress, match="part of a chunk of the per-CPU allocator"):
        space.pcpu_free_vm_areas([space.find_vm_area(start)])
    assert picture(space) == before


@pytest.mark.parametrize(
    ("operation", "most"), [("take", 40), ("map_pages", 10), ("page_table", 10), ("slab", 10)]
)
@pytest.mark.parametrize("kernel", ["6.1", "6.19"])
def test_an_allocation_that_fails_at_any_step_leaves_nothing_behind(operation: str, most: int, kernel: str) -> None:
    """Section 7.2: pages for all CPUs or none; a chunk that was made for nothing is destroyed."""
    space = make(kernel=kernel)
    held = fill_without_reserve(space)
    failed = 0
    for after in range(most):
        before = picture(space)
        space.machine.fail_next(operation, after=after)
        try:
            p = space.alloc_percpu(30 * KIB)
        except (OutOfFrames, OutOfAddresses):
            space.machine.clear()
            failed += 1
            space.percpu.wanted_pages = 0
            assert _without_spare(picture(space)) == _without_spare(before)
            space.validate()
            continue
        space.machine.clear()
        space.validate()
        assert p.read(3) == bytes(30 * KIB)
        break
    else:
        raise AssertionError("it never succeeded")
    assert failed >= 2
    assert held


def _without_spare(found: dict[str, object]) -> dict[str, object]:
    return {name: found[name] for name in ("counters", "chunks", "busy", "free", "frames", "mappings")}


@pytest.mark.parametrize("after", range(3))
def test_a_first_chunk_that_cannot_be_had_leaves_nothing_behind(after: int) -> None:
    space = make(percpu={**SMALL, "first_chunk": "embed"})
    before = picture(space)
    space.machine.fail_next("take", after=after, times=None)
    if after < 2:
        with pytest.raises(OutOfFrames, match="in a row for per-CPU memory"):
            space.alloc_percpu(8)
        assert picture(space) == before
        assert space.percpu.layout is None
    space.machine.clear()
    assert space.alloc_percpu(8).alive
    space.validate()


def test_chunk_creation_fails_with_plenty_of_space_between_far_groups() -> None:
    """Section 12, per-CPU failures: the same offsets must be free in several places."""
    space = simulated("x86_32", cpus=2, nodes=2, memory=["64MiB", "64MiB"], percpu=SMALL)
    first = space.alloc_percpu(8)
    assert space.percpu.layout.kind == "embed"
    assert len(space.percpu.layout.groups) == 2
    total = space.state.vmalloc_end - space.state.vmalloc_start
    assert space.percpu.layout.span > total // 4
    held = space.get_vm_area(total - space.percpu.layout.span + (1 << 20))  # wherever the lower group could be
    assert held.address == space.state.vmalloc_start
    with pytest.raises(OutOfAddresses, match="a chunk of 2 groups that span"):
        space.alloc_percpu(24 * KIB)  # more than the first chunk has
    assert first.alive
    assert space.stats()["largest_free"] > total // 4
    assert "percpu: allocation failed" in space.dmesg()[-1]
    space.validate()


def test_a_chunk_is_made_after_a_purge_when_only_lazy_addresses_are_left() -> None:
    """Sections 7.1 and 4.4: overflow purges everything once and tries again."""
    space = simulated("x86_32", cpus=2, memory="64MiB", percpu=SMALL)
    held = fill_without_reserve(space)
    areas = []
    while True:
        try:
            areas.append(space.get_vm_area(1 << 20))
        except OutOfAddresses:
            break
    while True:
        try:
            areas.append(space.get_vm_area(PAGE))
        except OutOfAddresses:
            break
    with pytest.raises(OutOfAddresses):
        space.alloc_percpu(20 * KIB)
    purges = space.stats()["purges"]
    for area in areas[:3]:
        space.free_vm_area(area)
    p = space.alloc_percpu(20 * KIB)
    assert space.stats()["purges"] > purges
    assert p.read(1) == bytes(20 * KIB)
    assert held
    space.validate()


def test_close_frees_everything() -> None:
    for first in ("embed", "page"):
        space = make(percpu={**SMALL, "first_chunk": first})
        untouched = picture(space)["frames"]
        held = [*fill_first(space), space.alloc_percpu(32 * KIB), space.alloc_percpu(8, reserved=True)]
        assert picture(space)["frames"] != untouched
        space.close()
        assert not any(p.alive for p in held)
        after = space.machine.frames.stats()
        tables = space.machine.page_table.table_bytes // PAGE
        assert sum(node.used for node in after) == tables + sum(untouched.values())
        assert not space.state.areas


def test_gfp_zero_and_unknown_gfp_bits() -> None:
    space = make()
    assert space.alloc_percpu(8, gfp=GFP_KERNEL | GFP_ZERO).read() == bytes(8)
    with pytest.raises(TypeError):
        space.alloc_percpu("8")
    with pytest.raises(TypeError):
        space.alloc_percpu(8.0)
