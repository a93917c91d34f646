"""One access at a time: hits, walks, stale entries, faults that the kernel mends, and flushes."""

from __future__ import annotations

import pytest

from machine.simulated.mmu.rig import R, Rig
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.sizes import make_tlbs
from vmalloc.machine.simulated.mmu.states import EMPTY, NR_INVALID, OK, READONLY, STALE, UNMAPPED
from vmalloc.machine.simulated.mmu.validate import validate_mmu

pytestmark = pytest.mark.both_builds


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -- translation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_access_finds_its_frame_on_every_architecture(arch: str) -> None:
    rig = Rig(arch)
    pfns = rig.map_new(3, 2)
    assert [rig.frame(3), rig.frame(4), rig.frame(4)] == [pfns[0], pfns[1], pfns[1]]
    assert rig.outcome(5) == UNMAPPED
    assert (rig.tlbs[0].hits, rig.tlbs[0].misses, rig.mmu.walks, len(rig.tlbs[1])) == (1, 3, 3, 0)
    validate_mmu(rig.mmu)


def test_the_tlb_keeps_the_size_of_the_mapping(rig: Rig) -> None:
    assert rig.map_range(0, 1024, 512, 21) == 0
    assert rig.mmu.do_translate(0, rig.at(5), False) == (OK, 1029, 21, 3)
    assert rig.frame(511) == 1535
    assert (len(rig.tlbs[0]), rig.mmu.walks) == (1, 1)


def test_a_group_of_ptes_is_one_entry() -> None:
    rig = Rig("arm64_4k")
    assert rig.map_range(0, 1024, 16, 16) == 0
    assert [rig.frame(k) for k in range(16)] == list(range(1024, 1040))
    assert (rig.mmu.walks, rig.tlbs[0].entries()[0].shift) == (1, 16)


def test_a_store_needs_permission(rig: Rig) -> None:
    rig.map_new(0, prot=R)
    assert rig.outcome(0) == OK
    assert rig.outcome(0, write=True) == READONLY
    rig.flush(0)
    assert rig.outcome(0, write=True) == READONLY


def test_what_cannot_be_read_is_as_good_as_unmapped(rig: Rig) -> None:
    rig.map_new(0, prot=0)
    assert [rig.outcome(0), rig.outcome(0, write=True), len(rig.tlbs[0])] == [UNMAPPED, UNMAPPED, 0]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_addresses_that_no_table_translates_are_unmapped(arch: str) -> None:
    rig = Rig(arch)
    below = [rig.arch.kernel_start - 1] if rig.arch.kernel_start else []
    above = [rig.arch.kernel_end] if rig.arch.kernel_end < 1 << 64 else []
    # What the tables cannot tell from the base, as they do not see the upper bits.
    alias = [(rig.base - (1 << rig.arch.address_bits)) % (1 << 64)] if rig.arch.address_bits < 64 else []
    rig.map_new(0)
    for address in (*below, *above, *alias, *([0] if below else []), (1 << 64) - 1):
        assert rig.mmu.do_translate(0, address, False) == (UNMAPPED, None, None, None)
    assert rig.outcome(0) == OK


# -- stale entries -----------------------------------------------------------------------------------------------------


def test_an_unmapped_page_is_stale_until_it_is_flushed(rig: Rig) -> None:
    (pfn,) = rig.map_new(0)
    rig.frame(0)
    rig.unmap(0)
    assert [rig.mmu.do_translate(0, rig.at(0), False)[:2] for _ in range(2)] == [(STALE, pfn)] * 2
    assert rig.outcome(0, cpu=1) == UNMAPPED  # which never knew it
    assert rig.flush(0) == 1
    assert rig.outcome(0) == UNMAPPED


def test_a_page_mapped_to_another_frame_is_stale_and_yields_the_old_one(rig: Rig) -> None:
    (old,) = rig.map_new(0)
    rig.frame(0)
    rig.unmap(0)
    rig.map_new(0)
    assert rig.mmu.do_translate(0, rig.at(0), False)[:2] == (STALE, old)


def test_a_page_that_allows_less_is_stale(rig: Rig) -> None:
    pfns = rig.map_new(0)
    rig.frame(0)
    rig.unmap(0)
    rig.map(0, pfns, R)
    assert rig.outcome(0, write=True) == STALE


