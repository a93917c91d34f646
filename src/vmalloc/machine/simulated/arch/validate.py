"""The validator of architectures: do the values of one entry agree with each other?

Invariants.  The levels tile ``address_bits`` exactly; each level's shift is the one below plus the log2 of that one's
entries; ranges are inside each other and aligned; a leaf is a PMD, a PUD or a group of PTEs; what ``huge_vmalloc``
accepts ``huge_vmap`` accepts too; a record's release is a known one; KASAN's shadow of the vmalloc range is kernel
space beside it; so is the direct map, unless it is wholly outside the kernel range; 32 bits say where low memory ends.

No rule speaks of ``flush_by_broadcast``: there are CPUs with and without it for each of the other values.

It trusts nothing but the types of the fields, so that it can be run on an entry of one's own; the entries of
``table.py`` are checked by the tests, not at each import.
"""

from __future__ import annotations

from itertools import pairwise

from vmalloc.errors import ValidationError
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch.model import LEVEL_NAMES, Arch, TableCare, TableReplacement
from vmalloc.units import GIB, format_address, format_range, is_power_of_two

__all__ = ["validate_arch"]


def validate_arch(arch: Arch) -> None:
    """Checks that an architecture's values agree with each other.

    Raises:
        ValidationError: two of them contradict each other; it names both.
    """
    _check_widths(arch)
    _check_levels(arch)
    _check_ranges(arch)
    _check_groups(arch)
    _check_leaves(arch)
    _check_syncs(arch)
    _check_limits(arch)
    _check_shadow(arch)
    _check_direct_map(arch)


def _expect(arch: Arch, holds: bool, first: str, second: str) -> None:
    if not holds:
        raise ValidationError(f"architecture {arch.name}", first, second)


def _check_widths(arch: Arch) -> None:
    _expect(arch, arch.word_bits in (32, 64), f"a word of {arch.word_bits} bits", "the words there are, 32 and 64")
    tables = f"tables that translate {arch.address_bits} bits"
    _expect(arch, arch.address_bits <= arch.word_bits, tables, f"a word of {arch.word_bits} bits")


def _check_levels(arch: Arch) -> None:
    """Names in the kernel's order, sizes powers of two, each level exactly above the next, all bits covered."""
    names = [level.name for level in arch.levels]
    ordered = [name for name in LEVEL_NAMES if name in names]
    _expect(arch, names == ordered, f"levels {', '.join(names)}", f"the kernel's order, {', '.join(LEVEL_NAMES)}")
    _expect(arch, {"pgd", "pte"} <= set(names), f"levels {', '.join(names)}", "pgd and pte, which are never folded")
    for level in arch.levels:
        _expect(arch, is_power_of_two(level.nr_entries), str(level), "table sizes, which are powers of two")
        _expect(arch, 0 < level.shift < arch.word_bits, str(level), f"a word of {arch.word_bits} bits")
    for upper, lower in pairwise(arch.levels):
        _expect(arch, upper.size == lower.span, str(upper), f"{lower} below it")
    top, bottom = arch.levels[0], arch.levels[-1]
    _expect(arch, bottom.shift == arch.page_shift, str(bottom), f"page_shift {arch.page_shift}")
    _expect(arch, top.span == 1 << arch.address_bits, f"{top} at the top", f"address_bits {arch.address_bits}")


def _check_ranges(arch: Arch) -> None:
    """Kernel addresses fit the word and share their untranslated bits; the vmalloc range is aligned and inside."""
    kernel = f"kernel range {format_range(arch.kernel_start, arch.kernel_end)}"
    fits = 0 <= arch.kernel_start < arch.kernel_end <= 1 << arch.word_bits
    _expect(arch, fits, kernel, f"a word of {arch.word_bits} bits")
    same_bits = arch.kernel_start >> arch.address_bits == (arch.kernel_end - 1) >> arch.address_bits
    _expect(arch, same_bits, kernel, f"tables that translate {arch.address_bits} bits and cannot tell it apart")
    vmalloc = f"vmalloc range {format_range(arch.vmalloc_start, arch.vmalloc_end)}"
    inside = arch.kernel_start <= arch.vmalloc_start < arch.vmalloc_end <= arch.kernel_end
    _expect(arch, inside, vmalloc, kernel)
    pages = f"pages of {arch.page_size} bytes"
    _expect(arch, arch.vmalloc_start % arch.page_size == 0, vmalloc, pages)
    _expect(arch, -arch.vmalloc_end % arch.page_size <= 1, vmalloc, f"{pages}: only the last byte may be left out")
    if arch.kmsan_vmalloc_end is not None:
        kmsan = f"KMSAN end {format_address(arch.kmsan_vmalloc_end)}"
        _expect(arch, arch.vmalloc_start < arch.kmsan_vmalloc_end < arch.vmalloc_end, kmsan, vmalloc)
        _expect(arch, -arch.kmsan_vmalloc_end % arch.page_size <= 1, kmsan, pages)


