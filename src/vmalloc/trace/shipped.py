"""The recording that comes with the package.

A Linux 6.12.95 guest with one CPU, recorded from its first vmalloc on: boot, module loading, forks, BPF maps, a mixed
load, the kernel's own ``test_vmalloc`` cases, threads and network namespaces; 159,867 allocations, and seven snapshots
of ``/proc/vmallocinfo``.  Nothing was edited but names of unrelated tasks.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

__all__ = ["shipped_snapshots", "shipped_trace"]

_NAME = "g612_1cpu_cont"


def _folder() -> Path:
    return Path(str(files("vmalloc.trace") / "recorded"))


def shipped_trace() -> Path:
    """Path of the shipped since-boot trace."""
    return _folder() / f"{_NAME}.trace.zst"


def shipped_snapshots() -> list[Path]:
    """Paths of its snapshots, in the order they were taken."""
    return sorted(_folder().glob(f"{_NAME}.snap-*"))
