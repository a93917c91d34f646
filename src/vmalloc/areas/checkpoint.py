"""Checkpoints of an allocator: remember all of it, try something, and come back exactly.

Idea: a replay sometimes has to ask "would the recorded address appear if that other CPU had gone first?".  An
allocation cannot be undone step by step - giving a block back merges records and may leave another tree *shape* - so
the whole state is copied: a few block copies, some 100 microseconds for ten thousand areas, no allocation after the
first time.

A restore keeps the tables where they are and only puts their contents back; tables that grew in between stay grown.
Valid only while ``save`` returned 0; one checkpoint serves any number of saves.
"""

import cython

if cython.compiled:
    from cython.cimports.libc.stdlib import free, realloc
    from cython.cimports.libc.string import memcpy
else:
    import copy

__all__ = ["Checkpoint"]


class Checkpoint:
    """Room for one copy of an allocator's state."""

    def __cinit__(self):
        self.valid = False

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.row)
            free(self.block)
            free(self.map)
            free(self.first)
            free(self.number)
            free(self.pool)
            free(self.purge_list)

    def save(self, a):
        """Copies the state of ``a``; 0, or -1 when memory is exhausted (there is no checkpoint then)."""
        self.valid = False
        if self.save_rows(a.rows) != 0 or self.save_maps(a.nodes.maps) != 0 or self.save_lists(a) != 0:
            return -1
        self.root = a.free.root
        self.count = a.free.count
        self.nr_lazy = a.nodes.nr_lazy
        self.lazy_areas = a.nodes.lazy_areas
        self.pool_hits = a.pool_hits
        self.skip_populate = a.purge.skip_populate
        self.purge_start = a.purge.start
        self.purge_end = a.purge.end
        self.purge_count = a.purge.count
        self.overlaps = a.purge.overlaps
        self.moment = a.nodes.moment()
        self.valid = True
        return 0

    def restore(self, a):
        """Puts the saved state back into ``a``, the allocator it was saved from."""
        self.restore_rows(a.rows)
        self.restore_maps(a.nodes.maps)
        self.restore_lists(a)
        a.free.root = self.root
        a.free.count = self.count
        a.nodes.nr_lazy = self.nr_lazy
        a.nodes.lazy_areas = self.lazy_areas
        a.pool_hits = self.pool_hits
        a.purge.skip_populate = self.skip_populate
        a.purge.start = self.purge_start
        a.purge.end = self.purge_end
        a.purge.count = self.purge_count
        a.purge.overlaps = self.overlaps
        a.nodes.go_back(self.moment)

    def save_rows(self, rows):
        """The table of records, as far as it was ever used."""
        if cython.compiled:
            if self.row_room < rows.used:
                self.row = cython.cast("vmap_area*", resized(self.row, rows.capacity * cython.sizeof(vmap_area)))
                self.row_room = rows.capacity if self.row != cython.NULL else 0
                if self.row == cython.NULL:
                    return -1
            memcpy(self.row, rows.row, rows.used * cython.sizeof(vmap_area))
        else:
            self.row = [copy.copy(record) for record in rows.row[: rows.used]]
        self.rows_used = rows.used
        self.rows_spare = rows.spare
        self.rows_live = rows.live
        return 0

    def restore_rows(self, rows):
        """Puts the records back; rows handed out since are unused again."""
        if cython.compiled:
            memcpy(rows.row, self.row, self.rows_used * cython.sizeof(vmap_area))
        else:
            rows.row[: self.rows_used] = [copy.copy(record) for record in self.row]
        rows.used = self.rows_used
        rows.spare = self.rows_spare
        rows.live = self.rows_live

    def save_maps(self, maps):
        """The ordered maps: their runs, and the list of runs of each."""
        total = 0
        for m in range(maps.nr_maps):
            total += maps.map[m].nr_blocks
        if cython.compiled:
            if self.block_room < maps.blocks_used:
                self.block = cython.cast(
                    "ordered_block*", resized(self.block, maps.block_capacity * cython.sizeof(ordered_block))
                )
                self.block_room = maps.block_capacity if self.block != cython.NULL else 0
            if self.map_room < maps.nr_maps:
                self.map = cython.cast("saved_map*", resized(self.map, maps.nr_maps * cython.sizeof(saved_map)))
                self.map_room = maps.nr_maps if self.map != cython.NULL else 0
            if self.first_room < total:
                room = total * 2
                self.first = cython.cast("uint64_t*", resized(self.first, room * cython.sizeof(cython.ulonglong)))
                self.first_room = room if self.first != cython.NULL else 0
                self.number = cython.cast("uint32_t*", resized(self.number, room * cython.sizeof(cython.uint)))
                self.number_room = room if self.number != cython.NULL else 0
            if self.block_room < maps.blocks_used or self.map_room < maps.nr_maps:
                return -1
            if self.first_room < total or self.number_room < total:
                self.first_room = 0
                return -1
            memcpy(self.block, maps.block, maps.blocks_used * cython.sizeof(ordered_block))
            total = 0
            for m in range(maps.nr_maps):
                self.map[m].offset = total
                self.map[m].nr_blocks = maps.map[m].nr_blocks
                self.map[m].count = maps.map[m].count
                for k in range(maps.map[m].nr_blocks):
                    self.first[total + k] = maps.map[m].first[k]
                    self.number[total + k] = maps.map[m].block[k]
                total += maps.map[m].nr_blocks
        else:
            self.block = copy.deepcopy(maps.block[: maps.blocks_used])
            self.map = copy.deepcopy(maps.map)
        self.blocks_used = maps.blocks_used
        self.blocks_spare = maps.spare
        return 0

    def restore_maps(self, maps):
        """Puts the ordered maps back."""
        if cython.compiled:
            memcpy(maps.block, self.block, self.blocks_used * cython.sizeof(ordered_block))
            for m in range(maps.nr_maps):
                maps.map[m].nr_blocks = self.map[m].nr_blocks
                maps.map[m].count = self.map[m].count
                for k in range(self.map[m].nr_blocks):
                    maps.map[m].first[k] = self.first[self.map[m].offset + k]
                    maps.map[m].block[k] = self.number[self.map[m].offset + k]
        else:
            maps.block[: self.blocks_used] = copy.deepcopy(self.block)
            maps.map[:] = copy.deepcopy(self.map)
        maps.blocks_used = self.blocks_used
        maps.spare = self.blocks_spare

    def save_lists(self, a):
        """The pools and the lists of a running purge."""
        nr_nodes = a.nodes.nr_nodes
        if cython.compiled:
            if self.pool_room < nr_nodes:
                self.pool = cython.cast(
                    "size_class*", resized(self.pool, nr_nodes * MAX_POOL_PAGES * cython.sizeof(size_class))
                )
                self.purge_list = cython.cast(
                    "uint32_t*", resized(self.purge_list, 2 * nr_nodes * cython.sizeof(cython.uint))
                )
                if self.pool == cython.NULL or self.purge_list == cython.NULL:
                    return -1
                self.pool_room = nr_nodes
            memcpy(self.pool, a.nodes.pools.pool, nr_nodes * MAX_POOL_PAGES * cython.sizeof(size_class))
        else:
            self.pool = [copy.copy(c) for c in a.nodes.pools.pool]
            self.purge_list = [0] * (2 * nr_nodes)
        for n in range(nr_nodes):
            self.purge_list[n] = a.purge.pending[n]
            self.purge_list[nr_nodes + n] = a.purge.returning[n]
        return 0

    def restore_lists(self, a):
        """Puts pools and purge lists back."""
        nr_nodes = a.nodes.nr_nodes
        if cython.compiled:
            memcpy(a.nodes.pools.pool, self.pool, nr_nodes * MAX_POOL_PAGES * cython.sizeof(size_class))
        else:
            a.nodes.pools.pool[:] = [copy.copy(c) for c in self.pool]
        for n in range(nr_nodes):
            a.purge.pending[n] = self.purge_list[n]
            a.purge.returning[n] = self.purge_list[nr_nodes + n]

    # Python's side: for tests.

    def take(self, a):
        """``save`` for Python callers; raises MemoryError."""
        if self.save(a) != 0:
            raise MemoryError("no memory for a checkpoint of the allocator")

    def put_back(self, a):
        """``restore`` for Python callers."""
        if not self.valid:
            raise ValueError("this checkpoint was never taken")
        self.restore(a)


def resized(pointer, size):
    """``realloc`` that frees the old block when it fails, so that the caller can simply store the result."""
    if cython.compiled:
        grown = realloc(pointer, size)
        if grown == cython.NULL:
            free(pointer)
        return grown
    else:
        raise TypeError("uncompiled there are lists, which need no realloc")
