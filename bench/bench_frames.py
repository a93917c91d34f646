"""Page frames: single frames through a CPU's list, batches, blocks, stores; the loops themselves are compiled.

    make bench ARGS='bench/bench_frames.py'
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compiled_loops import compile_loops

from vmalloc.machine.simulated.frames.memory import PhysicalMemory

ROOT = Path(__file__).resolve().parent.parent

LOOPS = """
# cython: language_level=3
from libc.stdint cimport int64_t, uint8_t, uint64_t
from vmalloc.machine.simulated.frames.allocator cimport FrameAllocator
from vmalloc.machine.simulated.frames.contents cimport FrameContents

def single(FrameAllocator frames, int rounds):
    cdef int64_t pfn
    with nogil:
        for _ in range(rounds):
            pfn = frames.alloc(0, 0, 1, 0)
            frames.free(pfn, 0, 0)

def blocks(FrameAllocator frames, int rounds, int order):
    cdef int64_t pfn
    with nogil:
        for _ in range(rounds):
            pfn = frames.alloc(order, 0, 1, 0)
            frames.free(pfn, order, 0)

def take_batches(FrameAllocator frames, int rounds):
    cdef uint64_t[512] out
    with nogil:
        for _ in range(rounds):
            frames.alloc_bulk(0, 512, out, 1, 0)

def batches(FrameAllocator frames, int rounds):
    cdef uint64_t[512] out
    with nogil:
        for _ in range(rounds):
            frames.alloc_bulk(0, 512, out, 1, 0)
            frames.free_bulk(out, 512, 0)

def words(FrameContents contents, uint64_t pfn, int rounds):
    cdef uint64_t word = 0
    with nogil:
        for _ in range(rounds):
            contents.put(pfn, 64, 8, <uint8_t*>&word)
            contents.get(pfn, 64, 8, <uint8_t*>&word)
"""

ROUNDS = 100_000


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The loops, compiled against the package's declarations."""
    return compile_loops("frames_loops", LOOPS, tmp_path_factory)


@pytest.fixture
def memory() -> PhysicalMemory:
    return PhysicalMemory([1 << 20], cpus=2)


def test_a_single_frame_through_the_list(benchmark: Any, loops: ModuleType, memory: PhysicalMemory) -> None:
    benchmark.extra_info["operations"] = ROUNDS
    benchmark(loops.single, memory.frames, ROUNDS)


@pytest.mark.parametrize("order", [1, 9, 10])
def test_a_block(benchmark: Any, loops: ModuleType, memory: PhysicalMemory, order: int) -> None:
    benchmark.extra_info["operations"] = ROUNDS
    benchmark(loops.blocks, memory.frames, ROUNDS, order)


def test_a_batch_of_512_and_back(benchmark: Any, loops: ModuleType, memory: PhysicalMemory) -> None:
    benchmark.extra_info["operations"] = 1000
    benchmark(loops.batches, memory.frames, 1000)


def test_a_batch_of_512_from_untouched_frames(benchmark: Any, loops: ModuleType) -> None:
    """Fresh records included: every second batch makes a section of them."""
    benchmark.extra_info["operations"] = 1000
    benchmark.pedantic(
        loops.take_batches, setup=lambda: ((PhysicalMemory([1 << 20]).frames, 1000), {}), rounds=10, iterations=1
    )


def test_a_word_stored_and_loaded(benchmark: Any, loops: ModuleType, memory: PhysicalMemory) -> None:
    benchmark.extra_info["operations"] = ROUNDS
    benchmark(loops.words, memory.contents, memory.allocate(), ROUNDS)


def test_one_call_from_python(benchmark: Any, memory: PhysicalMemory) -> None:
    benchmark(lambda: memory.release(memory.allocate()))
