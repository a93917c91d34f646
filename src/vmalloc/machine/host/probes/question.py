"""What a probe is: a question, who answers it, and the words for people around it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vmalloc.machine.host.capabilities import Capability, Facts, Limit

__all__ = ["Answer", "Ground", "Question"]


@dataclass(frozen=True, slots=True)
class Ground:
    """What every probe may know: the facts, and the limits as they are forced."""

    facts: Facts
    limits: Mapping[str, Limit]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe saw: yes or no, how, numbers, and what to change where it knows that better than the question."""

    available: bool
    how: str
    numbers: Mapping[str, int | str] = field(default_factory=dict)
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A capability before it is answered.

    Attributes:
        name, group, title, fallback, remedy: as those of ``Capability``.
        ask: does the thing and looks at the result; an ``OSError`` is the answer no.
        needs: names of capabilities without which there is nothing to ask; they are asked before.
        cause: what in the settings keeps this process from it, as a remedy; None when nothing does.
    """

    name: str
    group: str
    title: str
    fallback: str
    remedy: str
    ask: Callable[[Ground], Answer]
    needs: tuple[str, ...] = ()
    cause: Callable[[Ground], str | None] = lambda ground: None

    def answered(self, ground: Ground) -> Capability:
        """Asks."""
        try:
            answer = self.ask(ground)
        except OSError as error:
            answer = Answer(False, error.strerror or str(error), remedy=_remedy_of(error))
        if answer.available:
            return self._with(answer, "")
        return self._with(answer, self.cause(ground) or answer.remedy or self.remedy)

    def without(self, missing: str) -> Capability:
        """The answer where a capability that this one needs is missing."""
        return self._with(Answer(False, f"not tried: it needs {missing}"), f"get {missing}")

    def forced_away(self, by: str) -> Capability:
        """The answer that was given from outside."""
        return self._with(Answer(False, f"not tried: {by}"), f"take {self.name} out of {by}", forced=True)

    def _with(self, answer: Answer, remedy: str, forced: bool = False) -> Capability:
        return Capability(
            self.name, self.group, self.title, answer.available, answer.how, self.fallback, remedy,
            dict(answer.numbers), forced,
        )


def _remedy_of(error: OSError) -> str | None:
    """What an error says of its cause: a lack, or somebody who forbids the call; None when it says nothing."""
    if error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return "the process had no room left to try: see the limits"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "allow the call: a seccomp profile, a security module or the kernel's settings forbid it"
    return None
