"""Huge mappings of allocations: when, how large, how aligned, and what if there are none (3.1, 3.2, 3.4, 8.3)."""

from __future__ import annotations

import pytest

from space.rig import KERNELS, recording_space, settle, validate
from vmalloc.errors import Fault, OutOfFrames
from vmalloc.flags import GFP_ATOMIC, GFP_KERNEL, GFP_THISNODE, VM_ALLOW_HUGE_VMAP
from vmalloc.machine.simulated.arch import ARCHITECTURES, LeafNeed
from vmalloc.space.simulated import SimulatedSpace, simulated

MIB = 1 << 20
KIB = 1 << 10

#: log2 of the mapping size by architecture and kernel: of just enough for it, and of one byte less (section 8.3).
CHOSEN = [
    ("x86_64", "6.1", 2 * MIB, 21, 12),
    ("x86_64", "6.12", 2 * MIB, 21, 12),
    ("x86_64", "6.19", 2 * MIB, 21, 12),
    ("x86_64_la57", "6.19", 2 * MIB, 21, 12),
    # Groups of PTEs since 6.17 only; the PMD entry of the larger pages is far off.
    ("arm64_4k", "6.19", 2 * MIB, 21, 16),
    ("arm64_4k", "6.19", 64 * KIB, 16, 12),
    ("arm64_4k", "6.12", 2 * MIB, 21, 12),
    ("arm64_4k", "6.12", 64 * KIB, 12, 12),
    ("arm64_16k", "6.19", 2 * MIB, 21, 14),
    ("arm64_16k", "6.1", 2 * MIB, 14, 14),
    ("arm64_64k", "6.19", 2 * MIB, 21, 16),
    ("arm64_64k", "6.12", 2 * MIB, 16, 16),
    # Not in 6.1.
    ("riscv64_sv39", "6.12", 2 * MIB, 21, 12),
    ("riscv64_sv48", "6.19", 2 * MIB, 21, 12),
    ("riscv64_sv57", "6.12", 2 * MIB, 21, 12),
    ("riscv64_sv48", "6.1", 2 * MIB, 12, 12),
    ("ppc64_radix", "6.1", 2 * MIB, 21, 16),
    ("ppc64_radix", "6.19", 2 * MIB, 21, 16),
    # Huge vmap at most, no huge vmalloc.
    ("x86_32", "6.19", 4 * MIB, 12, 12),
    ("x86_32_pae", "6.19", 2 * MIB, 12, 12),
    ("arm32", "6.19", 2 * MIB, 12, 12),
    ("s390x", "6.19", 1 * MIB, 12, 12),
    ("loongarch64", "6.19", 32 * MIB, 14, 14),
]


def machine_for(arch: str, kernel: str, **more: object) -> SimulatedSpace:
    memory = "256MiB" if ARCHITECTURES[arch].page_shift > 12 else "48MiB"
    return simulated(arch, kernel, cpus=2, memory=more.pop("memory", memory), **more)


@pytest.mark.parametrize(("arch", "kernel", "size", "shift", "below"), CHOSEN)
def test_the_mapping_size_goes_by_architecture_kernel_and_size(
    arch: str, kernel: str, size: int, shift: int, below: int
) -> None:
    """Sections 3.2 and 8.3: PMD size if the size is worth one, else a group of PTEs, else base pages."""
    space = machine_for(arch, kernel)
    for wanted, expected in ((size, shift), (size - 1, below)):
        area = space.vmalloc_huge(wanted)
        assert area.page_shift == expected
        assert area.address % (1 << expected) == 0
        assert space.is_vm_area_hugepages(area.address) is (expected > space.state.page_shift)
        assert area.requested_size == wanted
        assert space.stats()[f"mappings_shift{expected}"] >= area.size >> expected
        area.write(0, b"first")
        area.write(wanted - 4, b"last")
        with space.on_cpu(1):
            assert area.read(0, 5) == b"first"
            assert area.read(wanted - 4, 4) == b"last"
        validate(space)
        area.free()
    settle(space)
    validate(space)
    assert space.stats()["pages"] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_mapping_larger_than_the_largest_block_is_never_had(kernel: str) -> None:
    """Sections 3.2 and 3.3: 32 MiB with 16K pages are order 11; the retry is with base pages, not the next size."""
    space = machine_for("arm64_16k", kernel)
    area = space.vmalloc_huge(32 * MIB)
    assert area.page_shift == 14
    assert space.stats()["huge_fallbacks"] == 1
    settle(space)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_only_calls_that_allow_it_get_huge_mappings(kernel: str) -> None:
    """Section 3.2: ``VM_ALLOW_HUGE_VMAP``; ``vmalloc`` and its relatives never."""
    space = machine_for("x86_64", kernel)
    size = 2 * MIB
    plain = [space.vmalloc(size), space.vzalloc(size), space.vmalloc_user(size), space.vmalloc_node(size, 0)]
    assert {area.page_shift for area in plain} == {12}
    start, end = space.state.vmalloc_start, space.state.vmalloc_end
    assert space.vmalloc_node_range(size, 1, start, end, vm_flags=VM_ALLOW_HUGE_VMAP).page_shift == 21
    assert space.kvmalloc(5 * MIB).page_shift == 21  # more than a block: through vmalloc, huge allowed
    assert space.vmalloc_huge(size).page_shift == 21


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_boot_option_turns_them_off(kernel: str) -> None:
    """Section 3.2: ``nohugevmalloc``."""
    space = machine_for("x86_64", kernel)
    space.state.huge_vmalloc = False
    area = space.vmalloc_huge(4 * MIB)
    assert area.page_shift == 12
    assert area.size == 4 * MIB
    assert space.stats()["huge_fallbacks"] == 0


