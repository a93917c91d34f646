"""Validators: one function per structure of the floor, each trusting nothing.

Idea: every invariant that a module states above its class is checked here, from the stored numbers alone: no validator
calls the code that keeps the invariant.  A row number is looked up only after it was found to be inside the table, so
that a broken structure is reported and not followed.

Each raises ``ValidationError`` with the two parties that contradict each other, and returns what it saw, so that
``validate_allocator`` can hold the structures against each other: every live row in exactly one of them, and free,
busy, lazy and pooled ranges together covering each address exactly once.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from vmalloc.areas.allocator import Allocator
from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.nodes import VmapNodes
from vmalloc.areas.ordered_map import OrderedMaps
from vmalloc.areas.pools import Pools
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.states import (
    BUSY,
    FREE,
    LAZY,
    LOOSE,
    MAX_POOL_PAGES,
    NIL,
    POOLED,
    PURGING,
    STATE_NAMES,
    UNUSED,
)
from vmalloc.errors import ValidationError
from vmalloc.units import ADDRESS_MAX, format_address, format_range

__all__ = [
    "validate_allocator",
    "validate_free_tree",
    "validate_nodes",
    "validate_ordered_maps",
    "validate_pools",
    "validate_rows",
]

#: Keys in a run of an ordered map (``BLOCK_CAPACITY`` of ordered_map.pxd).
RUN_CAPACITY = 128


class Row(NamedTuple):
    """One row of the table, read once."""

    number: int
    va_start: int
    va_end: int
    left_max: int
    right_max: int
    subtree_max_size: int
    parent: int
    left: int
    right: int
    list_next: int
    flags: int
    red: bool
    state: int

    @property
    def size(self) -> int:
        return self.va_end - self.va_start

    def __str__(self) -> str:
        return f"#{self.number} {format_range(self.va_start, self.va_end)}"


def state_name(state: int) -> str:
    """The word for a state, or the number when there is no such state."""
    return STATE_NAMES[state] if 0 <= state < len(STATE_NAMES) else f"state {state}"


def read(structure: str, rows: AreaRows, number: int, whence: str) -> Row:
    """Row ``number``, which ``whence`` names; it must be a row that was handed out."""
    if not 0 < number < rows.used:
        raise ValidationError(structure, f"{whence} names row #{number}", f"the table of rows #1 to #{rows.used - 1}")
    return Row(number, **rows.get(number))


def expect_state(structure: str, row: Row, state: int) -> None:
    """A row that is in a structure must say so, and must be a range."""
    if row.state != state:
        raise ValidationError(structure, f"{row} being in it", f"its state {state_name(row.state)}")
    if row.va_start >= row.va_end:
        raise ValidationError(structure, f"the start of {row}", f"its end {format_address(row.va_end)}, not above it")


# -- the free tree ---------------------------------------------------------------------------------------------------


def validate_free_tree(tree: FreeTree) -> list[Row]:
    """Checks order, gaps, links, colours, black heights, maxima and the count; returns the blocks, ascending."""
    name = "free tree"
    rows, root = tree.rows, tree.root
    leaf = Row(NIL, **rows.get(NIL))
    if leaf.red or leaf.subtree_max_size:
        raise ValidationError(name, f"the leaf, row #{NIL}", "a black node without blocks")
    if root != NIL and read(name, rows, root, "the root").red:
        raise ValidationError(name, f"the root {read(name, rows, root, 'the root')} being red", "a root is black")
    blocks: list[Row] = []
    heights: dict[int, tuple[int, int]] = {NIL: (0, 0)}  # row: black height, exact maximum
    met: set[int] = set()
    # Each entry: row number, its parent, and whether its left subtree was walked already.
    stack = [(root, NIL, False)] if root != NIL else []
    while stack:
        number, parent, opened = stack.pop()
        row = read(name, rows, number, f"#{parent}" if parent else "the root")
        if opened:
            heights[number] = check_node(row, heights)
            continue
        if number in met:
            raise ValidationError(name, f"{row} below #{parent}", "an earlier place of it: a circle or two parents")
        met.add(number)
        if row.parent != parent:
            raise ValidationError(name, f"{row} below #{parent}", f"its parent link #{row.parent}")
        expect_state(name, row, FREE)
        stack.append((number, parent, True))
        stack.extend((child, number, False) for child in (row.right, row.left) if child != NIL)
    in_order(tree, root, blocks)
    for lower, upper in pairwise(blocks):
        if lower.va_end >= upper.va_start:
            word = "adjacent to" if lower.va_end == upper.va_start else "not wholly below"
            raise ValidationError(name, f"{lower}", f"{upper}, which comes next: {word} it")
    if len(blocks) != tree.count:
        raise ValidationError(name, f"{len(blocks)} blocks", f"the count {tree.count}")
    return blocks


def check_node(row: Row, below: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Checks one node against its finished children in ``below``; returns its black height and its maximum."""
    name = "free tree"
    (left_height, left_max), (right_height, right_max) = below[row.left], below[row.right]
    if left_height != right_height:
        raise ValidationError(
            name, f"{left_height} black nodes on the left of {row}", f"{right_height} black nodes on its right"
        )
    for side, noted, biggest in (("left", row.left_max, left_max), ("right", row.right_max, right_max)):
        if noted != biggest:
            raise ValidationError(
                name, f"{side}_max {noted:#x} of {row}", f"the largest block on its {side}, {biggest:#x}"
            )
    return left_height + (not row.red), row.subtree_max_size


