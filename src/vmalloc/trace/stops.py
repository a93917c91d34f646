"""Why the line parser stopped: the codes it hands to Python, and the sentence each one becomes.

``lines.py`` runs without objects and cannot raise; it stops at a line and leaves a code.  The first five codes are
ordinary (end of the chunk, a line that is not one of the three hot events ...), all others say what is wrong with the
line.  The numbers are mirrored by an ``enum`` in ``lines.pxd``; a test holds the two equal.
"""

from __future__ import annotations

__all__ = ["FAULTS"]

#: The chunk is parsed to its end.
END = 0
#: The columns have no room for another row.
FULL = 1
#: The line's window ``(vstart, vend)`` is not the one of the line before: its index has to be looked up.
WINDOW = 2
#: An event line of some other event: prefix parsed, name and fields left to Python.
OTHER = 3
#: A line without the prefix of an event line: a header, a loss, a stack trace, or foreign text.
ODD = 4

BACKWARDS = 5
NO_FIELD = 6
NO_NUMBER = 7
TOO_BIG = 8
TRAILING = 9
SIZE_ZERO = 10
SIZE_UNALIGNED = 11
ALIGN_ODD = 12
END_OVERFLOWS = 13
FAILED_ODD = 14
START_UNALIGNED = 15
WINDOWS_FULL = 16

#: The first code that means a damaged line.
FIRST_FAULT = BACKWARDS

FAULTS = {
    BACKWARDS: "out of order: the timestamp is before the one of the line above",
    NO_FIELD: "a field of the event is missing or garbled",
    NO_NUMBER: "a number is missing or garbled",
    TOO_BIG: "a number does not fit in 64 bits",
    TRAILING: "unexpected text after the last field",
    SIZE_ZERO: "size is 0",
    SIZE_UNALIGNED: "size is not a multiple of 4096 bytes",
    ALIGN_ODD: "align is not a power of two",
    END_OVERFLOWS: "va_start + size is past the end of the 64-bit address space",
    FAILED_ODD: "failed is neither 0 nor 1",
    START_UNALIGNED: (
        "va_start is not a multiple of 4096 bytes (if addresses look hashed, record with the boot option "
        "no_hash_pointers or with `trace_options nohash-ptr`)"
    ),
    WINDOWS_FULL: "more than 65536 different windows (vstart, vend)",
}
