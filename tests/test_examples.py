"""Every example runs as a program, says something, and complains of nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))
#: What an example must have come to, so that one that ends early is seen.
LAST_WORDS = {
    "kasan.py": "reports: 3",
    "simulated_machine.py": "Every structure was checked",
    "teach_lazy_purge.py": "lazy now: 0 pages, flushes: 1",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_to_its_end(path: Path) -> None:
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert LAST_WORDS.get(path.name, "") in done.stdout
    assert done.stdout.strip()


def test_the_examples_that_pages_speak_of_are_there() -> None:
    assert set(LAST_WORDS) <= {path.name for path in EXAMPLES}
