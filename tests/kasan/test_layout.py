"""Where shadow is and what its bytes mean, against the numbers of the specification (sections 9.1 and 9.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vmalloc
from test_flags import constants
from vmalloc.errors import BadRequest
from vmalloc.flags import PROT_READ, PROT_WRITE
from vmalloc.kasan import layout
from vmalloc.kasan.layout import ShadowLayout, bug_type, shadow_layout, shadow_range
from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.units import ADDRESS_MAX

pytestmark = pytest.mark.both_builds

OFFSETS = {
    "x86_64": 0xDFFFFC0000000000,
    "x86_64_la57": 0xDFFFFC0000000000,
    "arm64_4k": 0xDFFF800000000000,
    "arm64_16k": 0xDFFF800000000000,
    "arm64_64k": 0xDFFF800000000000,
    "riscv64_sv39": 0xDFFFFFFF00000000,
    "riscv64_sv48": 0xDFFFFFFF00000000,
    "riscv64_sv57": 0xDFFFFFFF00000000,
    "s390x": 0x1C000000000000,
}


def machine(arch: str) -> SimulatedMachine:
    return SimulatedMachine(ARCHITECTURES[arch], PROFILES["6.19"], nodes=[1024])


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_each_architecture_has_the_offset_of_the_specification_or_none(arch: str) -> None:
    """Section 9.1."""
    info = machine(arch).info
    if arch not in OFFSETS:
        with pytest.raises(BadRequest, match=f"no shadow offset is known for {arch}"):
            shadow_layout(info)
        return
    found = shadow_layout(info)
    page = 1 << info.page_shift
    assert found.offset == OFFSETS[arch]
    assert found.unit == 8 * page
    assert (found.start, found.end % page) == (info.vmalloc_start, 0)
    assert found.end - info.vmalloc_end in range(page)
    assert found.shadow_start <= found.shadow(found.start) < found.shadow(found.end - 1) < found.shadow_end
    assert found.shadow_start % page == found.shadow_end % page == 0
    assert info.kernel_start <= found.shadow_start < found.shadow_end <= info.kernel_end
    assert found.shadow_end <= found.start or found.shadow_start >= found.end


def test_the_example_of_the_specification() -> None:
    """Section 9.1: x86-64, and U."""
    found = shadow_layout(machine("x86_64").info)
    assert found.shadow(0xFFFFC90000000000) == 0xFFFFF52000000000
    assert found.memory(0xFFFFF52000000000) == 0xFFFFC90000000000
    assert found.unit == 32 << 10
    assert shadow_range(found.offset, 0xFFFFC90000000000, 0xFFFFC90000008000, 4096) == (
        0xFFFFF52000000000, 0xFFFFF52000001000,
    )  # fmt: skip


@given(st.sampled_from(sorted(set(OFFSETS.values()))), st.integers(0, ADDRESS_MAX))
def test_a_shadow_byte_describes_eight_bytes(offset: int, address: int) -> None:
    found = ShadowLayout(offset, 0, 0, 0, 0, 4096)
    granule = address & ~7
    assert found.shadow(address) == found.shadow(granule) == found.shadow(granule + 7)
    assert found.memory(found.shadow(address)) == granule
    assert (found.shadow((granule + 8) & ADDRESS_MAX) - found.shadow(address)) % (1 << 61) == 1


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0xF8, "vmalloc-out-of-bounds"),
        (0xFF, "use-after-free"),
        (0xFE, "slab-out-of-bounds"),
        (0xFC, "slab-out-of-bounds"),
        (0xFB, "slab-use-after-free"),
        (0xFA, "slab-use-after-free"),
        (0xF9, "global-out-of-bounds"),
        *((value, "stack-out-of-bounds") for value in (0xF1, 0xF2, 0xF3, 0xF4)),
        *((value, "alloca-out-of-bounds") for value in (0xCA, 0xCB)),
        (0x80, "unknown-crash"),
    ],
)
def test_a_shadow_byte_names_the_bug(value: int, name: str) -> None:
    """Section 9.2; of a partial granule the byte behind it decides (section 9.6)."""
    assert bug_type(value) == name
    for part in range(1, 8):
        assert bug_type(part, value) == name


def test_a_partial_granule_with_nothing_behind_is_out_of_bounds() -> None:
    assert bug_type(5, None) == "vmalloc-out-of-bounds"


def test_the_compiled_module_has_the_same_numbers() -> None:
    folder = Path(vmalloc.__file__).parent / "kasan"
    found = constants((folder / "shadow.pxd").read_text(encoding="utf-8"))
    assert found.pop("GRANULE_SHIFT") == layout.GRANULE_SHIFT
    assert found.pop("INVALID") == layout.KASAN_VMALLOC_INVALID
    assert found.pop("PROT_RW") == PROT_READ | PROT_WRITE
    plain = (folder / "shadow.py").read_text(encoding="utf-8")
    for name, value in found.items():
        spelled = re.search(rf"^    {name} = ([^#\n]+)", plain, re.MULTILINE)
        assert spelled is not None
        assert eval(spelled[1]) == value
