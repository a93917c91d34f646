"""Which TLBs a CPU has."""

from __future__ import annotations

import pytest

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.mmu.sizes import TlbSize, check_sizes, default_sizes, make_tlbs

ANY = TlbSize(12, 8, 2)


def test_defaults_are_those_of_a_current_core() -> None:
    assert default_sizes(ARCHITECTURES["x86_64"]) == ((12, 1536, 12), (21, 1024, 8), (30, 16, 16))
    assert default_sizes(ARCHITECTURES["arm64_4k"]) == ((12, 1536, 12), (16, 1536, 12), (21, 1024, 8), (30, 16, 16))
    assert default_sizes(ARCHITECTURES["s390x"]) == ((12, 1536, 12),)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_a_size_for_each_leaf(name: str) -> None:
    arch = ARCHITECTURES[name]
    sizes = check_sizes(default_sizes(arch), "lru")
    assert [size.shift for size in sizes] == sorted({arch.page_shift, *(leaf.shift for leaf in arch.huge_vmap)})
    tlbs = make_tlbs(arch, 3)
    assert len({id(tlb) for tlb in tlbs}) == 3
    assert [row[0] for row in tlbs[0].geometry()] == [size.shift for size in sizes]


def test_sizes_may_come_in_any_order() -> None:
    (tlb,) = make_tlbs(ARCHITECTURES["x86_64"], 1, [TlbSize(21, 4, 4), ANY])
    assert tlb.geometry() == [(12, 4, 2, 0), (21, 1, 4, 0)]


def test_cpus_throw_dice_of_their_own() -> None:
    tlbs = make_tlbs(ARCHITECTURES["x86_64"], 2, [TlbSize(12, 8, 8)], "random", 7)
    for tlb in tlbs:
        for k in range(50):
            tlb.do_insert(k << 12, k, 12, 3)
    assert len({tuple(entry.start for entry in tlb.entries()) for tlb in tlbs}) == 2


@pytest.mark.parametrize(
    ("sizes", "policy"),
    [
        ([ANY], "mru"),
        ([], "lru"),
        ([ANY, TlbSize(12, 4, 4)], "lru"),
        ([TlbSize(12 + k, 8, 2) for k in range(7)], "lru"),
        ([TlbSize(12, 12, 2)], "lru"),
        ([TlbSize(12, 8, 3)], "lru"),
        ([TlbSize(12, 0, 1)], "lru"),
        ([TlbSize(12, 8, 0)], "lru"),
        ([TlbSize(12, 8, -1)], "lru"),
        ([TlbSize(0, 8, 2)], "lru"),
        ([TlbSize(64, 8, 2)], "lru"),
        ([TlbSize(12, 1 << 25, 2)], "lru"),
    ],
)
def test_impossible_tlbs_are_refused(sizes: list[TlbSize], policy: str) -> None:
    with pytest.raises(BadRequest):
        check_sizes(sizes, policy)


def test_a_tlb_without_the_base_page_is_refused() -> None:
    with pytest.raises(BadRequest, match="x86_64"):
        make_tlbs(ARCHITECTURES["x86_64"], 1, [TlbSize(21, 8, 2)])
