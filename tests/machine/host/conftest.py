"""Tests of the host machine run where there is one: on Linux, compiled. What is said elsewhere is tested everywhere."""

from __future__ import annotations

from vmalloc.machine.host import why_unavailable

collect_ignore_glob = [] if why_unavailable() is None else ["test_[!a]*.py"]
