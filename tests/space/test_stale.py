"""Stale translations: nobody ever sees old bytes through a reused address, and a missing flush is *shown* (4.1, 8.4).

The bargain of the kernel: unmapping clears page tables and frees frames at once, the flush waits for the purge, and no
address is handed out before it.  Here each CPU of a machine reads what it should not, at every stage of an area's life.
"""

from __future__ import annotations

import random

import pytest

from space.rig import ARCHES, KERNELS, settle, validate
from vmalloc.errors import Fault
from vmalloc.flags import VM_FLUSH_RESET_PERMS
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import SimulatedSpace, simulated

EVERY_ARCH = tuple(ARCHITECTURES)


def small(arch: str = "x86_64", kernel: str = "6.19", cpus: int = 3) -> SimulatedSpace:
    return simulated(arch, kernel, cpus=cpus, memory="128MiB" if ARCHITECTURES[arch].page_shift > 12 else "24MiB")


def read(space: SimulatedSpace, cpu: int, address: int, size: int = 8) -> bytes:
    with space.on_cpu(cpu):
        return space.load(address, size)


def fault_kind(space: SimulatedSpace, cpu: int, address: int) -> str:
    with pytest.raises(Fault) as caught:
        read(space, cpu, address)
    assert caught.value.address == address
    assert caught.value.cpu == cpu
    return caught.value.kind


# -- one area's life ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ARCHES)
def test_only_cpus_that_used_an_area_still_translate_it_until_the_purge(arch: str, kernel: str) -> None:
    """Sections 4.1 and 4.2: free unmaps at once; the TLB flush waits."""
    space = small(arch, kernel)
    area = space.vmalloc(space.state.page_size)
    area.write(0, b"old text")
    address = area.address
    assert read(space, 1, address) == b"old text"
    space.vfree(area)
    assert space.stats()["tlb_flushes"] == 0
    assert fault_kind(space, 0, address) == "stale_tlb"  # it wrote
    assert fault_kind(space, 1, address) == "stale_tlb"  # it read
    assert fault_kind(space, 2, address) == "freed"  # it never translated it
    assert space.stats()["faults_stale_tlb"] == 2
    space.purge()
    gone = "freed" if space.stats()["pooled_areas"] else "unmapped"
    assert {fault_kind(space, cpu, address) for cpu in range(3)} == {gone}
    assert space.stats()["tlb_flushes"] == 1
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", EVERY_ARCH)
def test_a_reused_address_shows_the_new_bytes_on_every_cpu(arch: str, kernel: str) -> None:
    """Section 4.1: lazy addresses are nobody's; after the flush every CPU walks anew."""
    space = small(arch, kernel)
    size = 2 * space.state.page_size
    first = space.vzalloc(size)
    address = first.address
    first.write(0, b"old")
    assert [read(space, cpu, address, 3) for cpu in range(3)] == [b"old"] * 3
    first.free()
    lazily = space.vmalloc(size)
    assert lazily.address != address
    space.purge()
    again = space.vzalloc(size)
    assert again.address == address
    assert [read(space, cpu, address, 3) for cpu in range(3)] == [bytes(3)] * 3
    again.write(0, b"new")
    assert [read(space, cpu, address, 3) for cpu in range(3)] == [b"new"] * 3
    assert space.stats()["faults_stale_tlb"] == 0
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("how", ["plan", "drop_flushes"])
@pytest.mark.parametrize("arch", EVERY_ARCH)
def test_a_flush_that_is_left_out_is_reported(arch: str, how: str, kernel: str) -> None:
    """With the flush switched off on purpose the machine says ``stale_tlb``: on the CPUs that remember, on no other."""
    space = small(arch, kernel)
    size = space.state.page_size
    area = space.vmalloc(size)
    area.write(0, b"old text")
    address = area.address
    read(space, 1, address)
    area.free()
    kept = space.alloc_pages(1)  # who has the frame now
    if how == "plan":
        space.machine.fail_next("flush")
    else:
        space.machine.drop_flushes(1)
    space.purge()
    assert space.stats()["tlb_flushes"] == 0
    new = space.vzalloc(size)
    assert new.address == address
    assert [space.vmalloc_to_pfn(address)] == list(new.pages)
    assert list(new.pages) != list(kept)
    assert [fault_kind(space, cpu, address) for cpu in (0, 1)] == ["stale_tlb", "stale_tlb"]
    assert read(space, 2, address) == bytes(8)
    new.free()
    space.purge()  # this flush is made: all is well again
    assert space.stats()["tlb_flushes"] == 1
    last = space.vzalloc(size)
    assert last.address == address
    assert [read(space, cpu, address) for cpu in range(3)] == [bytes(8)] * 3
    validate(space)


