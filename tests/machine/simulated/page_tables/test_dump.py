"""The text of page tables."""

from __future__ import annotations

import pytest

from machine.simulated.page_tables.rig import DEVICE, RW, RX, Rig
from vmalloc.machine.simulated.page_tables.dump import Mapping, mappings

pytestmark = pytest.mark.both_builds

M = 1 << 20


def test_ranges_of_one_kind_are_merged_and_tables_are_a_tree() -> None:
    rig = Rig("arm64_4k", nr_roots=1)
    start = rig.arch.vmalloc_start
    assert rig.map(start, 0x10, 0x11, 0x12, 0x20) == 0
    assert rig.map(start + 4 * 4096, 0x21, prot=RX) == 0
    assert rig.map_range(start + 64 * 1024, 0x100, 64 * 1024) == 0
    assert rig.map_range(start + 2 * M, 0x4000, 4 * M, prot=DEVICE) == 0
    top, pud, pmd, pte = (rig.table_of(start, depth) for depth in range(4))
    assert rig.tables.dump() == (
        "0xffff800080000000-0xffff800080003000      12 KiB in 4 KiB  rw-  frame 0x10\n"
        "0xffff800080003000-0xffff800080004000       4 KiB in 4 KiB  rw-  frame 0x20\n"
        "0xffff800080004000-0xffff800080005000       4 KiB in 4 KiB  r-x  frame 0x21\n"
        "0xffff800080010000-0xffff800080020000      64 KiB in 64 KiB  rw-  frame 0x100\n"
        "0xffff800080200000-0xffff800080600000       4 MiB in 2 MiB  rw- device  frame 0x4000\n"
        f"pgd at frame {top:#x}, 1 of 512 entries\n"
        f"  [256] pud at frame {pud:#x}, 1 of 512 entries\n"
        f"    [2] pmd at frame {pmd:#x}, 3 of 512 entries\n"
        f"      [0] pte at frame {pte:#x}, 21 of 512 entries\n"
    )


def test_empty_tables_share_a_line() -> None:
    rig = Rig("x86_64")
    assert rig.map(rig.base + (1 << 39), 1) == 0
    lines = rig.tables.dump(1).splitlines()
    assert lines[0] == "0xffffc98000000000-0xffffc98000001000       4 KiB in 4 KiB  rw-  frame 0x1"
    assert lines[1].startswith("pgd at frame ")
    assert lines[2] == "  [402] an empty table"
    assert lines[3].startswith("  [403] pud at frame")
    assert lines[-1] == "  [404-465] 62 empty tables"


def test_a_part_of_the_addresses() -> None:
    rig = Rig("x86_64")
    assert rig.map(rig.base, 1, 3) == 0
    assert rig.map(rig.base + (1 << 40), 2) == 0
    text = rig.tables.dump(0, rig.base + 4096, rig.base + 8192)
    assert text.splitlines()[0] == "0xffffc90000001000-0xffffc90000002000       4 KiB in 4 KiB  rw-  frame 0x3"
    assert len(text.splitlines()) == 5
    assert rig.tables.dump(start=rig.base + 8192, end=rig.base + 3 * 4096).startswith("nothing is mapped\n")


def test_a_root_shows_what_it_has() -> None:
    rig = Rig("arm32")
    assert rig.map(rig.base, 1) == 0
    assert rig.tables.dump(1).startswith("nothing is mapped\n")
    rig.tables.do_fault(1, rig.base)
    assert rig.tables.dump(1).startswith(f"{rig.base:#x}-")


def test_mappings_are_listed_ascending_with_their_sizes() -> None:
    rig = Rig("x86_64")
    assert rig.map_range(rig.base + 2 * M, 512, 2 * M) == 0
    assert rig.map(rig.base, 7) == 0
    assert list(mappings(rig.tables)) == [
        Mapping(rig.base, rig.base + 4096, 12, RW, 7),
        Mapping(rig.base + 2 * M, rig.base + 4 * M, 21, RW, 512),
    ]
