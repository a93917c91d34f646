"""The numbers of states.py and their mirrors in the declarations of the compiled modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmalloc import flags
from vmalloc.errors import FAULT_KINDS
from vmalloc.machine.simulated.mmu import states

FOLDER = Path(states.__file__).parent


def mirrored(pxd: Path) -> dict[str, int]:
    """The constants of the anonymous enums of a declaration file."""
    text = pxd.read_text(encoding="utf-8")
    blocks = re.findall(r"^cdef enum:\n((?:    .*\n)+)", text, re.MULTILINE)
    return {name: int(value, 0) for block in blocks for name, value in re.findall(r"^    (\w+) = (-?\w+)", block, re.M)}


@pytest.mark.parametrize("pxd", sorted(path.name for path in FOLDER.glob("*.pxd")))
def test_each_mirror_has_the_same_numbers(pxd: str) -> None:
    numbers = mirrored(FOLDER / pxd)
    assert numbers
    assert numbers == {name: getattr(flags if name.startswith("PROT_") else states, name) for name in numbers}


def test_every_number_is_mirrored_somewhere() -> None:
    found = {name for pxd in FOLDER.glob("*.pxd") for name in mirrored(pxd)}
    assert {name for name in states.__all__ if isinstance(getattr(states, name), int)} <= found


def test_sizes_written_out_in_declarations_are_the_same() -> None:
    assert f"tlb_class* sizes[{states.MAX_CLASSES}]" in (FOLDER / "tlb.pxd").read_text(encoding="utf-8")
    translator = (FOLDER / "translator.pxd").read_text(encoding="utf-8")
    assert f"uint64_t invalid[{states.NR_INVALID}]" in translator
    assert f"uint64_t outcomes[{states.NR_OUTCOMES}]" in translator
    assert states.INVALID_MASK == states.NR_INVALID - 1


def test_names_are_in_order() -> None:
    assert len(states.OUTCOME_NAMES) == states.NR_OUTCOMES
    for number, name in enumerate(states.OUTCOME_NAMES):
        assert getattr(states, "STALE" if name == "stale_tlb" else name.upper()) == number
    for number, name in enumerate(states.POLICIES):
        assert getattr(states, name.upper()) == number


def test_outcomes_are_kinds_of_fault() -> None:
    assert set(states.FAULT_KIND.values()) <= set(FAULT_KINDS)
    for outcome, kind in states.FAULT_KIND.items():
        assert states.OUTCOME_NAMES[outcome] == kind
