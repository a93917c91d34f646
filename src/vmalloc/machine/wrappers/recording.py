"""A machine that remembers what was asked of it and what it answered, and asks another one the same.

Idea: a log of operations with everything they depend on as plain values - who ran, the numbers, the frames of a list,
the bytes of a store.  So it can be printed, compared, and replayed on any machine: on the same kind for a bug that does
not want to happen twice, on another kind to see where the two differ.

Deferred work is not asked for again: what it did came in as operations and is in the log.  What is no operation (memory
policies, accesses by array) is not in it.

Uncompiled: it is put around a machine while somebody looks.  Protected by the lock of the space.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from vmalloc.errors import BadRequest
from vmalloc.machine.base import Machine
from vmalloc.machine.wrappers.wrapper import OPERATIONS, Wrapper
from vmalloc.pages import Pages

__all__ = ["Difference", "Entry", "RecordingMachine"]

#: What is about the queue of one machine only; a replay leaves it out.
_QUEUE = ("defer", "run_deferred", "has_deferred")


class Entry(NamedTuple):
    """An operation that came back.

    Attributes:
        operation: its name.
        arguments: as given; a part of a list of frames is a tuple of frames, and ``take_bulk`` goes without its list.
        result: what it answered; of ``take_bulk`` the frames; of an error its class and text, ``("Fault", "...")``.
        cpu, context: who ran.
    """

    operation: str
    arguments: tuple[Any, ...]
    result: Any
    cpu: int
    context: int


class Difference(NamedTuple):
    """Where a replay went another way: the place in the log, the entry, and what the other machine answered."""

    place: int
    entry: Entry
    answer: Any


class RecordingMachine(Wrapper):
    """A machine that remembers.

    Args:
        inner: the machine inside.
        keep: how many operations to remember; the oldest are forgotten first.

    Attributes:
        log: the last operations, oldest first.
        forgotten: how many were before them.
    """

    def __init__(self, inner: Machine, keep: int = 100_000) -> None:
        Wrapper.__init__(self, inner)
        self.log: deque[Entry] = deque(maxlen=keep)
        self.forgotten = 0

    def replay_on(self, machine: Machine) -> list[Difference]:
        """Asks another machine the same, in the same order, by the same CPUs in the same contexts.

        Args:
            machine: one in the state that this one was in when the log began: a new one, as a rule.

        Returns:
            Where it answered differently; nothing when it never did.

        Raises:
            BadRequest: the log has forgotten its beginning.
        """
        if self.forgotten:
            raise BadRequest(f"a log that has forgotten its first {self.forgotten} operations cannot be replayed")
        differences = []
        before = machine.cpu, machine.context
        try:
            for place, entry in enumerate(list(self.log)):
                if entry.operation in _QUEUE:
                    continue
                machine.cpu, machine.context = entry.cpu, entry.context
                answer = _ask(machine, entry)
                if answer != entry.result:
                    differences.append(Difference(place, entry, answer))
        finally:
            machine.cpu, machine.context = before
        return differences

    def _remember(self, operation: str, arguments: tuple[Any, ...], result: Any, who: tuple[int, int]) -> None:
        """Puts an operation at the end of the log."""
        if len(self.log) == self.log.maxlen:
            self.forgotten += 1
        self.log.append(Entry(operation, arguments, result, *who))


def _plain(operation: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as values that stay as they are."""
    match operation:
        case "take_bulk":
            return arguments[1:]
        case "map_pages":
            address, pages, first, count, prot = arguments
            return (address, tuple(pages[first : first + count]), prot)
        case "give_bulk" | "set_direct_map":
            pages, first, count = arguments[:3]
            return (tuple(pages[first : first + count]), *arguments[3:])
        case "store":
            return (arguments[0], bytes(arguments[1]))
    return arguments


def _ask(machine: Machine, entry: Entry) -> Any:
    """Asks a machine what an entry says; the answer as an entry has it."""
    arguments = entry.arguments
    method = getattr(machine, entry.operation)
    try:
        match entry.operation:
            case "take_bulk":
                pages = Pages(room=arguments[0])
                method(pages, *arguments)
                return tuple(pages)
            case "map_pages":
                address, pfns, prot = arguments
                return method(address, Pages(pfns), 0, len(pfns), prot)
            case "give_bulk" | "set_direct_map":
                return method(Pages(arguments[0]), 0, len(arguments[0]), *arguments[1:])
        return method(*arguments)
    except Exception as error:
        return (type(error).__name__, str(error))


def _recorded(operation: str) -> Any:
    """An operation that is remembered when it came back."""

    def record(self: RecordingMachine, *arguments: Any) -> Any:
        who = self.cpu, self.context
        plain = _plain(operation, arguments)  # before it is done: who gave the list or the bytes may change them
        filled = len(arguments[0]) if operation == "take_bulk" else 0
        try:
            result = getattr(self.inner, operation)(*arguments)
        except Exception as error:
            self._remember(operation, plain, (type(error).__name__, str(error)), who)
            raise
        answer = tuple(arguments[0][filled:]) if operation == "take_bulk" else result
        self._remember(operation, plain, answer, who)
        return result

    record.__name__ = operation
    record.__doc__ = "Asks the machine inside, and remembers."
    return record


for _operation in OPERATIONS:
    setattr(RecordingMachine, _operation, _recorded(_operation))
