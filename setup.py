"""Compiles the modules that ``[tool.vmalloc]`` of pyproject.toml lists; everything else is said there.

``VMALLOC_PURE=1`` builds without compiling, and is the only way to get that: a module that does not compile fails the
build, so that nobody runs the slow build without having asked for it.
"""

import os
import sys
import tomllib
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
GENERATED = Path("build", "cython")
OPTIMISE = ["/O2"] if sys.platform == "win32" else ["-O3", "-Wno-sign-compare"]

DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # annotations are for readers and mypy; C types come from the .pxd
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "freethreading_compatible": True,
}


def source_of(module: str) -> Path:
    """Returns the source of a compiled module, relative to the project; exits when the list names what is not there."""
    stem = Path("src", *module.split("."))
    pyx = stem.with_suffix(".pyx")
    if (ROOT / pyx).is_file():
        return pyx
    for needed in (stem.with_suffix(".py"), stem.with_suffix(".pxd")):
        if not (ROOT / needed).is_file():
            sys.exit(
                f"setup.py: {needed} is missing, but [tool.vmalloc] of pyproject.toml lists {module}: "
                "a compiled module is a .py with a .pxd beside it, or a .pyx"
            )
    return stem.with_suffix(".py")


def generated_by_another_recipe() -> bool:
    """Tells whether C code is left from an older recipe, this file; Cython itself looks at sources only.

    pyproject.toml says which modules, not how: one more in its list leaves the others as they are.
    """
    recipe = Path(__file__).stat().st_mtime
    return any(c.stat().st_mtime < recipe for c in (ROOT / GENERATED).rglob("*.c"))


def extensions() -> list[Extension]:
    """Translates the listed modules to C."""
    if os.environ.get("VMALLOC_PURE", "0") not in ("", "0"):
        return []
    from Cython.Build import cythonize  # not needed, and perhaps not there, for a build without compiling

    lists = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["vmalloc"]
    elsewhere = set() if sys.platform == "linux" else set(lists.get("linux_only", ()))
    listed = [module for module in lists["compiled"] if module not in elsewhere]
    modules = [Extension(module, [source_of(module).as_posix()], extra_compile_args=OPTIMISE) for module in listed]
    return cythonize(
        modules,
        build_dir=str(GENERATED),
        compiler_directives=DIRECTIVES,
        force=generated_by_another_recipe(),
        include_path=["src"],
        quiet="--quiet" in sys.argv,
    )


setup(ext_modules=extensions(), options={"build_ext": {"parallel": 2}})
