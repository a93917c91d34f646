"""Numbers and words shared by the floor: record states, flags, error values.

Uncompiled on purpose: the compiled modules mirror the numbers in an ``enum`` of their ``.pxd`` (``rows.pxd``), and a
test holds the two against each other.

States of a ``vmap_area`` record, and who moves it (specification section 4.1):

========= ============================================== ==========================================================
state     where the record is                            who moves it on
========= ============================================== ==========================================================
UNUSED    nowhere: on the table's list of spare rows     ``AreaRows.take``
LOOSE     in the hands of one call, in no structure      the call that holds it
FREE      in the free tree                               clip (to UNUSED), merge (to UNUSED)
BUSY      in the busy map of ``addr_to_node(va_start)``  ``find_unlink`` (to LOOSE)
LAZY      in the lazy map of its node                    detach (to PURGING)
PURGING   on a node's purge list, flushed or about to be populate (to POOLED), drain (to FREE)
POOLED    in the pool of exactly its page count          take (to BUSY), decay (to FREE)
========= ============================================== ==========================================================
"""

from __future__ import annotations

__all__ = [
    "BUSY",
    "EBUSY",
    "EINVAL",
    "ENOENT",
    "ENOMEM",
    "ERANGE",
    "ERROR_VALUES",
    "FREE",
    "LAZY",
    "LOOSE",
    "MAX_POOL_PAGES",
    "NIL",
    "NOW_BUSY",
    "NOW_FLUSHED",
    "NOW_GONE",
    "NOW_PROVEN",
    "POOLED",
    "PURGING",
    "STATE_NAMES",
    "UNUSED",
    "VMAP_BLOCK",
    "VMAP_RAM",
    "error_value",
    "is_error_value",
]

#: Row 0 is no record: the leaf of every tree and the end of every list.
NIL = 0

UNUSED, LOOSE, FREE, BUSY, LAZY, PURGING, POOLED = range(7)
STATE_NAMES = ("unused", "loose", "free", "busy", "lazy", "purging", "pooled")

#: What a ledger says of a range (``ledger``).
NOW_BUSY, NOW_GONE, NOW_FLUSHED, NOW_PROVEN = range(1, 5)

VMAP_RAM = 0x1
VMAP_BLOCK = 0x2

#: Size classes of a node's pool: exactly 1 to 256 pages, guard included (``MAX_VA_SIZE_PAGES``, section 4.8).
MAX_POOL_PAGES = 256

ENOENT, ENOMEM, EBUSY, EINVAL, ERANGE = 2, 12, 16, 22, 34

#: Addresses at and above this value are negative errno numbers (the top 4095 values, section 1.8).
ERROR_VALUES = (1 << 64) - 4095


def error_value(errno: int) -> int:
    """The address that stands for ``-errno``: ``2**64 - errno``."""
    return (1 << 64) - errno


def is_error_value(address: int) -> bool:
    """Tells whether an address returned by the allocator is an error."""
    return address >= ERROR_VALUES
