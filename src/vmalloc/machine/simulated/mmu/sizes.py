"""Which TLBs a CPU has: capacity and ways for each page size.

The defaults are those of the second-level TLB of a current core: 1536 entries of 12 ways for base pages, as many for
groups of PTEs, 1024 of 8 ways for PMD leaves, 16 for PUD leaves in one set.  A CPU has them for the sizes that its
architecture's kernels can install, and for no others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import Arch
from vmalloc.machine.simulated.mmu.states import MAX_CLASSES, POLICIES
from vmalloc.machine.simulated.mmu.tlb import Tlb
from vmalloc.units import is_power_of_two

__all__ = ["TlbSize", "check_sizes", "default_sizes", "make_tlbs"]

#: Entries and ways.
BASE, PMD, PUD = (1536, 12), (1024, 8), (16, 16)


class TlbSize(NamedTuple):
    """The entries for one page size.

    Attributes:
        shift: log2 of the bytes an entry translates.
        nr_entries: how many there are.
        ways: how many of them a page can be in; ``nr_entries / ways`` sets, a power of two.
    """

    shift: int
    nr_entries: int
    ways: int


def default_sizes(arch: Arch) -> tuple[TlbSize, ...]:
    """The sizes of an architecture's TLBs, smallest page first."""
    shifts = sorted({arch.page_shift, *(leaf.shift for leaf in arch.huge_vmap)})
    pud = arch.level("pud").shift
    return tuple(
        TlbSize(shift, *(BASE if shift in (arch.page_shift, *arch.pte_groups) else PUD if shift >= pud else PMD))
        for shift in shifts
    )


def check_sizes(sizes: Iterable[TlbSize], policy: str) -> tuple[TlbSize, ...]:
    """The sizes in order, smallest page first.

    Raises:
        BadRequest: there can be no such TLB.
    """
    if policy not in POLICIES:
        raise BadRequest(f"replacement policy {policy!r}: write one of {', '.join(POLICIES)}")
    ordered = tuple(sorted(TlbSize(*size) for size in sizes))
    shifts = [size.shift for size in ordered]
    if not 1 <= len(ordered) <= MAX_CLASSES or len(set(shifts)) < len(shifts):
        raise BadRequest(f"page sizes {shifts} of a TLB: one to {MAX_CLASSES} different ones")
    for size in ordered:
        whole = size.ways > 0 and size.nr_entries % size.ways == 0
        if not (0 < size.shift < 64 and whole and is_power_of_two(size.nr_entries // size.ways)):
            raise BadRequest(f"{size}: the number of sets must be a power of two")
        if size.nr_entries > 1 << 24:
            raise BadRequest(f"{size}: more entries than {1 << 24}")
    return ordered


def make_tlbs(
    arch: Arch, nr_cpus: int, sizes: Iterable[TlbSize] | None = None, policy: str = "lru", seed: int = 1
) -> list[Tlb]:
    """Makes one TLB per CPU.

    Args:
        arch: gives the sizes where ``sizes`` is None, and the base page, which must be among them.
        nr_cpus: how many.
        sizes: the entries of each.
        policy: one of ``POLICIES``.
        seed: of the random replacement; each CPU throws dice of its own.

    Raises:
        BadRequest: there can be no such TLB.
    """
    checked = check_sizes(default_sizes(arch) if sizes is None else sizes, policy)
    if checked[0].shift != arch.page_shift:
        raise BadRequest(f"smallest page size of a TLB 2**{checked[0].shift}: {arch.name} has 2**{arch.page_shift}")
    return [Tlb(arch.page_shift, checked, policy, seed + cpu) for cpu in range(nr_cpus)]
