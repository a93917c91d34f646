"""Mapping frames for a short time: pieces of blocks, ranges, and giving them back (sections 5.4 and 5.5, A.11)."""

from __future__ import annotations

import pytest

from calls.ram import BLOCK, LOW, MAPPED, Watched
from calls.watch import KERNELS, PAGE, make, picture, refused, settled, unchanged
from vmalloc.errors import BadAddress, BadContext, BadFrame, BadRequest, BadSize, Fault, OutOfAddresses, OutOfFrames

pytestmark = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
since_612 = pytest.mark.parametrize("kernel", KERNELS[1:])


# -- appendix A.11 -----------------------------------------------------------------------------------------------------


@since_612
def test_a11_two_cpus_step_by_step(kernel: str) -> None:
    """Appendix A.11, the table: addresses, counts, events and flushes of each step."""
    w = Watched(kernel, cpus=2)
    one, three, eight = w.map(1), w.map(3), w.map(8)
    assert [one, three, eight] == [0x10000000, 0x10001000, 0x10005000]
    assert w.block(MAPPED) == (1011, 0, None)
    other = w.map(1, cpu=1)
    assert other == 0x10400000
    sizes = [(event, fields["size"], fields["failed"]) for event, fields in w.events()]
    assert sizes == [("alloc_vmap_area", 4194304, 0)] * 2
    assert {area.start: area.flags for area in w.space.state.space.busy()} == {0x10000000: 0x103, 0x10400000: 0x203}

    w.unmap(three, 3)
    assert w.block(MAPPED) == (1011, 4, (1, 5))
    assert (w.space.state.blocks.nr_slots, w.space.state.blocks.index.items(0)[0][0]) == (2, 0)
    assert w.flushes() == []

    assert w.space.vm_unmap_aliases() == (0x10001000, 0x10005000)
    assert w.block(MAPPED) == (1011, 4, None)
    assert w.events() == [("purge_vmap_area_lazy", {"start": 0x10001000, "end": 0x10005000, "num_purged": 0})]
    assert w.flushes() == [(0x10001000, 0x10005000)]

    fourth = w.map(1)
    assert fourth == 0x1000D000
    assert w.block(MAPPED) == (1010, 4, None)
    w.unmap(one, 1)
    w.unmap(eight, 8)
    w.unmap(fourth, 1)
    assert w.block(MAPPED) == (1010, 14, (0, 14))

    assert w.space.vm_unmap_aliases() == (0x10000000, 0x1000E000)
    assert w.block(MAPPED) == (1010, 14, None)  # not purged: 1010 are free
    assert w.flushes() == [(0x10000000, 0x1000E000)]
    w.events()
    w.space.validate()

    w.space.purge(full=True)
    assert w.flushes() == [(0x10000000, 0x10400000)]
    names = [(event, fields.get("nr_lazy"), fields.get("num_purged")) for event, fields in w.events()]
    assert names == [("free_vmap_area_noflush", 1024, None), ("purge_vmap_area_lazy", None, 1)]
    assert [(area.start, area.state) for area in w.space.state.space.busy()] == [(0x10400000, "busy")]
    assert w.map(1) == 0x10000000  # the range is back in the free tree
    w.space.validate()


@since_612
def test_a11_one_cpu_a_block_is_destroyed_while_aliases_are_unmapped(kernel: str) -> None:
    """Appendix A.11: below a quarter free, the block goes in the same call."""
    w = Watched(kernel, cpus=1)
    pieces = [w.map(64) for _ in range(13)]
    assert w.block(MAPPED) == (192, 0, None)
    for address in pieces[:12]:
        w.unmap(address, 64)
    assert w.block(MAPPED) == (192, 768, (0, 768))
    assert w.space.vm_unmap_aliases() == (0x10000000, 0x10300000)
    assert w.flushes() == [(0x10000000, 0x10300000)]
    w.unmap(pieces[12], 64)
    assert w.block(MAPPED) == (192, 832, (768, 832))
    w.events()
    assert w.space.vm_unmap_aliases() == (0x10000000, 0x10400000)
    assert w.flushes() == [(0x10000000, 0x10400000)]
    assert w.events()[-1] == (
        "purge_vmap_area_lazy", {"start": 0x10000000, "end": 0x10400000, "num_purged": 1},
    )  # fmt: skip
    assert w.space.stats()["ram_blocks"] == w.space.stats()["busy_areas"] == 0
    w.space.validate()


