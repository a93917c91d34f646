"""The parameters of the kernel's test module, by their names there (specification section 11.1), and its presets.

``Parameters()`` is what the module does when it is told nothing, with one difference: all cases run, where modules
since 6.17 begin with the first three (``run_test_mask=7``).  ``setup_divisor`` is ours: the set-up phases of two cases
are sized for a kernel in C, and a look at them from Python may do with a part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from vmalloc.errors import BadRequest

__all__ = ["ALL_CASES", "PRESETS", "Parameters", "parse_parameters", "preset"]

#: ``run_test_mask`` of every case there is or will be.
ALL_CASES = (1 << 32) - 1

_MAX_THREADS = 65_535
_TRUE, _FALSE = {"1", "y", "yes", "on", "true"}, {"0", "n", "no", "off", "false"}


@dataclass(frozen=True)
class Parameters:
    """How the cases are run.

    Attributes:
        nr_threads: workers, on the CPUs in turn; clamped to 1..65535.
        sequential_test_order: the order of the table, else each worker shuffles.
        test_repeat_count: repetitions of each case.
        test_loop_count: inner loops of most cases.
        nr_pages: size for ``fix_size_alloc``, ``vm_map_ram`` and ``no_block_alloc``; 0 is 1.
        use_huge: ``fix_size_alloc`` asks for huge pages.
        run_test_mask: which cases, a sum of their bits.
        nr_pcpu_objects: objects of one iteration of ``pcpu_alloc``.
        setup_divisor: the set-up phases have so much less; 1 is the kernel's size.

    Raises:
        BadRequest: a number that is negative, or a divisor of 0.
    """

    nr_threads: int = 0
    sequential_test_order: bool = False
    test_repeat_count: int = 1
    test_loop_count: int = 1_000_000
    nr_pages: int = 0
    use_huge: bool = False
    run_test_mask: int = ALL_CASES
    nr_pcpu_objects: int = 35_000
    setup_divisor: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise BadRequest(f"{field.name}={value}: at least 0")
        if self.setup_divisor == 0:
            raise BadRequest("setup_divisor=0: at least 1")
        object.__setattr__(self, "nr_threads", min(max(self.nr_threads, 1), _MAX_THREADS))

    @property
    def size_pages(self) -> int:
        """``nr_pages``, as the cases take it."""
        return max(self.nr_pages, 1)


PRESETS = ("performance", "smoke", "stress")


def preset(name: str, cpus: int) -> Parameters:
    """The parameters that the module's script gives it.

    Args:
        name: one of ``PRESETS``.
        cpus: of the machine; ``stress`` runs a worker on each.

    Raises:
        BadRequest: there is no such preset.
    """
    if name == "performance":
        return Parameters(sequential_test_order=True, test_repeat_count=3)
    if name == "smoke":
        return Parameters(test_loop_count=10_000, test_repeat_count=10)
    if name == "stress":
        return Parameters(nr_threads=cpus, test_repeat_count=20)
    raise BadRequest(f"preset {name!r}: one of {', '.join(PRESETS)}")


def parse_parameters(texts: Iterable[str], base: Parameters) -> Parameters:
    """Reads ``name=value`` as the module's script takes them: numbers of any base, and y or n.

    Raises:
        BadRequest: no such parameter, or no value that it can have.
    """
    known = {field.name: type(getattr(base, field.name)) for field in fields(base)}
    found: dict[str, int | bool] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise BadRequest(f"{text!r} is no parameter; write name=value with one of {', '.join(known)}")
        if known[name] is bool:
            if value.lower() not in _TRUE | _FALSE:
                raise BadRequest(f"{text!r}: y or n")
            found[name] = value.lower() in _TRUE
        else:
            try:
                found[name] = int(value, 0)
            except ValueError:
                raise BadRequest(f"{text!r}: a whole number") from None
    return replace(base, **found)  # type: ignore[arg-type]
