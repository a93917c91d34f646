"""``/proc/meminfo``: the lines about vmalloc (specification section 10.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmalloc.space.simulated import simulated
from vmalloc.views.meminfo import meminfo

pytestmark = pytest.mark.both_builds

PAGE = 4096


def used(text: str) -> int:
    found = re.search(r"^VmallocUsed: +(\d+) kB$", text, re.MULTILINE)
    assert found
    return int(found[1])


def test_the_lines_of_an_empty_x86_64() -> None:
    assert meminfo(simulated().state) == (
        "VmallocTotal:   34359738367 kB\n"
        "VmallocUsed:           0 kB\n"
        "VmallocChunk:          0 kB\n"
        "Percpu:                0 kB\n"
    )  # fmt: skip


@pytest.mark.parametrize("arch", ["x86_32", "arm64_16k", "s390x", "riscv64_sv39"])
def test_the_total_is_that_of_the_range(arch: str) -> None:
    space = simulated(arch, memory="256MiB")
    info = space.machine.info
    total = meminfo(space.state).splitlines()[0]
    assert total == f"VmallocTotal:   {(info.vmalloc_end - info.vmalloc_start) // 1024:8d} kB"


def test_used_is_frames_that_areas_own_in_pages_of_the_machine() -> None:
    space = simulated("arm64_16k", memory="256MiB")
    area = space.vmalloc(16384 + 1)
    assert used(meminfo(space.state)) == 32
    area.free()
    assert used(meminfo(space.state)) == 0


def test_used_excludes_what_is_only_mapped_or_reserved() -> None:
    space = simulated(memory="1GiB")
    area = space.vmalloc(3 * PAGE)
    others = [
        space.vmap([area]),
        space.vmap(space.alloc_pages(5), put_pages=True),
        space.ioremap(0xFE000000, 4 * PAGE),
        space.get_vm_area(7 * PAGE),
        *space.pcpu_get_vm_areas([0], [0x8000], 0x8000),
    ]
    assert used(meminfo(space.state)) == 12
    assert all(other.alive for other in others)


def test_lines_look_like_those_of_the_kernel_that_runs_here() -> None:
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    real = [line for line in lines if line.startswith(("Vmalloc", "Percpu"))]
    if not real:
        pytest.skip("this system has no such lines")
    mine = meminfo(simulated().state).splitlines()
    assert [line.split()[0] for line in mine] == [line.split()[0] for line in real]
    assert [line.index(" kB") for line in mine] == [line.index(" kB") for line in real]