@pytest.mark.parametrize("arch", ["arm64_4k", "x86_64"])
def test_a_cpu_that_lacks_the_leaf_has_none(arch: str) -> None:
    """Section 8.3: PMD leaves of x86 need PSE; [6.1], [6.12] arm64: not when the table dump is built."""
    missing = [LeafNeed.PSE if arch == "x86_64" else LeafNeed.NO_PTDUMP]
    for kernel in KERNELS:
        space = machine_for(arch, kernel, missing=missing)
        lacks = arch == "x86_64" or kernel != "6.19"
        assert space.vmalloc_huge(2 * MIB).page_shift == (12 if lacks else 21)


def test_a_request_that_must_not_wait_never_tries() -> None:
    """Section 2.1 (6.19): ``GFP_ATOMIC`` never tries huge mappings."""
    space = machine_for("x86_64", "6.19")
    assert space.vmalloc_huge(2 * MIB, gfp=GFP_ATOMIC).page_shift == 12
    assert space.vmalloc_huge(2 * MIB).page_shift == 21


@pytest.mark.parametrize("kernel", KERNELS)
def test_up_to_6_16_each_node_must_be_worth_a_huge_page(kernel: str) -> None:
    """Section 3.2: size / online nodes when no node is named; 6.19 looks at the size alone."""
    space = machine_for("x86_64", kernel, nodes=2, memory="64MiB")
    by_node = kernel != "6.19"
    assert space.vmalloc_huge(4 * MIB - 1).page_shift == (12 if by_node else 21)
    assert space.vmalloc_huge(4 * MIB).page_shift == 21
    assert space.vmalloc_huge(2 * MIB, 1).page_shift == 21  # a node is named
    assert space.vmalloc_huge(2 * MIB).page_shift == (12 if by_node else 21)


@pytest.mark.parametrize("kernel", KERNELS)
def test_memory_is_rounded_up_with_the_addresses(kernel: str) -> None:
    """Section 3.2: 2 MiB + 1 byte as huge consumes 4 MiB; the guard page is behind the rounded size."""
    space = machine_for("x86_64", kernel)
    before = space.stats()["frames_used"]
    area = space.vmalloc_huge(2 * MIB + 1)
    assert area.nr_pages == 1024
    assert area.size == 4 * MIB
    assert area.vm.size == 4 * MIB + 4096
    assert area.requested_size == 2 * MIB + 1
    # 1024 frames, two for their list, and page tables.
    assert space.stats()["frames_used"] - before - 1024 - 2 < 6
    assert space.vmalloc_nr_pages() == 1024 + 2
    assert space.load(area.end - 1, 1)
    with pytest.raises(Fault, match="guard"):
        space.load(area.end, 1)
    area.free()
    settle(space)
    assert space.vmalloc_nr_pages() == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_pages_of_a_huge_area_are_base_pages_in_contiguous_runs(kernel: str) -> None:
    """Section 3.3: ``pages[]`` always lists base pages; each run of 512 is what one leaf maps."""
    space = machine_for("x86_64", kernel)
    area = space.vmalloc_huge(6 * MIB)
    for block in range(3):
        run = list(area.pages[block * 512 : (block + 1) * 512])
        assert run == list(range(run[0], run[0] + 512))
        assert run[0] % 512 == 0
    assert [space.vmalloc_to_pfn(area.address + i * 4096) for i in range(0, 1536, 77)] == list(area.pages)[::77]
    assert space.stats()["mappings_shift21"] == 3


