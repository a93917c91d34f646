"""Slow twins: the same behaviour, written a second time in the plainest way, from the specification alone.

``TextbookTree`` is the red-black tree of Appendix B with node objects, a sentinel and Cormen's procedures; it stores no
maxima but looks through the subtree each time.  ``Oracle`` is an address space of lists and dictionaries over it: for
alignments up to a page it takes the lowest block that fits, found by a scan; only larger ones walk the tree.

``shape_of`` and ``Oracle.shape`` give both trees in one form, ``(start, end, red, maximum, left, right)`` or None, so
that shape, colours and maxima are compared by ``==``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from vmalloc.kernels import KernelProfile, lazy_max_pages

TOP = (1 << 64) - 1
WORD = 1 << 64
ENOENT, ERANGE = WORD - 2, WORD - 34
PAGE = 0x1000
POOL_PAGES = 256

Shape = tuple[int, int, bool, int, Any, Any] | None


# -- the tree --------------------------------------------------------------------------------------------------------


class Node:
    """A block of the textbook tree."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.red = False
        self.parent: Any = None
        self.left: Any = None
        self.right: Any = None


class TextbookTree:
    """Cormen, Leiserson, Rivest, Stein: red-black trees, with the choices of Appendix B."""

    def __init__(self) -> None:
        self.nil = Node(0, 0)
        self.root = self.nil

    def __iter__(self) -> Iterator[Node]:
        def walk(x: Node) -> Iterator[Node]:
            if x is not self.nil:
                yield from walk(x.left)
                yield x
                yield from walk(x.right)

        return walk(self.root)

    def maximum(self, x: Node) -> int:
        """The largest block at and below ``x``, by looking at all of them."""
        if x is self.nil:
            return 0
        return max(x.end - x.start, self.maximum(x.left), self.maximum(x.right))

    def insert(self, z: Node) -> None:
        y, x = self.nil, self.root
        while x is not self.nil:
            y = x
            x = x.left if z.start < x.start else x.right
        z.parent, z.left, z.right, z.red = y, self.nil, self.nil, True
        if y is self.nil:
            self.root = z
        elif z.start < y.start:
            y.left = z
        else:
            y.right = z
        while z.parent.red:
            side, other = ("left", "right") if z.parent is z.parent.parent.left else ("right", "left")
            uncle = getattr(z.parent.parent, other)
            if uncle.red:
                z.parent.red = uncle.red = False
                z.parent.parent.red = True
                z = z.parent.parent
                continue
            if z is getattr(z.parent, other):
                z = z.parent
                self.rotate(z, side)
            z.parent.red = False
            z.parent.parent.red = True
            self.rotate(z.parent.parent, other)
        self.root.red = False

    def rotate(self, x: Node, side: str) -> None:
        """Lowers ``x`` to ``side``; its child on the other side takes its place."""
        other = "right" if side == "left" else "left"
        y = getattr(x, other)
        setattr(x, other, getattr(y, side))
        if getattr(y, side) is not self.nil:
            getattr(y, side).parent = x
        self.transplant(x, y)
        setattr(y, side, x)
        x.parent = y

    def transplant(self, u: Node, v: Node) -> None:
        if u.parent is self.nil:
            self.root = v
        elif u is u.parent.left:
            u.parent.left = v
        else:
            u.parent.right = v
        v.parent = u.parent

    def delete(self, z: Node) -> None:
        lost_black = not z.red
        if z.left is self.nil:
            x = z.right
            self.transplant(z, z.right)
        elif z.right is self.nil:
            x = z.left
            self.transplant(z, z.left)
        else:
            y = z.right
            while y.left is not self.nil:
                y = y.left
            lost_black = not y.red
            x = y.right
            if y.parent is z:
                x.parent = y
            else:
                self.transplant(y, y.right)
                y.right = z.right
                y.right.parent = y
            self.transplant(z, y)
            y.left = z.left
            y.left.parent = y
            y.red = z.red
        if lost_black:
            self.fix_delete(x)

    def fix_delete(self, x: Node) -> None:
        while x is not self.root and not x.red:
            side, other = ("left", "right") if x is x.parent.left else ("right", "left")
            sibling = getattr(x.parent, other)
            if sibling.red:
                sibling.red, x.parent.red = False, True
                self.rotate(x.parent, side)
                sibling = getattr(x.parent, other)
            if not sibling.left.red and not sibling.right.red:
                sibling.red = True
                x = x.parent
                continue
            if not getattr(sibling, other).red:
                getattr(sibling, side).red = False
                sibling.red = True
                self.rotate(sibling, other)
                sibling = getattr(x.parent, other)
            sibling.red = x.parent.red
            x.parent.red = False
            getattr(sibling, other).red = False
            self.rotate(x.parent, side)
            x = self.root
        x.red = False

    # The free set (sections 1.7 to 1.9).

    def search(self, size: int, align: int, vstart: int, widened: bool) -> Node | None:
        """``find_vmap_lowest_match``, literally."""
        want = size + align - 1 if widened else size
        vs, n = vstart, self.root
        while n is not self.nil:
            if self.maximum(n.left) >= want and vs < n.start:
                n = n.left
            elif fits(n, size, align, vs):
                return n
            elif self.maximum(n.right) >= want:
                n = n.right
            else:
                n = n.parent
                while n is not self.nil:
                    if fits(n, size, align, vs):
                        return n
                    if self.maximum(n.right) >= want and vs <= n.start:
                        vs, n = n.start + 1, n.right
                        break
                    n = n.parent
        return None

    def clip(self, block: Node, start: int, end: int) -> None:
        if block.start == start and block.end == end:
            self.delete(block)
        elif block.start == start:
            block.start = end
        elif block.end == end:
            block.end = start
        else:
            left = Node(block.start, start)
            block.start = end
            self.insert(left)

    def give(self, start: int, end: int) -> None:
        before = next((n for n in self if n.end == start), None)
        after = next((n for n in self if n.start == end), None)
        if before and after:
            self.delete(after)
            before.end = after.end
        elif before:
            before.end = end
        elif after:
            after.start = start
        else:
            self.insert(Node(start, end))

    def shape(self) -> Shape:
        def picture(x: Node) -> Shape:
            if x is self.nil:
                return None
            return (x.start, x.end, x.red, self.maximum(x), picture(x.left), picture(x.right))

        return picture(self.root)