@every_kernel
def test_a11_a_full_block_leaves_the_queue_and_goes_when_all_of_it_is_dirty(kernel: str) -> None:
    """Appendix A.11, the end; section 5.5: destroyed at once, into the lazy stage."""
    w = Watched(kernel, cpus=1)
    pieces = [w.map(64) for _ in range(16)]
    assert w.block(MAPPED) == (0, 0, None)
    assert w.map(1) == 0x10400000
    for address in pieces[:15]:
        w.unmap(address, 64)
    assert w.space.stats()["lazy_pages"] == 0
    w.unmap(pieces[15], 64)
    stats = w.space.stats()
    assert (stats["lazy_areas"], stats["lazy_pages"], stats["ram_blocks"]) == (1, 1024, 1)
    assert w.flushes() == []
    w.space.validate()


# -- section 5.4 -------------------------------------------------------------------------------------------------------


@every_kernel
def test_what_is_mapped_can_be_read_and_written_on_every_cpu(kernel: str) -> None:
    """Section 5.4: base pages, readable and writable, in the order of the list; the frames stay whose they are."""
    space = make(kernel)
    before = settled(space)
    frames = space.alloc_pages(70)
    for count in (1, 3, 64, 65):
        address = space.vm_map_ram(list(reversed(frames[:count])))
        space.store(address, b"first")
        space.store(address + count * PAGE - 4, b"last")
        alias = space.vmap(frames[:count])
        with space.on_cpu(3):
            assert space.load(alias.address + (count - 1) * PAGE, 5) == b"first"
            assert space.load(alias.address + PAGE - 4, 4) == b"last"
        assert [space.vmalloc_to_pfn(address + k * PAGE) for k in range(count)] == frames[:count].numbers()[::-1]
        assert space.find_vm_area(address) is None
        assert space.is_vmalloc_addr(address)
        space.vunmap(alias)
        space.vm_unmap_ram(address, count)
        assert space.vmalloc_to_pfn(address) is None
    space.validate()
    space.free_pages(frames)
    assert settled(space) == before


@every_kernel
def test_frames_may_stand_in_the_list_twice_and_come_from_areas(kernel: str) -> None:
    space = make(kernel)
    area = space.vmalloc(2 * PAGE)
    address = space.vm_map_ram([area, area.pages[0]], node=1)
    space.store(address, b"abc")
    assert space.load(address + 2 * PAGE, 3) == area.read(0, 3) == b"abc"
    with pytest.raises(Fault):
        space.load(address + 3 * PAGE, 1)
    space.vm_unmap_ram(address, 3)
    assert area.read(0, 3) == b"abc"


@every_kernel
def test_more_pages_than_the_largest_piece_get_a_range_of_exactly_their_size(kernel: str) -> None:
    """Section 5.4: no guard page, no vm_struct; the flags tell it from a block since 6.4."""
    w = Watched(kernel, cpus=2)
    first, second = w.map(65), w.map(70, cpu=1)
    assert [first, second] == [MAPPED, MAPPED + 65 * PAGE]
    requests = [(fields["size"], fields["align"]) for _event, fields in w.events()]
    assert requests == [(65 * PAGE, PAGE), (70 * PAGE, PAGE)]
    flags = [area.flags for area in w.space.state.space.busy()]
    assert flags == ([0, 0] if kernel == "6.1" else [0x101, 0x201])
    assert w.space.stats()["ram_ranges"] == 2
    w.space.validate()
    w.unmap(first, 65)
    assert [(a.start, a.end) for a in w.space.state.space.lazy()] == [(first, first + 65 * PAGE)]
    assert w.flushes() == []
    w.space.purge()
    assert w.flushes() == [(first, first + 65 * PAGE)]
    assert w.map(65) == first  # by the pool of CPU 0's node, or from the tree
    w.space.validate()


