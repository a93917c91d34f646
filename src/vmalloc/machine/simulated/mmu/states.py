"""Numbers shared by the modules of the MMU: outcomes, replacement policies, small limits.

Uncompiled on purpose: the compiled modules mirror the numbers in an ``enum`` of ``tlb.pxd`` or ``mmu.pxd``, and a test
holds the two against each other.

An entry of a TLB, and who moves it:

========= ============================================ ===============================================================
state     what it says                                 who moves it on
========= ============================================ ===============================================================
absent    nothing: an access walks the tables          a walk that finds something (to fresh)
fresh     what the tables said at the last look,       any change of the tables (to doubtful), a flush or another
          and no present entry changed since           entry that needs the place (to absent)
doubtful  the same, but some entry has changed         an access: the tables still say so (to fresh) or not (to stale);
          since; perhaps not this one                  a flush, another entry
stale     what the tables no longer say; the CPU       a flush, another entry (to absent); tables that say it again
          uses it all the same                         (to fresh)
========= ============================================ ===============================================================

Only *absent* is stored as such.  Fresh and doubtful are the entry's generation against that of the tables, and stale is
found out anew at each access.
"""

from __future__ import annotations

__all__ = [
    "BUS_ERROR",
    "EMPTY",
    "FAULT_KIND",
    "FIFO",
    "HOST_MEMORY",
    "INVALID_MASK",
    "LRU",
    "MAX_CLASSES",
    "NR_INVALID",
    "NR_OUTCOMES",
    "OK",
    "OUTCOME_NAMES",
    "POLICIES",
    "RANDOM",
    "READONLY",
    "STALE",
    "UNMAPPED",
]

#: What became of an access.
#:
#: The last two concern loads and stores only: a translation to a frame that no node has and that is no device memory,
#: and a host without memory for the bytes.
OK, UNMAPPED, READONLY, STALE, BUS_ERROR, HOST_MEMORY = range(6)
NR_OUTCOMES = 6
OUTCOME_NAMES = ("ok", "unmapped", "readonly", "stale_tlb", "bus_error", "host_memory")

#: Outcomes as kinds of ``errors.Fault``.
FAULT_KIND = {UNMAPPED: "unmapped", READONLY: "readonly", STALE: "stale_tlb"}

#: The tag of an unused entry: no page has this number.
EMPTY = 0xFFFFFFFFFFFFFFFF

#: Which entry of a full set makes room: the one used longest ago, the one filled longest ago, any.
LRU, FIFO, RANDOM = range(3)
POLICIES = ("lru", "fifo", "random")

#: Page sizes that one TLB can hold: base page, group of PTEs, PMD, PUD, and two to spare.
MAX_CLASSES = 6

#: Pages that a core of the kind that caches invalid entries remembers to be invalid.
NR_INVALID = 64
INVALID_MASK = 63
