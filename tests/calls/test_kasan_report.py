"""What a report says of an address: which bug, whose byte, which region and page (sections 9.6 and 9.7)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from calls.watch import KERNELS
from kasan.rig import PAGE, UNIT, checked
from vmalloc.errors import BadAddress, BadFree, BadSize, Fault
from vmalloc.kasan.report import KasanReport
from vmalloc.space.simulated import SimulatedSpace, simulated

pytestmark = pytest.mark.both_builds


def report_of(space: SimulatedSpace, address: int, size: int = 1) -> KasanReport:
    with pytest.raises(Fault) as caught:
        space.load(address, size)
    assert isinstance(caught.value.report, KasanReport)
    return caught.value.report


@pytest.mark.parametrize(
    ("arch", "address", "bug"),
    [
        ("x86_64", 0, "null-ptr-deref"),
        ("x86_64", PAGE - 1, "null-ptr-deref"),
        ("x86_64", PAGE, "user-memory-access"),
        ("x86_64", (1 << 47) - 1, "user-memory-access"),
        ("x86_64", 1 << 47, "wild-memory-access"),
        ("x86_64", 0xFFFF7FFFFFFFFFFF, "wild-memory-access"),
        ("x86_64", 0xFFFFC91000000000, "wild-memory-access"),
        ("arm64_64k", 0xFFFF, "null-ptr-deref"),
        ("arm64_64k", 0x10000, "user-memory-access"),
        ("arm64_64k", (1 << 48) - 1, "user-memory-access"),
        ("arm64_64k", 1 << 48, "wild-memory-access"),
        ("riscv64_sv39", (1 << 38) - 1, "user-memory-access"),
        ("riscv64_sv39", 1 << 38, "wild-memory-access"),
        ("s390x", 8, "null-ptr-deref"),
        ("s390x", 1 << 53, "wild-memory-access"),
    ],
)
def test_an_address_without_metadata(arch: str, address: int, bug: str) -> None:
    """Section 9.6: below a page, user space, and the rest."""
    space = simulated(arch, memory="64MiB", kasan=True)
    found = report_of(space, address)
    assert (found.bug, found.shadow, found.bad_address, found.reported_address) == (bug, None, address, address)
    assert (found.cause, found.allocation) == ("wild-access", None)


def test_an_access_that_wraps_round_is_out_of_bounds() -> None:
    """Section 9.6: a negative length."""
    space = checked()
    area = space.vmalloc(100)
    top = (1 << 64) - 1
    for address, size, bad in ((top - 3, 5, 0), (area.address, 1 << 64, area.address + 100), (top, 1 << 63, 0)):
        found = report_of(space, address, size)
        assert (found.bug, found.bad_address) == ("out-of-bounds", bad)


@pytest.mark.parametrize("kasan", [False, True])
def test_what_is_no_access_is_refused_as_without_kasan(kasan: bool) -> None:
    space = checked(kasan=kasan)
    for address, size, error in ((-1, 1, BadAddress), (1 << 64, 1, BadAddress), (5, -1, BadSize), (-1, 0, BadAddress)):
        with pytest.raises(error):
            space.load(address, size)
    with pytest.raises(BadAddress):
        space.store(-1, b"x")
    assert space.load(space.vmalloc(1).address, 0) == b""


def test_the_kernel_names_a_granule_and_the_report_the_byte() -> None:
    """Section 9.6: found by steps of eight from the first byte on."""
    space = checked()
    area = space.vmalloc(5001)
    for first, reported in ((4995, 5003), (4993, 5001), (4960, 5000), (5000, 5000), (5003, 5003), (4999, 5007)):
        found = report_of(space, area.address + first, 5012 - first)
        assert found.bad_address == area.address + max(first, 5001)
        assert found.reported_address == area.address + reported
        assert found.shadow == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_region_line_looks_a_page_further(kernel: str) -> None:
    """Section 9.7: from the slack it finds the area by its guard page; from the guard page it finds the next one."""
    space = checked(kernel, cpus=1)
    first, second = space.vmalloc(5001), space.vmalloc(100)
    starts = {first: f"{first.address:#x}", second: f"{second.address:#x}"}
    for offset, area in ((5001, first), (2 * PAGE - 1, first), (2 * PAGE, first), (2 * PAGE + 1, second)):
        line = report_of(space, first.address + offset).region
        pages = f"{area.nr_pages}-page vmalloc region starting at {starts[area]} allocated at "
        assert line.startswith(f"The buggy address belongs to a {pages}test_the_region_line")
    free = second.address + 4 * PAGE
    assert report_of(space, free).region == "The buggy address belongs to a vmalloc virtual mapping"
    assert report_of(space, 8).region == ""


def test_the_page_line_is_there_where_a_frame_is_mapped() -> None:
    """Section 9.7."""
    space = checked(nodes=2, memory=["16MiB", "16MiB"])
    area = space.vmalloc_node(5001, 1)
    found = report_of(space, area.address + 5001)
    assert found.page == f"page: pfn:{area.pages[1]:#x} node:1"
    assert report_of(space, area.address + 2 * PAGE).page == ""
    assert report_of(space, 64).page == ""


def test_the_rows_show_the_shadow_around() -> None:
    space = checked()
    area = space.vmalloc(UNIT - 5)
    found = report_of(space, area.address + UNIT - 5)
    cells = dict(found.rows)
    last = area.address + UNIT - 128
    assert [start - last for start in cells] == [-256, -128, 0, 128, 256]
    assert cells[last] == (0,) * 15 + (3,)
    assert cells[last + 128] == (0xF8,) * 16
    far = report_of(space, area.address + (1 << 35))
    assert {cell for _, row in far.rows for cell in row} == {None}


@pytest.mark.parametrize(
    ("offset", "where"),
    [
        (5001, "right behind the area of 5001 bytes (4.9 KiB) at {start}"),
        (5002, "1 byte behind the area of 5001 bytes (4.9 KiB) at {start}"),
        (5011, "10 bytes behind the area of 5001 bytes (4.9 KiB) at {start}"),
        (3 * PAGE - 1, "7286 bytes behind the area of 5001 bytes (4.9 KiB) at {start}"),
    ],
)
def test_the_place_is_told_in_words(offset: int, where: str) -> None:
    space = checked()
    area = space.vmalloc(5001)
    found = report_of(space, area.address + offset)
    assert found.where == where.format(start=f"{area.address:#018x}")
    assert found.cause == "out-of-bounds"


@pytest.mark.parametrize("gone", [False, True], ids=["live", "freed"])
def test_a_byte_between_two_areas_is_charged_to_the_nearer_one(gone: bool) -> None:
    """A step to the left of an area must not send the reader to whoever was before it."""
    space = checked()
    first, second = space.vmalloc(4096), space.vmalloc(4096)
    start, end = second.address, first.end
    if gone:
        first.free()
    left, right = report_of(space, end + 5), report_of(space, start - 1)
    assert left.allocation is not None
    assert right.allocation is not None
    assert (left.allocation.end, left.cause) == (start, "use-after-free" if gone else "out-of-bounds")
    assert (right.allocation.start, right.cause) == (start, "out-of-bounds")
    assert right.where.startswith("1 byte before the area of 4096 bytes")
    assert "4095 bytes behind the " + ("freed " if gone else "") + "area" in right.where


def test_a_byte_before_an_area_that_nobody_has_is_charged_to_it() -> None:
    space = checked()
    first, second = space.vmalloc(100), space.vmalloc(200)
    start = second.address
    first.detach()
    found = report_of(space, start - 3000)
    assert found.allocation is not None
    assert (found.allocation.start, found.neighbour and found.neighbour.start) == (start, start)
    found = report_of(space, first.end)
    assert found.allocation is not None
    assert (found.allocation.start, found.neighbour and found.neighbour.start) == (first.address, start)
    aligned = space.vmalloc_node_range(100, 1 << 20, *(space.state.vmalloc_start, space.state.vmalloc_end))
    found = report_of(space, aligned.address - 3)
    assert (found.cause, found.where[:14]) == ("out-of-bounds", "3 bytes before")
    assert found.allocation is not None
    assert found.allocation.start == aligned.address


def test_the_symbol_and_the_stack_are_the_callers() -> None:
    space = checked()
    area = space.vmalloc(8)

    def reaches_too_far() -> None:
        space.load(area.address, 9)

    with pytest.raises(Fault) as caught:
        reaches_too_far()
    report: Any = caught.value.report
    assert re.fullmatch(r"reaches_too_far\+0x[0-9a-f]+/0x[0-9a-f]+ \[test_kasan_report\]", report.symbol)
    assert next(iter(report.stack))[1:] == (__file__, reaches_too_far.__code__.co_firstlineno + 1)
    assert str(caught.value).startswith(f"read of 9 bytes at {area.address + 8:#018x} by CPU 0: kasan: vmalloc-out-of-")


def test_a_free_that_is_none_says_what_call_it_was() -> None:
    space = checked()
    area = space.vmalloc(5001)
    for call, free in (
        ("vfree", lambda: space.vfree(area.address + 8)),
        ("vunmap", lambda: space.vunmap(area.address + 8)),
        ("free_vm_area", lambda: space.free_vm_area(area.address + 5 * PAGE)),
        ("iounmap", lambda: space.iounmap(area)),
        ("vrealloc", lambda: space.vrealloc(area.address + PAGE, 3)),
    ):
        with pytest.raises(BadFree, match=f"{call}: invalid-free") as caught:
            free()
        assert (caught.value.access, caught.value.kind, caught.value.size) == ("free", "kasan", 0)
    assert space.kasan.reports == 5
    assert area.alive


def test_calls_that_free_nothing_do_not_report() -> None:
    """A handle of what was freed is refused, and no free is blamed for it."""
    space = checked()
    area = space.vmalloc_user(PAGE)
    area.free()
    with pytest.raises(BadAddress) as caught:
        space.set_vm_flush_reset_perms(area)
    assert not isinstance(caught.value, BadFree)
    assert space.kasan.reports == 0


def test_shadow_that_somebody_else_wrote_is_named_as_the_kernel_names_it() -> None:
    """Section 9.2."""
    space = checked()
    area = space.vmalloc(64)
    at = space.kasan.layout.shadow(area.address)
    for value, bug in ((0xFF, "use-after-free"), (0xFC, "slab-out-of-bounds"), (0xF1, "stack-out-of-bounds")):
        space.machine.store(at + 2, bytes([value]))
        found = report_of(space, area.address, 64)
        assert (found.bug, found.bad_address, found.shadow) == (bug, area.address + 16, value)
    space.machine.store(at + 1, bytes([3]))
    assert report_of(space, area.address, 64).bug == "stack-out-of-bounds"  # the byte behind a part decides