@every_kernel
def test_32_bits_have_smaller_pieces_and_blocks(kernel: str) -> None:
    """Sections 5.1 and 5.4: up to 32 pages; a block of 512 on four CPUs."""
    w = Watched(kernel, cpus=4, arch="x86_32")
    start = w.map(32)
    assert [area.size for area in w.space.state.space.busy()] == [512 * PAGE]
    assert start % (512 * PAGE) == 0
    large = w.map(33)
    assert w.space.stats()["ram_ranges"] == 1
    pieces = [w.map(32) for _ in range(15)]
    assert pieces == [start + k * 32 * PAGE for k in range(1, 16)]
    assert w.map(1) == start + 2 * 512 * PAGE  # the range is in the way of the next
    for address in [start, *pieces]:
        w.unmap(address, 32)
    assert w.space.stats()["lazy_pages"] == 512
    w.unmap(large, 33)
    w.space.validate()


@every_kernel
def test_each_cpu_has_blocks_of_its_own_and_takes_the_oldest_with_room(kernel: str) -> None:
    """Section 5.4: the current CPU's queue from its head, new blocks at its tail."""
    w = Watched(kernel, cpus=3)
    assert [w.map(1, cpu) for cpu in (2, 0, 1)] == [MAPPED, MAPPED + BLOCK, MAPPED + 2 * BLOCK]
    for _ in range(15):
        w.map(64, cpu=0)
    assert w.map(64, cpu=0) == MAPPED + 3 * BLOCK  # 63 pages are left in the first
    assert w.map(32, cpu=0) == MAPPED + BLOCK + 961 * PAGE
    assert w.map(2, cpu=2) == MAPPED + PAGE
    queues = [[w.space.state.blocks.get(b)["va_start"] for b in w.space.state.blocks.queued(c)] for c in range(3)]
    assert queues == [[MAPPED + BLOCK, MAPPED + 3 * BLOCK], [MAPPED + 2 * BLOCK], [MAPPED]]
    w.space.validate()


@every_kernel
def test_what_vm_map_ram_refuses(kernel: str) -> None:
    """Section 5.4: no page is warned about; frames that are no memory; interrupts."""
    space = make(kernel)
    frames = space.alloc_pages(2)
    with refused(space, BadSize, "no page to map"):
        space.vm_map_ram([])
    assert space.dmesg()[-1] == "vm_map_ram: no page to map"
    with refused(space, BadFrame, "no memory of this machine"):
        space.vm_map_ram([frames[0], 1 << 40])
    with refused(space, BadRequest, "node 2 of a machine"):
        space.vm_map_ram(frames, node=2)
    address = space.vm_map_ram(frames)
    for context in ("softirq", "hardirq", "nmi"):
        with space.in_context(context):
            with refused(space, BadContext, context):
                space.vm_map_ram(frames)
            with refused(space, BadContext, context):
                space.vm_unmap_ram(address, 2)


# -- section 5.5 -------------------------------------------------------------------------------------------------------


@every_kernel
def test_another_cpu_may_unmap(kernel: str) -> None:
    """Sections 5.3 and 5.5: the index finds the block; it stays in the queue of the CPU that made it."""
    w = Watched(kernel, cpus=4)
    pieces = [(w.map(5, cpu), cpu) for cpu in (0, 1, 2, 3, 0, 1)]
    for address, cpu in pieces:
        w.unmap(address, 5, cpu=(cpu + 1) % 4)
    assert w.space.stats()["ram_pages_dirty"] == 6 * 8
    assert [len(w.space.state.blocks.queued(cpu)) for cpu in range(4)] == [1] * 4
    assert w.map(1, cpu=0) == pieces[0][0] + 16 * PAGE
    w.space.validate()


