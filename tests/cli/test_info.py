"""The command ``vmalloc info``, run as users run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache

import pytest

from vmalloc import __version__
from vmalloc.machine.host import why_unavailable

here = pytest.mark.skipif(why_unavailable() is not None, reason=f"no host machine: {why_unavailable()}")


@cache  # a machine does not change while it is tested, but for what is used of its limits
def info(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with a pipe for its output."""
    command = [sys.executable, "-m", "vmalloc", "info", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def lines(*arguments: str, **environment: str) -> list[str]:
    """What the command prints when all is well."""
    done = info(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")


def answer(**environment: str) -> dict:
    """The object that ``--json`` prints."""
    return json.loads("\n".join(lines("--json", **environment)))


def row(text: list[str], name: str) -> str:
    """The line of a capability or a limit."""
    [line] = [line for line in text if re.match(rf"(yes|no )?\s+{name} ", line)]
    return line


@here
def test_there_is_a_line_for_each_capability_and_each_limit() -> None:
    text, found = lines(), answer()["host"]
    for capability in found["capabilities"]:
        line = row(text, capability["name"])
        assert line.startswith("yes" if capability["available"] else "no ")
        assert capability["title"] in line
        assert ("instead: " + capability["fallback"] in line) is not capability["available"]
        assert ("to change: " in line) is bool(capability["remedy"])
        assert "seen: " not in line
    for limit in found["limits"]:
        assert limit["how"] in row(text, limit["name"])
    there = sum(capability["available"] for capability in found["capabilities"])
    assert text[-2:] == [f"{there} of {len(found['capabilities'])} capabilities are there; nothing is forced", ""]
    assert not any(line != line.rstrip() for line in text)


@here
def test_versions_and_sizes_stand_first() -> None:
    text, found = lines(), answer()
    assert re.match(rf"vmalloc +{re.escape(__version__)}, \d+ of \d+ modules compiled$", text[0])
    versions = found["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["compiled_modules"] == versions["modules"] > 0
    assert f"NumPy {versions['numpy']}" in text[1]
    assert any(re.match(r"memory +.* in pages of \d+ KiB", line) for line in text)
    assert any(re.match(r"CPUs +\d+ online", line) for line in text)
    assert any(re.match(r"node 0 +distances 10", line) for line in text)


@here
def test_how_tells_what_was_seen() -> None:
    assert "; seen: " in row(lines("--how", VMALLOC_HOST_WITHOUT="guard"), "guard")
    assert "seen: a store through one mapping was seen through another" in row(lines("--how"), "memfd")


@here
def test_forced_answers_are_marked() -> None:
    forced = {"VMALLOC_HOST_WITHOUT": "guard,collapse", "VMALLOC_HOST_LIMITS": "maps=500"}
    text, found = lines(**forced), answer(**forced)["host"]
    for name in ("guard", "collapse"):
        assert row(text, name).startswith("no ")
        assert "(forced)" in row(text, name)
        assert f"to change: take {name} out of VMALLOC_HOST_WITHOUT" in row(text, name)
    assert re.search(r"maps +mappings \(forced\) +500 +\d+ used", row(text, "maps"))
    assert text[-2].endswith("; FORCED from outside: 3 of all answers")
    assert [c["name"] for c in found["capabilities"] if c["forced"]] == ["collapse", "guard"]


@here
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VMALLOC_HOST_WITHOUT", "gaurd", r"VMALLOC_HOST_WITHOUT: no capability 'gaurd'; there are .*\bguard, .*"),
        ("VMALLOC_HOST_LIMITS", "maps", r"VMALLOC_HOST_LIMITS: 'maps' is not of the form maps=5000 or .*"),
    ],
)
def test_a_bad_variable_is_a_bad_request(name: str, value: str, said: str) -> None:
    done = info(**{name: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"vmalloc: {said}\n", done.stderr), done.stderr


def test_uncompiled_there_is_no_host_machine_and_that_is_said() -> None:
    text, found = lines(VMALLOC_PURE="1"), answer(VMALLOC_PURE="1")
    assert re.match(rf"vmalloc +{re.escape(__version__)}, uncompiled \(VMALLOC_PURE\)$", text[0])
    assert text[-2].startswith("no host machine: it exists only compiled, and VMALLOC_PURE asks")
    assert found["host"]["available"] is False
    assert found["host"]["reason"].endswith("unset VMALLOC_PURE")
    assert found["versions"]["compiled_modules"] == 0


def test_what_is_not_an_argument_is_refused() -> None:
    assert info("--arch", "x86_64").returncode == 2
    assert "VMALLOC_HOST_WITHOUT" in info("--help").stdout