def test_what_a_missing_flush_shows_is_somebody_elses_memory() -> None:
    """Section 4.1: stale entries may point to reused pages: ``follow_stale`` lets a CPU go on as hardware does."""
    space = small()
    area = space.vmalloc(4096)
    address = area.address
    area.write(0, b"old text")
    frame = area.pages[0]
    area.free()
    other = space.alloc_pages(1)
    assert list(other) == [frame]
    view = space.vmap(other)
    view.write(0, b"password")
    space.machine.mmu.follow_stale = True
    assert read(space, 0, address) == b"password"
    space.purge()
    assert fault_kind(space, 0, address) == "freed"


def test_a_store_through_a_stale_translation_changes_nothing() -> None:
    space = small()
    area = space.vmalloc(8192)
    area.write(0, bytes(8192))
    address = area.address
    area.free()
    view = space.vmap(space.alloc_pages(2))
    view.write(0, b"mine")
    before = view.read()
    with pytest.raises(Fault, match="stale_tlb"):
        space.store(address, b"x" * 8192)
    assert view.read() == before


@pytest.mark.parametrize("kernel", KERNELS)
def test_huge_translations_go_stale_too(kernel: str) -> None:
    """One entry for 2 MiB: any address in it is stale, and one flush removes it."""
    space = small(kernel=kernel)
    area = space.vmalloc_huge(2 << 20, 0)
    assert area.page_shift == 21
    area.write(0, b"old")
    start = area.address
    area.free()
    assert fault_kind(space, 0, start + (1 << 20)) == "stale_tlb"
    space.purge()
    assert fault_kind(space, 0, start + (1 << 20)) != "stale_tlb"


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_free_that_resets_permissions_flushes_everything_at_once(kernel: str) -> None:
    """Section 4.11: a free of a ``VM_FLUSH_RESET_PERMS`` area is synchronous and purges everything lazy."""
    space = small(kernel=kernel)
    older, area = space.vmalloc(4096), space.vmalloc(4096)
    older.write(0, b"a")
    area.write(0, b"b")
    space.set_vm_flush_reset_perms(area)
    assert area.flags & VM_FLUSH_RESET_PERMS
    addresses = older.address, area.address
    older.free()
    assert fault_kind(space, 0, addresses[0]) == "stale_tlb"
    area.free()
    assert "stale_tlb" not in [fault_kind(space, 0, address) for address in addresses]
    assert space.stats()["tlb_flushes"] == 1
    assert space.stats()["direct_map_changes"] == 2


def test_debug_pagealloc_leaves_nothing_stale() -> None:
    """Section 4.2 step 2: the flush comes with the free; the lazy book-keeping goes on unchanged."""
    space = small()
    space.state.debug_pagealloc = True
    area = space.vmalloc(4096)
    area.write(0, b"old")
    address = area.address
    area.free()
    assert fault_kind(space, 0, address) == "freed"
    assert space.stats()["lazy_pages"] == 2
    assert space.stats()["tlb_flushes"] == 1
    space.purge()
    assert space.stats()["tlb_flushes"] == 2


# -- random programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", EVERY_ARCH)
def test_random_programs_never_see_old_contents(arch: str, kernel: str) -> None:
    """Section 4.1, on several CPUs: each read gives what the present owner wrote, or a fault; never anything else.

    Each area is filled with a number of its own, so that bytes tell whose they are.
    """
    draw = random.Random(f"{arch} {kernel}")
    space = small(arch, kernel, cpus=4)
    page = space.state.page_size
    live: dict[int, tuple[object, int, bytes]] = {}
    gone: list[int] = []
    for serial in range(1, 400):
        mark = serial.to_bytes(8, "little")
        with space.on_cpu(draw.randrange(4)):
            step = draw.random()
            if step < 0.35:
                nr_pages = draw.choice([1, 1, 2, 3, 5, 9])
                area = space.vmalloc(nr_pages * page)
                for i in range(nr_pages):
                    space.store(area.address + i * page, mark)
                assert not [n for n in live if n < area.end and area.address < n + live[n][1] * page]
                live[area.address] = (area, nr_pages, mark)
                gone = [address for address in gone if not area.address <= address < area.end]
            elif step < 0.6 and live:
                address = draw.choice(sorted(live))
                area, nr_pages, _ = live.pop(address)
                if draw.random() < 0.2:
                    with space.in_context("hardirq"):
                        space.vfree(area)
                    space.run_deferred()
                else:
                    space.vfree(area)
                gone += [address + i * page for i in range(nr_pages)]
            elif step < 0.65:
                space.purge(full=draw.random() < 0.5)
            elif step < 0.68:
                space.vm_unmap_aliases()
            elif live:
                address = draw.choice(sorted(live))
                _, nr_pages, mark = live[address]
                assert space.load(address + draw.randrange(nr_pages) * page, 8) == mark
            for address in draw.sample(gone, min(3, len(gone))):
                with pytest.raises(Fault) as caught:
                    space.load(address, 8)
                assert caught.value.kind in ("freed", "stale_tlb", "unmapped", "guard")
    space.purge()
    stale = space.stats()["faults_stale_tlb"]
    for address in gone:
        for cpu in range(4):
            assert fault_kind(space, cpu, address) != "stale_tlb"
    assert space.stats()["faults_stale_tlb"] == stale
    for address, (_, nr_pages, mark) in live.items():
        for cpu in range(4):
            assert [read(space, cpu, address + i * page) for i in range(nr_pages)] == [mark] * nr_pages
    validate(space)


