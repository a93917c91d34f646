"""The shape of all chunks: how large a unit is, which CPUs share a group, where each CPU's unit lies.

Idea: at boot the kernel lays out the *first chunk*, which holds what was linked into the kernel (static), what modules
may ask for (reserved) and a first piece for everybody (dynamic).  All later chunks have the shape of that one
(specification section 7.2)::

    size_sum  = static + reserved + dynamic, in whole pages
    alloc     = that, at least 32 KiB, rounded up to atom_size        what is reserved at a time
    upa       = units per alloc                                       how many units share one
    unit_size = alloc / upa
    group     = the CPUs of one NUMA node, padded to whole allocs

``upa`` is as large as whole pages allow, then lowered: a group whose CPUs do not fill its allocs wastes units, and more
than a third of the number of CPUs may not be wasted.  Of what is left the fewest allocs win, and of those that are
equal the lowest ``upa``: larger units at the same price.

Where the groups lie to each other is not decided here: an embedded first chunk has them where its memory is
(``first_chunk``), and every chunk needs the same distances again, which is what makes chunks hard to place.

The sizes are a common x86-64 kernel's; ``PercpuSettings`` changes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vmalloc.errors import BadRequest
from vmalloc.machine.base import MachineInfo
from vmalloc.units import KIB, MIB, align_up, format_size, is_power_of_two

__all__ = [
    "EMPTY_HIGH",
    "EMPTY_LOW",
    "Group",
    "Layout",
    "MIN_UNIT_SIZE",
    "PercpuSettings",
    "atom_size_of",
    "cpu_to_node",
    "make_layout",
    "page_layout",
    "units_per_alloc",
]

#: No unit is smaller (``PCPU_MIN_UNIT_SIZE``), so an object of this size always fits.
MIN_UNIT_SIZE = 32 * KIB

#: The dynamic part is never smaller (``PERCPU_DYNAMIC_EARLY_SIZE``).
DYNAMIC_EARLY_SIZE = 20 * KIB

#: Empty pages in reserve: below the first number the balance work is asked for, and it fills up to the second.
EMPTY_LOW = 2
EMPTY_HIGH = 4

#: Placements of the first chunk: in the permanent map, in the vmalloc range, or the first of them that is possible.
FIRST_CHUNKS = ("auto", "embed", "page")


@dataclass(frozen=True)
class PercpuSettings:
    """What a machine's boot would decide.

    Attributes:
        static_size, reserved_size, dynamic_size: parts of the first chunk, bytes.
        atom_size: bytes that units are allotted in; None for the architecture's.
        first_chunk: one of ``FIRST_CHUNKS``.

    Raises:
        BadRequest: sizes that are none, or no such placement.
    """

    static_size: int = 208 * KIB
    reserved_size: int = 8 * KIB
    dynamic_size: int = 28 * KIB
    atom_size: int | None = None
    first_chunk: str = "auto"

    def __post_init__(self) -> None:
        for name in ("static_size", "reserved_size", "dynamic_size"):
            size = getattr(self, name)
            if not 0 <= size <= 64 * MIB or size % 8:
                raise BadRequest(f"{name} of {size} bytes: a multiple of 8, up to {format_size(64 * MIB)}")
        if self.atom_size is not None and not (is_power_of_two(self.atom_size) and self.atom_size <= 64 * MIB):
            raise BadRequest(f"atom_size of {self.atom_size} bytes: a power of two, up to {format_size(64 * MIB)}")
        if self.first_chunk not in FIRST_CHUNKS:
            raise BadRequest(f"first_chunk {self.first_chunk!r}: one of {', '.join(FIRST_CHUNKS)}")

    @classmethod
    def of(cls, given: PercpuSettings | Mapping[str, Any] | None) -> PercpuSettings:
        """Settings from what a user gives; raises BadRequest for a name that is none."""
        if isinstance(given, PercpuSettings):
            return given
        names = [field.name for field in fields(cls)]
        for name in given or {}:
            if name not in names:
                raise BadRequest(f"percpu setting {name!r}: one of {', '.join(names)}")
        return cls(**(given or {}))


@dataclass(frozen=True)
class Group:
    """CPUs near each other, whose units lie together.

    Attributes:
        node: their NUMA node; -1 for a group of all CPUs, wherever they are.
        cpus: their numbers, ascending; unit ``i`` of the group is the ``i``-th one's.
        nr_units: as many units as the group has room for; those behind the last CPU's are nobody's.
    """

    node: int
    cpus: tuple[int, ...]
    nr_units: int


@dataclass(frozen=True)
class Layout:
    """The shape of all chunks.

    Attributes:
        kind: ``"embed"`` or ``"page"``.
        page_size, atom_size, unit_size: bytes.
        static_size, reserved_size, dynamic_size: parts of the first chunk, bytes.
        upa: units per alloc.
        groups: the groups; ``group_offsets``: where each begins, from the base on, bytes.
        unit_offsets: where each CPU's unit begins, from the base on, bytes.
    """

    kind: str
    page_size: int
    atom_size: int
    unit_size: int
    static_size: int
    reserved_size: int
    dynamic_size: int
    upa: int
    groups: tuple[Group, ...]
    group_offsets: tuple[int, ...]
    unit_offsets: tuple[int, ...]

    @property
    def size_sum(self) -> int:
        """Bytes of a unit that the first chunk uses."""
        return align_up(self.static_size + self.reserved_size + self.dynamic_size, self.page_size)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Bytes of each group."""
        return tuple(group.nr_units * self.unit_size for group in self.groups)

    @property
    def span(self) -> int:
        """Bytes from the base to the end of the last group."""
        return max(offset + size for offset, size in zip(self.group_offsets, self.group_sizes, strict=True))

    @property
    def unit_pages(self) -> int:
        """Pages of a unit."""
        return self.unit_size // self.page_size

    @property
    def lowest_unit(self) -> int:
        """Where the lowest unit of a CPU begins, bytes from the base."""
        return min(self.unit_offsets)

    @property
    def highest_unit(self) -> int:
        """Where the highest unit of a CPU begins, bytes from the base."""
        return max(self.unit_offsets)

    def at(self, group_offsets: tuple[int, ...]) -> Layout:
        """The same shape with its groups elsewhere."""
        units: dict[int, int] = {}
        for group, offset in zip(self.groups, group_offsets, strict=True):
            units |= {cpu: offset + i * self.unit_size for i, cpu in enumerate(group.cpus)}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"group_offsets": group_offsets, "unit_offsets": tuple(units[cpu] for cpu in sorted(units))}
        return Layout(**values)


