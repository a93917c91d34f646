"""``stats``: counters and sizes of a space and its machine, one flat dictionary of numbers.

Flat, because it is what a table, a plot or a difference of two calls wants; keys never depend on what happened, only on
what kind of machine it is: a kind of fault that did not occur has a 0.

Every machine has these; sizes are in bytes unless the name says pages or areas:

=========================== ======================================================================================
``areas``                   live ``vm_struct``
``busy_areas, busy_bytes``  busy ranges, guard pages included; also those without a ``vm_struct``
``pages``                   frames that areas own (``nr_vmalloc_pages``)
``contiguous_blocks``       what ``kvmalloc`` found contiguous memory for
``lazy_areas, lazy_pages``  freed, not yet purged; ``lazy_max_pages`` is the threshold
``pooled_areas``            purged, in pools to be reused, of ``pooled_pages``; ``pool_hits`` allocations that found one
``free_blocks, free_bytes`` of the vmalloc range; ``largest_free`` of them, ``fragmentation`` what it is not of them
``purges``                  and ``flush_hulls``, those that owed a flush, of ``flush_hull_bytes`` in all
``ram_blocks``              of ``vm_map_ram``; of their pages ``ram_pages_free`` were never handed out,
                            ``ram_pages_dirty`` were returned, ``ram_pages_live`` are mapped or lost to rounding
``ram_ranges``              that ``vm_map_ram`` mapped beside blocks
``failures``                areas that failed half way; ``huge_fallbacks`` allocations that fell back to base pages
``deferred_frees``          areas that interrupts left for a worker; ``failed_areas``: that failed and wait for one
``rcu_waiting``             areas that wait for a grace period; ``rcu_grace_periods`` that have ended
``messages``                lines in ``dmesg()``
=========================== ======================================================================================

A space with KASAN adds:

=========================== ======================================================================================
``kasan_shadow_pages``      that exist, of ``kasan_shadow_bytes``; ``kasan_shadow_pages_peak``: the most there were
``kasan_populated``         shadow pages made, ``kasan_released``: given back, all told
``kasan_shadow_flushes``    flushes for shadow that went
``kasan_checks``            accesses that were looked up; ``kasan_unchecked``: those to addresses without shadow
``kasan_quarantined``       freed ranges that are nobody's since, and whose owner is remembered
``kasan_reports``           bad accesses and bad frees
=========================== ======================================================================================

A machine with parts to look at - the simulated one, also inside wrappers - adds what its parts count:

============================ =====================================================================================
``frames``                   in all; ``frames_free``, ``frames_cached`` on lists of CPUs, ``frames_used``; and the four
                             of each node, as ``frames_free_node0``
``zeroed_pages``             frames that were filled with zeros for somebody
``page_table_bytes``         memory of all page tables; ``page_tables_pmd``: tables of each level of the architecture
``mappings_shift12``         mappings of ``1 << 12`` bytes in the kernel's table, and so on for each size there is
``tlb_flushes``              of all CPUs: ``tlb_range_flushes`` and ``tlb_full_flushes``
``tlb_flushed_pages``        pages that the former flushed one by one, on each CPU
``ipis``                     interrupts sent for them
``tlb_hits, tlb_misses``     of all CPUs; ``page_walks`` made for accesses
``faults_unmapped``          and ``faults_readonly``, ``faults_stale_tlb``: accesses that failed, by kind
``vmalloc_faults``           entries copied from the reference table at a first touch; ``spurious_faults`` for nothing
``direct_map_changes``       frames whose permanent mapping was switched off or on again
``deferred_done``            pieces of work that workers did
============================ =====================================================================================
"""

from __future__ import annotations

from typing import Any

from vmalloc.calls.state import VmallocState

__all__ = ["stats"]

#: Names here, and what the MMU calls them.
_MMU_COUNTERS = {
    "tlb_flushes": "flushes",
    "tlb_range_flushes": "range_flushes",
    "tlb_full_flushes": "full_flushes",
    "tlb_flushed_pages": "flushed_pages",
    "ipis": "ipis",
    "tlb_hits": "hits",
    "tlb_misses": "misses",
    "page_walks": "walks",
    "faults_unmapped": "unmapped",
    "faults_readonly": "readonly",
    "faults_stale_tlb": "stale_tlb",
    "vmalloc_faults": "vmalloc_faults",
    "spurious_faults": "spurious_faults",
}


def stats(state: VmallocState) -> dict[str, int | float]:
    """All counters and sizes, by the names of this module's tables."""
    return _of_areas(state) | _of_kasan(state.kasan) | _of_machine(state.machine)


def _of_kasan(kasan: Any) -> dict[str, int | float]:
    return {} if kasan is None else {f"kasan_{name}": count for name, count in kasan.stats().items()}


def _of_areas(state: VmallocState) -> dict[str, int | float]:
    blocks, free, dirty, live = state.blocks.totals()
    return {
        "areas": len(state.areas),
        "pages": state.nr_vmalloc_pages,
        "contiguous_blocks": len(state.contiguous),
        **state.space.stats(),
        "lazy_max_pages": state.lazy_max,
        "ram_blocks": blocks,
        "ram_pages_free": free,
        "ram_pages_dirty": dirty,
        "ram_pages_live": live,
        "ram_ranges": len(state.ram_ranges),
        "failures": state.failures,
        "huge_fallbacks": state.huge_fallbacks,
        "deferred_frees": sum(len(pending) for pending in state.deferred_frees),
        "failed_areas": len(state.failed_areas),
        "rcu_waiting": len(state.rcu_waiting),
        "rcu_grace_periods": state.rcu.completed,
        "messages": len(state.log),
    }


def _of_machine(machine: Any) -> dict[str, int | float]:
    """What the parts of a machine count; a machine has the parts it has."""
    found: dict[str, int | float] = {}
    for part, count in (("frames", _of_frames), ("page_table", _of_page_table), ("mmu", _of_mmu)):
        if hasattr(machine, part):
            found |= count(getattr(machine, part), machine.info)
    for counter, name in (
        ("zeroed_pages", "zeroed_pages"),
        ("direct_map_changes", "direct_map_changes"),
        ("work_done", "deferred_done"),
    ):
        if hasattr(machine, counter):
            found[name] = getattr(machine, counter)
    return found


def _of_frames(frames: Any, _info: Any) -> dict[str, int | float]:
    nodes = frames.stats()
    found: dict[str, int | float] = {
        "frames": sum(node.nr_frames for node in nodes),
        "frames_free": sum(node.free for node in nodes),
        "frames_cached": sum(node.pcp for node in nodes),
        "frames_used": sum(node.used for node in nodes),
    }
    for node in nodes:
        found[f"frames_node{node.node}"] = node.nr_frames
        found[f"frames_free_node{node.node}"] = node.free
        found[f"frames_cached_node{node.node}"] = node.pcp
        found[f"frames_used_node{node.node}"] = node.used
    return found


def _of_page_table(table: Any, info: Any) -> dict[str, int | float]:
    leaves = table.leaves_by_shift()
    shifts = sorted({info.page_shift, *table.accepted_shifts(), *leaves})
    return {
        "page_table_bytes": table.table_bytes,
        **{f"page_tables_{name}": count for name, count in table.tables_by_level().items()},
        **{f"mappings_shift{shift}": leaves.get(shift, 0) for shift in shifts},
    }


def _of_mmu(mmu: Any, _info: Any) -> dict[str, int | float]:
    counters = mmu.counters()
    return {name: counters[counter] for name, counter in _MMU_COUNTERS.items()}