def in_order(tree: FreeTree, root: int, blocks: list[Row]) -> None:
    """Appends the nodes in order, which are known to be a tree by now; checks that no red node has a red child."""
    stack: list[Row] = []
    number = root
    while stack or number != NIL:
        while number != NIL:
            row = read("free tree", tree.rows, number, "a child link")
            if row.red and row.parent != NIL:
                above = read("free tree", tree.rows, row.parent, f"the parent link of {row}")
                if above.red:
                    raise ValidationError("free tree", f"red {row}", f"its red parent {above}")
            stack.append(row)
            number = row.left
        row = stack.pop()
        blocks.append(row)
        number = row.right


# -- ordered maps ----------------------------------------------------------------------------------------------------


def validate_ordered_maps(maps: OrderedMaps) -> None:
    """Checks the order within and across runs, the index, the counts, and that each run has one owner."""
    name = "ordered maps"
    owner: dict[int, str] = {}
    for m in range(maps.nr_maps):
        for i, (number, count) in enumerate(maps.blocks(m)):
            claim_run(maps, owner, number, f"run {i} of map {m}")
            if not 0 < count <= RUN_CAPACITY:
                raise ValidationError(name, f"{count} keys in run {i} of map {m}", f"1 to {RUN_CAPACITY} keys in a run")
        check_runs(m, maps.runs(m), maps.length(m))
    for number in maps.spares():
        claim_run(maps, owner, number, "the list of spare runs")
    if len(owner) != maps.blocks_used:
        raise ValidationError(name, f"{len(owner)} runs used and spare", f"{maps.blocks_used} runs ever handed out")


def claim_run(maps: OrderedMaps, owner: dict[int, str], number: int, whence: str) -> None:
    if not 0 <= number < maps.blocks_used:
        raise ValidationError("ordered maps", f"{whence} naming number {number}", f"a pool of {maps.blocks_used} runs")
    if number in owner:
        raise ValidationError("ordered maps", f"{whence} having number {number}", f"{owner[number]}, which has it too")
    owner[number] = whence


