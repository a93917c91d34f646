"""``PerCpu``, the handle; and random programs of per-CPU objects against a plain model (section 7.2)."""

from __future__ import annotations

import copy
import gc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from percpu.rig import KIB, fill_first, make, picture
from vmalloc import _build
from vmalloc.errors import BadAddress, BadRequest, BadSize, Fault, OutOfAddresses, OutOfFrames
from vmalloc.space.simulated import SimulatedSpace

pytestmark = pytest.mark.both_builds


def test_a_handle_has_the_facts() -> None:
    space = make()
    p = space.alloc_percpu(10, 16)
    assert (p.size, len(p), int(p), p.alive) == (10, 10, p.base, True)
    assert hex(p) == f"{p.base:#x}"
    assert "test_a_handle_has_the_facts" in p.caller
    assert repr(p) == f"<PerCpu {p.base:#x}: 10 bytes on 4 CPUs>"
    assert p == copy.copy(p) == copy.deepcopy(p)
    assert p != 3
    assert len({p, copy.copy(p)}) == 1
    for cpu in (-1, 4):
        with pytest.raises(BadRequest, match="CPUs are 0 to 3"):
            p.address(cpu)
    for offset, n in ((-1, 2), (0, 11), (11, 0), (4, -1)):
        with pytest.raises(BadSize, match="per-CPU object of 10 bytes"):
            p.read(0, offset, n)
    with pytest.raises(BadSize):
        p.write(0, 9, b"ab")
    p.free()
    assert "freed" in repr(p)
    with pytest.raises(BadAddress, match="was freed"):
        p.read(0)
    with pytest.raises(BadAddress, match="was freed"):
        p.write(0, 0, b"a")


def test_an_object_goes_with_its_handle_and_a_copy_does_not_own() -> None:
    space = make()
    p = space.alloc_percpu(8)
    found = p.found
    other = copy.copy(p)
    del other
    gc.collect()
    assert found.live
    del p
    gc.collect()
    assert not found.live
    assert space.percpu_stats()["objects"] == 0
    base = space.alloc_percpu(8).detach()
    gc.collect()
    assert space.percpu_stats()["objects"] == 1
    space.free_percpu(base)
    with space.alloc_percpu(8) as p:
        assert p.alive
    assert not p.alive
    with space.alloc_percpu(8) as p:
        p.free()


def test_a_handle_collected_in_an_interrupt_is_freed_by_the_next_call() -> None:
    space = make()
    p = space.alloc_percpu(8)
    with space.in_context("hardirq"):
        del p
        gc.collect()
        assert space.percpu_stats()["objects"] == 1
    space.run_deferred()
    assert space.percpu_stats()["objects"] == 0
    space.validate()


def test_an_array_is_written_in_bytes() -> None:
    space = make()
    p = space.alloc_percpu(16)
    p.write(1, 8, memoryview(b"\1\2\3\4\5\6\7\10").cast("Q"))
    assert p.read(1) == bytes(8) + b"\1\2\3\4\5\6\7\10"


