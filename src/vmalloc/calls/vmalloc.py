"""``vmalloc``: addresses, frames, mapping - the core call behind the whole family (specification sections 2.1-2.3, 3).

Told from top to bottom (``vmalloc_node_range``, the kernel's ``__vmalloc_node_range``):

1. check the request; decide how large the mappings may be (3.2);
2. reserve addresses, guard page behind them (``reserve``);
3. get the frames (``area_pages``); a list longer than a page is an area of its own;
4. map them (3.4);
5. only then the area stops being ``VM_UNINITIALIZED`` and can be seen whole.

Whatever fails, the half-built area is taken apart in reverse order in one place, ``destroy``; where the mapping was to
be huge, everything is tried once more with base pages, **transparently**: the caller sees no difference but the mapping
size.

A failed area goes through the lazy stage, because something of it may have been mapped; so the second attempt gets
other addresses than the first (3.5).  Since 6.19 a worker does it, because the caller may be unable to wait: until it
ran, the area stays busy.

``__GFP_NOFAIL`` retries for ever.  Here nothing else happens meanwhile, so a second failure after all deferred work has
run would be the same for ever: it is raised instead, and says so.
"""

from operator import index

import cython

from vmalloc.calls.area_pages import out_of_frames
from vmalloc.errors import BadRequest, BadSize, ExceedsMemory, OutOfAddresses, OutOfFrames
from vmalloc.flags import GFP_FS, GFP_IO, GFP_VMALLOC_SUPPORTED, format_gfp
from vmalloc.units import format_size, is_power_of_two

if not cython.compiled:
    from vmalloc.calls.area_pages import release_area_pages, take_area_pages
    from vmalloc.calls.reserve import allow_access, get_vm_area_node
    from vmalloc.calls.vfree import remove_vm_area
    from vmalloc.flags import (
        GFP_DIRECT_RECLAIM,
        GFP_DMA,
        GFP_DMA32,
        GFP_HIGHMEM,
        GFP_NOFAIL,
        GFP_NOWARN,
        GFP_RECLAIM,
        GFP_ZERO,
        NUMA_NO_NODE,
        PROT_READ,
        PROT_WRITE,
        TASK,
        VM_ALLOC,
        VM_ALLOW_HUGE_VMAP,
        VM_UNINITIALIZED,
    )

__all__ = [
    "build",
    "checked_align",
    "checked_gfp",
    "checked_node",
    "checked_size",
    "destroy",
    "fix_gfp",
    "huge_shift",
    "memalloc_scope",
    "vmalloc_node_range",
]


def vmalloc_node_range(state, size, align, start, end, gfp, prot, vm_flags, node, caller):
    """Allocates an area with frames: the call that all others end in.

    Args:
        size: bytes, any positive number.
        align: bytes, a power of two.
        start, end: the window; the vmalloc range for everything but modules.
        gfp: ``GFP_*``.
        prot: ``PROT_*``.
        vm_flags: ``VM_*`` beside ``VM_ALLOC``.
        node: NUMA node, or ``NUMA_NO_NODE``.
        caller: who asks.

    Returns:
        The ``VmStruct``, mapped and complete.

    Raises:
        BadSize: no positive number of bytes. ExceedsMemory: more than the machine has.
        BadRequest: no such node.
        BadContext: in an interrupt.
        OutOfAddresses, OutOfFrames: nothing left; what had been taken was given back.
    """
    size = checked_size(state, size, gfp)
    node = checked_node(state, node)
    if state.machine.running.context != TASK:
        raise state.refuse("vmalloc", "it reserves addresses and may sleep: task context only")
    shift = state.page_shift
    if vm_flags & VM_ALLOW_HUGE_VMAP and state.huge_vmalloc:
        if gfp & GFP_DIRECT_RECLAIM or not state.kernel.allows_nonblocking:
            shift = huge_shift(state, size, node)
    if shift > state.page_shift:
        try:
            return build(state, size, max(align, 1 << shift), shift, start, end, gfp, prot, vm_flags, node, caller)
        except (OutOfAddresses, OutOfFrames):
            state.huge_fallbacks += 1
    return build(state, size, align, state.page_shift, start, end, gfp, prot, vm_flags, node, caller)


def checked_size(state, size, gfp):
    """The size as a number that can be asked for.

    Raises:
        BadSize: not positive. ExceedsMemory: more than all frames (section 2.1).
        TypeError: not an integer.
    """
    if not isinstance(size, int):
        size = index(size)
    if size <= 0:
        if size == 0:
            state.warn_once("vmalloc error: size 0", "size 0")
        raise BadSize(f"{size} bytes: an area has at least one byte")
    if size >> state.page_shift > state.total_pages:
        message = state.warn_alloc(gfp, f"vmalloc error: size {size}, exceeds total pages")
        error = ExceedsMemory(
            f"{size} bytes ({format_size(size)}) exceed the {state.total_pages} pages "
            f"({format_size(state.total_pages << state.page_shift)}) of the machine"
        )
        error.add_note(message)
        raise error
    return size


