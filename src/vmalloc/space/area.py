"""``Area``: a user's hold on an area.

The area itself is a ``VmStruct`` in the space; this is the handle that Python code has.  An area that was allocated
belongs to its handle: when the handle is garbage collected the area is freed, wherever and whenever that happens - also
in the middle of another call of the same thread, which is why it may only be noted then and is freed by the next call
(``VmallocSpace.drop``).  ``detach`` ends that: the area then lives until it is freed by address.

A handle whose area is gone says so: everything but its facts raises ``BadAddress``.
"""


from vmalloc.errors import BadAddress, BadSize
from vmalloc.units import format_range, format_size

__all__ = ["Area"]


class Area:
    """An area of virtually contiguous memory.

    Args:
        space: the space it is in.
        vm: its record.
        owner: whether the area is freed with this object.

    Attributes:
        space, vm: as above.
    """

    def __init__(self, space, vm, owner=True):
        self.space = space
        self.vm = vm
        self.owner = owner

    def __del__(self):
        if self.owner and self.vm is not None and self.vm.live:
            self.space.drop(self.vm)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def address(self):
        """Its first byte."""
        return self.vm.addr

    def __int__(self):
        return self.vm.addr

    def __index__(self):  # not an alias: an extension type would not take that for the slot
        return self.vm.addr

    @property
    def size(self):
        """Usable bytes: whole pages, the guard page left out."""
        return self.vm.usable_size

    def __len__(self):
        return self.vm.usable_size

    @property
    def requested_size(self):
        """Bytes that were asked for."""
        return self.vm.requested_size

    @property
    def end(self):
        """Behind its last usable byte."""
        return self.vm.addr + self.vm.usable_size

    @property
    def flags(self):
        """``VM_*`` of ``vmalloc.flags``."""
        return self.vm.flags

    @property
    def pages(self):
        """Its frames, one per base page; None for one that has none of its own (``vmap``, ``ioremap``)."""
        return self.vm.pages

    @property
    def nr_pages(self):
        """How many frames it has."""
        return self.vm.nr_pages

    @property
    def page_shift(self):
        """log2 of the bytes of its mappings."""
        return self.space.state.page_shift + self.vm.page_order

    @property
    def node(self):
        """The NUMA node of its first frame; None when it has none."""
        if self.vm.pages is None or self.vm.nr_pages == 0:
            return None
        return self.space.state.machine.node_of(self.vm.pages[0])

    @property
    def caller(self):
        """Who asked for it, as the kernel prints it."""
        return "" if self.vm.caller is None else str(self.vm.caller)

    @property
    def phys_addr(self):
        """The physical address that an I/O mapping maps; 0 for none."""
        return self.vm.phys_addr

    @property
    def is_vmalloc(self):
        """Whether it is in the vmalloc range; ``kvmalloc`` may have found contiguous memory instead."""
        return self.space.is_vmalloc_addr(self.vm.addr)

    @property
    def alive(self):
        """False once it was freed."""
        return self.vm.live

    # -- bytes -----------------------------------------------------------------------------------------------------

    def read(self, offset=0, n=None):
        """Reads ``n`` bytes from ``offset`` on, by default up to the size that was asked for.

        Raises:
            BadSize: not within the usable bytes. BadAddress: the area was freed. Fault: as ``space.load``.
        """
        if n is None:
            n = max(self.vm.requested_size - offset, 0)
        self.expect(offset, n)
        return self.space.load(self.vm.addr + offset, n)

    def write(self, offset, data):
        """Writes ``data`` from ``offset`` on. Raises as ``read``."""
        data = memoryview(data).cast("B")  # counted in bytes, whatever its items are
        self.expect(offset, len(data))
        self.space.store(self.vm.addr + offset, data)

    def expect(self, offset, n):
        """Raises unless ``[offset, offset + n)`` are usable bytes of a live area.

        What was freed is left to KASAN, where there is one and as long as it remembers: it knows who freed it.
        """
        if not self.vm.live and (self.space.kasan is None or self.vm.addr not in self.space.kasan.tracks.freed):
            raise BadAddress(self.vm.addr, "this area was freed")
        if offset < 0 or n < 0 or offset + n > self.vm.usable_size:
            size = self.vm.usable_size
            raise BadSize(f"bytes {offset} to {offset + n} of an area of {size} bytes ({format_size(size)})")

    # -- the end ---------------------------------------------------------------------------------------------------

    def free(self):
        """Frees it. Raises BadAddress when it was freed already."""
        self.space.release(self.vm)

    def detach(self):
        """Lets the area live on without this object; its address, for ``vfree``."""
        self.owner = False
        return self.vm.addr

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.vm.live:
            self.space.release(self.vm)

    def __copy__(self):
        """A second handle, which does not own: the area goes with the first."""
        return Area(self.space, self.vm, False)

    def __deepcopy__(self, memo):
        return Area(self.space, self.vm, False)

    def __repr__(self):
        state = "" if self.vm.live else " freed"
        return f"<Area {format_range(self.address, self.end)} ({format_size(self.size)}){state}>"

    def __eq__(self, other):
        if not isinstance(other, Area):
            return NotImplemented
        return self.vm is other.vm

    def __hash__(self):
        return id(self.vm)
