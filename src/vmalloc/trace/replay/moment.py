"""A moment of a replay to come back to: the allocator's state, and how far the schedule was.

``Schedule`` fills and restores it; which events happened since is in the schedule's journal, from ``journal`` on.
"""

import cython

from vmalloc.areas.checkpoint import Checkpoint
from vmalloc.trace.replay.verdicts import COUNTERS

__all__ = ["Moment"]


class Moment:
    """Room for one moment; ``valid`` says whether it holds one."""

    def __init__(self):
        self.checkpoint = Checkpoint()
        self.valid = False
        self.event = 0
        self.journal = 0
        self.k = 0
        self.begun = False
        self.nr_detached = 0
        self.counts_known = False
        self.busy_bytes = 0
        self.peak_busy_bytes = 0
        self.recent_frees = 0
        if not cython.compiled:
            self.counter = [0] * len(COUNTERS)
