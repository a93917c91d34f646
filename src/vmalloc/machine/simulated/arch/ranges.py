"""The vmalloc ranges that the specification gives as formulas (section 8.2).

Idea: where a boot parameter, the amount of memory or the width of an address moves the range, the range is a function
of those.  The entries of ``table.py`` call it with the defaults; who models another machine calls it with its own
numbers and replaces the entry's (``dataclasses.replace``).

Each ``*_vmalloc_range`` returns ``(vmalloc_start, vmalloc_end)``.  On 32 bits low memory and the vmalloc range share
the kernel's GiB, so that one follows from the other: ``lowmem_size`` is the way back.  Where the specification names a
quantity and no number (the pkmap area of x86-32, the end of the modules on s390x), the default is this model's choice,
and the function says so.  Ranges that the specification gives as plain numbers (x86-64, ppc64) need no function and
stand in the table.
"""

from __future__ import annotations

from vmalloc.units import GIB, MIB, TIB, align_down

__all__ = [
    "arm32_vmalloc_range",
    "arm64_vmalloc_range",
    "loongarch64_vmalloc_range",
    "lowmem_size",
    "riscv64_vmalloc_range",
    "s390x_vmalloc_range",
    "x86_32_vmalloc_range",
]

#: Bytes of a ``struct page``, which the ranges of arm64 and loongarch64 make room for.
_PAGE_DESCRIPTOR_SIZE = 64

#: Bytes between low memory and the vmalloc range on 32 bits, so that overrunning the one does not reach the other.
_LOWMEM_GAP = 8 * MIB


def x86_32_vmalloc_range(lowmem_end: int = 0xF800_0000, pkmap_start: int = 0xFF80_0000) -> tuple[int, int]:
    """Computes the range of x86-32: 8 MiB above low memory up to two pages below the pkmap area.

    Args:
        lowmem_end: virtual end of low memory; the default leaves the reserve of 128 MiB that ``vmalloc=`` changes.
        pkmap_start: the pkmap area, or the LDT area without high memory.  It moves with the number of CPUs; the default
            is this model's choice.
    """
    return lowmem_end + _LOWMEM_GAP, pkmap_start - 2 * 4096


def arm32_vmalloc_range(high_memory: int = 0xF000_0000) -> tuple[int, int]:
    """Computes the range of arm32; the default end of low memory leaves the documented 240 MiB."""
    return align_down(high_memory + _LOWMEM_GAP, 8 * MIB), 0xFF80_0000


def lowmem_size(direct_map_start: int, vmalloc_start: int) -> int:
    """Computes how many bytes of physical memory a 32-bit kernel maps directly: all up to the gap below vmalloc."""
    return vmalloc_start - _LOWMEM_GAP - direct_map_start


def arm64_vmalloc_range(page_shift: int, va_bits: int) -> tuple[int, int]:
    """Computes the range of arm64: from the end of the module area to 8 MiB below vmemmap.

    vmemmap describes half the address space and ends 1 GiB below the top: so the specification's table of ends has it.
    """
    vmemmap_size = (1 << (va_bits - 1 - page_shift)) * _PAGE_DESCRIPTOR_SIZE
    return 2**64 - 2 ** (va_bits - 1) + 2 * GIB, 2**64 - GIB - vmemmap_size - 8 * MIB


def riscv64_vmalloc_range(page_offset: int, address_bits: int) -> tuple[int, int]:
    """Computes the range of riscv64: the eighth of the address space below ``PAGE_OFFSET``."""
    return page_offset - (1 << address_bits) // 8, page_offset


def s390x_vmalloc_range(
    modules_start: int = 0x3FF_6000_0000, size: int = 510 * GIB, space_size: int = 4 * TIB
) -> tuple[int, int]:
    """Computes the range of s390x: ``size`` bytes, at most half the space, below the modules.

    Args:
        modules_start: the default is this model's choice: the kernel image fills the last 512 MiB of the space, and
            2 GiB of modules lie below it.
        size: 512 GiB - 2 GiB unless the boot parameter says otherwise.
        space_size: the address space the boot code chose; 4 TiB is what a three-level table reaches.
    """
    return modules_start - min(size, space_size // 2), modules_start


def loongarch64_vmalloc_range(
    map_base: int = 0xFFFF_8000_0000_0000, va_bits: int = 47, phys_bits: int = 48, kfence_size: int = 0
) -> tuple[int, int]:
    """Computes the range of loongarch64 with 16K pages and three levels, whose table reaches 2**47 bytes.

    The defaults are this model's choice, as are 32 MiB of PCI I/O space; vmemmap describes all of physical memory.
    """
    page_size, pmd_size = 1 << 14, 1 << 25
    vmemmap_size = (1 << (phys_bits - 14)) * _PAGE_DESCRIPTOR_SIZE
    start = map_base + 32 * MIB + 2 * page_size + 256 * MIB
    return start, map_base + (1 << min(47, va_bits)) - pmd_size - vmemmap_size - kfence_size
