"""The words for who asked, made once per place in the program.

A million areas were asked for from a few hundred places: ``Caller`` objects differ, the code and the offset in it do
not.  Making the words costs a hundred times more than finding them again.
"""

from __future__ import annotations

from vmalloc.calls.where import Caller

__all__ = ["CallerTexts"]


class CallerTexts:
    """Texts of callers, for the time of one view."""

    def __init__(self) -> None:
        self._texts: dict[tuple[int, int], str] = {}

    def text(self, caller: object) -> str:
        """What ``str`` makes of a caller; nothing for None."""
        if caller is None:
            return ""
        if not isinstance(caller, Caller):
            return str(caller)
        # Identity is enough, and hashing a code object reads all of it: the caller keeps its code alive.
        key = (id(caller.code), caller.offset)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = str(caller)
        return text
