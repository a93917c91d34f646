"""The validator of ``vm_map_ram`` blocks: every invariant that ``vmap_blocks`` states, from the stored numbers alone.

It trusts nothing: a record's number is looked up only after it was found to be inside the table, and pieces are read
off the bitmaps here, not by the code that keeps them.  Whether a block's addresses are busy, and whether what is mapped
is what the bitmaps say, only the calls can check (``calls.validate``).
"""

from __future__ import annotations

from typing import Any

from vmalloc.areas.vmap_blocks import VmapBlocks
from vmalloc.errors import ValidationError
from vmalloc.units import format_address

__all__ = ["validate_blocks"]


def validate_blocks(blocks: VmapBlocks) -> list[int]:
    """Checks all blocks, their index and their queues.

    Returns:
        The starts of the blocks, ascending.

    Raises:
        ValidationError: two of them contradict each other; it names both.
    """
    found = _check_index(blocks)
    _check_spares(blocks, found)
    queued = _check_queues(blocks, found)
    for b, fields in found.items():
        name = f"block {format_address(fields['va_start'])}"
        said = f"{fields['free']} free pages"
        _expect((fields["free"] > 0) == (b in queued), f"{name} with {said}", f"the queues, where it is {b in queued}")
        _check_pages(blocks, fields, name)
    return sorted(fields["va_start"] for fields in found.values())


def _expect(holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError("vm_map_ram blocks", first, second)


def _check_index(blocks: VmapBlocks) -> dict[int, dict[str, Any]]:
    """Each entry leads to a record of its own, which is at the address that slot and key say; records by number."""
    found: dict[int, dict[str, Any]] = {}
    for slot in range(blocks.nr_slots):
        for key, b in blocks.index.items(slot):
            entry = f"entry {key} of slot {slot}"
            _expect(0 < b < blocks.used_records, entry, f"record {b} of a table of {blocks.used_records}")
            _expect(b not in found, entry, f"another entry for record {b}")
            found[b] = blocks.get(b)
            start = found[b]["va_start"]
            name = f"block {format_address(start)}"
            _expect(start % blocks.block_size == 0, name, f"blocks of {blocks.block_size:#x} bytes")
            _expect((start - blocks.base) // blocks.block_size == key, name, f"{entry}, which has it")
            _expect(start // blocks.block_size % blocks.nr_slots == slot, name, f"slot {slot}, where it is")
    _expect(len(found) == blocks.nr_blocks, f"{len(found)} blocks", f"a count of {blocks.nr_blocks}")
    return found


def _check_spares(blocks: VmapBlocks, found: dict[int, dict[str, Any]]) -> None:
    """Every record is a block or spare, and none is both."""
    spares = blocks.spares()
    for place, b in enumerate(spares):
        _expect(0 < b < blocks.used_records, f"spare record {b}", f"a table of {blocks.used_records}")
        _expect(b not in spares[:place], f"spare record {b}", "itself, earlier on the list")
        _expect(b not in found, f"spare record {b}", "the index, which has it")
    known = len(spares) + len(found)
    _expect(known == blocks.used_records - 1, f"{known} records", f"{blocks.used_records - 1} that were handed out")


def _check_queues(blocks: VmapBlocks, found: dict[int, dict[str, Any]]) -> set[int]:
    """Queues are joined in both directions and hold blocks of their CPU; the records in them."""
    queued: set[int] = set()
    for cpu in range(blocks.nr_cpus):
        head, tail = blocks.ends(cpu)
        before = 0
        for b in blocks.queued(cpu):
            place = f"the queue of CPU {cpu}"
            _expect(b in found, f"record {b}, which is no block", place)
            _expect(b not in queued, f"block {format_address(found[b]['va_start'])}", f"{place}: it is queued twice")
            queued.add(b)
            fields = found[b]
            name = f"block {format_address(fields['va_start'])}"
            _expect(fields["cpu"] == cpu, f"{name} of CPU {fields['cpu']}", place)
            _expect(fields["previous"] == before, f"{name} behind record {fields['previous']}", f"{place}: {before}")
            before = b
        _expect(before == tail, f"the tail {tail} of the queue of CPU {cpu}", f"its last record {before}")
        _expect((head == 0) == (tail == 0), f"head {head} of the queue of CPU {cpu}", f"its tail {tail}")
    for b, fields in found.items():
        name = f"block {format_address(fields['va_start'])}"
        _expect(fields["queued"] == (b in queued), f"{name}, queued: {fields['queued']}", "the queues")
    return queued


def _check_pages(blocks: VmapBlocks, fields: dict[str, Any], name: str) -> None:
    """Pieces lie below the pointer, apart from each other, and the numbers add up."""
    nr_pages = blocks.block_pages
    free, dirty = fields["free"], fields["dirty"]
    _expect(free <= nr_pages and dirty <= nr_pages, name, f"{free} free and {dirty} dirty pages of {nr_pages}")
    handed_out = nr_pages - free
    live, reach = 0, 0
    for page, count in _pieces(fields, name):
        piece = f"the piece of {count} pages at page {page} of {name}"
        _expect(count <= blocks.max_alloc, piece, f"pieces of at most {blocks.max_alloc} pages")
        _expect(page >= reach, piece, f"the piece before it, which reaches to page {reach}")
        taken = 1 << (count - 1).bit_length()
        reach = page + taken
        live += taken
    _expect(reach <= handed_out, f"a piece of {name} that reaches to page {reach}", f"{handed_out} pages handed out")
    _expect(free + dirty + live == nr_pages, f"{name}: {free} free, {dirty} dirty, {live} live", f"{nr_pages} pages")
    _expect(dirty < nr_pages, name, "its dirty pages: a block of nothing else must be gone")
    low, high = fields["dirty_min"], fields["dirty_max"]
    empty = (low, high) == (nr_pages, 0)
    _expect(empty or low < high <= handed_out, f"the dirty range [{low}, {high}) of {name}", f"{handed_out} pages")
    _expect(empty or dirty > 0, f"the dirty range [{low}, {high}) of {name}", "a block without dirty pages")


def _pieces(fields: dict[str, Any], name: str) -> list[tuple[int, int]]:
    """Pieces as the bitmaps say: each begins at a page of ``first`` and goes on over pages of ``used`` only."""
    used, first = fields["used"], fields["first"]
    pieces: list[tuple[int, int]] = []
    for page in range(max(used, first).bit_length()):
        if first >> page & 1:
            _expect(bool(used >> page & 1), f"a piece at page {page} of {name}", "that page, which is not in use")
            pieces.append((page, 1))
        elif used >> page & 1:
            begun = bool(pieces) and sum(pieces[-1]) == page
            _expect(begun, f"page {page} of {name}, which is in use", "its pieces: it is in none")
            pieces[-1] = (pieces[-1][0], pieces[-1][1] + 1)
    return pieces
