"""The red-black tree: the same shape as the textbook's, after every insertion and deletion (Appendix B)."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle import Node, TextbookTree, shape_of
from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.validate import validate_free_tree

pytestmark = pytest.mark.both_builds

P = 0x1000


class Pair:
    """The real tree and the textbook's, holding blocks that never touch: slot ``i`` is ``i % 7 + 1`` pages."""

    def __init__(self) -> None:
        self.tree = FreeTree(AreaRows(), P)
        self.textbook = TextbookTree()
        self.nodes: dict[int, Node] = {}

    def toggle(self, slot: int) -> None:
        """Inserts the slot's block, or deletes it when it is there."""
        start = (slot + 1) * 16 * P
        end = start + (slot % 7 + 1) * P
        if slot in self.nodes:
            assert self.tree.remove(start, end) == 0
            self.textbook.delete(self.nodes.pop(slot))
        else:
            assert self.tree.add(start, end)
            self.nodes[slot] = Node(start, end)
            self.textbook.insert(self.nodes[slot])
        assert shape_of(self.tree) == self.textbook.shape()

    def check(self) -> None:
        validate_free_tree(self.tree)
        assert self.tree.blocks() == [(n.start, n.end) for n in self.textbook]


def test_every_order_of_six_insertions_and_each_deletion_after_it() -> None:
    for order in permutations(range(6)):
        pair = Pair()
        for slot in order:
            pair.toggle(slot)
        pair.check()
        pair.toggle(order[0])  # over all permutations every slot comes first in every order
        pair.toggle(order[3])
        pair.check()


@given(st.lists(st.integers(0, 40), max_size=150))
def test_any_history_has_the_textbook_shape(history: list[int]) -> None:
    pair = Pair()
    for slot in history:
        pair.toggle(slot)
    pair.check()


@pytest.mark.parametrize("step", [1, -1, 37])
def test_a_thousand_blocks_in_and_out(step: int) -> None:
    pair_order = [i * step % 211 for i in range(211)]
    pair = Pair()
    for slot in [*pair_order, *pair_order[::2], *pair_order[1::2]]:
        pair.toggle(slot)
    assert pair.tree.root == 0
    assert pair.tree.count == 0
    assert pair.tree.blocks() == []


def test_the_height_stays_logarithmic() -> None:
    tree = FreeTree(AreaRows(), P)
    for i in range(4096):
        tree.add((2 * i + 1) * P, (2 * i + 2) * P)
    validate_free_tree(tree)

    def height(number: int) -> int:
        row = tree.rows.get(number)
        return 0 if number == 0 else 1 + max(height(row["left"]), height(row["right"]))

    assert height(tree.root) <= 2 * 13


def test_an_empty_tree_has_no_largest_block() -> None:
    assert FreeTree(AreaRows(), P).largest() == 0
