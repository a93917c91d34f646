"""The validators of the per-CPU allocator: they trust the bits and the page tables, and nothing that was counted.

* ``validate_free_map``: hints of every block, the number of free granules, and ``low``, against the bits;
* ``validate_chunk``: objects lie apart, aligned, inside, and are exactly what is taken; pages of objects are populated;
  counters of pages; bounds deny no fit that there is; frames are held, on record once, and mapped where they must be;
* ``validate_percpu``: every chunk in the right slot and nowhere else, its areas live and of the layout's geometry, sums
  equal to the counters, offsets of units constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmalloc.errors import ValidationError
from vmalloc.percpu.chunk import Chunk
from vmalloc.percpu.free_map import BYTES_PER_GRANULE, FreeMap
from vmalloc.units import format_range

if TYPE_CHECKING:
    from vmalloc.percpu.allocator import PercpuAllocator

__all__ = ["validate_chunk", "validate_free_map", "validate_percpu"]

_BLOCK = 1024


def _expect(holds: bool, structure: str, first: str, second: str) -> None:
    if not holds:
        raise ValidationError(structure, first, second)


def _runs(bits: list[bool]) -> list[tuple[int, int]]:
    """The free runs ``(start, end)``."""
    found, start = [], None
    for i, taken in enumerate([*bits, True]):
        if not taken and start is None:
            start = i
        elif taken and start is not None:
            found.append((start, i))
            start = None
    return found


def validate_free_map(free_map: FreeMap) -> None:
    """Checks a map against its bits; raises ValidationError."""
    bits = free_map.bits()
    padding = free_map.nr_blocks * _BLOCK - len(bits)
    for i in range(len(bits), len(bits) + padding):
        taken = free_map.words[i >> 6] >> (i & 63) & 1
        _expect(taken == 1, "free map", f"granule {i}, behind the last", "its bit, which says that it is free")
    bits += [True] * padding
    first_free = free_map.nr_blocks
    for b in range(free_map.nr_blocks):
        runs = _runs(bits[b * _BLOCK : (b + 1) * _BLOCK])
        if runs:
            first_free = min(first_free, b)
        wanted = (
            runs[0][1] if runs and runs[0][0] == 0 else 0,
            _BLOCK - runs[-1][0] if runs and runs[-1][1] == _BLOCK else 0,
            max((end - start for start, end in runs), default=0),
        )
        said = (free_map.left[b], free_map.right[b], free_map.longest[b])
        _expect(said == wanted, "free map", f"hints {said} of block {b}", f"its bits, which say {wanted}")
    nr_free = bits.count(False)
    _expect(free_map.nr_free == nr_free, "free map", f"nr_free {free_map.nr_free}", f"{nr_free} free bits")
    _expect(free_map.low <= first_free, "free map", f"low {free_map.low}", f"a free granule in block {first_free}")


def validate_chunk(chunk: Chunk) -> None:
    """Checks a chunk against its objects and its bits; raises ValidationError."""
    name = f"{chunk!r}"
    validate_free_map(chunk.map)
    bits = chunk.map.bits()
    owner: dict[int, str] = dict.fromkeys(range(chunk.start // BYTES_PER_GRANULE), "hidden bytes")
    owner |= dict.fromkeys(range(chunk.end // BYTES_PER_GRANULE, len(bits)), "hidden bytes")
    allocated = 0
    for offset, found in chunk.objects.items():
        said = f"{found!r}"
        here = found.live and found.chunk is chunk and found.offset == offset
        _expect(here, "per-CPU chunk", said, f"its place {offset:#x} in {name}")
        _expect(offset % found.align == 0, "per-CPU chunk", said, f"its alignment {found.align}")
        granules = -(-found.size // BYTES_PER_GRANULE)
        allocated += granules * BYTES_PER_GRANULE
        for i in range(offset // BYTES_PER_GRANULE, offset // BYTES_PER_GRANULE + granules):
            _expect(i < len(bits), "per-CPU chunk", said, f"the end of {name}")
            _expect(i not in owner, "per-CPU chunk", said, f"{owner.get(i)} at granule {i}")
            owner[i] = said
            page = i * BYTES_PER_GRANULE >> chunk.page_shift
            _expect(bool(chunk.populated[page]), "per-CPU chunk", said, f"page {page}, which has no frames")
    for i, taken in enumerate(bits):
        whose = owner.get(i, "no object")
        _expect(taken == (i in owner), "per-CPU chunk", f"granule {i} of {name}, taken: {taken}", f"{whose} there")
    said = f"{chunk.allocated} bytes of {name}"
    _expect(chunk.allocated == allocated, "per-CPU chunk", said, f"{allocated} of objects")
    _check_pages(chunk, owner)
    _check_bounds(chunk, bits)


def _check_pages(chunk: Chunk, owner: dict[int, str]) -> None:
    """Counters of pages, and frames of populated ones only."""
    name = f"{chunk!r}"
    per_page = (1 << chunk.page_shift) // BYTES_PER_GRANULE
    used = [0] * chunk.nr_pages
    for granule in owner:
        used[granule // per_page] += 1
    counted = list(chunk.used)
    _expect(counted == used, "per-CPU chunk", f"granules used in pages of {name}: {counted}", f"{used}")
    populated = [page for page in range(chunk.nr_pages) if chunk.populated[page]]
    said = f"nr_populated {chunk.nr_populated} of {name}"
    _expect(chunk.nr_populated == len(populated), "per-CPU chunk", said, f"{len(populated)} populated pages")
    empty = sum(used[page] == 0 for page in populated)
    _expect(chunk.nr_empty == empty, "per-CPU chunk", f"nr_empty {chunk.nr_empty} of {name}", f"{empty} empty pages")


def _check_bounds(chunk: Chunk, bits: list[bool]) -> None:
    """No bound denies a fit that there is."""
    runs = _runs(bits)
    for k, bound in enumerate(chunk.bound):
        align = 1 << k
        longest = max((end - (start + align - 1) // align * align for start, end in runs), default=0)
        said = f"bound {bound} of {chunk!r} for alignment {align * BYTES_PER_GRANULE}"
        _expect(longest < bound, "per-CPU chunk", said, f"a fit of {longest} granules")


def _check_frames(allocator: Any, chunk: Chunk, owners: dict[int, str]) -> None:
    """Frames are held, once each; what is mapped in a unit are these and nothing else."""
    machine, layout = allocator.machine, allocator.layout
    for page in range(chunk.nr_pages):
        frames = chunk.frames_of(page)
        for cpu in range(chunk.nr_cpus):
            address = chunk.base + allocator.unit_offsets[cpu] + (page << chunk.page_shift)
            said = f"page {page} of CPU {cpu} in {chunk!r}"
            if frames:
                why = machine.why_not(frames[cpu], 0)
                _expect(not why, "per-CPU frames", said, f"its frame {frames[cpu]:#x}: {why}")
                key = said if not chunk.fixed else f"CPU {cpu} at {address:#x}"
                other = owners.setdefault(frames[cpu], key)
                _expect(other == key, "per-CPU frames", said, f"{other}, which has frame {frames[cpu]:#x} too")
            if layout.kind == "embed" and chunk.fixed:
                where = machine.info.direct_map_start + (frames[cpu] << chunk.page_shift)
                _expect(where == address, "per-CPU frames", said, f"the permanent address {where:#x} of its frame")
                continue
            mapped = machine.translate(address)
            if frames:
                said = f"{said}, frame {frames[cpu]:#x}"
                _expect(mapped == frames[cpu], "per-CPU frames", said, f"{mapped:#x}, which is mapped")
            elif not chunk.fixed:
                _expect(mapped < 0, "per-CPU frames", f"{said}, not populated", f"frame {mapped:#x} mapped there")


def validate_percpu(allocator: PercpuAllocator) -> None:
    """Checks a per-CPU allocator whole; one that was never used has nothing to check.

    Raises:
        ValidationError: two parts contradict each other; it names both.
    """
    layout, state = allocator.layout, allocator.state
    if layout is None:
        _expect(not allocator.chunks, "per-CPU allocator", "no layout", f"{len(allocator.chunks)} chunks")
        _expect(state.percpu_pages == 0, "per-CPU allocator", "no layout", f"{state.percpu_pages} frames")
        return
    said = f"offsets of units {allocator.unit_offsets}"
    same = layout.unit_offsets == allocator.unit_offsets
    _expect(same, "per-CPU allocator", said, f"the layout's {layout.unit_offsets}")
    owners: dict[int, str] = {}
    for chunk in allocator.chunks:
        validate_chunk(chunk)
        _check_frames(allocator, chunk, owners)
        _check_place(allocator, chunk)
        _check_areas(allocator, chunk)
    if allocator.reserved is not None:
        validate_chunk(allocator.reserved)
        _check_frames(allocator, allocator.reserved, owners)
    placed = sum(len(slot) for slot in allocator.slots)
    _expect(placed == len(allocator.chunks), "per-CPU slots", f"{placed} chunks", f"{len(allocator.chunks)} there are")
    sums = {
        "nr_objects": sum(len(chunk.objects) for chunk in allocator.chunks),
        "nr_empty": sum(chunk.nr_empty for chunk in allocator.chunks),
        "nr_populated": sum(chunk.nr_populated for chunk in allocator.chunks),
    }
    for name, found in sums.items():
        count = getattr(allocator, name)
        _expect(count == found, "per-CPU allocator", f"{name} {count}", f"the sum over chunks, {found}")
    frames = sums["nr_populated"] * state.info.cpus
    _expect(state.percpu_pages == frames, "per-CPU allocator", f"{state.percpu_pages} frames", f"{frames} of chunks")


def _check_place(allocator: PercpuAllocator, chunk: Chunk) -> None:
    """A chunk stands in the slot of its free granules, and in no other."""
    wanted = chunk.map.nr_free.bit_length()
    found = [number for number, slot in enumerate(allocator.slots) if chunk in slot]
    _expect(found == [wanted] == [chunk.slot], "per-CPU slots", f"{chunk!r} in slots {found}", f"its slot {wanted}")


def _check_areas(allocator: Any, chunk: Chunk) -> None:
    """A chunk has an area per group, live, where the layout says."""
    layout, state = allocator.layout, allocator.state
    if chunk.fixed:
        return
    groups = zip(layout.group_offsets, layout.group_sizes, strict=True)
    wanted = [(chunk.base + offset, size) for offset, size in groups]
    found = [(vm.addr, vm.size) for vm in chunk.areas]
    _expect(found == wanted, "per-CPU chunk", f"areas {found} of {chunk!r}", f"the layout's groups {wanted}")
    for vm in chunk.areas:
        name = format_range(vm.addr, vm.addr + vm.size)
        known = vm.live and state.areas.get(vm.addr) is vm
        _expect(known, "per-CPU chunk", f"{name} of {chunk!r}", "the areas there are")
