"""The layout of an entry, the numbers of entries.py, and their mirror in the declarations of the compiled modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from machine.simulated.page_tables.rig import DEVICE, RW, Rig
from vmalloc.flags import PROT_EXEC, PROT_READ, PROT_SPECIAL, PROT_WRITE
from vmalloc.machine.simulated.arch import ARCHITECTURES, TableCare, TableReplacement
from vmalloc.machine.simulated.page_tables import entries
from vmalloc.machine.simulated.page_tables.entries import Entry, decode, modified_bit

pytestmark = pytest.mark.both_builds

FOLDER = Path(entries.__file__).parent


def mirrored(pxd: Path) -> dict[str, int]:
    """The constants of the anonymous enums of a declaration file."""
    text = pxd.read_text(encoding="utf-8")
    blocks = re.findall(r"^cdef enum:\n((?:    .*\n)+)", text, re.MULTILINE)
    return {name: int(value, 0) for block in blocks for name, value in re.findall(r"^    (\w+) = (-?\w+)", block, re.M)}


def test_the_enums_have_the_same_numbers() -> None:
    found = [mirrored(pxd) for pxd in sorted(FOLDER.glob("*.pxd"))]
    numbers = {name: value for names in found for name, value in names.items()}
    assert sum(map(len, found)) == len(numbers), "a number is mirrored twice"
    assert numbers == {name: getattr(entries, name) for name in numbers}
    prefixes = ("ENTRY_", "CARE_", "REPLACE_", "MAX_")
    words = {n for n in vars(entries) if n.startswith(prefixes) and isinstance(getattr(entries, n), int)}
    assert words <= set(numbers)


def test_sizes_written_out_in_declarations_are_the_same() -> None:
    store = (FOLDER / "store.pxd").read_text(encoding="utf-8")
    for name, size in (("level", entries.MAX_LEVELS), ("group", entries.MAX_GROUPS), ("warned", entries.MAX_WARNINGS)):
        assert f" {name}[{size}]" in store


def test_the_fields_of_an_entry_do_not_overlap_and_have_room_below_a_page() -> None:
    fields = (entries.ENTRY_PRESENT, entries.ENTRY_PROT, entries.ENTRY_LEAF, entries.ENTRY_GROUP)
    assert sum(fields) == fields[0] | fields[1] | fields[2] | fields[3] < 1 << 9
    assert PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SPECIAL == entries.PROT_ALL
    assert entries.ENTRY_PROT == entries.PROT_ALL << entries.ENTRY_PROT_SHIFT


def test_every_care_and_replacement_has_a_number() -> None:
    assert set(entries.CARE_NUMBERS) == set(TableCare)
    assert set(entries.REPLACEMENT_NUMBERS) == set(TableReplacement)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_memory_shows_the_entries_of_a_mapping(arch: str) -> None:
    """Section 8.1: entries of 8 or 4 bytes, one table a level, all in frames of memory."""
    rig = Rig(arch)
    address = rig.arch.vmalloc_start + 5 * rig.page
    last = len(rig.arch.levels) - 1
    assert rig.entry(address, 0) == 0 or rig.tables.boot_depth
    assert rig.map(address, 0x123) == 0
    assert rig.entry(address, last) == 0x123 << rig.arch.page_shift | RW << 1 | 1
    for depth in range(last):
        entry = decode(rig.entry(address, depth), rig.arch.page_shift)
        assert entry == Entry(True, 0, False, 0, rig.table_of(address, depth + 1))
    assert rig.unmap(address, rig.page) == 1
    assert rig.entry(address, last) == 0


def test_entries_of_4_bytes_hold_20_bits_of_frame_number() -> None:
    """Section 8.1: x86-32 without PAE."""
    rig = Rig("x86_32")
    address = rig.arch.vmalloc_start
    assert rig.tables.pfn_limit == 1 << 20
    assert rig.map(address, 0xFFFFF, 0, 0xABCDE, prot=DEVICE) == 0
    for k, pfn in enumerate((0xFFFFF, 0, 0xABCDE)):
        assert rig.walk(address + k * 4096 + 17) == (pfn, 12, DEVICE)
        assert rig.entry(address + k * 4096, 1) == pfn << 12 | DEVICE << 1 | 1
    assert rig.entry(address + 3 * 4096, 1) == 0
    rig.validate()


def test_a_change_is_recorded_under_the_lowest_level_a_table_stands_for() -> None:
    """Section 8.4: the sync masks name folded levels."""

    def bits(arch: str) -> list[int]:
        return [modified_bit(ARCHITECTURES[arch], level) for level in ARCHITECTURES[arch].levels]

    assert bits("x86_64") == [entries.P4D_MODIFIED, entries.PUD_MODIFIED, entries.PMD_MODIFIED, entries.PTE_MODIFIED]
    assert bits("x86_64_la57") == [1, 2, 4, 8, 16]
    assert bits("x86_32") == [entries.PMD_MODIFIED, entries.PTE_MODIFIED]
    assert bits("x86_32_pae") == [entries.PUD_MODIFIED, entries.PMD_MODIFIED, entries.PTE_MODIFIED]
    assert bits("arm32") == [entries.PMD_MODIFIED, entries.PTE_MODIFIED]