def _check_groups(arch: Arch) -> None:
    """Groups of PTEs ascend, and are larger than a page and smaller than their table."""
    pte = arch.levels[-1]
    for lower, upper in pairwise((pte.shift, *arch.pte_groups, pte.shift + pte.nr_entries.bit_length() - 1)):
        _expect(arch, lower < upper, f"PTE groups of shifts {arch.pte_groups} between {lower} and {upper}", str(pte))


def _check_leaves(arch: Arch) -> None:
    """Leaves are groups, PMDs or PUDs; releases are known; no record twice; vmalloc asks for nothing vmap refuses."""
    pud, pmd = arch.level("pud"), arch.level("pmd")
    where = f"groups {arch.pte_groups}, {pmd}, {pud}"
    for leaf in (*arch.huge_vmap, *arch.huge_vmalloc):
        _expect(arch, leaf.shift in (*arch.pte_groups, pmd.shift, pud.shift), f"a leaf of shift {leaf.shift}", where)
        _expect(arch, leaf.since in PROFILES, f"a leaf since {leaf.since}", f"the profiles {', '.join(PROFILES)}")
    for records in (arch.huge_vmap, arch.huge_vmalloc):
        keys = [(leaf.shift, leaf.since) for leaf in records]
        _expect(arch, len(keys) == len(set(keys)), f"leaves {keys}", "one record per shift and release")
    for leaf in arch.huge_vmalloc:
        said = f"a leaf of shift {leaf.shift} for huge vmalloc"
        _expect(arch, leaf in arch.huge_vmap, said, "huge vmap, which does not accept it")
        _expect(arch, leaf.shift <= pmd.shift, said, f"{pmd}, the largest that is ever chosen (section 3.2)")
    replaces = arch.table_replacement is not TableReplacement.NEVER
    _expect(arch, bool(arch.huge_vmap) or not replaces, f"replacement: {arch.table_replacement.value}", "no leaves")


def _check_syncs(arch: Arch) -> None:
    """There is a record for each profile, in order; what runs in the hook has a mask, what needs no care has none."""
    releases = [sync.since for sync in arch.table_syncs]
    known = [name for name in PROFILES if name in releases]
    said = f"table_syncs since {', '.join(releases)}"
    _expect(arch, releases == known, said, f"the profiles {', '.join(PROFILES)}, each at most once, oldest first")
    _expect(arch, next(iter(PROFILES)) in releases, said, f"the oldest profile, {next(iter(PROFILES))}")
    for sync in arch.table_syncs:
        care, mask = sync.care, sync.mask_level
        _expect(arch, mask is None or mask in LEVEL_NAMES, f"sync mask {mask}", f"levels {', '.join(LEVEL_NAMES)}")
        in_hook = care in (TableCare.HOOK, TableCare.SEQUENCE)
        _expect(arch, mask is not None or not in_hook, care.value, "an empty sync mask: the hook never runs")
        _expect(arch, mask is None or care is not TableCare.ONE_TABLE, care.value, f"sync mask {mask}")
        copies = "a fault handler that fills in nothing"
        _expect(arch, sync.vmalloc_faults or care is not TableCare.FAULT, care.value, copies)
        needless = sync.vmalloc_faults and care in (TableCare.ONE_TABLE, TableCare.FENCE)
        _expect(arch, not needless, care.value, "vmalloc faults, which then find nothing missing")


