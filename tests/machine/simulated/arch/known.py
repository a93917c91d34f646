"""The architectures that the tests of this folder go through: all named ones, and relatives that have no name."""

from __future__ import annotations

from dataclasses import replace

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, Leaf, Level, arm64, ppc64_radix

OLD, MIDDLE, NEW = PROFILES["6.1"], PROFILES["6.12"], PROFILES["6.19"]

GROUPS_8XX = (Leaf(14), Leaf(19))
LPAE = (Level("pgd", 30, 4), Level("pmd", 21, 512), Level("pte", 12, 512))

#: Rows of the specification's tables that have no name in ``vmalloc.simulated``: each is a change to one that has.
RELATIVES = {
    "ppc64_radix 4K": ppc64_radix("ppc64_radix 4K", 12),
    "arm32 LPAE": replace(ARCHITECTURES["arm32"], levels=LPAE),
    "ppc 8xx": replace(ARCHITECTURES["x86_32"], pte_groups=(14, 19), huge_vmap=GROUPS_8XX, huge_vmalloc=GROUPS_8XX),
    "ppc64 hash 4K": replace(
        ARCHITECTURES["ppc64_radix"], vmalloc_start=0xC000_3D00_0000_0000, vmalloc_end=0xC000_3E00_0000_0000
    ),
} | {
    f"arm64 {va_bits}/{1 << page_shift - 10}K": arm64(f"arm64 {va_bits}/{1 << page_shift - 10}K", page_shift, va_bits)
    for page_shift, va_bits in [(12, 39), (12, 52), (14, 36), (14, 47), (16, 42), (16, 52)]
}
KNOWN = ARCHITECTURES | RELATIVES