def test_statistics_of_an_empty_and_a_used_allocator() -> None:
    space = make()
    assert not any(space.percpu_stats().values())
    held = fill_first(space)
    stats = space.percpu_stats()
    assert stats["units"] == 4
    assert stats["groups"] == 2
    assert stats["unit_size"] == 32 * KIB
    assert stats["objects"] == len(held) == stats["allocations"]
    assert stats["bytes_allocated"] == sum(-(-p.size // 4) * 4 for p in held)
    assert stats["memory"] == 4 * 4096 * stats["pages_populated"]
    assert 0 <= stats["fragmentation"] < 1
    assert f"Percpu:         {stats['memory'] // 1024:8d} kB\n" in space.meminfo()


def test_a_closed_space_takes_its_objects_with_it() -> None:
    space = make()
    p = space.alloc_percpu(8)
    space.close()
    assert not p.alive
    with pytest.raises(BadRequest, match="closed"):
        space.alloc_percpu(8)
    with pytest.raises((BadRequest, BadAddress)):
        p.free()


class PerCpuMachine(RuleBasedStateMachine):
    """Programs of allocations, frees, stores and interrupts; the model is a list of objects and their bytes."""

    @initialize(
        cpus=st.sampled_from([1, 3, 4]), nodes=st.sampled_from([1, 2]), first=st.sampled_from(["auto", "page"]),
        kernel=st.sampled_from(["6.1", "6.12", "6.19"]),
    )  # fmt: skip
    def begin(self, cpus: int, nodes: int, first: str, kernel: str) -> None:
        sizes = {"static_size": 1000, "reserved_size": 2000, "dynamic_size": 20 * KIB, "atom_size": 64 * KIB}
        self.space: SimulatedSpace = make(
            cpus=cpus, nodes=min(nodes, cpus), kernel=kernel, percpu=sizes | {"first_chunk": first}
        )
        self.cpus = cpus
        self.live: list[tuple[Any, list[bytearray]]] = []
        self.offsets: list[int] | None = None

    @rule(
        size=st.one_of(st.integers(1, 300), st.integers(1, 32 * KIB)), order=st.integers(0, 12),
        context=st.sampled_from(["task", "task", "task", "softirq", "hardirq"]),
        reserved=st.sampled_from([False, False, False, True]), short=st.sampled_from([None, None, "take", "map_pages"]),
        after=st.integers(0, 5),
    )  # fmt: skip
    def allocate(self, size: int, order: int, context: str, reserved: bool, short: str | None, after: int) -> None:
        space = self.space
        if short is not None and space.percpu.layout is not None:
            space.machine.fail_next(short, after=after)
        before = space.percpu_stats()["objects"]
        try:
            with space.in_context(context):
                p = space.alloc_percpu(size, 1 << order, reserved=reserved)
        except (OutOfFrames, OutOfAddresses):
            assert short or reserved or context != "task"
            assert space.percpu_stats()["objects"] == before
            return
        finally:
            space.machine.clear()
        assert p.base % (1 << order) == 0 or order == 0
        for cpu in range(self.cpus):
            assert p.read(cpu) == bytes(size)
        self.live.append((p, [bytearray(size) for _ in range(self.cpus)]))

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 1000), context=st.sampled_from(["task", "hardirq"]), by_base=st.booleans())
    def free(self, which: int, context: str, by_base: bool) -> None:
        p, _ = self.live.pop(which % len(self.live))
        with self.space.in_context(context):
            self.space.free_percpu(p.base if by_base else p)
        with pytest.raises(BadAddress):
            self.space.free_percpu(p)

    @rule()
    def free_everything(self) -> None:
        while self.live:
            self.live.pop()[0].free()
        self.space.run_deferred()
        stats = self.space.percpu_stats()
        assert stats["objects"] == 0
        assert stats["chunks"] <= 2

    @precondition(lambda self: self.live)
    @rule(
        which=st.integers(0, 1000), cpu=st.integers(0, 3), by=st.integers(0, 3),
        data=st.binary(min_size=1, max_size=20),
    )  # fmt: skip
    def store(self, which: int, cpu: int, by: int, data: bytes) -> None:
        p, copies = self.live[which % len(self.live)]
        cpu, data = cpu % self.cpus, data[: p.size]
        offset = (which * 37) % (p.size - len(data) + 1)
        with self.space.on_cpu(by % self.cpus):
            p.write(cpu, offset, data)
        copies[cpu][offset : offset + len(data)] = data

    @rule()
    def purge(self) -> None:
        self.space.purge()

    @invariant()
    def copies_are_apart_constant_and_each_its_own(self) -> None:
        if not getattr(self, "live", None):
            return
        ranges = []
        for p, copies in self.live:
            offsets = [p.address(cpu) - p.base for cpu in range(self.cpus)]
            self.offsets = self.offsets or offsets
            assert offsets == self.offsets
            for cpu, expected in enumerate(copies):
                assert p.read(cpu) == expected
                ranges.append((p.address(cpu), p.address(cpu) + p.size))
        ranges.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(ranges))

    @invariant()
    def everything_is_valid(self) -> None:
        if hasattr(self, "space"):
            self.space.validate()
            ordinary = [p for p, _ in self.live if p.found.chunk is not self.space.percpu.reserved]
            stats = self.space.percpu_stats()
            assert stats["objects"] == len(ordinary)
            assert stats["bytes_allocated"] == sum(-(-p.size // 4) * 4 for p in ordinary)

    def teardown(self) -> None:
        if hasattr(self, "space"):
            self.space.close()
            assert not self.space.state.areas


PerCpuMachine.TestCase.settings = settings(max_examples=4 if _build.PURE else 12, stateful_step_count=12)
TestPerCpuPrograms = PerCpuMachine.TestCase


def test_what_a_failed_call_left_is_nothing() -> None:
    space = make()
    held = fill_first(space)
    before = picture(space)
    for wrong in (0, 1 << 20):
        with pytest.raises(BadSize):
            space.alloc_percpu(wrong)
    with pytest.raises(Fault):
        space.load(held[-1].address(0) + (1 << 40), 4)
    assert picture(space) == before