@every_kernel
def test_stale_translations_last_until_aliases_are_flushed(kernel: str) -> None:
    """Sections 4.9 and 5.5: unmapping flushes nothing, vm_unmap_aliases does, and the pages are not reused before."""
    space = make(kernel)
    frames = space.alloc_pages(2)
    address = space.vm_map_ram(frames)
    space.store(address, b"old")
    space.vm_unmap_ram(address, 2)
    for cpu, kind in ((0, "stale_tlb"), (1, "freed")):
        with space.on_cpu(cpu), pytest.raises(Fault, match=r"vm_map_ram block .* unmapped since") as caught:
            space.load(address, 1)
        assert caught.value.kind == kind
    assert space.vm_map_ram(frames) == address + 2 * PAGE
    space.purge()  # nothing is lazy: it flushes nothing
    with pytest.raises(Fault) as caught:
        space.load(address, 1)
    assert caught.value.kind == "stale_tlb"
    assert space.vm_unmap_aliases() == (address, address + 2 * PAGE)
    with pytest.raises(Fault) as caught:
        space.load(address, 1)
    assert caught.value.kind == "freed"


@every_kernel
def test_debug_pagealloc_flushes_at_once_and_changes_nothing_else(kernel: str) -> None:
    """Section 5.5."""
    w = Watched(kernel)
    w.space.state.debug_pagealloc = True
    small, large = w.map(3), w.map(65)
    w.unmap(small, 3)
    w.unmap(large, 65)
    assert w.flushes() == [(small, small + 3 * PAGE), (large, large + 65 * PAGE)]
    assert w.block(small) == (1020, 4, (0, 4))
    assert w.space.stats()["lazy_pages"] == 65


@every_kernel
def test_what_is_not_mapped_so_cannot_be_unmapped(kernel: str) -> None:
    """Section 5.5: where the kernel stops, or loses memory, an error says what is there, and nothing is changed."""
    space = make(kernel)
    frames = space.alloc_pages(70)
    three, eight, large = (space.vm_map_ram(frames[:n]) for n in (3, 8, 70))
    gone = space.vm_map_ram(frames[:2])
    space.vm_unmap_ram(gone, 2)
    area = space.vmalloc(PAGE)
    untouched = space.state.blocks.get(1)["va_start"] + 700 * PAGE
    for address, count, error, words in (
        (0, 1, BadAddress, "not in the vmalloc range"),
        (-PAGE, 1, BadAddress, "not in the vmalloc range"),
        (1 << 70, 1, BadAddress, "not in the vmalloc range"),
        (space.state.vmalloc_end & -PAGE, 1, BadAddress, "begins there|nothing that vm_map_ram mapped|not in the"),
        (three + 8, 3, BadAddress, "not page aligned"),
        (three, 0, BadSize, "0 pages: at least 1"),
        (three, -1, BadSize, "-1 pages: at least 1"),
        (three, 1 << 80, BadSize, "mapped 3 there"),
        (three, 4, BadSize, "vm_unmap_ram of 4 pages .* mapped 3 there"),
        (eight, 7, BadSize, "vm_unmap_ram of 7 pages .* mapped 8 there"),
        (eight + PAGE, 7, BadAddress, "4096 bytes into the 8 pages that vm_map_ram mapped"),
        (three + 3 * PAGE, 1, BadAddress, "0 bytes behind the 3 pages .* rounding to a power of two"),
        (large, 64, BadSize, "mapped 70 there"),
        (large + PAGE, 69, BadAddress, "4096 bytes into the 70 pages"),
        (gone, 2, BadAddress, "unmapped since"),
        (untouched, 1, BadAddress, "never handed out"),
        (area.address, 1, BadAddress, "nothing that vm_map_ram mapped, or was unmapped already"),
    ):
        with refused(space, error, words):
            space.vm_unmap_ram(address, count)
    space.vm_unmap_ram(large, 70)
    with refused(space, BadAddress, "unmapped already"):
        space.vm_unmap_ram(large, 70)
    with refused(space, BadAddress, "without a vm_struct"):
        space.vfree(three)
    with pytest.raises(TypeError):
        space.vm_unmap_ram(three, 3.0)  # type: ignore[arg-type]
    space.vm_unmap_ram(three, 3)
    space.vm_unmap_ram(eight, 8)


