"""Per-CPU groups: the highest base at which all of them are free (section 7.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import Oracle
from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.pcpu_groups import PcpuGroups
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.validate import validate_free_tree
from vmalloc.kernels import profile

pytestmark = pytest.mark.both_builds

P = 0x1000
TOP = (1 << 64) - 1
START, END = 0x100000, 0x140000


@st.composite
def geometries(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """Disjoint groups in any order, some touching, the first offset not always 0."""
    align = draw(st.sampled_from([1, 2, 4])) * P
    groups, offset = [], 0
    for _ in range(draw(st.integers(1, 4))):
        offset += draw(st.integers(0, 3)) * align
        size = draw(st.integers(1, 3)) * align
        groups.append((offset, size))
        offset += size
    groups = draw(st.permutations(groups))
    return [offset for offset, _size in groups], [size for _offset, size in groups], align


@given(
    geometry=geometries(),
    taken=st.lists(st.tuples(st.integers(-2, 66), st.integers(1, 6)), max_size=14),
    odd=st.booleans(),
)
def test_it_is_the_highest_base_of_a_search_that_tries_all(
    geometry: tuple[list[int], list[int], int], taken: list[tuple[int, int]], odd: bool
) -> None:
    """The walk lowers the base only to where the group that failed fits next, so that no higher base can work."""
    offsets, sizes, align = geometry
    end = END - odd
    oracle = Oracle(profile("6.19"), START, end)
    tree = FreeTree(AreaRows(), P)
    tree.add(1, TOP)
    for first, count in taken:
        start = START + first * P
        if oracle.reserve(start, start + count * P, 0):
            assert tree.remove(start, start + count * P) == 0
    expected = oracle.highest_base(offsets, sizes, align)
    groups = PcpuGroups(offsets, sizes, align, START, end)
    assert groups.claim(tree) == expected
    if expected is not None:
        for offset, size in groups.groups():
            assert oracle.reserve(expected + offset, expected + offset + size, 0)
    assert tree.blocks() == [(n.start, n.end) for n in oracle.tree]
    validate_free_tree(tree)


def tree_with(*blocks: tuple[int, int]) -> FreeTree:
    tree = FreeTree(AreaRows(), P)
    for start, end in blocks:
        assert tree.add(start, end)
    return tree


def test_one_group_takes_the_top() -> None:
    tree = tree_with((1, TOP))
    assert PcpuGroups([0], [2 * P], P, START, END).claim(tree) == END - 2 * P
    assert PcpuGroups([0], [2 * P], P, START, END).claim(tree) == END - 4 * P


def test_an_odd_end_is_rounded_down_to_the_alignment() -> None:
    assert PcpuGroups([0], [P], P, START, END - 1).claim(tree_with((1, TOP))) == END - 2 * P
    assert PcpuGroups([0], [4 * P], 4 * P, START, END - P).claim(tree_with((1, TOP))) == END - 8 * P


def test_all_fit_types_are_clipped() -> None:
    """Whole block, left edge, right edge and the middle, in one chunk."""
    blocks = [(START, START + P), (START + 4 * P, START + 6 * P), (START + 9 * P, START + 11 * P)]
    tree = tree_with(*blocks, (START + 19 * P, START + 22 * P))
    groups = PcpuGroups([0, 4 * P, 10 * P, 20 * P], [P, P, P, P], P, START, END)
    assert groups.claim(tree) == START
    assert tree.blocks() == [
        (START + 5 * P, START + 6 * P),
        (START + 9 * P, START + 10 * P),
        (START + 19 * P, START + 20 * P),
        (START + 21 * P, START + 22 * P),
    ]
    validate_free_tree(tree)


@pytest.mark.parametrize(
    "blocks",
    [
        (),
        ((START - 8 * P, START + P),),
        ((END - P, END + 8 * P),),
        ((START + P, START + 2 * P), (START + 6 * P, START + 7 * P)),
    ],
    ids=["nothing free", "below the range", "above the range", "the holes are not congruent"],
)
def test_no_base(blocks: tuple[tuple[int, int], ...]) -> None:
    tree = tree_with(*blocks)
    assert PcpuGroups([0, 4 * P], [P, P], P, START, END).claim(tree) is None
    assert tuple(tree.blocks()) == blocks


def test_a_span_wider_than_the_range() -> None:
    tree = tree_with((1, TOP))
    assert PcpuGroups([0, END - START], [P, P], P, START, END).claim(tree) is None


def test_a_base_below_zero_would_wrap() -> None:
    """A block just above the low end: its end less the group's end is negative and wraps to a huge base."""
    tree = tree_with((P, 2 * P))
    assert PcpuGroups([0, 16 * P], [P, P], P, P, 0x40 * P).claim(tree) is None
    assert tree.blocks() == [(P, 2 * P)]


@pytest.mark.parametrize(
    ("offsets", "sizes", "align", "reason"),
    [
        ([], [], P, "need as many of each, 1 to 64"),
        ([0], [P, P], P, "need as many of each, 1 to 64"),
        ([n * P for n in range(65)], [P] * 65, P, "need as many of each, 1 to 64"),
        ([0], [P], 3 * P, "not a power of two"),
        ([0], [P], 0, "not a power of two"),
        ([0], [P], 2 * P, "must be multiples"),
        ([P], [2 * P], 2 * P, "must be multiples"),
        ([0], [0], P, "must be multiples"),
        ([0, P], [2 * P, P], P, "overlaps"),
        ([P, 0], [P, 2 * P], P, "overlaps"),
        ([0, 0], [P, P], P, "overlaps"),
    ],
)
def test_geometries_the_kernel_stops_at(offsets: list[int], sizes: list[int], align: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PcpuGroups(offsets, sizes, align, START, END)


def test_64_groups_are_allowed() -> None:
    offsets = [2 * n * P for n in range(64)]
    tree = tree_with((1, TOP))
    base = PcpuGroups(offsets, [P] * 64, P, START, 4 * END).claim(tree)
    assert base == 4 * END - 127 * P
    assert len(tree.blocks()) == 65
