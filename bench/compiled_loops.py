"""Loops that are compiled for one benchmark, against the declarations of the package: what they time is C."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from vmalloc import _build

__all__ = ["compile_loops"]

ROOT = Path(__file__).resolve().parent.parent


def compile_loops(name: str, source: str, factory: pytest.TempPathFactory) -> ModuleType:
    """Compiles Cython source in a folder of its own and imports it; skips where the package is not compiled."""
    if _build.PURE:
        pytest.skip("measures the compiled build")
    folder = factory.mktemp(name)
    (folder / f"{name}.pyx").write_text(source, encoding="utf-8")
    code = (
        "from setuptools import Extension, setup; from Cython.Build import cythonize; "
        f"setup(ext_modules=cythonize([Extension({name!r}, [{name + '.pyx'!r}], extra_compile_args=['-O3'])], "
        f"include_path=[{str(ROOT / 'src')!r}], quiet=True))"
    )
    subprocess.run([sys.executable, "-c", code, "-q", "build_ext", "--inplace"], cwd=folder, check=True)
    (built,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
