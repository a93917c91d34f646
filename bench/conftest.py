"""What the benchmarks share: the summary at the end, a voice for progress, one core, and the storm on disk."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from storm import StormFiles, write_storm
from summary import Say, Summary

from vmalloc import _build

OUT = Path(__file__).resolve().parent / "out"
SUMMARY = Summary()


def pytest_configure() -> None:
    missing = [name for name, compiled in _build.compiled_modules().items() if not compiled]
    if missing:
        pytest.exit(f"benchmarks measure the compiled build; not compiled: {', '.join(missing)}\nsay: make build", 4)
    OUT.mkdir(exist_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Prints the summary below everything else, and writes it."""
    yield
    if not SUMMARY.rows:
        return
    path = OUT / "summary.json"
    SUMMARY.files.append(path)
    SUMMARY.write(path)
    terminalreporter.section("summary")
    for line in SUMMARY.lines():
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def summary() -> Summary:
    """Where figures go."""
    return SUMMARY


@pytest.fixture(scope="session")
def out() -> Path:
    """The folder for results, which git ignores."""
    return OUT


@pytest.fixture(scope="session")
def say(pytestconfig: pytest.Config) -> Say:
    """Tells what a long preparation is at, on a line of its own, also while pytest captures output."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")

    def write(text: str) -> None:
        with capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"-- {text}")
            reporter.flush()

    return write


@pytest.fixture
def one_core() -> Iterator[None]:
    """Keeps this process on one CPU, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="session")
def storm(tmp_path_factory: pytest.TempPathFactory, say: Say) -> StormFiles:
    """The stand-in for ``h14_storm_1M``, written once per run."""
    say("writing the storm, a stand-in for h14_storm_1M")
    files = write_storm(tmp_path_factory.mktemp("storm"))
    sizes = " + ".join(f"{path.stat().st_size / 1e6:.1f}" for path in files.parts)
    say(f"{files.events:,} events, {files.text_bytes / 1e6:.0f} MB of text, compressed {sizes} MB")
    return files
