"""``vmalloc replay --set``, run as users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vmalloc.cli import main
from vmalloc.policy import KNOBS

MODS = Path(__file__).resolve().parent.parent / "recorded" / "g61_1cpu_mods"
FILES = [f"{MODS}.trace.zst", "--before", f"{MODS}.before.vmallocinfo.zst"]


def vmalloc(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vmalloc", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_three_columns_stand_side_by_side() -> None:
    done = vmalloc(*FILES, "--set", "lazy_max_pages=64KiB", "--set", "guard=off")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^policy +lazy_max_pages=64KiB guard=off *$", done.stdout, re.MULTILINE)
    assert re.search(r"^threshold +8,192 pages -> 16 pages *$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +recorded kernel +model +with the policy *$", done.stdout, re.MULTILINE)
    purges = re.search(r"^purges +([\d,]+) +([\d,]+) +([\d,]+) *$", done.stdout, re.MULTILINE)
    assert purges
    assert purges[1] == purges[2] == "593"
    assert re.search(r"^at the recorded address +100 % +100 % +\d", done.stdout, re.MULTILINE)


def test_json_has_the_same() -> None:
    answer = json.loads(vmalloc(*FILES, "--json", "--set", "fit=lowest").stdout)
    assert answer["set"] == {"fit": "lowest"}
    assert answer["recorded"]["purges"]["purges"] == answer["kernels"]["purges"]["purges"] == 593
    assert answer["kernels"]["agreement"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "fit=best"], "fit=best: it can be kernel, lowest"),
        (["--set", "speed=11"], "no knob 'speed'; there are lazy_max_pages"),
        (["--set", "guard"], "write NAME=VALUE"),
        (["--set", "guard=off", "--machine", "simulated"], "--set is about addresses"),
        (["--set", "guard=off", "--arch", "x86_64"], "--set is about addresses"),
        ([*FILES, "--set", "vmap_nodes=2"], "nodes came with 6.9"),
    ],
)
def test_a_bad_request_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vmalloc: ")
    assert words in err
    assert err.count("\n") == 1


def test_help_lists_every_knob(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    help_text = capsys.readouterr().out
    for knob in KNOBS:
        assert f"{knob.name}={{{knob.values}}}" in help_text
