"""What the README shows must be so: its Python runs, its links lead somewhere, its replay prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", [code for language, code in BLOCKS if language == "python"])
def test_its_python_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_its_replay_prints_what_it_shows() -> None:
    shown = next(text for language, text in BLOCKS if not language and text.startswith("trace "))
    command = [sys.executable, "-m", "vmalloc", "replay", "--open-loop"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Of the trace the README shows the name, not where it is installed.
    words = " ".join(printed.split())
    for line in shown.splitlines():
        if line != "...":
            expected = " ".join(line.split())
            assert expected.removeprefix("trace ") in words, line


def test_it_shows_only_commands_and_options_that_exist() -> None:
    commands = [[sys.executable, "-m", "vmalloc", name, "--help"] for name in ("replay", "bench")]
    known = "".join(subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands)
    shown = "".join(code for language, code in BLOCKS if language == "console")
    for option in set(re.findall(r"(?<!\w)--[a-z-]+", shown)):
        assert option in known
    goals = re.findall(r"^\$ make (\w+)", shown, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert goals
    assert all(re.search(rf"^{goal}:", makefile, re.MULTILINE) for goal in goals)
