"""The shadow memory of one machine, and the check of an access against it (specification sections 9.3, 9.4, 9.6).

Idea: shadow is memory like any other - frames of the machine, mapped by its page tables at the shadow range, read and
written by the running CPU through its TLB - and so it costs what it costs in the kernel: frames, page tables, TLB
entries.  It is made lazily, a page at a time, when addresses are handed out (``populate``), and given back by the rules
of each kernel when they are purged (``release``).

What is behind a granule is decided by three verbs and nothing else: ``populate`` makes missing pages and fills them
with ``KASAN_VMALLOC_INVALID``, ``unpoison`` allows, ``poison`` forbids.  Pages that are there stay as they are.

``forbids`` is the check.  It must agree with the plain statement "every byte of the access is allowed"; the kernel's
special cases for 1, 2, 4, 8 and 16 bytes are faster ways to the same answer, and one loop over the few shadow bytes
serves all of them here.  Where the answer is no, ``bad`` is the exact first byte that is not allowed, and ``reported``
the one the kernel names: it steps from the access's first byte by whole granules.

What has shadow: the vmalloc range.  The direct map is never forbidden (its shadow is the zero page of early boot;
poisoning free pages there is the page allocator's KASAN, not vmalloc's), nor are other kernel addresses; what is no
kernel address at all is forbidden, and has no metadata.

``present`` has the numbers of the shadow pages that exist; the page tables say the same (``validate``).

Protected by the lock of the space.
"""

import cython

if not cython.compiled:
    from vmalloc.areas.states import ENOMEM
    from vmalloc.flags import TAKE_MAY_DRAIN
    from vmalloc.pages import new_pages
    from vmalloc.units import ADDRESS_MAX

    GRANULE_SHIFT = 3
    PROT_RW = 3
    INVALID = 0xF8
    AT_ONCE = 1 << 20  # bytes of shadow that are written in one store

__all__ = ["Shadow"]


