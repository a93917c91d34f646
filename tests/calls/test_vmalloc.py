"""The allocating calls: sizes, nodes, zeros, gfp rules, messages (sections 1.11, 2.1-2.3)."""

from __future__ import annotations

from functools import partial

import pytest

from calls.watch import KERNELS, PAGE, make, picture, settled
from vmalloc.errors import BadSize, ExceedsMemory, OutOfAddresses, OutOfFrames
from vmalloc.flags import (
    GFP_ATOMIC,
    GFP_DIRECT_RECLAIM,
    GFP_KERNEL,
    GFP_NOFAIL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOWAIT,
    GFP_NOWARN,
    GFP_RETRY_MAYFAIL,
    GFP_THISNODE,
    GFP_ZERO,
    VM_ALLOC,
    VM_IOREMAP,
    VM_NO_GUARD,
    VM_USERMAP,
)
from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.units import MIB

both = pytest.mark.both_builds
every_kernel = pytest.mark.parametrize("kernel", KERNELS)
VS = 0xFFFFC90000000000


@both
@every_kernel
def test_one_byte_takes_one_frame_and_two_pages_of_addresses(kernel: str) -> None:
    """Section 2.1: smallest footprint, guard behind the data, result page aligned."""
    space = make(kernel)
    area = space.vmalloc(1)
    assert (area.address, area.size, area.requested_size, area.nr_pages) == (VS, PAGE, 1, 1)
    assert area.vm.size == 2 * PAGE
    assert area.flags == VM_ALLOC
    assert space.stats()["busy_bytes"] == 2 * PAGE
    space.validate()


@both
@every_kernel
def test_neighbours_are_separated_by_exactly_one_unmapped_page(kernel: str) -> None:
    """Section 2.1: the guard."""
    space = make(kernel)
    first, second = space.vmalloc(3 * PAGE), space.vmalloc(PAGE + 1)
    assert second.address == first.address + 4 * PAGE
    assert second.size == 2 * PAGE
    assert space.vmalloc_to_pfn(first.end) is None
    assert space.vmalloc_to_pfn(first.end - 1) == first.pages[2]


@both
@every_kernel
def test_zero_is_warned_about_once(kernel: str) -> None:
    """Section 2.1: size 0."""
    space = make(kernel)
    for _ in range(2):
        with pytest.raises(BadSize, match="0 bytes"):
            space.vmalloc(0)
    assert len(space.dmesg()) == 1


@both
@every_kernel
def test_too_big_is_said_in_the_kernels_words(kernel: str) -> None:
    """Section 2.1: too big, the layout of the line, __GFP_NOWARN."""
    space = make(kernel)
    size = 64 * MIB + PAGE
    with pytest.raises(ExceedsMemory, match="16384 pages"):
        space.vmalloc(size)
    mode = f"mode:{GFP_KERNEL:#x}(GFP_KERNEL), nodemask=(null)"
    assert space.dmesg() == [f"python: vmalloc error: size {size}, exceeds total pages, {mode}"]
    with pytest.raises(ExceedsMemory):
        space.vmalloc_node(size, 0, gfp=GFP_KERNEL | GFP_NOWARN)
    assert len(space.dmesg()) == 1


@both
@every_kernel
def test_missing_frames_are_said_with_what_was_obtained(kernel: str) -> None:
    """Sections 2.1 and 3.3: up to 6.19 the printed size is what was obtained."""
    space = make(kernel)
    before = picture(space)
    space.machine.fail_next("take", times=None)
    space.machine.fail_next("take_bulk", times=None)
    with pytest.raises(OutOfFrames, match="of 4 page frames are missing for 16384 bytes"):
        space.vmalloc(4 * PAGE)
    obtained = 2 * PAGE  # half of the batch that was asked for, and nothing follows a short one
    assert f"vmalloc error: size {obtained}, failed to allocate pages" in space.dmesg()[0]
    space.machine.clear()
    assert settled(space)["busy"] == before["busy"]
    space.validate()


@both
@every_kernel
def test_frames_of_a_node_come_from_it_and_zeros_are_zeros(kernel: str) -> None:
    """Section 2.2: _node and z forms; 2.1: zero fill only when asked for."""
    space = make(kernel)
    for node in (0, 1):
        area = space.vmalloc_node(5 * PAGE, node)
        assert {space.machine.node_of(pfn) for pfn in area.pages} == {node}
        zeroed = space.vzalloc_node(2 * PAGE, node)
        assert zeroed.node == node
        assert zeroed.read() == bytes(2 * PAGE)
        assert set(area.read()) == {0xAA}
    assert space.vzalloc(3 * PAGE).read() == bytes(3 * PAGE)
    assert space.vcalloc(3, 100).read() == bytes(300)
    assert space.vmalloc_array(3, 100).requested_size == 300
    assert space.vmalloc_node(PAGE, None).node == 0
    with space.on_cpu(3):
        assert space.vmalloc(PAGE).node == 1


