"""The whole machine under a replay: the same addresses, nothing stale, and which architectures will do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from recordings import APART, load, replayed
from scripted_kernel import PAGE, ScriptedKernel

from vmalloc.errors import BadRequest
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.trace.replay import machine as module
from vmalloc.trace.replay.machine import choose_arch
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.replay.result import MachineResult, ReplayResult

HUGE = 2 << 20
X86_64 = (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF)
LA57 = (0xFFA0000000000000, 0xFFD1FFFFFFFFFFFF)
SMALL = ["g612_4cpu_la57_boot", "g612_4cpu_la57_mods", "g61_1cpu_boot", "g61_1cpu_mods", "h01_fork_short", "h06_netns"]
#: Those that need corrections, the last one with areas that corrections take while they are lazy.
CORRECTED = ["h08_kvm_packet_pipe_fd", "g61_1cpu_tv_mask16", APART]
LONG = ["g612_1cpu_cont", "h02_bpfmap_1cpu", "h04_mix_2cpu", "h12_fork_1cpu", "g612_numa2_4cpu", "g612_4cpu_cont"]
#: Architectures that can have the recorded range, and do the same there.
FITTING = {
    "h06_netns": ["x86_64", "x86_64_la57", "arm64_4k", "riscv64_sv48", "riscv64_sv57"],
    "g61_1cpu_mods": ["x86_64", "x86_64_la57", "arm64_4k", "riscv64_sv48", "riscv64_sv57"],
    "g612_4cpu_la57_boot": ["x86_64_la57", "riscv64_sv57"],
}


def of_areas(result: ReplayResult) -> ReplayResult:
    """What a replay of areas alone finds, without what a clock measured."""
    return replace(result, seconds=0.0, read_seconds=0.0, machine=None)


def both(name: str, *, open_loop: bool = False, **settings: object) -> tuple[ReplayResult, MachineResult]:
    """Replays a recording on areas and on the machine; all that both find is the same."""
    areas = replayed(name, open_loop=open_loop)
    whole = replayed(name, open_loop=open_loop, machine="simulated", **settings)
    assert areas.machine is None
    assert whole.machine is not None
    assert of_areas(whole) == of_areas(areas)
    return whole, whole.machine


def assert_sound(machine: MachineResult) -> None:
    assert machine.validated
    assert (machine.stale_accesses, machine.failed_accesses) == (0, 0)
    assert machine.flushes == machine.full_flushes + machine.ranged_flushes
    assert sum(size * count for size, count in machine.mappings.items()) <= 4096 * sum(machine.frames_at_end)


# -- recordings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("open_loop", [False, True], ids=["corrected", "open loop"])
@pytest.mark.parametrize("name", [*SMALL, *CORRECTED])
def test_the_machine_changes_no_address_and_meets_nothing_stale(name: str, open_loop: bool) -> None:
    _result, machine = both(name, open_loop=open_loop)
    assert_sound(machine)


def test_a_flush_that_only_a_correction_shows_is_made_and_counted() -> None:
    """Where the kernel uses lazy addresses again it has flushed them, recorded or not."""
    _result, machine = both(APART)
    assert machine.proven_flushes == 2
    _result, machine = both(APART, open_loop=True)
    assert machine.proven_flushes == 0


@pytest.mark.campaign
@pytest.mark.parametrize("open_loop", [False, True], ids=["corrected", "open loop"])
@pytest.mark.parametrize("name", LONG)
def test_the_machine_changes_no_address_of_a_long_recording(name: str, open_loop: bool) -> None:
    _result, machine = both(name, open_loop=open_loop)
    assert_sound(machine)


@pytest.mark.both_builds
def test_both_builds_do_the_same_on_the_machine() -> None:
    _result, machine = both("g61_1cpu_boot")
    assert_sound(machine)
    _trace, _before, (after,) = load("g61_1cpu_boot")
    assert (machine.arch, machine.cpus, machine.areas) == ("x86_64", 1, len(after.busy))
    assert (machine.entries, machine.frames_taken, machine.flushes, machine.accesses) == (126, 69_315, 2, 184)
    assert (machine.mappings_made, machine.mappings) == ({4096: 3267, HUGE: 129}, {4096: 1854, HUGE: 129})
    assert machine.frames_at_end == (1854 + 129 * 512 + machine.page_table_bytes // PAGE,)


@pytest.mark.parametrize("name", FITTING)
def test_every_architecture_that_fits_gives_the_same_addresses(name: str) -> None:
    window = LA57 if "la57" in name else X86_64
    for arch in ARCHITECTURES:
        if arch in FITTING[name]:
            _result, machine = both(name, arch=arch, numa_nodes=3)
            assert_sound(machine)
            assert (machine.arch, len(machine.frames_at_peak)) == (arch, 3)
        else:
            with pytest.raises(BadRequest, match=f"cannot be replayed on {arch}: "):
                choose_arch(arch, window, 12)


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_trace_made_by_hand() -> None:
    kernel = ScriptedKernel(cpus=2)
    first, second = kernel.alloc(5, cpu=0), kernel.alloc(5, cpu=1)
    kernel.write(first, second)
    kernel.write(kernel.free(first))
    kernel.write(kernel.purge())
    kernel.write(kernel.alloc(5, cpu=0))
    result = replay(kernel.trace, kernel="6.12", cpus=2, machine="simulated")
    machine = result.machine
    assert machine is not None
    assert (result.agreed, machine.entries, machine.areas) == (3, 5, 2)
    assert (machine.frames_taken, machine.mappings_made, machine.mappings) == (12, {4096: 12}, {4096: 8})
    assert (machine.flushes, machine.ranged_flushes, machine.flushed_pages, machine.ipis) == (1, 1, 5, 1)
    assert (machine.accesses, machine.stale_accesses) == (6, 0)
    assert machine.frames_at_end[0] == 8 + machine.page_table_bytes // PAGE
    assert machine.tables["pte"] == 1


def test_structures_of_the_machine_are_checked_unless_very_many_frames_are_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = ScriptedKernel()
    kernel.allocs(5)
    checked: list[object] = []
    monkeypatch.setattr(module, "validate_follower", lambda follower, allocator: checked.append(follower))
    assert replay(kernel.trace, kernel="6.12", machine="simulated").machine.validated  # type: ignore[union-attr]
    monkeypatch.setattr(module, "MOST_VALIDATED", 3)
    assert not replay(kernel.trace, kernel="6.12", machine="simulated").machine.validated  # type: ignore[union-attr]
    assert len(checked) == 2


def test_progress_of_the_machine_ends_at_all_entries() -> None:
    seen: list[tuple[int, int]] = []
    _result, machine = both("h06_netns", machine_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (machine.entries, machine.entries)
    assert seen == sorted(seen)


def test_memory_is_spread_over_the_nodes_and_each_cpu_uses_its_own() -> None:
    kernel = ScriptedKernel(cpus=2)
    for cpu in (0, 1, 1):
        kernel.write(kernel.alloc(9, cpu=cpu))
    one = replay(kernel.trace, kernel="6.12", cpus=2, machine="simulated").machine
    two = replay(kernel.trace, kernel="6.12", cpus=2, machine="simulated", numa_nodes=2).machine
    assert one is not None
    assert two is not None
    assert (len(one.frames_at_end), len(two.frames_at_end)) == (1, 2)
    assert sum(two.frames_at_end) == one.frames_at_end[0]
    assert two.frames_at_end[1] == 16


# -- architectures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_is_found_by_its_own_range(name: str) -> None:
    arch = ARCHITECTURES[name]
    window = (arch.vmalloc_start, arch.vmalloc_end)
    found = choose_arch(None, window, arch.page_shift)
    assert (found.vmalloc_start, found.vmalloc_end, found.page_shift) == (*window, arch.page_shift)
    assert found in ARCHITECTURES.values()
    assert choose_arch(name, window, arch.page_shift) is arch


def test_a_randomised_range_is_taken_as_it_was_recorded() -> None:
    window = (0xFFFFB4C7C0000000, 0xFFFFD4C7BFFFFFFF)
    found = choose_arch(None, window, 12)
    assert (found.name, found.vmalloc_start, found.vmalloc_end) == ("x86_64", *window)
    assert (found.kasan_shadow_offset, found.kmsan_vmalloc_end) == (None, None)
    assert found.levels == ARCHITECTURES["x86_64"].levels


@pytest.mark.parametrize(
    ("arch", "window", "page_shift", "reason"),
    [
        ("arm64_64k", X86_64, 12, "its pages have 64 KiB, the recorded kernel's 4 KiB"),
        ("x86_32", X86_64, 12, "its words have 32 bits, the recorded kernel's 64"),
        ("x86_64", LA57, 12, "0xffa0000000000000-0xffd1ffffffffffff is not within its kernel addresses"),
        ("x86_64", (0xFFFF888000000000, 0xFFFFA88000000000), 12, "it cannot have the recorded range: .* direct map"),
        ("vax", X86_64, 12, "no architecture 'vax'; there are x86_64, "),
        (None, (0x7F0000000000, 0x7FFFFFFFFFFF), 14, "no architecture has 16 KiB pages and kernel addresses around"),
    ],
    ids=["page", "word", "range", "direct map", "unknown", "none"],
)
def test_an_architecture_that_cannot_be_is_refused(
    arch: str | None, window: tuple[int, int], page_shift: int, reason: str
) -> None:
    with pytest.raises(BadRequest, match=reason):
        choose_arch(arch, window, page_shift)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"machine": "vax"}, "no machine 'vax'; a replay knows areas and simulated"),
        ({"arch": "x86_64"}, "those of the simulated machine"),
        ({"numa_nodes": 1}, "those of the simulated machine"),
        ({"machine": "simulated", "numa_nodes": 0}, "at least one NUMA node, got 0"),
        ({"machine": "simulated", "numa_nodes": 2000}, "2000 nodes"),
        ({"machine": "simulated", "arch": "arm32"}, "its words have 32 bits"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_a_machine_that_cannot_be_is_refused(settings: dict[str, object], reason: str) -> None:
    kernel = ScriptedKernel()
    kernel.write(kernel.alloc(2, cpu=0))
    with pytest.raises(BadRequest, match=reason):
        replay(kernel.trace, kernel="6.12", **settings)  # type: ignore[arg-type]


def test_areas_that_are_too_large_to_have_frames_are_refused() -> None:
    kernel = ScriptedKernel()
    kernel.allocs((1 << 40) // PAGE, 1)
    with pytest.raises(BadRequest, match=r"areas of 1\.0 TiB are busy at once; a simulated machine is made for 1 TiB"):
        replay(kernel.trace, kernel="6.12", machine="simulated")
