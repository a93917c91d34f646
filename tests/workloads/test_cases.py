"""The cases do what the table of section 11.2 says, and leave nothing behind, also when something fails."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from vmalloc.errors import BadRequest
from vmalloc.flags import GFP_ATOMIC, GFP_NOWAIT
from vmalloc.kernels import PROFILES
from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.units import KIB, MIB
from vmalloc.workloads.cases import CASES, cases_of, find_case, missing_calls
from vmalloc.workloads.parameters import ALL_CASES
from vmalloc.workloads.result import CaseResult
from vmalloc.workloads.runner import run_workloads
from workloads.rig import PAGE, PLAIN, Other, blocks_by_vmap, make, small


def run(space: Any, name: str, **more: Any) -> CaseResult:
    """One worker runs one case."""
    return run_workloads(space, small(**{"nr_threads": 1} | more), workloads=[name]).cases[0]


def requests(name: str, kernel: str = "6.19", **more: Any) -> list[tuple[int, int]]:
    """``(pages, alignment)`` of all that a case allocates, guard pages left out."""
    seen: list[tuple[int, int]] = []

    def observe(event: str, **fields: Any) -> None:
        if event == "alloc_vmap_area":
            seen.append((fields["size"] // PAGE - 1, fields["align"]))

    assert run(make(kernel, cpus=1, observer=observe), name, **more).total("failed") == 0
    return seen


def settled(space: SimulatedSpace) -> dict[str, Any]:
    """What must be as before."""
    space.run_deferred()
    space.purge(full=True)
    space.validate()
    found = space.stats()
    tables = found["page_table_bytes"] // PAGE
    return {"used": found["frames_used"] - tables, "busy": space.state.space.busy(), "waiting": found["rcu_waiting"]}


def test_the_table_of_cases() -> None:
    """Section 11.2: names, bits, and which are expected to fail."""
    assert [(case.name, case.bit) for case in CASES] == [
        ("fix_size_alloc", 1), ("full_fit_alloc", 2), ("long_busy_list_alloc", 4), ("random_size_alloc", 8),
        ("fix_align_alloc", 16), ("random_size_align_alloc", 32), ("align_shift_alloc", 64), ("pcpu_alloc", 128),
        ("kvfree_rcu_1_arg", 256), ("kvfree_rcu_2_arg", 512), ("vm_map_ram", 1024), ("no_block_alloc", 2048),
        ("vrealloc", 4096),
    ]  # fmt: skip
    assert {case.name for case in CASES if case.fails} == {"align_shift_alloc", "no_block_alloc"}
    assert {name: len(cases_of(kernel, ALL_CASES)) for name, kernel in PROFILES.items()} == {
        "6.1": 10, "6.12": 11, "6.19": 13,
    }  # fmt: skip


def test_cases_are_chosen_by_mask_or_by_name() -> None:
    kernel = PROFILES["6.12"]
    assert [case.bit for case in cases_of(kernel, 7)] == [1, 2, 4]
    assert [case.bit for case in cases_of(kernel, 0, ["vm_map_ram", "fix_size_alloc_test"])] == [1, 1024]
    with pytest.raises(BadRequest, match=r"Linux 6\.12 and its like has no case no_block_alloc"):
        cases_of(kernel, 0, ["no_block_alloc"])
    with pytest.raises(BadRequest, match=r"run_test_mask=0x800 has none of the cases of Linux 6\.12"):
        cases_of(kernel, 2048)
    with pytest.raises(BadRequest, match="workload 'fix_size': one of fix_size_alloc, "):
        find_case("fix_size")


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("kernel", PROFILES)
def test_nothing_is_left_behind(kernel: str, name: str) -> None:
    space = make(kernel)
    before = settled(space)
    found = run_workloads(space, small(), workloads=[name]).cases[0]
    assert found.total("failed") == 0
    assert found.total("xfailed" if name == "align_shift_alloc" else "passed") == 2
    assert settled(space) == before


@pytest.mark.both_builds
@pytest.mark.parametrize("name", [*PLAIN, "no_block_alloc", "vrealloc", "vm_map_ram"])
@pytest.mark.parametrize("after", [0, 5])
def test_nothing_is_left_behind_when_frames_run_out(name: str, after: int) -> None:
    inner = make()
    space = Other(inner, **blocks_by_vmap(inner))
    before = settled(inner)
    inner.machine.fail_next("map_pages", after=after)
    found = run(space, name, test_repeat_count=2)
    failed = found.total("xfailed" if found.case.fails else "failed")
    assert failed == (2 if name == "align_shift_alloc" else 1)
    assert found.total("passed") == 2 - failed
    assert "OutOfFrames: no page frame for a page table" in found.reasons[0]
    inner.machine.clear()
    assert settled(inner) == before


def test_fix_size_alloc_goes_by_nr_pages_and_use_huge() -> None:
    assert requests("fix_size_alloc") == [(1, 1)] * 12
    assert requests("fix_size_alloc", nr_pages=7) == [(7, 1)] * 12
    assert requests("fix_size_alloc", nr_pages=512, use_huge=True) == [(512, 2 * MIB)] * 12


def test_full_fit_alloc_makes_holes_of_one_page_first() -> None:
    """The set-up: ``fls(CPUs) * 32 MiB`` in pages of pairs; every second area is freed."""
    assert requests("full_fit_alloc") == [(1, 1)] * (2 * (8192 // 500) + 12)
    busy: list[int] = []
    inner = make(cpus=1)

    def vfree(area: Any) -> None:
        busy.append(len(inner.state.areas))
        inner.vfree(area)

    assert run(Other(inner, vfree=vfree), "full_fit_alloc").total("passed") == 1
    assert busy == [*range(32, 16, -1), *[17] * 12, *range(16, 0, -1)]


@pytest.mark.parametrize(("cpus", "pairs"), [(1, 8192), (2, 16384), (4, 24576), (64, 57344)])
def test_the_set_up_grows_with_the_lazy_limit(cpus: int, pairs: int) -> None:
    """Section 11.2: areas of two pages with their guards, so twice the threshold of section 4.3."""
    from random import Random

    from vmalloc.workloads.job import Job
    from vmalloc.workloads.parameters import Parameters

    assert Job(None, Parameters(), Random(0), lambda: 0, PAGE, cpus).junk_pairs == pairs
    assert Job(None, Parameters(), Random(0), lambda: 0, PAGE, cpus).busy_areas == 15_000


def test_long_busy_list_alloc_allocates_beside_areas_that_stay() -> None:
    assert requests("long_busy_list_alloc") == [(1, 1)] * 30 + [(100, 1), (1, 1)] * 12


def test_random_sizes_are_1_to_100_pages() -> None:
    found = requests("random_size_alloc", test_loop_count=3000)
    sizes = Counter(pages for pages, _ in found)
    assert set(sizes) == set(range(1, 101))
    assert max(sizes.values()) < 60
    assert {align for _, align in found} == {1}


def test_fix_align_alloc_is_aligned_to_twice_a_stack() -> None:
    assert requests("fix_align_alloc") == [(5, 32 * KIB)] * 12


def test_random_size_align_alloc_draws_both_from_one_byte() -> None:
    found = set(requests("random_size_align_alloc", test_loop_count=4000))
    assert found == {(byte % 10 + 1, 1 << byte % 23) for byte in range(256)}


def test_align_shift_alloc_ends_at_the_first_failure() -> None:
    """The range of x86-64 has 2**45 bytes: nothing in it is aligned to 2**46. Attempts after a purge are seen, too."""
    found = requests("align_shift_alloc", test_loop_count=5)
    assert list(dict.fromkeys(found)) == [(1, 1 << shift) for shift in range(47)]
    space = make(cpus=1)
    result = run(space, "align_shift_alloc")
    assert (result.total("passed"), result.total("failed"), result.total("xfailed")) == (0, 0, 1)
    assert "OutOfAddresses: no free range of 8192 bytes (8 KiB), aligned to 64 TiB" in result.reasons[0]


def test_kvfree_rcu_waits_for_grace_periods() -> None:
    for name, call in (("kvfree_rcu_1_arg", "kvfree_rcu_mightsleep"), ("kvfree_rcu_2_arg", "kvfree_rcu")):
        inner = make(cpus=2)
        most = 0

        def count(area: Any, inner: SimulatedSpace = inner, call: str = call) -> None:
            nonlocal most
            getattr(inner, call)(area)
            most = max(most, int(inner.stats()["rcu_waiting"]))

        found = run(Other(inner, **{call: count}), name, test_loop_count=200)
        assert found.total("passed") == 1
        assert 8 <= found.costs["rcu_grace_periods"] <= 30  # a tick in 64 steps, of 3 steps a loop
        assert 21 <= most <= 64
        assert inner.stats()["rcu_waiting"] == 0


def test_no_block_alloc_uses_both_masks_and_may_fail() -> None:
    inner = make()
    masks: Counter[int] = Counter()

    def vmalloc(size: int, *, gfp: int) -> Any:
        masks[gfp] += 1
        return inner.vmalloc(size, gfp=gfp)

    assert run(Other(inner, vmalloc=vmalloc), "no_block_alloc", test_loop_count=60).total("passed") == 1
    assert set(masks) == {GFP_ATOMIC, GFP_NOWAIT}
    assert min(masks.values()) > 15


def test_vrealloc_follows_the_sequence_and_notices_a_lost_byte() -> None:
    """Section 2.5: grow, shrink, shrink inside a page, grow in place."""
    inner = make()
    sizes: list[int] = []

    def vrealloc(area: Any, size: int) -> Any:
        sizes.append(size)
        return inner.vrealloc(area, size)

    assert run(Other(inner, vrealloc=vrealloc), "vrealloc", test_loop_count=1).total("passed") == 1
    assert sizes == [4 * PAGE, PAGE, PAGE // 2, PAGE]

    def forgetful(area: Any, size: int) -> Any:
        moved = inner.vrealloc(area, size)
        inner.store(moved.address, b"\0")
        return moved

    found = run(Other(inner, vrealloc=forgetful), "vrealloc", test_loop_count=1)
    assert found.total("failed") == 1
    assert "CaseFailed: byte 0 of <Area" in found.reasons[0]
    assert inner.stats()["areas"] == 0


def test_vm_map_ram_maps_the_same_frames_each_time() -> None:
    inner = make()
    given: list[list[int]] = []
    calls = blocks_by_vmap(inner)
    mapped = calls["vm_map_ram"]

    def vm_map_ram(pages: Any) -> int:
        given.append(list(pages))
        return mapped(pages)

    space = Other(inner, **calls | {"vm_map_ram": vm_map_ram})
    assert run(space, "vm_map_ram", nr_pages=3).total("passed") == 1
    assert len(given) == 12
    assert all(pages == given[0] and len(pages) == 3 for pages in given)
    assert settled(inner)["used"] == 0


def test_pcpu_alloc_allocates_all_objects_before_it_frees_one() -> None:
    inner = make()
    log: list[tuple[str, Any]] = []
    space = Other(
        inner,
        alloc_percpu=lambda size, align: log.append(("alloc", (size, align))) or len(log),
        free_percpu=lambda found: log.append(("free", found)),
    )
    found = run(space, "pcpu_alloc", nr_pcpu_objects=2000, test_loop_count=9)
    assert found.total("passed") == 1
    assert found.workers[0].loops == 1
    assert [kind for kind, _ in log] == ["alloc"] * 2000 + ["free"] * 2000
    assert [what for kind, what in log if kind == "free"] == list(range(1, 2001))
    sizes, aligns = zip(*[what for kind, what in log if kind == "alloc"], strict=True)
    assert min(sizes) in range(1, 6)
    assert max(sizes) in range(1020, 1025)
    assert set(aligns) == {1 << shift for shift in range(1, 12)}


def test_a_space_says_which_calls_it_has_not() -> None:
    space = Other(make(), hidden=("vm_map_ram", "alloc_percpu", "free_percpu"), vm_unmap_ram=print)
    assert missing_calls(space, find_case("vm_map_ram")) == ["vm_map_ram"]
    assert missing_calls(space, find_case("vrealloc")) == []
    found = run(space, "pcpu_alloc")
    assert (found.missing, found.workers) == (["alloc_percpu", "free_percpu"], [])


@pytest.mark.parametrize("arch", ["arm64_64k", "x86_32_pae", "riscv64_sv39"])
def test_sizes_follow_the_page_of_the_architecture(arch: str) -> None:
    space = simulated(arch, cpus=2, memory="512MiB")
    names = [name for name in PLAIN if name != "align_shift_alloc"]
    result = run_workloads(space, small(setup_divisor=2000), workloads=names)
    assert result.failed == 0
    space.validate()
