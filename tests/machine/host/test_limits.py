"""Limits: the process' own, the kernel's and the group's, in made-up machines and in this one."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from machine.host.test_cgroup import V2, machine
from vmalloc.machine.host.limits import LIMIT_NAMES, kib_lines, number_in, read_limits
from vmalloc.units import GIB, KIB, MIB

MEMINFO = """\
MemTotal:        8388608 kB
MemAvailable:    6291456 kB
HugePages_Total:       0
CommitLimit:     4194304 kB
Committed_AS:    1048576 kB
"""
STATUS = "Name:\tpython 3 kB\nVmSize:\t 2097152 kB\nVmData:\t    1024 kB\nThreads:\t1\n"


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """A machine with 8 GiB, 3 mappings, 2 open files (and one that looks), and no cgroup limit."""
    files = {"app/memory.max": "max", "app/memory.current": "4096"}
    root = machine(tmp_path, "0::/app\n", [V2.format(root="/")], files)
    (root / "proc/meminfo").write_text(MEMINFO, encoding="utf-8")
    (root / "proc/self/status").write_text(STATUS, encoding="utf-8")
    (root / "proc/self/maps").write_text("a\nb\nc\n", encoding="utf-8")
    (root / "proc/sys/vm").mkdir(parents=True)
    (root / "proc/sys/vm/max_map_count").write_text("1000\n", encoding="utf-8")
    (root / "proc/sys/vm/overcommit_memory").write_text("0\n", encoding="utf-8")
    for fd in range(3):
        (root / f"proc/self/fd/{fd}").mkdir(parents=True)
    return root


def test_without_limits_the_machine_is_the_limit(made_up: Path) -> None:
    limits = read_limits({}, made_up)
    assert tuple(limits) == LIMIT_NAMES
    memory = limits["memory"]
    assert (memory.value, memory.used, memory.room, memory.how) == (8 * GIB, 2 * GIB, 6 * GIB, "/proc/meminfo")
    assert (limits["maps"].value, limits["maps"].used, limits["maps"].room) == (1000, 3, 997)
    assert limits["files"].used == 2
    assert (limits["address_space"].used, limits["data"].used) == (2 * GIB, MIB)
    assert (limits["commit"].value, limits["commit"].room, limits["commit"].used) == (None, None, GIB)
    assert limits["memory_high"].value is None


def test_a_kernel_that_never_overcommits_has_one_limit_more(made_up: Path) -> None:
    (made_up / "proc/sys/vm/overcommit_memory").write_text("2\n", encoding="utf-8")
    commit = read_limits({}, made_up)["commit"]
    assert (commit.value, commit.used, commit.room) == (4 * GIB, GIB, 3 * GIB)


def test_the_cgroup_counts_where_it_allows_less_than_the_machine_has(made_up: Path) -> None:
    group = made_up / "sys/fs/cgroup/app"
    (group / "memory.max").write_text(str(512 * MIB), encoding="utf-8")
    (group / "memory.high").write_text(str(400 * MIB), encoding="utf-8")
    limits = read_limits({}, made_up)
    assert (limits["memory"].value, limits["memory"].used) == (512 * MIB, 4096)
    assert limits["memory"].how.endswith("/app/memory.max")
    assert (limits["memory_high"].value, limits["memory_high"].how.endswith("/app/memory.high")) == (400 * MIB, True)
    (group / "memory.max").write_text(str(16 * GIB), encoding="utf-8")
    assert read_limits({}, made_up)["memory"].value == 8 * GIB


def test_without_cgroup_files_there_is_still_the_machine(made_up: Path) -> None:
    (made_up / "proc/self/mountinfo").unlink()
    limits = read_limits({}, made_up)
    assert (limits["memory"].value, limits["memory_high"].value, limits["memory_high"].used) == (8 * GIB, None, None)


def test_a_limit_is_lowered_by_force_and_never_raised(made_up: Path) -> None:
    limits = read_limits({"maps": 2, "memory": GIB, "files": 1 << 40, "commit": 2 * GIB}, made_up)
    assert (limits["maps"].value, limits["maps"].room, limits["maps"].forced) == (2, 0, True)
    assert (limits["memory"].room, limits["memory"].how) == (0, "VMALLOC_HOST_LIMITS")
    assert (limits["commit"].value, limits["commit"].forced) == (2 * GIB, True)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY:
        assert (limits["files"].value, limits["files"].forced) == (soft, False)


def test_this_process_is_within_its_limits() -> None:
    for limit in read_limits({}).values():
        assert limit.value is None or limit.value > 0, limit
        assert limit.name in ("commit", "memory_high") or limit.used, limit
    with open(os.devnull, "rb"):
        more = read_limits({})["files"].used
    assert more == read_limits({})["files"].used + 1


def test_lines_with_sizes_are_read_and_others_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "status"
    file.write_text(STATUS, encoding="utf-8")
    assert kib_lines(file) == {"VmSize": 2 * GIB, "VmData": 1024 * KIB}
    assert number_in(tmp_path / "nothing") is None
