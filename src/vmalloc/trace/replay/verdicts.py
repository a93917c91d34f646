"""Words and numbers of a replay: what was counted, and why an address differed.

Uncompiled on purpose; ``schedule.pxd`` mirrors the numbers, and a test holds the two against each other.

Verdicts on one allocation:

================ ====================================================================================================
AGREED           the model chose the recorded address
TREE_SHAPE       an aligned request took another free block: the shape of the free tree at the start is not recorded
POOL_STATE       a pool gave, or did not give, an entry: what the pools held at the start is not recorded
PURGE_MOMENT     the range was lazy or being purged: the moment between detaching and refilling is not recorded
ORDER            the range was still busy: events were written in another order than the calls were made
UNEXPLAINED      none of the above; on a trace since boot this is a fault of the model
================ ====================================================================================================
"""

from __future__ import annotations

__all__ = ["COUNTERS", "VERDICT_NAMES"]

NOT_JUDGED, AGREED, TREE_SHAPE, POOL_STATE, PURGE_MOMENT, ORDER, UNEXPLAINED = range(7)
VERDICT_NAMES = (
    "", "agreed", "tree shape unknown", "pool state unknown", "purge moment unknown", "order", "unexplained",
)

#: Names of the counters, in the order of the ``enum`` in ``schedule.pxd``.
COUNTERS = (
    "reordered",  # allocations that happened before an allocation written earlier
    "cpu_moved",  # allocations served by another CPU's pool than the one that wrote the event
    "frees_early",  # frees that a purge had already taken, though written later
    "frees_late",  # frees that a purge had not taken yet, though written earlier
    "purges_begun_early",  # purges placed before their flush event because an allocation shows it
    "purges_begun_by_count",  # purges placed by num_purged, in absence of a flush event
    "populated_early",  # pool refills placed before the purge event because an allocation shows it
    "unknown_frees",  # frees of addresses that were not busy
    "purge_counts_wrong",  # purges that took another number of areas than num_purged
    "chunks_wrong",  # per-CPU chunks at another base than recorded
    "failures_agreed",  # failed attempts that failed here too
    "failures_wrong",  # failed attempts that found room here
    "corrected",  # states corrected to the recorded address
    "not_placed",  # corrections that were impossible: part of the recorded range is being purged
    "evicted",  # busy areas that a correction had to free, because the kernel allocates where they are
    "demoted",  # small free blocks re-linked as leaves, because a search should not have met them
    "hidden",  # ranges taken out of the free set, because the kernel shows they are not free
)
