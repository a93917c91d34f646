"""``vm_map_ram`` blocks: who has which page of them, and what of them must be flushed (specification section 5).

Idea: mapping a few pages for a short time should take no global lock and no flush of its own.  So each CPU has
**blocks**, ranges of up to 1024 pages, and hands out pieces of them by moving a pointer upward.  A page that is
returned becomes *dirty*: it is never handed out again in this block, because some CPU may still translate it.  When
nothing is left but dirty pages, the block goes, through the lazy stage like any range, and one flush settles all of its
pieces::

    |<------------- handed out ------------->|<------------ free ------------>|
    | live ...|dirty|live ..-|dirty          |                                |
                            ^ rounding: pieces are of a power of two of pages, the rest of the last is lost to it

The price is that one live page keeps its block: blocks where nothing is live but something is still free are
*fragmented* and can be purged (5.6); who does, and which ones, is ``calls.aliases``.

Shape: ``block[b]`` is a record, 0 is none.  ``queue[cpu]`` lists, oldest first, the blocks of a CPU that have free
pages (section 5.4).  ``index`` finds a block by address: since 6.5 one map per hash slot, ``slot_of``, before one map
for all (5.3); that decides nothing but the order in which all blocks are visited.  Two bitmaps say what is live:
``used`` has the pages that are mapped - the kernel's ``used_map``, for readers of memory - and ``first`` where pieces
begin.  The second one is not the kernel's, which trusts the caller to return what he got; with it a wrong address or
count is found.

Invariants (``validate_blocks``): ``free + dirty + live`` pages are the block's, rounding counted with the piece; pieces
lie below the pointer and do not overlap; a block with free pages is in the queue of its CPU, and no other; the dirty
range is empty (capacity, 0) or lies below the pointer; a block without free or live pages does not exist.

Preconditions: the callers check counts and addresses.  Protected by the lock of the space.
"""

import cython

from vmalloc.areas.ordered_map import OrderedMaps

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free, realloc
    from cython.cimports.libc.string import memset
else:
    from vmalloc.areas.plain import Pool, VmapBlock, extend
    from vmalloc.areas.states import NIL

    BLOCK_WORDS = 16

__all__ = ["VmapBlocks", "rounded_pages"]


def rounded(count):
    """The pages that a piece of ``count`` takes: the next power of two."""
    nr_pages = 1
    while nr_pages < count:
        nr_pages = nr_pages << 1
    return nr_pages


def rounded_pages(count):
    """``rounded`` for Python callers."""
    return rounded(count)


def joined(words):
    """The number whose 64-bit digits are ``words``, lowest first."""
    return sum([word << (64 * place) for place, word in enumerate(words)])


