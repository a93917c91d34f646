"""Architectures as values: what one is made of, the table of them, their ranges, and the validator."""

from vmalloc.machine.simulated.arch.model import (
    LEVEL_NAMES,
    Arch,
    HugeUse,
    Leaf,
    LeafNeed,
    Level,
    TableCare,
    TableReplacement,
    TableSync,
)
from vmalloc.machine.simulated.arch.ranges import (
    arm32_vmalloc_range,
    arm64_vmalloc_range,
    loongarch64_vmalloc_range,
    lowmem_size,
    riscv64_vmalloc_range,
    s390x_vmalloc_range,
    x86_32_vmalloc_range,
)
from vmalloc.machine.simulated.arch.table import ARCHITECTURES, arm64, ppc64_radix
from vmalloc.machine.simulated.arch.validate import validate_arch

__all__ = [
    "ARCHITECTURES",
    "LEVEL_NAMES",
    "Arch",
    "HugeUse",
    "Leaf",
    "LeafNeed",
    "Level",
    "TableCare",
    "TableReplacement",
    "TableSync",
    "arm32_vmalloc_range",
    "arm64",
    "arm64_vmalloc_range",
    "loongarch64_vmalloc_range",
    "lowmem_size",
    "ppc64_radix",
    "riscv64_vmalloc_range",
    "s390x_vmalloc_range",
    "validate_arch",
    "x86_32_vmalloc_range",
]
