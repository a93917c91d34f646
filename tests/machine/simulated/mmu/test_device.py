"""Device memory: ones where nothing was stored, and what was stored elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.mmu.device import DeviceMemory

pytestmark = pytest.mark.both_builds


def test_nothing_stored_reads_ones_and_takes_no_memory() -> None:
    device = DeviceMemory(5)
    assert device.load(12345, 30, 2) == b"\xff\xff"
    assert (len(device), device.pages(), repr(device)) == (0, [], "<DeviceMemory: 0 pages>")


def test_what_was_stored_is_read_and_the_rest_of_the_page_is_ones() -> None:
    device = DeviceMemory(5)
    device.store(1 << 40, 30, b"ab")
    assert device.load(1 << 40) == b"\xff" * 30 + b"ab"
    assert (len(device), device.pages()) == (1, [1 << 40])


@pytest.mark.parametrize(
    ("pfn", "offset", "size"), [(0, 33, 0), (0, 1, 32), (0, -1, 1), (-1, 0, 1), (1 << 64, 0, 1), ((1 << 64) - 1, 0, 1)]
)
def test_what_is_not_in_a_page_is_refused(pfn: int, offset: int, size: int) -> None:
    device = DeviceMemory(5)
    with pytest.raises(BadRequest):
        device.load(pfn, offset, size)
    with pytest.raises(BadRequest):
        device.store(pfn, offset, bytes(size))
    assert len(device) == 0


@pytest.mark.parametrize("stride", [1, 16, 1 << 16, 1 << 40])
def test_many_pages_far_apart(stride: int) -> None:
    device = DeviceMemory(5)
    for k in range(300):
        device.store(k * stride, k % 32, bytes([k % 256]))
    assert device.pages() == [k * stride for k in range(300)]
    assert all(device.load(k * stride, k % 32, 1) == bytes([k % 256]) for k in range(300))


PFNS = st.one_of(st.integers(0, 40), st.integers(0, (1 << 64) - 2))


@given(
    st.lists(st.tuples(PFNS, st.integers(0, 31), st.binary(max_size=8)), max_size=80),
    st.lists(PFNS, max_size=10),
)
def test_any_stores_are_those_of_a_dictionary(stores: list[tuple[int, int, bytes]], others: list[int]) -> None:
    device, twin = DeviceMemory(5), dict[int, bytearray]()
    for pfn, offset, data in stores:
        data = data[: 32 - offset]
        device.store(pfn, offset, data)
        twin.setdefault(pfn, bytearray(b"\xff" * 32))[offset : offset + len(data)] = data
    assert device.pages() == sorted(twin)
    for pfn in (*twin, *others):
        assert device.load(pfn) == twin.get(pfn, b"\xff" * 32)
