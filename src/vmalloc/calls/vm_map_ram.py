"""``vm_map_ram``: map a few frames for a short time, cheaply (specification sections 5.4 and 5.5).

Beside ``vmap`` it saves twice.  Addresses come from a block of the running CPU (``areas.vmap_blocks``), without a look
at the free tree; and giving them back flushes nothing: a block's dirty pages are settled together, when the block goes
or somebody asks for it (``calls.aliases``).  What is mapped has no ``vm_struct``, no guard page and no name: who maps
must remember the address and the count.

Told top to bottom, ``vm_map_ram``:

1. up to 64 pages (32 on 32 bits): a piece, of the first block in the CPU's queue that has room, or of a new block;
2. more: a range of exactly that size, like any area's, but without a guard;
3. map; what cannot be mapped is unmapped again, as its caller would have done it.  So the pages of a piece are lost to
   their block, as in the kernel: part of them may have been translated already.

``vm_unmap_ram`` may run on any CPU.  The kernel trusts its arguments - it stops at the worst of them (BUG) and loses
memory over others; here a start and a count that are not those of a live mapping raise, and nothing is changed.

The frames stay whose they are.
"""

import cython

from vmalloc.calls.aliases import destroy_block, purge_fragmented_blocks
from vmalloc.calls.kasan_report import report_free
from vmalloc.calls.ram_words import mapped_at, what_is_at
from vmalloc.calls.vmalloc import checked_node
from vmalloc.calls.vmap import expect_memory, no_mapping
from vmalloc.errors import BadAddress, BadSize, OutOfFrames
from vmalloc.units import format_range

if not cython.compiled:
    from vmalloc.areas.states import NIL, VMAP_BLOCK, VMAP_RAM
    from vmalloc.areas.vmap_blocks import rounded
    from vmalloc.calls.lazy import free_vmap_area_noflush
    from vmalloc.calls.reserve import alloc_vmap_range
    from vmalloc.flags import GFP_KERNEL, PROT_READ, PROT_WRITE, TASK

__all__ = ["unmap_everything", "vm_map_ram", "vm_unmap_ram"]


