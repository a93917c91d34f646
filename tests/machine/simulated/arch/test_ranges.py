"""The vmalloc ranges that are formulas: the specification's examples, and what each argument moves."""

from __future__ import annotations

import pytest

from vmalloc.machine.simulated.arch import (
    arm32_vmalloc_range,
    arm64,
    arm64_vmalloc_range,
    loongarch64_vmalloc_range,
    lowmem_size,
    riscv64_vmalloc_range,
    s390x_vmalloc_range,
    x86_32_vmalloc_range,
)
from vmalloc.units import GIB, MIB, TIB


@pytest.mark.parametrize(
    ("page_shift", "va_bits", "start", "end", "gib"),
    [
        (12, 39, 0xFFFF_FFC0_8000_0000, 0xFFFF_FFFE_BF80_0000, 249),
        (12, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FDFF_BF80_0000, 129021),
        (14, 47, 0xFFFF_C000_8000_0000, 0xFFFF_FFBF_BF80_0000, 65277),
        (14, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FF7F_BF80_0000, 130557),
        (16, 42, 0xFFFF_FE00_8000_0000, 0xFFFF_FFFF_3F80_0000, 2043),
        (16, 48, 0xFFFF_8000_8000_0000, 0xFFFF_FFDF_BF80_0000, 130941),
    ],
)
def test_section_8_2_arm64_ranges(page_shift: int, va_bits: int, start: int, end: int, gib: int) -> None:
    assert arm64_vmalloc_range(page_shift, va_bits) == (start, end)
    assert round((end - start) / GIB) == gib
    arch = arm64("arm64", page_shift, va_bits)
    assert (arch.vmalloc_start, arch.vmalloc_end) == (start, end)


def test_low_memory_ends_where_the_vmalloc_range_says() -> None:
    lowmem_end = 2**32 - 256 * MIB  # vmalloc=256M
    start, _ = x86_32_vmalloc_range(lowmem_end)
    assert lowmem_size(0xC000_0000, start) == lowmem_end - 0xC000_0000 == 768 * MIB
    start, _ = arm32_vmalloc_range(0xEF80_0000)
    assert lowmem_size(0xC000_0000, start) == 0xEF80_0000 - 0xC000_0000


def test_section_8_2_formulas_follow_their_arguments() -> None:
    lowmem_end = 2**32 - 256 * MIB  # vmalloc=256M
    assert x86_32_vmalloc_range(lowmem_end) == (0xF080_0000, 0xFF7F_E000)
    assert x86_32_vmalloc_range(pkmap_start=0xFFC0_0000)[1] == 0xFFBF_E000
    assert arm32_vmalloc_range(0xEF80_0001) == (0xF000_0000, 0xFF80_0000)
    assert arm32_vmalloc_range(0xEF7F_FFFF) == (0xEF80_0000, 0xFF80_0000)
    assert riscv64_vmalloc_range(1 << 39, 39) == ((1 << 39) - 64 * GIB, 1 << 39)
    assert s390x_vmalloc_range(4 * TIB, 1 * TIB) == (3 * TIB, 4 * TIB)
    assert s390x_vmalloc_range(4 * TIB, 3 * TIB) == (2 * TIB, 4 * TIB)  # capped at half the space
    assert loongarch64_vmalloc_range(kfence_size=2 * MIB)[1] == loongarch64_vmalloc_range()[1] - 2 * MIB
    assert loongarch64_vmalloc_range(va_bits=46)[1] == loongarch64_vmalloc_range()[1] - 2**46
    assert loongarch64_vmalloc_range(va_bits=55) == loongarch64_vmalloc_range()  # the table reaches no further
