"""What bounds this process: address space, mappings, memory, files - each with what is used of it now.

Three kinds of bound, from three places. The process' own (``RLIMIT_AS`` and ``RLIMIT_DATA`` count *reserved* bytes,
not touched ones: a large reserve is refused long before memory is short). The kernel's (``vm.max_map_count``, and with
``vm.overcommit_memory=2`` a total of everything promised to anybody). The group's (cgroup limits, where the answer to
too much is a kill and not an error).
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

from vmalloc.machine.host.capabilities import Limit
from vmalloc.machine.host.cgroup import read_memory_cgroup
from vmalloc.machine.host.forced import LIMITS
from vmalloc.machine.host.maps import count_mappings
from vmalloc.units import KIB

__all__ = ["LIMIT_NAMES", "kib_lines", "number_in", "read_limits"]

LIMIT_NAMES = ("address_space", "data", "commit", "memory", "memory_high", "maps", "files")


def kib_lines(path: Path) -> dict[str, int]:
    """Reads the lines ``Name: 123 kB`` of a file of ``/proc`` as bytes; other lines are passed over."""
    found = {}
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and words[0].endswith(":"):
            found[words[0][:-1]] = int(words[1]) * KIB
    return found


def number_in(path: Path) -> int | None:
    """Reads the number in a file of ``/proc`` or ``/sys``; None when there is no such file."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except OSError:
        return None


def read_limits(lowered: Mapping[str, int], root: Path = Path("/")) -> dict[str, Limit]:
    """Reads all limits of this process, in the order of ``LIMIT_NAMES``.

    Args:
        lowered: limits to put in by force where they are lower than the real ones.
        root: the folder that has ``proc`` and ``sys``.
    """
    status = kib_lines(root / "proc/self/status")
    memory = kib_lines(root / "proc/meminfo")
    found = [*_of_process(status, root), _commit(memory, root), *_of_group(memory, root)]
    limits = {limit.name: limit for limit in found}
    for name, value in lowered.items():
        limits[name] = limits[name].lowered(value, LIMITS)
    return {name: limits[name] for name in LIMIT_NAMES}


def _rlimit(kind: int) -> int | None:
    """A soft limit of this process; None when there is none."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def _open_files(root: Path) -> int:
    """The descriptors that are open, without the one that looks."""
    return len(list((root / "proc/self/fd").iterdir())) - 1


def _of_process(status: Mapping[str, int], root: Path) -> list[Limit]:
    """The limits that are this process' own, or counted for it alone."""
    maps = number_in(root / "proc/sys/vm/max_map_count")
    return [
        Limit(
            "address_space", "reserved addresses", "bytes", _rlimit(resource.RLIMIT_AS), status.get("VmSize"),
            "RLIMIT_AS", "ulimit -v unlimited",
        ),
        Limit(
            "data", "private writable mappings", "bytes", _rlimit(resource.RLIMIT_DATA), status.get("VmData"),
            "RLIMIT_DATA", "ulimit -d unlimited",
        ),
        Limit(
            "maps", "mappings", "mappings", maps, count_mappings(root / "proc/self/maps"),
            "vm.max_map_count", "sysctl -w vm.max_map_count=1048576",
        ),
        Limit(
            "files", "open files", "files", _rlimit(resource.RLIMIT_NOFILE), _open_files(root),
            "RLIMIT_NOFILE", "ulimit -n 65536",
        ),
    ]


def _commit(memory: Mapping[str, int], root: Path) -> Limit:
    """The total that the kernel promises to all processes: a limit with ``vm.overcommit_memory=2`` only."""
    strict = number_in(root / "proc/sys/vm/overcommit_memory") == 2
    return Limit(
        "commit", "memory promised to all processes", "bytes", memory.get("CommitLimit") if strict else None,
        memory.get("Committed_AS"), "vm.overcommit_memory", "sysctl -w vm.overcommit_memory=0",
    )


def _of_group(memory: Mapping[str, int], root: Path) -> list[Limit]:
    """What may be used: by the cgroup, or where that has no limit, of the machine."""
    group = read_memory_cgroup(root)
    raise_it = "raise the container's or the service's memory limit"
    high = Limit(
        "memory_high", "memory before the cgroup is slowed down", "bytes", group.high if group else None,
        group.used if group else None, group.high_from if group and group.high else "memory.high", raise_it,
    )
    physical = memory.get("MemTotal")
    if group is None or group.limit is None or (physical is not None and group.limit >= physical):
        free = memory.get("MemAvailable")
        used = None if physical is None or free is None else physical - free
        return [Limit("memory", "memory of the machine", "bytes", physical, used, "/proc/meminfo", "more memory"), high]
    limit = Limit("memory", "memory of the cgroup", "bytes", group.limit, group.used, group.limit_from, raise_it)
    return [limit, high]
