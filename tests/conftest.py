"""What every test relies on: the package of this tree, extensions no older than their sources, Hypothesis' profiles."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from vmalloc import _build

# No deadline: a first call that imports or compiles must not fail a test. The blob lets anybody replay a failure.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, max_examples=200)
settings.register_profile(
    "campaign", settings.get_profile("dev"), max_examples=10_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def stale_extensions() -> list[str]:
    """Names each extension beside the sources that is older than its ``.py``, ``.pyx`` or ``.pxd``."""
    stale = []
    for _, source in _build.compilable_modules():
        pxd = source.with_suffix(".pxd")
        for extension in _build.in_place_extensions(source):
            newer = [p.name for p in (source, pxd) if p.is_file() and p.stat().st_mtime > extension.stat().st_mtime]
            if newer:
                stale.append(f"{extension} is older than {' and '.join(newer)}")
    return stale


def pytest_configure() -> None:
    here = Path(__file__).resolve().parent.parent / "src" / "vmalloc"
    if here != _build.FOLDER:  # an environment that was copied or moved together with its tree
        pytest.exit(f"the tests of {here} would run {_build.FOLDER}\nsay: make clean build", returncode=4)
    stale = [] if _build.PURE else stale_extensions()
    if stale:
        lines = ["the tests would run code that is no longer in the sources:", *stale]
        pytest.exit("\n  ".join(lines) + "\nsay: make build", returncode=4)


def pytest_report_header() -> str:
    compiled = _build.compiled_modules()
    return f"vmalloc: {sum(compiled.values())} of {len(compiled)} modules compiled" + (
        " (VMALLOC_PURE)" if _build.PURE else ""
    )


@pytest.fixture(scope="session")
def compiled() -> bool:
    """Whether this run tests the compiled build; False under ``VMALLOC_PURE=1``."""
    return not _build.PURE


@pytest.fixture(scope="session")
def run_pure() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python uncompiled in a second process: ``run_pure("-c", code)``, ``run_pure("-m", "vmalloc", ...)``."""

    def run(*args: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, args)]
        environment = os.environ | {"VMALLOC_PURE": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)

    return run
