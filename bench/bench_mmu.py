"""The MMU: arrays of accesses through a TLB, a lookup alone, and flushes; all cases of a round in turn.

    make bench ARGS='bench/bench_mmu.py'
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from compiled_loops import compile_loops
from summary import AT_LEAST, AT_MOST, Bar, Summary

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.sizes import default_sizes, make_tlbs
from vmalloc.machine.simulated.mmu.states import POLICIES
from vmalloc.machine.simulated.mmu.tlb import Tlb
from vmalloc.machine.simulated.page_tables.tables import PageTables

ROOT = Path(__file__).resolve().parent.parent
MILLION = 1_000_000
ROUNDS = 15
ACCESSES = 1_000_000
#: 1 GiB of base pages; the TLB holds 1536 of them.
NR_PAGES = 1 << 18
NEAR = 1400

LOOPS = """
# cython: language_level=3, boundscheck=False, wraparound=False
from libc.stdint cimport uint64_t
from vmalloc.machine.simulated.mmu.mmu cimport Mmu
from vmalloc.machine.simulated.mmu.tlb cimport Tlb, tlb_entry

def lookups(Tlb tlb, const uint64_t[:] addresses):
    cdef uint64_t total = 0
    cdef Py_ssize_t i
    cdef tlb_entry* e
    with nogil:
        for i in range(addresses.shape[0]):
            e = tlb.lookup(addresses[i])
            if e:
                total += e.pfn
    return total

def fills(Tlb tlb, const uint64_t[:] addresses):
    cdef Py_ssize_t i
    with nogil:
        for i in range(addresses.shape[0]):
            tlb.insert(addresses[i], i, 12, 3, 1)

def words(Mmu mmu, const uint64_t[:] addresses):
    cdef uint64_t word = 0
    cdef Py_ssize_t i
    with nogil:
        for i in range(addresses.shape[0]):
            mmu.load(0, addresses[i], 8, <unsigned char*>&word)

def flushes(Mmu mmu, uint64_t start, uint64_t size, int rounds):
    with nogil:
        for _ in range(rounds):
            mmu.flush(start, start + size)
"""


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The loops, compiled against the package's declarations."""
    return compile_loops("mmu_loops", LOOPS, tmp_path_factory)


class Mapped:
    """A machine with 1 GiB mapped page by page, in frames of random order."""

    def __init__(self, name: str) -> None:
        arch = ARCHITECTURES[name]
        memory = PhysicalMemory([1 << 20], page_shift=arch.page_shift, cpus=2)
        self.tables = PageTables(memory.frames, memory.contents, arch, PROFILES["6.19"], 3)
        self.mmu = Mmu(self.tables, memory.contents, make_tlbs(arch, 2))
        pfns = np.random.default_rng(1).permutation(NR_PAGES).astype(np.uint64) + np.uint64(1 << 19)
        assert self.tables.do_map_pages(arch.vmalloc_start, array("Q", pfns.tobytes()), 3) == 0
        self.start, self.page_size = arch.vmalloc_start, arch.page_size

    def random(self, nr_pages: int, count: int = ACCESSES) -> np.ndarray[Any, Any]:
        """Addresses all over the first pages."""
        pages = np.random.default_rng(2).integers(0, nr_pages, count).astype(np.uint64)
        return np.uint64(self.start) + pages * np.uint64(self.page_size)

    def in_order(self) -> np.ndarray[Any, Any]:
        """Word after word."""
        return np.uint64(self.start) + np.arange(ACCESSES, dtype=np.uint64) * np.uint64(8)


def in_turn(cases: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Processor seconds of each case, one round of all after the other; the first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            began = time.thread_time()
            case()
            if number:
                seconds[name].append(time.thread_time() - began)
    return seconds


def test_arrays_of_accesses(summary: Summary, one_core: None) -> None:
    """``Mmu.access``: million accesses a second."""
    cases: dict[str, Callable[[], object]] = {}
    bars: dict[str, Bar] = {}
    for name in ("x86_64", "x86_64_la57", "arm64_4k", "s390x"):
        machine = Mapped(name)
        near, far, order = machine.random(NEAR), machine.random(NR_PAGES), machine.in_order()
        machine.mmu.access(near)
        cases[f"{name}, hits at random"] = lambda m=machine, a=near: m.mmu.access(a, cpu=0)  # type: ignore[misc]
        cases[f"{name}, misses at random over 1 GiB"] = lambda m=machine, a=far: m.mmu.access(a, cpu=1)  # type: ignore[misc]
        cases[f"{name}, word after word"] = lambda m=machine, a=order: m.mmu.access(a, True, 1)  # type: ignore[misc]
        bars[f"{name}, hits at random"] = Bar(AT_LEAST, 20)
        bars[f"{name}, misses at random over 1 GiB"] = Bar(AT_LEAST, 5)
    for name, seconds in in_turn(cases).items():
        summary.add(
            f"access(): {name}",
            [ACCESSES / each / MILLION for each in seconds],
            "million accesses per second",
            bar=bars.get(name),
            state="warm: the hits' TLB; a miss walks from the root; one core",
            test="arrays_of_accesses",
        )


def test_the_parts(loops: ModuleType, summary: Summary, one_core: None) -> None:
    """The TLB alone, a word loaded, and flushes: nanoseconds each."""
    machine = Mapped("x86_64")
    near, far = machine.random(NEAR), machine.random(NR_PAGES)
    cases: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    bars: dict[str, Bar] = {}
    for policy in POLICIES:
        tlb = Tlb(12, default_sizes(ARCHITECTURES["x86_64"]), policy)
        for k in range(NEAR):
            tlb.do_insert(machine.start + k * 4096, k, 12, 3)
        other = Tlb(12, default_sizes(ARCHITECTURES["x86_64"]), policy)
        cases[f"a lookup that hits, {policy}"] = lambda t=tlb: loops.lookups(t, near)  # type: ignore[misc]
        bars[f"a lookup that hits, {policy}"] = Bar(AT_MOST, 15)
        cases[f"an entry filled over another, {policy}"] = lambda t=other: loops.fills(t, far)  # type: ignore[misc]
    cases["8 bytes loaded, hit"] = lambda: loops.words(machine.mmu, near)
    for nr_pages in (1, 33, 34):
        name = f"a flush of {nr_pages} pages on 2 CPUs, 1000 in a row"
        cases[name] = lambda n=nr_pages: loops.flushes(machine.mmu, machine.start, n * 4096, 1000)  # type: ignore[misc]
        counts[name] = 1000
    for name, seconds in in_turn(cases).items():
        count = counts.get(name, ACCESSES)
        summary.add(
            f"TLB and MMU: {name}",
            [each / count * 1e9 for each in seconds],
            "ns",
            bar=bars.get(name),
            state="warm; one core",
            test="the_parts",
        )
