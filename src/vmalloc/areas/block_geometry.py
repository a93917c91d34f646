"""Sizes of ``vm_map_ram`` blocks: how much of the address space one block takes (specification section 5.1).

A block is a range that one CPU hands out piece by piece without asking anybody.  It is large where addresses are plenty
and small where they are not: a sixteenth of what would be each CPU's share of an **assumed** space, 128 TiB or 128 MiB,
whatever the real range is; at least two of the largest pieces, at most 1024 pages.  ``NR_CPUS`` is what the kernel was
built for, so on 32 bits a kernel for many CPUs has small blocks even where only one runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmalloc.errors import BadRequest
from vmalloc.units import MIB, is_power_of_two

__all__ = ["BBMAP_BITS_MAX", "BlockGeometry", "block_geometry"]

#: Pages of the largest block (``VMAP_BBMAP_BITS_MAX``).
BBMAP_BITS_MAX = 1024

#: The space that is assumed, in bytes, by word size.
_ASSUMED = {32: 128 * MIB, 64: 128 * MIB * MIB}

#: CPUs' shares are divided by this once more.
_SHARE = 16


@dataclass(frozen=True, slots=True)
class BlockGeometry:
    """The numbers of section 5.1 for one machine.

    Attributes:
        page_shift: log2 of the base page.
        max_alloc: pages of the largest piece (``VMAP_MAX_ALLOC``); larger requests get a range of their own.
        block_pages: pages of a block (``VMAP_BBMAP_BITS``).
        purge_threshold: free pages of a block that is worth keeping (``VMAP_PURGE_THRESHOLD``).
    """

    page_shift: int
    max_alloc: int
    block_pages: int
    purge_threshold: int

    @property
    def block_size(self) -> int:
        """Bytes of a block (``VMAP_BLOCK_SIZE``), and its alignment."""
        return self.block_pages << self.page_shift


def block_geometry(word_bits: int, page_shift: int, nr_cpus: int) -> BlockGeometry:
    """The sizes on a machine.

    Args:
        word_bits: 64 or 32: also the pages of the largest piece.
        page_shift: log2 of the base page.
        nr_cpus: for how many CPUs the kernel was built (``NR_CPUS``).

    Raises:
        BadRequest: no such word size, or no CPU.

    >>> block_geometry(64, 12, 8192).block_size, block_geometry(32, 12, 8).block_pages
    (4194304, 256)
    """
    if word_bits not in _ASSUMED or nr_cpus < 1:
        raise BadRequest(f"no kernel is built for {nr_cpus} CPUs with words of {word_bits} bits")
    max_alloc = word_bits
    share = (_ASSUMED[word_bits] >> page_shift) // (1 << (nr_cpus - 1).bit_length()) // _SHARE
    block_pages = min(BBMAP_BITS_MAX, max(2 * max_alloc, share))
    assert is_power_of_two(block_pages)
    return BlockGeometry(page_shift, max_alloc, block_pages, block_pages // 4)
