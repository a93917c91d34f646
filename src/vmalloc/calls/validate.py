"""The validator of the state: areas, addresses and memory agree with each other.

The machine and the address space check themselves; here is checked what only the calls know.  It trusts nothing but the
busy set and the page tables, and walks every page of every area: as slow as that is.

* every area is a busy range of exactly its size, and every busy range without an area is early memory or
  ``vm_map_ram``;
* a live area that owns frames has as many as it has pages, each held by somebody, none in two owning areas;
* what is mapped at each page is the frame that the list says; behind them the guard page maps nothing;
* what ``vm_map_ram`` has is busy, marked as it says, and maps the pages that are in use, and no others; no other busy
  range is marked so;
* nothing is mapped outside areas: lazy, pooled and free ranges translate to nothing in the reference table;
* ``nr_vmalloc_pages`` is the sum; an area that is being torn down by a worker is told apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmalloc.areas.address_space import VmapArea
from vmalloc.areas.states import VMAP_BLOCK, VMAP_RAM
from vmalloc.areas.validate_blocks import validate_blocks
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import ValidationError
from vmalloc.flags import VM_ALLOC, VM_IOREMAP, VM_MAP_PUT_PAGES, VM_SPARSE, VM_UNINITIALIZED
from vmalloc.kasan.layout import GRANULE, KASAN_VMALLOC_INVALID
from vmalloc.units import format_range

if TYPE_CHECKING:
    from vmalloc.calls.state import VmallocState

__all__ = ["validate_areas", "validate_shadow"]


def validate_areas(state: VmallocState) -> None:
    """Checks areas against addresses and memory.

    Raises:
        ValidationError: two of them contradict each other; it names both.
    """
    busy = {area.start: area for area in state.space.busy()}
    owners: dict[int, VmStruct] = {}
    counted = 0
    for start, vm in state.areas.items():
        name = f"{vm!r}"
        _expect(vm.addr == start, name, f"its place under {start:#x}")
        _expect(vm.live, name, "the areas, where only live ones are")
        _expect(start in busy, name, "the busy ranges, where none starts there")
        _expect(busy[start].end == vm.addr + vm.size, name, f"the busy range {busy[start]}")
        counted += _check_frames(state, vm, owners)
        _check_mapping(state, vm)
    _check_ram(state, busy)
    said = f"nr_vmalloc_pages {state.nr_vmalloc_pages}"
    _expect(counted == state.nr_vmalloc_pages, f"{counted} frames of areas", said)
    for area in state.space.lazy() + state.space.pooled():
        for address in range(area.start, area.end, state.page_size):
            pfn = state.machine.translate(address)
            _expect(pfn < 0, f"{area}", f"frame {pfn:#x} mapped at {address:#x}")


def validate_shadow(state: VmallocState) -> None:
    """Checks KASAN's shadow against areas and memory (sections 9.3 and 9.4).

    * each shadow page that it says exists is mapped, to a frame of its own; as many were made as are left;
    * shadow allows exactly what the owner of each area asked for, and nothing of what is nobody's: but for what freeing
      a per-CPU area leaves open, and for ``vm_map_ram`` and early memory, whose owners are not known here;
    * the whole of each busy range has shadow, guard page included;
    * who is said to have allocated an area is said so of every complete one, and of no other.

    Raises:
        ValidationError: two of them contradict each other.
    """
    kasan = state.kasan
    kasan.tracks.validate()
    _check_shadow_frames(state)
    inside: dict[int, list[Any]] = {page: [] for page in sorted(kasan.present)}
    for area in state.space.busy():
        if not kasan.covers(area.start, area.end):
            continue
        vm = state.areas.get(area.start)
        if vm is not None:
            track, size = kasan.tracks.live.get(area.start), _allowed(vm)
            _expect((track.size if track else 0) == size, f"{vm!r} of {size} bytes", f"who allocated it: {track}")
        for page in range(*kasan.pages_of(area.start, area.end)):
            _expect(page in inside, f"{area}", f"shadow page {page << state.page_shift:#x}, which is missing")
            inside[page].append(area)
    for page, areas in inside.items():
        _check_shadow_page(state, page, areas)


def _check_shadow_page(state: VmallocState, page: int, areas: list[Any]) -> None:
    """Each byte of a shadow page is what the areas in it say, and ``KASAN_VMALLOC_INVALID`` where there are none."""
    kasan = state.kasan
    first = kasan.layout.memory(page << state.page_shift)
    behind = first + kasan.layout.unit
    found = state.machine.read_frame(state.machine.translate(page << state.page_shift), 0, state.page_size)
    expected = bytearray([KASAN_VMALLOC_INVALID]) * state.page_size
    for area in areas:
        vm = state.areas.get(area.start)
        if vm is None:  # whose parts are whose is not known here
            start, end = (max(area.start, first) - first) >> 3, (min(area.end, behind) - first) >> 3
            expected[start:end] = found[start:end]
            continue
        end = vm.addr + _allowed(vm)
        if end > first:
            cells = kasan.expected(min(end, behind) - max(vm.addr, first))
            at = (max(vm.addr, first) - first) >> 3
            expected[at : at + len(cells)] = cells
    if found == expected:
        return
    for i, (cell, want) in enumerate(zip(found, expected, strict=True)):
        address = first + i * GRANULE
        left = any(start <= address < end for start, end in kasan.left_open.items())
        if cell != want and not (cell == 0 and left):
            owner = state.find_area(address)
            whose = "what is nobody's" if owner is None else f"{owner!r} of {_allowed(owner)} bytes"
            _expect(False, whose, f"shadow byte {cell} of {address:#x}, not {want}")


def _check_shadow_frames(state: VmallocState) -> None:
    """Shadow pages have frames, each its own, and there are as many as were made and not released."""
    kasan = state.kasan
    frames: dict[int, int] = {}
    for page in kasan.present:
        pfn = state.machine.translate(page << state.page_shift)
        name = f"shadow page {page << state.page_shift:#x}"
        _expect(pfn >= 0, name, "the page tables, which map nothing there")
        _expect(frames.setdefault(pfn, page) == page, name, f"another one with the same frame {pfn:#x}")
        _expect(not state.machine.why_not(pfn, 0), name, f"its frame {pfn:#x}: {state.machine.why_not(pfn, 0)}")
    said = f"{kasan.populated} made and {kasan.released} released"
    _expect(kasan.populated - kasan.released == len(kasan.present), f"{len(kasan.present)} shadow pages", said)


def _allowed(vm: VmStruct) -> int:
    """How many bytes of an area may be touched (section 9.3): none before it is complete.

    An area that only was reserved as if it had memory (``VM_ALLOC``) is never allowed; one of a per-CPU group, which
    looks the same but has no guard page, is as a whole.
    """
    if vm.flags & VM_UNINITIALIZED and vm.flags & VM_ALLOC:
        return 0
    whole = vm.size == vm.requested_size and vm.guard_size != 0
    if vm.flags & VM_ALLOC and vm.pages is None and not whole:
        return 0
    return int(vm.requested_size)


def _expect(holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError("areas", first, second)


def _check_ram(state: VmallocState, busy: dict[int, VmapArea]) -> None:
    """Blocks and ranges of ``vm_map_ram`` are busy ranges of their size, and map what they say."""
    blocks = state.blocks
    known = dict.fromkeys(validate_blocks(blocks), (blocks.block_size, VMAP_RAM | VMAP_BLOCK))
    for start, count in state.ram_ranges.items():
        _expect(start not in known, f"the vm_map_ram range at {start:#x}", "the block that begins there")
        known[start] = (count << state.page_shift, VMAP_RAM)
    for start, (size, mark) in known.items():
        name = f"the vm_map_ram range {format_range(start, start + size)}"
        _expect(start in busy and start not in state.areas, name, "the busy ranges without an area")
        _expect(busy[start].end == start + size, name, f"the busy range {busy[start]}")
        wanted = mark if state.kernel.keeps_used_map else 0
        marks = busy[start].flags & (VMAP_RAM | VMAP_BLOCK)
        _expect(marks == wanted, f"{name}, flags {wanted:#x}", f"flags {marks:#x} of the busy range")
        in_use = -1 if start in state.ram_ranges else blocks.get(blocks.at(start))["used"]
        for page in range(size >> state.page_shift):
            address = start + (page << state.page_shift)
            used, mapped = bool(in_use >> page & 1), state.machine.translate(address) >= 0
            if used != mapped:
                _expect(False, f"{name}: {address:#x}, in use: {used}", f"the page table, mapped: {mapped}")
    early = dict(state.space.early)
    for start, area in busy.items():
        _expect(start in known or not area.flags & VMAP_RAM, f"{area}, marked VMAP_RAM", "what vm_map_ram has")
        owned = start in known or start in state.areas or early.get(start) == area.end
        _expect(owned, f"{area}", "areas, vm_map_ram and early memory, which all have none there")


def _check_frames(state: VmallocState, vm: VmStruct, owners: dict[int, VmStruct]) -> int:
    """An area's frames are held, and by nobody else; how many count as vmalloc's."""
    if vm.pages is None:
        _expect(vm.nr_pages == 0, f"{vm!r} without a list of frames", f"{vm.nr_pages} frames")
        return 0
    _expect(len(vm.pages) == vm.nr_pages, f"{vm!r} with {vm.nr_pages} frames", f"a list of {len(vm.pages)}")
    if not vm.flags & VM_UNINITIALIZED:
        wanted = vm.usable_size >> state.page_shift
        _expect(vm.nr_pages == wanted, f"{vm!r} of {wanted} pages", f"{vm.nr_pages} frames")
    for pfn in vm.pages:
        why = state.machine.why_not(pfn, 0)
        _expect(not why, f"{vm!r}", f"its frame {pfn:#x}: {why}")
        other: Any = owners.setdefault(pfn, vm)
        same = other is vm or bool(vm.flags & VM_MAP_PUT_PAGES)
        _expect(same, f"{vm!r}", f"{other!r}, which has frame {pfn:#x} too")
    return 0 if vm.flags & VM_MAP_PUT_PAGES else vm.nr_pages


def _check_mapping(state: VmallocState, vm: VmStruct) -> None:
    """What is mapped is what the list of frames says; nothing is mapped in the guard page."""
    end = vm.addr + vm.size
    for address in range(vm.addr + vm.usable_size, end, state.page_size):
        if vm.flags & VM_ALLOC and vm.pages is None:
            break  # per-CPU areas have no guard page
        pfn = state.machine.translate(address)
        _expect(pfn < 0, f"the guard page of {vm!r}", f"frame {pfn:#x} mapped at {address:#x}")
    if vm.pages is None or vm.flags & (VM_UNINITIALIZED | VM_IOREMAP | VM_SPARSE):
        return
    for i, pfn in enumerate(vm.pages):
        address = vm.addr + (i << state.page_shift)
        found = state.machine.translate(address)
        said = f"page {i} of {format_range(vm.addr, end)}, frame {pfn:#x}"
        _expect(found == pfn, said, f"{found:#x}, which is mapped at {address:#x}")
