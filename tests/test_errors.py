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
    classes = [found for name in errors.__all__ if isinstance(found := getattr(errors, name), type)]
    assert len(classes) == len(errors.__all__) - 1  # FAULT_KINDS
    assert all(issubclass(found, VmallocError) for found in classes)
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


@pytest.mark.parametrize(
    "error",
    [
        BadSize("size 0"),
        BadAddress(0x1000, "is in no busy area"),
        OutOfAddresses(8192, 4096, 0x100000, 0x140000),
        errors.OutOfFrames("no free block", 3, 1),
        errors.BadFrame(7, "it is free already", -2),
        errors.BadContext("vmalloc", "nmi", "it may sleep"),
        errors.Fault(0x1000, "read", "guard", "behind an area", size=8, cpu=1),
        TraceError("boot.trace", 17, "not an event"),
        ValidationError("free tree", "one", "other"),
    ],
)
def test_they_survive_pickling(error: VmallocError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_fault() -> None:
    error = errors.Fault(0xFFFFC90000001000, "write", "guard", "1 byte behind an area", size=8, cpu=1)
    assert str(error) == "write of 8 bytes at 0xffffc90000001000 by CPU 1: guard: 1 byte behind an area"
    facts = (error.address, error.access, error.kind, error.size, error.cpu)
    assert facts == (0xFFFFC90000001000, "write", "guard", 8, 1)
    assert error.kind in errors.FAULT_KINDS
