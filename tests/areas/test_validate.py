"""The validators: silent about healthy structures, and right about the culprit in every way to break one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vmalloc.areas import validate
from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.free_tree import FreeTree
from vmalloc.areas.ordered_map import OrderedMaps
from vmalloc.areas.rows import AreaRows
from vmalloc.areas.states import BUSY, FREE, LAZY, LOOSE, POOLED, PURGING, UNUSED
from vmalloc.areas.validate import (
    validate_allocator,
    validate_free_tree,
    validate_nodes,
    validate_ordered_maps,
    validate_pools,
    validate_rows,
)
from vmalloc.errors import ValidationError

pytestmark = pytest.mark.both_builds

P = 0x1000
START = 0x100000


def tree_of(count: int = 12) -> FreeTree:
    """A tree of ``count`` blocks of 1, 2, 3 ... pages, 32 pages apart."""
    tree = FreeTree(AreaRows(), P)
    for i in range(count):
        assert tree.add(START + i * 0x20 * P, START + i * 0x20 * P + (i + 1) * P)
    return tree


def number_at(tree: FreeTree, start: int) -> int:
    (found,) = [n for n in range(1, tree.rows.used) if tree.rows.get(n)["va_start"] == start]
    return found


def refused(check: Callable[..., Any], *args: Any) -> str:
    """The complaint of a validator that must complain."""
    with pytest.raises(ValidationError) as complaint:
        check(*args)
    assert str(complaint.value).startswith(f"{complaint.value.structure}: ")
    return str(complaint.value)


# -- the free tree ---------------------------------------------------------------------------------------------------


def test_a_healthy_tree_passes_and_is_returned_in_order() -> None:
    tree = tree_of()
    assert [(row.va_start, row.va_end) for row in validate_free_tree(tree)] == tree.blocks()
    assert validate_free_tree(FreeTree(AreaRows(), P)) == []


@pytest.mark.parametrize(
    ("block", "field", "value", "complaint"),
    [
        (3, "va_end", START + 4 * 0x20 * P, "adjacent to it"),
        (3, "va_end", START + 4 * 0x20 * P + 1, "not wholly below it"),
        (5, "va_start", START + 5 * 0x20 * P - 0x100 * P, "which comes next: not wholly below it"),
        (5, "va_end", START + 5 * 0x20 * P, "not above it"),
        (4, "state", BUSY, "its state busy"),
        (4, "state", LAZY, "its state lazy"),
        (4, "state", 77, "its state state 77"),
        (4, "left_max", 0x77000, "left_max 0x77000"),
        (4, "right_max", 0x1000, "right_max 0x1000"),
        (4, "parent", 99, "parent link #99"),
        (4, "left", 9999, "names row #9999"),
        (4, "right", 9999, "names row #9999"),
    ],
)
def test_a_broken_node_is_named(block: int, field: str, value: int, complaint: str) -> None:
    tree = tree_of()
    number = number_at(tree, START + block * 0x20 * P)
    tree.rows.poke(number, field, value)
    if field in ("va_end", "va_start"):  # keep the maxima right, so that the order is what is found
        mend_maxima(tree)
    message = refused(validate_free_tree, tree)
    assert message.startswith("free tree: ")
    assert complaint in message
    assert f"#{number}" in message


def mend_maxima(tree: FreeTree) -> None:
    def mend(number: int) -> int:
        if number == 0:
            return 0
        row = tree.rows.get(number)
        left, right = mend(row["left"]), mend(row["right"])
        tree.rows.poke(number, "left_max", left)
        tree.rows.poke(number, "right_max", right)
        return max(row["va_end"] - row["va_start"], left, right)

    mend(tree.root)


def test_a_red_root_is_found() -> None:
    tree = tree_of()
    tree.rows.poke(tree.root, "red", True)
    assert "being red" in refused(validate_free_tree, tree)


def test_a_red_child_of_a_red_node_is_found() -> None:
    tree = tree_of(4)  # black root, two black children, one red leaf on the right
    leaf = number_at(tree, START + 3 * 0x20 * P)
    assert tree.rows.get(leaf)["red"]
    parent = tree.rows.get(leaf)["parent"]
    left = tree.rows.get(tree.root)["left"]
    for number in (parent, left):  # both children red: black heights stay equal
        tree.rows.poke(number, "red", True)
    message = refused(validate_free_tree, tree)
    assert f"red #{leaf} " in message
    assert f"its red parent #{parent} " in message


def test_unequal_black_heights_are_found() -> None:
    tree = tree_of(4)
    leaf = number_at(tree, START + 3 * 0x20 * P)
    parent = tree.rows.get(leaf)["parent"]
    tree.rows.poke(leaf, "red", False)
    message = refused(validate_free_tree, tree)
    assert "0 black nodes on the left of" in message
    assert "1 black nodes on its right" in message
    assert f"#{parent} " in message


def test_a_circle_is_found_and_not_followed() -> None:
    tree = tree_of()
    lowest = number_at(tree, START)
    tree.rows.poke(lowest, "left", tree.root)
    message = refused(validate_free_tree, tree)
    assert f"#{tree.root} " in message
    assert f"below #{lowest} contradicts an earlier place of it: a circle or two parents" in message


def test_a_node_below_two_sides_is_found() -> None:
    tree = tree_of()
    inner = tree.rows.get(tree.root)
    tree.rows.poke(tree.root, "left", inner["right"])
    assert "a circle or two parents" in refused(validate_free_tree, tree)


def test_a_dropped_subtree_is_found() -> None:
    tree = tree_of(4)
    leaf = number_at(tree, START + 3 * 0x20 * P)
    tree.rows.poke(tree.rows.get(leaf)["parent"], "right", 0)
    mend_maxima(tree)
    assert refused(validate_free_tree, tree) == "free tree: 3 blocks contradicts the count 4"


@pytest.mark.parametrize(("field", "value"), [("red", True), ("left_max", P)])
def test_a_broken_leaf_row_is_found(field: str, value: int) -> None:
    tree = tree_of()
    tree.rows.poke(0, field, value)
    assert "the leaf, row #0" in refused(validate_free_tree, tree)


# -- ordered maps ----------------------------------------------------------------------------------------------------


def maps_of(count: int = 400) -> OrderedMaps:
    """Two maps, the first of several runs; some runs are spare."""
    maps = OrderedMaps(2)
    for i in range(count):
        maps.put(0, i * 16, i + 1)
        maps.put(1, i * 16 + 8, i + 1)
    for i in range(count // 2):
        maps.pop(1, i * 16 + 8)
    assert len(maps.blocks(0)) > 2
    assert maps.spares()
    return maps


def test_healthy_maps_pass() -> None:
    validate_ordered_maps(maps_of())
    validate_ordered_maps(OrderedMaps(3))


@pytest.mark.parametrize(
    ("run", "position", "field", "value", "complaint"),
    [
        (1, 3, "key", 1, "key 0x1 in run 1 of map 0 contradicts its index entry"),
        (0, 3, "key", 16, "key 0x10 in run 0 of map 0 contradicts the key 0x20 before it"),
        (0, 3, "key", 15, "key 0xf in run 0 of map 0 contradicts the key 0x20 before it"),
        (0, 3, "value", 0, "value 0 of key 0x30"),
        (0, 0, "first", 16, "index entry 0x10 of run 0 of map 0 contradicts 0"),
        (1, 0, "first", 32, "index entry 0x20 of run 1 of map 0"),
        (2, 0, "first", 1 << 40, "its index entry 0x10000000000"),
        (0, 0, "count", 0, "0 keys in run 0 of map 0"),
        (0, 0, "count", 129, "129 keys in run 0 of map 0"),
        (0, 0, "count", 5, "keys in map 0 contradicts its count 400"),
        (0, 0, "total", 3, "400 keys in map 0 contradicts its count 3"),
    ],
)
def test_a_broken_map_is_described(run: int, position: int, field: str, value: int, complaint: str) -> None:
    maps = maps_of()
    maps.poke(0, run, position, field, value)
    message = refused(validate_ordered_maps, maps)
    assert message.startswith("ordered maps: ")
    assert complaint in message


def test_a_spare_run_that_is_in_use_is_found() -> None:
    maps = maps_of()
    spare, used = maps.spares()[0], maps.blocks(0)[1][0]
    maps.poke(0, spare, 0, "next_spare", used)
    assert f"the list of spare runs having number {used} contradicts run 1 of map 0" in refused(
        validate_ordered_maps, maps
    )


def test_a_circle_of_spare_runs_is_found() -> None:
    maps = maps_of()
    spare = maps.spares()[0]
    maps.poke(0, spare, 0, "next_spare", spare)
    assert "the list of spare runs" in refused(validate_ordered_maps, maps)


def test_a_spare_run_out_of_the_pool_is_found() -> None:
    maps = maps_of()
    maps.poke(0, maps.spares()[0], 0, "next_spare", 5000)
    assert "naming number 5000" in refused(validate_ordered_maps, maps)


def test_a_lost_run_is_found() -> None:
    maps = maps_of()
    for k in range(maps.length(1)):
        maps.pop(1, 16 * (200 + k) + 8)
    spares = maps.spares()
    assert len(spares) > 1
    maps.poke(0, spares[0], 0, "next_spare", 0x7FFFFFFF)
    assert "runs ever handed out" in refused(validate_ordered_maps, maps)


def test_poking_at_an_unknown_field_is_refused() -> None:
    for structure, args in ((maps_of(), (0, 0, 0)), (AreaRows(), (0,))):
        with pytest.raises(KeyError):
            structure.poke(*args, "colour", 1)
    with pytest.raises(KeyError):
        space().allocator.nodes.pools.poke(0, 1, "colour", 1)


# -- an allocator with rows in every state ----------------------------------------------------------------------------


def space() -> AddressSpace:
    """Four nodes; busy, lazy, pooled and free ranges, and spare rows."""
    space = AddressSpace(START, START + 0x400 * P, cpus=4)
    areas = [space.alloc(2 * P, cpu=i % 4) for i in range(40)]
    for address in areas[:24:2]:
        space.free(address)
    space.purge()  # pooled
    for address in areas[24:34]:
        space.free(address)  # lazy
    space.free_now(areas[35])
    space.free_now(areas[36])
    space.free_now(areas[37])
    space.validate()
    assert space.pooled()
    assert space.lazy()
    assert space.allocator.rows.spares()
    return space


def row_in(space: AddressSpace, state: int, which: int = 0) -> int:
    rows = space.allocator.rows
    return [n for n in range(1, rows.used) if rows.get(n)["state"] == state][which]


def broken(space: AddressSpace, number: int, field: str, value: int) -> AddressSpace:
    space.allocator.rows.poke(number, field, value)
    return space


# -- pools -----------------------------------------------------------------------------------------------------------


def pool_of(space: AddressSpace) -> tuple[Any, int, list[int]]:
    """The pools, a node, and its entries for two pages."""
    pools = space.allocator.nodes.pools
    node = next(n for n in range(4) if len(pools.entries(n, 2)) > 2)
    return pools, node, pools.entries(node, 2)


def test_healthy_pools_pass() -> None:
    assert len(validate_pools(space().allocator.nodes.pools)) == 12


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("length", 77, "its length 77"),
        ("length", 0, "its length 0"),
        ("tail", 1, "its tail #1"),
        ("head", 0, "0 entries"),
    ],
)
def test_a_broken_pool_is_described(field: str, value: int, complaint: str) -> None:
    pools, node, _entries = pool_of(space())
    pools.poke(node, 2, field, value)
    message = refused(validate_pools, pools)
    assert f"pool of node {node} for 2 pages" in message
    assert complaint in message


def test_a_pool_whose_head_is_out_of_the_table_is_found() -> None:
    pools, node, _entries = pool_of(space())
    pools.poke(node, 2, "head", 100_000)
    assert "names row #100000" in refused(validate_pools, pools)


def test_a_pool_that_runs_in_a_circle_is_found() -> None:
    pools, _node, entries = pool_of(space())
    pools.rows.poke(entries[-1], "list_next", entries[0])
    assert "which it is in already" in refused(validate_pools, pools)


@pytest.mark.parametrize("state", [FREE, BUSY, LAZY, UNUSED, LOOSE])
def test_a_pooled_row_in_another_state_is_found(state: int) -> None:
    pools, _node, entries = pool_of(space())
    pools.rows.poke(entries[1], "state", state)
    assert f"#{entries[1]} " in refused(validate_pools, pools)


def test_a_pooled_row_of_another_size_is_found() -> None:
    pools, node, entries = pool_of(space())
    pools.rows.poke(entries[1], "va_end", pools.rows.get(entries[1])["va_start"] + 3 * P)
    message = refused(validate_pools, pools)
    assert f"size 0x3000 of #{entries[1]} " in message
    assert f"the pool of node {node} for 2 pages" in message


def test_a_row_in_two_pools_is_found() -> None:
    pools, node, entries = pool_of(space())
    other = (node + 1) % 4
    for field, value in (("head", entries[0]), ("tail", entries[-1]), ("length", len(entries))):
        pools.poke(other, 2, field, value)
    message = refused(validate_pools, pools)
    assert f"#{entries[0]} " in message
    assert f"the pool of node {min(node, other)} for 2 pages, which it is in already" in message


# -- nodes -----------------------------------------------------------------------------------------------------------


def test_healthy_nodes_pass() -> None:
    busy, lazy = validate_nodes(space().allocator.nodes)
    assert (len(busy), len(lazy)) == (15, 10)


@pytest.mark.parametrize(
    ("state", "field", "value", "complaint"),
    [
        (BUSY, "state", LAZY, "its state lazy"),
        (BUSY, "state", LOOSE, "its state loose"),
        (LAZY, "state", BUSY, "its state busy"),
        (LAZY, "state", POOLED, "its state pooled"),
        (BUSY, "va_start", START + 0x300 * P, "its end"),
        (BUSY, "va_end", START, "its end"),
        (LAZY, "flags", 0x100, "its own node, 0"),
        (LAZY, "va_end", START + 0x3FF * P, "overlaps"),
    ],
)
def test_a_row_in_the_wrong_place_is_found(state: int, field: str, value: int, complaint: str) -> None:
    x = space()
    number = row_in(x, state, 1)
    message = refused(validate_nodes, broken(x, number, field, value).allocator.nodes)
    assert message.startswith("vmap nodes: ")
    assert f"#{number} " in message
    assert complaint in message


def test_a_busy_row_in_the_node_of_another_address_is_found() -> None:
    nodes = space().allocator.nodes
    number = nodes.busy(0)[0]
    start = nodes.rows.get(number)["va_start"]
    nodes.maps.pop(0, start)
    nodes.maps.put(1, start, number)
    message = refused(validate_nodes, nodes)
    assert f"#{number} " in message
    assert "in the busy set of node 1 contradicts its own node, 0" in message


def test_a_key_that_is_not_the_start_of_its_row_is_found() -> None:
    nodes = space().allocator.nodes
    number = nodes.busy(0)[0]
    nodes.maps.pop(0, nodes.rows.get(number)["va_start"])
    nodes.maps.put(0, START - P, number)
    assert f"key {START - P:#x} in the busy set of node 0" in refused(validate_nodes, nodes)


def test_a_map_value_that_is_no_row_is_found() -> None:
    nodes = space().allocator.nodes
    nodes.maps.put(0, START - P, 4242)
    assert "busy set of node 0 names row #4242" in refused(validate_nodes, nodes)


def test_a_lost_lazy_area_is_found_by_the_counter() -> None:
    nodes = space().allocator.nodes
    node = next(n for n in range(4) if nodes.lazy(n))
    nodes.maps.pop(4 + node, nodes.rows.get(nodes.lazy(node)[0])["va_start"])
    assert refused(validate_nodes, nodes) == "vmap nodes: 9 lazy areas contradicts lazy_areas 10"


def test_a_lazy_area_that_shrank_is_found_by_the_page_counter() -> None:
    x = space()
    number = row_in(x, LAZY)
    broken(x, number, "va_end", x.allocator.rows.get(number)["va_start"] + P)
    assert refused(validate_nodes, x.allocator.nodes) == "vmap nodes: 19 pages in lazy areas contradicts nr_lazy 20"


# -- rows, and everything together ------------------------------------------------------------------------------------


def placed_rows(x: AddressSpace) -> list[Any]:
    busy, lazy = validate_nodes(x.allocator.nodes)
    return [*validate_free_tree(x.allocator.free), *busy, *lazy, *validate_pools(x.allocator.nodes.pools)]


def test_healthy_rows_pass() -> None:
    x = space()
    validate_rows(x.allocator.rows, placed_rows(x))
    validate_rows(AreaRows(), [])


def test_a_row_in_two_structures_is_found() -> None:
    x = space()
    placed = placed_rows(x)
    assert f"{placed[0]} in one structure" in refused(validate_rows, x.allocator.rows, [*placed, placed[0]])


def test_a_row_in_no_structure_is_found() -> None:
    x = space()
    placed = placed_rows(x)
    lost = placed.pop()
    message = refused(validate_rows, x.allocator.rows, placed)
    assert f"{lost}, pooled contradicts it being in no structure and no list" in message


@pytest.mark.parametrize("state", [FREE, BUSY, POOLED, LOOSE, PURGING])
def test_a_spare_row_in_use_is_found(state: int) -> None:
    x = space()
    placed = placed_rows(x)
    spare = x.allocator.rows.spares()[0]
    x.allocator.rows.poke(spare, "state", state)
    message = refused(validate_rows, x.allocator.rows, placed)
    assert f"#{spare} " in message
    assert "on the list of spare rows" in message


def test_a_spare_list_in_a_circle_or_out_of_the_table_is_found() -> None:
    x = space()
    placed = placed_rows(x)
    spare = x.allocator.rows.spares()[0]
    x.allocator.rows.poke(spare, "list_next", spare)
    assert "a circle" in refused(validate_rows, x.allocator.rows, placed)
    x.allocator.rows.poke(spare, "list_next", 100_000)
    assert "names row #100000" in refused(validate_rows, x.allocator.rows, placed)


def test_a_spare_row_that_is_placed_too_is_found() -> None:
    x = space()
    placed = placed_rows(x)
    rows = x.allocator.rows
    rows.poke(rows.spares()[-1], "list_next", placed[0].number)
    rows.poke(placed[0].number, "state", UNUSED)
    assert "two places at once" in refused(validate_rows, rows, placed)


def test_a_wrong_number_of_rows_in_use_is_found() -> None:
    x = space()
    rows = x.allocator.rows
    placed = placed_rows(x)
    cut = rows.spares()
    assert len(cut) > 1
    rows.poke(cut[0], "list_next", 0)
    rows.poke(cut[1], "state", LOOSE)  # else the row that fell off the list would be found first
    for number in cut[2:]:
        rows.poke(number, "state", LOOSE)
    assert "rows in use contradicts live" in refused(validate_rows, rows, placed)


def test_a_healthy_allocator_passes() -> None:
    validate_allocator(space().allocator)


def test_a_hole_between_ranges_is_found() -> None:
    x = space()
    number = x.allocator.nodes.busy(0)[0]
    fields = x.allocator.rows.get(number)
    broken(x, number, "va_end", fields["va_end"] - P)
    message = refused(validate_allocator, x.allocator)
    assert message.startswith("address space: ")
    assert "nobody has what lies between" in message
    assert f"#{number} " in message


def test_a_missing_top_or_bottom_is_found() -> None:
    x = AddressSpace(START, START + 0x400 * P, word_bits=32)
    with pytest.raises(ValidationError, match="the highest address"):
        validate_allocator(x.allocator)
    validate_allocator(x.allocator, (1 << 32) - 1)
    y = AddressSpace(START, START + 0x400 * P)
    y.allocator.free.remove(1, P)
    assert "the lowest address, 0x1" in refused(validate_allocator, y.allocator)


def test_ranges_of_two_structures_that_overlap_are_found() -> None:
    x = space()
    number = x.allocator.nodes.busy(0)[0]
    fields = x.allocator.rows.get(number)
    broken(x, number, "va_end", fields["va_end"] + P)
    message = refused(validate_allocator, x.allocator)
    assert "which overlaps it" in message
    assert f"#{number} " in message


def test_each_structure_is_part_of_the_whole_check() -> None:
    names = {"free tree", "ordered maps", "vmap nodes", "pools", "rows", "address space"}
    found = set()
    for state in (FREE, BUSY, LAZY, POOLED, UNUSED):
        x = space()
        with pytest.raises(ValidationError) as complaint:
            broken(x, row_in(x, state), "state", 9).validate()
        found.add(complaint.value.structure)
    assert found < names
    assert len(found) == 4


def test_every_validator_is_public() -> None:
    assert {name for name in dir(validate) if name.startswith("validate_")} == set(validate.__all__)
