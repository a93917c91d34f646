"""One base class, one class per cause, the facts as attributes.

``VmallocError`` is the base of everything this package raises on purpose.  The families a caller can tell apart: the
caller's mistake (also ``ValueError``), nothing left (also ``MemoryError``), a bad access (``Fault``), a call in the
wrong context (``BadContext``), and a broken structure (``ValidationError``).  Messages carry addresses in hexadecimal
and sizes with their unit.

All of them can be pickled: a run in another process reports its error as it was.
"""

from __future__ import annotations

from typing import Any

from vmalloc.units import format_address, format_range, format_size

__all__ = [
    "BadAddress",
    "BadContext",
    "BadFrame",
    "BadFree",
    "BadRequest",
    "BadSize",
    "ExceedsMemory",
    "FAULT_KINDS",
    "Fault",
    "MachineUnavailable",
    "OutOfAddresses",
    "OutOfFrames",
    "TraceError",
    "ValidationError",
    "VmallocError",
]


def _rebuild(kind: type[VmallocError], arguments: tuple[object, ...], facts: dict[str, Any]) -> VmallocError:
    """Makes an error of what pickle kept: its message and its facts, without asking its constructor again."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(facts)
    return error


class VmallocError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class BadSize(VmallocError, ValueError):
    """A size or an alignment that no allocator can serve: the caller's mistake; nothing was changed."""


class BadRequest(VmallocError, ValueError):
    """A CPU, node, order, flag or setting that the machine does not have; nothing was changed."""


class BadContext(VmallocError, RuntimeError):
    """A call that must not be made in this context (interrupt, NMI); nothing was changed.

    Attributes:
        call: the call's name.
        context: ``"task"``, ``"softirq"``, ``"hardirq"`` or ``"nmi"``.
    """

    def __init__(self, call: str, context: str, reason: str) -> None:
        super().__init__(f"{call}() in {context} context: {reason}")
        self.call = call
        self.context = context


class MachineUnavailable(VmallocError, RuntimeError):
    """This machine cannot be had here; the message names what is missing."""


class BadFrame(VmallocError, ValueError):
    """A page frame that the caller does not hold in this way, or a range that is not in it; nothing was changed.

    Attributes:
        pfn: the frame's number.
        code: the cause as a number of the machine, 0 when it has none.
    """

    def __init__(self, pfn: int, reason: str, code: int = 0) -> None:
        super().__init__(f"frame {pfn:#x}: {reason}")
        self.pfn = pfn
        self.code = code


class BadAddress(VmallocError, ValueError):
    """An address that belongs to no area, or to no area of the kind that was asked for; nothing was changed.

    Attributes:
        address: the address in bytes.
    """

    def __init__(self, address: int, reason: str) -> None:
        super().__init__(f"{format_address(address)}: {reason}")
        self.address = address


class OutOfAddresses(MemoryError, VmallocError):
    """No free range fits the request, after a purge where there could be one (``-EBUSY``, specification section 1.10
    step 11).

    Attributes:
        size: requested bytes, guard included.
        align: requested alignment in bytes.
        start, end: the window ``[start, end)`` the request was restricted to.
    """

    def __init__(self, size: int, align: int, start: int, end: int, reason: str = "even after a purge") -> None:
        super().__init__(
            f"no free range of {size} bytes ({format_size(size)}), aligned to {format_size(align)}, "
            f"in {format_range(start, end)}, {reason}"
        )
        self.size = size
        self.align = align
        self.start = start
        self.end = end


class OutOfFrames(MemoryError, VmallocError):
    """No page frames for the request; nothing was changed.

    Attributes:
        order: the request's exponent: blocks of ``2**order`` frames.
        node: the NUMA node asked first; None for any.
    """

    def __init__(self, what: str, order: int = 0, node: int | None = None) -> None:
        super().__init__(what)
        self.order = order
        self.node = node


class ExceedsMemory(OutOfFrames, BadSize):
    """A size beyond all memory of the machine (section 2.1): the caller's mistake, and waiting would not help."""


#: What is wrong with an access: it hit the guard page of an area, nothing at all, an area or a frame that was freed, a
#: mapping that forbids the store, bytes that KASAN forbids, or a translation that a missing flush left behind.
FAULT_KINDS = ("guard", "unmapped", "freed", "readonly", "kasan", "stale_tlb")


class Fault(VmallocError):
    """An access that the machine cannot make or must not make.

    Attributes:
        address: the first byte that is at fault.
        access: ``"read"`` or ``"write"``.
        kind: one of ``FAULT_KINDS``.
        size: bytes of the whole access; 0 when unknown.
        cpu: the CPU that made it; None when unknown.
        report: KASAN's report (``kasan.report.KasanReport``), or None.
    """

    def __init__(
        self,
        address: int,
        access: str,
        kind: str,
        reason: str,
        *,
        size: int = 0,
        cpu: int | None = None,
        report: object = None,
    ) -> None:
        by = "" if cpu is None else f" by CPU {cpu}"
        many = "" if size == 0 else f" of {size} bytes"
        super().__init__(f"{access}{many} at {format_address(address)}{by}: {kind}: {reason}")
        self.address = address
        self.access = access
        self.kind = kind
        self.size = size
        self.cpu = cpu
        self.report = report


class BadFree(Fault, BadAddress):
    """A free of what is not the caller's, found by KASAN: freed before, or never allocated; nothing was changed.

    Attributes:
        access: ``"free"``; others as those of ``Fault``.
    """

    def __init__(self, address: int, reason: str, *, cpu: int | None = None, report: object = None) -> None:
        VmallocError.__init__(self, f"{format_address(address)}: {reason}")
        self.address = address
        self.access = "free"
        self.kind = "kasan"
        self.size = 0
        self.cpu = cpu
        self.report = report


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