def aligned(block: Node, align: int, vstart: int) -> int:
    """The kernel's candidate in a block: rounding up may wrap to 0."""
    return (max(block.start, vstart) + align - 1) % WORD & ~(align - 1)


def fits(block: Node, size: int, align: int, vstart: int) -> bool:
    a = aligned(block, align, vstart)
    return a >= vstart and a + size < WORD and a + size <= block.end


def lowest_fit(blocks: Iterator[Node], size: int, align: int, vstart: int) -> Node | None:
    """The linear scan that an exact search must agree with."""
    return next((block for block in blocks if fits(block, size, align, vstart)), None)


# -- the address space -----------------------------------------------------------------------------------------------


@dataclass
class Area:
    start: int
    end: int
    flags: int = 0

    @property
    def pages(self) -> int:
        return (self.end - self.start) // PAGE


@dataclass
class Oracle:
    """One address space of 64-bit words and 4 KiB pages, with no thought of speed."""

    kernel: KernelProfile
    vmalloc_start: int
    vmalloc_end: int
    cpus: int = 1
    tree: TextbookTree = field(default_factory=TextbookTree)
    busy: dict[int, Area] = field(default_factory=dict)
    lazy: list[Area] = field(default_factory=list)
    pools: dict[tuple[int, int], list[Area]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nr_nodes = min(self.cpus, 128) if self.kernel.has_nodes else 1
        self.tree.insert(Node(1, TOP))

    def shape(self) -> Shape:
        return self.tree.shape()

    def node_of(self, address: int) -> int:
        return address // (16 * PAGE) % self.nr_nodes if self.nr_nodes > 1 else 0

    def home(self, area: Area) -> int:
        return (area.flags >> 8) - 1 if area.flags >> 8 else self.node_of(area.start)

    def nr_lazy(self) -> int:
        return sum(area.pages for area in self.lazy)

    def above_threshold(self) -> bool:
        return self.nr_lazy() > lazy_max_pages(self.cpus)

    def attempt(self, size: int, align: int, vstart: int, vend: int, cpu: int, flags: int, try_pool: bool) -> int:
        """One attempt: the address, ``ENOENT`` or ``ERANGE``."""
        if self.nr_nodes > 1 and (vstart, vend) == (self.vmalloc_start, self.vmalloc_end):
            node = cpu % self.nr_nodes
            flags |= node + 1 << 8
            pool = self.pools.get((node, size // PAGE), [])
            if pool and try_pool:
                area = pool.pop(0)
                if area.start % align == 0:
                    self.busy[area.start] = replace(area, flags=flags)
                    return area.start
                pool.append(area)
        if align <= PAGE:
            block = lowest_fit(iter(self.tree), size, align, vstart)
        else:
            block = self.tree.search(size, align, vstart, vend - vstart != size)
        if block is None:
            return ENOENT
        start = aligned(block, align, vstart)
        if start + size > vend:
            return ERANGE
        self.tree.clip(block, start, start + size)
        self.busy[start] = Area(start, start + size, flags)
        return start

    def alloc(self, size: int, align: int, vstart: int, vend: int, cpu: int, flags: int) -> int | None:
        """An allocation with a full purge and one more attempt; None when that fails too."""
        for try_pool in (True, False):
            start = self.attempt(size, align, vstart, vend, cpu, flags, try_pool)
            if start not in (ENOENT, ERANGE):
                return start
            if try_pool:
                self.purge(full=True)
        return None

    def find(self, address: int) -> Area | None:
        return next((a for a in self.busy.values() if a.start <= address < a.end), None)

    def free(self, address: int) -> None:
        area = self.find(address)
        assert area is not None
        del self.busy[area.start]
        self.lazy.append(area)
        self.lazy.sort(key=lambda a: a.start)
        if self.kernel.merges_lazy:
            merged: list[Area] = []
            for each in self.lazy:
                if merged and merged[-1].end == each.start:
                    merged[-1] = replace(merged[-1], end=each.end)
                else:
                    merged.append(each)
            self.lazy = merged

    def free_now(self, address: int) -> None:
        area = self.find(address)
        assert area is not None
        del self.busy[area.start]
        self.tree.give(area.start, area.end)

    def reserve(self, start: int, end: int, flags: int) -> bool:
        block = next((b for b in self.tree if b.start <= start and end <= b.end), None)
        if block is None:
            return False
        self.tree.clip(block, start, end)
        self.busy[start] = Area(start, end, flags)
        return True

    def purge(self, full: bool = False, start: int = TOP, end: int = 0) -> tuple[int, int, int]:
        """Section 4.9: decay, take the lazy areas, fill pools ascending, return the rest; the hull and the count."""
        taken: dict[int, list[Area]] = {}
        for node in range(self.nr_nodes):
            self.decay(node, full)
            taken[node] = [a for a in self.lazy if self.home(a) == node]
        start = min([start, *(a.start for a in self.lazy)])
        end = max([end, *(a.end for a in self.lazy)])
        count, self.lazy = len(self.lazy), []
        for node, areas in taken.items():
            back = []
            for area in areas:
                if area.flags >> 8 and not full and area.pages <= POOL_PAGES:
                    self.pools.setdefault((node, area.pages), []).insert(0, area)
                else:
                    back.append(area)
            for area in back if self.kernel.returns_ascending else reversed(back):
                self.tree.give(area.start, area.end)
        return start, end, count

    def decay(self, node: int, full: bool) -> None:
        gone: list[Area] = []
        for pages in range(1, POOL_PAGES + 1):
            pool = self.pools.get((node, pages), [])
            count = len(pool) if full else len(pool) // 4
            if count == 0 and self.kernel.small_pools_drain:
                count = len(pool)
            gone += pool[:count]
            del pool[:count]
        merged: list[tuple[int, int]] = []
        for area in sorted(gone, key=lambda a: a.start):
            if merged and merged[-1][1] == area.start:
                merged[-1] = (merged[-1][0], area.end)
            else:
                merged.append((area.start, area.end))
        for start, end in merged:
            self.tree.give(start, end)

    def shrink(self) -> None:
        for node in range(self.nr_nodes):
            self.decay(node, True)

    def highest_base(self, offsets: list[int], sizes: list[int], align: int) -> int | None:
        """The highest base at which all groups are free, by trying every one from the top (section 7.1)."""
        low = -(-self.vmalloc_start // align) * align
        span = max(o + s for o, s in zip(offsets, sizes, strict=True))
        base = (self.vmalloc_end // align * align - span) // align * align
        blocks = [(b.start, b.end) for b in self.tree]
        while base >= low:
            ranges = [(base + o, base + o + s) for o, s in zip(offsets, sizes, strict=True)]
            if all(any(b <= start and end <= e for b, e in blocks) for start, end in ranges):
                return base
            base -= align
        return None

    def pcpu(self, offsets: list[int], sizes: list[int], align: int) -> list[int] | None:
        base = self.highest_base(offsets, sizes, align)
        if base is None:
            self.purge(full=True)
            base = self.highest_base(offsets, sizes, align)
        if base is None:
            return None
        for offset, size in zip(offsets, sizes, strict=True):
            assert self.reserve(base + offset, base + offset + size, 0)
        return [base + offset for offset in offsets]


# -- pictures of the real one -----------------------------------------------------------------------------------------


def shape_of(tree: Any) -> Shape:
    """The real free tree in the form of ``Oracle.shape``."""

    def picture(number: int) -> Shape:
        if number == 0:
            return None
        row = tree.rows.get(number)
        return (
            row["va_start"],
            row["va_end"],
            row["red"],
            row["subtree_max_size"],
            picture(row["left"]),
            picture(row["right"]),
        )

    return picture(tree.root)


def draw(shape: Shape) -> str:
    """A tree in the notation of Appendix A: ``B[0x103000,END) {R[0x1,0x100000) ; -}``."""
    if shape is None:
        return "-"
    start, end, red, _maximum, left, right = shape
    text = f"{'R' if red else 'B'}[{start:#x},{'END' if end == TOP else hex(end)})"
    return text if left is right is None else f"{text} {{{draw(left)} ; {draw(right)}}}"


def state_of(space: Any) -> dict[str, Any]:
    """Everything observable of an ``AddressSpace``, in the words of ``state_expected``."""
    return {
        "free": shape_of(space.allocator.free),
        "busy": sorted((a.start, a.end, a.flags) for a in space.busy()),
        "lazy": [(a.node, a.start, a.end) for a in space.lazy()],
        "pooled": [(a.node, a.start, a.end) for a in space.pooled()],
        "nr_lazy": space.nr_lazy,
    }


def state_expected(oracle: Oracle) -> dict[str, Any]:
    return {
        "free": oracle.shape(),
        "busy": sorted((a.start, a.end, a.flags) for a in oracle.busy.values()),
        "lazy": sorted((oracle.home(a), a.start, a.end) for a in oracle.lazy),
        "pooled": [(node, a.start, a.end) for (node, _pages), pool in sorted(oracle.pools.items()) for a in pool],
        "nr_lazy": oracle.nr_lazy(),
    }
