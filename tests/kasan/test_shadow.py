"""Shadow memory: made, allowed, forbidden and released as the specification says (sections 9.3 and 9.4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calls.watch import KERNELS
from kasan.rig import PAGE, UNIT, checked, recorded, runs, shadow_mappings
from vmalloc.errors import Fault
from vmalloc.flags import GFP_ATOMIC
from vmalloc.space.simulated import SimulatedSpace

SHARED = checked()


# -- populate, unpoison, poison ----------------------------------------------------------------------------------------


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_worked_example(kernel: str) -> None:
    """Sections 9.3 and 9.4: ``vmalloc(5001)`` at the start of the range."""
    space = checked(kernel)
    area = space.vmalloc(5001)
    assert area.address == 0xFFFFC90000000000
    kasan = space.kasan
    assert kasan.layout.shadow(area.address) == 0xFFFFF52000000000
    assert sorted(kasan.present) == [0xFFFFF52000000000 >> 12]
    assert runs(space, area.address, 3 * PAGE) == [(0, 625), (1, 1), (0xF8, 910)]
    assert 625 + 1 + 910 == 0x600
    assert runs(space, area.address, UNIT)[-1] == (0xF8, 910 + (UNIT - 3 * PAGE) // 8)
    space.vfree(area)
    assert runs(space, 0xFFFFC90000000000, UNIT) == [(0xF8, UNIT // 8)]
    assert len(kasan.present) == 1  # before the purge
    space.purge()
    assert len(kasan.present) == (0 if kernel == "6.1" else 1)  # the node rule, and the 6.1 rule with a free tail
    space.validate()


def calls(space: SimulatedSpace) -> list[tuple[str, Any, int, int]]:
    """Every way to get addresses: name, area, bytes that are allowed, bytes of the whole VA."""
    pages = space.alloc_pages(3)
    group = space.pcpu_get_vm_areas([0, 4 * PAGE], [2 * PAGE, 3 * PAGE], PAGE)
    return [
        ("vmalloc", space.vmalloc(5001), 5001, 3 * PAGE),
        ("vmalloc_huge", space.vmalloc_huge((2 << 20) + 5), (2 << 20) + 5, (4 << 20) + PAGE),
        ("vmap", space.vmap(pages), 3 * PAGE, 4 * PAGE),
        ("ioremap", space.ioremap((1 << 46) - (1 << 30) + 7, PAGE), 2 * PAGE, 3 * PAGE),
        ("get_vm_area", space.get_vm_area(5003), 5003, 3 * PAGE),
        ("no guard", space.vmalloc_node_range(77, 1, *bounds(space), vm_flags=0x40), 77, PAGE),
        ("per-CPU", group[0], 2 * PAGE, 2 * PAGE),
        ("per-CPU, second", group[1], 3 * PAGE, 3 * PAGE),
    ]


def bounds(space: SimulatedSpace) -> tuple[int, int]:
    return space.state.vmalloc_start, space.state.vmalloc_end


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_of_a_va_has_shadow_and_exactly_what_was_asked_for_is_allowed(kernel: str) -> None:
    """Section 9.3: the guard page has shadow, per-CPU areas are allowed as a whole."""
    space = checked(kernel)
    found = calls(space)
    for name, area, size, whole in found:
        assert area.vm.size == whole, name
        part = [(size % 8, 1)] if size % 8 else []
        cells = space.kasan.bytes_of(area.address, whole >> 3)
        assert cells == [0] * (size >> 3) + [k for k, _ in part] + [0xF8] * ((whole >> 3) - -(-size // 8)), name
    assert shadow_mappings(space) == set(space.kasan.present)
    space.validate()


@pytest.mark.both_builds
@pytest.mark.parametrize("kernel", KERNELS)
def test_freeing_forbids_all_of_it_but_the_last_page_of_a_per_cpu_area(kernel: str) -> None:
    """Section 9.3: that page passes for a guard page (section 1.2)."""
    space = checked(kernel)
    found = calls(space)
    for name, area, _, whole in found:
        start = area.address
        if name == "per-CPU":
            space.pcpu_free_vm_areas([area])
            assert runs(space, start, whole) == [(0xF8, 512), (0, 512)]
            assert space.kasan.left_open == {start + PAGE: start + 2 * PAGE}
        elif name == "per-CPU, second":
            space.pcpu_free_vm_areas([area])
        else:
            space.free_vm_area(area) if area.pages is None else space.vfree(area)
            assert runs(space, start, whole) == [(0xF8, whole >> 3)], name
        space.validate()
    space.purge(full=True)
    space.validate()


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_per_cpu_area_left_open_is_nobodys_fault(kernel: str) -> None:
    """A later area there is checked as any other; its guard page may be open, and then the page tables catch."""
    space = checked(kernel)
    (group,) = space.pcpu_get_vm_areas([0], [2 * PAGE], PAGE)
    start = group.address
    space.pcpu_free_vm_areas([group])
    space.purge(full=True)
    area = space.vmalloc_node_range(100, 1, start, start + 2 * PAGE)
    space.validate()
    assert (area.address, area.size) == (start, PAGE)
    with pytest.raises(Fault) as caught:
        space.load(start + 100, 1)
    assert caught.value.kind == "kasan"
    with pytest.raises(Fault) as caught:
        space.load(start + PAGE, 1)
    # 6.1 released the shadow page with its free neighbours, so it was made anew
    assert caught.value.kind == ("kasan" if kernel == "6.1" else "guard")


@pytest.mark.both_builds
@given(
    st.lists(st.tuples(st.sampled_from(["poison", "unpoison"]), st.integers(0, 30), st.integers(0, 90)), max_size=8)
)
def test_poison_and_unpoison_write_whole_granules_and_one_part(
    steps: list[tuple[str, int, int]],
) -> None:
    """Section 9.3, against a list of bytes."""
    space = SHARED
    base = space.state.vmalloc_start + (1 << 34) + UNIT - 128  # two shadow pages
    kasan = space.kasan
    assert kasan.populate(base, base + 512, True) == 0
    kasan.poison(base, 512)
    slow = [0xF8] * 64
    for verb, granule, size in steps:
        getattr(kasan, verb)(base + 8 * granule, size)
        for byte in range(0, size, 8):
            left = size - byte
            slow[granule + byte // 8] = 0xF8 if verb == "poison" else 0 if left >= 8 else left
    assert kasan.bytes_of(base, 64) == slow


def test_shadow_that_exists_is_left_as_it_is() -> None:
    """Section 9.3: reuse from a pool makes nothing anew."""
    space = checked()
    first = space.vmalloc(100)
    populated = space.kasan.populated
    second = space.vmalloc(200)
    assert (populated, space.kasan.populated) == (1, 1)
    assert runs(space, first.address, 2 * PAGE)[0] == (0, 12)
    space.vfree(second)
    space.purge()
    third = space.vmalloc(300)
    assert space.kasan.populated == 1
    assert space.kasan.bytes_of(third.address + 296, 2) == [4, 0xF8]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("pages", [1, 511, 512, 513, 1030])
def test_frames_are_asked_for_one_by_one_or_in_bulk(kernel: str, pages: int) -> None:
    """Section 9.3: up to a page of pointers at a time since 6.19."""
    space, machine = recorded(kernel)
    machine.log.clear()
    space.get_vm_area(pages * UNIT - PAGE)
    asked = [(entry.operation, entry.arguments[0]) for entry in machine.log if entry.operation in ("take", "take_bulk")]
    if kernel != "6.19":
        assert asked == [("take", 0)] * pages
    else:
        wanted = [min(512, pages - done) for done in range(0, pages, 512)]
        assert asked == [("take_bulk", count) for count in wanted]
    assert len(space.kasan.present) == pages


def test_a_caller_that_must_not_wait_takes_no_frame_that_is_waited_for() -> None:
    """Section 9.3: gfp is honoured since 6.19."""
    for kernel, gfp, waits in (("6.19", GFP_ATOMIC, False), ("6.12", GFP_ATOMIC, True), ("6.19", 0xCC0, True)):
        space, machine = recorded(kernel)
        machine.log.clear()
        space.vmalloc_node_range(100, 1, *bounds(space), gfp=gfp)
        how = next(entry.arguments[-1] for entry in machine.log if entry.operation in ("take", "take_bulk"))
        scopes = [entry.arguments[0] for entry in machine.log if entry.operation == "set_scope"]
        assert bool(how) is waits
        # once around the page tables of shadow, once around those of the area
        assert scopes == ([] if waits else [False, True, False, True])


# -- release -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "left", "right", "pages"),
    [
        ("6.1", True, True, 3), ("6.1", True, False, 4), ("6.1", False, False, 5), ("6.1", False, True, 4),
        ("6.12", True, True, 3), ("6.12", True, False, 3), ("6.12", False, False, 3),
        ("6.19", True, True, 3), ("6.19", True, False, 3), ("6.19", False, False, 3),
    ],
)  # fmt: skip
def test_the_example_of_a_release(kernel: str, left: bool, right: bool, pages: int) -> None:
    """Section 9.4: a VA ``[base+0x5000, base+0x25000)`` between neighbours that live or not."""
    space = checked(kernel, cpus=1)
    base = space.state.vmalloc_start
    before = space.get_vm_area(0x4000)
    area = space.get_vm_area(0x1F000)
    after = space.get_vm_area(0x2000)
    assert (before.address, area.address, after.address) == (base, base + 0x5000, base + 0x25000)
    for neighbour, lives in ((before, left), (after, right)):
        if not lives:
            space.free_vm_area(neighbour)
    space.purge(full=True)
    there = len(space.kasan.present)
    assert there == 5
    space.free_vm_area(area)
    space.purge(full=True)
    assert there - len(space.kasan.present) == pages
    space.validate()


@pytest.mark.both_builds
@given(
    st.integers(0, 40), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20),
)  # fmt: skip
@example(5, 32, 0, 0)
@example(0, 3, 0, 100)
def test_released_are_the_pages_of_a_range_that_lie_in_the_free_region(
    start: int, size: int, before: int, behind: int
) -> None:
    """Section 9.4, in words instead of roundings."""
    kasan = SHARED.kasan
    base = SHARED.state.vmalloc_start + (1 << 33)
    s, e = base + start * PAGE, base + (start + size) * PAGE
    fs, fe = s - before * PAGE, e + behind * PAGE
    found = set(range(*kasan.releasable(s, e, fs, fe)))
    slow = set()
    for unit in range(fs - fs % UNIT, fe + UNIT, UNIT):
        if fs <= unit and unit + UNIT <= fe and unit < e and s < unit + UNIT:
            slow.add(kasan.layout.shadow(unit) >> 12)
    assert found == slow


@pytest.mark.parametrize(("kernel", "flushes"), [("6.1", 5), ("6.12", 2), ("6.19", 2)])
def test_flushes_of_shadow_are_one_for_each_range_or_one_for_each_node(kernel: str, flushes: int) -> None:
    """Section 9.4: five ranges, of two nodes since 6.9."""
    space, machine = recorded(kernel)
    areas, between = [], []
    for cpu in (0, 1, 0, 1, 0):
        with space.on_cpu(cpu):
            areas.append(space.vmalloc(9 * UNIT))
            between.append(space.vmalloc(1))  # 6.1 merges neighbours before it purges
    for area in areas:
        space.vfree(area)
    low, high = space.kasan.layout.shadow_start, space.kasan.layout.shadow_end
    machine.log.clear()
    count = space.kasan.flushes
    space.purge()
    flushed = [entry.arguments for entry in machine.log if entry.operation == "flush"]
    of_shadow = [span for span in flushed if low <= span[0] < high]
    assert len(of_shadow) == space.kasan.flushes - count == flushes
    assert len(flushed) - len(of_shadow) == 1
    if kernel == "6.1":
        hulls = [(area.address, area.address + area.vm.size) for area in areas]
        wanted = [(-(-start // UNIT) * UNIT, end // UNIT * UNIT) for start, end in hulls]
    else:  # of each node: from its first range to its last
        wanted = [(areas[0].address, areas[4].address + areas[4].vm.size),
                  (areas[1].address, areas[3].address + areas[3].vm.size)]  # fmt: skip
    pages = [space.kasan.pages_of(start, end) for start, end in wanted]
    assert of_shadow == [(first << 12, behind << 12) for first, behind in pages]


def test_frames_of_shadow_are_given_back_behind_their_flush() -> None:
    for kernel in KERNELS:
        space, machine = recorded(kernel)
        area = space.vmalloc(20 * UNIT)
        space.vfree(area)
        machine.log.clear()
        space.purge()
        order = [entry.operation for entry in machine.log if entry.operation in ("unmap", "flush", "give")]
        assert order.index("give") > order.index("flush", order.index("unmap"))
        assert "unmap" not in order[order.index("give") :]


def test_a_small_area_frees_no_shadow_by_the_node_rule() -> None:
    """Section 9.4: one that covers no aligned window of U; the page stays and is used again."""
    space = checked("6.19")
    area = space.vmalloc(UNIT - PAGE)  # one window exactly, guard included
    space.vfree(area)
    space.purge()
    assert not space.kasan.present
    area = space.vmalloc(UNIT - 2 * PAGE)  # one page less
    space.vfree(area)
    space.purge()
    assert len(space.kasan.present) == 1


def test_trim_gives_back_what_describes_only_free_addresses() -> None:
    kasan = checked().kasan
    start = kasan.start
    kasan.populate(start, start + 4 * UNIT, True)
    assert kasan.trim([(start + PAGE, start + 2 * PAGE), (start + 2 * UNIT - PAGE, start + 2 * UNIT)]) == 2
    assert sorted(kasan.present) == [kasan.layout.shadow(start) >> 12, (kasan.layout.shadow(start) >> 12) + 1]
    assert kasan.trim([]) == 2
    assert kasan.trim([]) == 0