def test_a_page_that_allows_more_fails_as_the_old_entry_says(rig: Rig) -> None:
    pfns = rig.map_new(0, prot=R)
    rig.frame(0)
    rig.unmap(0)
    rig.map(0, pfns)
    assert rig.outcome(0, write=True) == READONLY
    assert rig.outcome(0) == STALE


def test_a_stale_entry_is_right_again_when_the_tables_say_so_again(rig: Rig) -> None:
    pfns = rig.map_new(0)
    rig.frame(0)
    rig.unmap(0)
    assert rig.outcome(0) == STALE
    rig.map(0, pfns)
    assert rig.outcome(0) == OK


def test_a_change_elsewhere_costs_one_look_per_entry(rig: Rig) -> None:
    rig.map_new(0, 4)
    for page in range(4):
        rig.frame(page)
    rig.unmap(3)
    assert [rig.outcome(0) for _ in range(5)] == [OK] * 5
    assert (rig.mmu.rechecks, rig.mmu.walks) == (1, 4)
    assert rig.outcome(1) == OK
    assert rig.mmu.rechecks == 2
    validate_mmu(rig.mmu)


def test_mapping_makes_no_entry_doubtful(rig: Rig) -> None:
    rig.map_new(0)
    rig.frame(0)
    rig.map_new(1)
    assert (rig.outcome(0), rig.mmu.rechecks) == (OK, 0)


def test_a_huge_entry_over_a_split_leaf_is_looked_at_page_by_page(rig: Rig) -> None:
    assert rig.map_range(0, 1024, 512, 21) == 0
    rig.frame(0)
    assert rig.tables.do_split(rig.at(0)) == 0
    rig.unmap(7)
    assert [rig.outcome(page) for page in (6, 7, 8, 6, 7)] == [OK, STALE, OK, OK, STALE]
    assert rig.mmu.rechecks == 5  # no look told about the other pages
    validate_mmu(rig.mmu)


def test_a_flush_of_one_page_evicts_the_huge_entry_around_it(rig: Rig) -> None:
    rig.map_range(0, 1024, 512, 21)
    rig.frame(0)
    assert rig.flush(300) == 1


def test_an_entry_survives_a_switch_to_a_root_that_lacks_the_page() -> None:
    rig = Rig("fault_32")
    rig.map_new(0, 2)
    rig.frame(0)
    rig.unmap(1)
    rig.mmu.do_switch_to(0, 1)
    assert (rig.outcome(0), rig.mmu.vmalloc_faults) == (OK, 0)  # kernel entries are global; the reference agrees


# -- faults that the kernel mends (section 8.4) ------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["fault_32", "arm32"])
def test_a_missing_top_entry_is_copied_by_the_fault_handler(arch: str) -> None:
    """Section 8.4."""
    rig = Rig(arch)
    rig.mmu.do_switch_to(0, 1)
    rig.map_new(0)
    assert (rig.outcome(0), rig.mmu.vmalloc_faults, rig.tables.vmalloc_faults, rig.mmu.walks) == (OK, 1, 1, 2)
    rig.mmu.do_flush_all()
    assert (rig.outcome(0), rig.mmu.vmalloc_faults, rig.mmu.walks) == (OK, 1, 3)
    assert (rig.outcome(0, cpu=1), rig.mmu.vmalloc_faults) == (OK, 1)  # root 0 is the reference


def test_there_is_no_vmalloc_fault_in_nmi() -> None:
    rig = Rig("fault_32")
    rig.mmu.do_switch_to(0, 1)
    rig.map_new(0)
    rig.mmu.may_fault = False
    assert (rig.outcome(0), rig.mmu.vmalloc_faults) == (UNMAPPED, 0)
    rig.mmu.may_fault = True
    assert (rig.outcome(0), rig.mmu.vmalloc_faults) == (OK, 1)


def test_a_page_that_is_mapped_nowhere_is_no_vmalloc_fault() -> None:
    rig = Rig("fault_32")
    rig.mmu.do_switch_to(0, 1)
    assert (rig.outcome(0), rig.mmu.vmalloc_faults) == (UNMAPPED, 0)


