"""The memory cgroup of this process: how much it may use before the kernel kills something.

The limit that counts is the lowest one on the way from this process' group up to the root, for every group on the way
is charged. Version 1 and 2 differ in names only, and machines in between have both mounted; the one that holds the
memory controller is the one that is asked.

Where the group is found: ``/proc/self/cgroup`` gives its path in the hierarchy, ``mountinfo`` where that hierarchy is
mounted and from which of its groups on (a container often sees only its own). A path that leads nowhere below the mount
means that the mount *is* the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["MemoryCgroup", "read_memory_cgroup"]

#: Version 1 writes "no limit" as the largest whole number of pages; nobody has a quarter of that.
NO_LIMIT = 1 << 62

FILES = {1: ("memory.limit_in_bytes", "", "memory.usage_in_bytes"), 2: ("memory.max", "memory.high", "memory.current")}


@dataclass(frozen=True, slots=True)
class MemoryCgroup:
    """What the memory controller allows this process, in bytes; None: no limit, or not known.

    Attributes:
        version: 1 or 2.
        limit: above it the kernel reclaims, and then kills.
        limit_from: the file that says so, or the group's folder when there is no limit.
        high: above it the kernel slows the group down and reclaims (version 2 only).
        high_from: the file that says so.
        used: what the group of the limit uses now.
    """

    version: int
    limit: int | None
    limit_from: str
    high: int | None
    high_from: str
    used: int | None


def read_memory_cgroup(root: Path = Path("/")) -> MemoryCgroup | None:
    """Reads the limits of this process' memory cgroup; None when no memory controller is to be seen.

    Args:
        root: the folder that has ``proc`` and everything that is mounted.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8")
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    for version in (1, 2):
        place = _place(groups, mounts, version)
        if place is None:
            continue
        mount, path = (root / part.lstrip("/") for part in place)
        if not path.is_dir():
            path = mount
        return _lowest(version, mount, path)
    return None


def _place(groups: str, mounts: str, version: int) -> tuple[str, str] | None:
    """Where the memory hierarchy of a version is mounted, and where below that this process' group should be."""
    group = _group(groups, version)
    if group is None:
        return None
    for line in mounts.splitlines():
        words, _, tail = line.partition(" - ")
        kind, _, options = (*tail.split(" "), "", "")[:3]
        if (kind == "cgroup2") if version == 2 else (kind == "cgroup" and "memory" in options.split(",")):
            mounted_from, mount = words.split(" ")[3:5]
            if PurePosixPath(group).is_relative_to(mounted_from):
                return mount, str(PurePosixPath(mount) / PurePosixPath(group).relative_to(mounted_from))
            return mount, mount
    return None


def _group(groups: str, version: int) -> str | None:
    """The path of this process' group in the memory hierarchy of a version, out of ``/proc/self/cgroup``."""
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if (number, controllers) == ("0", "") if version == 2 else "memory" in controllers.split(","):
            return path
    return None


def _lowest(version: int, mount: Path, path: Path) -> MemoryCgroup | None:
    """The lowest limits from a group up to the mount; None when no file of the controller is there."""
    limit_file, high_file, used_file = FILES[version]
    limits, highs = [], []
    folder = path
    while folder.is_relative_to(mount):
        limits.append((_number(folder / limit_file), folder))
        highs.append((_number(folder / high_file) if high_file else None, folder))
        folder = folder.parent
    known = [(limit, folder) for limit, folder in limits if limit is not None]
    high, slowed = min(((h, f) for h, f in highs if h is not None), default=(None, path))
    used = _number(path / used_file)
    if not known:
        return MemoryCgroup(version, None, str(path), high, str(slowed / high_file), used) if used is not None else None
    limit, limiting = min(known)
    used = _number(limiting / used_file)
    return MemoryCgroup(version, limit, str(limiting / limit_file), high, str(slowed / high_file), used)


def _number(file: Path) -> int | None:
    """The number in a file; None for "no limit", and where there is no such file."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None
