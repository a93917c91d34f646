"""What stands in an entry of a page table, and the numbers that the modules of page tables share.

Real architectures spend their bits differently; a model needs one layout that all of them can hold.  An entry has 8 or
4 bytes (``Arch.entry_size``), in the byte order of the host, and the address of the frame stands where it stands in a
real one, so that the bits below a page are free for the rest:

=================== ==================================================================================================
bits                meaning
=================== ==================================================================================================
0                   present; an entry without it maps nothing, and one that is not zero then is a *bad* entry
1 - 4               a mapping's ``PROT_*`` bits of ``vmalloc.flags`` (read, write, exec, special); 0 in a table entry
5                   leaf: above the PTEs, the entry is a mapping of its whole size, not a table
6 - 8               of a PTE: it is one of a contiguous group, of the first, second, ... size the architecture has
9 - page shift      0
page shift and up   number of the frame: of the table, or the first of the mapping; up to ``Arch.phys_bits``
=================== ==================================================================================================

With 4-byte entries and pages of 4 KiB that leaves 20 bits of frame number: the 4 GiB that x86-32 without PAE reaches.

Uncompiled on purpose: the compiled modules mirror the numbers in an ``enum`` of their ``.pxd``, and a test holds them
against each other.
"""

from __future__ import annotations

from typing import NamedTuple

from vmalloc.machine.simulated.arch import LEVEL_NAMES, Arch, Level, TableCare, TableReplacement

__all__ = ["CARE_NUMBERS", "REPLACEMENT_NUMBERS", "Entry", "WARNING_TEXTS", "decode", "modified_bit"]

ENTRY_PRESENT = 1
ENTRY_PROT_SHIFT = 1
ENTRY_PROT = 0x1E
ENTRY_LEAF = 0x20
ENTRY_GROUP_SHIFT = 6
ENTRY_GROUP = 0x1C0

#: All ``PROT_*`` bits that an entry has room for.
PROT_ALL = 15

MAX_LEVELS, MAX_GROUPS, MAX_WARNINGS = 5, 7, 64

BAD_ENTRY, CUT_LEAF, CUT_GROUP, OCCUPIED, BAD_LENGTH = range(5)
WARNING_TEXTS = (
    "an entry that is neither empty nor present was cleaned",
    "an unmapped range covers only part of a leaf, which was cleared whole",
    "an unmapped range cuts a contiguous group, which was cleared whole",
    "the page is mapped already",
    "a range that is not of whole pages, or not of the kernel's addresses; nothing was done",
)

EBUSY, ENOMEM, EINVAL = 16, 12, 22

CARE_ONE_TABLE, CARE_SHARED, CARE_HOOK, CARE_SEQUENCE, CARE_FAULT = range(5)
#: For the tables, what was made at boot and is shared is all that ``PREALLOCATED`` and ``FENCE`` are: the fence is a
#: matter of the CPUs.
CARE_NUMBERS = {
    TableCare.ONE_TABLE: CARE_ONE_TABLE,
    TableCare.PREALLOCATED: CARE_SHARED,
    TableCare.FENCE: CARE_SHARED,
    TableCare.HOOK: CARE_HOOK,
    TableCare.SEQUENCE: CARE_SEQUENCE,
    TableCare.FAULT: CARE_FAULT,
}

REPLACE_NEVER, REPLACE_PAGE_FLUSH, REPLACE_WALK_CACHE_FLUSH = range(3)
REPLACEMENT_NUMBERS = {
    TableReplacement.NEVER: REPLACE_NEVER,
    TableReplacement.PAGE_FLUSH: REPLACE_PAGE_FLUSH,
    TableReplacement.WALK_CACHE_FLUSH: REPLACE_WALK_CACHE_FLUSH,
}

#: Bits of a modification mask (section 8.4), by the kernel's name of the level.
PGD_MODIFIED, P4D_MODIFIED, PUD_MODIFIED, PMD_MODIFIED, PTE_MODIFIED = (1 << k for k in range(5))


class Entry(NamedTuple):
    """An entry, decoded.

    Attributes:
        present: it maps something or names a table.
        prot: the mapping's ``PROT_*`` bits.
        leaf: a mapping above the PTEs.
        group: 0, or which size of group it belongs to, from 1.
        pfn: frame of the table, or first frame of the mapping.
    """

    present: bool
    prot: int
    leaf: bool
    group: int
    pfn: int


def decode(entry: int, page_shift: int) -> Entry:
    """Takes an entry apart."""
    return Entry(
        bool(entry & ENTRY_PRESENT),
        (entry & ENTRY_PROT) >> ENTRY_PROT_SHIFT,
        bool(entry & ENTRY_LEAF),
        (entry & ENTRY_GROUP) >> ENTRY_GROUP_SHIFT,
        entry >> page_shift,
    )


def modified_bit(arch: Arch, level: Level) -> int:
    """The bit that a change in a table of ``level`` sets: that of the lowest level the table stands for.

    A folded level is never empty, so the kernel's walk records a change of the table above it under the folded one's
    name: with four levels on x86-64, the top table's under ``p4d``, which is the level of its sync mask.
    """
    lowest = max(k for k, name in enumerate(LEVEL_NAMES) if arch.level(name) is level)
    return 1 << lowest
