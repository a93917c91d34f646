"""The cases of ``lib/test_vmalloc.c``, by their kernel names and bits (specification section 11.2).

Each is told as the table of the specification tells it: one iteration, with its set-up before it.  Every allocation,
touch and free is a step of its own, after which another CPU may go on.  A handle that a failing case leaves behind
frees its area.

Two cases are expected to fail: ``align_shift_alloc``, because no range has an area aligned to 2**63, and
``no_block_alloc``, because who must not wait may get nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmalloc.errors import BadRequest
from vmalloc.flags import GFP_ATOMIC, GFP_NOWAIT
from vmalloc.workloads.job import TOUCH, CaseFailed, Job

if TYPE_CHECKING:
    from vmalloc.kernels import KernelProfile

__all__ = ["CASES", "Case", "cases_of", "find_case", "missing_calls"]


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        name, bit: in the module; a mask is a sum of bits.
        stresses: in a few words.
        run: its steps.
        has_loops: whether ``test_loop_count`` is for it; otherwise a repetition is one iteration.
        fails: whether failing is what it should do.
        calls: methods of a space that it needs beside those that all have.
        needs: the field of a ``KernelProfile`` without which there is no such case; empty: all have it.
    """

    name: str
    bit: int
    stresses: str
    run: Callable[[Job], Iterator[None]]
    has_loops: bool = True
    fails: bool = False
    calls: tuple[str, ...] = ()
    needs: str = ""


def cases_of(kernel: KernelProfile, mask: int, names: list[str] | None = None) -> list[Case]:
    """The cases that a kernel's module has, of those in a mask, or of those with these names.

    Raises:
        BadRequest: a name that no case has, or none of this kernel's; or nothing is left to run.
    """
    present = [case for case in CASES if not case.needs or getattr(kernel, case.needs)]
    if names:
        chosen = [find_case(name) for name in names]
        for case in chosen:
            if case not in present:
                raise BadRequest(f"the test module of Linux {kernel.name} and its like has no case {case.name}")
        return [case for case in present if case in chosen]
    found = [case for case in present if case.bit & mask]
    if not found:
        raise BadRequest(f"run_test_mask={mask:#x} has none of the cases of Linux {kernel.name}")
    return found


def find_case(name: str) -> Case:
    """The case of a name; ``fix_size_alloc_test`` is ``fix_size_alloc``.

    Raises:
        BadRequest: there is none.
    """
    for case in CASES:
        if name.removesuffix("_test") == case.name:
            return case
    raise BadRequest(f"workload {name!r}: one of {', '.join(case.name for case in CASES)}")


def missing_calls(space: Any, case: Case) -> list[str]:
    """The calls that a case needs and a space has not."""
    return [call for call in case.calls if not hasattr(space, call)]


# -- the cases ---------------------------------------------------------------------------------------------------------


def _loop(job: Job, allocate: Callable[[], Any]) -> Iterator[None]:
    """Allocates, touches, frees."""
    store, vfree = job.space.store, job.space.vfree
    for _ in job.loops:
        area = allocate()
        yield
        store(area.address, TOUCH)
        yield
        vfree(area)
        yield


def _fix_size_alloc(job: Job) -> Iterator[None]:
    size = job.size
    vmalloc = job.space.vmalloc_huge if job.parameters.use_huge else job.space.vmalloc
    yield from _loop(job, lambda: vmalloc(size))


def _full_fit_alloc(job: Job) -> Iterator[None]:
    vmalloc, vfree, size = job.space.vmalloc, job.space.vfree, job.page_size
    kept, junk = [], []
    for _ in range(job.junk_pairs):
        kept.append(vmalloc(size))
        yield
        junk.append(vmalloc(size))
        yield
    for area in junk:
        vfree(area)
        yield
    yield from _loop(job, lambda: vmalloc(size))
    job.end_loops()
    for area in kept:
        vfree(area)
        yield


def _long_busy_list_alloc(job: Job) -> Iterator[None]:
    vmalloc, vfree, store, size = job.space.vmalloc, job.space.vfree, job.space.store, job.page_size
    kept = []
    for _ in range(job.busy_areas):
        kept.append(vmalloc(size))
        yield
    for _ in job.loops:
        large = vmalloc(100 * size)
        yield
        small = vmalloc(size)
        yield
        store(large.address, TOUCH)
        yield
        store(small.address, TOUCH)
        yield
        vfree(large)
        yield
        vfree(small)
        yield
    job.end_loops()
    for area in kept:
        vfree(area)
        yield


def _random_size_alloc(job: Job) -> Iterator[None]:
    vmalloc, size, below = job.space.vmalloc, job.page_size, job.below
    yield from _loop(job, lambda: vmalloc((below(100) + 1) * size))


