"""Which build runs in this process: the compiled modules, or the same sources uncompiled.

A compiled module is a plain ``.py`` with a ``.pxd`` of the same name beside it; compiling puts an extension next to
the two, and Python prefers an extension to a ``.py``.  ``VMALLOC_PURE=1`` in the environment turns that preference
round for this package: ``vmalloc/__init__.py`` imports this module first, and it puts a finder before Python's own that
knows only ``.py``.  So the reference build needs no second installation, and a test can run both builds from one tree.

Why a finder and not a search for the listed modules: the list stands in pyproject.toml, which an installed package does
not have; what lies beside the sources is always there.

Uncompiled modules import Cython's shadow module (``import cython``); compiled ones do not, so Cython is needed at run
time for the uncompiled run only.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType

__all__ = ["PURE", "compilable_modules", "compiled_modules", "in_place_extensions"]

PACKAGE = __name__.partition(".")[0]
FOLDER = Path(__file__).resolve().parent

#: True when this process was asked to run uncompiled.
PURE = os.environ.get("VMALLOC_PURE", "0") not in ("", "0")


class SourceFinder(MetaPathFinder):
    """Finds the modules of this package as ``.py`` only, whatever extensions lie beside them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds ``fullname`` below this package as source, and leaves every other module to Python's own finders.

        Raises:
            ModuleNotFoundError: the module exists only compiled.
        """
        if path is None or not fullname.startswith(f"{PACKAGE}."):
            return None
        for folder in path:
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(fullname)
            if spec is not None and spec.loader is not None:
                return spec
            if FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec(fullname) is not None:
                raise ModuleNotFoundError(f"{fullname} exists only compiled; unset VMALLOC_PURE", name=fullname)
        return None


def compilable_modules() -> Iterator[tuple[str, Path]]:
    """Yields ``(name, source)`` of each module made to be compiled: ``.py`` with a ``.pxd`` beside it, or ``.pyx``."""
    sources = [pxd.with_suffix(".py") for pxd in FOLDER.rglob("*.pxd") if pxd.with_suffix(".py").is_file()]
    for source in sorted([*sources, *FOLDER.rglob("*.pyx")]):
        yield ".".join((PACKAGE, *source.relative_to(FOLDER).with_suffix("").parts)), source


def in_place_extensions(source: Path) -> list[Path]:
    """Returns the extensions beside ``source`` that this interpreter would load in its place."""
    candidates = (source.with_name(source.stem + suffix) for suffix in EXTENSION_SUFFIXES)
    return [path for path in candidates if path.is_file()]


def compiled_modules() -> dict[str, bool]:
    """Tells for each module made to be compiled whether this process really runs it compiled.

    Modules that are not imported yet are looked up, not imported.
    """
    return {name: _is_extension(name) for name, _ in compilable_modules()}


def _is_extension(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return False
    return spec is not None and isinstance(spec.loader, ExtensionFileLoader)


def _prefer_sources() -> None:
    if importlib.util.find_spec("cython") is None:
        raise ImportError(
            "VMALLOC_PURE=1 runs vmalloc uncompiled, which needs Cython's shadow module: "
            "pip install 'Cython>=3.3,<4', or unset VMALLOC_PURE"
        )
    sys.meta_path.insert(0, SourceFinder())


if PURE:
    _prefer_sources()