def checked_node(state, node):
    """A node as a number; None is ``NUMA_NO_NODE``. Raises BadRequest where there is no such node."""
    if node is None:
        return NUMA_NO_NODE
    if not isinstance(node, int):
        node = index(node)
    if not NUMA_NO_NODE <= node < state.nr_nodes:
        raise BadRequest(f"node {node} of a machine whose nodes are 0 to {state.nr_nodes - 1}")
    return node


def checked_gfp(gfp):
    """A gfp mask as a number of 32 bits. Raises BadRequest where it has others, TypeError where it is no integer."""
    gfp = index(gfp)
    if not 0 <= gfp < 1 << 32:
        raise BadRequest(f"gfp {gfp:#x}: it has 32 bits")
    return gfp


def checked_align(align):
    """An alignment as a number. Raises BadSize unless it is a power of two below 2**64."""
    align = index(align)
    if not 0 < align < 1 << 64 or not is_power_of_two(align):
        raise BadSize(f"alignment {align:#x} is no power of two")
    return align


def huge_shift(state, size, node):
    """log2 of the mapping size that an allocation which allows huge ones gets (section 3.2)."""
    per_node = size // state.nr_nodes if state.kernel.huge_by_node and node == NUMA_NO_NODE else size
    for shift in state.info.vmalloc_shifts:
        if per_node >> shift:
            return shift
    return state.page_shift


def fix_gfp(state, gfp):
    """What ``__vmalloc`` makes of its caller's mask (6.19): unsupported bits are taken off, with a warning."""
    gfp = checked_gfp(gfp)
    fixed = gfp & GFP_VMALLOC_SUPPORTED
    if not state.kernel.allows_nonblocking or fixed == gfp:
        return gfp
    state.warn_once(
        f"Unexpected gfp: {gfp & ~fixed:#x} ({format_gfp(gfp & ~fixed)}). "
        f"Fixing up to gfp: {fixed:#x} ({format_gfp(fixed)}). Fix your code!",
        "gfp",
    )
    return fixed


def memalloc_scope(state, gfp):
    """The task scope around page-table allocations, which take no gfp (section 2.3)."""
    if not gfp & GFP_DIRECT_RECLAIM and state.kernel.allows_nonblocking:
        return "noreclaim"
    if gfp & GFP_IO and not gfp & GFP_FS:
        return "nofs"
    if not gfp & (GFP_IO | GFP_FS):
        return "noio"
    return "none"


def build(state, size, align, shift, start, end, gfp, prot, vm_flags, node, caller):
    """The three steps for one mapping size: reserve, take, map; all or nothing."""
    vm = reserve(state, size, align, shift, start, end, gfp, vm_flags, node, caller)
    # Retrying needs both: NOFAIL of a caller that must not wait is no NOFAIL (2.3).
    retries = gfp & GFP_NOFAIL and gfp & GFP_DIRECT_RECLAIM and shift == state.page_shift
    wanted = vm.size_without_guard() >> state.page_shift
    while True:
        try:
            if vm.nr_pages < wanted:
                take(state, vm, gfp, shift, node)
            map_area(state, vm, gfp, shift, prot)
        except (OutOfFrames, OutOfAddresses):
            if not retries or vm.pages is None or not wait_a_tick(state):
                destroy(state, vm)
                raise
            if vm.nr_pages < wanted:
                untake(state, vm)
            else:
                state.machine.unmap(vm.addr, vm.addr + vm.size)
        except BaseException:
            destroy(state, vm)
            raise
        else:
            break
    vm.flags &= ~VM_UNINITIALIZED
    if state.kasan is not None:
        allow_access(state, vm)
    return vm


def reserve(state, size, align, shift, start, end, gfp, vm_flags, node, caller):
    """Step one, with the complaint and the retries of section 3.1."""
    while True:
        try:
            return get_vm_area_node(
                state, size, align, shift, VM_ALLOC | VM_UNINITIALIZED | vm_flags, start, end, node, gfp, caller
            )
        except (OutOfAddresses, OutOfFrames) as error:
            nofail = gfp & GFP_NOFAIL and gfp & GFP_DIRECT_RECLAIM
            message = f"vmalloc error: size {size}, vm_struct allocation failed" + (". Retrying." if nofail else "")
            error.add_note(message)
            state.warn_alloc(gfp, message)
            if not nofail:
                raise
            if not wait_a_tick(state):
                error.add_note("__GFP_NOFAIL would retry for ever: no deferred work is left that could change anything")
                raise