def test_a_context_switch_to_an_older_root_brings_it_up_to_date() -> None:
    """Section 8.4: arm32 copies all top entries of the range."""
    rig = Rig("arm32")
    rig.map_new(0)
    assert rig.mmu.do_switch_to(0, 1) > 0
    assert (rig.mmu.root_of(0), rig.mmu.root_of(1)) == (1, 0)
    rig.mmu.may_fault = False
    assert rig.outcome(0) == OK


@pytest.mark.parametrize("arch", ["x86_64", "x86_64_la57", "x86_32", "x86_32_pae", "arm64_4k", "s390x"])
def test_other_architectures_need_no_fault(arch: str) -> None:
    rig = Rig(arch)
    rig.mmu.do_switch_to(0, 1)
    rig.map_new(0)
    assert (rig.outcome(0), rig.mmu.vmalloc_faults, rig.mmu.walks) == (OK, 0, 1)


class TestFence:
    """Section 8.4: riscv64 cores that remember invalid pages."""

    @pytest.fixture
    def rig(self) -> Rig:
        return Rig("riscv64_sv48")

    def test_a_page_found_invalid_stays_so_without_the_bit(self, rig: Rig) -> None:
        assert rig.outcome(0) == UNMAPPED
        rig.map_new(0)
        assert [rig.outcome(0), rig.outcome(0, cpu=1)] == [UNMAPPED, OK]
        assert (rig.mmu.spurious_faults, rig.mmu.fences) == (0, 0)

    def test_the_bit_costs_one_spurious_fault(self, rig: Rig) -> None:
        assert rig.outcome(0) == UNMAPPED
        rig.map_new(0)
        rig.mmu.do_flush_cache_vmap()
        assert [rig.mmu.fence_due(cpu) for cpu in range(2)] == [True, True]
        assert rig.outcome(0) == OK
        assert [rig.mmu.fence_due(cpu) for cpu in range(2)] == [False, True]
        assert (rig.mmu.spurious_faults, rig.mmu.fences) == (1, 1)
        rig.flush(0)
        assert (rig.outcome(0), rig.mmu.spurious_faults) == (OK, 1)

    def test_a_fence_forgets_all_invalid_pages_of_that_cpu(self, rig: Rig) -> None:
        for page in range(3):
            assert rig.outcome(page) == UNMAPPED
        rig.map_new(0, 2)
        rig.mmu.do_flush_cache_vmap()
        assert [rig.outcome(page) for page in (0, 1)] == [OK, OK]
        assert rig.mmu.spurious_faults == 1
        assert set(rig.mmu.invalid_pages(0)) == {EMPTY}

    def test_a_real_fault_uses_the_bit_up(self, rig: Rig) -> None:
        rig.mmu.do_flush_cache_vmap()
        assert rig.outcome(0) == UNMAPPED
        assert (rig.mmu.fences, rig.mmu.spurious_faults, rig.mmu.fence_due(0)) == (1, 0, False)
        assert [page for page in rig.mmu.invalid_pages(0) if page != EMPTY] == [rig.at(0) // rig.page]
        rig.map_new(0)
        assert rig.outcome(0) == UNMAPPED

    def test_a_core_remembers_one_page_per_value_of_the_low_bits(self, rig: Rig) -> None:
        assert [rig.outcome(page) for page in (0, NR_INVALID)] == [UNMAPPED, UNMAPPED]
        rig.map_new(0)
        assert rig.outcome(0) == OK

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_flush_forgets_them_too(self, rig: Rig, whole: bool) -> None:
        assert [rig.outcome(page) for page in (0, 1)] == [UNMAPPED, UNMAPPED]
        rig.map_new(0, 2)
        if whole:
            rig.mmu.do_flush_all()
        else:
            rig.flush(0)
        assert [rig.outcome(page) for page in (0, 1)] == [OK, OK if whole else UNMAPPED]

    def test_other_cores_remember_nothing(self) -> None:
        rig = Rig("x86_64")
        assert rig.outcome(0) == UNMAPPED
        rig.mmu.do_flush_cache_vmap()
        assert not rig.mmu.fence_due(0)
        rig.map_new(0)
        assert rig.outcome(0) == OK


# -- flushes (section 4.12) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nr_pages", "whole"), [(1, False), (33, False), (34, True)])
def test_many_pages_are_flushed_at_once(rig: Rig, nr_pages: int, whole: bool) -> None:
    """Section 4.12: x86 flushes up to 33 pages one by one."""
    rig.map_new(0)
    rig.map_new(100)
    for cpu in range(2):
        rig.frame(0, cpu=cpu)
        rig.frame(100, cpu=cpu)
    assert rig.flush(0, nr_pages) == (4 if whole else 2)
    mmu = rig.mmu
    assert (mmu.flushes, mmu.range_flushes, mmu.full_flushes) == (1, not whole, whole)
    assert (mmu.flushed_pages, mmu.ipis) == (0 if whole else nr_pages, 1)


def test_architectures_without_a_limit_flush_any_range_page_by_page() -> None:
    rig = Rig("s390x")
    rig.map_new(0)
    rig.frame(0)
    assert rig.mmu.do_flush(rig.arch.vmalloc_start, rig.arch.vmalloc_end) == 1
    assert (rig.mmu.range_flushes, rig.mmu.full_flushes) == (1, 0)


def test_a_broadcast_needs_no_interrupts() -> None:
    """Section 4.12: arm64."""
    rig = Rig("arm64_4k", cpus=4)
    rig.flush(0)
    rig.mmu.do_flush_all()
    assert (rig.mmu.flushes, rig.mmu.ipis) == (2, 0)


def test_each_other_cpu_is_interrupted_once() -> None:
    rig = Rig(cpus=5)
    rig.flush(0)
    rig.mmu.do_flush_all()
    assert rig.mmu.ipis == 8


def test_an_empty_range_is_no_flush(rig: Rig) -> None:
    assert rig.flush(3, 0) == 0
    assert rig.mmu.do_flush((1 << 64) - 1, 0) == 0
    assert rig.mmu.do_flush_local(0, rig.at(3), rig.at(3)) == 0
    assert (rig.mmu.flushes, rig.mmu.local_flushes, rig.tlbs[0].range_flushes) == (0, 0, 0)


@pytest.mark.parametrize("nr_pages", [1, 34])
def test_a_local_flush_concerns_one_cpu(rig: Rig, nr_pages: int) -> None:
    rig.map_new(0)
    for cpu in range(2):
        rig.frame(0, cpu=cpu)
    assert rig.mmu.do_flush_local(1, rig.at(0), rig.at(nr_pages)) == 1
    assert [len(tlb) for tlb in rig.tlbs] == [1, 0]
    assert (rig.mmu.local_flushes, rig.mmu.flushes, rig.mmu.ipis) == (1, 0, 0)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_a_cpu_or_a_root_that_is_not_there_is_refused(rig: Rig) -> None:
    for call in (
        lambda: rig.mmu.do_translate(2, 0, False),
        lambda: rig.mmu.do_flush_local(-1, 0, 1),
        lambda: rig.mmu.do_switch_to(2, 0),
        lambda: rig.mmu.do_switch_to(0, 3),
        lambda: rig.mmu.root_of(2),
        lambda: rig.mmu.fence_due(2),
        lambda: rig.mmu.invalid_pages(2),
    ):
        with pytest.raises(BadRequest):
            call()


def test_each_cpu_has_a_tlb_of_its_own(rig: Rig) -> None:
    for tlbs in ([], [rig.tlbs[0]] * 2, make_tlbs(ARCHITECTURES["arm64_16k"], 1)):
        with pytest.raises(BadRequest):
            Mmu(rig.tables, rig.memory.contents, tlbs)


def test_all_counters_have_names(rig: Rig) -> None:
    rig.map_new(0, prot=R)
    rig.frame(0)
    rig.outcome(0, write=True)
    rig.outcome(1)
    rig.unmap(0)
    rig.frame(0)
    rig.flush(0)
    counters = rig.mmu.counters()
    assert {name: n for name, n in counters.items() if n} == {
        "translations": 4,
        "unmapped": 1,
        "readonly": 1,
        "stale_tlb": 1,
        "hits": 2,
        "misses": 2,
        "walks": 2,
        "rechecks": 1,
        "flushes": 1,
        "range_flushes": 1,
        "flushed_pages": 1,
        "flushed_entries": 1,
        "ipis": 1,
    }
    assert rig.mmu.faults() == {
        "unmapped": 1,
        "readonly": 1,
        "stale_tlb": 1,
        "vmalloc_faults": 0,
        "spurious_faults": 0,
    }
