"""The numbers that compiled and uncompiled modules both know must be the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vmalloc.trace.replay as package
from vmalloc.trace import events
from vmalloc.trace.replay import verdicts

FOLDER = Path(package.__file__).parent
ENUM = re.compile(r"cdef enum:\n((?: {4}\w+ = -?\w+.*\n)+)")


def enums(name: str) -> dict[str, int]:
    """All numbers that the ``enum``s of a ``.pxd`` name."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    lines = "".join(ENUM.findall(text)).splitlines()
    return {found[1]: int(found[2], 0) for line in lines if (found := re.match(r" {4}(\w+) = (-?\w+)", line))}


def test_event_kinds_are_mirrored() -> None:
    mirrored = {name: value for name, value in enums("schedule.pxd").items() if name in vars(events)}
    assert {"ALLOC", "ALLOC_FAILED", "FREE", "PURGE", "FLUSH", "PCPU_CREATE", "LOST"} <= set(mirrored)
    assert mirrored == {name: getattr(events, name) for name in mirrored}


def test_verdicts_are_mirrored() -> None:
    names = [
        name for name in vars(verdicts) if name.isupper() and isinstance(getattr(verdicts, name), int)
    ]  # fmt: skip
    assert len(names) == len(verdicts.VERDICT_NAMES) == 7
    mirrored = enums("schedule.pxd")
    assert {name: mirrored[name] for name in names} == {name: getattr(verdicts, name) for name in names}


def test_counters_are_mirrored_in_order() -> None:
    mirrored = enums("schedule.pxd")
    assert [mirrored[name.upper()] for name in verdicts.COUNTERS] == list(range(len(verdicts.COUNTERS)))
    assert mirrored["NR_COUNTERS"] == len(verdicts.COUNTERS) == len(set(verdicts.COUNTERS))


def test_a_moment_remembers_every_counter() -> None:
    text = (FOLDER / "moment.pxd").read_text(encoding="utf-8")
    assert f"uint64_t counter[{len(verdicts.COUNTERS)}]" in text


@pytest.mark.parametrize(("name", "module"), [("schedule", "schedule"), ("hypotheses", "hypotheses")])
def test_limits_are_mirrored(name: str, module: str) -> None:
    source = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
    limits = {found[1]: int(found[2]) for found in re.finditer(r"^ {4}([A-Z_]+) = (\d+)$", source, re.MULTILINE)}
    assert limits
    mirrored = enums(f"{name}.pxd")
    assert {limit: mirrored[limit] for limit in limits} == limits


def test_limits_of_corrections_are_mirrored() -> None:
    source = (FOLDER / "corrections.py").read_text(encoding="utf-8")
    mirrored = enums("corrections.pxd")
    for limit in ("PATIENCE", "MOST_MOVED"):
        assert re.search(rf"^ {{4}}{limit} = {mirrored[limit]}$", source, re.MULTILINE)
    assert f"above[{mirrored['MOST_MOVED']}]" in (FOLDER / "corrections.pxd").read_text(encoding="utf-8")


def test_fixed_tables_have_the_length_of_their_limit() -> None:
    text = (FOLDER / "schedule.pxd").read_text(encoding="utf-8")
    recent = enums("schedule.pxd")["RECENT"]
    for table in ("recent_event", "recent_row", "late_row", "journal_event", "journal_alias"):
        assert f"{table}[{recent}]" in text


def test_every_counter_that_is_reported_has_a_sentence() -> None:
    from vmalloc.cli.report import _ASSUMPTIONS

    separate = {"reordered", "corrected", "failures_agreed"}  # these have places of their own in the result
    assert set(_ASSUMPTIONS) == set(verdicts.COUNTERS) - separate
