"""The check before an access, against one byte by byte and one as the specification words it (section 9.6)."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kasan.rig import PAGE, UNIT, checked
from vmalloc.units import ADDRESS_MAX

SHARED = checked()
GRANULES = 14
CELL = st.one_of(st.just(0), st.just(0), st.integers(1, 7), st.sampled_from([0xF8, 0xF8, 0xFF, 0xFE, 0x80]))
#: Three shadow pages: the first and the third exist.
MIDDLE = SHARED.state.vmalloc_start + (1 << 36)
SHARED.kasan.populate(MIDDLE - UNIT, MIDDLE, True)
SHARED.kasan.populate(MIDDLE + UNIT, MIDDLE + 2 * UNIT, True)


class Twin:
    """The check byte by byte, over cells that are written into shadow."""

    def __init__(self, base: int, cells: list[int]) -> None:
        kasan = SHARED.kasan
        self.cells: dict[int, int] = {}
        for i, cell in enumerate(cells):
            granule = base // 8 + i
            if kasan.bytes_of(granule * 8, 1) != [None]:
                SHARED.machine.store(kasan.layout.shadow(granule * 8), bytes([cell]))
                self.cells[granule] = cell

    def allows(self, address: int) -> bool:
        cell = self.cells.get(address // 8)
        return cell is not None and (cell == 0 or (cell < 8 and address % 8 < cell))

    def kernel_allows(self, address: int, size: int) -> bool:
        """As section 9.6 puts it: by granules, with the sizes that have a way of their own."""

        def value(at: int) -> int:
            cell = self.cells[at // 8]
            return cell - 256 if cell >= 128 else cell

        def one(at: int, last: int) -> bool:
            return value(at) == 0 or (last & 7) < value(at)

        last = address + size - 1
        if size == 1 or (size in (2, 4, 8) and address // 8 == last // 8):
            return one(address, last)
        if size in (2, 4, 8):
            return value(address) == 0 and one(last, last)
        if size == 16:
            count = 2 if address % 8 == 0 else 3
            granules = [address + 8 * k for k in range(count - 1)]
            return all(value(at) == 0 for at in granules) and one(last, last)
        granules = list(range(address // 8 * 8, last + 1, 8))
        bad = [at for at in granules if value(at) != 0]
        return not bad or (bad[0] == granules[-1] and one(last, last))


@pytest.mark.both_builds
@given(
    st.lists(CELL, min_size=GRANULES, max_size=GRANULES),
    st.sampled_from([MIDDLE - UNIT + 512, MIDDLE - 56, MIDDLE + UNIT - 56, MIDDLE + 2 * UNIT - 56, MIDDLE - UNIT - 56]),
    st.integers(0, 8 * GRANULES - 1),
    st.integers(0, 40),
)
@example([0] * GRANULES, MIDDLE - 56, 0, 0)
@example([0] * 5 + [3] + [0xF8] * 8, MIDDLE - UNIT + 512, 8, 35)
@example([0] * 5 + [3] + [0xF8] * 8, MIDDLE - UNIT + 512, 8, 36)
def test_the_check_is_the_one_byte_by_byte_and_the_kernels(
    cells: list[int], base: int, offset: int, size: int
) -> None:
    """Section 9.6."""
    twin, kasan = Twin(base, cells), SHARED.kasan
    address = base + offset
    size = min(size, 8 * GRANULES - offset)
    wrong = next((at for at in range(address, address + size) if not twin.allows(at)), None)
    forbidden = kasan.forbids(address, size)
    assert forbidden is (wrong is not None)
    touched = range(address // 8, (address + size + 7) // 8 if size else address // 8)
    if size and all(granule in twin.cells for granule in touched):
        assert twin.kernel_allows(address, size) is not forbidden
    if wrong is None:
        return
    assert kasan.bad == wrong
    named = address
    while twin.cells.get(named // 8) == 0:  # the kernel steps by granules
        named += 8
    if named // 8 in twin.cells:
        assert kasan.reported == named
    assert kasan.reported // 8 == wrong // 8


def test_an_access_of_nothing_is_fine_anywhere() -> None:
    """Section 9.6."""
    kasan = SHARED.kasan
    for address in (0, 8, MIDDLE + 5, ADDRESS_MAX, MIDDLE - UNIT):
        assert not kasan.forbids(address, 0)


@pytest.mark.both_builds
def test_what_is_no_address_is_left_to_the_machine() -> None:
    assert not SHARED.kasan.forbids(-1, 4)
    assert not SHARED.kasan.forbids(1 << 64, 4)
    assert not SHARED.kasan.forbids(MIDDLE, -4)


@pytest.mark.both_builds
@pytest.mark.parametrize("address", [0, 8, PAGE - 1, 0x400000, (1 << 47) + 5])
def test_an_address_that_is_not_the_kernels_is_forbidden(address: int) -> None:
    kasan = SHARED.kasan
    assert kasan.forbids(address, 1)
    assert (kasan.bad, kasan.reported) == (address, address)


@pytest.mark.both_builds
def test_what_has_no_shadow_of_ours_is_not_checked() -> None:
    """The direct map and other kernel addresses: their shadow is not vmalloc's."""
    kasan = SHARED.kasan
    unchecked, checks = kasan.unchecked, kasan.checks
    for address in (SHARED.machine.info.direct_map_start, 0xFFFFFFFF81000000, ADDRESS_MAX):
        assert not kasan.forbids(address, 1)
    assert (kasan.unchecked - unchecked, kasan.checks - checks) == (3, 0)