@both
def test_old_bytes_are_zeroed_for_vzalloc() -> None:
    """Section 2.1: what was written before does not show."""
    space = make()
    area = space.vmalloc(40 * PAGE)
    area.write(0, b"secret" * 1000)
    area.free()
    assert space.vzalloc(40 * PAGE).read() == bytes(40 * PAGE)


@both
@pytest.mark.parametrize(("arch", "align"), [("x86_64", 4096), ("arm32", 4 * 4096)])
def test_user_areas_are_zero_aligned_and_marked(arch: str, align: int) -> None:
    """Section 2.2: vmalloc_user, vmalloc_32_user."""
    space = make(arch=arch, nodes=1)
    keep = space.vmalloc(1)
    for area in (space.vmalloc_user(100), space.vmalloc_32_user(100)):
        assert area.address % align == 0
        assert area.flags & VM_USERMAP
        assert area.read() == bytes(100)
    assert keep.alive


@both
def test_32_bit_devices_get_frames_that_they_reach() -> None:
    """Section 2.2: vmalloc_32."""
    space = make(memory=["64MiB", "8GiB"])
    limit = 1 << 20
    assert space.vmalloc_node(PAGE, 1).pages[0] < 1 << 24
    high = [space.vmalloc_node(PAGE, 1) for _ in range(3)]
    assert any(area.pages[0] >= limit for area in high)
    assert all(pfn < limit for pfn in space.vmalloc_32(40 * PAGE).pages)
    assert all(pfn < limit for pfn in space.vmalloc_32_user(40 * PAGE).pages)


@both
def test_unsupported_gfp_bits_are_taken_off_once_with_a_warning() -> None:
    """Section 2.3: the supported set (6.19)."""
    space = make("6.19")
    area = space.vmalloc(PAGE, gfp=GFP_KERNEL | GFP_RETRY_MAYFAIL)
    more = space.vmalloc_huge(PAGE, gfp=GFP_KERNEL | GFP_THISNODE)
    assert space.dmesg() == [
        "Unexpected gfp: 0x4000 (__GFP_RETRY_MAYFAIL). Fixing up to gfp: 0xcc0 (GFP_KERNEL). Fix your code!"
    ]
    assert area.alive
    assert more.alive
    inside = space.vmalloc_node_range(PAGE, 1, VS, VS + MIB, gfp=GFP_KERNEL | GFP_THISNODE)
    assert inside.alive
    assert len(space.dmesg()) == 1


@both
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_older_kernels_take_gfp_as_it_is(kernel: str) -> None:
    """Section 2.3: no supported set before 6.19."""
    space = make(kernel)
    assert space.vmalloc(PAGE, gfp=GFP_KERNEL | GFP_RETRY_MAYFAIL).alive
    assert space.dmesg() == []


@both
@every_kernel
@pytest.mark.parametrize("gfp", [GFP_NOWAIT, GFP_ATOMIC])
def test_who_must_not_wait_gets_no_purge(kernel: str, gfp: int) -> None:
    """Sections 1.10 step 7 and 2.1: non-blocking requests do not purge, and are never huge (6.19)."""
    space = make(kernel)
    start, end = VS + 16 * MIB, VS + 16 * MIB + 4 * PAGE
    space.vmalloc_node_range(3 * PAGE, 1, start, end).free()
    if profile(kernel).allows_nonblocking:
        with pytest.raises(OutOfAddresses, match="must not wait"):
            space.vmalloc_node_range(3 * PAGE, 1, start, end, gfp=gfp)
        assert space.stats()["purges"] == 0
        assert space.vmalloc_huge(2 * MIB, gfp=gfp).page_shift == 12
    else:
        assert space.vmalloc_node_range(3 * PAGE, 1, start, end, gfp=gfp).address == start
        assert space.stats()["purges"] == 1
        assert space.vmalloc_huge(4 * MIB, gfp=gfp).page_shift == 21


@both
@every_kernel
@pytest.mark.parametrize(
    ("gfp", "scope"),
    [(GFP_KERNEL, "none"), (GFP_NOFS, "nofs"), (GFP_NOIO, "noio"), (GFP_NOWAIT, "noreclaim")],
)
def test_page_tables_are_made_in_the_scope_of_the_gfp(kernel: str, gfp: int, scope: str) -> None:
    """Section 2.3: the table of scopes."""
    from vmalloc.calls.vmalloc import memalloc_scope

    space = make(kernel)
    expected = "noio" if scope == "noreclaim" and not profile(kernel).allows_nonblocking else scope
    assert memalloc_scope(space.state, gfp) == expected


