"""The numbers of states.py and their mirrors in the declarations of the compiled modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vmalloc.areas import states

FOLDER = Path(states.__file__).parent


def mirrored(pxd: Path) -> dict[str, int]:
    """The constants of the anonymous enums of a declaration file."""
    text = pxd.read_text(encoding="utf-8")
    blocks = re.findall(r"^cdef enum:\n((?:    .*\n)+)", text, re.MULTILINE)
    return {name: int(value, 0) for block in blocks for name, value in re.findall(r"^    (\w+) = (\w+)", block, re.M)}


def test_the_enum_of_rows_has_every_state() -> None:
    numbers = mirrored(FOLDER / "rows.pxd")
    assert numbers == {name: getattr(states, name) for name in numbers}
    assert {name.upper() for name in states.STATE_NAMES} <= set(numbers)
    assert {"NIL", "MAX_POOL_PAGES"} <= set(numbers)


def test_the_enum_of_the_free_tree_has_every_errno() -> None:
    numbers = {name: value for name, value in mirrored(FOLDER / "free_tree.pxd").items() if name.startswith("E")}
    assert numbers == {name: getattr(states, name) for name in numbers}
    assert set(numbers) == {"ENOENT", "ENOMEM", "EBUSY", "EINVAL", "ERANGE"}


@pytest.mark.parametrize("pxd", sorted(FOLDER.glob("*.pxd")), ids=lambda path: path.stem)
def test_a_constant_that_has_a_home_in_python_is_the_same_there(pxd: Path) -> None:
    source = pxd.with_suffix(".py").read_text(encoding="utf-8")
    for name, value in mirrored(pxd).items():
        if hasattr(states, name):
            assert getattr(states, name) == value
            continue
        written = re.findall(rf"^\s*{name} = (\w+)$", source, re.MULTILINE)  # for the uncompiled run
        pair = re.findall(r"^\s*(\w+), (\w+) = (\w+), (\w+)$", source, re.MULTILINE)
        written += [v for a, b, x, y in pair for n, v in ((a, x), (b, y)) if n == name]
        assert {int(v, 0) for v in written} == {value}, name


def test_state_names_are_in_order() -> None:
    for number, name in enumerate(states.STATE_NAMES):
        assert getattr(states, name.upper()) == number


def test_error_values_are_the_top_4095_addresses() -> None:
    assert states.error_value(1) == (1 << 64) - 1
    assert states.error_value(4095) == states.ERROR_VALUES
    assert states.error_value(states.ERANGE) == 18446744073709551582
    assert states.is_error_value(states.ERROR_VALUES)
    assert not states.is_error_value(states.ERROR_VALUES - 1)
