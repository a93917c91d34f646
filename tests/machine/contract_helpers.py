"""Small things that the tests of a machine say often."""

from __future__ import annotations

from vmalloc.flags import NUMA_NO_NODE, PROT_READ, PROT_WRITE, TAKE_MAY_DRAIN, TAKE_ZERO
from vmalloc.machine.base import Machine
from vmalloc.pages import Pages
from vmalloc.units import align_up

RW = PROT_READ | PROT_WRITE
EBUSY, ENOMEM = 16, 12


def page_size(machine: Machine) -> int:
    return 1 << machine.info.page_shift


def base(machine: Machine) -> int:
    """Where the tests map: aligned for every size of mapping that an allocation may ask for."""
    return align_up(machine.info.vmalloc_start, 1 << machine.info.pmd_shift)


def take_pages(machine: Machine, count: int, how: int = 0, node: int = NUMA_NO_NODE) -> Pages:
    """Single frames, as many as asked for."""
    pfns = [machine.take(0, node, how) for _ in range(count)]
    assert min(pfns) >= 0, "the machine of a contract has a few thousand frames"
    return Pages(pfns, page_size(machine))


def take_all(machine: Machine, node: int = NUMA_NO_NODE, how: int = 0) -> list[int]:
    """Takes single frames until there are none."""
    found = []
    while (pfn := machine.take(0, node, how | TAKE_MAY_DRAIN)) >= 0:
        found.append(pfn)
        assert len(found) <= machine.info.nr_pages
    return found


def give_all(machine: Machine, pfns: list[int]) -> None:
    assert machine.give_bulk(Pages(pfns), 0, len(pfns)) == len(pfns)


def mapped(machine: Machine, count: int, address: int | None = None, prot: int = RW) -> tuple[int, Pages]:
    """A mapping of fresh frames, zeroed."""
    address = base(machine) if address is None else address
    pages = take_pages(machine, count, TAKE_ZERO)
    assert machine.map_pages(address, pages, 0, count, prot) == 0
    return address, pages


def translations(machine: Machine, address: int, count: int) -> list[int]:
    return [machine.translate(address + i * page_size(machine)) for i in range(count)]


def foreign_frame(machine: Machine) -> int:
    """A frame number behind all memory."""
    pfn = (1 << 32) - 2
    assert machine.node_of(pfn) == -1
    return pfn
