"""Policy knobs: the rules of the allocator that can be turned to ask "what if the kernel did this instead?".

Idea: a kernel profile (``kernels``) says what one family of releases does; a ``Policy`` says where somebody wants it
done differently.  Every knob's default is the kernel's own rule, so that a space without a policy, or with
``Policy()``, gives every address the kernel gives.

``KNOBS`` is the one list: the command line's ``--help``, the documents, the errors and the parser are all made of it.

Only rules that have a number or a name are knobs.  Best fit is not among the values of ``fit``: the free tree is
ordered by address, and the smallest block that fits can only be found in it by looking at all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from textwrap import wrap

from vmalloc import kernels
from vmalloc.errors import BadRequest
from vmalloc.kernels import KernelProfile
from vmalloc.units import ADDRESS_MAX, GIB, KIB, MIB, TIB, parse_size

__all__ = ["KNOBS", "Knob", "Policy", "knob_table", "parse_knobs", "policy_of"]

#: Most vmap nodes a kernel makes (section 4.5).
MOST_NODES = 128

#: Largest N of ``decay=1/N``.
LARGEST_PART = 1 << 20

_NAMED_DECAYS = {"none": 0, "all": 1, "half": 2, "quarter": 4}


@dataclass(frozen=True)
class Knob:
    """One rule that can be turned.

    Attributes:
        name: as in ``--set NAME=VALUE``, and the attribute of ``Policy``.
        values: what it can be set to, for people.
        kernel: the kernel's own rule, for people.
        meaning: what it does.
        section: of the specification.
        read: makes the stored value of text or of a Python value; raises ValueError.
        show: the stored value as text that ``read`` takes.
    """

    name: str
    values: str
    kernel: str
    meaning: str
    section: str
    read: Callable[[object], object]
    show: Callable[[object], str]


def _whole(value: object, most: int) -> int:
    """A whole number from 0 to ``most``, from a number or its digits."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError
    return number


def _exact_size(size: int) -> str:
    """Bytes as text in the largest unit that is exact."""
    units = {"TiB": TIB, "GiB": GIB, "MiB": MIB, "KiB": KIB}
    return next((f"{size // unit}{name}" for name, unit in units.items() if size and size % unit == 0), f"{size}B")


def _read_threshold(value: object) -> object:
    """Pages as a number, bytes as text with a unit; None for the kernel's rule."""
    if value is None or value == "kernel":
        return None
    if isinstance(value, str) and not value.strip().isdigit():
        return _exact_size(_whole(parse_size(value), ADDRESS_MAX))
    return _whole(value, ADDRESS_MAX)


def _read_nodes(value: object) -> object:
    if value is None or value == "kernel":
        return None
    number = _whole(value, MOST_NODES)
    if number == 0:
        raise ValueError
    return number


