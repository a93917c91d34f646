"""The build: one list of compiled modules that everything agrees with, and two builds from one tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from vmalloc import _build

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPILED = PROJECT["tool"]["vmalloc"]["compiled"]
LINUX_ONLY = PROJECT["tool"]["vmalloc"]["linux_only"]
COMPILED_HERE = [module for module in COMPILED if sys.platform == "linux" or module not in LINUX_ONLY]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)


def imports_cython(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else names
        if any(name.split(".")[0].lower() == "cython" for name in names):
            return True
    return False


def expand_braces(pattern: str) -> list[str]:
    match = re.fullmatch(r"(.*)\{(.*)\}(.*)", pattern)
    return [match[1] + middle + match[3] for middle in match[2].split(",")] if match else [pattern]


@pytest.mark.both_builds
@pytest.mark.parametrize("module", COMPILED)
def test_every_listed_module_runs_as_this_build_says(module: str, compiled: bool) -> None:
    assert _build.compiled_modules()[module] is (compiled and module in COMPILED_HERE)


def test_the_list_names_each_module_once() -> None:
    assert len(COMPILED) == len(set(COMPILED))


def test_the_list_is_what_lies_beside_a_pxd() -> None:
    assert sorted(COMPILED) == sorted(name for name, _ in _build.compilable_modules())


def test_only_listed_modules_import_cython() -> None:
    users = {module_name(path) for path in (ROOT / "src").rglob("*.py") if imports_cython(path)}
    assert users <= set(COMPILED)


def test_no_extension_is_left_of_a_module_that_went_away() -> None:
    found = {p for suffix in EXTENSION_SUFFIXES for p in (ROOT / "src").rglob(f"*{suffix}")}
    orphans = {p for p in found if module_name(p.with_name(p.name.split(".")[0])) not in COMPILED}
    assert not orphans, f"remove them, or say: make clean: {orphans}"


def test_mypy_and_ruff_excuse_exactly_the_listed_modules() -> None:
    excused = [o["module"] for o in PROJECT["tool"]["mypy"]["overrides"] if o.get("ignore_errors")]
    assert excused == [COMPILED]
    ignores = PROJECT["tool"]["ruff"]["lint"]["per-file-ignores"]
    files = [path for pattern, rules in ignores.items() if "F821" in rules for path in expand_braces(pattern)]
    assert sorted(module_name(ROOT / path) for path in files) == sorted(
        module for module in COMPILED if not (ROOT / "src" / module.replace(".", "/")).with_suffix(".pyx").exists()
    )


def test_make_installs_what_the_build_requires() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["project"]["optional-dependencies"]["test"])


def test_a_second_process_runs_uncompiled_beside_the_extensions(run_pure) -> None:
    result = run_pure("-c", "from vmalloc import _build; print(any(_build.compiled_modules().values()))")
    assert result.stdout == "False\n"


def test_the_uncompiled_run_without_cython_says_what_is_missing(run_pure) -> None:
    hide = "import sys; sys.modules['cython'] = None; "
    result = run_pure("-c", hide + "import vmalloc", check=False)
    assert result.returncode == 1
    assert "ImportError: VMALLOC_PURE=1 runs vmalloc uncompiled, which needs Cython's shadow module" in result.stderr


def test_compiled_modules_need_no_cython_at_run_time(compiled: bool) -> None:
    if not compiled:
        pytest.skip("uncompiled modules do need it")
    code = f"""
import importlib, sys
sys.modules["cython"] = sys.modules["Cython"] = None
for module in {COMPILED_HERE!r}:
    importlib.import_module(module)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_is_light() -> None:
    code = "import sys, vmalloc; print(sorted({'numpy', 'rich', 'zstandard', 'importlib.metadata'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_version_is_the_one_of_the_project() -> None:
    import vmalloc

    assert vmalloc.__version__ == PROJECT["project"]["version"]


def write_project(folder: Path, *, source: str, with_pxd: bool = True) -> None:
    """Writes the smallest project that the real setup.py can build: one listed module."""
    package = folder / "src" / "toy"
    package.mkdir(parents=True)
    (folder / "setup.py").write_text((ROOT / "setup.py").read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "toy"\nversion = "0"\n[tool.vmalloc]\ncompiled = ["toy.hot"]\n', encoding="utf-8"
    )
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "hot.py").write_text(source, encoding="utf-8")
    if with_pxd:
        (package / "hot.pxd").write_text("cdef int twice(int x) noexcept nogil\n", encoding="utf-8")


def build(folder: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.CompletedProcess[str]:
    monkeypatch.delenv("VMALLOC_PURE", raising=False)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_listed_module_that_is_missing_fails_the_build_by_name(tmp_path: Path, monkeypatch) -> None:
    write_project(tmp_path, source="def twice(x):\n    return x + x\n", with_pxd=False)
    result = build(tmp_path, monkeypatch)
    assert result.returncode == 1
    assert result.stderr.startswith("setup.py: src/toy/hot.pxd is missing, but [tool.vmalloc]")


@pytest.mark.parametrize(("platform", "left_out"), [("linux", False), ("darwin", True), ("win32", True)])
def test_modules_for_linux_are_left_out_elsewhere(tmp_path: Path, monkeypatch, platform: str, left_out: bool) -> None:
    write_project(tmp_path, source="def twice(x):\n    return x + x\n")
    with (tmp_path / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write('linux_only = ["toy.hot"]\n')
    monkeypatch.delenv("VMALLOC_PURE", raising=False)
    code = f"""
import runpy, sys, setuptools
setuptools.setup = lambda ext_modules, **rest: print([module.name for module in ext_modules])
sys.argv, sys.platform = ["setup.py", "--quiet"], {platform!r}
runpy.run_path("setup.py")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == ("[]\n" if left_out else "['toy.hot']\n")


def test_what_is_for_linux_is_in_the_list() -> None:
    assert set(LINUX_ONLY) <= set(COMPILED)


def test_a_module_that_does_not_compile_fails_the_build(tmp_path: Path, monkeypatch) -> None:
    write_project(tmp_path, source="def twice(x):\n    return x.nothing + undefined_name\n")
    result = build(tmp_path, monkeypatch)
    assert result.returncode == 1
    assert not list(tmp_path.rglob("*.so"))
