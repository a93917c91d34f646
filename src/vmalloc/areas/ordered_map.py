"""Ordered maps from an address to a row number: the busy and the lazy sets of every node.

Idea: only the *free* tree's shape is visible in addresses (Appendix B); busy and lazy sets are ordered maps, and any
implementation serves.  Linux uses red-black trees there too, because its records carry the links anyway.  At a million
areas such a tree costs twenty dependent cache misses per look-up.  Here a map is a list of sorted runs of at most 128
keys: a binary search over the runs' lowest keys (one per run, in one array), one inside the run, and a short move.  All
maps of an allocator share one pool of runs.

Shape: ``map[m].first`` and ``map[m].block`` list the runs of map ``m`` in ascending order; run ``b`` has
``block[b].count`` keys and values.

Invariants (``validate.validate_ordered_maps``): keys ascend strictly within and across runs; ``first[i]`` is at most
the lowest key of run ``i`` and above every key of run ``i - 1``; no run is empty except the only run of an empty map,
which has none; ``count`` is the sum over the runs.  A run that falls under a quarter joins its neighbour when both
fit in half a run, so the memory stays within a constant of what is used.

Values are row numbers and never 0, so that 0 can say "none".
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free, realloc
    from cython.cimports.libc.string import memmove
else:
    from vmalloc.areas.plain import Block, Map, extend

    BLOCK_CAPACITY = 128
    NO_BLOCK = 0x7FFFFFFF
    LARGE_MAP = 64

__all__ = ["OrderedMaps"]


class OrderedMaps:
    """``nr_maps`` ordered maps over one pool of runs."""

    def __cinit__(self, nr_maps):
        if not cython.compiled:
            self.map = []
            self.block = []
        self.nr_maps = 0
        self.block_capacity = 0
        self.blocks_used = 0
        self.spare = NO_BLOCK
        if self.add_maps(nr_maps) != 0:
            raise MemoryError(f"no memory for {nr_maps} ordered maps")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            for m in range(self.nr_maps):
                free(self.map[m].first)
                free(self.map[m].block)
            free(self.map)
            vmalloc_table_free(self.block, self.block_capacity * cython.sizeof(ordered_block))

    def add_maps(self, nr_maps):
        """Creates the maps; called once. Returns 0, or -1 when memory is exhausted."""
        if cython.compiled:
            fresh = cython.cast(cython.pointer(ordered_map), calloc(nr_maps, cython.sizeof(ordered_map)))
            if fresh == cython.NULL:
                return -1
            self.map = fresh
        else:
            extend(self.map, nr_maps, Map)
        self.nr_maps = nr_maps
        return 0

    def take_block(self):
        """An empty run; ``NO_BLOCK`` when memory is exhausted."""
        n = self.spare
        if n != NO_BLOCK:
            self.spare = self.block[n].next_spare
            self.block[n].count = 0
            return n
        if self.blocks_used == self.block_capacity:
            wanted = self.block_capacity + (self.block_capacity >> 2) + 4
            if cython.compiled:
                grown = cython.cast(
                    "ordered_block*",
                    vmalloc_table_resize(
                        self.block,
                        self.block_capacity * cython.sizeof(ordered_block),
                        wanted * cython.sizeof(ordered_block),
                        self.blocks_used * cython.sizeof(ordered_block),
                    ),
                )
                if grown == cython.NULL:
                    return NO_BLOCK
                self.block = grown
            else:
                extend(self.block, wanted, Block, BLOCK_CAPACITY)
            self.block_capacity = wanted
        n = self.blocks_used
        self.blocks_used += 1
        self.block[n].count = 0
        return n

    def widen(self, m):
        """Makes room for one more run in map ``m``; 0, or -1 when memory is exhausted."""
        if self.map[m].nr_blocks < self.map[m].capacity:
            return 0
        wanted = self.map[m].capacity * 2 + 4
        if cython.compiled:
            first = cython.cast("uint64_t*", realloc(self.map[m].first, wanted * cython.sizeof(cython.ulonglong)))
            if first == cython.NULL:
                return -1
            self.map[m].first = first
            numbers = cython.cast(cython.p_uint, realloc(self.map[m].block, wanted * cython.sizeof(cython.uint)))
            if numbers == cython.NULL:
                return -1
            self.map[m].block = numbers
        else:
            self.map[m].first.extend([0] * (wanted - len(self.map[m].first)))
            self.map[m].block.extend([0] * (wanted - len(self.map[m].block)))
        self.map[m].capacity = wanted
        return 0

    def find_block(self, m, key):
        """Index (in map ``m``) of the run that holds ``key`` or would; the map has at least one run."""
        first = self.map[m].first
        low = 0
        length = self.map[m].nr_blocks
        # Halving by arithmetic, not by branches: which way it goes cannot be predicted.
        while length > 1:
            half = length >> 1
            low = low + half if first[low + half] <= key else low
            length -= half
        if cython.compiled and self.map[m].nr_blocks > LARGE_MAP:
            # The whole run at once: one wait for all of its cache lines instead of one per halving.
            keys = self.block[self.map[m].block[low]].keys
            for half in range(0, BLOCK_CAPACITY, 8):
                vmalloc_prefetch(cython.address(keys[half]))
        return low

    def lower_bound(self, b, key):
        """Position of the first key of run ``b`` that is not below ``key``."""
        keys = self.block[b].keys
        low = 0
        length = self.block[b].count
        while length > 0:
            half = (length + 1) >> 1
            low = low + half if keys[low + half - 1] < key else low
            length -= half
        return low

    def shift(self, b, source, target, count):
        """Moves ``count`` entries of run ``b`` from position ``source`` to ``target``; they may overlap."""
        if cython.compiled:
            memmove(
                cython.address(self.block[b].keys[target]),
                cython.address(self.block[b].keys[source]),
                count * cython.sizeof(cython.ulonglong),
            )
            memmove(
                cython.address(self.block[b].values[target]),
                cython.address(self.block[b].values[source]),
                count * cython.sizeof(cython.uint),
            )
        else:
            keys, values = self.block[b].keys, self.block[b].values
            keys[target : target + count] = keys[source : source + count]
            values[target : target + count] = values[source : source + count]

    def insert(self, m, key, value):
        """Adds ``key``; 0, 1 when the key is there already (nothing changed), -1 when memory is exhausted."""
        if self.map[m].nr_blocks == 0:
            if self.widen(m) != 0:
                return -1
            b = self.take_block()
            if b == NO_BLOCK:
                return -1
            self.map[m].first[0] = 0
            self.map[m].block[0] = b
            self.map[m].nr_blocks = 1
        i = self.find_block(m, key)
        b = self.map[m].block[i]
        position = self.lower_bound(b, key)
        if position < self.block[b].count and self.block[b].keys[position] == key:
            return 1
        if self.block[b].count == BLOCK_CAPACITY:
            # Appending at the very end (a map that only grows upward) leaves full runs behind, not half-full ones.
            if self.split(m, i, BLOCK_CAPACITY - 1 if position == BLOCK_CAPACITY else BLOCK_CAPACITY // 2) != 0:
                return -1
            i = self.find_block(m, key)
            b = self.map[m].block[i]
            position = self.lower_bound(b, key)
        self.shift(b, position, position + 1, self.block[b].count - position)
        self.block[b].keys[position] = key
        self.block[b].values[position] = value
        self.block[b].count += 1
        self.map[m].count += 1
        return 0

    def split(self, m, i, keep):
        """Moves what run ``i`` holds beyond its first ``keep`` entries to a new run after it; 0, or -1."""
        if self.widen(m) != 0:
            return -1
        fresh = self.take_block()
        if fresh == NO_BLOCK:
            return -1
        b = self.map[m].block[i]
        moved = self.block[b].count - keep
        for k in range(moved):
            self.block[fresh].keys[k] = self.block[b].keys[keep + k]
            self.block[fresh].values[k] = self.block[b].values[keep + k]
        self.block[fresh].count = moved
        self.block[b].count = keep
        if cython.compiled:
            memmove(
                self.map[m].first + i + 2,
                self.map[m].first + i + 1,
                (self.map[m].nr_blocks - i - 1) * cython.sizeof(cython.ulonglong),
            )
            memmove(
                self.map[m].block + i + 2,
                self.map[m].block + i + 1,
                (self.map[m].nr_blocks - i - 1) * cython.sizeof(cython.uint),
            )
        else:
            j = self.map[m].nr_blocks
            self.map[m].first[i + 2 : j + 1] = self.map[m].first[i + 1 : j]
            self.map[m].block[i + 2 : j + 1] = self.map[m].block[i + 1 : j]
        self.map[m].first[i + 1] = self.block[fresh].keys[0]
        self.map[m].block[i + 1] = fresh
        self.map[m].nr_blocks += 1
        return 0

    def remove(self, m, key):
        """Removes ``key`` and returns its value; 0 when it is not there."""
        if self.map[m].nr_blocks == 0:
            return 0
        i = self.find_block(m, key)
        b = self.map[m].block[i]
        position = self.lower_bound(b, key)
        if position == self.block[b].count or self.block[b].keys[position] != key:
            return 0
        value = self.block[b].values[position]
        self.shift(b, position + 1, position, self.block[b].count - position - 1)
        self.block[b].count -= 1
        self.map[m].count -= 1
        if self.block[b].count < BLOCK_CAPACITY // 4:
            self.join(m, i)
        return value

    def join(self, m, i):
        """Empties the thin run ``i`` into its neighbour, or that one into it, where both fit in half a run."""
        b = self.map[m].block[i]
        if self.block[b].count == 0:
            self.drop_block(m, i)
            return
        if i + 1 == self.map[m].nr_blocks:
            if i == 0:
                return
            i -= 1
        a = self.map[m].block[i]
        b = self.map[m].block[i + 1]
        if self.block[a].count + self.block[b].count > BLOCK_CAPACITY // 2:
            return
        for k in range(self.block[b].count):
            self.block[a].keys[self.block[a].count + k] = self.block[b].keys[k]
            self.block[a].values[self.block[a].count + k] = self.block[b].values[k]
        self.block[a].count += self.block[b].count
        self.drop_block(m, i + 1)

    def drop_block(self, m, i):
        """Takes run ``i`` out of map ``m`` and returns it to the pool."""
        b = self.map[m].block[i]
        self.block[b].next_spare = self.spare
        self.spare = b
        self.map[m].nr_blocks -= 1
        for j in range(i, self.map[m].nr_blocks):
            self.map[m].first[j] = self.map[m].first[j + 1]
            self.map[m].block[j] = self.map[m].block[j + 1]
        if self.map[m].nr_blocks != 0:
            self.map[m].first[0] = 0

    def get(self, m, key):
        """The value of ``key``, or 0."""
        if self.map[m].nr_blocks == 0:
            return 0
        b = self.map[m].block[self.find_block(m, key)]
        position = self.lower_bound(b, key)
        if position < self.block[b].count and self.block[b].keys[position] == key:
            return self.block[b].values[position]
        return 0

    def at_or_below(self, m, key):
        """The value of the highest key not above ``key``, or 0."""
        if self.map[m].nr_blocks == 0:
            return 0
        i = self.find_block(m, key)
        b = self.map[m].block[i]
        position = self.lower_bound(b, key)
        if position < self.block[b].count and self.block[b].keys[position] == key:
            return self.block[b].values[position]
        if position == 0:
            if i == 0:
                return 0
            b = self.map[m].block[i - 1]
            position = self.block[b].count
        return self.block[b].values[position - 1]

    def at_or_above(self, m, key):
        """The value of the lowest key not below ``key``, or 0."""
        if self.map[m].nr_blocks == 0:
            return 0
        i = self.find_block(m, key)
        b = self.map[m].block[i]
        position = self.lower_bound(b, key)
        if position == self.block[b].count:
            if i + 1 == self.map[m].nr_blocks:
                return 0
            b = self.map[m].block[i + 1]
            position = 0
        return self.block[b].values[position]

    def clear(self, m):
        """Empties map ``m``; its runs return to the pool."""
        for i in range(self.map[m].nr_blocks):
            self.block[self.map[m].block[i]].next_spare = self.spare
            self.spare = self.map[m].block[i]
        self.map[m].nr_blocks = 0
        self.map[m].count = 0

    # Python's side: for tests, validators and printing.

    def put(self, m, key, value):
        """``insert`` for Python callers; raises MemoryError, returns False for a key that is there already."""
        result = self.insert(m, key, value)
        if result < 0:
            raise MemoryError("no memory for an ordered map")
        return result == 0

    def pop(self, m, key):
        """``remove`` for Python callers."""
        return self.remove(m, key)

    def find(self, m, key):
        """``get`` for Python callers."""
        return self.get(m, key)

    def floor(self, m, key):
        """``at_or_below`` for Python callers."""
        return self.at_or_below(m, key)

    def ceiling(self, m, key):
        """``at_or_above`` for Python callers."""
        return self.at_or_above(m, key)

    def length(self, m):
        """Number of keys in map ``m``."""
        return self.map[m].count

    def runs(self, m):
        """The runs of map ``m`` in order, as ``(first, [(key, value), ...])``."""
        found = []
        for i in range(self.map[m].nr_blocks):
            b = self.map[m].block[i]
            found.append(
                (self.map[m].first[i], [(self.block[b].keys[k], self.block[b].values[k])
                                        for k in range(self.block[b].count)])
            )
        return found

    def items(self, m):
        """All ``(key, value)`` of map ``m`` in ascending order."""
        return [item for _first, run in self.runs(m) for item in run]

    def blocks(self, m):
        """The runs of map ``m`` in order, as ``(number in the pool of runs, count)``."""
        found = []
        for i in range(self.map[m].nr_blocks):
            b = self.map[m].block[i]
            found.append((b, self.block[b].count))
        return found

    def spares(self):
        """Numbers of the spare runs, next one first; a broken list is cut off where it breaks."""
        found = []
        n = self.spare
        while n != NO_BLOCK:
            found.append(n)
            if n >= self.blocks_used or len(found) > self.blocks_used:
                break  # out of the pool, or in a circle: the validator reports it
            n = self.block[n].next_spare
        return found

    def poke(self, m, i, k, field, value):
        """Overwrites entry ``k`` of run ``i`` of map ``m``, or the run's or the map's own fields.

        For the tests that break structures on purpose, and for nothing else. ``next_spare`` takes ``i`` as a number in
        the pool of runs.
        """
        if field == "next_spare":
            self.block[i].next_spare = value
            return
        b = self.map[m].block[i]
        if field == "key":
            self.block[b].keys[k] = value
        elif field == "value":
            self.block[b].values[k] = value
        elif field == "first":
            self.map[m].first[i] = value
        elif field == "count":
            self.block[b].count = value
        elif field == "total":
            self.map[m].count = value
        else:
            raise KeyError(field)