def _read_decay(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError
    if value in _NAMED_DECAYS:
        return value
    numerator, slash, divisor = value.partition("/")
    if numerator != "1" or not slash or _whole(divisor, LARGEST_PART) < 1:
        raise ValueError
    return f"1/{int(divisor)}"


def _read_switch(value: object) -> object:
    if isinstance(value, bool):
        return value
    return {"on": True, "off": False}[str(value)]


def _read_fit(value: object) -> object:
    if value not in ("kernel", "lowest"):
        raise ValueError
    return value


def _show_or_kernel(value: object) -> str:
    return "kernel" if value is None else str(value)


def _show_switch(value: object) -> str:
    return "on" if value else "off"


KNOBS = (
    Knob(
        "lazy_max_pages", "pages, or a size with its unit such as 64MiB", "fls(online CPUs) * 32 MiB",
        "more lazily freed pages than this make a purge due", "4.3", _read_threshold, _show_or_kernel,
    ),
    Knob(
        "vmap_nodes", f"1 to {MOST_NODES}", "one per possible CPU; one on 32 bits and before 6.9",
        "over how many nodes busy areas, lazy areas and pools are spread; with one there are no pools", "4.5",
        _read_nodes, _show_or_kernel,
    ),
    Knob(
        "decay", "none, all, half, quarter, 1/N", "quarter",
        "the part of each pool that a purge returns to the free tree (quarter has 6.12's quirk with small pools, 1/4 "
        "has not)", "4.9", _read_decay, str,
    ),
    Knob(
        "pools", "on, off", "on", "whether purged areas of up to 256 pages wait in pools for reuse", "4.8",
        _read_switch, _show_switch,
    ),
    Knob(
        "fit", "kernel, lowest", "kernel",
        "which free block serves an alignment above a page: the one the kernel's search meets, or the one with the "
        "lowest address that fits", "1.7", _read_fit, str,
    ),
    Knob("guard", "on, off", "on", "the unmapped page behind each area", "1.11", _read_switch, _show_switch),
    Knob("huge", "on, off", "on", "huge mappings, and the alignment they need", "3.2", _read_switch, _show_switch),
)  # fmt: skip

_BY_NAME = {knob.name: knob for knob in KNOBS}


@dataclass(frozen=True)
class Policy:
    """The rules of one allocator; each default is the kernel's.

    Attributes:
        lazy_max_pages: the purge threshold: a number of pages, or text with a unit; None for the kernel's.
        vmap_nodes: number of nodes; None for the kernel's.
        decay: ``none``, ``all``, ``half``, ``quarter`` or ``1/N``.
        pools, guard, huge: whether there are any.
        fit: ``kernel`` or ``lowest``.

    Raises:
        BadRequest: a value that a knob does not have; it is named with those it has.

    >>> Policy(lazy_max_pages="64MiB", guard=False).describe()
    'lazy_max_pages=64MiB guard=off'
    """

    lazy_max_pages: int | str | None = None
    vmap_nodes: int | None = None
    decay: str = "quarter"
    pools: bool = True
    fit: str = "kernel"
    guard: bool = True
    huge: bool = True

    def __post_init__(self) -> None:
        for knob in KNOBS:
            given = getattr(self, knob.name)
            try:
                object.__setattr__(self, knob.name, knob.read(given))
            except (ValueError, KeyError):
                raise BadRequest(f"{knob.name}={given}: it can be {knob.values} (default: {knob.kernel})") from None

    # -- what the allocator asks ------------------------------------------------------------------------------------

    def threshold(self, online_cpus: int, page_size: int) -> int:
        """The purge threshold in pages; purging starts when strictly above (section 4.3)."""
        if self.lazy_max_pages is None:
            return kernels.lazy_max_pages(online_cpus, page_size)
        if isinstance(self.lazy_max_pages, str):
            return parse_size(self.lazy_max_pages) // page_size
        return self.lazy_max_pages

    def nr_nodes(self, kernel: KernelProfile, possible_cpus: int, *, word_bits: int = 64) -> int:
        """The number of vmap nodes (section 4.5).

        Raises:
            BadRequest: several nodes for a kernel that has none.
        """
        if self.vmap_nodes is None:
            return kernels.nr_vmap_nodes(kernel, possible_cpus, word_bits=word_bits)
        if self.vmap_nodes > 1 and not kernel.has_nodes:
            raise BadRequest(f"vmap_nodes={self.vmap_nodes}: kernel {kernel.name} has one; nodes came with 6.9")
        return self.vmap_nodes

    @property
    def decay_divisor(self) -> int:
        """Which part of a pool a partial decay takes: one in this many, 1 for all, 0 for none."""
        named = _NAMED_DECAYS.get(self.decay)
        return named if named is not None else int(self.decay.partition("/")[2])

    @property
    def decay_is_kernels(self) -> bool:
        """Whether the kernel's rule holds, with what a release makes of it (6.12 empties small pools)."""
        return self.decay == "quarter"

    @property
    def lowest_fit(self) -> bool:
        """Whether aligned requests take the lowest address that fits."""
        return self.fit == "lowest"

    # -- for people -------------------------------------------------------------------------------------------------

    def knobs(self) -> dict[str, str]:
        """Every knob and its value, as ``parse_knobs`` takes them."""
        return {knob.name: knob.show(getattr(self, knob.name)) for knob in KNOBS}

    def changed(self) -> dict[str, str]:
        """The knobs that are not the kernel's, with their values."""
        return {
            field.name: _BY_NAME[field.name].show(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }

    def describe(self) -> str:
        """What differs from the kernel, as ``name=value`` words; ``"the kernel's rules"`` when nothing does."""
        return " ".join(f"{name}={value}" for name, value in self.changed().items()) or "the kernel's rules"


def parse_knobs(settings: Iterable[str]) -> Policy:
    """Makes a policy of ``name=value`` texts; a later one replaces an earlier one of the same name.

    Raises:
        BadRequest: no such knob, no value, or a value the knob does not have; the message lists what there is.

    >>> parse_knobs(["fit=lowest", "lazy_max_pages=8192"])
    Policy(lazy_max_pages=8192, vmap_nodes=None, decay='quarter', pools=True, fit='lowest', guard=True, huge=True)
    """
    values: dict[str, object] = {}
    for setting in settings:
        if not isinstance(setting, str):
            raise BadRequest(f"{setting!r} is no knob with a value; write NAME=VALUE, with one of {_names()}")
        name, equals, value = setting.partition("=")
        if not equals:
            raise BadRequest(f"{setting!r} is no knob with a value; write NAME=VALUE, with one of {_names()}")
        values[name.strip()] = value.strip()
    return _policy(values)


def policy_of(given: Policy | Mapping[str, object] | Iterable[str] | None) -> Policy:
    """Makes a policy of whatever a caller may give: a policy, a mapping, ``name=value`` texts, or None.

    Raises:
        BadRequest: no such knob, or a value it does not have.
    """
    if given is None:
        return Policy()
    if isinstance(given, Policy):
        return given
    if isinstance(given, Mapping):
        return _policy(given)
    return parse_knobs([given] if isinstance(given, str) else given)


def knob_table() -> str:
    """The knobs as indented lines, for ``--help``."""
    lines = []
    for knob in KNOBS:
        lines.append(f"  {knob.name}={{{knob.values}}}")
        lines += wrap(f"{knob.meaning}; default: {knob.kernel}", 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _policy(values: Mapping[str, object]) -> Policy:
    for name in values:
        if name not in _BY_NAME:
            raise BadRequest(f"no knob {name!r}; there are {_names()}")
    return Policy(**values)  # type: ignore[arg-type]


def _names() -> str:
    return ", ".join(f"{knob.name} ({knob.values})" for knob in KNOBS)
