"""Memory cgroups of both versions, in made-up machines: which limit counts, and where it is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmalloc.machine.host.cgroup import read_memory_cgroup
from vmalloc.units import GIB, MIB

V1 = "32 31 0:29 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
V1_CPU = "33 31 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 {root} /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def machine(folder: Path, groups: str, mounts: list[str], files: dict[str, str]) -> Path:
    """Makes the files a process sees: its groups, its mounts, and files below /sys/fs/cgroup."""
    own = folder / "proc/self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(groups, encoding="utf-8")
    (own / "mountinfo").write_text("\n".join([*mounts, ""]), encoding="utf-8")
    (folder / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")
    return folder


def test_version_2_has_the_limit_of_the_own_group(tmp_path: Path) -> None:
    files = {"app/memory.max": str(512 * MIB), "app/memory.high": str(400 * MIB), "app/memory.current": str(100 * MIB)}
    group = read_memory_cgroup(machine(tmp_path, "0::/app\n", [V2.format(root="/")], files))
    assert group is not None
    assert (group.version, group.limit, group.high, group.used) == (2, 512 * MIB, 400 * MIB, 100 * MIB)
    assert group.limit_from == str(tmp_path / "sys/fs/cgroup/app/memory.max")
    assert group.high_from == str(tmp_path / "sys/fs/cgroup/app/memory.high")


def test_the_lowest_limit_on_the_way_up_counts_with_its_own_use(tmp_path: Path) -> None:
    files = {
        "user/app/memory.max": str(2 * GIB), "user/app/memory.current": str(100 * MIB), "user/app/memory.high": "max",
        "user/memory.max": str(1 * GIB), "user/memory.current": str(900 * MIB), "user/memory.high": str(950 * MIB),
    }  # fmt: skip
    group = read_memory_cgroup(machine(tmp_path, "0::/user/app\n", [V2.format(root="/")], files))
    assert group is not None
    assert (group.limit, group.used, group.high) == (GIB, 900 * MIB, 950 * MIB)
    assert group.limit_from.endswith("/user/memory.max")


def test_no_limit_is_none(tmp_path: Path) -> None:
    files = {"app/memory.max": "max", "app/memory.high": "max", "app/memory.current": "4096"}
    group = read_memory_cgroup(machine(tmp_path, "0::/app\n", [V2.format(root="/")], files))
    assert group is not None
    assert (group.limit, group.high, group.used) == (None, None, 4096)


def test_version_1_writes_no_limit_as_a_large_number(tmp_path: Path) -> None:
    files = {"memory/app/memory.limit_in_bytes": "9223372036854771712", "memory/app/memory.usage_in_bytes": "8192"}
    groups = "4:memory:/app\n1:cpu,cpuacct:/other\n0::/\n"
    group = read_memory_cgroup(machine(tmp_path, groups, [V1_CPU, V1.format(root="/")], files))
    assert group is not None
    assert (group.version, group.limit, group.high, group.used) == (1, None, None, 8192)


def test_the_version_that_has_the_controller_is_asked(tmp_path: Path) -> None:
    files = {
        "memory/app/memory.limit_in_bytes": str(300 * MIB), "memory/app/memory.usage_in_bytes": "0",
        "memory/memory.limit_in_bytes": str(400 * MIB), "memory/memory.usage_in_bytes": "5",
    }  # fmt: skip
    mounts = [V1.format(root="/"), V2.format(root="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")]
    group = read_memory_cgroup(machine(tmp_path, "5:memory:/app\n0::/\n", mounts, files))
    assert group is not None
    assert (group.version, group.limit) == (1, 300 * MIB)


@pytest.mark.parametrize(
    ("groups", "root", "folder"),
    [
        ("0::/docker/abc/inner\n", "/docker/abc", "inner/"),  # mounted from the container's own group on
        ("0::/docker/abc\n", "/docker/abc", ""),
        ("0::/\n", "/", ""),  # a cgroup namespace
        ("0::/../elsewhere\n", "/", ""),  # outside the namespace: the mount is all there is to see
        ("0::/docker/abc\n", "/", ""),  # the path of the machine outside
        ("0::/a\n", "/b", ""),
    ],
)
def test_a_container_finds_its_own_group(tmp_path: Path, groups: str, root: str, folder: str) -> None:
    files = {f"{folder}memory.max": str(64 * MIB), f"{folder}memory.current": "1"}
    group = read_memory_cgroup(machine(tmp_path, groups, [V2.format(root=root)], files))
    assert group is not None
    assert group.limit == 64 * MIB


def test_without_a_memory_controller_there_is_nothing(tmp_path: Path) -> None:
    assert read_memory_cgroup(tmp_path) is None
    assert read_memory_cgroup(machine(tmp_path, "1:cpu:/\n0::/\n", [V1_CPU, V2.format(root="/")], {})) is None


def test_this_process_has_a_group_or_none() -> None:
    group = read_memory_cgroup()
    assert group is None or group.limit is None or group.limit > MIB
