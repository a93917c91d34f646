"""The validators find what is broken on purpose, and name both parties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from percpu.rig import KIB, PAGE, fill_first, make
from vmalloc.errors import ValidationError
from vmalloc.percpu.free_map import FreeMap
from vmalloc.percpu.validate import validate_free_map
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds


def busy_space() -> tuple[SimulatedSpace, list[Any]]:
    """A space with the first chunk, one half full and one nearly empty."""
    space = make()
    held = [*fill_first(space), space.alloc_percpu(16 * KIB), space.alloc_percpu(24 * KIB), space.alloc_percpu(100, 64)]
    held.append(space.alloc_percpu(16, reserved=True))
    space.run_deferred()
    space.validate()
    return space, held


def chunk_of(space: SimulatedSpace) -> Any:
    """The last chunk that is not fixed."""
    return space.percpu.chunks[-1]


def set_bit(space: SimulatedSpace) -> None:
    free_map = chunk_of(space).map
    start = free_map.first_fit(4)
    free_map.words[start >> 6] |= 1 << (start & 63)


def lose_an_object(space: SimulatedSpace) -> None:
    chunk_of(space).objects.popitem()


def overlap(space: SimulatedSpace) -> None:
    chunk = space.percpu.chunks[0]
    offset, found = min(chunk.objects.items())
    chunk.objects[offset + 8] = type(found)(chunk, offset + 8, 8, 8, None)


def misplace(space: SimulatedSpace) -> None:
    objects = chunk_of(space).objects
    objects[4] = objects.pop(next(iter(objects)))


def kill(space: SimulatedSpace) -> None:
    next(iter(chunk_of(space).objects.values())).live = False


def move_slot(space: SimulatedSpace) -> None:
    chunk = chunk_of(space)
    del space.percpu.slots[chunk.slot][chunk]
    space.percpu.slots[0][chunk] = None


def two_slots(space: SimulatedSpace) -> None:
    space.percpu.slots[0][chunk_of(space)] = None


def unpopulate(space: SimulatedSpace) -> None:
    chunk = chunk_of(space)
    chunk.populated[next(iter(chunk.objects)) // PAGE] = 0


def swap_frames(space: SimulatedSpace) -> None:
    chunk = chunk_of(space)
    page = next(iter(chunk.objects)) // PAGE
    at = page * 4
    chunk.pfn[at], chunk.pfn[at + 1] = chunk.pfn[at + 1], chunk.pfn[at]


def same_frame(space: SimulatedSpace) -> None:
    chunk = space.percpu.chunks[0]
    chunk.pfn[1] = chunk.pfn[0]


def give_a_frame_away(space: SimulatedSpace) -> None:
    chunk = chunk_of(space)
    page = next(iter(chunk.objects)) // PAGE
    space.machine.give(chunk.frames_of(page)[2], 0)


def unmap_a_page(space: SimulatedSpace) -> None:
    chunk = chunk_of(space)
    page = next(iter(chunk.objects)) // PAGE
    at = chunk.base + space.percpu.unit_offsets[1] + page * PAGE
    space.machine.unmap(at, at + PAGE)


def map_a_missing_page(space: SimulatedSpace) -> None:
    chunk = next(chunk for chunk in space.percpu.chunks if chunk.missing_pages())
    at = chunk.base + space.percpu.unit_offsets[3] + chunk.missing_pages()[0] * PAGE
    assert space.machine.map_pages(at, space.alloc_pages(1), 0, 1, 3) == 0


def lower_bound(space: SimulatedSpace) -> None:
    chunk_of(space).bound[0] = 1


def forget_area(space: SimulatedSpace) -> None:
    chunk_of(space).areas.pop()


def kill_area(space: SimulatedSpace) -> None:
    chunk_of(space).areas[0].live = False


def set_counter(name: str) -> Callable[[SimulatedSpace], None]:
    def broken(space: SimulatedSpace) -> None:
        setattr(space.percpu, name, getattr(space.percpu, name) + 1)

    return broken


def set_chunk_counter(name: str) -> Callable[[SimulatedSpace], None]:
    def broken(space: SimulatedSpace) -> None:
        setattr(chunk_of(space), name, getattr(chunk_of(space), name) + 1)

    return broken


def count_used(space: SimulatedSpace) -> None:
    chunk_of(space).used[0] += 1


def count_frames(space: SimulatedSpace) -> None:
    space.state.percpu_pages += 1


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (set_bit, r"free map: hints"),
        (lose_an_object, r"taken: True contradicts no object there"),
        (overlap, r"contradicts <per-CPU object .* at granule"),
        (misplace, r"contradicts its place 0x4"),
        (kill, r"bytes freed> contradicts"),
        (move_slot, r"per-CPU slots: .* in slots .0. contradicts its slot"),
        (two_slots, r"per-CPU slots"),
        (unpopulate, r"which has no frames"),
        (swap_frames, r"per-CPU frames: page .* which is mapped"),
        (same_frame, r"per-CPU frames: .*(has frame|permanent address)"),
        (give_a_frame_away, r"per-CPU frames: .*contradicts its frame"),
        (unmap_a_page, r"per-CPU frames: .*-0x1, which is mapped"),
        (map_a_missing_page, r"not populated contradicts frame"),
        (lower_bound, r"per-CPU chunk: bound 1 .* contradicts a fit of"),
        (forget_area, r"contradicts the layout's groups"),
        (kill_area, r"contradicts the areas"),
        (set_counter("nr_objects"), r"per-CPU allocator: nr_objects .* the sum over chunks"),
        (set_counter("nr_empty"), r"per-CPU allocator: nr_empty"),
        (set_counter("nr_populated"), r"per-CPU allocator: nr_populated"),
        (set_chunk_counter("nr_populated"), r"nr_populated .* populated pages"),
        (set_chunk_counter("nr_empty"), r"nr_empty .* empty pages"),
        (set_chunk_counter("allocated"), r"bytes of .* contradicts .* of objects"),
        (count_used, r"granules used in pages"),
        (count_frames, r"per-CPU allocator: .* frames contradicts .* of chunks"),
    ],
)
def test_what_is_broken_is_found(break_it: Callable[[SimulatedSpace], None], said: str) -> None:
    space, held = busy_space()
    break_it(space)
    with pytest.raises(ValidationError, match=said):
        space.validate()
    for p in held:
        p.detach()


@pytest.mark.parametrize("hint", ["left", "right", "longest"])
def test_a_wrong_hint_of_a_free_map_is_found(hint: str) -> None:
    free_map = FreeMap(3000)
    free_map.mark_taken(100, 50)
    validate_free_map(free_map)
    getattr(free_map, hint)[0] += 1
    with pytest.raises(ValidationError, match=r"hints .* of block 0 contradicts its bits"):
        validate_free_map(free_map)


def test_other_lies_of_a_free_map_are_found() -> None:
    free_map = FreeMap(3000)
    free_map.low = 1
    with pytest.raises(ValidationError, match="low 1 contradicts a free granule in block 0"):
        validate_free_map(free_map)
    free_map.low = 0
    free_map.nr_free = 7
    with pytest.raises(ValidationError, match="nr_free 7 contradicts 3000 free bits"):
        validate_free_map(free_map)
    free_map.nr_free = 3000
    free_map.words[46] &= (1 << 60) - 1  # 46 * 64 + 56 is where the map ends
    with pytest.raises(ValidationError, match="behind the last"):
        validate_free_map(free_map)


def test_an_unused_allocator_has_nothing_to_say_but_that() -> None:
    space = make()
    space.validate()
    space.state.percpu_pages = 3
    with pytest.raises(ValidationError, match="no layout contradicts 3 frames"):
        space.validate()
