"""``vm_struct``: what the user of an area sees (specification section 1.2).

A ``vmap_area`` says that addresses are taken; this record says what for: the frames behind them, how large the mappings
are, who asked.  It lives as long as the area is busy, in ``VmallocState.areas`` under its start.

``size`` **includes the guard page** unless ``VM_NO_GUARD``; ``pages`` has one entry per base page, also of huge
mappings; ``requested_size`` is what was asked for before rounding.  The trap of section 1.2 is kept: areas of the
per-CPU allocator have no guard page and no ``VM_NO_GUARD`` either, so ``usable_size`` is one page too small for them.
"""

import cython

if not cython.compiled:
    from vmalloc.flags import VM_NO_GUARD

__all__ = ["VmStruct"]


class VmStruct:
    """One area.

    Attributes:
        addr: its start.
        size: bytes, guard included.
        flags: ``VM_*`` of ``vmalloc.flags``.
        pages: its frames, or None.
        nr_pages: how many of them it has; fewer than the list has room for while it is built.
        page_order: log2 of the mapping size in pages that was chosen for it.
        phys_addr: what an I/O mapping maps; 0 for none.
        caller: who asked: text, or a function that makes it (``where.Caller``).
        requested_size: bytes asked for.
        node: the NUMA node asked for, or ``NUMA_NO_NODE``.
        align: the alignment asked for, bytes.
        array_area: the area that its list of frames is kept in, when the list is longer than a page.
        guard_size: bytes of the guard page; 0 for none.
        live: False from the moment it is freed.
        is_array: whether it holds the list of frames of another area, or is part of a per-CPU chunk, and is freed with
            that one only.
    """

    def __init__(self, size, flags, guard_size):
        self.addr = 0
        self.size = size
        self.flags = flags
        self.pages = None
        self.nr_pages = 0
        self.page_order = 0
        self.phys_addr = 0
        self.caller = None
        self.requested_size = 0
        self.node = -1
        self.align = 1
        self.array_area = None
        self.guard_size = guard_size
        self.live = True
        self.is_array = False

    @property
    def usable_size(self):
        """Bytes without the guard page (``get_vm_area_size``)."""
        return self.size_without_guard()

    @property
    def end(self):
        """Where its addresses end, guard included."""
        return self.addr + self.size

    def size_without_guard(self):
        """``usable_size`` for compiled callers."""
        if self.flags & VM_NO_GUARD:
            return self.size
        return self.size - self.guard_size

    def __repr__(self):
        return f"<vm_struct {self.addr:#x}-{self.addr + self.size:#x} flags {self.flags:#x}>"
