"""Answers that are given and not found: how to see what a lesser machine would do.

``VMALLOC_HOST_WITHOUT=guard,collapse`` takes capabilities away; they are not even tried, so it also keeps the probes
from calls that a sandbox would kill the process for. ``VMALLOC_HOST_LIMITS=maps=5000,address_space=4GiB`` lowers
limits; a limit that is lower already stays. Both show as forced wherever the answers are shown. There is no way to
force a capability to be there: believing in guards that are none would help nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from vmalloc.errors import BadRequest
from vmalloc.units import parse_size

__all__ = ["LIMITS", "WITHOUT", "Forced", "read_forced"]

WITHOUT = "VMALLOC_HOST_WITHOUT"
LIMITS = "VMALLOC_HOST_LIMITS"


@dataclass(frozen=True, slots=True)
class Forced:
    """Capabilities that are taken away, and limits that are lowered (bytes or counts), by their short names."""

    without: frozenset[str] = frozenset()
    limits: Mapping[str, int] = field(default_factory=dict)

    def check(self, capabilities: Collection[str], limits: Collection[str]) -> None:
        """Makes sure that every name is known.

        Raises:
            BadRequest: one is not; the message lists those that are.
        """
        _check(WITHOUT, "capability", self.without, capabilities)
        _check(LIMITS, "limit", self.limits, limits)


def read_forced(environment: Mapping[str, str]) -> Forced:
    """Reads the two variables out of an environment.

    Raises:
        BadRequest: a limit is not ``name=number``, where the number may have a unit.
    """
    without = frozenset(_words(environment.get(WITHOUT, "")))
    limits = {}
    for word in _words(environment.get(LIMITS, "")):
        name, _, number = word.partition("=")
        try:
            limits[name.strip()] = parse_size(number)
        except ValueError:
            raise BadRequest(f"{LIMITS}: {word!r} is not of the form maps=5000 or address_space=4GiB") from None
    return Forced(without, limits)


def _words(text: str) -> Iterable[str]:
    """The parts of a list with commas, without empty ones."""
    return filter(None, (word.strip() for word in text.split(",")))


def _check(variable: str, kind: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuses names that are not known."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise BadRequest(f"{variable}: no {kind} {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}")