def _fix_align_alloc(job: Job) -> Iterator[None]:
    vmalloc_node, size, align = job.space.vmalloc_node, 5 * job.page_size, job.stack_align
    yield from _loop(job, lambda: vmalloc_node(size, None, align=align))


def _random_size_align_alloc(job: Job) -> Iterator[None]:
    vmalloc_node, page_size, below = job.space.vmalloc_node, job.page_size, job.below

    def allocate() -> Any:
        byte = below(256)
        return vmalloc_node((byte % 10 + 1) * page_size, None, align=1 << byte % 23)

    yield from _loop(job, allocate)


def _align_shift_alloc(job: Job) -> Iterator[None]:
    space, size = job.space, job.page_size
    for shift in range(64):
        area = space.vmalloc_node(size, None, align=1 << shift)
        yield
        space.vfree(area)
        yield


def _pcpu_alloc(job: Job) -> Iterator[None]:
    space, below, largest = job.space, job.below, job.page_size // 4
    objects = []
    for _ in range(job.parameters.nr_pcpu_objects):
        objects.append(space.alloc_percpu(below(largest) + 1, 1 << below(11) + 1))
        yield
    for found in objects:
        space.free_percpu(found)
        yield


def _kvfree_rcu(job: Job, kvfree_rcu: Callable[[Any], None]) -> Iterator[None]:
    vmalloc, store, size = job.space.vmalloc, job.space.store, job.page_size
    for _ in job.loops:
        area = vmalloc(size)
        yield
        store(area.address, TOUCH)
        yield
        kvfree_rcu(area)
        yield


def _kvfree_rcu_1_arg(job: Job) -> Iterator[None]:
    return _kvfree_rcu(job, job.space.kvfree_rcu_mightsleep)


def _kvfree_rcu_2_arg(job: Job) -> Iterator[None]:
    return _kvfree_rcu(job, job.space.kvfree_rcu)


def _vm_map_ram(job: Job) -> Iterator[None]:
    space, count = job.space, job.parameters.size_pages
    pages = space.alloc_pages(count)
    try:
        for _ in job.loops:
            address = space.vm_map_ram(pages)
            yield
            space.store(address, TOUCH)
            yield
            space.vm_unmap_ram(address, count)
            yield
    finally:
        space.free_pages(pages)


def _no_block_alloc(job: Job) -> Iterator[None]:
    vmalloc, size, below = job.space.vmalloc, job.size, job.below
    yield from _loop(job, lambda: vmalloc(size, gfp=GFP_ATOMIC if below(2) else GFP_NOWAIT))


def _vrealloc(job: Job) -> Iterator[None]:
    space, size = job.space, job.page_size
    mark = b"\x5a"
    for _ in job.loops:
        area = space.vmalloc(size)
        yield
        space.store(area.address, mark)
        yield
        # grow, shrink, shrink inside a page, grow in place
        for wanted in (4 * size, size, size // 2, size):
            area = space.vrealloc(area, wanted)
            if space.load(area.address, 1) != mark:
                raise CaseFailed(f"byte 0 of {area!r} did not survive vrealloc to {wanted} bytes")
            yield
        space.vfree(area)
        yield


#: All cases, in the order of their bits.
CASES = (
    Case("fix_size_alloc", 1, "hot path, pools", _fix_size_alloc),
    Case("full_fit_alloc", 2, "exact-fit holes, fragmentation", _full_fit_alloc),
    Case("long_busy_list_alloc", 4, "large busy sets", _long_busy_list_alloc),
    Case("random_size_alloc", 8, "mixed sizes", _random_size_alloc),
    Case("fix_align_alloc", 16, "alignment search", _fix_align_alloc),
    Case("random_size_align_alloc", 32, "alignment search, shape of the free tree", _random_size_align_alloc),
    Case("align_shift_alloc", 64, "range checks", _align_shift_alloc, has_loops=False, fails=True),
    Case("pcpu_alloc", 128, "per-CPU areas", _pcpu_alloc, has_loops=False, calls=("alloc_percpu", "free_percpu")),
    Case("kvfree_rcu_1_arg", 256, "deferred free", _kvfree_rcu_1_arg, calls=("kvfree_rcu_mightsleep",)),
    Case("kvfree_rcu_2_arg", 512, "deferred free", _kvfree_rcu_2_arg, calls=("kvfree_rcu",)),
    Case("vm_map_ram", 1024, "blocks", _vm_map_ram, calls=("vm_map_ram", "vm_unmap_ram"), needs="has_sparse"),
    Case("no_block_alloc", 2048, "non-blocking path", _no_block_alloc, fails=True, needs="allows_nonblocking"),
    Case("vrealloc", 4096, "realloc", _vrealloc, calls=("vrealloc",), needs="vrealloc_aligns"),
)