def vm_map_ram(state, pages, node):
    """Maps frames contiguously, readable and writable; the address of the first.

    Args:
        pages: the frames, in order; a frame may stand there twice.
        node: where records may come from, or None; it decides nothing here.

    Raises:
        BadContext: in an interrupt: a new block may have to wait for a purge.
        BadSize: no page. BadFrame: a frame that is no memory. BadRequest: no such node.
        OutOfAddresses: no room for a block, or for the range.
        OutOfFrames: no memory for a record or a page table; pages of a block that could not be mapped are dirty then.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("vm_map_ram", "it may sleep: task context only")
    if node is not None:
        checked_node(state, node)
    count = pages.nr_pages
    if count == 0:
        raise BadSize(state.warn("vm_map_ram: no page to map"))
    for i in range(count):
        if state.machine.node_of(pages.pfn[i]) < 0:
            expect_memory(state, pages)
    if count > state.blocks.max_alloc:
        address = map_range(state, pages, count)
    else:
        address = map_piece(state, pages, count)
    if state.kasan is not None:
        size = count << state.page_shift
        state.kasan.allocated(address, address + size, size, "vm_map_ram")
    return address


def vm_unmap_ram(state, address, count):
    """Unmaps what ``vm_map_ram`` mapped, whole; no flush.

    Args:
        address: what that call returned.
        count: pages, as many as were given to it.

    Raises:
        BadContext: in an interrupt.
        BadAddress: not page aligned, outside the vmalloc range, or not the start of a live mapping.
        BadSize: no page, or not the count of that mapping.
    """
    if state.machine.running.context != TASK:
        raise state.refuse("vm_unmap_ram", "it may sleep: task context only")
    if not state.vmalloc_start <= address < state.vmalloc_end or not 0 < count <= state.vmalloc_end:
        raise refusal(state, address, count)
    start = address
    nr_pages = count
    block = state.blocks.find(start)
    if not is_live(state, block, start, nr_pages):
        if state.kasan is not None and state.kasan.tracks.freed_at(start) is not None:
            report_free(state, address, "vm_unmap_ram", "it was unmapped already")
        raise refusal(state, address, count)
    forget(state, start, nr_pages)
    if block != NIL:
        unmap_piece(state, block, start, nr_pages)
    else:
        unmap_range(state, start, nr_pages)


def is_live(state, block, address, count):
    """Whether ``vm_map_ram`` mapped exactly ``count`` pages at ``address``, of ``block`` or of a range of their own."""
    if address & (state.page_size - 1):
        return False
    if block == NIL:
        return state.ram_ranges.get(address, 0) == count
    page = (address & (state.blocks.block_size - 1)) >> state.page_shift
    return state.blocks.piece_pages(block, page) == count


# -- pieces of blocks --------------------------------------------------------------------------------------------------


def map_piece(state, pages, count):
    """Maps into a piece of a block; its address."""
    blocks = state.blocks
    block = blocks.choose(state.machine.running.cpu, rounded(count))
    if block == NIL:
        block = new_block(state)
    address = blocks.take(block, count)
    result = state.machine.map_pages(address, pages, 0, count, PROT_READ | PROT_WRITE)
    if result != 0:
        unmap_piece(state, block, address, count)
        raise no_mapping(result, address, count << state.page_shift)
    return address


def new_block(state):
    """Makes a block for the running CPU (``new_vmap_block``); its record."""
    blocks = state.blocks
    if not state.machine.slab("vmap_block"):
        raise OutOfFrames("no memory for a vmap_block")
    start = alloc_vmap_range(
        state, blocks.block_size, blocks.block_size, state.vmalloc_start, state.vmalloc_end, GFP_KERNEL,
        (VMAP_RAM | VMAP_BLOCK) if state.kernel.keeps_used_map else 0,
    )  # fmt: skip
    block = blocks.add(start, state.machine.running.cpu)
    if block == NIL:
        state.allocator.give_back(start)
        raise MemoryError("no memory for the record of a vm_map_ram block")
    return block


def unmap_piece(state, block, address, count):
    """Unmaps a piece; its pages are dirty. A block of nothing else goes."""
    end = address + (count << state.page_shift)
    state.machine.unmap(address, end)
    if state.debug_pagealloc:
        state.machine.flush(address, end)
    page = (address & (state.blocks.block_size - 1)) >> state.page_shift
    if state.blocks.give(block, page, count):
        destroy_block(state, address & ~(state.blocks.block_size - 1))


# -- ranges of their own -----------------------------------------------------------------------------------------------


def map_range(state, pages, count):
    """Maps into a range of exactly ``count`` pages; its address."""
    address = alloc_vmap_range(
        state, count << state.page_shift, state.page_size, state.vmalloc_start, state.vmalloc_end, GFP_KERNEL,
        VMAP_RAM if state.kernel.keeps_used_map else 0,
    )  # fmt: skip
    state.ram_ranges[address] = count
    result = state.machine.map_pages(address, pages, 0, count, PROT_READ | PROT_WRITE)
    if result != 0:
        unmap_range(state, address, count)
        raise no_mapping(result, address, count << state.page_shift)
    return address


def unmap_range(state, address, count):
    """Unmaps such a range and makes it lazy, as any area (section 4.2)."""
    end = address + (count << state.page_shift)
    state.machine.unmap(address, end)
    if state.debug_pagealloc:
        state.machine.flush(address, end)
    free_vmap_area_noflush(state, address)
    del state.ram_ranges[address]


# -- all of it, and what is wrong --------------------------------------------------------------------------------------


def unmap_everything(state):
    """Unmaps all that is mapped, and gives all blocks back: the space is closed."""
    blocks = state.blocks
    for address, count in list(state.ram_ranges.items()):
        forget(state, address, count)
        unmap_range(state, address, count)
    for block in blocks.indexed():
        start = blocks.get(block)["va_start"]
        for page, count in blocks.pieces(block):
            forget(state, start + (page << state.page_shift), count)
            unmap_piece(state, block, start + (page << state.page_shift), count)
    purge_fragmented_blocks(state)


def forget(state, address, count):
    """Tells KASAN, if there is one, that a mapping goes."""
    if state.kasan is not None:
        state.kasan.freed(address, count << state.page_shift)


def refusal(state, address, count):
    """The error of a ``vm_unmap_ram`` of something that is not mapped so."""
    if count <= 0:
        return BadSize(f"vm_unmap_ram: {count} pages: at least 1")
    if not state.vmalloc_start <= address < state.vmalloc_end:
        whole = format_range(state.vmalloc_start, state.vmalloc_end)
        return BadAddress(address, f"is not in the vmalloc range {whole}")
    if address & (state.page_size - 1):
        return BadAddress(address, f"is not page aligned (pages of {state.page_size:#x} bytes)")
    mapped = mapped_at(state, address)
    if mapped is not None and mapped[0] == address:
        return BadSize(f"vm_unmap_ram of {count} pages at {address:#x}: vm_map_ram mapped {mapped[1]} there")
    found = what_is_at(state, address)
    if found is None:
        return BadAddress(address, "is nothing that vm_map_ram mapped, or was unmapped already")
    return BadAddress(address, f"no mapping of vm_map_ram begins there: {found[1]}")
