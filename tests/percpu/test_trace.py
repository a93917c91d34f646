"""Events of the per-CPU allocator, as an observer is told them."""

from __future__ import annotations

from typing import Any

import pytest

from percpu.rig import KIB, fill_first, make
from vmalloc.errors import OutOfAddresses, OutOfFrames

pytestmark = pytest.mark.both_builds


def test_chunks_and_objects_are_traced_with_their_addresses() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    space = make(observer=lambda event, **fields: seen.append((event, fields)))
    held = fill_first(space)
    first = next(fields for event, fields in seen if event == "percpu_alloc_percpu")
    assert first["ptr"] == first["base_addr"] + first["off"] == held[0].base
    assert (first["size"], first["align"], first["bytes_alloc"]) == (4, 8, 4)
    assert (first["reserved"], first["is_atomic"], first["gfp_flags"]) == (0, 0, "GFP_KERNEL")
    assert "fill_first" in first["call_site"]
    big = [space.alloc_percpu(32 * KIB) for _ in range(3)]

    def bases_of(event: str) -> list[int]:
        return [fields["base_addr"] for name, fields in seen if name == event]

    assert bases_of("percpu_create_chunk") == [chunk.base for chunk in space.percpu.chunks if not chunk.fixed]
    bases = [p.base for p in big]
    for p in big:
        p.free()
    assert [fields["ptr"] for event, fields in seen if event == "percpu_free_percpu"] == bases
    space.run_deferred()
    kept = [chunk.base for chunk in space.percpu.chunks if not chunk.fixed]
    assert sorted(bases_of("percpu_destroy_chunk") + kept) == sorted(bases_of("percpu_create_chunk"))


def test_failures_are_traced() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    space = make(observer=lambda event, **fields: seen.append((event, fields)))
    held = fill_first(space)
    with space.in_context("hardirq"), pytest.raises(OutOfFrames):
        space.alloc_percpu(32 * KIB, 16)
    with pytest.raises(OutOfAddresses):
        space.alloc_percpu(5 * KIB, reserved=True)
    failed = [fields for event, fields in seen if event == "percpu_alloc_percpu_fail"]
    assert failed == [
        {"reserved": 0, "is_atomic": 1, "size": 32 * KIB, "align": 16},
        {"reserved": 1, "is_atomic": 0, "size": 5 * KIB, "align": 8},
    ]
    assert held