# -- running short -----------------------------------------------------------------------------------------------------


@every_kernel
def test_records_that_are_missing_leave_nothing_behind(kernel: str) -> None:
    """Section 5.4: the record of the block, then that of its range."""
    space = make(kernel)
    frames = space.alloc_pages(70)
    for record, count in (("vmap_block", 1), ("vmap_area", 1), ("vmap_area", 70)):
        space.machine.fail_next("slab", what=record)
        with refused(space, OutOfFrames, f"no memory for a {record}"):
            space.vm_map_ram(frames[:count])
    address = space.vm_map_ram(frames[:1])
    space.machine.fail_next("slab", times=None)
    assert space.vm_map_ram(frames[:1]) == address + PAGE  # a piece of a block needs no record
    space.machine.clear()


@every_kernel
@pytest.mark.parametrize("operation", ["map_pages", "page_table"])
def test_a_piece_that_cannot_be_mapped_is_dirty_and_its_block_stays(kernel: str, operation: str) -> None:
    """Section 5.4: undone by vm_unmap_ram, so the pages are lost to the block, as in the kernel."""
    w = Watched(kernel)
    first = w.map(1)
    before = picture(w.space)
    w.machine.inner.fail_next(operation)
    with pytest.raises(OutOfFrames, match="no page frame for a page table"):
        w.map(3)
    assert w.block(first) == (1019, 4, (1, 5))
    assert picture(w.space) == before
    assert w.map(3) == first + 5 * PAGE
    w.space.validate()


@every_kernel
def test_a_range_that_cannot_be_mapped_is_lazy(kernel: str) -> None:
    """Section 5.4: the undo is that of vm_unmap_ram here, too. A table is missing in its middle: half is mapped."""
    space = make(kernel, cpus=1)
    frames = space.alloc_pages(1024)
    before = settled(space)
    space.machine.fail_next("page_table", after=1)
    with pytest.raises(OutOfFrames):
        space.vm_map_ram(frames)
    assert [area.size for area in space.state.space.lazy()] == [1024 * PAGE]
    space.validate()
    assert settled(space) == before


@every_kernel
def test_somebody_elses_mapping_is_in_the_way(kernel: str) -> None:
    """What was mapped behind the allocator's back is found before it is lost."""
    space = make(kernel)
    frames = space.alloc_pages(3)
    address = space.vm_map_ram(frames[:1])
    space.machine.map_pages(address + 2 * PAGE, frames, 2, 1, 3)
    with pytest.raises(BadAddress, match=r"mapped in .* already"):
        space.vm_map_ram(frames)


@every_kernel
def test_addresses_run_out_after_idle_blocks_were_given_back(kernel: str) -> None:
    """Sections 1.10 step 11, 4.4 and 5.6: sixteen blocks fill the range; only those in which nothing is live return."""
    w = Watched(kernel, cpus=16)
    pieces = [w.map(1, cpu) for cpu in range(15)]
    rest = w.space.get_vm_area(1023 * PAGE)
    for cpu in (3, 4, 9):
        w.unmap(pieces[cpu], 1, cpu)
    w.events()
    area = w.space.get_vm_area(2 * BLOCK - PAGE)
    assert area.address == pieces[3]
    events = [event for event, _fields in w.events()]
    assert events == [
        "alloc_vmap_area", *["free_vmap_area_noflush"] * 3, "purge_vmap_area_lazy", "alloc_vmap_area",
    ]  # fmt: skip
    assert w.map(1, cpu=9) == pieces[9]
    with pytest.raises(OutOfAddresses):
        w.map(1, cpu=15)
    w.space.validate()
    assert rest.alive


