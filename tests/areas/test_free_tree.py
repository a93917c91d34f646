"""The free set: what a search finds, how a block is clipped, how a returned one merges."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oracle import TOP, WORD, Node, TextbookTree, aligned, lowest_fit, shape_of
from vmalloc.areas.allocator import Allocator
from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.states import EINVAL, ENOENT, ERANGE, error_value
from vmalloc.areas.validate import validate_free_tree

pytestmark = pytest.mark.both_builds

P = 0x1000


def tree_of(*blocks: tuple[int, int]) -> FreeTree:
    tree = FreeTree(AreaRows(), P)
    for start, end in blocks:
        assert tree.add(start, end)
    validate_free_tree(tree)
    return tree


def textbook_of(*blocks: tuple[int, int]) -> TextbookTree:
    tree = TextbookTree()
    for start, end in blocks:
        tree.insert(Node(start, end))
    return tree


#: Blocks with gaps of at least a page, in an order that shapes the tree.
def block_lists(max_pages: int = 12) -> st.SearchStrategy[list[tuple[int, int]]]:
    lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(1, max_pages)), min_size=1, max_size=24)

    def place(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        blocks, at = [], 0x100
        for gap, count in pairs:
            blocks.append(((at + gap) * P, (at + gap + count) * P))
            at += gap + count
        return blocks

    return lengths.map(place).flatmap(st.permutations)


# -- search ----------------------------------------------------------------------------------------------------------


@given(
    blocks=block_lists(),
    nr_pages=st.integers(1, 14),
    align=st.sampled_from([1, 2, 64, P]),
    vstart=st.integers(0, 0x200).map(lambda n: n * P),
)
def test_up_to_page_alignment_the_search_is_exact(
    blocks: list[tuple[int, int]], nr_pages: int, align: int, vstart: int
) -> None:
    """The theorem of section 1.7: whatever the shape, the lowest block that fits."""
    tree = tree_of(*blocks)
    found = lowest_fit(iter(textbook_of(*sorted(blocks))), nr_pages * P, align, vstart)
    expected = error_value(ENOENT) if found is None else aligned(found, align, vstart)
    assert tree.allocate(nr_pages * P, align, vstart, TOP) == expected
    validate_free_tree(tree)


@given(
    blocks=block_lists(),
    nr_pages=st.integers(1, 8),
    align=st.integers(1, 5).map(lambda n: P << n),
    vstart=st.integers(0, 0x200).map(lambda n: n * P),
    window=st.one_of(st.none(), st.integers(1, 64).map(lambda n: n * P)),
)
def test_larger_alignments_walk_the_tree_as_the_kernel_does(
    blocks: list[tuple[int, int]], nr_pages: int, align: int, vstart: int, window: int | None
) -> None:
    tree, textbook = tree_of(*blocks), textbook_of(*blocks)
    size = nr_pages * P
    vend = TOP if window is None else vstart + window
    block = textbook.search(size, align, vstart, vend - vstart != size)
    expected = error_value(ENOENT)
    if block is not None:
        expected = aligned(block, align, vstart)
        if expected + size > vend:
            expected = error_value(ERANGE)
        else:
            textbook.clip(block, expected, expected + size)
    assert tree.allocate(size, align, vstart, vend) == expected
    assert shape_of(tree) == textbook.shape()


def test_the_climb_reaches_a_block_that_the_maxima_promised_in_vain() -> None:
    """The left subtree has the length but not above ``vstart``: the walk comes back and goes on to the right."""
    blocks = [(0x200 * P, 0x202 * P), (0x100 * P, 0x110 * P), (0x300 * P, 0x308 * P)]
    assert tree_of(*blocks).allocate(4 * P, 1, 0x10E * P, TOP) == 0x300 * P
    assert tree_of(*blocks).allocate(2 * P, 1, 0x10E * P, TOP) == 0x10E * P
    assert tree_of(*blocks).allocate(4 * P, 1, 0x306 * P, TOP) == error_value(ENOENT)


def test_an_exact_window_is_not_widened() -> None:
    """``adjust``: with ``vend - vstart == size`` the search asks for the size alone, else for ``size + align - 1``."""
    # The block that fits is a leaf; the root is too small to be taken instead.
    blocks = [(0x200 * P, 0x201 * P), (0x104 * P, 0x108 * P), (0x300 * P, 0x301 * P)]
    assert tree_of(*blocks).allocate(4 * P, 4 * P, 0x104 * P, 0x108 * P) == 0x104 * P
    assert tree_of(*blocks).allocate(4 * P, 4 * P, 0x104 * P, 0x109 * P) == error_value(ENOENT)
    assert tree_of(*blocks).allocate(4 * P, P, 0x104 * P, 0x109 * P) == 0x104 * P


def test_the_widened_length_is_one_less_than_size_and_alignment_together() -> None:
    """Told apart only by a block of an odd length: the low block, which starts at 1."""
    low, root = (1, 8 * P), (0x200 * P, 0x201 * P)
    assert tree_of(root, low).allocate(4 * P, 4 * P, P, TOP) == 4 * P
    assert tree_of(root, (1, 7 * P)).allocate(4 * P, 4 * P, P, TOP) == error_value(ENOENT)
    assert tree_of(root, (P, 8 * P)).allocate(4 * P, 4 * P, P, TOP) == error_value(ENOENT)


def test_no_second_candidate_is_tried_beyond_the_window() -> None:
    tree = tree_of((0x100 * P, 0x102 * P), (0x200 * P, 0x300 * P))
    assert tree.allocate(4 * P, 1, 0x100 * P, 0x200 * P) == error_value(ERANGE)
    assert tree.blocks() == [(0x100 * P, 0x102 * P), (0x200 * P, 0x300 * P)]


def test_an_odd_end_loses_its_last_page() -> None:
    tree = tree_of((0x100 * P, TOP))
    vend = 0x102 * P - 1
    assert tree.allocate(P, 1, 0x100 * P, vend) == 0x100 * P
    assert tree.allocate(P, 1, 0x100 * P, vend) == error_value(ERANGE)
    assert tree.allocate(P, 1, 0x100 * P, vend + 1) == 0x101 * P


# -- near the end of the address space ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "size", "align", "vstart", "expected"),
    [
        (1, P, 1, WORD - 2 * P, WORD - 2 * P),
        (1, P, 1, WORD - P, error_value(ENOENT)),  # the last page ends beyond 2**64 - 1
        (WORD - 4 * P, 2 * P, 4 * P, 1, WORD - 4 * P),
        (WORD - 3 * P, P, 4 * P, 1, error_value(ENOENT)),  # rounding up wraps to 0
        (WORD - 3 * P, P, 1 << 63, 1, error_value(ENOENT)),
        (1, P, 1 << 63, 1, 1 << 63),
        (1, 1 << 63, 1 << 63, P, error_value(ENOENT)),
        (1, (1 << 63) - P, 1 << 63, P, 1 << 63),
        (1, WORD - 2 * P, P, P, P),
        (1, WORD - P, 1, P, error_value(ENOENT)),
    ],
)
def test_sums_that_would_wrap(start: int, size: int, align: int, vstart: int, expected: int) -> None:
    tree, textbook = tree_of((start, TOP)), textbook_of((start, TOP))
    block = textbook.search(size, align, vstart, align > P)
    assert (error_value(ENOENT) if block is None else aligned(block, align, vstart)) == expected
    assert tree.allocate(size, align, vstart, TOP) == expected
    validate_free_tree(tree)


def test_an_address_that_wrapped_to_0_is_refused_and_nothing_changes() -> None:
    """From address 0 on, the kernel's test for wrapping says nothing; its clip finds the range outside the block."""
    high = (WORD - 3 * P, TOP)
    tree = tree_of(high)
    assert tree.allocate(P, 1 << 63, 0, TOP) == error_value(EINVAL)
    assert tree.blocks() == [high]

    allocator = Allocator(P, TOP, 1, 12, False, False, False, -1)
    allocator.free.add(*high)
    assert allocator.allocate(P, 1 << 63, 0, TOP, 0, 0, True) == error_value(EINVAL)
    assert allocator.free.blocks() == [high]
    assert allocator.nodes.busy(0) == []


