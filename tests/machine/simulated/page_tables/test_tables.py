"""Base pages: one PTE each, in order; and the walk that finds them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine.simulated.page_tables.rig import DEVICE, EBUSY, EINVAL, RW, RX, R, Rig
from vmalloc.machine.simulated.arch import ARCHITECTURES

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_page_has_its_own_frame_in_the_order_given(arch: str) -> None:
    """Section 3.4: one PTE per page, in order; contiguity is not exploited."""
    rig = Rig(arch)
    pfns = [7, 3, 3, 8, 9, 10, 11, rig.tables.pfn_limit - 1]
    assert rig.map(rig.base, *pfns, prot=RX) == 0
    for k, pfn in enumerate(pfns):
        for root in range(3):
            if rig.walk(rig.base, root) is None:
                assert rig.tables.do_fault(root, rig.base)
            assert rig.walk(rig.base + k * rig.page + rig.page - 1, root) == (pfn, rig.arch.page_shift, RX)
    assert rig.walk(rig.base + len(pfns) * rig.page) is None
    assert rig.tables.leaves_by_shift() == {rig.arch.page_shift: len(pfns)}
    rig.validate()


def test_aligned_and_contiguous_frames_are_still_mapped_one_by_one() -> None:
    """Section 3.4: physical contiguity obtained in section 3.3 is not exploited."""
    rig = Rig("arm64_4k")
    assert rig.map(rig.base, *range(1024)) == 0
    assert rig.tables.leaves_by_shift() == {12: 1024}


@pytest.mark.parametrize("prot", [0, R, RW, RX, DEVICE, 15])
@pytest.mark.parametrize("arch", ["x86_64", "x86_32", "arm32"])
def test_protections_come_back_as_they_went_in(arch: str, prot: int) -> None:
    rig = Rig(arch)
    assert rig.map(rig.base, 1, prot=prot) == 0
    assert rig.walk(rig.base) == (1, 12, prot)


@pytest.mark.parametrize("taken", [0, 3, 511, 512])
def test_an_occupied_entry_stops_the_mapping_with_a_warning(taken: int) -> None:
    """Section 3.4: WARN, -EBUSY; what was mapped before stays."""
    rig = Rig("x86_64")
    assert rig.map(rig.base + taken * 4096, 99) == 0
    assert rig.map(rig.base, *range(600)) == EBUSY
    assert [rig.walk(rig.base + k * 4096) is not None for k in range(600)] == [k <= taken for k in range(600)]
    assert rig.tables.warning_list() == [(rig.base + taken * 4096, "the page is mapped already")]
    rig.validate()


def test_a_leaf_occupies_all_its_pages() -> None:
    rig = Rig("x86_64")
    assert rig.map_range(rig.base, 0, 1 << 21) == 0
    assert rig.map(rig.base + 4096, 1) == EBUSY
    assert rig.tables.leaves_by_shift() == {21: 1}
    rig.validate()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_cannot_be_mapped_is_refused(arch: str) -> None:
    rig = Rig(arch)
    assert rig.map(rig.base + 1, 1) == EINVAL
    assert rig.map(rig.base, 1, prot=16) == EINVAL
    assert rig.map(rig.arch.kernel_end - rig.page, 1, 2) == EINVAL
    assert rig.tables.leaves_by_shift() == {}
    assert rig.map(rig.base, 1, 2, rig.tables.pfn_limit, 4) == EINVAL
    assert rig.tables.leaves_by_shift() == {rig.arch.page_shift: 2}
    assert rig.map(rig.base) == 0
    assert rig.map(rig.arch.kernel_end - rig.page, 5) == 0
    assert rig.walk(rig.arch.kernel_end - 1)[0] == 5
    rig.validate()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_addresses_that_no_table_translates_are_not_found(arch: str) -> None:
    rig = Rig(arch)
    bits = rig.arch.address_bits
    assert rig.map(rig.base, 1) == 0
    assert rig.walk(rig.base) is not None
    if bits < rig.arch.word_bits:
        assert rig.walk(rig.base ^ 1 << bits) is None, "an address that differs above what the table sees"
    assert rig.walk(rig.arch.kernel_start - 1 & (1 << 64) - 1) is None
    assert rig.walk(rig.arch.kernel_end & (1 << 64) - 1) is None


def test_walks_through_one_table_after_another() -> None:
    rig = Rig("x86_64")
    places = [rig.base + k * (1 << 21) + j * 4096 for k in range(4) for j in range(3)]
    for k, address in enumerate(places):
        assert rig.map(address, k) == 0
    for _ in range(2):
        for k, address in enumerate(places):
            assert [rig.walk(address, root) for root in (0, 2, 1)] == [(k, 12, RW)] * 3
            assert rig.walk(address + 3 * 4096) is None


def test_a_walk_sees_what_was_stored_into_the_table_by_hand() -> None:
    rig = Rig("x86_64")
    assert rig.map(rig.base, 1) == 0
    assert rig.walk(rig.base) == (1, 12, RW)
    rig.overwrite(rig.base, 3, 0x55 << 12 | R << 1 | 1)
    assert rig.walk(rig.base) == (0x55, 12, R)


@settings(deadline=None, max_examples=40)
@given(
    arch=st.sampled_from(sorted(ARCHITECTURES)),
    first=st.integers(0, 1100),
    pfns=st.lists(st.integers(0, (1 << 20) - 1), min_size=1, max_size=1500),
    hole=st.tuples(st.integers(0, 1500), st.integers(0, 1500)),
)
def test_many_pages_and_a_hole_against_a_dictionary(
    arch: str, first: int, pfns: list[int], hole: tuple[int, int]
) -> None:
    rig = Rig(arch, nr_roots=1)
    pfns = [pfn % rig.tables.pfn_limit for pfn in pfns]
    start = rig.arch.vmalloc_start + first * rig.page
    assert rig.tables.do_map_pages(start, array("Q", pfns), RW) == 0
    expected = dict(enumerate(pfns))
    low, high = min(hole), max(hole)
    gone = [k for k in range(low, high) if expected.pop(k, None) is not None]
    assert rig.unmap(start + low * rig.page, (high - low) * rig.page) == len(gone)
    found = {k: rig.walk(start + k * rig.page) for k in range(-1, len(pfns) + 1)}
    assert {k: leaf[0] for k, leaf in found.items() if leaf is not None} == expected
    rig.validate()
