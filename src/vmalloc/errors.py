"""One base class, one class per cause, the facts as attributes.

``VmallocError`` is the base of everything this package raises on purpose.  The three families a caller can tell apart:
the caller's mistake (also ``ValueError``), nothing left (also ``MemoryError``), and a broken structure
(``ValidationError``).  Messages carry addresses in hexadecimal and sizes with their unit.
"""

from __future__ import annotations

from vmalloc.units import format_address, format_range, format_size

__all__ = [
    "BadAddress",
    "BadSize",
    "OutOfAddresses",
    "TraceError",
    "ValidationError",
    "VmallocError",
]


class VmallocError(Exception):
    """Base of all errors of this package."""


class BadSize(VmallocError, ValueError):
    """A size or an alignment that no allocator can serve: the caller's mistake; nothing was changed."""


class BadAddress(VmallocError, ValueError):
    """An address that belongs to no area, or to no area of the kind that was asked for; nothing was changed.

    Attributes:
        address: the address in bytes.
    """

    def __init__(self, address: int, reason: str) -> None:
        super().__init__(f"{format_address(address)}: {reason}")
        self.address = address


class OutOfAddresses(VmallocError, MemoryError):
    """No free range fits the request, even after purging (``-EBUSY``, specification section 1.10 step 11).

    Attributes:
        size: requested bytes, guard included.
        align: requested alignment in bytes.
        start, end: the window ``[start, end)`` the request was restricted to.
    """

    def __init__(self, size: int, align: int, start: int, end: int) -> None:
        super().__init__(
            f"no free range of {size} bytes ({format_size(size)}), aligned to {format_size(align)}, "
            f"in {format_range(start, end)}, even after a purge"
        )
        self.size = size
        self.align = align
        self.start = start
        self.end = end


class ValidationError(VmallocError):
    """A structure breaks one of its invariants.

    Attributes:
        structure: which structure was checked, for example ``"free tree"``.
        parties: the two things that contradict each other, as text.
    """

    def __init__(self, structure: str, first: str, second: str) -> None:
        super().__init__(f"{structure}: {first} contradicts {second}")
        self.structure = structure
        self.parties = (first, second)


class TraceError(VmallocError, ValueError):
    """A trace or a snapshot that cannot be read.

    Attributes:
        file: name of the input (``-`` for standard input).
        line: 1-based line number, or 0 when the fault is not in one line (a truncated compressed stream).
    """

    def __init__(self, file: str, line: int, reason: str) -> None:
        where = f"{file}:{line}" if line else file
        super().__init__(f"{where}: {reason}")
        self.file = file
        self.line = line
        self.reason = reason