def test_huge_areas_are_two_strides_apart() -> None:
    """Appendix A.12 and section 3.2: a stride of 4 MiB; small areas fill what is left between."""
    space = machine_for("x86_64", "6.19", memory="64MiB")
    start = 0xFFFF_D000_4000_0000
    end = start + (1 << 30)
    huge = [space.vmalloc_node_range(2 * MIB, 1, start, end, vm_flags=VM_ALLOW_HUGE_VMAP, node=0) for _ in range(2)]
    assert [area.address - start for area in huge] == [0, 0x40_0000]
    assert {area.vm.size for area in huge} == {0x20_1000}
    small = space.vmalloc_node_range(4096, 1, start, end)
    assert small.address - start == 0x20_1000
    free = [area for area in space.state.space.free_blocks() if area.end > start]
    assert [(area.start - start, area.end - start) for area in free[:1]] == [(0x20_3000, 0x40_0000)]
    assert free[1].start - start == 0x60_1000


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("align", [1, 4096, 4 * MIB])
def test_a_larger_alignment_is_kept(kernel: str, align: int) -> None:
    """Section 3.2: ``align = max(align, 1 << shift)``."""
    space = machine_for("x86_64", kernel)
    start, end = space.state.vmalloc_start, space.state.vmalloc_end
    space.vmalloc(4096).detach()
    area = space.vmalloc_node_range(2 * MIB, align, start, end, vm_flags=VM_ALLOW_HUGE_VMAP, node=0)
    assert area.page_shift == 21
    assert area.address % max(align, 2 * MIB) == 0


# -- fallback (sections 3.1 and 3.5) -----------------------------------------------------------------------------------


def without_blocks(space: SimulatedSpace) -> list[int]:
    """Takes every second group of 256 frames: plenty of memory, no block of 2 MiB; what is to be given back."""
    space.machine.frames.drain()
    frames = []
    while True:
        try:
            frames += list(space.alloc_pages(1, order=8))
        except OutOfFrames:
            break
    frames.sort()
    space.free_pages([pfn for pfn in frames if pfn >> 8 & 1])
    space.machine.frames.drain()
    return [pfn for pfn in frames if not pfn >> 8 & 1]


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_huge_page_is_no_failure(kernel: str) -> None:
    """Section 3.1: the whole procedure is repeated once with base pages and the original alignment; silently."""
    space = machine_for("x86_64", kernel)
    held = without_blocks(space)
    area = space.vmalloc_huge(4 * MIB + 5)
    assert area.page_shift == 12
    assert area.size == 4 * MIB + 4096  # rounded to base pages again
    assert area.nr_pages == 1025
    assert space.dmesg() == []
    assert space.stats()["huge_fallbacks"] == 1
    assert space.stats()["failures"] == 1
    area.write(4 * MIB, b"last")
    validate(space)
    settle(space)
    validate(space)
    assert space.vmalloc_nr_pages() == 1025 + 3
    area.free()
    space.free_pages(held)
    settle(space)
    assert space.vmalloc_huge(4 * MIB + 5).page_shift == 21


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_second_attempt_gets_other_addresses(kernel: str) -> None:
    """Section 3.5: the failed area is still busy (6.19) or lazy (6.12) when the base-page retry looks for room."""
    space = machine_for("x86_64", kernel)
    without_blocks(space)
    area = space.vmalloc_huge(2 * MIB, 0)
    assert area.address > space.state.vmalloc_start  # where the huge attempt was
    failed = [vm for vm in space.state.areas.values() if vm is not area.vm and vm.addr == space.state.vmalloc_start]
    lazy = [lazy.start for lazy in space.state.space.lazy()]
    if kernel == "6.19":
        assert len(failed) == 1
        assert space.state.vmalloc_start not in lazy
    else:
        assert not failed
        assert space.state.vmalloc_start in lazy
    settle(space)
    assert space.vmalloc(4096).address == space.state.vmalloc_start


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("operation", ["map_range", "page_table"])
def test_a_huge_mapping_that_cannot_be_made_falls_back(operation: str, kernel: str) -> None:
    """Section 3.1: failure of step 3 of the huge attempt."""
    space = machine_for("x86_64", kernel)
    space.machine.fail_next(operation)
    area = space.vmalloc_huge(2 * MIB, 0)
    assert area.page_shift == 12
    assert not [line for line in space.dmesg() if "failed to map" in line]
    validate(space)
    area.free()
    settle(space)
    validate(space)
    assert space.stats()["pages"] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_addresses_too_scattered_for_a_huge_area_are_enough_for_base_pages(kernel: str) -> None:
    """Section 3.1: failure of step 1 of the huge attempt: nothing aligned is free in the window."""
    space = machine_for("x86_64", kernel)
    start = space.state.vmalloc_start + (1 << 30) + 4096
    area = space.vmalloc_node_range(2 * MIB, 1, start, start + 3 * MIB, vm_flags=VM_ALLOW_HUGE_VMAP, node=0)
    assert area.page_shift == 12
    assert area.address == start
    # Step 1 of the huge attempt is not silent (only missing pages of it are).
    assert [line for line in space.dmesg() if "vm_struct allocation failed" in line]


