"""What ``vm_map_ram`` has at an address, in words: of the page table and in faults (section 2.8)."""

from __future__ import annotations

import pytest

from calls.ram import BLOCK, MAPPED, Watched
from calls.watch import KERNELS, PAGE
from vmalloc.calls.ram_words import mapped_at, what_is_at
from vmalloc.errors import Fault

pytestmark = pytest.mark.both_builds


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_page_of_a_block_and_a_range_is_told(kernel: str) -> None:
    w = Watched(kernel, cpus=2)
    three, gone, one, large = w.map(3), w.map(2), w.map(1), w.map(65)
    w.unmap(gone, 2)
    block = f"the vm_map_ram block {MAPPED:#x}-{MAPPED + BLOCK:#x} of CPU 0"
    for address, piece, kind, words in (
        (three + 5, (three, 3), "unmapped", "5 bytes into the 3 pages that vm_map_ram mapped at 0x"),
        (three + 3 * PAGE, (three, 3), "unmapped", "0 bytes behind the 3 pages"),
        (gone + 7, None, "freed", f"{4 * PAGE + 7} bytes into {block}, unmapped since"),
        (one, (one, 1), "unmapped", "0 bytes into the 1 pages"),
        (one + PAGE, None, "unmapped", f"{7 * PAGE} bytes into {block}, in a part that was never handed out"),
        (large + 64 * PAGE, (large, 65), "unmapped", f"{64 * PAGE} bytes into the 65 pages"),
    ):
        assert mapped_at(w.space.state, address) == piece
        found = what_is_at(w.space.state, address)
        assert found is not None
        assert found[0] == kind
        assert words in found[1]
    for address in (0, MAPPED - 1, large + 65 * PAGE, w.space.state.vmalloc_end, -1, 1 << 64):
        assert (mapped_at(w.space.state, address), what_is_at(w.space.state, address)) == (None, None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_fault_says_what_is_there(kernel: str) -> None:
    """Section 4.1: a mapping that was taken away, and one that never was."""
    w = Watched(kernel)
    three, two = w.map(3), w.map(2)
    w.unmap(two, 2)
    for address, kind, words in (
        (three + 3 * PAGE, "unmapped", "behind the 3 pages .* rounding"),
        (two, "freed", "unmapped since"),
        (two + 2 * PAGE, "unmapped", "never handed out"),
    ):
        with pytest.raises(Fault, match=words) as caught:
            w.space.store(address, b"x")
        assert (caught.value.kind, caught.value.address) == (kind, address)
