"""One line of /proc/vmallocinfo: every line that a kernel wrote, and every line that one could write."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.trace.source import Source
from vmalloc.views.vmallocinfo_line import WORDS, SnapshotArea, format_line, parse_line, symbol_of

RECORDED = sorted((Path(__file__).parents[1] / "recorded").glob("*.vmallocinfo.zst"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name.removesuffix(".vmallocinfo.zst"))
def test_recorded_lines_are_written_back_byte_for_byte(path: Path) -> None:
    with Source(path) as source:
        lines = b"".join(source).decode().splitlines()
    assert len(lines) > 20
    areas = [parse_line(line) for line in lines]
    assert None not in areas
    assert [format_line(area) for area in areas if area] == lines


CALLERS = st.one_of(
    st.just(""),
    st.just("0xffffffffc020d0a1"),
    st.from_regex(r"[a-z_][a-z0-9_.]{0,20}\+0x[0-9a-f]{1,3}/0x[0-9a-f]{1,4}", fullmatch=True),
    st.text().map(lambda text: symbol_of(text)[0]),
)
MODULES = st.sampled_from(["", "test_vmalloc", "nf-tables"])


@st.composite
def one_area(draw: st.DrawFn) -> SnapshotArea:
    start = draw(st.integers(1, 1 << 51)) << 12
    size = draw(st.integers(1, 1 << 30)) << 12
    kind = draw(st.sampled_from(["area", "area", "vm_map_ram", "unpurged"]))
    if kind != "area":
        return SnapshotArea(start, start + size, size, kind=kind)
    caller = draw(CALLERS)
    return SnapshotArea(
        start,
        start + size,
        size,
        caller,
        draw(MODULES) if caller else "",
        draw(st.integers(0, 1 << 40)),
        draw(st.none() | st.integers(1, (1 << 64) - 1)),
        tuple(word for word in WORDS if draw(st.booleans())),
        draw(st.dictionaries(st.integers(0, 1023), st.integers(1, 1 << 30), max_size=4)),
    )


@given(one_area(), st.sampled_from([8, 16]), st.sampled_from([8, 16]))
def test_written_areas_are_read_back(area: SnapshotArea, pointer_digits: int, phys_digits: int) -> None:
    line = format_line(area, pointer_digits=pointer_digits, phys_digits=phys_digits)
    assert parse_line(line) == area
    assert "\n" not in line


@pytest.mark.parametrize(
    ("area", "line"),
    [
        (
            SnapshotArea(0x1000, 0x3000, 0x2000, "f+0x1/0x2", "m", 1, 0x7000, ("ioremap", "vpages"), {0: 1, 3: 2}),
            "0x0000000000001000-0x0000000000003000    8192 f+0x1/0x2 [m] pages=1 phys=0x0000000000007000"
            " ioremap vpages N0=1 N3=2",
        ),
        (SnapshotArea(0x1000, 0x2000, 0x1000), "0x0000000000001000-0x0000000000002000    4096"),
        (
            SnapshotArea(0x1000, 0x989681000, 40_000_000_000),
            "0x0000000000001000-0x0000000989681000 40000000000",
        ),
    ],
)
def test_items_stand_in_the_order_of_section_10_1(area: SnapshotArea, line: str) -> None:
    assert format_line(area) == line


def test_addresses_have_as_many_digits_as_the_machine() -> None:
    area = SnapshotArea(0xF8000000, 0xF8002000, 0x2000, phys=0xFE000000, words=("ioremap",))
    assert format_line(area, pointer_digits=8, phys_digits=8) == (
        "0xf8000000-0xf8002000    8192 phys=0xfe000000 ioremap"
    )
    assert "phys=0x00000000fe000000" in format_line(area, pointer_digits=8)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "total 12",
        "0xz000-0x2000 4096",
        "0x1000-0x2000 4096 no_symbol",
        "0x1000-0x2000 4096 vmalloc ioremap,",
        "0x1000-0x2000 4096 pages=",
        "0x1000-0x2000 4096 vm_map_ram vmalloc",
    ],
)
def test_other_lines_are_none(line: str) -> None:
    assert parse_line(line) is None


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("", ("", "")),
        ("kernel_clone+0xc2/0x430", ("kernel_clone+0xc2/0x430", "")),
        ("f+0x9f/0x180 [test_vmalloc]", ("f+0x9f/0x180", "test_vmalloc")),
        ("0xffffffffc020d0a1", ("0xffffffffc020d0a1", "")),
        ("<module>+0x8/0x10 [prog]", ("<module>+0x8/0x10", "prog")),
        ("my driver", ("my_driver+0x0/0x0", "")),
        ("a+0x1/0x2 [m] more", ("a_0x1_0x2__m__more+0x0/0x0", "")),
        ("vm_map_ram", ("vm_map_ram+0x0/0x0", "")),
    ],
)
def test_callers_are_symbols(text: str, symbol: tuple[str, str]) -> None:
    assert symbol_of(text) == symbol


@given(st.text())
def test_any_text_is_a_caller_that_can_be_read(text: str) -> None:
    caller, module = symbol_of(text)
    line = format_line(SnapshotArea(0x1000, 0x2000, 0x1000, caller, module, words=("vmalloc",)))
    assert parse_line(line) == SnapshotArea(0x1000, 0x2000, 0x1000, caller, module, words=("vmalloc",))
    assert bool(caller) == bool(text)
    assert symbol_of(f"{caller} [{module}]" if module else caller) == (caller, module)