def check_runs(m: int, runs: list[tuple[int, list[tuple[int, int]]]], total: int) -> None:
    """Checks one map: its index entries and keys ascend, no value is 0, the total is right."""
    name = "ordered maps"
    below, key_before = -1, -1
    for i, (first, run) in enumerate(runs):
        if i == 0 and first != 0:
            raise ValidationError(name, f"index entry {first:#x} of run 0 of map {m}", "0, below every key")
        if first <= key_before or first <= below:
            raise ValidationError(
                name, f"index entry {first:#x} of run {i} of map {m}", f"the key {key_before:#x} of the run before"
            )
        below = first
        for key, value in run:
            if key < first:
                raise ValidationError(name, f"key {key:#x} in run {i} of map {m}", f"its index entry {first:#x}")
            if key <= key_before:
                raise ValidationError(name, f"key {key:#x} in run {i} of map {m}", f"the key {key_before:#x} before it")
            if value == NIL:
                raise ValidationError(name, f"value {NIL} of key {key:#x} in map {m}", "values are rows, and 0 is none")
            key_before = key
    counted = sum(len(run) for _first, run in runs)
    if counted != total:
        raise ValidationError(name, f"{counted} keys in map {m}", f"its count {total}")


# -- pools -----------------------------------------------------------------------------------------------------------


def validate_pools(pools: Pools) -> list[Row]:
    """Checks every list's head, tail, length and sizes; returns all pooled rows."""
    found: list[Row] = []
    met: dict[int, str] = {}
    for node in range(pools.nr_nodes):
        for nr_pages in range(1, MAX_POOL_PAGES + 1):
            if any(pools.description(node, nr_pages)):
                found += check_pool(pools, node, nr_pages, met)
    return found


def check_pool(pools: Pools, node: int, nr_pages: int, met: dict[int, str]) -> list[Row]:
    name = "pools"
    label = f"pool of node {node} for {nr_pages} pages"
    _head, tail, length = pools.description(node, nr_pages)
    found: list[Row] = []
    for number in pools.entries(node, nr_pages):
        row = read(name, pools.rows, number, label)
        if number in met:
            raise ValidationError(name, f"{row} in the {label}", f"the {met[number]}, which it is in already")
        met[number] = label
        expect_state(name, row, POOLED)
        if row.size != nr_pages << pools.page_shift:
            raise ValidationError(name, f"size {row.size:#x} of {row}", f"the {label}")
        found.append(row)
    if len(found) != length:
        raise ValidationError(name, f"{len(found)} entries of the {label}", f"its length {length}")
    last = found[-1].number if found else NIL
    if tail != last:
        raise ValidationError(name, f"last entry #{last} of the {label}", f"its tail #{tail}")
    return found


# -- nodes -----------------------------------------------------------------------------------------------------------


def validate_nodes(nodes: VmapNodes) -> tuple[list[Row], list[Row]]:
    """Checks that each busy and lazy row is where its address or its mark puts it, and the lazy counters.

    Returns the busy rows and the lazy rows.
    """
    name = "vmap nodes"
    busy: list[Row] = []
    lazy: list[Row] = []
    for node in range(nodes.nr_nodes):
        for key, number in nodes.maps.items(node):
            row = read(name, nodes.rows, number, f"busy set of node {node}")
            expect_state(name, row, BUSY)
            expect_place(row, key, "busy", node, by_address(nodes, row))
            busy.append(row)
        for key, number in nodes.maps.items(nodes.nr_nodes + node):
            row = read(name, nodes.rows, number, f"lazy set of node {node}")
            expect_state(name, row, LAZY)
            marked = (row.flags >> 8) - 1
            expect_place(row, key, "lazy", node, marked if 0 <= marked < nodes.nr_nodes else by_address(nodes, row))
            lazy.append(row)
    check_disjoint(name, busy + lazy)
    if len(lazy) != nodes.lazy_areas:
        raise ValidationError(name, f"{len(lazy)} lazy areas", f"lazy_areas {nodes.lazy_areas}")
    nr_pages = sum(row.size for row in [*lazy, *rows_in(nodes.rows, PURGING)]) >> nodes.page_shift
    if nr_pages != nodes.nr_lazy:
        raise ValidationError(name, f"{nr_pages} pages in lazy areas", f"nr_lazy {nodes.nr_lazy}")
    return busy, lazy


