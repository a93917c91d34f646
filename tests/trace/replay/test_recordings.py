"""What the package promises: recordings of real kernels, address by address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from recordings import APART, SHIPPED, before_file, fingerprint, known, names, replayed

from vmalloc.trace.replay.result import ReplayResult

SINCE_BOOT = {SHIPPED: 159_867, "g612_4cpu_la57_boot": 165, "g612_4cpu_cont": 25_948, "g612_numa2_4cpu": 75_441}
#: Recordings replayed from a snapshot that agree wholly, and those that do not: allocations, mismatches today.
WHOLE = {
    "g612_4cpu_la57_mods": 280,
    "g61_1cpu_boot": 48,
    "g61_1cpu_bpfmap": 3806,
    "g61_1cpu_fork": 1699,
    "g61_1cpu_mods": 115,
    "g61_1cpu_tv_mask1": 3006,
    "g61_1cpu_tv_mask8": 3006,
    "h06_netns": 860,
}
NEARLY = {
    "g61_1cpu_tv_mask16": (3006, 0.998),
    "g61_1cpu_tv_mask32": (3006, 0.998),
    "h01_fork_short": (385, 0.997),
    "h02_bpfmap_1cpu": (12_547, 0.998),
    "h04_mix_2cpu": (52_278, 0.998),
    "h08_kvm_packet_pipe_fd": (2115, 0.998),
    "h12_fork_1cpu": (53_487, 0.9999),
    APART: (3717, 0.985),
}
#: The small ones, which the uncompiled build replays in seconds.
SMALL = [
    "g612_4cpu_la57_boot", "g612_4cpu_la57_mods", "g61_1cpu_boot", "g61_1cpu_mods", "g61_1cpu_fork", "h01_fork_short",
    "h06_netns",
]  # fmt: skip
MEDIUM = ["g61_1cpu_bpfmap", "g61_1cpu_tv_mask1", "g61_1cpu_tv_mask8", "g61_1cpu_tv_mask16", "g61_1cpu_tv_mask32"]
MEDIUM += ["h08_kvm_packet_pipe_fd", APART]
LONG = [SHIPPED, "h02_bpfmap_1cpu", "h04_mix_2cpu", "h12_fork_1cpu", "g612_numa2_4cpu", "g612_4cpu_cont"]


def timeless(result: ReplayResult) -> ReplayResult:
    """A result without what a clock measured."""
    return replace(result, seconds=0.0, read_seconds=0.0)


def test_every_recording_is_in_one_of_the_lists() -> None:
    assert sorted([*SINCE_BOOT, *WHOLE, *NEARLY]) == names() == sorted(SMALL + MEDIUM + LONG)


# -- since boot ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINCE_BOOT)
def test_since_boot_every_address_is_met_in_open_loop(name: str) -> None:
    result = known(name, open_loop=True)
    assert (result.start, result.open_loop, result.shape) == ("boot", True, 0)
    assert result.agreed == result.allocations == SINCE_BOOT[name]
    assert (result.agreement, result.corrected, result.unexplained) == (1.0, 0, 0)
    assert (result.mismatches, result.first_mismatch) == ({}, None)


@pytest.mark.parametrize("name", SINCE_BOOT)
def test_since_boot_nothing_is_assumed_but_the_order_of_a_few_allocations(name: str) -> None:
    result = known(name, open_loop=True)
    assert result.assumptions == {}
    most = {SHIPPED: 0, "g612_4cpu_la57_boot": 0, "g612_4cpu_cont": 3, "g612_numa2_4cpu": 20}[name]
    assert 0 <= result.reordered <= most
    assert result.reordered == 0 or result.cpus > 1


@pytest.mark.parametrize("name", SINCE_BOOT)
def test_since_boot_corrected_mode_has_nothing_to_correct(name: str) -> None:
    opened, corrected = known(name, open_loop=True), known(name)
    assert timeless(corrected) == timeless(replace(opened, open_loop=False))


def test_the_shipped_recording_holds_what_its_page_says() -> None:
    result = known(SHIPPED, open_loop=True)
    assert (result.allocations, result.placements, result.frees, result.purges) == (159_867, 159_863, 159_771, 1123)
    assert (result.kernel, result.cpus, result.nodes, result.page_size) == ("6.12", 1, 1, 4096)
    assert [snapshot.count for snapshot in result.snapshots] == [0] * 7
    assert [snapshot.in_flight for snapshot in result.snapshots] == [0] * 7
    assert (result.events, result.skipped_events, result.lost_events, result.overwritten) == (321_191, 0, 0, 0)


def test_a_replay_is_determined_by_its_recording() -> None:
    assert timeless(replayed(SHIPPED, open_loop=True)) == timeless(known(SHIPPED, open_loop=True))
    assert timeless(replayed("h08_kvm_packet_pipe_fd")) == timeless(known("h08_kvm_packet_pipe_fd"))


@pytest.mark.parametrize("name", ["g612_4cpu_cont", "g612_numa2_4cpu"])
def test_with_several_cpus_the_events_are_not_in_the_order_of_the_calls(name: str) -> None:
    strict = replayed(name, open_loop=True, slack=0)
    assert strict.reordered == 0
    assert strict.agreed < known(name, open_loop=True).agreed


# -- from a snapshot -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WHOLE)
def test_from_a_snapshot_these_agree_wholly(name: str) -> None:
    result = known(name)
    assert result.agreed == result.allocations == WHOLE[name]
    assert (result.corrected, result.unexplained, result.mismatches) == (0, 0, {})


@pytest.mark.parametrize("name", NEARLY)
def test_from_a_snapshot_these_agree_nearly_and_every_miss_has_a_cause(name: str) -> None:
    result = known(name)
    allocations, floor = NEARLY[name]
    assert result.allocations == allocations
    assert floor <= result.agreement < 1
    assert result.agreed + sum(result.mismatches.values()) == allocations
    assert result.unexplained == 0
    assert result.corrected == sum(result.mismatches.values())
    assert result.first_mismatch is not None
    assert result.first_mismatch.cause in result.mismatches


@pytest.mark.parametrize("name", sorted([*WHOLE, *NEARLY]))
def test_the_kind_of_start_is_known(name: str) -> None:
    assert known(name).start == ("snapshot" if before_file(name) else "rewound")


@pytest.mark.parametrize("name", [name for name in names() if name != APART])
def test_every_after_snapshot_is_met(name: str) -> None:
    result = known(name)
    assert result.snapshots
    assert [snapshot.count for snapshot in result.snapshots] == [0] * len(result.snapshots)
    assert result.after_snapshot_differences == 0


@pytest.mark.parametrize("name", [name for name in names() if name != "g612_4cpu_la57_boot"])
def test_the_version_is_found_out(name: str) -> None:
    expected = {"g612": "6.12", "g61": "6.1"}.get(name.split("_")[0], "6.19")
    assert known(name).kernel == expected


@pytest.mark.parametrize("name", names())
def test_the_number_of_cpus_and_nodes_is_known(name: str) -> None:
    result = known(name)
    told = next((int(part[0]) for part in name.split("_") if part[1:] == "cpu"), 2)
    expected = 2 if name.startswith("h") else told
    assert result.cpus == expected
    assert result.nodes == (1 if result.kernel == "6.1" else expected)


# -- both builds -----------------------------------------------------------------------------------------------------


@pytest.mark.both_builds
@pytest.mark.parametrize("name", ["g612_4cpu_la57_boot", "g61_1cpu_boot"])
def test_both_builds_keep_the_promise(name: str) -> None:
    result = replayed(name)
    assert result.agreed == result.allocations == (SINCE_BOOT | WHOLE)[name]
    assert result.after_snapshot_differences == 0


def both_fingerprints(recordings: list[str], length: int | None, run_pure) -> tuple[list[str], list[str]]:
    """Fingerprints by this process and by an uncompiled one."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from recordings import fingerprint\n"
        f"for name in {recordings!r}: print(fingerprint(name, {length!r}))"
    )
    return [fingerprint(name, length) for name in recordings], run_pure("-c", code).stdout.split()


