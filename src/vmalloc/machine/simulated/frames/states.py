"""Numbers and words shared by the modules of page frames: block sizes, states, zones, error codes.

Uncompiled on purpose: the compiled modules mirror the numbers in an ``enum`` of ``table.pxd``, and a test holds
the two against each other.

States of a frame, and who moves it:

========= ============================================ ===============================================================
state     where the frame is                           who moves it on
========= ============================================ ===============================================================
INSIDE    in a block, but not its first frame          a split above it (to FREE or USED)
FREE      first of a block on a zone's free list       ``Buddy.take``; a merge with a lower buddy (to INSIDE)
LISTED    single, on a CPU's list                      ``CpuLists.pop`` (to USED), ``CpuLists.spill`` (to the buddy)
USED      first of a block that somebody holds         ``free`` (to LISTED, FREE or INSIDE), ``split`` (stays USED)
========= ============================================ ===============================================================

Contents of a frame, whatever its state:

========= =================================================== ========================================================
contents  what a load reads                                   who moves them on
========= =================================================== ========================================================
NEVER     the fill byte: nothing was stored since it was      any store (to STORED); zeroing all of it (to ZEROED)
          handed out
ZEROED    zeros, without a page of memory behind them         any store (to STORED); being handed out (to NEVER)
STORED    what was stored, freed or not                       zeroing all of it (to ZEROED); being handed out (to NEVER)
========= =================================================== ========================================================
"""

from __future__ import annotations

from vmalloc.errors import BadFrame

__all__ = [
    "BAD_RANGE",
    "DOUBLE_FREE",
    "FOREIGN",
    "FREE",
    "INSIDE",
    "INSIDE_BLOCK",
    "LISTED",
    "MAX_ORDER",
    "NEVER",
    "NO_FRAME",
    "NO_MEMORY",
    "NO_ZONE",
    "NR_KINDS",
    "REASONS",
    "SECTION_FRAMES",
    "SECTION_MASK",
    "SECTION_SHIFT",
    "STATE_NAMES",
    "STORED",
    "USED",
    "WRONG_ORDER",
    "ZEROED",
    "ZONE_DMA32",
    "ZONE_NAMES",
    "ZONE_NORMAL",
    "bad_frame",
]

#: The largest block has 2**10 frames: 4 MiB of 4 KiB pages. Records of frames are made for that many at a time.
MAX_ORDER = 10
SECTION_SHIFT = 10
SECTION_FRAMES = 1024
SECTION_MASK = 1023

#: Frame numbers have 32 bits, which is 16 TiB of 4 KiB pages; the last one says "none".
NO_FRAME = 0xFFFFFFFF
NO_ZONE = 0xFFFFFFFF

INSIDE, FREE, LISTED, USED = range(4)
STATE_NAMES = ("inside", "free", "listed", "used")

NEVER, ZEROED, STORED = range(3)

#: Kinds of zone, lowest first: frames a 32-bit device reaches, and the rest. A ``zone_limit`` is the highest allowed.
ZONE_DMA32, ZONE_NORMAL = range(2)
NR_KINDS = 2
ZONE_NAMES = ("DMA32", "Normal")

FOREIGN, DOUBLE_FREE, WRONG_ORDER, INSIDE_BLOCK, BAD_RANGE, NO_MEMORY = -1, -2, -3, -4, -5, -6
REASONS = {
    FOREIGN: "no node has this frame",
    DOUBLE_FREE: "it is free already",
    WRONG_ORDER: "it was allocated with another order",
    INSIDE_BLOCK: "it lies inside an allocation and is not its first frame",
    BAD_RANGE: "the range reaches beyond the frame",
}


def bad_frame(pfn: int, code: int, detail: str = "") -> BadFrame:
    """The error to raise for a code; ``detail`` follows the reason."""
    return BadFrame(pfn, REASONS[code] + detail, code)