# -- flushes: how, and how many interrupts (section 4.12) --------------------------------------------------------------


def flush_of(space: SimulatedSpace, nr_pages: int) -> dict[str, float]:
    """What the purge of one area of so many pages, guard included, flushes."""
    settle(space)
    area = space.vmalloc((nr_pages - 1) * space.state.page_size)
    before = space.stats()
    area.free()
    space.purge()
    after = space.stats()
    names = ("tlb_flushes", "tlb_range_flushes", "tlb_full_flushes", "tlb_flushed_pages", "ipis")
    return {name: after[name] - before[name] for name in names}


@pytest.mark.parametrize(
    ("arch", "limit"),
    [("x86_64", 33), ("x86_32", 33), ("riscv64_sv48", 64), ("arm64_4k", 511), ("s390x", None), ("ppc64_radix", None)],
)
def test_a_flush_of_more_pages_than_the_limit_is_whole(arch: str, limit: int | None) -> None:
    """Section 4.12: x86 up to 33 pages one by one, riscv 64; arm64 whole at a table's worth of PTEs."""
    space = small(arch)
    at_limit = 400 if limit is None else limit
    by_page = flush_of(space, at_limit)
    assert (by_page["tlb_flushes"], by_page["tlb_range_flushes"]) == (1, 1)
    assert by_page["tlb_flushed_pages"] == at_limit
    if limit is not None:
        whole = flush_of(space, limit + 1)
        assert (whole["tlb_full_flushes"], whole["tlb_range_flushes"], whole["tlb_flushed_pages"]) == (1, 0, 0)


@pytest.mark.parametrize(("arch", "each"), [("x86_64", 2), ("s390x", 2), ("arm64_4k", 0), ("arm64_64k", 0)])
def test_each_flush_interrupts_every_other_cpu_or_is_broadcast(arch: str, each: int) -> None:
    """Section 4.12: IPIs; arm64 has broadcast instructions."""
    space = small(arch)
    assert flush_of(space, 3)["ipis"] == each
    assert flush_of(space, 600 if arch != "arm64_64k" else 90)["ipis"] == each


def test_the_flush_of_a_purge_is_the_hull_and_therefore_almost_always_whole() -> None:
    """Section 4.12: two small areas far apart cost a full flush."""
    space = small(kernel="6.19")
    areas = [space.vmalloc(4096) for _ in range(40)]
    for area in (areas[0], areas[-1]):
        area.free()
    space.purge()
    assert space.stats()["tlb_full_flushes"] == 1
    assert space.stats()["tlb_flushes"] == 1
    assert space.stats()["flush_hull_bytes"] == areas[-1].vm.end - areas[0].address


# -- tables of other roots (section 8.4) -------------------------------------------------------------------------------


def test_arm32_copies_a_missing_entry_at_the_first_touch() -> None:
    """Section 8.4: arm32 copies lazily in the translation fault handler: once per CPU and top entry; counted."""
    space = small("arm32")
    area = space.vzalloc(4096)
    for cpu in range(3):
        assert read(space, cpu, area.address) == bytes(8)
        assert space.stats()["vmalloc_faults"] == cpu + 1
    for cpu in range(3):
        assert read(space, cpu, area.address) == bytes(8)
    beside = space.vzalloc(4096)  # under the same top entry
    assert beside.address >> 21 == area.address >> 21
    assert read(space, 1, beside.address) == bytes(8)
    assert space.stats()["vmalloc_faults"] == 3
    far = space.vmalloc_node_range(4096, 1, space.state.vmalloc_start + (32 << 20), space.state.vmalloc_end)
    read(space, 1, far.address)
    assert space.stats()["vmalloc_faults"] == 4
    validate(space)