#: Small, but its start has so many shapes to try that the uncompiled build takes half a minute: for the campaign.
MANY_SHAPES = ["g612_4cpu_la57_mods"]


@pytest.mark.parametrize("name", [name for name in SMALL if name not in MANY_SHAPES])
def test_compiled_and_uncompiled_place_alike(name: str, compiled: bool, run_pure) -> None:
    if not compiled:
        pytest.skip("this run has no compiled build to compare with")
    here, pure = both_fingerprints([name], None, run_pure)
    assert here == pure


@pytest.mark.parametrize("name", ["g612_4cpu_cont", "h08_kvm_packet_pipe_fd", "h04_mix_2cpu"])
def test_compiled_and_uncompiled_place_the_first_events_alike(name: str, compiled: bool, run_pure) -> None:
    if not compiled:
        pytest.skip("this run has no compiled build to compare with")
    here, pure = both_fingerprints([name], 600, run_pure)
    assert here == pure


@pytest.mark.campaign
@pytest.mark.parametrize("name", MANY_SHAPES + MEDIUM + LONG)
def test_compiled_and_uncompiled_place_whole_recordings_alike(name: str, compiled: bool, run_pure) -> None:
    if not compiled:
        pytest.skip("this run has no compiled build to compare with")
    here, pure = both_fingerprints([name], None, run_pure)
    assert here == pure
