"""A kernel that lies or refuses: what stands between the probes and the system calls in tests.

``Kernel`` has the face of ``syscalls``. Calls named in ``lies`` are answered by the test; the n-th call that can fail
may be told to; and mappings that were made for good are remembered until they are taken back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from vmalloc.machine.host import probe, scratch, syscalls
from vmalloc.machine.host.probes import addresses, guards, moving, places, private, shared, watching

MODULES = (probe, scratch, addresses, guards, moving, places, private, shared, watching)

#: Calls that never fail in these tests: munmap, for there is no undoing without it, and what only looks.
SAFE = {"munmap", "load_byte", "store_byte", "touch", "symbol", "rseq_cpu"}


class Kernel:
    """The system calls of this process, some of them with other answers.

    Attributes:
        kept: mappings that were made and not taken back: address to size.
        calls: how many calls that can fail have been made.
    """

    def __init__(self, lies: dict[str, Callable[..., Any]] | None = None, fail_at: int = 0, code: int = errno.ENOMEM):
        self.lies, self.fail_at, self.code = lies or {}, fail_at, code
        self.kept: dict[int, int] = {}
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(syscalls, name)
        if not callable(real):
            return real
        answer = self.lies.get(name, real)

        def call(*arguments: Any) -> Any:
            if name not in SAFE:
                self.calls += 1
                if self.calls == self.fail_at:
                    raise OSError(self.code, f"{name}{arguments}: refused for the test")
            result = answer(*arguments)
            self._note(name, arguments, result)
            return result

        return call

    def _note(self, name: str, arguments: tuple[Any, ...], result: Any) -> None:
        if name == "mmap" and not arguments[3] & syscalls.MAP_FIXED:
            self.kept[result] = arguments[1]
        elif name == "munmap":
            assert self.kept.pop(arguments[0], None) == arguments[1], "unmapped what it did not map"

    def install(self, monkeypatch: Any) -> Kernel:
        """Puts itself in the place of the real calls in every module of the probes."""
        for module in MODULES:
            if hasattr(module, "syscalls"):
                monkeypatch.setattr(module, "syscalls", self)
        return self


def refusing(code: int) -> Callable[..., Any]:
    """A call that always fails."""

    def refuse(*arguments: Any) -> Any:
        raise OSError(code, "refused for the test")

    return refuse
