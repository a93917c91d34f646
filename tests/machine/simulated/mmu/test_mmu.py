"""Bytes through the MMU, and arrays of addresses."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.simulated.mmu.rig import RW, SPECIAL, R, Rig
from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.mmu.device import DeviceMemory
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.records import AccessCounts
from vmalloc.machine.simulated.mmu.states import BUS_ERROR, OK, READONLY, STALE, UNMAPPED

pytestmark = pytest.mark.both_builds

P = 4096


@pytest.fixture
def rig() -> Rig:
    return Rig()


def fill(count: int) -> bytes:
    return bytes(k % 251 for k in range(count))


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_what_is_stored_across_pages_is_loaded_by_any_cpu(rig: Rig) -> None:
    pfns = rig.map_new(0, 3)
    data = fill(P + 200)
    assert rig.mmu.do_store(0, rig.at(0, P - 100), data) == OK
    assert rig.mmu.do_load(1, rig.at(0, P - 100), len(data)) == (OK, data)
    contents = rig.memory.contents
    assert contents.load(pfns[0], P - 100) + contents.load(pfns[1]) + contents.load(pfns[2], 0, 100) == data
    assert contents.load(pfns[2], 100, 1) == b"\xee"


@pytest.mark.parametrize("arch", ["x86_32", "arm64_16k", "ppc64_radix", "s390x"])
def test_pages_of_any_size_carry_bytes(arch: str) -> None:
    rig = Rig(arch)
    rig.map_new(0, 2)
    assert rig.mmu.do_store(0, rig.at(1, -3), b"across") == OK
    assert rig.mmu.do_load(0, rig.at(0, rig.page - 4), 8) == (OK, b"\xeeacross\xee")


def test_a_load_gives_what_is_before_the_failure(rig: Rig) -> None:
    rig.map_new(0)
    rig.mmu.do_store(0, rig.at(0, P - 4), b"last")
    assert rig.mmu.do_load(0, rig.at(0, P - 4), 100) == (UNMAPPED, b"last")
    assert rig.mmu.failed_address == rig.at(1)


def test_a_store_is_all_or_nothing(rig: Rig) -> None:
    rig.map_new(0)
    assert rig.mmu.do_store(0, rig.at(0, P - 4), b"more than four") == UNMAPPED
    assert rig.mmu.failed_address == rig.at(1)
    assert rig.mmu.do_load(0, rig.at(0), P) == (OK, b"\xee" * P)


def test_a_store_to_a_page_that_forbids_it_writes_nothing(rig: Rig) -> None:
    rig.map_new(0)
    rig.map_new(1, prot=R)
    for failing in (rig.mmu.do_store(0, rig.at(0), fill(2 * P)), rig.mmu.do_zero(0, rig.at(0), 2 * P)):
        assert (failing, rig.mmu.failed_address) == (READONLY, rig.at(1))
    assert rig.mmu.do_load(0, rig.at(0), 2 * P) == (OK, b"\xee" * 2 * P)


def test_a_long_store_plans_all_its_pages(rig: Rig) -> None:
    rig.map_new(0, 70)
    data = fill(70 * P - 2)
    assert rig.mmu.do_store(0, rig.at(0, 1), data) == OK
    assert rig.mmu.do_load(0, rig.at(0, 1), len(data)) == (OK, data)


def test_zeroing(rig: Rig) -> None:
    rig.map_new(0, 3)
    assert rig.mmu.do_zero(0, rig.at(0, 1), 2 * P) == OK
    assert rig.mmu.do_load(0, rig.at(0), 3 * P) == (OK, b"\xee" + bytes(2 * P) + b"\xee" * (P - 1))


def test_no_bytes_are_no_access(rig: Rig) -> None:
    assert rig.mmu.do_load(0, rig.at(0), 0) == (OK, b"")
    assert [rig.mmu.do_store(0, rig.at(0), b""), rig.mmu.do_zero(0, rig.at(0), 0)] == [OK, OK]
    assert rig.mmu.counters()["translations"] == 0


def test_a_range_does_not_wrap_around_the_end_of_addresses() -> None:
    rig = Rig(changes={"vmalloc_end": (1 << 64) - 1})
    rig.base = (1 << 64) - P
    rig.map_new(0)
    assert rig.mmu.do_load(0, (1 << 64) - 2, 4) == (UNMAPPED, b"\xee\xee")
    assert rig.mmu.do_store(0, (1 << 64) - 2, b"four") == UNMAPPED
    assert rig.mmu.do_load(0, (1 << 64) - 2, 2) == (OK, b"\xee\xee")


def test_a_frame_that_no_node_has_is_a_bus_error(rig: Rig) -> None:
    rig.map_new(0)
    rig.map(1, [1 << 20])
    assert rig.outcome(1) == OK  # the translation is right
    assert rig.mmu.do_load(0, rig.at(0, P - 1), 2) == (BUS_ERROR, b"\xee")
    assert rig.mmu.do_store(0, rig.at(0, P - 1), b"xy") == BUS_ERROR
    assert rig.mmu.failed_address == rig.at(1)
    assert rig.mmu.do_load(0, rig.at(0, P - 1), 1) == (OK, b"\xee")


# -- devices -----------------------------------------------------------------------------------------------------------


def test_device_memory_reads_ones_until_it_is_stored_to(rig: Rig) -> None:
    assert rig.map_range(0, 1 << 20, 2, 12, RW | SPECIAL) == 0
    assert rig.mmu.do_load(0, rig.at(0, P - 2), 4) == (OK, b"\xff" * 4)
    assert rig.mmu.do_store(0, rig.at(0, P - 1), b"ab") == OK
    assert rig.mmu.do_load(0, rig.at(0, P - 2), 4) == (OK, b"\xffab\xff")
    assert rig.mmu.device.pages() == [1 << 20, (1 << 20) + 1]
    assert rig.mmu.do_zero(0, rig.at(0, P - 1), 1) == OK
    assert rig.mmu.do_load(0, rig.at(0, P - 2), 4) == (OK, b"\xff\x00b\xff")


def test_a_device_that_shares_a_number_with_a_frame_is_not_that_frame(rig: Rig) -> None:
    (pfn,) = rig.map_new(0)
    rig.map_range(1, pfn, 1, 12, RW | SPECIAL)
    rig.mmu.do_store(0, rig.at(0), b"frame")
    rig.mmu.do_store(0, rig.at(1), b"device")
    assert [rig.mmu.do_load(0, rig.at(k), 6)[1] for k in range(2)] == [b"frame\xee", b"device"]


def test_machines_can_share_devices(rig: Rig) -> None:
    device = DeviceMemory(12)
    mmu = Mmu(rig.tables, rig.memory.contents, rig.tlbs, device)
    rig.map_range(0, 1 << 20, 1, 12, RW | SPECIAL)
    mmu.do_store(0, rig.at(0), b"x")
    assert device.load(1 << 20, 0, 2) == b"x\xff"


# -- stale translations ------------------------------------------------------------------------------------------------


@pytest.fixture
def stale(rig: Rig) -> tuple[Rig, int]:
    """Page 1 of three is gone, but CPU 0 remembers it; its frame belongs to somebody else."""
    pfns = rig.map_new(0, 3)
    rig.mmu.do_store(0, rig.at(0), b"0" * 3 * P)
    rig.unmap(1)
    return rig, pfns[1]


def test_a_stale_translation_stops_a_load_and_a_store(stale: tuple[Rig, int]) -> None:
    rig, pfn = stale
    assert rig.mmu.do_load(0, rig.at(0, P - 2), 8) == (STALE, b"00")
    assert rig.mmu.failed_address == rig.at(1)
    assert rig.mmu.do_store(0, rig.at(0, P - 2), b"stored") == STALE
    assert rig.mmu.do_zero(0, rig.at(0, P - 2), 4) == STALE
    assert rig.memory.contents.load(pfn) == b"0" * P
    assert rig.mmu.do_load(0, rig.at(0), P) == (OK, b"0" * P)
    assert rig.mmu.stale_uses == 0


def test_a_stale_translation_can_be_followed_to_see_the_damage(stale: tuple[Rig, int]) -> None:
    rig, pfn = stale
    rig.mmu.follow_stale = True
    assert rig.mmu.do_store(0, rig.at(0, P - 2), b"stored") == STALE
    assert rig.memory.contents.load(pfn, 0, 6) == b"ored00"
    assert rig.mmu.do_load(0, rig.at(0, P - 2), P + 4) == (STALE, b"stored" + b"0" * (P - 2))
    assert rig.mmu.failed_address == rig.at(1)
    assert rig.mmu.do_zero(0, rig.at(1), 1) == STALE
    assert rig.mmu.stale_uses == 3
    assert rig.mmu.do_store(1, rig.at(0, P - 2), b"stored") == UNMAPPED  # this CPU does not remember it
    assert rig.mmu.do_store(0, rig.at(1), b"s" * (2 * P + 1)) == UNMAPPED  # what is behind decides
    assert rig.memory.contents.load(pfn, 0, 4) == b"\x00red"


# -- arrays of addresses -----------------------------------------------------------------------------------------------


def test_an_array_of_accesses_is_counted(rig: Rig) -> None:
    rig.map_new(0, 2)
    rig.map_new(2, prot=R)
    rig.frame(1)
    rig.unmap(1)
    addresses = np.array([rig.at(k) for k in (0, 0, 2, 1, 5, 0, 5)] + [17], np.uint64)
    expected = AccessCounts(
        accesses=8,
        hits=3,
        misses=4,
        walks=4,
        vmalloc_faults=0,
        spurious_faults=0,
        unmapped=3,
        readonly=1,
        stale_tlb=1,
        first_failure=2,
    )
    assert rig.mmu.access(addresses, write=True) == expected
    assert expected.failed == 5
    assert rig.mmu.access(addresses[:2]) == AccessCounts(2, 2, 0, 0, 0, 0, 0, 0, 0, None)


def test_faults_that_are_mended_are_counted() -> None:
    rig = Rig("fault_32")
    rig.mmu.do_switch_to(1, 2)
    rig.map_new(0, 2)
    counts = rig.mmu.access(np.array([rig.at(0), rig.at(1)], np.uint64), cpu=1)
    assert (counts.misses, counts.walks, counts.vmalloc_faults, counts.failed) == (2, 3, 1, 0)
    rig = Rig("riscv64_sv39")
    rig.outcome(0)
    rig.map_new(0)
    rig.mmu.do_flush_cache_vmap()
    counts = rig.mmu.access(np.array([rig.at(0)], np.uint64))
    assert (counts.misses, counts.walks, counts.spurious_faults, counts.failed) == (1, 1, 1, 0)


@pytest.mark.parametrize("kind", ["uint64", "int64", "array", "table"])
def test_any_buffer_of_eight_byte_integers_will_do(rig: Rig, kind: str) -> None:
    rig.map_new(0, 4)
    numbers = [rig.at(k) for k in range(4)]
    buffers = {
        "uint64": np.array(numbers, np.uint64),
        "int64": np.array(numbers, np.uint64).view(np.int64),
        "array": array("Q", numbers),
        "table": np.array(numbers, np.uint64).reshape(2, 2),
    }
    assert rig.mmu.access(buffers[kind])[:3] == (4, 0, 4)


def test_no_accesses(rig: Rig) -> None:
    assert rig.mmu.access(np.array([], np.uint64)) == AccessCounts(0, 0, 0, 0, 0, 0, 0, 0, 0, None)


@pytest.mark.parametrize(
    "addresses",
    [
        np.zeros(4, np.uint32),
        np.zeros(4, np.float64),
        np.zeros(8, np.uint64)[::2],
        np.zeros(4, ">u8"),
        b"12345678",
        [1, 2, 3],
        memoryview(b"12345678").cast("d"),
    ],
    ids=["narrow", "float", "strided", "swapped", "bytes", "list", "double"],
)
def test_other_buffers_are_refused(rig: Rig, addresses: object) -> None:
    with pytest.raises(TypeError):
        rig.mmu.access(addresses)
    assert rig.mmu.counters()["translations"] == 0


def test_a_cpu_that_is_not_there_is_refused(rig: Rig) -> None:
    for call in (
        lambda: rig.mmu.access(np.zeros(1, np.uint64), cpu=2),
        lambda: rig.mmu.do_load(2, 0, 1),
        lambda: rig.mmu.do_store(-1, 0, b"x"),
        lambda: rig.mmu.do_zero(2, 0, 1),
    ):
        with pytest.raises(BadRequest, match="CPU"):
            call()


def test_it_says_what_it_is(rig: Rig) -> None:
    rig.outcome(0)
    assert repr(rig.mmu) == "<Mmu: 2 CPUs, 1 translations, 0 flushes>"


# -- against a slow twin -----------------------------------------------------------------------------------------------

PAGES = 6


def cut(address: int, size: int) -> Iterator[tuple[int, int]]:
    """The pages of a range as ``(page, bytes)``."""
    while size:
        piece = min(P - address % P, size)
        yield address // P, piece
        address += piece
        size -= piece


@given(
    prots=st.lists(st.sampled_from([None, R, RW, RW, RW | SPECIAL]), min_size=PAGES, max_size=PAGES),
    steps=st.lists(
        st.tuples(st.sampled_from(["load", "store", "zero"]), st.integers(0, PAGES * P), st.integers(0, 3 * P)),
        max_size=8,
    ),
)
def test_bytes_are_those_of_a_bytearray(prots: list[int | None], steps: list[tuple[str, int, int]]) -> None:
    rig = Rig(nr_frames=2048)
    twin = bytearray()
    for page, prot in enumerate(prots):
        twin += (b"\xff" if prot == RW | SPECIAL else b"\xee") * P
        if prot == RW | SPECIAL:
            rig.map_range(page, (1 << 20) + page, 1, 12, prot)
        elif prot is not None:
            rig.map_new(page, prot=prot)
    prots = [*prots, *[None] * 4]  # behind the area
    for number, (step, start, size) in enumerate(steps):
        expected, good = OK, 0
        for page, piece in cut(start, size):
            if prots[page] is None:
                expected = UNMAPPED
            elif step != "load" and prots[page] == R:
                expected = READONLY
            if expected != OK:
                break
            good += piece
        data = bytes((number + k) % 256 for k in range(size))
        if step == "load":
            assert rig.mmu.do_load(0, rig.at(0, start), size) == (expected, bytes(twin[start : start + good]))
        elif step == "store":
            assert rig.mmu.do_store(0, rig.at(0, start), data) == expected
        else:
            assert rig.mmu.do_zero(0, rig.at(0, start), size) == expected
            data = bytes(size)
        if expected != OK:
            assert rig.mmu.failed_address == rig.at(0, start + good)
        elif step != "load":
            twin[start : start + size] = data
