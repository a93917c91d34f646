"""Following a ledger on a machine: frames, mappings, flushes, and what is found out when the history is wrong."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmalloc.areas.address_space import AddressSpace
from vmalloc.areas.ledger import Ledger
from vmalloc.areas.states import NOW_BUSY, NOW_FLUSHED, NOW_GONE, NOW_PROVEN
from vmalloc.errors import OutOfAddresses, OutOfFrames, ValidationError
from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.trace.replay.follower import Follower
from vmalloc.trace.replay.machine import validate_follower

pytestmark = pytest.mark.both_builds

P = 4096
HUGE = 2 << 20
BASE = 0xFFFFC90000000000


def follower(
    *entries: tuple[int, int, int, int], kernel: str = "6.12", arch: str = "x86_64", cpus: int = 2,
    nodes: tuple[int, ...] = (1 << 14,), ledger: Ledger | None = None,
) -> Follower:
    """A follower of these entries, which has followed none."""
    if ledger is None:
        ledger = Ledger()
        for entry in entries:
            ledger.add(*entry)
    ledger.settle()
    machine = SimulatedMachine(ARCHITECTURES[arch], profile(kernel), cpus=cpus, nodes=nodes)
    return Follower(machine, ledger, profile(kernel))


def followed(*entries: tuple[int, int, int, int], **settings: object) -> Follower:
    """A follower that has followed all of them."""
    found = follower(*entries, **settings)  # type: ignore[arg-type]
    found.run(len(found.ledger))
    return found


def stale(found: Follower) -> int:
    return int(found.machine.mmu.counters()["stale_tlb"])


def test_an_area_gets_frames_for_all_but_its_guard_page_and_is_touched_by_its_cpu() -> None:
    """Section 1.2: a guard page behind each area, which is not mapped."""
    found = followed((NOW_BUSY, BASE, BASE + 5 * P, 1))
    assert found.ranges() == [(BASE, BASE + 4 * P)]
    assert (found.frames_taken, found.accesses, found.mappings_made()) == (4, 2, {12: 4})
    assert found.machine.translate(BASE + 4 * P) == -1
    assert (len(found.machine.tlb(0)), len(found.machine.tlb(1))) == (0, 2)
    found.check()


def test_an_area_of_one_page_is_all_page_and_touched_once() -> None:
    found = followed((NOW_BUSY, BASE, BASE + P, 0))
    assert (found.ranges(), found.accesses) == ([(BASE, BASE + P)], 1)


def test_an_area_that_goes_gives_everything_back_but_tables() -> None:
    found = followed((NOW_BUSY, BASE, BASE + 5 * P, 0), (NOW_GONE, BASE, BASE + 5 * P, 1))
    assert (found.ranges(), found.machine.page_table.leaves_by_shift()) == ([], {})
    assert sum(node.used for node in found.machine.frames.stats()) == found.machine.page_table.table_frames
    found.check()


def test_with_its_flush_a_range_is_used_again_without_a_stale_access() -> None:
    """Section 4.2: the flush comes before the addresses are used again."""
    once = [(NOW_BUSY, BASE, BASE + 5 * P, 0), (NOW_GONE, BASE, BASE + 5 * P, 0)]
    found = followed(*once, (NOW_FLUSHED, BASE, BASE + 5 * P, 0), *once)
    assert (stale(found), found.machine.mmu.flushes, found.proven_flushes) == (0, 1, 0)
    found = followed(*once, (NOW_PROVEN, BASE, BASE + 5 * P, 0), *once)
    assert (stale(found), found.machine.mmu.flushes, found.proven_flushes) == (0, 1, 1)


def test_without_its_flush_the_stale_access_is_seen() -> None:
    """Section 4.2, broken on purpose. Another area has the frames meanwhile, so that the old translation is wrong."""
    found = followed(
        (NOW_BUSY, BASE, BASE + 5 * P, 0), (NOW_GONE, BASE, BASE + 5 * P, 0),
        (NOW_BUSY, BASE + 16 * P, BASE + 21 * P, 0), (NOW_BUSY, BASE, BASE + 5 * P, 0),
    )  # fmt: skip
    assert stale(found) == 2


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_a_range_of_whole_huge_blocks_is_mapped_by_them(kernel: str) -> None:
    """Section 3.2."""
    found = followed((NOW_BUSY, BASE, BASE + 2 * HUGE + P, 0), kernel=kernel)
    assert (found.mappings_made(), found.huge_areas, found.huge_fallbacks) == ({21: 2}, 1, 0)
    found.check()


@pytest.mark.parametrize(
    ("start", "size"), [(BASE + P, HUGE), (BASE, HUGE - P), (BASE, HUGE + P)], ids=["start", "short", "long"]
)
def test_any_other_range_is_mapped_by_base_pages(start: int, size: int) -> None:
    found = followed((NOW_BUSY, start, start + size + P, 0))
    assert found.mappings_made() == {12: size // P}
    assert (found.huge_areas, found.huge_fallbacks) == (0, 0)


def test_without_blocks_a_huge_area_gets_base_pages() -> None:
    """Section 3.2: transparently. Every second area that goes leaves its frames, and no block of 2 MiB is whole."""
    small = [(NOW_BUSY, BASE + (64 + 2 * k) * HUGE, BASE + (64 + 2 * k) * HUGE + 257 * P, 0) for k in range(12)]
    gone = [(NOW_GONE, start, end, 0) for _kind, start, end, _cpu in small[::2]]
    found = followed(*small, *gone, (NOW_BUSY, BASE, BASE + HUGE + P, 0), nodes=(3200,))
    assert (found.huge_areas, found.huge_fallbacks) == (0, 1)
    assert found.mappings_made() == {12: 12 * 256 + 512}
    found.check()


def test_too_little_memory_is_an_error_that_leaves_the_areas_before_it() -> None:
    found = follower((NOW_BUSY, BASE, BASE + 5 * P, 0), (NOW_BUSY, BASE + HUGE, BASE + 9 * HUGE, 0), nodes=(2048,))
    with pytest.raises(OutOfFrames, match=r"no 16\.0 MiB of frames for 0xffffc90000200000"):
        found.run(2)
    assert (found.done, found.ranges()) == (1, [(BASE, BASE + 4 * P)])
    found.check()


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([(NOW_GONE, BASE, BASE + P, 0)], "none there"),
        ([(NOW_BUSY, BASE, BASE + 3 * P, 0), (NOW_BUSY, BASE, BASE + 2 * P, 0)], "an area that starts there"),
        ([(NOW_BUSY, BASE, BASE + 9 * P, 0), (NOW_BUSY, BASE + 4 * P, BASE + 6 * P, 0)], "errno 16"),
    ],
    ids=["gone twice", "busy twice", "overlap"],
)
def test_a_history_that_contradicts_itself_is_found_out(
    entries: list[tuple[int, int, int, int]], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        followed(*entries)


def test_memory_comes_from_the_node_of_the_cpu_that_asks() -> None:
    """Section 3.3: without a node asked for, the CPU's own."""
    found = followed(
        (NOW_BUSY, BASE, BASE + 5 * P, 0), (NOW_BUSY, BASE + 8 * P, BASE + 13 * P, 1), nodes=(1 << 13, 1 << 13)
    )
    assert [found.machine.node_of(found.areas[start][0]) for start in (BASE, BASE + 8 * P)] == [0, 1]