# -- clip: the four fits (section 1.8) ---------------------------------------------------------------------------------

BLOCK = (0x100 * P, 0x108 * P)


@pytest.mark.parametrize(
    ("start", "end", "left"),
    [
        (0x100, 0x108, []),
        (0x100, 0x103, [(0x103, 0x108)]),
        (0x106, 0x108, [(0x100, 0x106)]),
        (0x102, 0x103, [(0x100, 0x102), (0x103, 0x108)]),
    ],
    ids=["full", "left edge", "right edge", "no edge"],
)
def test_the_four_fits(start: int, end: int, left: list[tuple[int, int]]) -> None:
    tree = tree_of(BLOCK, (0x200 * P, 0x201 * P), (0x80 * P, 0x81 * P))
    before = tree.rows.live
    assert tree.remove(start * P, end * P) == 0
    expected = [(0x80 * P, 0x81 * P), *((s * P, e * P) for s, e in left), (0x200 * P, 0x201 * P)]
    assert tree.blocks() == expected
    assert tree.rows.live == before - 1 + len(left)
    validate_free_tree(tree)


def test_a_split_keeps_the_old_record_on_the_right() -> None:
    tree = tree_of(BLOCK)
    record = tree.root
    tree.remove(0x102 * P, 0x103 * P)
    assert tree.rows.get(record)["va_start"] == 0x103 * P
    assert tree.rows.get(tree.rows.get(record)["left"])["va_start"] == 0x100 * P


