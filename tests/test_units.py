"""Sizes, addresses and ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.units import (
    ADDRESS_MAX,
    GIB,
    KIB,
    MIB,
    PAGE_SHIFT,
    PAGE_SIZE,
    TIB,
    align_down,
    align_up,
    format_address,
    format_range,
    format_size,
    is_power_of_two,
    parse_size,
)


def test_constants() -> None:
    assert (KIB, MIB, GIB, TIB) == (2**10, 2**20, 2**30, 2**40)
    assert 1 << PAGE_SHIFT == PAGE_SIZE == 4096
    assert ADDRESS_MAX == 2**64 - 1


@pytest.mark.parametrize("value", [1, 2, 4096, 1 << 63])
def test_powers_of_two(value: int) -> None:
    assert is_power_of_two(value)


@pytest.mark.parametrize("value", [0, -1, -4, 3, 6, 4095, (1 << 63) + 1])
def test_no_powers_of_two(value: int) -> None:
    assert not is_power_of_two(value)


@given(value=st.integers(0, 1 << 70), shift=st.integers(0, 64))
def test_rounding_gives_the_nearest_multiples(value: int, shift: int) -> None:
    alignment = 1 << shift
    down, up = align_down(value, alignment), align_up(value, alignment)
    assert down % alignment == up % alignment == 0
    assert down <= value <= up
    assert up - down == (0 if value % alignment == 0 else alignment)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0, "0x0"),
        (0x1000, "0x1000"),
        (0xFFFFFFFF, "0xffffffff"),
        (1 << 32, "0x0000000100000000"),
        (0xFFFFC90000000000, "0xffffc90000000000"),
    ],
)
def test_addresses_are_printed_as_the_kernel_does(address: int, text: str) -> None:
    assert format_address(address) == text


def test_ranges_are_printed_with_a_dash() -> None:
    assert format_range(0x1000, 0x3000) == "0x1000-0x3000"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (4096, "4 KiB"),
        (3 * MIB, "3 MiB"),
        (3 * MIB + 1, "3.0 MiB"),
        (5 * GIB // 2, "2.5 GiB"),
        (32 * TIB, "32 TiB"),
        (4096 * TIB, "4096 TiB"),
    ],
)
def test_sizes_carry_their_unit(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1B", 1),
        ("64KiB", 64 * KIB),
        ("64 KiB", 64 * KIB),
        ("2M", 2 * MIB),
        ("2MB", 2 * MIB),
        ("4GiB", 4 * GIB),
        (" 4 gib ", 4 * GIB),
        ("1T", TIB),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5K", "1KK", "1e3", "0x1000", "4 apples", "1 2"])
def test_text_that_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 20), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_sizes_are_read_as_they_are_printed(count: int, unit: str) -> None:
    size = parse_size(f"{count} {unit}")
    if (count and size % TIB == 0) or (size < TIB and count < 1024):
        assert parse_size(format_size(size)) == size
