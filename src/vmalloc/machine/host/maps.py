"""What the kernel says of this process' mappings: ``/proc/self/maps`` and ``/proc/self/smaps``, parsed.

The two files are the only witnesses of what real memory looks like: how many mappings there are, which flags stuck, and
whether a huge page was really got. Both are long in a large process, and smaps walks page tables to answer; so whoever
asks about a range reads no further than its end, for mappings come in the order of their addresses.

A mapping that reaches into a range is reported whole: the kernel merges neighbours that are alike, and counts per
mapping. Who needs figures of a range alone keeps the range apart (``scratch.py`` does). Other threads may map and unmap
meanwhile: each mapping is as it was when its lines were read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from vmalloc.units import KIB

__all__ = ["Mapping", "Usage", "count_mappings", "mappings_in", "parse_maps", "parse_smaps", "usage_in"]

MAPS = Path("/proc/self/maps")
SMAPS = Path("/proc/self/smaps")


class Mapping(NamedTuple):
    """A mapping ``[start, end)``: permissions as ``rw-p``, offset into its file in bytes, a path or ``[...]``."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int
    name: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Usage:
    """A mapping with what smaps counts of it: sizes in bytes by the kernel's names (``Rss``), and ``VmFlags``."""

    mapping: Mapping
    sizes: dict[str, int] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()


def parse_mapping(line: str) -> Mapping:
    """Reads the line of one mapping."""
    words = line.split(None, 5)
    if len(words) < 5 or "-" not in words[0]:
        raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
    start, end = (int(word, 16) for word in words[0].split("-"))
    name = words[5].rstrip("\n") if len(words) > 5 else ""
    return Mapping(start, end, words[1], int(words[2], 16), int(words[4]), name)


def parse_maps(lines: Iterable[str]) -> Iterator[Mapping]:
    """Yields the mappings of a maps file.

    Raises:
        ValueError: a line is none of a maps file.
    """
    return map(parse_mapping, lines)


def parse_smaps(lines: Iterable[str]) -> Iterator[Usage]:
    """Yields the mappings of a smaps file with their figures; lines of kinds that are not known are passed over.

    Raises:
        ValueError: the file does not begin with a mapping.
    """
    usage = None
    for line in lines:
        word, _, rest = line.partition(" ")
        if not word.endswith(":"):
            if usage is not None:
                yield usage
            usage = Usage(parse_mapping(line))
        elif usage is None:
            raise ValueError(f"not the beginning of a smaps file: {line!r}")
        elif word == "VmFlags:":
            usage = Usage(usage.mapping, usage.sizes, frozenset(rest.split()))
        elif rest.endswith(" kB\n"):
            usage.sizes[word[:-1]] = int(rest[:-3]) * KIB
    if usage is not None:
        yield usage


def count_mappings(maps: Path = MAPS) -> int:
    """Counts the mappings of this process, as ``vm.max_map_count`` does, give or take the kernel's own one or two."""
    return maps.read_bytes().count(b"\n")


def mappings_in(start: int, end: int, maps: Path = MAPS) -> list[Mapping]:
    """Returns the mappings that have a byte in ``[start, end)``."""
    found = []
    with maps.open(encoding="utf-8", errors="surrogateescape") as file:
        for mapping in parse_maps(file):
            if mapping.start >= end:
                break
            if mapping.end > start:
                found.append(mapping)
    return found


def usage_in(start: int, end: int, smaps: Path = SMAPS) -> list[Usage]:
    """Returns the mappings that have a byte in ``[start, end)``, with their figures."""
    found = []
    with smaps.open(encoding="utf-8", errors="surrogateescape") as file:
        for usage in parse_smaps(file):
            if usage.mapping.start >= end:
                break
            if usage.mapping.end > start:
                found.append(usage)
    return found
