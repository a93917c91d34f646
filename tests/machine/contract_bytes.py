"""The part of ``contract`` about bytes."""

from __future__ import annotations

import pytest

from machine.contract_helpers import mapped, page_size, take_pages, translations
from vmalloc.errors import Fault
from vmalloc.flags import PROT_READ, TAKE_ZERO
from vmalloc.machine.base import Machine


class BytesContract:
    """How bytes are read and written."""

    def test_bytes_go_where_the_mapping_says(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 3)
        data = bytes(i % 251 for i in range(size + 100))
        machine.store(address + size - 50, data)
        assert machine.load(address + size - 50, size + 100) == data
        assert machine.read_frame(pages[0], size - 50, 50) == data[:50]
        assert machine.read_frame(pages[1], 0, size) == data[50 : size + 50]
        assert machine.read_frame(pages[2], 0, 50) == data[size + 50 :]

    def test_a_store_takes_any_bytes(self, machine: Machine) -> None:
        address, _ = mapped(machine, 1)
        for data in (b"bytes", bytearray(b"array"), memoryview(b"-view-")[1:5], b""):
            machine.store(address + 8, data)
            assert machine.load(address + 8, len(data)) == bytes(data)

    def test_a_store_is_done_whole_or_not_at_all(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 2)
        with pytest.raises(Fault) as caught:
            machine.store(address + 2 * size - 4, b"12345678")
        assert (caught.value.kind, caught.value.access, caught.value.address) == (
            "unmapped",
            "write",
            address + 2 * size,
        )
        assert machine.read_frame(pages[1], 0, size) == bytes(size)

    def test_a_mapping_for_reading_takes_no_stores(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 1)
        readonly = take_pages(machine, 1, TAKE_ZERO)
        assert machine.map_pages(address + size, readonly, 0, 1, PROT_READ) == 0
        assert machine.load(address + size, 4) == bytes(4)
        with pytest.raises(Fault) as caught:
            machine.store(address + size - 2, b"four")
        assert (caught.value.kind, caught.value.address) == ("readonly", address + size)
        assert machine.read_frame(pages[0], 0, size) == bytes(size)
        assert machine.read_frame(readonly[0], 0, size) == bytes(size)

    def test_frames_can_be_read_zeroed_and_copied_wherever_they_are_mapped(self, machine: Machine) -> None:
        size = page_size(machine)
        address, pages = mapped(machine, 2)
        machine.store(address, b"abcdefgh")
        machine.copy_frame(pages[1], pages[0], 6)
        assert machine.load(address + size, 8) == b"abcdef\0\0"
        machine.zero_frame(pages[0], 2, 3)
        assert machine.load(address, 8) == b"ab\0\0\0fgh"
        assert machine.read_frame(pages[0], 1, 6) == b"b\0\0\0fg"

    def test_permanent_addresses_can_be_taken_away(self, machine: Machine) -> None:
        """Section 4.11."""
        info, size = machine.info, page_size(machine)
        pages = take_pages(machine, 4, TAKE_ZERO)
        address = info.direct_map_start + (pages[1] << info.page_shift)
        if address + size > info.direct_map_end:
            pytest.skip("this frame has no permanent address")
        machine.store(address, b"kept")
        machine.set_direct_map(pages, 1, 2, False)
        for access in (lambda: machine.load(address, 1), lambda: machine.store(address, b"lost")):
            with pytest.raises(Fault) as caught:
                access()
            assert (caught.value.kind, caught.value.address) == ("unmapped", address)
        assert machine.load(info.direct_map_start + (pages[3] << info.page_shift), 4) == bytes(4)
        machine.set_direct_map(pages, 1, 2, True)
        assert machine.load(address, 4) == b"kept"

    @pytest.mark.parametrize("reclaim", [False, True])
    def test_mapping_works_in_either_scope(self, machine: Machine, reclaim: bool) -> None:
        machine.set_scope(reclaim)
        address, pages = mapped(machine, 2)
        assert translations(machine, address, 2) == list(pages)