@pytest.mark.both_builds
def test_an_access_that_wraps_round_is_forbidden() -> None:
    """Section 9.6."""
    kasan = SHARED.kasan
    assert kasan.forbids(ADDRESS_MAX - 3, 5)
    assert (kasan.bad, kasan.reported) == (0, ADDRESS_MAX - 3)
    assert not kasan.forbids(ADDRESS_MAX - 3, 4)
    assert kasan.forbids(MIDDLE + 5, 1 << 65)
    assert kasan.bad == MIDDLE + 5


@pytest.mark.both_builds
def test_an_access_across_an_edge_of_the_range_is_checked_where_there_is_shadow() -> None:
    space = checked("6.19", arch="arm64_4k")
    kasan = space.kasan
    start, end = kasan.start, kasan.end
    assert kasan.forbids(start - 4, 8)
    assert kasan.bad == start
    kasan.populate(start, start + UNIT, True)
    assert kasan.forbids(start - 4, 8)
    kasan.unpoison(start, 16)
    assert not kasan.forbids(start - 4, 8)
    kasan.populate(end - UNIT, end, True)
    kasan.unpoison(end - 16, 16)
    assert not kasan.forbids(end - 8, 8)
    assert kasan.forbids(end - 8, 9)
    assert (kasan.bad, kasan.reported) == (end, end)
    kasan.unpoison(end - 16, 11)
    assert kasan.forbids(end - 8, 9)
    assert (kasan.bad, kasan.reported) == (end - 5, end - 8)


def test_the_checks_are_counted() -> None:
    space = checked()
    area = space.vmalloc(100)
    before = space.kasan.checks
    space.load(area.address, 100)
    space.store(area.address, b"x" * 100)
    space.load(area.address, 0)
    assert space.kasan.checks - before == 2


def test_the_check_reads_shadow_through_the_tlb() -> None:
    """Shadow is memory: the first check of a page misses, the second hits."""
    space = checked()
    area = space.vmalloc(PAGE)
    with space.on_cpu(1):
        before = space.stats()
        space.load(area.address, 1)
        between = space.stats()
        space.load(area.address, 1)
        after = space.stats()
    assert between["tlb_misses"] - before["tlb_misses"] == 2
    assert (after["tlb_misses"] - between["tlb_misses"], after["tlb_hits"] - between["tlb_hits"]) == (0, 2)
