"""Freeing: lazily, later, from every context and CPU (sections 4.2, 4.11, 6.1-6.4)."""

from __future__ import annotations

import pytest

from calls.watch import KERNELS, PAGE, make, refused, settled, unchanged
from vmalloc.errors import BadAddress, BadContext, Fault, OutOfFrames
from vmalloc.flags import VM_FLUSH_RESET_PERMS, VM_MAP_PUT_PAGES
from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.units import MIB

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)


@every_kernel
def test_freeing_unmaps_at_once_and_flushes_later(kernel: str) -> None:
    """Section 6.1 steps 2, 4, 6, 7: the mapping and the frames go, the addresses are lazy."""
    space = make(kernel)
    area = space.vmalloc(3 * PAGE)
    used = space.stats()["frames_used"]
    space.vfree(area)
    stats = space.stats()
    assert space.vmalloc_to_pfn(area.address) is None
    assert (stats["lazy_areas"], stats["lazy_pages"], stats["tlb_flushes"], stats["pages"]) == (1, 4, 0, 0)
    assert stats["frames_used"] == used - 3
    assert not area.alive
    assert area.pages is None
    space.validate()


@every_kernel
def test_none_is_ignored_and_any_page_of_the_area_will_do(kernel: str) -> None:
    """Sections 6.1 step 0 and 1.12: an interior page frees the whole area."""
    space = make(kernel)
    with unchanged(space):
        space.vfree(None)
        space.vfree_atomic(None)
        space.vunmap(None)
        space.kvfree(None)
    area = space.vmalloc(40 * PAGE)
    space.vfree(area.address + 33 * PAGE)
    assert not area.alive


@every_kernel
def test_an_unaligned_address_is_warned_about_twice(kernel: str) -> None:
    """Section 6.1 step 1: then also the warning of step 2."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    with refused(space, BadAddress, f"{area.address + 8:#x}.*not page aligned"):
        space.vfree(area.address + 8)
    at = f"({area.address + 8:#x})"
    assert space.dmesg() == [f"Trying to vfree() bad address {at}", f"Trying to vfree() nonexistent vm area {at}"]


@every_kernel
def test_an_address_of_no_area_is_warned_about(kernel: str) -> None:
    """Section 6.1 step 2 and 2.4 (vunmap)."""
    space = make(kernel)
    nothing = space.state.vmalloc_start + MIB
    for call in ("vfree", "vunmap", "vfree_atomic"):
        with refused(space, BadAddress, f"{nothing:#x}: is in no area"):
            getattr(space, call)(nothing)
        assert space.dmesg()[-1] == f"Trying to {call}() nonexistent vm area ({nothing:#x})"


@every_kernel
@pytest.mark.parametrize("context", ["softirq", "hardirq"])
@pytest.mark.parametrize("cpu", range(4))
def test_an_interrupt_leaves_the_area_to_a_worker_of_its_cpu(kernel: str, context: str, cpu: int) -> None:
    """Sections 6.1 step 0 and 6.3: the first word becomes a link; the last one is freed first."""
    events: list[int] = []

    def observe(event: str, **fields: int | str) -> None:
        if event == "free_vmap_area_noflush":
            events.append(int(fields["va_start"]))

    space = make(kernel, observer=observe)
    areas = [space.vmalloc(PAGE) for _ in range(3)]
    with space.on_cpu(cpu), space.in_context(context):
        for area in areas:
            area.write(0, b"\xff" * 16)
            space.vfree(area)
        assert areas[0].read(0, 16) == bytes(8) + b"\xff" * 8
        assert areas[2].read(0, 8) == areas[1].address.to_bytes(8, "little")
        assert all(area.alive for area in areas)
        assert space.stats()["deferred_frees"] == 3
        with pytest.raises(BadAddress, match="waits to be freed already"):
            space.vfree(areas[0])
        space.validate()
    assert space.run_deferred() == 1
    assert events == [area.address for area in reversed(areas)]
    assert not any(area.alive for area in areas)
    space.validate()


@every_kernel
def test_vfree_atomic_waits_in_task_context_too_and_looking_does_not_run_it(kernel: str) -> None:
    """Section 6.3: look-ups run no worker; the next call that allocates or frees finds it done."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    space.vfree_atomic(area)
    assert space.find_vm_area(area.address) is not None
    assert space.load(area.address, 8) == bytes(8)
    assert area.alive
    other = space.vmalloc(PAGE)
    assert not area.alive
    assert other.alive