class VmapBlocks:
    """The blocks of one address space.

    Args:
        geometry: a ``BlockGeometry``.
        vmalloc_start: where the vmalloc range begins, bytes.
        nr_cpus: possible CPUs; each has a queue.
        by_slot: whether blocks are indexed per CPU slot (6.5 and later), or all together.
    """

    def __cinit__(self, geometry, vmalloc_start, nr_cpus, by_slot):
        self.page_shift = geometry.page_shift
        self.max_alloc = geometry.max_alloc
        self.block_pages = geometry.block_pages
        self.purge_threshold = geometry.purge_threshold
        self.block_size = geometry.block_size
        self.base = vmalloc_start // geometry.block_size * geometry.block_size
        self.nr_cpus = nr_cpus
        self.nr_slots = nr_cpus if by_slot else 1
        self.index = OrderedMaps(self.nr_slots)
        self.capacity = 0
        self.used_records = 1
        self.spare = NIL
        self.nr_blocks = 0
        if cython.compiled:
            self.queue = cython.cast(cython.pointer(block_queue), calloc(nr_cpus, cython.sizeof(block_queue)))
            if self.queue == cython.NULL:
                raise MemoryError(f"no memory for the block queues of {nr_cpus} CPUs")
        else:
            self.queue = []
            extend(self.queue, nr_cpus, Pool)
            self.block = []
        if self.grow() != 0:
            raise MemoryError("no memory for the first vm_map_ram blocks")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.queue)
            free(self.block)

    # -- records ---------------------------------------------------------------------------------------------------

    def grow(self):
        """Makes room for more records; 0, or -1 when memory is exhausted."""
        wanted = 2 * self.capacity + 8
        if cython.compiled:
            grown = cython.cast(cython.pointer(vmap_block), realloc(self.block, wanted * cython.sizeof(vmap_block)))
            if grown == cython.NULL:
                return -1
            self.block = grown
            memset(self.block + self.capacity, 0, (wanted - self.capacity) * cython.sizeof(vmap_block))
        else:
            extend(self.block, wanted, VmapBlock, BLOCK_WORDS)
        self.capacity = wanted
        return 0

    def add(self, start, cpu):
        """Makes ``[start, start + block_size)`` a block without pieces, last in the queue of ``cpu``.

        Returns the record, or ``NIL`` when memory is exhausted; nothing was changed then.
        """
        b = self.spare
        if b == NIL:
            if self.used_records == self.capacity and self.grow() != 0:
                return NIL
            b = self.used_records
        if self.index.insert(self.slot_of(start), self.key_of(start), b) != 0:
            return NIL
        if b == self.spare:
            self.spare = self.block[b].next
        else:
            self.used_records += 1
        self.nr_blocks += 1
        self.block[b].va_start = start
        self.block[b].free = self.block_pages
        self.block[b].dirty = 0
        self.block[b].dirty_min = self.block_pages
        self.block[b].dirty_max = 0
        for w in range(BLOCK_WORDS):
            self.block[b].used[w] = 0
            self.block[b].first[w] = 0
        self.enter_queue(b, cpu)
        return b

    def remove(self, b):
        """Forgets block ``b``; its addresses must be accounted for elsewhere by now."""
        self.index.remove(self.slot_of(self.block[b].va_start), self.key_of(self.block[b].va_start))
        if self.block[b].queued:
            self.leave_queue(b)
        self.block[b].va_start = 0
        self.block[b].next = self.spare
        self.spare = b
        self.nr_blocks -= 1

    # -- index -----------------------------------------------------------------------------------------------------

    def key_of(self, address):
        """The number of the block that ``address`` would be in (section 5.3)."""
        return (address - self.base) // self.block_size

    def slot_of(self, address):
        """The map that such a block is in."""
        return (address // self.block_size) % self.nr_slots

    def find(self, address):
        """The block that contains ``address``, or ``NIL``; ``address`` is not below the vmalloc range."""
        return self.index.get(self.slot_of(address), self.key_of(address))

    # -- queues ----------------------------------------------------------------------------------------------------

    def choose(self, cpu, nr_pages):
        """The first block in the queue of ``cpu`` with ``nr_pages`` free, or ``NIL``."""
        b = self.queue[cpu].head
        while b != NIL and self.block[b].free < nr_pages:
            b = self.block[b].next
        return b

    def enter_queue(self, b, cpu):
        """Puts block ``b`` last into the queue of ``cpu``."""
        self.block[b].cpu = cpu
        self.block[b].next = NIL
        self.block[b].previous = self.queue[cpu].tail
        if self.queue[cpu].tail == NIL:
            self.queue[cpu].head = b
        else:
            self.block[self.queue[cpu].tail].next = b
        self.queue[cpu].tail = b
        self.block[b].queued = 1

    def leave_queue(self, b):
        """Takes block ``b`` off its queue."""
        cpu = self.block[b].cpu
        next = self.block[b].next
        previous = self.block[b].previous
        if previous == NIL:
            self.queue[cpu].head = next
        else:
            self.block[previous].next = next
        if next == NIL:
            self.queue[cpu].tail = previous
        else:
            self.block[next].previous = previous
        self.block[b].next = NIL
        self.block[b].previous = NIL
        self.block[b].queued = 0

    # -- pieces ----------------------------------------------------------------------------------------------------

    def take(self, b, count):
        """Hands out ``count`` pages of a block that has room for their power of two; the address of the first.

        A block without free pages leaves its queue.
        """
        offset = self.block_pages - self.block[b].free
        self.block[b].free -= rounded(count)
        for i in range(offset, offset + count):
            bit = 1
            bit = bit << (i & 63)
            self.block[b].used[i >> 6] |= bit
        bit = 1
        bit = bit << (offset & 63)
        self.block[b].first[offset >> 6] |= bit
        if self.block[b].free == 0:
            self.leave_queue(b)
        return self.block[b].va_start + (offset << self.page_shift)

    def is_used(self, b, page):
        """Whether a page of a block is mapped."""
        bit = self.block[b].used[page >> 6]
        return (bit >> (page & 63)) & 1

    def is_first(self, b, page):
        """Whether a live piece begins at a page of a block."""
        bit = self.block[b].first[page >> 6]
        return (bit >> (page & 63)) & 1

    def piece_pages(self, b, page):
        """The pages of the live piece that begins at ``page``; 0 where none does."""
        if not self.is_first(b, page):
            return 0
        count = 1
        while page + count < self.block_pages and self.is_used(b, page + count) and not self.is_first(b, page + count):
            count += 1
        return count

    def give(self, b, page, count):
        """Takes a live piece back: its pages are dirty. True when the whole block is, and has to go."""
        for i in range(page, page + count):
            bit = 1
            bit = bit << (i & 63)
            self.block[b].used[i >> 6] &= ~bit
        bit = 1
        bit = bit << (page & 63)
        self.block[b].first[page >> 6] &= ~bit
        nr_pages = rounded(count)
        if page < self.block[b].dirty_min:
            self.block[b].dirty_min = page
        if page + nr_pages > self.block[b].dirty_max:
            self.block[b].dirty_max = page + nr_pages
        self.block[b].dirty += nr_pages
        return self.block[b].dirty == self.block_pages

    def is_purgeable(self, b):
        """Whether nothing is live in a block, and something is left of it (section 5.6)."""
        return self.block[b].free + self.block[b].dirty == self.block_pages and self.block[b].dirty != self.block_pages

    # Python's side: what looks at all blocks, and what tests, validators and messages ask.

    def indexed(self):
        """Records of all blocks in the order of the index: slot by slot, ascending by address within one."""
        return [b for slot in range(self.nr_slots) for _key, b in self.index.items(slot)]

    def queued(self, cpu):
        """Records of the queue of ``cpu``, head first; a broken queue is cut off where it breaks."""
        found = []
        b = self.queue[cpu].head
        while b != NIL:
            found.append(b)
            if b >= self.used_records or len(found) > self.used_records:
                break  # out of the table, or in a circle: the validator reports it
            b = self.block[b].next
        return found

    def fragmented(self):
        """Starts of all purgeable blocks, queue by queue: what an overflow takes (5.6)."""
        return [self.block[b].va_start for cpu in range(self.nr_cpus) for b in self.queued(cpu) if self.is_purgeable(b)]

    def worn_out(self):
        """Starts of the purgeable blocks with less than the threshold free: what ``vm_unmap_aliases`` takes (5.6)."""
        return [
            self.block[b].va_start
            for b in self.indexed()
            if self.is_purgeable(b) and self.block[b].free < self.purge_threshold
        ]

    def dirty_ranges(self):
        """``(start, end)`` in bytes of what was returned and not flushed, of each block that has such."""
        return [found for found in map(self.dirty_range, self.indexed()) if found[0] < found[1]]

    def dirty_ranges_queued(self):
        """``dirty_ranges`` of the blocks in queues only: those without a free page are missed, as up to 6.4."""
        queued = [b for cpu in range(self.nr_cpus) for b in self.queued(cpu)]
        return [found for found in map(self.dirty_range, queued) if found[0] < found[1]]

    def dirty_range(self, b):
        """The dirty range of a block in bytes; empty ones have their start above their end."""
        start = self.block[b].va_start
        return (
            start + (self.block[b].dirty_min << self.page_shift),
            start + (self.block[b].dirty_max << self.page_shift),
        )

    def block_start(self, address):
        """Where the block that ``address`` is in begins."""
        return address // self.block_size * self.block_size

    def forget_dirty_ranges(self):
        """Notes that all dirty ranges were flushed; the pages stay dirty."""
        for b in self.indexed():
            self.block[b].dirty_min = self.block_pages
            self.block[b].dirty_max = 0

    def at(self, address):
        """``find`` for Python callers, of any number in the vmalloc range."""
        return self.find(address)

    def create(self, start, cpu):
        """``add`` for Python callers."""
        return self.add(start, cpu)

    def hand_out(self, cpu, count):
        """``choose`` and ``take`` for Python callers: an address, or None where no block of the CPU has room."""
        b = self.choose(cpu, rounded(count))
        return None if b == NIL else self.take(b, count)

    def hand_back(self, address, count):
        """``give`` for Python callers."""
        b = self.find(address)
        return self.give(b, (address - self.block[b].va_start) >> self.page_shift, count)

    def drop(self, start):
        """``remove`` of the block that starts at ``start``, for Python callers."""
        self.remove(self.find(start))

    def used_at(self, address):
        """Whether a page of a block is mapped, by address."""
        b = self.find(address)
        return b != NIL and bool(self.is_used(b, (address - self.block[b].va_start) >> self.page_shift))

    def pieces(self, b):
        """Live pieces of a block: ``(first page, pages)``, ascending."""
        firsts = [page for page in range(self.block_pages) if self.is_first(b, page)]
        return [(page, self.piece_pages(b, page)) for page in firsts]

    def get(self, b):
        """A block as a dictionary of its fields; the bitmaps are numbers."""
        return {
            "va_start": self.block[b].va_start,
            "free": self.block[b].free,
            "dirty": self.block[b].dirty,
            "dirty_min": self.block[b].dirty_min,
            "dirty_max": self.block[b].dirty_max,
            "cpu": self.block[b].cpu,
            "next": self.block[b].next,
            "previous": self.block[b].previous,
            "queued": bool(self.block[b].queued),
            "used": joined([self.block[b].used[w] for w in range(BLOCK_WORDS)]),
            "first": joined([self.block[b].first[w] for w in range(BLOCK_WORDS)]),
        }

    def ends(self, cpu):
        """``(head, tail)`` of a queue as stored."""
        return (self.queue[cpu].head, self.queue[cpu].tail)

    def spares(self):
        """Records of the list of spare ones, next one first; a broken list is cut off where it breaks."""
        found = []
        b = self.spare
        while b != NIL:
            found.append(b)
            if b >= self.used_records or len(found) > self.used_records:
                break
            b = self.block[b].next
        return found

    def totals(self):
        """``(blocks, free, dirty, live)``: blocks, and pages of them all."""
        every = self.indexed()
        free_pages = sum([self.block[b].free for b in every])
        dirty = sum([self.block[b].dirty for b in every])
        return (len(every), free_pages, dirty, len(every) * self.block_pages - free_pages - dirty)

    def poke(self, b, field, value):
        """Overwrites one field of a block: for the tests that break structures on purpose, and for nothing else."""
        if field == "va_start":
            self.block[b].va_start = value
        elif field == "free":
            self.block[b].free = value
        elif field == "dirty":
            self.block[b].dirty = value
        elif field == "dirty_min":
            self.block[b].dirty_min = value
        elif field == "dirty_max":
            self.block[b].dirty_max = value
        elif field == "cpu":
            self.block[b].cpu = value
        elif field == "next":
            self.block[b].next = value
        elif field == "previous":
            self.block[b].previous = value
        elif field == "queued":
            self.block[b].queued = value
        elif field in ("used", "first"):
            for w in range(BLOCK_WORDS):
                word = (value >> (64 * w)) & 0xFFFFFFFFFFFFFFFF
                if field == "used":
                    self.block[b].used[w] = word
                else:
                    self.block[b].first[w] = word
        else:
            raise KeyError(field)

    def poke_queue(self, cpu, head, tail):
        """Overwrites the ends of a queue: for the same tests."""
        self.queue[cpu].head = head
        self.queue[cpu].tail = tail
