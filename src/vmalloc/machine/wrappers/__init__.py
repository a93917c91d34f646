"""Machines around a machine: one that runs short on purpose, one that counts, one that remembers.

Idea: a wrapper is a machine.  It hands every operation on to the one inside, and to do something on the way is to
override that operation; so wrappers go around each other in any order, and calls cannot tell.  Only failing is
compiled: it is always there, the others while somebody looks.
"""

from __future__ import annotations

from vmalloc.machine.wrappers.counting import CountingMachine
from vmalloc.machine.wrappers.failing import FailingMachine
from vmalloc.machine.wrappers.recording import RecordingMachine
from vmalloc.machine.wrappers.wrapper import Wrapper

__all__ = ["CountingMachine", "FailingMachine", "RecordingMachine", "Wrapper"]
