"""Sizes of ``vm_map_ram`` blocks: the tables of section 5.1."""

from __future__ import annotations

import pytest

from vmalloc.areas.block_geometry import BBMAP_BITS_MAX, block_geometry
from vmalloc.errors import BadRequest
from vmalloc.units import KIB, MIB

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("page_shift", [12, 14, 16])
@pytest.mark.parametrize("nr_cpus", [1, 2, 3, 64, 512, 8192])
def test_64_bits_have_blocks_of_1024_pages_for_every_number_of_cpus(page_shift: int, nr_cpus: int) -> None:
    """Section 5.1, first table."""
    geometry = block_geometry(64, page_shift, nr_cpus)
    assert (geometry.max_alloc, geometry.block_pages, geometry.purge_threshold) == (64, BBMAP_BITS_MAX, 256)
    assert geometry.block_size == 1024 << page_shift


@pytest.mark.parametrize(
    ("nr_cpus", "block_pages", "block_size"),
    [
        (1, 1024, 4 * MIB), (2, 1024, 4 * MIB), (3, 512, 2 * MIB), (4, 512, 2 * MIB), (5, 256, MIB), (8, 256, MIB),
        (16, 128, 512 * KIB), (17, 64, 256 * KIB), (32, 64, 256 * KIB), (4096, 64, 256 * KIB),
    ],
)  # fmt: skip
def test_32_bits_share_128_mib_among_the_cpus(nr_cpus: int, block_pages: int, block_size: int) -> None:
    """Section 5.1, second table: the number of CPUs is rounded up to a power of two."""
    geometry = block_geometry(32, 12, nr_cpus)
    assert (geometry.max_alloc, geometry.block_pages, geometry.block_size) == (32, block_pages, block_size)
    assert geometry.purge_threshold == block_pages // 4


@pytest.mark.parametrize(("word_bits", "nr_cpus"), [(16, 1), (64, 0), (32, -1)])
def test_kernels_that_nobody_builds(word_bits: int, nr_cpus: int) -> None:
    with pytest.raises(BadRequest, match=f"{nr_cpus} CPUs with words of {word_bits} bits"):
        block_geometry(word_bits, 12, nr_cpus)