@every_kernel
def test_memory_that_cannot_be_written_cannot_hold_the_list(kernel: str) -> None:
    """Section 6.3: it must be mapped writable."""
    space = make(kernel)
    reserved = space.get_vm_area(PAGE)
    frames = space.alloc_pages(1)
    fixed = space.vmap(frames, prot="r")
    with space.in_context("hardirq"):
        for area, kind in ((reserved, "unmapped"), (fixed, "readonly")):
            with unchanged(space), pytest.raises(Fault) as caught:
                space.vfree(area)
            assert caught.value.kind == kind
    assert space.stats()["deferred_frees"] == 0


@every_kernel
def test_nothing_is_freed_in_an_nmi(kernel: str) -> None:
    """Sections 6.1 and 6.3: BUG in NMI."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    with space.in_context("nmi"):
        for call in ("vfree", "vfree_atomic", "vunmap", "kvfree", "free_vm_area"):
            with refused(space, BadContext, "nmi context"):
                getattr(space, call)(area)
        with refused(space, BadContext, "nmi context"):
            area.free()


@every_kernel
@pytest.mark.parametrize("context", ["task", "hardirq"])
def test_a_handle_that_dies_before_the_worker_runs_does_no_harm(kernel: str, context: str) -> None:
    """Section 6.3 with garbage collection: the area is freed once, whoever comes first."""
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc(PAGE)
    with space.in_context("hardirq"):
        area.free()
    with space.in_context(context):
        del area
    again = space.vmalloc(PAGE)
    again.free()
    assert settled(space) == before
    assert space.dmesg() == []
    space.validate()


@every_kernel
def test_a_handle_that_dies_in_an_interrupt_is_freed_in_task_context(kernel: str) -> None:
    """A reserved area cannot hold a list of deferred frees: its handle's end waits for task context instead."""
    space = make(kernel)
    area = space.get_vm_area(PAGE)
    with space.in_context("hardirq"):
        del area
        assert space.stats()["areas"] == 1
    space.run_deferred()
    assert space.stats()["areas"] == 0
    assert space.dmesg() == []


@every_kernel
def test_vunmap_leaves_the_frames_whose_they_are(kernel: str) -> None:
    """Section 6.2: also of an area that owned them; they count no more, and can be given back."""
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc(3 * PAGE)
    frames = area.pages
    space.vunmap(area)
    assert not area.alive
    assert space.vmalloc_nr_pages() == 0
    space.validate()
    space.free_pages(frames)
    assert settled(space) == before


@every_kernel
def test_a_list_of_frames_that_is_an_area_goes_with_the_area_it_belongs_to(kernel: str) -> None:
    """Sections 3.3 and 6.1 step 8: a nested array, freed with its area and not alone."""
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc(600 * PAGE)
    array = area.vm.array_area
    assert array.addr == area.address + 601 * PAGE
    for call in ("vfree", "vunmap", "vfree_atomic", "free_vm_area"):
        with refused(space, BadAddress, "list of frames of another area"):
            getattr(space, call)(array.addr)
    if profile(kernel).has_vrealloc:
        with refused(space, BadAddress, "list of frames of another area"):
            space.vrealloc(array.addr, 100 * PAGE)
    area.free()
    assert settled(space) == before
    again = space.vmalloc(600 * PAGE)
    frames = again.pages
    space.vunmap(again)
    space.free_pages(frames)
    assert settled(space) == before


@every_kernel
def test_put_pages_gives_back_what_it_was_given(kernel: str) -> None:
    """Sections 6.1 steps 6 and 7: VM_MAP_PUT_PAGES does not count as vmalloc's."""
    space = make(kernel)
    before = settled(space)
    area = space.vmap(space.alloc_pages(5), put_pages=True)
    assert area.flags & VM_MAP_PUT_PAGES
    assert space.vmalloc_nr_pages() == 0
    space.vfree(area)
    assert space.vmalloc_nr_pages() == 0
    assert settled(space) == before


@every_kernel
def test_a_frame_that_is_gone_already_is_reported_and_the_others_are_freed(kernel: str) -> None:
    """Section 6.1 step 6: each page is an order-0 page of its own."""
    space = make(kernel)
    before = settled(space)
    area = space.vmalloc(3 * PAGE)
    stolen = area.pages[1]
    space.free_pages([stolen])
    area.free()
    assert [line for line in space.dmesg() if f"Bad page state: frame {stolen:#x}" in line]
    assert settled(space) == before


