"""The state behind a space: look-ups, messages, contexts, the flush that a purge owes (sections 1.12, 2.1, 4.3)."""

from __future__ import annotations

import pytest

from space.rig import KERNELS
from vmalloc.calls.state import LOG_LINES
from vmalloc.errors import BadContext
from vmalloc.flags import CONTEXT_NAMES, GFP_KERNEL, GFP_NOWARN, GFP_ZERO
from vmalloc.kernels import PROFILES, lazy_max_pages
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.space.simulated import SimulatedSpace, simulated

P = 4096


@pytest.fixture
def space() -> SimulatedSpace:
    return simulated("x86_64", cpus=2, memory="16MiB")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_state_says_what_the_machine_is(arch: str) -> None:
    space = simulated(arch, "6.12", cpus=3, memory="128MiB")
    state, info = space.state, space.machine.info
    assert (state.page_size, state.pointer_size) == (1 << info.page_shift, info.word_bits // 8)
    assert (state.vmalloc_start, state.vmalloc_end) == (info.vmalloc_start, info.vmalloc_end)
    assert state.total_pages == info.nr_pages == (128 << 20) // state.page_size
    assert state.kernel is PROFILES["6.12"]
    assert state.lazy_max == lazy_max_pages(3, state.page_size) == state.space.lazy_max_pages


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", KERNELS)
def test_any_address_of_an_area_finds_it(kernel: str) -> None:
    """Section 1.12: the guard page belongs to it; an area over several zones is in the node of its first byte."""
    space = simulated("x86_64", kernel, cpus=4, memory="16MiB")
    areas = [space.vmalloc(n * P) for n in (1, 40, 3)]
    state = space.state
    for area in areas:
        for address in (area.address, area.address + 1, area.end - 1, area.end, area.vm.end - 1):
            assert state.find_area(address) is area.vm
    for address in (state.vmalloc_start - 1, areas[-1].vm.end, 0, state.vmalloc_end, -1, 1 << 64, 1 << 70):
        assert state.find_area(address) is None
    areas[1].free()
    assert state.find_area(areas[1].address) is None
    assert state.find_area(areas[2].address) is areas[2].vm


def test_a_range_without_a_vm_struct_is_no_area() -> None:
    """Section 2.7: NULL for ``vm_map_ram`` ranges and early memory."""
    start = ARCHITECTURES["x86_64"].vmalloc_start
    space = simulated("x86_64", cpus=1, memory="16MiB", early=[(start, start + 4 * P)])
    assert space.state.space.find(start) is not None
    assert space.state.find_area(start) is None
    assert space.vmalloc(P).address == start + 4 * P


@pytest.mark.parametrize("number", range(4))
def test_a_refusal_names_call_and_context(space: SimulatedSpace, number: int) -> None:
    with space.in_context(CONTEXT_NAMES[number]):
        assert space.state.context_name() == CONTEXT_NAMES[number]
        error = space.state.refuse("vmalloc", "because")
    assert isinstance(error, BadContext)
    assert (error.call, error.context) == ("vmalloc", CONTEXT_NAMES[number])
    assert "vmalloc() in " in str(error)
    assert "because" in str(error)


def test_allocation_failures_are_laid_out_as_the_kernel_does(space: SimulatedSpace) -> None:
    """Section 2.1: ``<comm>: <message>, mode:%#x(<flags>), nodemask=...``; silenced by ``__GFP_NOWARN``."""
    state = space.state
    state.comm = "insmod"
    assert state.warn_alloc(GFP_KERNEL | GFP_ZERO, "vmalloc error: size 4096, x") == "vmalloc error: size 4096, x"
    assert space.dmesg() == ["insmod: vmalloc error: size 4096, x, mode:0xdc0(GFP_KERNEL|__GFP_ZERO), nodemask=(null)"]
    assert state.warn_alloc(GFP_KERNEL | GFP_NOWARN, "y") == "y"
    assert len(space.dmesg()) == 1


def test_a_warning_that_comes_once_comes_once(space: SimulatedSpace) -> None:
    state = space.state
    said = [state.warn_once("a of 1", "a"), state.warn_once("a of 2", "a"), state.warn_once("b of 1", "b")]
    assert said == ["a of 1", "a of 2", "b of 1"]
    assert space.dmesg() == ["a of 1", "b of 1"]
    state.warn("a of 1")
    assert space.dmesg() == ["a of 1", "b of 1", "a of 1"]


def test_the_log_keeps_the_newest_lines(space: SimulatedSpace) -> None:
    for i in range(LOG_LINES + 5):
        space.state.warn(str(i))
    assert space.dmesg()[0] == "5"
    assert len(space.dmesg()) == LOG_LINES


def test_a_purge_flushes_before_an_address_can_be_used_again(space: SimulatedSpace) -> None:
    area = space.vmalloc(P)
    area.write(0, b"x")
    area.free()
    assert space.machine.mmu.flushes == 0
    assert len(space.machine.tlb(0)) == 1
    space.state.space.purge()
    assert space.machine.mmu.flushes == 1
    assert len(space.machine.tlb(0)) == 0
