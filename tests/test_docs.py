"""What the pages of ``docs`` say must be so: their Python runs, links lead somewhere, tables agree with the package.

The Python blocks of a page are one program, told in pieces.  What a block prints stands below it, in a block of kind
``text``; a block that prints nothing has none.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import pytest

from vmalloc.kernels import profile
from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch, HugeUse, TableCare
from vmalloc.machine.wrappers.wrapper import OPERATIONS
from vmalloc.space.simulated import SimulatedSpace
from vmalloc.units import format_size

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page: page.read_text(encoding="utf-8") for page in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]}
MACHINE, FIDELITY = TEXTS[ROOT / "docs" / "machine.md"], TEXTS[ROOT / "docs" / "fidelity.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
#: A test as pages name it, ``folder/test_file.py::test_name``.
NAMED_TEST = re.compile(r"`([\w/]+\.py)::([\w:]+)`")

#: Methods that compiled code calls by name, and nobody else should: not in the tables of calls.
INTERNAL = {
    "address_of", "allocate", "drop", "enter", "enter_rcu", "enter_task", "free_dropped", "free_record", "gather",
    "lock_space", "look", "low_memory", "number", "pages_of", "product", "record_of", "release", "without_lock",
}  # fmt: skip

LAST_SUBSECTIONS = ((2, 10), (3, 5), (4, 12), (5, 6), (6, 4), (7, 2), (8, 6), (9, 8))
SUBSECTIONS = [f"{section}.{number}" for section, last in LAST_SUBSECTIONS for number in range(1, last + 1)]


def program(page: Path) -> list[tuple[str, str]]:
    """The Python blocks of a page, each with what it is said to print."""
    blocks = FENCE.findall(TEXTS[page])
    found = []
    for place, (language, text) in enumerate(blocks):
        if language == "python":
            after = blocks[place + 1] if place + 1 < len(blocks) else ("", "")
            found.append((text, after[1] if after[0] == "text" else ""))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if program(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_and_prints_what_it_shows(page: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for code, shown in program(page):
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        assert [line.rstrip() for line in printed.getvalue().rstrip().split("\n")] == shown.rstrip().split("\n")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(TEXTS[page]))
    return set(words)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", TEXTS[page])):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target in TEXTS:
            assert anchor in anchors(target), link


# -- docs/machine.md ---------------------------------------------------------------------------------------------------


def table_under(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its two head lines."""
    part = re.split(r"^#+ ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in part.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def architecture_row(arch: Arch) -> list[str]:
    """What ``docs/machine.md`` says of an architecture."""
    kernel = profile("6.19")

    def sizes(use: HugeUse) -> str:
        return ", ".join(format_size(1 << shift) for shift in reversed(arch.leaf_shifts(kernel, use))) or "-"

    end = arch.vmalloc_end - 1 if arch.vmalloc_end % arch.page_size == 0 else arch.vmalloc_end
    sync = arch.table_sync(kernel)
    care = sync.care.name.lower().replace("_", " ") + (", vmalloc faults" if sync.vmalloc_faults else "")
    many = arch.max_ranged_flush_pages
    how = "broadcast" if arch.flush_by_broadcast else "interrupts"
    return [
        f"`{arch.name}`", format_size(arch.page_size), " ".join(level.name for level in arch.levels),
        f"`{arch.vmalloc_start:#x}` to `{end:#x}`", sizes(HugeUse.VMAP), sizes(HugeUse.VMALLOC), care,
        f"{'any number' if many is None else many}, {how}",
    ]  # fmt: skip


def test_the_table_of_architectures_is_that_of_the_package() -> None:
    assert table_under(MACHINE, "Architectures") == [architecture_row(arch) for arch in ARCHITECTURES.values()]


def test_each_way_to_keep_page_tables_current_is_explained() -> None:
    for care in {arch.table_sync(profile("6.19")).care for arch in ARCHITECTURES.values()}:
        assert f"*{care.name.lower().replace('_', ' ')}*" in MACHINE
    assert {care.name for care in TableCare} >= {"ONE_TABLE", "HOOK"}


def test_every_call_is_in_the_tables_and_every_call_in_them_exists() -> None:
    part = MACHINE.partition("## All calls")[2].partition("### Handles")[0]
    first_cells = [line.split(" | ")[0] for line in part.split("\n") if line.startswith("| `")]
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)\(", cell)}
    public = [name for name in dir(SimulatedSpace) if not name.startswith("_")]
    calls = {name for name in public if callable(getattr(SimulatedSpace, name))}
    assert named == calls - INTERNAL


def test_the_number_of_operations_is_right() -> None:
    assert f"{len(OPERATIONS)} operations" in MACHINE


# -- docs/fidelity.md --------------------------------------------------------------------------------------------------


def map_of_the_specification() -> dict[str, str]:
    """Subsections of the specification, and the cell with the tests that show them."""
    return {cells[0]: cells[2] for cells in table_under(FIDELITY, "The machine and the calls")}


@cache
def named_in(path: Path) -> set[str]:
    """The tests of a file as pages name them: ``test_name``, ``Class`` and ``Class::test_name``."""

    def inside(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield prefix + node.name
            elif isinstance(node, ast.ClassDef):
                yield prefix + node.name
                yield from inside(node.body, f"{prefix}{node.name}::")

    return set(inside(ast.parse(path.read_text(encoding="utf-8")).body, ""))


def test_every_subsection_is_shown_by_a_test() -> None:
    table = map_of_the_specification()
    assert list(table) == SUBSECTIONS
    for section, cell in table.items():
        assert NAMED_TEST.search(cell), section


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    for file, name in NAMED_TEST.findall(TEXTS[page]):
        path = ROOT / "tests" / file
        assert path.exists(), file
        assert name in named_in(path), f"{file}::{name}"


def test_concepts_name_files_that_exist() -> None:
    text = TEXTS[ROOT / "docs" / "concepts.md"]
    for name in set(re.findall(r"`([\w/]+\.py)`", text)):
        assert any((ROOT / folder / name).exists() for folder in ("src/vmalloc", "tests")), name