class Shadow:
    """Shadow memory.

    Args:
        machine: whose memory it is.
        layout: where it is (``ShadowLayout``).
        in_bulk: missing pages are asked for together (6.19; section 9.3), else one by one.

    Attributes:
        present: numbers of the shadow pages that exist.
        bad, reported: of the last access that was forbidden.
        checks: accesses that were looked up. unchecked: accesses to addresses without shadow.
        populated, released: pages made and given back, all told. peak: the most there were.
        flushes: of TLBs, when pages were given back.
    """

    def __init__(self, machine, layout, in_bulk):
        info = machine.info
        self.machine = machine
        self.layout = layout
        self.in_bulk = in_bulk
        self.page_shift = info.page_shift
        self.page_size = 1 << info.page_shift
        self.offset = layout.offset
        self.start = layout.start
        self.end = layout.end
        self.kernel_start = info.kernel_start
        self.kernel_end = info.kernel_end - 1  # 2**64 where C counts
        self.present = set()
        self.bad = 0
        self.reported = 0
        self.checks = 0
        self.unchecked = 0
        self.populated = 0
        self.released = 0
        self.peak = 0
        self.flushes = 0

    # -- making it and giving it back --------------------------------------------------------------------------------

    def pages_of(self, start, end):
        """The numbers of the shadow pages that describe ``[start, end)``, as ``first, behind``."""
        first = ((start >> GRANULE_SHIFT) + self.offset) >> self.page_shift
        last = (((end - 1) >> GRANULE_SHIFT) + self.offset) >> self.page_shift
        return first, last + 1

    def populate(self, start, end, waits):
        """Makes the missing shadow pages of a range and forbids what they describe; 0, or ``-ENOMEM`` and none made.

        Args:
            waits: whether frames and page tables may be waited for (6.19: the scope of section 2.3).
        """
        first, behind = self.pages_of(start, end)
        missing = [page for page in range(first, behind) if page not in self.present]
        at_once = self.page_size >> 3  # a page of pointers (section 9.3)
        done = 0
        while done < len(missing):
            code = self.make_pages(missing[done : done + at_once], waits)
            if code != 0:
                self.drop_pages(missing[:done])
                return code
            done += at_once
        if len(self.present) > self.peak:
            self.peak = len(self.present)
        return 0

    def make_pages(self, missing, waits):
        """Shadow pages with the numbers ``missing``, ascending: all of them, forbidding everything, or none."""
        pages = self.take_frames(len(missing), waits)
        if len(pages) < len(missing):
            self.machine.give_bulk(pages, 0, len(pages))
            return -ENOMEM
        if not waits:
            self.machine.set_scope(False)
        try:
            mapped = self.map_runs(missing, pages)
        finally:
            if not waits:
                self.machine.set_scope(True)
        if mapped < len(missing):
            self.drop_pages(missing[:mapped])
            self.machine.give_bulk(pages, mapped, len(missing) - mapped)
            return -ENOMEM
        for page in missing:
            self.machine.store(page << self.page_shift, bytes([INVALID]) * self.page_size)
        return 0

    def take_frames(self, count, waits):
        """Up to ``count`` frames, from the running CPU's node on."""
        pages = new_pages(count, self.page_size)
        if pages is None:
            raise MemoryError(f"no memory for a list of {count} page frames")
        how = TAKE_MAY_DRAIN if waits else 0
        if self.in_bulk:
            self.machine.take_bulk(pages, count, -1, how)
        while pages.nr_pages < count:
            pfn = self.machine.take(0, -1, how)
            if pfn < 0:
                break
            pages.pfn[pages.nr_pages] = pfn
            pages.nr_pages += 1
        return pages

    def map_runs(self, missing, pages):
        """Maps shadow pages, each run of neighbours at once; how many, up to the run that found no page table."""
        first = 0
        while first < len(missing):
            behind = first + 1
            while behind < len(missing) and missing[behind] == missing[behind - 1] + 1:
                behind += 1
            address = missing[first] << self.page_shift
            if self.machine.map_pages(address, pages, first, behind - first, PROT_RW) != 0:
                end = missing[behind - 1] + 1
                self.machine.unmap(address, end << self.page_shift)
                self.machine.flush(address, end << self.page_shift)
                return first
            self.present.update(missing[first:behind])
            self.populated += behind - first
            first = behind
        return first

    def unmap_pages(self, pages):
        """Unmaps shadow pages; their frames, which are nobody's when the TLBs have been flushed (``give_frames``)."""
        frames = []
        for page in pages:
            address = page << self.page_shift
            frames.append(self.machine.translate(address))
            self.machine.unmap(address, address + self.page_size)
            self.present.discard(page)
        self.released += len(frames)
        return frames

    def flush_pages(self, first, behind):
        """Flushes what CPUs remember of the shadow pages ``[first, behind)``."""
        self.flushes += 1
        self.machine.flush(first << self.page_shift, behind << self.page_shift)

    def give_frames(self, frames):
        """Gives the frames of shadow pages back, each for itself."""
        for pfn in frames:
            self.machine.give(pfn, 0)

    def drop_pages(self, pages):
        """Gives shadow pages back: unmapped, flushed, their frames free."""
        if pages:
            frames = self.unmap_pages(pages)
            self.flush_pages(min(pages), max(pages) + 1)
            self.give_frames(frames)

    def releasable(self, start, end, free_start, free_end):
        """The shadow pages that go when ``[start, end)`` does, as numbers ``first, behind`` (section 9.4).

        Args:
            free_start, free_end: the free region around it that is known; the range itself where none is.
        """
        unit = self.page_size << GRANULE_SHIFT
        low = (start + unit - 1) & ~(unit - 1)
        high = end & ~(unit - 1)
        aligned_low, aligned_high = low, high
        if start != aligned_low and ((free_start + unit - 1) & ~(unit - 1)) < aligned_low:
            low -= unit
        if end != aligned_high and (free_end & ~(unit - 1)) > aligned_high:
            high += unit
        if high <= low:
            return 0, 0
        return self.pages_of(low, high)

    def release(self, ranges, regions, flush_each):
        """Gives back the shadow of purged ranges: a flush for each (6.1), or one for the hull of all (6.12).

        A frame is given back behind its flush. Flushed is what could have been released, whether it existed or not: the
        kernel does not look.

        Args:
            ranges: ``(start, end)`` of each, ascending.
            regions: the free region that is known around each.
            flush_each: whether each range has its own flush.

        Returns:
            How many pages.
        """
        count = 0
        together = []
        for i in range(len(ranges)):
            first, behind = self.releasable(ranges[i][0], ranges[i][1], regions[i][0], regions[i][1])
            frames = self.unmap_pages([page for page in range(first, behind) if page in self.present])
            count += len(frames)
            if not flush_each:
                together += frames
            elif first < behind:
                self.flush_pages(first, behind)
                self.give_frames(frames)
        if not flush_each and ranges:
            first, behind = self.pages_of(ranges[0][0], ranges[len(ranges) - 1][1])
            self.flush_pages(first, behind)
            self.give_frames(together)
        return count

    def trim(self, busy):
        """Gives back every shadow page that describes nothing but free addresses; how many.

        No kernel does that; it is for ``space.trim()``, after which only what is in use costs memory.

        Args:
            busy: ``(start, end)`` of the ranges that are not free.
        """
        needed = set()
        for start, end in busy:
            first, behind = self.pages_of(start, end)
            needed.update(range(first, behind))
        idle = sorted(self.present - needed)
        self.drop_pages(idle)
        return len(idle)

    # -- what is allowed ---------------------------------------------------------------------------------------------

    def write_shadow(self, start, size, value):
        """Sets the bytes of the granules that ``size`` bytes from ``start`` on begin in; ``start`` is that of one."""
        count = (size + (1 << GRANULE_SHIFT) - 1) >> GRANULE_SHIFT
        shadow = (start >> GRANULE_SHIFT) + self.offset
        while count != 0:
            piece = min(count, AT_ONCE)
            self.machine.store(shadow, bytes([value]) * piece)
            shadow += piece
            count -= piece

    def unpoison(self, start, size):
        """Allows exactly ``size`` bytes from ``start`` on, a granule's start; what is behind them stays as it is."""
        part = size & ((1 << GRANULE_SHIFT) - 1)
        self.write_shadow(start, size - part, 0)
        if part != 0:
            self.write_shadow(start + size - part, part, part)

    def poison(self, start, size):
        """Forbids ``size`` bytes from ``start`` on, rounded up to whole granules."""
        self.write_shadow(start, size, INVALID)

    def has_shadow(self, address):
        """Whether an address is described by a shadow page that exists."""
        if not self.start <= address < self.end:
            return False
        return (((address >> GRANULE_SHIFT) + self.offset) >> self.page_shift) in self.present

    def bytes_of(self, start, count):
        """The shadow bytes of ``count`` granules from that of ``start`` on; None for each that has no shadow.

        Read from the frames, past every TLB: for reports and validators.
        """
        if not 0 <= start < 1 << 64:
            return [None] * count
        return self.cells(start, count)

    def cells(self, start, count):
        """``bytes_of`` from an address on."""
        found = []
        shadow = ((start >> GRANULE_SHIFT) + self.offset) & ADDRESS_MAX
        while count > 0:
            at = shadow & (self.page_size - 1)
            piece = min(count, self.page_size - at)
            address = ((shadow - self.offset) & ADDRESS_MAX) << GRANULE_SHIFT
            if self.has_shadow(address):
                found += self.machine.read_frame(self.machine.translate(shadow), at, piece)
            else:
                found += [None] * piece
            shadow += piece
            count -= piece
        return found

    # -- the check ---------------------------------------------------------------------------------------------------

    def forbids(self, address, size):
        """Checks an access; True when it must not be made, and ``bad`` and ``reported`` say where it goes wrong.

        Args:
            address, size: any numbers; what are no addresses is left to the machine, which refuses it.
        """
        if size <= 0 or not 0 <= address < 1 << 64:
            return False
        if address + size > 1 << 64:  # it wraps round: bad in any case
            return self.forbids_range(address, ADDRESS_MAX) or self.forbidden(0, address)
        return self.forbids_range(address, address + size - 1)

    def forbids_range(self, address, last):
        """``forbids`` of the bytes from ``address`` to ``last``, both included."""
        if address < self.start or address >= self.end:
            self.unchecked += 1
            if address < self.kernel_start or address > self.kernel_end or address < self.page_size:
                return self.forbidden(address, address)
            if address < self.start and last >= self.start:
                return self.forbids_range(self.start, last)
            return False
        self.checks += 1
        behind = last
        if last >= self.end:
            behind = self.end - 1
        # How far there is shadow.
        first_page = ((address >> GRANULE_SHIFT) + self.offset) >> self.page_shift
        last_page = ((behind >> GRANULE_SHIFT) + self.offset) >> self.page_shift
        page = first_page
        while page <= last_page and page in self.present:
            page += 1
        if page == first_page:
            return self.forbidden(address, address)
        start = (address >> GRANULE_SHIFT) + self.offset
        count = (behind >> GRANULE_SHIFT) - (address >> GRANULE_SHIFT) + 1
        if page <= last_page:
            count = (page << self.page_shift) - start
        data = self.machine.load(start, count)
        place = self.first_set(data, count)
        if place < count:
            value = data[place]
            granule = ((address >> GRANULE_SHIFT) + place) << GRANULE_SHIFT
            if value < 8 and (behind >> GRANULE_SHIFT) == (granule >> GRANULE_SHIFT) and (behind & 7) < value:
                if last == behind:
                    return False
                return self.forbidden(self.end, self.end)
            bad = granule + value if value < 8 else granule
            if bad < address:
                bad = address
            return self.forbidden(bad, address + (place << GRANULE_SHIFT))
        if page <= last_page or last != behind:
            missing = ((start + count - self.offset) & ADDRESS_MAX) << GRANULE_SHIFT
            return self.forbidden(missing, missing)
        return False

    def first_set(self, data, count):
        """The place of the first byte that is not 0; ``count`` when there is none."""
        if cython.compiled:
            raw = cython.cast("const uint8_t*", PyBytes_AS_STRING(data))
            i = 0
            while i < count and raw[i] == 0:
                i += 1
            return i
        else:
            return len(data) - len(data.lstrip(b"\0"))

    def forbidden(self, bad, reported):
        """Notes where an access goes wrong."""
        self.bad = bad
        self.reported = reported
        return True