def test_a_vmalloc_fault_in_an_nmi_is_not_mended() -> None:
    """Section 8.4: the handler must not run there; the same access in task context is mended."""
    space = small("arm32")
    area = space.vzalloc(4096)
    with space.in_context("nmi"), pytest.raises(Fault) as caught:
        space.load(area.address, 4)
    assert caught.value.kind == "unmapped"
    assert space.stats()["vmalloc_faults"] == 0
    with space.in_context("hardirq"):
        assert space.load(area.address, 4) == bytes(4)
    assert space.stats()["vmalloc_faults"] == 1
    with space.in_context("nmi"):
        assert space.load(area.address, 4) == bytes(4)  # now the entry is there


@pytest.mark.parametrize(("arch", "kernel"), [("x86_32", "6.1"), ("x86_32", "6.19"), ("x86_32_pae", "6.19")])
def test_x86_32_copies_new_entries_to_every_root_at_once(arch: str, kernel: str) -> None:
    """Section 8.4: the hook copies the PMD entry into every process table, so that no fault is left to happen."""
    space = small(arch, kernel)
    table = space.machine.page_table
    area = space.vzalloc(4096)
    assert table.hook_runs == 1
    assert table.entries_copied == 3
    for cpu in range(3):
        assert read(space, cpu, area.address) == bytes(8)
    assert space.stats()["vmalloc_faults"] == 0
    runs = table.hook_runs
    space.vzalloc(4096)  # below the same entry: nothing that the mask covers was modified
    assert table.hook_runs == runs
    validate(space)


def test_x86_32_pae_with_shared_tables_needs_no_hook() -> None:
    """Section 8.4: [6.1], [6.12] PAE: mask 0 where kernel PMDs are shared."""
    space = small("x86_32_pae", "6.12")
    area = space.vzalloc(4096)
    assert [read(space, cpu, area.address) for cpu in range(3)] == [bytes(8)] * 3
    assert space.machine.page_table.hook_runs == 0
    assert space.stats()["vmalloc_faults"] == 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("arch", ["x86_64", "x86_64_la57", "arm64_4k", "ppc64_radix", "s390x", "loongarch64"])
def test_shared_or_single_tables_need_no_faults_and_no_copies(arch: str, kernel: str) -> None:
    """Section 8.4: pre-allocated at boot, or one table for all: the hook never has work for vmalloc."""
    space = small(arch, kernel)
    copied = space.machine.page_table.entries_copied
    areas = [space.vzalloc(4096)]
    far = (space.state.vmalloc_start + space.state.vmalloc_end) // 2 & ~((1 << 30) - 1)
    areas.append(space.vmalloc_node_range(4096, 1, far, space.state.vmalloc_end))
    for area in areas:
        for cpu in range(3):
            read(space, cpu, area.address)
    assert space.stats()["vmalloc_faults"] == space.stats()["spurious_faults"] == 0
    assert space.machine.page_table.entries_copied == copied
    assert space.machine.page_table.hook_runs == 0


@pytest.mark.parametrize("arch", ["riscv64_sv39", "riscv64_sv48", "riscv64_sv57"])
def test_riscv_fences_once_per_cpu_where_an_invalid_entry_was_remembered(arch: str) -> None:
    """Section 8.4: some cores cache invalid entries; after mapping, each CPU's next exception fences and retries."""
    space = small(arch)
    first = space.vmalloc(4096)
    behind = first.address + 2 * 4096
    for cpu in (0, 1):
        # The fence that the first mapping asked for is used up here, and helps nothing.
        assert fault_kind(space, cpu, behind) == "unmapped"
        assert not space.machine.mmu.fence_due(cpu)
        assert fault_kind(space, cpu, behind) == "unmapped"
    area = space.vzalloc(4096)
    assert area.address == behind
    assert all(space.machine.mmu.fence_due(cpu) for cpu in range(3))
    assert [read(space, cpu, behind) for cpu in range(3)] == [bytes(8)] * 3
    assert space.stats()["spurious_faults"] == 2  # CPU 2 had not remembered anything
    assert [space.machine.mmu.fence_due(cpu) for cpu in range(3)] == [False, False, True]
    validate(space)