def wait_a_tick(state):
    """Lets deferred work run, as a sleeping task does; False when there was none, so that waiting is pointless."""
    return state.machine.run_deferred() > 0


def take(state, vm, gfp, shift, node):
    """Step two: the list of frames, then the frames (section 3.3); raises OutOfFrames when one is missing."""
    nested = (gfp & GFP_RECLAIM) | GFP_ZERO
    array_size = (vm.size_without_guard() >> state.page_shift) * state.pointer_size
    if array_size > state.page_size:
        try:
            vm.array_area = build(
                state, array_size, 1, state.page_shift, state.vmalloc_start, state.vmalloc_end,
                nested | (gfp & GFP_NOWARN), PROT_READ | PROT_WRITE, 0, node, vm.caller,
            )  # fmt: skip
            vm.array_area.is_array = True
        except (OutOfAddresses, OutOfFrames) as error:
            raise no_array(state, vm, gfp, array_size) from error
    elif not state.machine.slab("page array"):
        raise no_array(state, vm, gfp, array_size)
    if not gfp & (GFP_DMA | GFP_DMA32):
        gfp |= GFP_HIGHMEM
    if state.init_on_alloc:
        gfp |= GFP_ZERO
    order = shift - state.page_shift
    missing = take_area_pages(state, vm, gfp, order, node)
    if missing:
        error = out_of_frames(state, vm, missing, order, node)
        obtained = vm.nr_pages << state.page_shift
        message = f"vmalloc error: size {obtained}, failed to allocate pages"
        error.add_note(message)
        if order == 0:
            state.warn_alloc(gfp, message)
        raise error


def untake(state, vm):
    """Undoes a step two that found too few frames, so that it can be tried again."""
    array_area = vm.array_area
    vm.array_area = None
    release_area_pages(state, vm)
    if array_area is not None:
        take_apart(state, array_area)


def no_array(state, vm, gfp, array_size):
    """The error of an area whose list of frames found no memory."""
    size = vm.usable_size
    message = f"vmalloc error: size {size}, failed to allocated page array size {array_size}"
    state.warn_alloc(gfp, message)
    error = OutOfFrames(f"no memory for a list of page frames of {array_size} bytes ({format_size(array_size)})")
    error.add_note(message)
    return error


def map_area(state, vm, gfp, shift, prot):
    """Step three: maps the frames of a new area with mappings of ``1 << shift`` bytes (section 3.4)."""
    machine = state.machine
    waits = gfp & GFP_DIRECT_RECLAIM or not state.kernel.allows_nonblocking
    if not waits:
        machine.set_scope(False)
    try:
        if shift == state.page_shift:
            result = machine.map_pages(vm.addr, vm.pages, 0, vm.nr_pages, prot)
        else:
            result = map_blocks(state, vm, shift, prot)
    finally:
        if not waits:
            machine.set_scope(True)
    if result != 0:
        size = vm.size_without_guard()
        message = f"vmalloc error: size {size}, failed to map pages"
        if shift == state.page_shift:
            state.warn_alloc(gfp, message)
        error = OutOfFrames(f"no page frame for a page table to map {size} bytes ({format_size(size)})")
        error.add_note(message)
        raise error
    vm.page_order = shift - state.page_shift


def map_blocks(state, vm, shift, prot):
    """Maps an area block by block, each one physically contiguous; 0, or the first error."""
    per_block = 1 << (shift - state.page_shift)
    address = vm.addr
    i = 0
    while i < vm.nr_pages:
        result = state.machine.map_range(address, vm.pages.pfn[i], per_block << state.page_shift, shift, prot)
        if result != 0:
            return result
        i += per_block
        address += per_block << state.page_shift
    return 0


def destroy(state, vm):
    """Takes a half-built area apart: at once, or since 6.19 by a worker (section 3.5)."""
    state.failures += 1
    if not state.kernel.failed_area_waits:
        take_apart(state, vm)
        return
    state.failed_areas.append(vm)
    if len(state.failed_areas) == 1:
        state.machine.defer(Cleanup(state), state.machine.running.cpu)


def take_apart(state, vm):
    """Unmaps what was mapped, gives the frames back, and makes the addresses lazy."""
    array_area = vm.array_area
    vm.array_area = None
    remove_vm_area(state, vm.addr)
    release_area_pages(state, vm)
    if array_area is not None:
        take_apart(state, array_area)


class Cleanup:
    """The worker of failed areas (6.19)."""

    def __init__(self, state):
        self.state = state

    def __call__(self):
        failed = list(self.state.failed_areas)
        self.state.failed_areas.clear()
        for vm in failed:
            take_apart(self.state, vm)
