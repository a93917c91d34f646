"""Version profiles: every difference between kernels that the allocator knows, as values.

Idea: the specification's section 13 is a table; here each column that matters is a frozen ``KernelProfile``, and no
allocator file asks which version it is.  Other releases map to the profile that behaves like them.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmalloc.errors import BadRequest
from vmalloc.units import MIB

__all__ = ["PROFILES", "KernelProfile", "lazy_max_pages", "nr_vmap_nodes", "profile"]


@dataclass(frozen=True)
class KernelProfile:
    """What one family of kernels does differently (specification section 13).

    Attributes:
        name: the release the profile is named after.
        has_nodes: busy and lazy sets and pools per vmap node (6.9+); otherwise one global set, no pools.
        merges_lazy: lazily freed neighbours merge with each other (up to 6.8).
        returns_ascending: purged areas go back to the free tree in ascending order (up to 6.8), else descending.
        small_pools_drain: a partial decay empties pools of fewer than four entries (6.12's counter underflow).
        walk_step: +1 or -1: the order in which look-ups walk the nodes.
        drain_repeats: the drain work repeats until the lazy pages are below the threshold (up to 6.8), else one pass.
        failure_is_errno: a failed attempt reports a negative errno (6.17+), else the end of the window.
        overflow_message: what the kernel prints when an allocation finally fails.
        huge_by_node: an allocation without a node is huge only if each node's share is (up to 6.16; section 3.2).
        takes_large_blocks: page frames are first asked for in blocks as large as they can be (6.19; section 3.3).
        allows_nonblocking: a request that must not wait is served, without purging or huge pages; and gfp bits that are
            not supported are taken off (6.19; section 2.3).
        failed_area_waits: an area that failed half way is released by a worker, not at once (6.19; section 3.5).
        has_vrealloc: there is ``vrealloc`` (6.12).
        keeps_requested_size: areas know what was asked for; ``vrealloc`` goes by that (6.17).
        vrealloc_aligns: ``vrealloc`` takes an alignment and a node (6.18).
        has_sparse: ``VM_SPARSE`` areas, ``vmap`` refuses ``VM_FLUSH_RESET_PERMS`` (6.12).
        vread_fills_holes: reading where there is no area at all gives zeros, not nothing (6.12; section 2.9).
        kvmalloc_reclaims: ``kvmalloc`` tries hard for contiguous memory first: only ``__GFP_NORETRY`` (up to 6.16).
        aliases_purge_all: ``vm_unmap_aliases`` gives back every fragmented block first (6.1; section 4.9).
        shadow_in_bulk: KASAN asks for shadow pages in bulk, as the caller may wait or not (6.19; section 9.3).
        shadow_goes_with_neighbours: a purge releases shadow that describes free neighbours, too (6.1; section 9.4).
        blocks_by_slot: ``vm_map_ram`` blocks are indexed per CPU slot (6.5), else all together (section 5.3).
        keeps_used_map: ranges of ``vm_map_ram`` are marked, and readers know which of their pages are mapped (6.4).
    """

    name: str
    has_nodes: bool
    merges_lazy: bool
    returns_ascending: bool
    small_pools_drain: bool
    walk_step: int
    drain_repeats: bool
    failure_is_errno: bool
    overflow_message: str
    huge_by_node: bool
    takes_large_blocks: bool
    allows_nonblocking: bool
    failed_area_waits: bool
    has_vrealloc: bool
    keeps_requested_size: bool
    vrealloc_aligns: bool
    has_sparse: bool
    vread_fills_holes: bool
    kvmalloc_reclaims: bool
    aliases_purge_all: bool
    shadow_in_bulk: bool
    shadow_goes_with_neighbours: bool
    blocks_by_slot: bool
    keeps_used_map: bool


_OLD_MESSAGE = "vmap allocation for size {size} failed: use vmalloc=<size> to increase size"
_NEW_MESSAGE = "vmalloc_node_range for size {size} failed: Address range restricted to {start:#x} - {end:#x}"

PROFILES = {
    "6.1": KernelProfile(
        name="6.1",
        has_nodes=False,
        merges_lazy=True,
        returns_ascending=True,
        small_pools_drain=False,
        walk_step=1,
        drain_repeats=True,
        failure_is_errno=False,
        overflow_message=_OLD_MESSAGE,
        huge_by_node=True,
        takes_large_blocks=False,
        allows_nonblocking=False,
        failed_area_waits=False,
        has_vrealloc=False,
        keeps_requested_size=False,
        vrealloc_aligns=False,
        has_sparse=False,
        vread_fills_holes=False,
        kvmalloc_reclaims=True,
        aliases_purge_all=True,
        shadow_in_bulk=False,
        shadow_goes_with_neighbours=True,
        blocks_by_slot=False,
        keeps_used_map=False,
    ),
    "6.12": KernelProfile(
        name="6.12",
        has_nodes=True,
        merges_lazy=False,
        returns_ascending=False,
        small_pools_drain=True,
        walk_step=1,
        drain_repeats=False,
        failure_is_errno=False,
        overflow_message=_NEW_MESSAGE,
        huge_by_node=True,
        takes_large_blocks=False,
        allows_nonblocking=False,
        failed_area_waits=False,
        has_vrealloc=True,
        keeps_requested_size=False,
        vrealloc_aligns=False,
        has_sparse=True,
        vread_fills_holes=True,
        kvmalloc_reclaims=True,
        aliases_purge_all=False,
        shadow_in_bulk=False,
        shadow_goes_with_neighbours=False,
        blocks_by_slot=True,
        keeps_used_map=True,
    ),
    "6.19": KernelProfile(
        name="6.19",
        has_nodes=True,
        merges_lazy=False,
        returns_ascending=False,
        small_pools_drain=False,
        walk_step=-1,
        drain_repeats=False,
        failure_is_errno=True,
        overflow_message=_NEW_MESSAGE,
        huge_by_node=False,
        takes_large_blocks=True,
        allows_nonblocking=True,
        failed_area_waits=True,
        has_vrealloc=True,
        keeps_requested_size=True,
        vrealloc_aligns=True,
        has_sparse=True,
        vread_fills_holes=True,
        kvmalloc_reclaims=False,
        aliases_purge_all=False,
        shadow_in_bulk=True,
        shadow_goes_with_neighbours=False,
        blocks_by_slot=True,
        keeps_used_map=True,
    ),
}


def profile(version: str) -> KernelProfile:
    """Returns the profile for a kernel version such as ``"6.12"`` or ``"6.18.44"``.

    6.1 to 6.8 behave like 6.1, 6.9 to 6.16 like 6.12, everything newer like 6.19 (specification section 13; releases
    between the trees read there are assigned by the nearest older tree).

    Raises:
        BadRequest: the text is not a version, or older than 6.1.
    """
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except (ValueError, AttributeError):
        raise BadRequest(f"not a kernel version: {version!r}; write for example 6.12") from None
    if (major, minor) < (6, 1):
        raise BadRequest(f"no profile for kernels older than 6.1, got {version}; known: {', '.join(PROFILES)}")
    if (major, minor) < (6, 9):
        return PROFILES["6.1"]
    return PROFILES["6.12"] if (major, minor) < (6, 17) else PROFILES["6.19"]


def nr_vmap_nodes(kernel: KernelProfile, possible_cpus: int, *, word_bits: int = 64) -> int:
    """Number of vmap nodes: possible CPUs clamped to 1..128; one on 32 bits and before 6.9 (section 4.5)."""
    if not kernel.has_nodes or word_bits == 32:
        return 1
    return max(1, min(possible_cpus, 128))


def lazy_max_pages(online_cpus: int, page_size: int = 4096) -> int:
    """The purge threshold in pages: ``fls(online CPUs) * 32 MiB``; purging starts when strictly above (section 4.3)."""
    return online_cpus.bit_length() * (32 * MIB // page_size)