@every_kernel
def test_resetting_permissions_flushes_everything_that_is_lazy(kernel: str) -> None:
    """Section 4.11: direct map invalid while aliases are flushed, valid again after; synchronous."""
    seen: list[tuple[int, int, set[int]]] = []

    def observe(event: str, **fields: int | str) -> None:
        if event == "purge_vmap_area_lazy":
            invalid = set(space.machine.invalid_direct)
            seen.append((int(fields["start"]), int(fields["end"]), invalid))

    space = make(kernel, observer=observe)
    other = space.vmalloc(PAGE)
    area = space.vmalloc(2 * PAGE)
    frames = list(area.pages)
    other.free()
    assert space.stats()["lazy_areas"] == 1
    space.set_vm_flush_reset_perms(area)
    assert area.flags & VM_FLUSH_RESET_PERMS
    space.vfree(area)
    stats = space.stats()
    assert (stats["lazy_areas"], stats["tlb_flushes"]) == (0, 1)
    assert stats["direct_map_changes"] == 4
    [(start, end, invalid)] = seen
    assert invalid == set(frames)
    base = space.machine.info.direct_map_start
    assert start <= base + min(frames) * PAGE
    assert end >= base + (max(frames) + 1) * PAGE
    assert space.machine.invalid_direct == set()
    assert space.load(base + frames[0] * PAGE, 1)
    space.validate()


@every_kernel
def test_resetting_permissions_from_an_interrupt_waits_for_the_worker(kernel: str) -> None:
    """Sections 1.3 and 4.11: not in atomic context."""
    space = make(kernel)
    area = space.vmalloc(PAGE)
    space.set_vm_flush_reset_perms(area)
    with space.in_context("hardirq"):
        area.free()
        assert space.stats()["tlb_flushes"] == 0
    space.run_deferred()
    assert space.stats()["tlb_flushes"] == 1


@every_kernel
def test_vunmap_resets_permissions_up_to_6_8_only(kernel: str) -> None:
    """Sections 4.11 and 6.2."""
    space = make(kernel)
    area = space.get_vm_area(PAGE)
    space.set_vm_flush_reset_perms(area)
    space.vunmap(area)
    assert space.stats()["lazy_areas"] == (1 if profile(kernel).has_sparse else 0)


@every_kernel
@pytest.mark.parametrize("operation", ["take", "take_bulk", "map_pages", "page_table", "slab"])
@pytest.mark.parametrize("after", range(4))
def test_error_paths_give_back_what_was_taken(kernel: str, operation: str, after: int) -> None:
    """Sections 3.5 and 6.4: at once, or by a worker; the addresses are lazy then."""
    space = make(kernel)
    before = settled(space)
    space.machine.fail_next(operation, after=after, times=None)
    try:
        area = space.vmalloc(700 * PAGE)
    except OutOfFrames:
        if profile(kernel).failed_area_waits:
            space.validate()
        space.machine.clear()
        space.run_deferred()
        assert space.stats()["areas"] == 0
    else:
        space.machine.clear()
        space.validate()
        area.free()
    assert settled(space) == before
    space.validate()


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_defers_with_a_pointer_of_its_own_size(arch: str) -> None:
    """Section 6.3 on 32 and 64 bits."""
    space = make(arch=arch, nodes=1, memory="128MiB")
    word = space.state.info.word_bits // 8
    area = space.vmalloc(100)
    area.write(0, b"\xff" * 16)
    space.vfree_atomic(area)
    assert space.load(area.address, 16) == bytes(word) + b"\xff" * (16 - word)
    space.run_deferred()
    assert not area.alive
    space.validate()


@every_kernel
def test_more_lazy_pages_than_the_threshold_queue_one_drain(kernel: str) -> None:
    """Section 4.3 seen from vfree: strictly above 8192 pages on one CPU."""
    space = make(kernel, cpus=1, nodes=1)
    exactly, one_more = space.get_vm_area(8191 * PAGE), space.get_vm_area(PAGE)
    exactly.free()
    assert space.stats()["lazy_pages"] == 8192
    assert not space.machine.has_deferred()
    one_more.free()
    assert space.run_deferred() == 1
    assert space.stats()["lazy_pages"] == 0
