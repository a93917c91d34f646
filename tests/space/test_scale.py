"""Large spaces in little memory: a machine of 1 TiB, and as many areas as a busy one has."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vmalloc.space.simulated import simulated

GIB = 1 << 30

#: Makes so many areas of a page on a machine of 1 TiB, looks at some, and says what it took.
PROGRAM = """
import json, resource, sys
from vmalloc.space.simulated import simulated

count = int(sys.argv[1])
space = simulated(cpus=4, nodes=2, memory="1TiB")
boot = space.stats()["frames_used"]
addresses = [space.vmalloc(4096).detach() for _ in range(count)]
step = count // 100
for k in range(0, count, step):
    space.store(addresses[k], k.to_bytes(8, "little"))
seen = sum(space.load(addresses[k], 8) == k.to_bytes(8, "little") for k in range(0, count, step))
full = space.stats()
for address in addresses:
    space.vfree(address)
space.trim()
print(json.dumps({
    "seen": seen, "different": len(set(addresses)), "full": full, "left": space.stats(), "boot": boot,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""


def test_twenty_thousand_areas_on_a_machine_of_one_tebibyte() -> None:
    space = simulated(cpus=4, nodes=2, memory="1TiB")
    boot = space.stats()["frames_used"]
    areas = [space.vmalloc(4096) for _ in range(20_000)]
    for k in range(0, len(areas), 100):
        areas[k].write(0, k.to_bytes(8, "little"))
    for k in range(0, len(areas), 100):
        assert areas[k].read(0, 8) == k.to_bytes(8, "little")
    # Smallest footprint (section 2.1): one frame and two pages of addresses each.
    assert [area.address for area in areas] == [areas[0].address + 8192 * k for k in range(len(areas))]
    stats = space.stats()
    assert (stats["areas"], stats["pages"]) == (20_000, 20_000)
    assert stats["frames"] == 1024 * GIB // 4096
    space.state.space.validate()
    for area in areas:
        area.free()
    space.trim()
    left = space.stats()
    assert (left["areas"], left["lazy_areas"], left["pooled_areas"], left["frames_used"]) == (0, 0, 0, boot)


@pytest.mark.campaign
def test_a_million_areas_on_a_machine_of_one_tebibyte_take_less_than_two_gibibytes() -> None:
    """In a process of its own, whose peak is that of nothing else."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, "1000000"], capture_output=True, text=True, check=True)
    told = json.loads(result.stdout)
    assert told["seen"] == 100
    assert told["different"] == told["full"]["areas"] == told["full"]["pages"] == 1_000_000
    assert (told["left"]["areas"], told["left"]["frames_used"]) == (0, told["boot"])
    assert told["peak"] < 2 * GIB