# -- the check ---------------------------------------------------------------------------------------------------------


def test_a_page_that_is_not_mapped_to_its_frame_is_found() -> None:
    found = followed((NOW_BUSY, BASE, BASE + 5 * P, 0))
    found.machine.unmap(BASE + 2 * P, BASE + 3 * P)
    with pytest.raises(ValidationError, match="nothing being mapped at 0xffffc90000002000"):
        found.check()


def test_a_mapping_of_no_area_is_found() -> None:
    found = followed((NOW_BUSY, BASE, BASE + 5 * P, 0))
    found.machine.map_pages(BASE + 8 * P, found.areas[BASE], 0, 1, 3)
    with pytest.raises(ValidationError, match="20480 bytes that are mapped"):
        found.check()


def test_a_frame_that_nobody_accounts_for_is_found() -> None:
    found = followed((NOW_BUSY, BASE, BASE + 5 * P, 0))
    found.machine.take(0, 0, 0)
    with pytest.raises(ValidationError, match="frames that are held"):
        found.check()


def test_an_area_that_only_one_of_the_two_has_is_found() -> None:
    space = AddressSpace(BASE, BASE + 64 * P)
    ledger = Ledger()
    space.allocator.nodes.attach_ledger(ledger)
    first = space.alloc(4 * P)
    found = followed(ledger=ledger)
    validate_follower(found, space.allocator)
    second = space.alloc(2 * P)
    with pytest.raises(ValidationError, match=f"{second:#x}.*busy and not mapped"):
        validate_follower(found, space.allocator)
    space.free(first)
    space.free(second)
    with pytest.raises(ValidationError, match=f"{first:#x}.*mapped and not busy"):
        validate_follower(found, space.allocator)


# -- everything ----------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.integers(0, 2**32), st.sampled_from(["6.1", "6.12", "6.19"]), st.integers(1, 3),
    st.sampled_from(["x86_64", "arm64_4k", "riscv64_sv48", "x86_64_la57"]),
)  # fmt: skip
def test_whatever_a_space_does_the_machine_agrees_and_no_access_is_stale(
    seed: int, kernel: str, cpus: int, arch: str
) -> None:
    draw = random.Random(seed)
    start = ARCHITECTURES[arch].vmalloc_start
    space = AddressSpace(start, start + 64 * P, kernel=kernel, cpus=cpus)
    ledger = Ledger()
    space.allocator.nodes.attach_ledger(ledger)
    for _ in range(80):
        roll, busy = draw.random(), space.busy()
        space.allocator.nodes.cpu = cpu = draw.randrange(cpus)
        if roll < 0.55:
            with contextlib.suppress(OutOfAddresses):
                space.alloc(draw.randint(1, 5) * P, cpu=cpu)
        elif roll < 0.95 and busy:
            space.free(draw.choice(busy).start)
        else:
            space.purge()
    found = followed(ledger=ledger, kernel=kernel, arch=arch, cpus=cpus, nodes=(4096,))
    validate_follower(found, space.allocator)
    found.machine.validate()
    counts = found.machine.mmu.counters()
    assert (counts["stale_tlb"], counts["unmapped"], counts["readonly"]) == (0, 0, 0)
