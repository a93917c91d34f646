"""KASAN's reports: what a bad access or a bad free hit, put together from all that is known (section 9.7).

The shadow says that an access is wrong; what lies there - an area, its slack, its guard page, a range that was freed -
only the areas know, and who had it only the tracks.  Here the three become one ``KasanReport``, which goes to the log
as text and to the caller as the ``report`` of a ``Fault``.

A wrong free is a ``BadFree``: a ``Fault`` with a report, and still the ``BadAddress`` that it is without KASAN.
"""

from __future__ import annotations

from typing import NoReturn

from vmalloc.calls.lookup import vmalloc_dump_obj
from vmalloc.calls.state import VmallocState
from vmalloc.calls.where import Caller
from vmalloc.errors import BadFree, Fault
from vmalloc.kasan.kasan import Kasan
from vmalloc.kasan.layout import bug_type
from vmalloc.kasan.report import ROW_BYTES, KasanReport, row_starts
from vmalloc.kasan.tracks import Allocation, Track
from vmalloc.units import format_address, format_size

__all__ = ["report_access", "report_free"]


def report_access(state: VmallocState, address: int, size: int, access: str) -> NoReturn:
    """Raises for an access that the shadow has just forbidden.

    Raises:
        Fault: of kind ``kasan``, at the first byte that must not be touched.
    """
    kasan: Kasan = state.kasan
    bad, reported = kasan.bad, kasan.reported
    shadow, following = kasan.bytes_of(reported, 2)
    if address + size > 1 << 64:
        bug = "out-of-bounds"  # it wraps round: its length is negative where lengths have a sign
    elif shadow is None:
        bug = _without_shadow(state, reported)
    else:
        bug = bug_type(shadow, following)
    cause, where, allocation = _what_is_at(state, kasan, bad)
    report = _report(state, kasan, bug, cause, access, address, size, bad, reported, where, allocation)
    _log(state, kasan, report)
    raise Fault(
        bad, access, "kasan", f"{bug}: {where} ({cause})", size=size, cpu=state.machine.running.cpu, report=report
    )


def report_free(state: VmallocState, address: int, call: str, reason: str, gone: bool = False) -> NoReturn:
    """Raises for a free of what is not the caller's.

    Args:
        call: what it was to be freed by. reason: why it was not.
        gone: the caller holds a handle of an area that was freed, whatever is at its address now.

    Raises:
        BadFree: ``double-free`` of what was freed before, or waits to be, else ``invalid-free``.
    """
    kasan: Kasan = state.kasan
    live, freed = kasan.tracks.live_at(address), kasan.tracks.freed_at(address)
    allocation: Allocation | None
    if live is not None and kasan.waits(live.start) and address % state.page_size == 0:
        cause, allocation = "double-free", live
    elif gone or (live is None and freed is not None and address % state.page_size == 0):
        cause, allocation = "double-free", freed
    else:
        cause, allocation = "invalid-free", live or freed
    if allocation is not None:
        where = _place(address, allocation)
    else:
        where = "somebody else's by now" if live is not None else "in nothing that was allocated"
    report = _report(state, kasan, cause, cause, "free", address, 0, address, address, where, allocation)
    _log(state, kasan, report)
    raise BadFree(address, f"{call}: {cause}: {reason}", cpu=state.machine.running.cpu, report=report)


def _without_shadow(state: VmallocState, address: int) -> str:
    """The name of a bug at an address without metadata (section 9.6)."""
    if 0 <= address < state.page_size:
        return "null-ptr-deref"
    # User space mirrors the kernel's part; where the kernel has all addresses, user space is in none of them.
    if address < (1 << 64) - state.info.kernel_start and state.info.kernel_start != 0:
        return "user-memory-access"
    return "wild-memory-access"