# -- pictures ----------------------------------------------------------------------------------------------------------


@every_kernel
def test_vmallocinfo_shows_blocks_and_ranges(kernel: str) -> None:
    """Section 10.1."""
    w = Watched(kernel, cpus=1)
    w.map(1)
    w.map(70)
    assert [line[:60].split() for line in w.space.vmallocinfo().splitlines()] == [
        ["0x0000000010000000-0x0000000010400000", "4194304", "vm_map_ram"],
        ["0x0000000010400000-0x0000000010446000", "286720", "vm_map_ram"],
    ]


@every_kernel
def test_stats_count_blocks_and_their_pages(kernel: str) -> None:
    w = Watched(kernel, cpus=2)
    three = w.map(3)
    w.map(5, cpu=1)
    w.map(65)
    w.unmap(three, 3)
    stats = w.space.stats()
    found = {name: number for name, number in stats.items() if name.startswith("ram_")}
    assert found == {
        "ram_blocks": 2, "ram_pages_free": 2048 - 12, "ram_pages_dirty": 4, "ram_pages_live": 8, "ram_ranges": 1,
    }  # fmt: skip
    assert (stats["areas"], stats["busy_areas"], stats["pages"]) == (0, 3, 0)


@every_kernel
def test_closing_unmaps_what_is_left(kernel: str) -> None:
    w = Watched(kernel, cpus=2)
    w.map(3)
    gone = w.map(9, cpu=1)
    w.map(70)
    for _ in range(16):
        w.map(64)
    w.unmap(gone, 9)
    w.space.close()
    state = w.space.state
    assert (state.ram_ranges, state.blocks.indexed(), state.space.busy(), state.space.lazy()) == ({}, [], [], [])
    assert w.machine.inner.inner.page_table.leaves_by_shift().get(12, 0) == 0
    state.validate()


@since_612
def test_vread_reads_the_used_pages_of_blocks(kernel: str) -> None:
    """Section 2.9: what was unmapped and what was never handed out are zeros; ranges are read page by page."""
    space = make(kernel)
    frames = space.alloc_pages(70)
    whole = space.vmap(frames)
    for k in range(70):
        space.store(whole.address + k * PAGE, bytes([k + 1]) * PAGE)
    space.vunmap(whole)
    three, two, large = (space.vm_map_ram(frames[:n]) for n in (3, 2, 70))
    space.vm_unmap_ram(two, 2)
    expected = b"".join(bytes([k + 1]) * PAGE for k in range(3)) + bytes(5 * PAGE)
    assert space.vread(three, 8 * PAGE) == expected
    assert space.vread(three + 100, 5 * PAGE) == expected[100 : 100 + 5 * PAGE]
    read = space.vread(large - PAGE, 72 * PAGE)
    assert read == bytes(PAGE) + b"".join(bytes([k + 1]) * PAGE for k in range(70)) + bytes(PAGE)


def test_vread_of_6_1_does_not_know_which_pages_are_in_use() -> None:
    """Section 13: no used_map and no flags in 6.1."""
    space = make("6.1")
    frames = space.alloc_pages(70)
    for count in (2, 70):
        address = space.vm_map_ram(frames[:count])
        space.store(address, b"there")
        assert space.vread(address, PAGE) == bytes(PAGE)


def test_the_number_of_cpus_the_kernel_was_built_for_is_an_argument_of_the_state() -> None:
    """Section 5.1: NR_CPUS is a constant of the build, not the machine's."""
    from vmalloc.calls.state import VmallocState

    machine = make("6.19", arch="x86_32", cpus=1, nodes=1).machine
    assert VmallocState(machine, make().state.kernel).blocks.block_pages == 1024
    assert VmallocState(machine, make().state.kernel, nr_cpus=9).blocks.block_pages == 128


def test_the_low_machine_is_that_of_the_appendix() -> None:
    assert (LOW.vmalloc_start, LOW.vmalloc_end) == (0x10000000, 0x14000000)
    with unchanged(Watched().space):
        pass