@pytest.mark.parametrize(("start", "end"), [(0xFF, 0x101), (0x107, 0x109), (0x50, 0x51), (0x110, 0x111)])
def test_a_range_that_is_not_free_cannot_be_taken(start: int, end: int) -> None:
    tree = tree_of(BLOCK)
    assert tree.remove(start * P, end * P) == -EINVAL
    assert tree.blocks() == [BLOCK]
    validate_free_tree(tree)


# -- give: merging (section 1.9) ---------------------------------------------------------------------------------------

LOW, HIGH = (0x100 * P, 0x102 * P), (0x104 * P, 0x106 * P)


def test_a_block_that_touches_none_is_inserted() -> None:
    tree = tree_of(LOW, (0x110 * P, 0x111 * P))
    assert tree.add(0x104 * P, 0x105 * P)
    assert len(tree.blocks()) == 3


@pytest.mark.parametrize(
    ("start", "end", "keeps", "blocks"),
    [
        (0x102, 0x103, LOW, [(0x100, 0x103), (0x104, 0x106)]),
        (0x103, 0x104, HIGH, [(0x100, 0x102), (0x103, 0x106)]),
        (0x102, 0x104, LOW, [(0x100, 0x106)]),
    ],
    ids=["the one before", "the one after", "both: the lower record survives"],
)
def test_the_neighbours_record_absorbs(
    start: int, end: int, keeps: tuple[int, int], blocks: list[tuple[int, int]]
) -> None:
    tree = tree_of(LOW, HIGH)
    record = next(n for n in range(1, tree.rows.used) if tree.rows.get(n)["va_start"] == keeps[0])
    assert tree.add(start * P, end * P)
    assert tree.blocks() == [(s * P, e * P) for s, e in blocks]
    row = tree.rows.get(record)
    assert row["va_start"] <= keeps[0]
    assert row["va_end"] >= keeps[1]
    assert tree.rows.live == len(blocks)
    validate_free_tree(tree)


@pytest.mark.parametrize(
    ("start", "end"), [(0x100, 0x102), (0x101, 0x103), (0x0FF, 0x107), (0x105, 0x110), (0x101, 0x102)]
)
def test_an_overlapping_block_is_refused_and_nothing_changes(start: int, end: int) -> None:
    tree = tree_of(LOW, HIGH)
    before = shape_of(tree)
    assert not tree.add(start * P, end * P)
    assert shape_of(tree) == before
    assert tree.rows.live == 2


