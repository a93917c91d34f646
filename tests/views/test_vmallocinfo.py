"""``vmallocinfo``: what it writes is what the areas are, what our reader reads, and what real kernels wrote (10.1)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.areas.states import VMAP_RAM
from vmalloc.calls.vm_struct import VmStruct
from vmalloc.errors import OutOfFrames
from vmalloc.flags import (
    VM_ALLOC,
    VM_DMA_COHERENT,
    VM_IOREMAP,
    VM_MAP,
    VM_NO_GUARD,
    VM_SPARSE,
    VM_UNINITIALIZED,
    VM_USERMAP,
)
from vmalloc.pages import Pages
from vmalloc.space.simulated import SimulatedSpace, simulated
from vmalloc.trace.vmallocinfo import SnapshotArea, read_snapshot
from vmalloc.units import MIB
from vmalloc.views.vmallocinfo import info_areas, vmallocinfo
from vmalloc.views.vmallocinfo_line import WORDS, format_line

pytestmark = pytest.mark.both_builds

PAGE = 4096
FLAG_OF = dict(zip(WORDS, (VM_IOREMAP, VM_SPARSE, VM_ALLOC, VM_MAP, VM_USERMAP, VM_DMA_COHERENT), strict=False))
RECORDED = Path(__file__).parents[1] / "recorded"


def read_back(folder: Path, text: str) -> list[SnapshotArea]:
    """What the reader of snapshots makes of a text; an empty one is no snapshot."""
    path = folder / "vmallocinfo"
    path.write_text(text, encoding="utf-8")
    return read_snapshot(path).areas if text else []


def lines(space: SimulatedSpace) -> list[str]:
    return vmallocinfo(space.state).splitlines()


def words_of(line: str) -> list[str]:
    """A line without its range and size."""
    return line.split()[2:]


def test_an_empty_space_has_an_empty_file() -> None:
    assert vmallocinfo(simulated().state) == ""


def test_each_kind_of_area_is_written_as_the_kernel_does(tmp_path: Path) -> None:
    space = simulated(cpus=1, memory="1GiB")
    one = space.vmalloc_node_range(3 * PAGE, 1, 0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF, caller="alloc+0x1/0x20 [mod]")
    user = space.vmalloc_user(PAGE)
    mapped = space.vmap([one])
    device = space.ioremap(0xFEBC0040, 4 * PAGE)
    user.free()
    first, second, third, freed = lines(space)
    assert first == (
        "0xffffc90000000000-0xffffc90000004000   16384 alloc+0x1/0x20 [mod] pages=3 vmalloc N0=3"
    )
    assert second.startswith("0xffffc90000006000-0xffffc9000000a000   16384 test_each_kind_of_area")
    assert words_of(second)[1:] == ["[test_vmallocinfo]", "vmap"]
    assert words_of(third)[2:] == ["phys=0x00000000febc0000", "ioremap"]
    assert freed == "0xffffc90000004000-0xffffc90000006000    8192 unpurged vm_area"
    found = read_back(tmp_path, vmallocinfo(space.state))
    assert [(area.start, area.size) for area in found] == [
        (one.address, one.vm.size), (mapped.address, mapped.vm.size), (device.address, device.vm.size),
        (0xFFFFC90000004000, 2 * PAGE),
    ]  # fmt: skip


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_every_flag_word_is_written_in_order_and_read_back(tmp_path: Path, kernel: str) -> None:
    space = simulated(kernel=kernel, cpus=1)
    expected, areas = [], []
    for bits in range(1 << len(FLAG_OF)):
        words = tuple(word for place, word in enumerate(FLAG_OF) if bits >> place & 1)
        areas.append(space.get_vm_area(PAGE, sum(FLAG_OF[word] for word in words), caller="f+0x0/0x10"))
        expected.append((areas[-1].address, tuple(w for w in words if w != "sparse" or kernel != "6.1")))
    found = read_back(tmp_path, vmallocinfo(space.state))
    assert [(area.start, area.words) for area in found] == sorted(expected)


def test_vpages_says_that_the_list_of_frames_is_an_area_itself() -> None:
    space = simulated(cpus=1)
    small = space.vmalloc(512 * PAGE)
    large = space.vmalloc(513 * PAGE)
    info = {line.split("-")[0]: words_of(line)[2:] for line in lines(space)}
    assert info[f"{small.address:#018x}"] == ["pages=512", "vmalloc", "N0=512"]
    assert info[f"{large.address:#018x}"] == ["pages=513", "vmalloc", "vpages", "N0=513"]
    assert info[f"{large.vm.array_area.addr:#018x}"] == ["pages=2", "vmalloc", "N0=2"]


def test_no_guard_page_no_page_more() -> None:
    space = simulated(cpus=1)
    area = space.get_vm_area(PAGE, VM_NO_GUARD | VM_MAP, caller="f+0x0/0x10")
    assert lines(space) == ["0xffffc90000000000-0xffffc90000001000    4096 f+0x0/0x10 vmap"]
    assert area.vm.size == PAGE


def test_pages_are_counted_by_memory_node() -> None:
    space = simulated(nodes=3, cpus=3)
    blocks = [space.alloc_pages(count, node=node) for node, count in ((2, 3), (0, 1), (2, 1))]
    area = space.vmap(blocks, put_pages=True)
    assert lines(space)[0].endswith(" pages=5 vmap N0=1 N2=4")
    on_one = space.vmalloc_node(4 * PAGE, 1)
    assert [line for line in lines(space) if line.endswith(" pages=4 vmalloc N1=4")]
    assert area.alive
    assert on_one.alive


def test_huge_areas_are_counted_by_the_first_frame_of_each_block() -> None:
    space = simulated(nodes=2, cpus=2)
    huge = space.vmalloc_huge(5 * MIB, 1)
    assert huge.vm.page_order == 9
    assert lines(space)[0].endswith(" pages=1536 vmalloc vpages N1=1536")
    blocks = [space.alloc_pages(1, node=node) for node in (0, 1, 1, 1)]
    area = space.vmap(blocks, put_pages=True)
    assert " N0=1 N1=3" in vmallocinfo(space.state)
    area.vm.page_order = 1
    assert " N0=2 N1=2" in vmallocinfo(space.state)


def test_a_huge_area_on_one_node_is_counted_in_blocks_too() -> None:
    space = simulated(cpus=1)
    area = space.vmap([space.alloc_pages(5)], put_pages=True)
    area.vm.page_order = 2
    assert lines(space)[0].endswith(" pages=5 vmap N0=8")


@pytest.mark.parametrize(
    ("arch", "line"),
    [
        ("x86_32", "0x{:08x}-0x{:08x}   12288 f+0x0/0x1 phys=0xfe000000 ioremap"),
        ("x86_32_pae", "0x{:08x}-0x{:08x}   12288 f+0x0/0x1 phys=0x00000000fe000000 ioremap"),
        ("arm64_4k", "0x{:016x}-0x{:016x}   12288 f+0x0/0x1 phys=0x00000000fe000000 ioremap"),
    ],
)
def test_numbers_are_as_wide_as_on_the_machine(tmp_path: Path, arch: str, line: str) -> None:
    space = simulated(arch, cpus=1, memory="256MiB")
    area = space.ioremap(0xFE000000, 2 * PAGE)
    area.vm.caller = "f+0x0/0x1"
    text = vmallocinfo(space.state)
    assert text == line.format(area.address, area.address + 3 * PAGE) + "\n"
    assert [(found.start, found.phys) for found in read_back(tmp_path, text)] == [(area.address, 0xFE000000)]


def test_a_32_bit_machine_counts_no_nodes() -> None:
    space = simulated("x86_32", cpus=1, memory="256MiB")
    area = space.vmalloc(PAGE)
    assert lines(space)[0].endswith(" pages=1 vmalloc")
    assert area.alive


def test_busy_ranges_come_node_by_node_and_not_sorted() -> None:
    space = simulated(cpus=4, kernel="6.12")
    areas = [space.vmalloc(15 * PAGE) for _ in range(12)]
    starts = [int(line[2:18], 16) for line in lines(space)]
    assert starts == [area.start for area in space.state.space.busy()]
    assert sorted(starts) == sorted(area.address for area in areas)
    assert starts != sorted(starts)
    old = simulated(cpus=4, kernel="6.1")
    areas = [old.vmalloc(15 * PAGE) for _ in range(12)]
    assert [int(line[2:18], 16) for line in lines(old)] == sorted(area.address for area in areas)


def test_lazy_ranges_follow_and_pooled_ones_never_appear() -> None:
    space = simulated(cpus=2, kernel="6.19")
    areas = [space.vmalloc(PAGE) for _ in range(4)]
    for area in areas[1:]:
        area.free()
    assert [words_of(line)[-2:] == ["unpurged", "vm_area"] for line in lines(space)] == [False, True, True, True]
    space.purge()
    assert space.state.space.pooled()
    assert len(lines(space)) == 1


@pytest.mark.parametrize(("kernel", "shown"), [("6.1", 2), ("6.12", 1), ("6.19", 1)])
def test_ranges_without_an_area_are_told_by_their_flag_since_6_12(kernel: str, shown: int) -> None:
    early = 0xFFFFC90000100000
    space = simulated(kernel=kernel, cpus=1, early=[(early, early + PAGE)])
    block = space.state.space.alloc(0x400000, 0x400000, flags=VMAP_RAM)
    assert lines(space)[-1] == f"{block:#x}-{block + 0x400000:#x} 4194304 vm_map_ram"
    assert len(lines(space)) == shown


def test_an_area_whose_building_failed_waits_unseen_for_its_worker() -> None:
    space = simulated(kernel="6.19", cpus=1)
    whole = space.vmalloc(PAGE)
    space.machine.fail_next("map_pages")
    with pytest.raises(OutOfFrames):
        space.vmalloc(2 * PAGE)
    assert len(space.state.space.busy()) == 2
    assert len(lines(space)) == 1
    assert whole.alive
    space.run_deferred()
    assert words_of(lines(space)[1]) == ["unpurged", "vm_area"]


@pytest.mark.parametrize(("kernel", "shown"), [("6.1", 1), ("6.12", 0), ("6.19", 0)])
def test_incomplete_areas_are_left_out_since_6_12(kernel: str, shown: int) -> None:
    space = simulated(kernel=kernel, cpus=1)
    area = space.get_vm_area(PAGE, VM_ALLOC)
    area.vm.flags |= VM_UNINITIALIZED
    assert len(lines(space)) == shown


@given(st.text())
def test_any_caller_can_be_read_back(tmp_path_factory: pytest.TempPathFactory, caller: str) -> None:
    space = simulated(cpus=1, memory="16MiB")
    area = space.get_vm_area(PAGE, VM_ALLOC, caller=caller)
    found = read_back(tmp_path_factory.getbasetemp(), vmallocinfo(space.state))
    assert found == list(info_areas(space.state))
    assert [area.address] == [line.start for line in found]


STEPS = st.one_of(
    st.tuples(st.sampled_from(["vmalloc", "vmalloc_user", "get_vm_area"]), st.integers(1, 40 * PAGE)),
    st.tuples(st.just("vmalloc_huge"), st.integers(1, 3 * MIB)),
    st.tuples(st.just("vmap"), st.integers(0, 20)),
    st.tuples(st.just("ioremap"), st.integers(1, 40 * PAGE)),
    st.tuples(st.just("free"), st.integers(0, 20)),
    st.tuples(st.just("purge"), st.just(0)),
)


def run(space: SimulatedSpace, steps: list[tuple[str, int]]) -> list[object]:
    """Runs a program of calls; the live areas."""
    live: list[object] = []
    for verb, number in steps:
        if verb == "free":
            if live:
                live.pop(number % len(live)).free()
        elif verb == "purge":
            space.purge()
        elif verb == "vmap":
            owners = [area for area in live if area.pages is not None]
            if owners:
                live.append(space.vmap([owners[number % len(owners)]]))
        elif verb == "ioremap":
            live.append(space.ioremap(1 << 40, number))
        else:
            live.append(getattr(space, verb)(number))
    return live


@given(
    st.lists(STEPS, max_size=25),
    st.sampled_from(["6.1", "6.12", "6.19"]),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_the_file_of_any_program_reads_back_as_its_areas(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], kernel: str, cpus: int, nodes: int
) -> None:
    space = simulated(kernel=kernel, cpus=cpus, nodes=nodes, memory="192MiB")
    live = run(space, steps)
    found = read_back(tmp_path_factory.getbasetemp(), vmallocinfo(space.state))
    assert found == list(info_areas(space.state))
    by_start = {line.start: line for line in found if line.kind == "area"}
    arrays = [area.vm.array_area.addr for area in live if area.vm.array_area is not None]
    assert sorted(by_start) == sorted([*(area.address for area in live), *arrays])
    for area in live:
        line = by_start[area.address]
        assert line.size == area.size + PAGE
        assert line.pages == area.nr_pages == sum(line.nodes.values())
        assert (line.phys or 0) == area.phys_addr
        assert [FLAG_OF[word] for word in line.words if word != "vpages"] == [
            flag for flag in FLAG_OF.values() if area.flags & flag
        ]
        assert line.caller.startswith("run+0x")
    lazy = [(line.start, line.end) for line in found if line.kind == "unpurged"]
    assert lazy == [(area.start, area.end) for area in space.state.space.lazy()]


def recreate(space: SimulatedSpace, line: SnapshotArea, memory: dict[int, Pages]) -> None:
    """Makes an area as a line of a real kernel describes it, in a space where its addresses are free."""
    state = space.state
    state.space.reserve(line.start, line.end, flags=VMAP_RAM if line.kind == "vm_map_ram" else 0)
    if line.kind != "area":
        return
    vm = VmStruct(line.size, sum(FLAG_OF.get(word, 0) for word in line.words), 0)
    vm.addr = line.start
    vm.caller = f"{line.caller} [{line.module}]" if line.module else line.caller
    vm.phys_addr = line.phys or 0
    vm.nr_pages = line.pages
    if line.nodes:
        vm.pages = Pages([pfn for node, count in line.nodes.items() for pfn in [memory[node][0]] * count])
    if "vpages" in line.words:
        vm.array_area = VmStruct(PAGE, VM_ALLOC, 0)
    state.areas[line.start] = vm


@pytest.mark.parametrize(
    ("name", "kernel", "cpus"),
    [
        ("g61_1cpu_bpfmap.before", "6.1", 1),
        ("g61_1cpu_tv_mask1.before", "6.1", 1),
        ("g612_2cpu_td_bpfmap.after", "6.12", 2),
        ("g612_4cpu_cont.snap-4-mix", "6.12", 4),
        ("g612_4cpu_cont.snap-2-fork", "6.12", 4),
        ("g612_numa2_4cpu.snap-1-live", "6.12", 4),
        ("h01_fork_short.after", "6.12", 2),
    ],
)
def test_areas_of_a_real_kernel_are_written_as_it_wrote_them(name: str, kernel: str, cpus: int) -> None:
    snapshot = read_snapshot(RECORDED / f"{name}.vmallocinfo.zst")
    space = simulated(kernel=kernel, cpus=cpus, nodes=2, memory="192MiB")
    memory = {node: space.alloc_pages(1, node=node) for node in range(2)}
    for line in snapshot.busy:
        recreate(space, line, memory)
    assert lines(space) == [format_line(line) for line in snapshot.busy]