def _check_limits(arch: Arch) -> None:
    """Alignments, widths and thresholds are possible ones."""
    order, widths = arch.ioremap_max_order, f"page_shift {arch.page_shift} and address_bits {arch.address_bits}"
    _expect(arch, arch.page_shift <= order < arch.address_bits, f"ioremap_max_order {order}", widths)
    _expect(arch, is_power_of_two(arch.shmlba_pages), f"shmlba_pages {arch.shmlba_pages}", "a power of two")
    flush = arch.max_ranged_flush_pages
    _expect(arch, flush is None or flush > 0, f"max_ranged_flush_pages {flush}", "at least one page")
    physical = f"phys_bits {arch.phys_bits}"
    _expect(arch, arch.page_shift < arch.phys_bits, physical, f"page_shift {arch.page_shift}")
    _expect(arch, arch.phys_bits <= 8 * arch.entry_size, physical, f"entries of {arch.entry_size} bytes")
    if arch.dma32_limit is not None:
        limit = f"dma32_limit {format_address(arch.dma32_limit)}"
        _expect(arch, arch.word_bits == 64, limit, "32 bits, which have no such zone")
        reachable = 0 < arch.dma32_limit <= min(4 * GIB, 1 << arch.phys_bits)
        _expect(arch, reachable, limit, f"32 address lines and {physical}")
        _expect(arch, arch.dma32_limit % arch.page_size == 0, limit, f"pages of {arch.page_size} bytes")


def _check_shadow(arch: Arch) -> None:
    """The shadow of the vmalloc range is made of kernel addresses outside the range."""
    for scale, offset in ((3, arch.kasan_shadow_offset), (4, arch.kasan_sw_tags_offset)):
        if offset is None:
            continue
        start = ((arch.vmalloc_start >> scale) + offset) % 2**arch.word_bits
        end = start + (arch.vmalloc_size >> scale)
        shadow = f"KASAN shadow {format_range(start, end)} of the vmalloc range"
        kernel = format_range(arch.kernel_start, arch.kernel_end)
        _expect(arch, arch.kernel_start <= start < end <= arch.kernel_end, shadow, f"kernel range {kernel}")
        apart = end <= arch.vmalloc_start or start >= arch.vmalloc_end
        _expect(arch, apart, shadow, f"the range itself, {format_range(arch.vmalloc_start, arch.vmalloc_end)}")


def _check_direct_map(arch: Arch) -> None:
    """Low memory is a part of memory in whole pages; where it is shown is beside the vmalloc range.

    Without a limit the extent is that of the memory a machine has, which an architecture does not know.  Then the first
    page is checked, or, in a window of its own, all that a physical address can reach.
    """
    start, limit = arch.direct_map_start, arch.lowmem_limit
    inside = arch.kernel_start <= start < arch.kernel_end
    if limit is None:
        _expect(arch, arch.word_bits == 64, "a direct map without lowmem_limit", "32 bits, too few for all memory")
        end = start + (arch.page_size if inside else 1 << arch.phys_bits)
    else:
        said = f"lowmem_limit {limit}"
        _expect(arch, 0 < limit <= 1 << arch.phys_bits, said, f"phys_bits {arch.phys_bits}")
        _expect(arch, limit % arch.page_size == 0, said, f"pages of {arch.page_size} bytes")
        end = start + limit
    direct_map = f"direct map {format_range(start, end)}"
    _expect(arch, start % arch.page_size == 0, direct_map, f"pages of {arch.page_size} bytes")
    _expect(arch, 0 <= start < end <= 1 << arch.word_bits, direct_map, f"a word of {arch.word_bits} bits")
    kernel = format_range(arch.kernel_start, arch.kernel_end)
    whole = end <= arch.kernel_end if inside else end <= arch.kernel_start or start >= arch.kernel_end
    _expect(arch, whole, direct_map, f"kernel range {kernel}, whose edge it crosses")
    beside = end <= arch.vmalloc_start or start >= arch.vmalloc_end
    _expect(arch, beside, direct_map, f"vmalloc range {format_range(arch.vmalloc_start, arch.vmalloc_end)}")