@given(st.data())
def test_giving_everything_back_in_any_order_leaves_one_block(data: st.DataObject) -> None:
    tree = tree_of((1, TOP))
    pieces = [((0x100 + i) * P, (0x101 + i) * P) for i in range(12)]
    for start, _end in pieces:
        assert tree.allocate(P, 1, 0x100 * P, TOP) == start
    for start, end in data.draw(st.permutations(pieces)):
        assert tree.add(start, end)
        validate_free_tree(tree)
    assert tree.blocks() == [(1, TOP)]
    assert tree.rows.live == 1


@given(blocks=block_lists())
@example([(1, TOP)])
def test_largest_is_the_largest_block(blocks: list[tuple[int, int]]) -> None:
    assert tree_of(*blocks).largest() == max(end - start for start, end in blocks)


# -- the lowest fit, which a policy may ask for ------------------------------------------------------------------------


def lowest_tree_of(*blocks: tuple[int, int]) -> FreeTree:
    tree = FreeTree(AreaRows(), P, True)
    for start, end in blocks:
        assert tree.add(start, end)
    return tree


@given(
    blocks=block_lists(),
    nr_pages=st.integers(1, 8),
    align=st.integers(0, 5).map(lambda n: P << n),
    vstart=st.integers(0, 0x200).map(lambda n: n * P),
    window=st.one_of(st.none(), st.integers(1, 64).map(lambda n: n * P)),
)
def test_the_lowest_fit_is_the_lowest_address_whatever_the_shape(
    blocks: list[tuple[int, int]], nr_pages: int, align: int, vstart: int, window: int | None
) -> None:
    tree, size = lowest_tree_of(*blocks), nr_pages * P
    vend = TOP if window is None else vstart + window
    starts = (-(-max(start, vstart) // align) * align for start, _end in sorted(blocks))
    ends = (end for _start, end in sorted(blocks))
    exact = vend - vstart == size  # an exact window is searched as the kernel does, which is exact there, too
    expected = next((a for a, end in zip(starts, ends, strict=True) if a + size <= end), None)
    found = tree.allocate(size, align, vstart, vend)
    if expected is None or expected + size > vend:
        assert found in (error_value(ENOENT), error_value(ERANGE))
        assert tree.blocks() == sorted(blocks)
    else:
        assert found == expected
        assert exact or tree.allocate(size, align, vstart, found + size) >= error_value(4095)
    validate_free_tree(tree)


def test_the_lowest_fit_finds_what_the_kernels_search_misses() -> None:
    """Appendix A.4: the same free set, in the history in which the kernel prunes the block that fits (section 1.7)."""
    blocks = [(1, 0x100000), (0x110000, TOP), (0x10C000, 0x10D000), (0x104000, 0x108000)]
    order = [blocks[2], blocks[0], blocks[1], blocks[3]]
    kernel, lowest = tree_of(*order), lowest_tree_of(*order)
    assert kernel.allocate(4 * P, 0x4000, 0x100000, 0x180000) == 0x110000
    assert lowest.allocate(4 * P, 0x4000, 0x100000, 0x180000) == 0x104000


@given(blocks=block_lists(), low=st.integers(0, 0x1C0), pages=st.integers(1, 0x1C0))
def test_the_largest_piece_of_a_window_is_found_without_looking_at_all(
    blocks: list[tuple[int, int]], low: int, pages: int
) -> None:
    tree, start, end = tree_of(*blocks), low * P, (low + pages) * P
    pieces = [min(block[1], end) - max(block[0], start) for block in blocks]
    assert tree.largest_in(start, end) == max(0, *pieces)


def test_searches_for_alignments_are_counted_with_the_nodes_they_looked_at() -> None:
    for tree in (tree_of((0x100 * P, 0x108 * P)), lowest_tree_of((0x100 * P, 0x108 * P))):
        tree.allocate(P, P, P, TOP)
        assert (tree.aligned_searches, tree.aligned_visits, tree.visits) == (0, 0, 1)
        tree.allocate(P, 2 * P, P, TOP)
        assert (tree.aligned_searches, tree.aligned_visits, tree.visits) == (1, 1, 2)
    tree = lowest_tree_of(*(((2 * n + 1) * P, (2 * n + 2) * P) for n in range(1, 64)))
    assert tree.allocate(P, 2 * P, P, TOP) == error_value(ENOENT)
    assert tree.aligned_visits >= 63  # every block is large enough, and none lies right