@pytest.mark.parametrize("kernel", KERNELS)
def test_when_base_pages_are_missing_too_it_fails(kernel: str) -> None:
    space = machine_for("x86_64", kernel)
    area = space.vmalloc(30 * MIB)
    settle(space)
    before = space.stats()
    with pytest.raises(OutOfFrames):
        space.vmalloc_huge(20 * MIB)
    settle(space)
    after = space.stats()
    assert {key: before[key] for key in ("pages", "areas", "lazy_pages", "busy_bytes")} == {
        key: after[key] for key in ("pages", "areas", "lazy_pages", "busy_bytes")
    }
    assert after["huge_fallbacks"] == 1
    assert after["failures"] >= 2
    area.free()


# -- how they are mapped (section 3.4) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "size", "shift"),
    [("x86_64", 6 * MIB, 21), ("arm64_4k", 192 * KIB, 16), ("arm64_16k", 6 * MIB, 21), ("ppc64_radix", 4 * MIB, 21)],
)
def test_each_block_is_mapped_for_itself_at_its_own_size(arch: str, size: int, shift: int) -> None:
    """Section 3.4: for each chunk of ``1 << shift`` bytes the range mapper, with ``max_shift = shift``."""
    space, machine = recording_space(arch, nodes=(1 << 13,))
    machine.log.clear()
    area = space.vmalloc_huge(size)
    mapped = [entry.arguments for entry in machine.log if entry.operation == "map_range"]
    assert [(address - area.address, length, largest) for address, _, length, largest, _ in mapped] == [
        (i << shift, 1 << shift, shift) for i in range(size >> shift)
    ]
    assert [pfn for _, pfn, *_ in mapped] == list(area.pages)[:: 1 << (shift - space.state.page_shift)]
    assert space.stats()[f"mappings_shift{shift}"] == size >> shift
    array_pages = 0 if area.vm.array_area is None else area.vm.array_area.nr_pages
    assert space.stats()[f"mappings_shift{space.state.page_shift}"] == array_pages
    area.free()
    assert space.stats()[f"mappings_shift{shift}"] == 0
    settle(space)
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_table_is_replaced_by_a_leaf_and_flushed(kernel: str) -> None:
    """Section 8.6: the one exception: a huge leaf takes an empty table's place; it is flushed, and freed."""
    space = machine_for("x86_64", kernel)
    small = space.vmalloc(4096)
    start = small.address
    small.free()
    settle(space)
    tables, flushes = space.stats()["page_table_bytes"], space.stats()["tlb_flushes"]
    area = space.vmalloc_huge(2 * MIB, 0)
    assert area.address == start
    assert area.page_shift == 21
    assert space.stats()["page_table_bytes"] == tables - 4096
    assert space.stats()["tlb_flushes"] == flushes + 1
    validate(space)


@pytest.mark.parametrize("kernel", KERNELS)
def test_vmalloc_huge_with_a_node(kernel: str) -> None:
    """Sections 2.2 and 3.3: the node's huge pages, elsewhere's when it has none, or base pages of it alone."""
    space = simulated("x86_64", kernel, cpus=2, memory=["32MiB", "32MiB"])
    area = space.vmalloc_huge(4 * MIB, 1)
    assert area.page_shift == 21
    assert {space.machine.node_of(pfn) for pfn in area.pages} == {1}
    strict = GFP_KERNEL | GFP_THISNODE
    held = []
    while True:
        try:
            held.append(space.alloc_pages(1, order=9, node=1, gfp=strict))
        except OutOfFrames:
            break
    elsewhere = space.vmalloc_huge(2 * MIB, 1)
    assert elsewhere.page_shift == 21
    assert {space.machine.node_of(pfn) for pfn in elsewhere.pages} == {0}
    space.free_pages([pfn for pfn in held[0] if pfn % 4])
    held[0] = [pfn for pfn in held[0] if not pfn % 4]
    space.free_pages([pfn for pfn in held[1] if pfn % 4])
    held[1] = [pfn for pfn in held[1] if not pfn % 4]
    base = space.vmalloc_huge(2 * MIB, 1, gfp=strict)
    if kernel == "6.19":  # which takes __GFP_THISNODE off, with a warning (section 2.3)
        assert (base.page_shift, base.node) == (21, 0)
        assert "Unexpected gfp: 0x200000 (__GFP_THISNODE)" in space.dmesg()[-1]
    else:
        assert base.page_shift == 12
        assert {space.machine.node_of(pfn) for pfn in base.pages} == {1}
    validate(space)
