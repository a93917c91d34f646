"""The how-to for adding an architecture (docs/machine.md): its Python runs, and its table names every field."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch, validate_arch

PAGE = next(folder for folder in Path(__file__).resolve().parents if (folder / "docs").is_dir()) / "docs" / "machine.md"
TEXT = PAGE.read_text(encoding="utf-8").split("## Adding an architecture\n")[1].split("\n## ")[0]


def test_its_python_runs_from_top_to_bottom() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    made_up = names["moon64"]
    assert isinstance(made_up, Arch)
    assert made_up.name not in ARCHITECTURES
    validate_arch(made_up)


def test_it_says_of_every_field_what_it_changes() -> None:
    rows = re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert told == {field.name for field in fields(Arch)} - {"name"}
