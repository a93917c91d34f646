"""Page tables: mapping, unmapping and walking; the loops themselves are compiled.

    make bench ARGS='bench/bench_page_tables.py'
"""

from __future__ import annotations

from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from compiled_loops import compile_loops

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.page_tables.tables import PageTables

ROOT = Path(__file__).resolve().parent.parent

LOOPS = """
# cython: language_level=3, boundscheck=False
from libc.stdint cimport uint32_t, uint64_t
from vmalloc.machine.simulated.page_tables.tables cimport PageTables, leaf_found

def map_and_unmap(PageTables tables, uint64_t start, uint64_t[::1] pfns, uint64_t page_size, int rounds):
    cdef uint64_t count = pfns.shape[0], end = start + count * page_size
    with nogil:
        for _ in range(rounds):
            if tables.map_pages(start, &pfns[0], count, 3) != 0 or tables.unmap(start, end) != count:
                with gil:
                    raise RuntimeError

def far_apart(PageTables tables, uint64_t start, uint64_t[::1] pfns, uint64_t stride, uint64_t page_size, int rounds):
    cdef uint64_t address
    cdef int k
    with nogil:
        for k in range(rounds):
            address = start + (k % 64) * stride
            tables.map_pages(address, &pfns[0], 1, 3)
            tables.unmap(address, address + page_size)

def huge(PageTables tables, uint64_t start, uint64_t size, uint32_t shift, int rounds):
    with nogil:
        for _ in range(rounds):
            if tables.map_range(start, 0, size, shift, 3) != 0 or tables.unmap(start, start + size) == 0:
                with gil:
                    raise RuntimeError

def walks(PageTables tables, uint64_t[::1] addresses, int rounds):
    cdef leaf_found found
    cdef uint64_t total = 0
    cdef Py_ssize_t k
    with nogil:
        for _ in range(rounds):
            for k in range(addresses.shape[0]):
                total += tables.walk(0, addresses[k], &found)
    return total
"""


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The loops, compiled against the package's declarations."""
    return compile_loops("page_tables_loops", LOOPS, tmp_path_factory)


def build(arch: str) -> PageTables:
    memory = PhysicalMemory([1 << 20], page_shift=ARCHITECTURES[arch].page_shift, dma32_limit=0)
    return PageTables(memory.frames, memory.contents, ARCHITECTURES[arch], PROFILES["6.19"], 3)


@pytest.mark.parametrize("arch", ["x86_64", "x86_32", "s390x"])
@pytest.mark.parametrize("count", [1, 2, 16, 512])
def test_pages_mapped_and_unmapped(benchmark: Any, loops: ModuleType, arch: str, count: int) -> None:
    tables = build(arch)
    start = (tables.arch.vmalloc_start + (1 << 22)) >> 22 << 22
    rounds = 200_000 // count
    benchmark.extra_info["operations"] = rounds
    benchmark(loops.map_and_unmap, tables, start, array("Q", range(1000, 1000 + count)), 4096, rounds)


def test_a_page_mapped_in_another_table_each_time(benchmark: Any, loops: ModuleType) -> None:
    tables = build("x86_64")
    benchmark.extra_info["operations"] = 100_000
    benchmark(loops.far_apart, tables, tables.arch.vmalloc_start, array("Q", [7]), 1 << 21, 4096, 100_000)


@pytest.mark.parametrize(("size", "shift"), [(1 << 21, 21), (1 << 24, 21), (1 << 16, 16), (1 << 21, 16)])
def test_leaves_and_groups(benchmark: Any, loops: ModuleType, size: int, shift: int) -> None:
    tables = build("arm64_4k")
    benchmark.extra_info["operations"] = 10_000
    benchmark(loops.huge, tables, tables.arch.vmalloc_start + (1 << 30), size, shift, 10_000)


@pytest.mark.parametrize("pattern", ["one table", "another table each time", "one leaf"])
def test_a_walk(benchmark: Any, loops: ModuleType, pattern: str) -> None:
    tables = build("x86_64")
    start = tables.arch.vmalloc_start + (1 << 30)
    if pattern == "one leaf":
        tables.do_map_range(start, 0, 1 << 21, 21, 3)
        addresses = [start + (k * 37 % 512 << 12) for k in range(1000)]
    else:
        stride = 1 << 21 if pattern == "another table each time" else 1 << 12
        for k in range(500):
            tables.do_map_pages(start + k * stride, array("Q", [k]), 3)
        addresses = [start + k * 37 % 500 * stride for k in range(1000)]
    benchmark.extra_info["operations"] = 100_000
    assert benchmark(loops.walks, tables, array("Q", addresses), 100) == 100_000