@both
@every_kernel
def test_nofail_waits_for_deferred_work_and_then_succeeds(kernel: str) -> None:
    """Section 2.3: __GFP_NOFAIL retries; the work that waits is done meanwhile, and every frame is there at the end."""
    space = make(kernel)
    keep = space.vmalloc(PAGE)
    for after in range(4):
        ran: list[int] = []
        space.machine.fail_next("take", times=after + 1)
        space.machine.fail_next("take_bulk", times=1)
        _queue_during(space, partial(ran.append, 1))
        area = space.vmalloc(6 * PAGE, gfp=GFP_KERNEL | GFP_NOFAIL)
        space.machine.clear()
        assert area.nr_pages == 6
        assert len(set(area.pages)) == 6
        space.validate()
    assert keep.alive


def _queue_during(space: object, work: object) -> None:
    """Queues work behind what the next call runs first: the first piece queues another one each time it is asked."""
    machine = space.machine  # type: ignore[attr-defined]
    original = space.state.observer  # type: ignore[attr-defined]

    def observe(event: str, **fields: object) -> None:
        if event == "alloc_vmap_area":
            for _ in range(6):
                machine.defer(work, 0)
        if original is not None:
            original(event, **fields)

    space.state.observer = observe  # type: ignore[attr-defined]


@both
def test_nofail_of_who_must_not_wait_is_no_nofail() -> None:
    """Section 2.3: NOFAIL combined with non-blocking is treated as not NOFAIL (6.19)."""
    space = make("6.19")
    ran: list[int] = []
    _queue_during(space, partial(ran.append, 1))
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(PAGE, gfp=(GFP_NOFAIL | GFP_KERNEL) & ~GFP_DIRECT_RECLAIM)
    assert ran == []
    assert space.state.failures == 1


@both
@every_kernel
def test_nofail_that_nothing_can_help_says_so(kernel: str) -> None:
    """Section 2.3: it would retry for ever; the message is the kernel's."""
    space = make(kernel)
    window = (VS, VS + PAGE)
    with pytest.raises(OutOfAddresses) as caught:
        space.vmalloc_node_range(PAGE, 1, *window, gfp=GFP_KERNEL | GFP_NOFAIL)
    assert any("retry for ever" in note for note in caught.value.__notes__)
    assert "vmalloc error: size 4096, vm_struct allocation failed. Retrying." in space.dmesg()[-1]


@both
@every_kernel
def test_a_failed_reservation_is_said_also_for_huge_attempts(kernel: str) -> None:
    """Section 3.1: failure of step 1, once per mapping size that was tried."""
    space = make(kernel)
    space.machine.fail_next("slab", what="vm_struct")
    area = space.vmalloc_huge(4 * MIB)
    assert area.page_shift == 12
    assert [line for line in space.dmesg() if "size 4194304, vm_struct allocation failed" in line]
    assert space.stats()["huge_fallbacks"] == 1


@both
def test_io_areas_are_aligned_to_their_size_without_the_guard() -> None:
    """Section 1.11 step 3: clamped between a page and the architecture's limit, before the guard is added."""
    space = make()
    keep = [space.get_vm_area(PAGE)]
    for size, align in [(1, PAGE), (3 * PAGE, 4 * PAGE), (MIB, MIB), (MIB + 1, 2 * MIB), (3 << 30, 1 << 30)]:
        area = space.get_vm_area(size, VM_IOREMAP)
        keep.append(area)
        assert area.address % align == 0
        assert area.vm.align == align
        assert area.vm.size == area.size + PAGE


@both
@every_kernel
def test_no_guard_page_with_vm_no_guard(kernel: str) -> None:
    """Section 1.11 step 5."""
    space = make(kernel)
    first, second = space.get_vm_area(PAGE, VM_NO_GUARD), space.get_vm_area(PAGE, VM_NO_GUARD)
    assert second.address == first.address + PAGE
    assert first.size == first.vm.size == PAGE


@both
@every_kernel
@pytest.mark.parametrize("what", ["vm_struct", "vmap_area", "page array"])
def test_a_missing_record_fails_the_call_and_nothing_stays(kernel: str, what: str) -> None:
    """Sections 1.11 step 4, 1.10 step 4 and 3.3."""
    space = make(kernel)
    before = settled(space)
    space.machine.fail_next("slab", what=what)
    with pytest.raises(OutOfFrames, match="no memory for a"):
        space.vmalloc(2 * PAGE)
    assert settled(space) == before
    space.validate()


@both
@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_every_architecture_allocates_reads_and_frees(arch: str) -> None:
    """Section 2.1 on all of section 8's architectures."""
    space = make(arch=arch, nodes=1, memory="256MiB")
    area = space.vmalloc(100000)
    area.write(99990, b"0123456789")
    assert area.read(99990, 10) == b"0123456789"
    area.free()
    space.purge(full=True)
    space.validate()
    assert space.stats()["areas"] == 0


@both
def test_zero_flag_of_vmalloc_zeroes() -> None:
    """Section 2.2: __vmalloc with the caller's gfp."""
    assert make().vmalloc(100, gfp=GFP_KERNEL | GFP_ZERO).read() == bytes(100)
