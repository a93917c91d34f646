"""What this machine offers: frozen data that the probes fill in, and that everything else of the host machine reads.

A **capability** is one thing the kernel may or may not do for us, with the answer, how it was found out, what serves
instead, and what to change to get it. A **limit** is a number that bounds us, with what is used of it now. Both are
plain values: whoever must decide asks ``found.has("guard")`` or ``found.room("maps")``, and a test hands in what it
likes.

A capability never raises and is never half there: what only half works is not available, and the fallback is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

__all__ = ["Capability", "Facts", "HostCapabilities", "Limit"]


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that the machine may offer.

    Attributes:
        name: the short name, which ``VMALLOC_HOST_WITHOUT`` takes.
        group, title: for people.
        available: whether it is there, whole.
        how: how that was found out, or why not.
        fallback: what is used where it is not there.
        remedy: what to change to get it; empty when it is there or when nothing can be done.
        numbers: what else was learnt, by name.
        forced: the answer was given, not found.
    """

    name: str
    group: str
    title: str
    available: bool
    how: str
    fallback: str
    remedy: str = ""
    numbers: Mapping[str, int | str] = field(default_factory=dict)
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """One number that bounds this process.

    Attributes:
        name: the short name, which ``VMALLOC_HOST_LIMITS`` takes.
        title: for people.
        unit: ``"bytes"``, or what is counted.
        value: the limit; None when there is none.
        used: what is used of it now; None when that is not known.
        how: where the number stands.
        remedy: how to raise it.
        forced: the number was given, and is lower than the one that was found.
    """

    name: str
    title: str
    unit: str
    value: int | None
    used: int | None
    how: str
    remedy: str
    forced: bool = False

    @property
    def room(self) -> int | None:
        """What is left, at least 0; None when there is no limit."""
        if self.value is None:
            return None
        return max(0, self.value - (self.used or 0))

    def lowered(self, value: int, by: str) -> Limit:
        """This limit with a lower value put in by a variable; itself when the value is not lower."""
        if self.value is not None and self.value <= value:
            return self
        return replace(self, value=value, how=by, remedy=f"take {self.name} out of {by}", forced=True)


@dataclass(frozen=True, slots=True)
class Facts:
    """What has no fallback and no limit: sizes and numbers of things, in bytes where they are sizes.

    Attributes:
        huge_size: bytes of a huge page of the page tables' second level; None when the kernel has no such pages.
        cpus_possible: one more than the highest CPU number there can ever be: per-CPU areas have so many copies.
        cpus_allowed: CPUs that this process may run on.
        nodes: NUMA nodes with their distances to all of ``nodes``, in the same order.
        nodes_allowed: the nodes whose memory this process may use.
        overcommit: ``vm.overcommit_memory``: 0 guess, 1 always, 2 never.
        thp, thp_defrag, thp_shared: the kernel's settings for huge pages, empty when there are none.
        thp_disabled: this process was started with, or has set, PR_SET_THP_DISABLE.
        future_locked: every new mapping is locked into memory at once (mlockall with MCL_FUTURE).
    """

    page_size: int
    huge_size: int | None
    cpus_possible: int
    cpus_online: int
    cpus_allowed: int
    nodes: Mapping[int, tuple[int, ...]]
    nodes_allowed: tuple[int, ...]
    physical_bytes: int
    overcommit: int
    thp: str
    thp_defrag: str
    thp_shared: str
    thp_disabled: bool
    future_locked: bool


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """Everything that was found out about the machine, once."""

    capabilities: Mapping[str, Capability]
    limits: Mapping[str, Limit]
    facts: Facts

    def __post_init__(self) -> None:
        """Keeps copies that nobody can change."""
        object.__setattr__(self, "capabilities", MappingProxyType(dict(self.capabilities)))
        object.__setattr__(self, "limits", MappingProxyType(dict(self.limits)))

    def __getitem__(self, name: str) -> Capability:
        """Returns a capability by its short name."""
        return self.capabilities[name]

    def has(self, name: str) -> bool:
        """Tells whether a capability is available."""
        return self.capabilities[name].available

    def room(self, name: str) -> int | None:
        """Returns what was left of a limit when the machine was probed; None when there is no limit."""
        return self.limits[name].room

    def as_json(self) -> dict[str, Any]:
        """Returns everything as plain dictionaries, lists, strings and numbers."""
        facts = {name: getattr(self.facts, name) for name in Facts.__slots__}
        facts["nodes"] = {str(node): list(distances) for node, distances in self.facts.nodes.items()}
        facts["nodes_allowed"] = list(self.facts.nodes_allowed)
        return {
            "capabilities": [asdict(replace(c, numbers=dict(c.numbers))) for c in self.capabilities.values()],
            "limits": [asdict(limit) | {"room": limit.room} for limit in self.limits.values()],
            "facts": facts,
        }
