"""Errors: the family of each, the facts as attributes, and messages with hex addresses and units."""

from __future__ import annotations

import pickle

import pytest

from vmalloc import errors
from vmalloc.errors import BadAddress, BadSize, OutOfAddresses, TraceError, ValidationError, VmallocError


@pytest.mark.parametrize(
    ("error", "family"),
    [(BadSize, ValueError), (BadAddress, ValueError), (TraceError, ValueError), (OutOfAddresses, MemoryError)],
)
def test_each_error_is_of_the_family_callers_expect(error: type[Exception], family: type[Exception]) -> None:
    assert issubclass(error, family)
    assert issubclass(error, VmallocError)


def test_one_base_for_all() -> None:
    assert all(issubclass(getattr(errors, name), VmallocError) for name in errors.__all__)
    assert not issubclass(ValidationError, (ValueError, MemoryError))


def test_a_bad_address() -> None:
    error = BadAddress(0xFFFFC90000001000, "is in no busy area")
    assert str(error) == "0xffffc90000001000: is in no busy area"
    assert error.address == 0xFFFFC90000001000


def test_out_of_addresses() -> None:
    error = OutOfAddresses(8192, 0x200000, 0x100000, 0x140000)
    assert str(error) == (
        "no free range of 8192 bytes (8 KiB), aligned to 2 MiB, in 0x100000-0x140000, even after a purge"
    )
    assert (error.size, error.align, error.start, error.end) == (8192, 0x200000, 0x100000, 0x140000)


def test_a_validation_error_names_both_parties() -> None:
    error = ValidationError("free tree", "#3 0x1000-0x2000", "#4 0x1800-0x3000")
    assert str(error) == "free tree: #3 0x1000-0x2000 contradicts #4 0x1800-0x3000"
    assert (error.structure, error.parties) == ("free tree", ("#3 0x1000-0x2000", "#4 0x1800-0x3000"))


def test_a_trace_error_names_file_and_line() -> None:
    error = TraceError("boot.trace", 17, "not an event")
    assert str(error) == "boot.trace:17: not an event"
    assert (error.file, error.line, error.reason) == ("boot.trace", 17, "not an event")
    assert str(TraceError("-", 0, "truncated")) == "-: truncated"


def test_the_plain_ones_survive_pickling() -> None:
    again = pickle.loads(pickle.dumps(BadSize("size 0")))
    assert (type(again), str(again)) == (BadSize, "size 0")
