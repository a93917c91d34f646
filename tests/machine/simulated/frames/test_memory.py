"""The frames' public face: words and exceptions around the numbers, owners, and what records cost."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from vmalloc.errors import BadFrame, BadRequest, OutOfFrames, VmallocError
from vmalloc.machine.simulated.frames.memory import Outstanding, PhysicalMemory
from vmalloc.machine.simulated.frames.states import DOUBLE_FREE, FOREIGN, INSIDE_BLOCK, WRONG_ORDER, ZONE_DMA32

both_builds = pytest.mark.both_builds


def machine(*nodes: Any, **more: Any) -> PhysicalMemory:
    return PhysicalMemory(nodes or [2048], cpus=2, **({"dma32_limit": 0} | more))


@both_builds
def test_out_of_frames_says_what_was_asked() -> None:
    memory = machine(8, 1024, dma32_limit=0)
    with pytest.raises(OutOfFrames, match=r"no free block of order 4 \(16 frames\) on node 0 alone") as complaint:
        memory.allocate_strict(4, node=0)
    error = complaint.value
    assert (error.order, error.node) == (4, 0)
    assert isinstance(error, MemoryError)
    assert isinstance(error, VmallocError)
    memory.allocate(cpu=1)
    with pytest.raises(OutOfFrames, match="from node 0 on, zone DMA32 and below; 7 frames are on lists of CPUs"):
        memory.allocate(zone_limit=ZONE_DMA32)
    memory.validate()


@both_builds
def test_draining_before_giving_up() -> None:
    memory = machine(64)
    pfn = memory.allocate(cpu=1)
    with pytest.raises(OutOfFrames):
        memory.allocate(5)
    assert memory.allocate_draining(5) == 32
    memory.release(pfn)
    with pytest.raises(OutOfFrames):
        memory.allocate_draining(6)


@both_builds
@pytest.mark.parametrize(
    ("pfn", "order", "code", "complaint"),
    [
        (0, 2, WRONG_ORDER, "frame 0x0: it was allocated with another order than 2"),
        (0, 11, WRONG_ORDER, "another order than 11"),
        (0, -1, WRONG_ORDER, "another order than -1"),
        (0, 1 << 40, WRONG_ORDER, "another order than"),
        (3, 0, INSIDE_BLOCK, "frame 0x3: it lies inside an allocation"),
        (8, 0, DOUBLE_FREE, "frame 0x8: it is free already"),
        (5000, 0, FOREIGN, "frame 0x1388: no node has this frame"),
        (-1, 0, FOREIGN, "no node has this frame"),
        (1 << 64, 0, FOREIGN, "no node has this frame"),
    ],
)
def test_a_bad_free_or_split_is_an_error_with_its_cause(pfn: int, order: int, code: int, complaint: str) -> None:
    memory = machine()
    memory.allocate(3)
    for call in (memory.release, memory.split):
        with pytest.raises(BadFrame, match=complaint) as error:
            call(pfn, order)
        assert (error.value.pfn, error.value.code) == (pfn, code)
    assert isinstance(error.value, ValueError)
    assert memory.outstanding() == [Outstanding(0, 3, None)]
    memory.validate()


@both_builds
@pytest.mark.parametrize(
    "request_",
    [{name: value} for name, end in (("node", 2), ("zone_limit", 2), ("cpu", 2), ("order", 11)) for value in (-1, end)],
)
def test_a_place_this_machine_has_not_is_refused(request_: dict[str, int]) -> None:
    memory = machine(1024, 1024)
    with pytest.raises(BadRequest):
        memory.allocate(**request_)
    with pytest.raises(BadRequest):
        memory.allocate_strict(**({"node": 0} | request_))
    if "order" not in request_:
        with pytest.raises(BadRequest):
            memory.allocate_bulk(3, **request_)
    if "cpu" in request_:
        pfn = memory.allocate()
        for call in (memory.release, memory.drain, lambda cpu: memory.release_bulk([], cpu=cpu)):
            with pytest.raises(BadRequest):
                call(**request_) if call != memory.release else call(pfn, **request_)
    memory.validate()


@both_builds
def test_a_batch_is_an_array() -> None:
    memory = machine()
    found = memory.allocate_bulk(100, owner="batch")
    assert (found.typecode, len(found)) == ("Q", 100)
    assert len(memory.outstanding("batch")) == 100
    memory.release_bulk(found)
    assert memory.outstanding() == []
    assert list(memory.allocate_bulk(0)) == []
    assert len(memory.allocate_bulk(1 << 60)) == 1
    with pytest.raises(BadRequest):
        memory.allocate_bulk(-1)


@both_builds
def test_a_bad_frame_in_a_batch_is_named_and_those_behind_it_stay() -> None:
    memory = machine()
    found = memory.allocate_bulk(4)
    with pytest.raises(BadFrame, match="it is free already") as complaint:
        memory.release_bulk([found[0], found[1], found[0], found[3]])
    assert complaint.value.pfn == found[0]
    with pytest.raises(BadFrame, match="no node has this frame"):
        memory.release_bulk([found[2], -1])
    assert [block.pfn for block in memory.outstanding()] == sorted([found[2], found[3]])


@both_builds
def test_outstanding_tells_who_holds_what() -> None:
    memory = machine(2048, 2048)
    a = memory.allocate(3, owner="module")
    b = memory.allocate(node=1, owner=("stack", 7))
    c = memory.allocate(2, owner="module")
    d = memory.allocate(4)
    everything = [Outstanding(a, 3, "module"), Outstanding(c, 2, "module"), Outstanding(d, 4, None)]
    assert memory.outstanding() == [*sorted(everything), Outstanding(b, 0, ("stack", 7))]
    assert [block.pfn for block in memory.outstanding("module", ("stack", 7))] == [*sorted([a, c]), b]
    assert memory.outstanding("nobody") == []
    memory.release(a, 3)
    assert memory.outstanding("module") == [Outstanding(c, 2, "module")]


@both_builds
def test_an_owner_that_cannot_be_remembered_costs_no_frame() -> None:
    memory = machine()
    for call in (memory.allocate, lambda owner: memory.allocate_bulk(3, owner=owner)):
        with pytest.raises(TypeError):
            call(owner=[])
    assert memory.outstanding() == []


@both_builds
def test_owners_have_numbers_for_compiled_callers() -> None:
    memory = machine()
    number = memory.owner_number("calls")
    assert memory.owner_number("calls") == number != memory.owner_number("other")
    assert memory.owner_number(None) == 0
    pfn = memory.allocate()
    memory.frames.tag(pfn, number)
    assert memory.outstanding("calls") == [Outstanding(pfn, 0, "calls")]


@both_builds
@pytest.mark.parametrize("fill", [-1, 256])
def test_a_fill_byte_is_a_byte(fill: int) -> None:
    with pytest.raises(BadRequest, match="fill byte"):
        machine(fill=fill)


@both_builds
def test_the_node_of_a_frame() -> None:
    memory = machine(1000, 2048)
    assert [memory.node_of(pfn) for pfn in (0, 999, 1024, 3071)] == [0, 0, 1, 1]
    for pfn in (1000, 1023, 3072, -1, 1 << 70):
        with pytest.raises(BadFrame):
            memory.node_of(pfn)
    assert memory.nr_frames == 3048


MEASURE = """
import sys
from vmalloc.machine.simulated.frames.memory import PhysicalMemory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

start = resident()
memory = PhysicalMemory([1 << 28], cpus=4)
idle = resident()
for _ in range(1_000_000):
    memory.frames.try_alloc(0, 0, 1, 0)
print(idle - start, resident() - idle, memory.stats()[0].used)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_terabyte_costs_nothing_and_a_used_frame_20_bytes(compiled: bool) -> None:
    if not compiled:
        pytest.skip("uncompiled records are Python objects")
    result = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    idle, used, count = map(int, result.stdout.split())
    assert count == 1_000_000
    assert idle < 1 << 20
    assert used < 20 * count
