"""The parser of /proc/self/maps and smaps: hand-made lines, and this process' own."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from vmalloc.machine.host import scratch, syscalls
from vmalloc.machine.host.maps import (
    Mapping,
    count_mappings,
    mappings_in,
    parse_maps,
    parse_smaps,
    usage_in,
)

PAGE = mmap.PAGESIZE
MAPS = """\
00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/dbus daemon
7f0000000000-7f0000002000 rw-p 00000000 00:00 0
7f0000002000-7f0000003000 ---p 00000000 00:00 0 [anon:vmalloc: a\\012b]
7f0000003000-7f0000005000 rw-s 00002000 00:01 2050                       /memfd:vmalloc (deleted)
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""
SMAPS = """\
00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/dbus daemon
Size:                328 kB
Rss:                 100 kB
THPeligible:           0
VmFlags: rd ex mr mw me
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Rss:                4096 kB
AnonHugePages:      2048 kB
SomethingNew:       word
ProtectionKey:         0
VmFlags: rd wr mr mw me ac hg
"""


def test_each_part_of_a_line_is_read() -> None:
    first, second, third, fourth, last = parse_maps(MAPS.splitlines(keepends=True))
    assert first == Mapping(0x400000, 0x452000, "r-xp", 0x1000, 173521, "/usr/bin/dbus daemon")
    assert (first.size, second.size, second.name) == (0x52000, 0x2000, "")
    assert (third.permissions, third.name) == ("---p", "[anon:vmalloc: a\\012b]")
    assert (fourth.offset, fourth.inode, fourth.name) == (0x2000, 2050, "/memfd:vmalloc (deleted)")
    assert last.end == 0xFFFFFFFFFF601000


def test_figures_and_flags_are_read_and_new_kinds_passed_over() -> None:
    first, second = parse_smaps(SMAPS.splitlines(keepends=True))
    assert first.sizes == {"Size": 328 << 10, "Rss": 100 << 10}
    assert first.flags == {"rd", "ex", "mr", "mw", "me"}
    assert second.mapping.size == 4 << 20
    assert second.sizes == {"Rss": 4 << 20, "AnonHugePages": 2 << 20}
    assert "hg" in second.flags


def test_what_is_none_of_these_files_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a line of /proc/PID/maps: 'hello world'"):
        list(parse_maps(["hello world"]))
    with pytest.raises(ValueError, match=r"not the beginning of a smaps file: 'Rss: "):
        list(parse_smaps(["Rss:                 100 kB\n"]))
    assert list(parse_maps([])) == list(parse_smaps([])) == []


@pytest.mark.parametrize(
    ("start", "end", "names"),
    [
        (0x7F0000001000, 0x7F0000002000, [""]),
        (0x7F0000001FFF, 0x7F0000003001, ["", "[anon:vmalloc: a\\012b]", "/memfd:vmalloc (deleted)"]),
        (0x7F0000005000, 0x7F0000006000, []),
        (0, 0x400000, []),
        (0x451FFF, 0x452000, ["/usr/bin/dbus daemon"]),
    ],
)
def test_a_range_has_the_mappings_that_reach_into_it(tmp_path: Path, start: int, end: int, names: list[str]) -> None:
    file = tmp_path / "maps"
    file.write_text(MAPS, encoding="utf-8")
    assert [mapping.name for mapping in mappings_in(start, end, file)] == names
    assert count_mappings(file) == 5


def test_nothing_behind_a_range_is_read(tmp_path: Path) -> None:
    file = tmp_path / "maps"
    file.write_text(MAPS + "this line is broken\n", encoding="utf-8")
    assert len(mappings_in(0x400000, 0x7F0000001000, file)) == 2
    with pytest.raises(ValueError, match="not a line"):
        mappings_in(0xFFFFFFFFFF600000, 1 << 64, file)


def test_names_need_not_be_text(tmp_path: Path) -> None:
    file = tmp_path / "maps"
    file.write_bytes(b"00400000-00452000 r-xp 00001000 08:02 1 /srv/\xff\n")
    assert mappings_in(0, 1 << 30, file)[0].name.encode(errors="surrogateescape") == b"/srv/\xff"


def test_what_this_process_does_to_memory_is_seen() -> None:
    with scratch.private(4 * PAGE) as address:
        [mapping] = mappings_in(address, address + 4 * PAGE)
        assert (mapping.start, mapping.end, mapping.permissions) == (address, address + 4 * PAGE, "rw-p")
        syscalls.touch(address, 2 * PAGE, PAGE)
        [usage] = usage_in(address, address + 4 * PAGE)
        assert (usage.sizes["Size"], usage.sizes["Rss"]) == (4 * PAGE, 2 * PAGE)
        assert "wr" in usage.flags
        syscalls.mprotect(address + PAGE, PAGE, syscalls.PROT_NONE)
        assert [m.permissions for m in mappings_in(address, address + 4 * PAGE)] == ["rw-p", "---p", "rw-p"]
    assert mappings_in(address, address + 4 * PAGE) == []


def test_the_count_grows_with_each_mapping() -> None:
    before = count_mappings()
    with scratch.private(101 * PAGE) as address:
        for n in range(1, 100, 2):
            syscalls.mprotect(address + n * PAGE, PAGE, syscalls.PROT_NONE)
        assert count_mappings() - before in range(100, 105)