def by_address(nodes: VmapNodes, row: Row) -> int:
    """The node of an address, said again (section 4.6) so that the nodes' own answer is not trusted."""
    zone: int = nodes.zone_size
    count: int = nodes.nr_nodes
    return row.va_start // zone % count


def expect_place(row: Row, key: int, kind: str, node: int, right_node: int) -> None:
    if key != row.va_start:
        raise ValidationError("vmap nodes", f"key {key:#x} in the {kind} set of node {node}", f"{row} stored under it")
    if node != right_node:
        raise ValidationError("vmap nodes", f"{row} in the {kind} set of node {node}", f"its own node, {right_node}")


def check_disjoint(structure: str, found: list[Row]) -> None:
    """No two rows of one allocator share an address."""
    found = sorted(found, key=lambda row: row.va_start)
    for lower, upper in pairwise(found):
        if lower.va_end > upper.va_start:
            raise ValidationError(
                structure, f"{state_name(lower.state)} {lower}", f"{state_name(upper.state)} {upper}, which overlaps it"
            )


# -- the table of rows, and everything together ----------------------------------------------------------------------


def rows_in(rows: AreaRows, *states: int) -> list[Row]:
    """All rows of the table that say they are in one of ``states``."""
    found = (Row(number, **rows.get(number)) for number in range(1, rows.used))
    return [row for row in found if row.state in states]


def validate_rows(rows: AreaRows, placed: list[Row]) -> None:
    """Checks that each row ever handed out is spare, or in exactly one structure, or in the hands of a running call.

    Args:
        rows: the table.
        placed: the rows that the structures hold.
    """
    name = "rows"
    spare: set[int] = set()
    for number in rows.spares():
        row = read(name, rows, number, "the list of spare rows")
        if number in spare:
            raise ValidationError(name, f"{row} on the list of spare rows", "an earlier place on it: a circle")
        if row.state != UNUSED:
            raise ValidationError(name, f"{row} on the list of spare rows", f"its state {state_name(row.state)}")
        spare.add(number)
    where: dict[int, Row] = {}
    for row in placed:
        if row.number in where:
            raise ValidationError(name, f"{row} in one structure", f"{where[row.number]} in another: the same row")
        where[row.number] = row
    for number in range(1, rows.used):
        row = Row(number, **rows.get(number))
        if (number in spare) + (number in where) + (row.state in (LOOSE, PURGING)) != 1:
            lost = "no structure and no list" if number not in spare and number not in where else "two places at once"
            raise ValidationError(name, f"{row}, {state_name(row.state)}", f"it being in {lost}")
    if rows.live != rows.used - 1 - len(spare):
        raise ValidationError(name, f"{rows.used - 1 - len(spare)} rows in use", f"live {rows.live}")


def validate_allocator(allocator: Allocator, address_max: int = ADDRESS_MAX) -> None:
    """Checks all structures, each row's single place, and that the ranges cover ``[1, address_max)`` exactly once.

    While a purge is under way (rows loose or purging) holes are what those rows hold, and only overlaps are reported.
    """
    name = "address space"
    validate_ordered_maps(allocator.nodes.maps)
    free = validate_free_tree(allocator.free)
    busy, lazy = validate_nodes(allocator.nodes)
    pooled = validate_pools(allocator.nodes.pools)
    placed = [*free, *busy, *lazy, *pooled]
    validate_rows(allocator.rows, placed)
    in_hand = rows_in(allocator.rows, LOOSE, PURGING)
    covered = sorted([*placed, *in_hand], key=lambda row: row.va_start)
    check_disjoint(name, covered)
    end, below = 1, "the lowest address, 0x1"
    for row in covered:
        if row.va_start != end:
            raise ValidationError(name, f"{row}, {state_name(row.state)}", f"{below}: nobody has what lies between")
        end, below = row.va_end, f"the range before, {row}"
    if end != address_max:
        raise ValidationError(name, below, f"the highest address {format_address(address_max)}")
