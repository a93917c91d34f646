"""The floors of the architecture: who may import whom.

A file imports only from lower floors and from its own folder; two folders on one floor do not import each other; the
single files of the ground floor are one folder.  ``vmalloc/__init__.py`` is the public face: it may import any folder,
and only the programs above it (``cli``, ``__main__``) may import it.  Imports inside functions, under ``TYPE_CHECKING``
and through ``import_module`` count: knowing is what matters, not when.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "vmalloc"
SOURCE = Path(__file__).resolve().parent.parent / "src" / PACKAGE

GROUND = 0
FLOORS = {
    "__main__": 9,
    "cli": 8,
    "numpy": 8,
    "buffers": 7,
    "trace": 7,
    "workloads": 7,
    "space": 6,
    "percpu": 5,
    "views": 5,  # pictures of the state, which the space has under a lock; not of the space
    "calls": 4,
    "kasan": 3,
    "machine.simulated": 2,
    "machine.wrappers": 2,
    "machine.host": 2,
    "areas": 1,
    "machine.base": 1,
    "machine": 1,  # the folder's own __init__.py only: what stands in it is imported with each of its parts
    "pages": GROUND,
    "units": GROUND,
    "flags": GROUND,
    "errors": GROUND,
    "kernels": GROUND,
    "policy": GROUND,
    "_build": GROUND,
}
MAY_IMPORT_THE_FACE = {"__main__", "cli"}

CIMPORT = re.compile(r"^\s*from\s+([\w.]+)\s+c?import\s+\(?\s*([\w ,]+)|^\s*c?import\s+([\w., ]+)", re.MULTILINE)


def unit_of(module: str) -> str | None:
    """Returns the entry of ``FLOORS`` a module belongs to; None when no floor is given for it."""
    parts = module.split(".")[1:]
    unit = ".".join(parts[:2]) if parts[0] == "machine" else parts[0]
    return unit if unit in FLOORS else None


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, module: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields each import of a file as ``(module, names taken from it)``, relative ones resolved."""
    text = path.read_text(encoding="utf-8")
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]

    def absolute(name: str, level: int) -> str:
        return ".".join([*package[: len(package) - level + 1], *filter(None, [name])]) if level else name

    if path.suffix != ".py":
        for match in CIMPORT.finditer(text):
            if match[1]:
                level = len(match[1]) - len(match[1].lstrip("."))
                taken = tuple(name.split()[0] for name in match[2].split(",") if name.strip())
                yield absolute(match[1].lstrip("."), level), taken
            else:
                yield from ((name.split()[0], ()) for name in match[3].split(",") if name.strip())
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield absolute(node.module or "", node.level), tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from ((arg.value, ()) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def imported_modules(path: Path, root: Path) -> Iterator[str]:
    """Yields the modules of this package that a file imports; the package itself stands for its public face."""
    for name, taken in imported_names(path, module_of(path, root)):
        name = name.removeprefix("cython.cimports.")
        if name == PACKAGE:
            submodules = [n for n in taken if (root / n).is_dir() or any(root.glob(f"{n}.py*"))]
            yield from (f"{PACKAGE}.{n}" for n in submodules)
            if not taken or len(submodules) < len(taken):
                yield PACKAGE
        elif name == f"{PACKAGE}.machine" and taken:
            yield from (f"{name}.{n}" if f"machine.{n}" in FLOORS else name for n in taken)
        elif name.startswith(f"{PACKAGE}."):
            yield name


def complaint(importer: str, imported: str) -> str | None:
    """Says what is wrong with one import; None when it is allowed."""
    unit = unit_of(importer)
    if imported == PACKAGE:
        return None if unit in MAY_IMPORT_THE_FACE else f"{importer} imports the public face of {PACKAGE}"
    target = unit_of(imported)
    if target is None:
        return f"{importer} imports {imported}, which has no floor"
    if unit == target or unit is None or FLOORS[target] < FLOORS[unit] or FLOORS[unit] == FLOORS[target] == GROUND:
        return None
    if FLOORS[target] == FLOORS[unit]:
        return f"{importer} imports {imported} on its own floor {FLOORS[unit]}"
    return f"{importer} on floor {FLOORS[unit]} imports {imported} from above, floor {FLOORS[target]}"


def violations(root: Path) -> list[str]:
    """Checks every source file below ``root``, the folder of the package."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".py", ".pxd", ".pyx"}):
        module = module_of(path, root)
        if module == PACKAGE:
            continue
        if unit_of(module) is None:
            found.append(f"{module} has no floor")
            continue
        complaints = (complaint(module, imported) for imported in imported_modules(path, root))
        found += dict.fromkeys(c for c in complaints if c)
    return found


def test_nothing_calls_up() -> None:
    assert violations(SOURCE) == []


def test_the_check_reads_the_real_imports() -> None:
    assert f"{PACKAGE}.units" in set(imported_modules(SOURCE / "errors.py", SOURCE))


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("areas/tree.py", "from vmalloc.space import Space", "from above, floor 6"),
        ("areas/tree.py", "import vmalloc.calls.vfree as vfree", "from above, floor 4"),
        ("areas/tree.py", "def f():\n    from vmalloc import kasan", "from above, floor 3"),
        ("areas/tree.py", "from ..calls import vfree", "from above, floor 4"),
        ("areas/tree.py", "import importlib\nimportlib.import_module('vmalloc.cli')", "from above, floor 8"),
        ("areas/tree.py", "from cython.cimports.vmalloc.trace.lines import f", "from above, floor 7"),
        ("areas/tree.pxd", "from vmalloc.calls.purge cimport purge", "from above, floor 4"),
        ("areas/tree.pxd", "cimport cython, vmalloc.calls.purge", "from above, floor 4"),
        ("machine/host/arena.pyx", "from vmalloc.calls.purge cimport (\n    purge,\n)", "from above, floor 4"),
        ("areas/tree.py", "from vmalloc.machine import base", "on its own floor 1"),
        ("machine/__init__.py", "from vmalloc.machine.base import Machine", "on its own floor 1"),
        ("machine/simulated/tlb.py", "from vmalloc.machine.host import arena", "on its own floor 2"),
        ("trace/replay.py", "import vmalloc.buffers", "on its own floor 7"),
        ("views/picture.py", "from vmalloc.space import Space", "from above, floor 6"),
        ("trace/replay.py", "import vmalloc", "public face"),
        ("buffers/ring.py", "from vmalloc import VmallocError", "public face"),
        ("units.py", "from . import areas", "from above, floor 1"),
        ("helpers.py", "", "vmalloc.helpers has no floor"),
        ("machine/other/x.py", "", "vmalloc.machine.other.x has no floor"),
        ("cli/main.py", "from vmalloc.helpers import f", "which has no floor"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, text: str, expected: str) -> None:
    root = tree_with(tmp_path, file, text)
    found = violations(root)
    assert len(found) == 1
    assert expected in found[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("__init__.py", "from vmalloc.cli import main\nfrom vmalloc.errors import VmallocError"),
        ("__main__.py", "from vmalloc.cli import main"),
        ("cli/main.py", "from vmalloc import __version__, units\nimport vmalloc.space"),
        ("space/space.py", "from vmalloc.views.stats import stats\nfrom vmalloc.calls.vfree import vfree"),
        ("areas/tree.py", "from .rows import Rows\nfrom vmalloc.errors import BadSize\nfrom vmalloc import _build"),
        ("areas/tree.pxd", "from libc.stdint cimport uint64_t\nfrom vmalloc.areas.rows cimport Rows"),
        ("machine/host/arena.py", "from vmalloc.machine.base import Machine\nfrom vmalloc.areas.rows import Rows"),
        ("errors.py", "from vmalloc.units import format_size"),
        ("numpy/handler.py", "import numpy"),
    ],
)
def test_an_allowed_import_passes(tmp_path: Path, file: str, text: str) -> None:
    assert violations(tree_with(tmp_path, file, text)) == []


def tree_with(folder: Path, file: str, text: str) -> Path:
    """Writes a small package, every floor of it empty, with one file in it that is under test."""
    root = folder / PACKAGE
    for unit in FLOORS:
        path = root.joinpath(*unit.split("."), "__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return root