def cpu_to_node(cpu: int, cpus: int, nodes: int) -> int:
    """The node of a CPU: node ``k`` has the ``k``-th part of them."""
    return cpu * nodes // cpus


def atom_size_of(info: MachineInfo) -> int:
    """In what sizes an architecture allots units: x86-64 in PMD leaves, if it has them; powerpc in 1 MiB; others pages.

    Section 7.2 names x86 and powerpc; the others are taken to be as x86-32.
    """
    page_size = 1 << info.page_shift
    if info.arch.startswith("x86_64") and info.pmd_shift in info.vmap_shifts:
        return 1 << info.pmd_shift
    if info.arch.startswith("ppc"):
        return max(MIB, page_size)
    return page_size


def units_per_alloc(alloc: int, min_unit: int, page_size: int, group_sizes: list[int]) -> int:
    """How many units share an alloc (``upa``; see the opening of this file).

    Args:
        alloc, min_unit, page_size: bytes.
        group_sizes: how many CPUs each group has.
    """
    nr_cpus = sum(group_sizes)
    best, fewest = 1, 0
    for upa in range(alloc // min_unit, 0, -1):
        if alloc % upa or (alloc // upa) % page_size:
            continue
        allocs = sum(-(-size // upa) for size in group_sizes)
        if 3 * (allocs * upa - nr_cpus) > nr_cpus and upa > 1:
            continue
        if fewest and allocs > fewest:
            break
        best, fewest = upa, allocs
    return best


def make_layout(info: MachineInfo, settings: PercpuSettings) -> Layout:
    """The shape of the chunks of a machine, its groups one behind the other.

    Raises:
        BadRequest: an ``atom_size`` that is less than a page.
    """
    page_size = 1 << info.page_shift
    atom = atom_size_of(info) if settings.atom_size is None else settings.atom_size
    if atom < page_size:
        raise BadRequest(f"atom_size of {format_size(atom)}: at least a page, {format_size(page_size)}")
    cpus_of: dict[int, list[int]] = {}
    for cpu in range(info.cpus):
        cpus_of.setdefault(cpu_to_node(cpu, info.cpus, info.nodes), []).append(cpu)
    min_unit = _min_unit(settings, page_size)
    alloc = align_up(min_unit, atom)
    upa = units_per_alloc(alloc, min_unit, page_size, [len(cpus) for cpus in cpus_of.values()])
    groups = tuple(Group(node, tuple(cpus), align_up_to(len(cpus), upa)) for node, cpus in cpus_of.items())
    return _packed("embed", page_size, atom, alloc // upa, upa, settings, groups)


def page_layout(info: MachineInfo, settings: PercpuSettings) -> Layout:
    """The shape where an embedded first chunk is not possible: one group of all CPUs, units of whole pages."""
    page_size = 1 << info.page_shift
    group = Group(-1, tuple(range(info.cpus)), info.cpus)
    return _packed("page", page_size, page_size, _min_unit(settings, page_size), 1, settings, (group,))


def align_up_to(number: int, step: int) -> int:
    """The smallest multiple of ``step``, any number, that is not below ``number``."""
    return -(-number // step) * step


def _dynamic(settings: PercpuSettings) -> int:
    return max(settings.dynamic_size, DYNAMIC_EARLY_SIZE)


def _min_unit(settings: PercpuSettings, page_size: int) -> int:
    size_sum = align_up(settings.static_size + settings.reserved_size + _dynamic(settings), page_size)
    return max(size_sum, align_up(MIN_UNIT_SIZE, page_size))


def _packed(
    kind: str, page_size: int, atom: int, unit_size: int, upa: int, settings: PercpuSettings, groups: tuple[Group, ...]
) -> Layout:
    """A layout whose groups lie one behind the other."""
    offsets, at = [], 0
    for group in groups:
        offsets.append(at)
        at += align_up(group.nr_units * unit_size, atom)
    found = Layout(
        kind, page_size, atom, unit_size, settings.static_size, settings.reserved_size, _dynamic(settings), upa,
        groups, tuple(offsets), (),
    )  # fmt: skip
    return found.at(tuple(offsets))
