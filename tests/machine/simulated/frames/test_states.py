"""The numbers of states.py and their mirror in the declarations of the compiled modules."""

from __future__ import annotations

import re
from pathlib import Path

from vmalloc.machine.simulated.frames import states

FOLDER = Path(states.__file__).parent


def mirrored(pxd: Path) -> dict[str, int]:
    """The constants of the anonymous enums of a declaration file."""
    text = pxd.read_text(encoding="utf-8")
    blocks = re.findall(r"^cdef enum:\n((?:    .*\n)+)", text, re.MULTILINE)
    return {name: int(value, 0) for block in blocks for name, value in re.findall(r"^    (\w+) = (-?\w+)", block, re.M)}


def test_the_enums_have_every_number() -> None:
    numbers = mirrored(FOLDER / "table.pxd")
    assert numbers == {name: getattr(states, name) for name in numbers}
    words = {name for name in states.__all__ if isinstance(getattr(states, name), int)}
    assert words - set(numbers) == {"ZONE_DMA32", "ZONE_NORMAL"}


def test_no_other_declaration_has_numbers_of_its_own() -> None:
    assert [pxd.name for pxd in sorted(FOLDER.glob("*.pxd")) if mirrored(pxd)] == ["table.pxd"]


def test_sizes_written_out_in_declarations_are_the_same() -> None:
    table = (FOLDER / "table.pxd").read_text(encoding="utf-8")
    buddy = (FOLDER / "buddy.pxd").read_text(encoding="utf-8")
    assert f"frame_row row[{states.SECTION_FRAMES}]" in table
    assert buddy.count(f"[{states.MAX_ORDER + 1}]") == 2


def test_a_section_is_the_largest_block() -> None:
    assert states.SECTION_FRAMES == 1 << states.SECTION_SHIFT == 1 << states.MAX_ORDER
    assert states.SECTION_MASK == states.SECTION_FRAMES - 1


def test_names_are_in_order() -> None:
    for number, name in enumerate(states.STATE_NAMES):
        assert getattr(states, name.upper()) == number
    for number, name in enumerate(states.ZONE_NAMES):
        assert getattr(states, f"ZONE_{name.upper()}") == number
