"""``Meter``: whose costs they are.

Purges, flushes and interrupts are counted by the machine, for all of it.  They belong to the case whose worker was
running, so the counters are read when the running worker's case is another than before; steps of workers in the same
case follow each other without a look.  Work that was deferred is done in somebody's next call, and is on his account.
"""

from __future__ import annotations

from vmalloc.calls.state import VmallocState
from vmalloc.views.counters import Counters
from vmalloc.workloads.cases import Case

__all__ = ["Meter"]


class Meter:
    """Counters of a space, divided among cases.

    Args:
        state: of the space.

    Attributes:
        case: whose costs are counted now; None for nobody's.
    """

    def __init__(self, state: VmallocState) -> None:
        self._counters = Counters(state)
        self._sums: dict[Case | None, list[int]] = {}
        self._last = self._counters.read()
        self.case: Case | None = None

    def switch(self, case: Case | None) -> None:
        """From here on costs are ``case``'s."""
        if case is self.case:
            return
        now = self._counters.read()
        sums = self._sums.setdefault(self.case, [0] * len(now))
        for place, value in enumerate(now):
            sums[place] += value - self._last[place]
        self._last = now
        self.case = case

    def costs(self, case: Case | None) -> dict[str, int]:
        """What a case has cost, up to the last switch."""
        names = self._counters.names
        return dict(zip(names, self._sums.get(case, [0] * len(names)), strict=True))