def _what_is_at(state: VmallocState, kasan: Kasan, address: int) -> tuple[str, str, Allocation | None]:
    """Cause, place in words, and the allocation that an address is charged to.

    What is inside something is its; between two things it is that of the nearer one, and a guard page is between two.
    """
    found = kasan.tracks.live_at(address) or kasan.tracks.freed_at(address)
    following = kasan.tracks.after(address)
    ahead = state.page_size + 1 if following is None else following.start - address
    if found is not None and (address < found.start + found.size or address - found.start - found.size < ahead):
        return "use-after-free" if found.freed is not None else "out-of-bounds", _place(address, found), found
    before = kasan.tracks.before(address)
    if found is None and before is not None and address - before.end < min(state.page_size, ahead):  # it has no guard
        return "out-of-bounds", _place(address, before), before
    if following is not None and ahead <= state.page_size:  # a step too far to the left, most likely
        where = f"{_bytes(ahead)} before {_named(following)}"
        return "out-of-bounds", where if found is None else f"{where}, {_place(address, found)}", following
    if found is not None:
        return "use-after-free" if found.freed is not None else "out-of-bounds", _place(address, found), found
    if not kasan.covers(address, address + 1):
        return "wild-access", "no address of the vmalloc range", None
    return "wild-access", "nothing was ever allocated there, or it is long forgotten", None


def _place(address: int, found: Allocation) -> str:
    """An address in relation to the allocation it is charged to."""
    offset = address - found.start
    if offset < found.size:
        return f"{_bytes(offset)} into {_named(found)}"
    beyond = offset - found.size
    return f"{_bytes(beyond)} behind {_named(found)}" if beyond else f"right behind {_named(found)}"


def _named(found: Allocation) -> str:
    kind = "mapping by vm_map_ram" if found.what == "vm_map_ram" else "area"
    state = "freed " if found.freed is not None else ""
    return f"the {state}{kind} of {found.size} bytes ({format_size(found.size)}) at {format_address(found.start)}"


def _bytes(count: int) -> str:
    return f"{count} byte" if count == 1 else f"{count} bytes"


def _report(
    state: VmallocState, kasan: Kasan, bug: str, cause: str, access: str, address: int, size: int, bad: int,
    reported: int, where: str, allocation: Allocation | None,
) -> KasanReport:
    """All that is known, as a value."""
    track: Track = kasan.track()
    rows = tuple((start, tuple(kasan.bytes_of(start, ROW_BYTES))) for start in row_starts(reported))
    return KasanReport(
        bug, cause, access, address, size, bad, reported, kasan.bytes_of(reported, 1)[0], where, allocation,
        kasan.tracks.after(bad), _symbol(track), track.stack, track.cpu, track.context, state.comm,
        _region(state, reported), _page(state, bad), rows,
    )  # fmt: skip


def _symbol(track: Track) -> str:
    """The code that made the access, as ``%pS`` prints it."""
    return str(Caller(*track.stack.calls[0])) if track.stack.calls else "<unknown>"


def _region(state: VmallocState, address: int) -> str:
    """The kernel's line about the region that an address belongs to; "" outside the vmalloc range."""
    if not state.vmalloc_start <= address < state.vmalloc_end:
        return ""
    told = vmalloc_dump_obj(state, address)
    if told is not None:
        return f"The buggy address belongs to a{told}"
    return "The buggy address belongs to a vmalloc virtual mapping"


def _page(state: VmallocState, address: int) -> str:
    """The kernel's line about the frame that is mapped at an address; "" when none is."""
    if not 0 <= address <= state.space.address_max:
        return ""
    pfn = state.machine.translate(address)
    if pfn < 0 or state.machine.node_of(pfn) < 0:
        return ""
    return f"page: pfn:{pfn:#x} node:{state.machine.node_of(pfn)}"


def _log(state: VmallocState, kasan: Kasan, report: KasanReport) -> None:
    """Counts a report, and prints it if it is the first, or all are wanted."""
    kasan.reports += 1
    kasan.last = report
    if kasan.reports == 1 or kasan.multi_shot:
        for line in str(report).split("\n"):
            state.warn(line)


