"""Flags: one value each, the same everywhere, and words for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vmalloc
from vmalloc import flags
from vmalloc.areas import states as area_states
from vmalloc.machine.simulated.frames import states as frame_states

pytestmark = pytest.mark.both_builds

SOURCE = Path(vmalloc.__file__).resolve().parent
OURS = re.compile(r"(VM|GFP|TAKE|PROT)_[A-Z0-9_]+|NUMA_NO_NODE|TASK|SOFTIRQ|HARDIRQ|NMI")
#: Names of this shape that mean something of the module's own.
OTHERS = {"PROT_ALL", "PROT_RW"}


def constants(text: str) -> dict[str, int]:
    """The constants of all enums of a declaration file, named or not; a value may be a sum of earlier ones."""
    found: dict[str, int] = {}
    for block in re.findall(r"^(?:cdef|cpdef|ctypedef) enum\b.*:\n((?:(?:    .*)?\n)+)", text, re.MULTILINE):
        for name, value in re.findall(r"^    (\w+) *= *([^#\n]+)", block, re.MULTILINE):
            found[name] = eval(value, {"__builtins__": {}}, dict(found))
    return found


def mirrors() -> dict[str, dict[str, int]]:
    """Per declaration file, the constants in it that ``flags`` might have."""
    found = {}
    for path in sorted(SOURCE.rglob("*.pxd")):
        ours = {
            name: value
            for name, value in constants(path.read_text(encoding="utf-8")).items()
            if OURS.fullmatch(name) and name not in OTHERS
        }
        if ours:
            found[path.relative_to(SOURCE).as_posix()] = ours
    return found


@pytest.mark.parametrize("file", sorted(mirrors()))
def test_compiled_modules_have_the_same_numbers(file: str) -> None:
    numbers = mirrors()[file]
    assert numbers == {name: getattr(flags, name, None) for name in numbers}


def test_the_mirrors_are_found() -> None:
    assert {"machine/base.pxd", "machine/simulated/machine.pxd", "calls/vfree.pxd", "space/space.pxd"} <= set(mirrors())


def test_a_sum_and_a_comment_are_read() -> None:
    text = "cdef enum:\n    A = 0x10\n    B = A | 1  # both\n\ncdef class X:\n    cdef int C\n"
    assert constants(text) == {"A": 16, "B": 17}


@pytest.mark.parametrize(
    ("file", "module", "names"),
    [
        ("machine/simulated/machine.pxd", frame_states, ("ZONE_DMA32", "ZONE_NORMAL")),
        ("machine/wrappers/failing.pxd", area_states, ("ENOMEM",)),
    ],
)
def test_other_numbers_of_machines_are_the_same_too(file: str, module: object, names: tuple[str, ...]) -> None:
    numbers = constants((SOURCE / file).read_text(encoding="utf-8"))
    for name in names:
        assert numbers[name] == getattr(module, name)


@pytest.mark.parametrize("prefix", ["VM_", "PROT_", "TAKE_"])
def test_flags_of_a_family_are_bits_of_their_own(prefix: str) -> None:
    values = [value for name, value in vars(flags).items() if name.startswith(prefix) and isinstance(value, int)]
    assert all(value.bit_count() == 1 for value in values)
    assert len(set(values)) == len(values)


def test_flags_of_areas_have_their_numbers_and_names() -> None:
    """Section 1.3."""
    assert [flags.VM_FLAG_NAMES[1 << bit] for bit in range(len(flags.VM_FLAG_NAMES))] == [
        "VM_IOREMAP", "VM_ALLOC", "VM_MAP", "VM_USERMAP", "VM_DMA_COHERENT", "VM_UNINITIALIZED", "VM_NO_GUARD",
        "VM_KASAN", "VM_FLUSH_RESET_PERMS", "VM_MAP_PUT_PAGES", "VM_ALLOW_HUGE_VMAP", "VM_DEFER_KMEMLEAK", "VM_SPARSE",
    ]  # fmt: skip
    for value, name in flags.VM_FLAG_NAMES.items():
        assert getattr(flags, name) == value


def test_contexts_can_interrupt_those_before_them() -> None:
    assert [getattr(flags, name.upper()) for name in flags.CONTEXT_NAMES] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("gfp", "text"),
    [
        (0, "0"),
        (flags.GFP_KERNEL, "GFP_KERNEL"),
        (flags.GFP_KERNEL | flags.GFP_ZERO, "GFP_KERNEL|__GFP_ZERO"),
        (flags.GFP_USER, "GFP_USER"),
        (flags.GFP_NOFS, "GFP_NOFS"),
        (flags.GFP_ATOMIC, "GFP_ATOMIC"),
        (flags.GFP_NOWAIT, "GFP_NOWAIT"),
        (flags.GFP_KSWAPD_RECLAIM, "__GFP_KSWAPD_RECLAIM"),
        (flags.GFP_KERNEL | flags.GFP_NOFAIL | flags.GFP_THISNODE, "GFP_KERNEL|__GFP_NOFAIL|__GFP_THISNODE"),
        (flags.GFP_DMA32 | 1 << 40, "GFP_DMA32|0x10000000000"),
    ],
)
def test_gfp_masks_are_printed_as_the_kernel_does(gfp: int, text: str) -> None:
    """Section 2.3."""
    assert flags.format_gfp(gfp) == text


@given(st.integers(0, (1 << 26) - 1))
def test_a_printed_gfp_mask_names_every_bit(gfp: int) -> None:
    values = {name: value for value, name in flags.GFP_NAMES.items()} | {"0": 0}
    read = 0
    for word in flags.format_gfp(gfp).split("|"):
        read |= values[word] if word in values else int(word, 16)
    assert read == gfp


@given(st.integers(0, (1 << 20) - 1))
def test_printed_flags_of_an_area_name_every_bit(value: int) -> None:
    values = {name: bit for bit, name in flags.VM_FLAG_NAMES.items()} | {"0": 0}
    words = flags.format_vm_flags(value).split("|")
    assert sum(values[word] if word in values else int(word, 16) for word in words) == value


def test_flags_of_an_area_are_printed() -> None:
    assert flags.format_vm_flags(flags.VM_ALLOC | flags.VM_USERMAP | 1 << 30) == "VM_ALLOC|VM_USERMAP|0x40000000"
    assert flags.format_vm_flags(0) == "0"


@pytest.mark.parametrize(("text", "value"), [("r", 1), ("rw", 3), ("rx", 5), ("rwx", 7)])
def test_protections_are_read(text: str, value: int) -> None:
    assert flags.parse_prot(text) == value


@pytest.mark.parametrize("text", ["", "w", "wr", "RW", None, 3, []])
def test_other_protections_are_refused_with_those_there_are(text: object) -> None:
    with pytest.raises(ValueError, match="write one of r, rw, rx, rwx"):
        flags.parse_prot(text)


def test_everything_public_is_there() -> None:
    assert all(hasattr(flags, name) for name in flags.__all__)
