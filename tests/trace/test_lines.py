"""The line parser: prefixes, the three hot events, numbers at their limits, and a naive twin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.trace import events, stops
from vmalloc.trace.events import ALLOC, ALLOC_FAILED, COLUMNS, FREE, PURGE, EventTable
from vmalloc.trace.lines import LineParser

pytestmark = pytest.mark.both_builds

DATA = Path(__file__).parent / "data"
MAX = (1 << 64) - 1
ALLOC_TEXT = (
    "alloc_vmap_area: va_start: 18446683600570023936 size=20480 align=16384 "
    "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff failed=0"
)
FREE_TEXT = "free_vmap_area_noflush: va_start=0xffffc9000600c000 nr_lazy=4950 nr_lazy_max=16384"
PURGE_TEXT = "purge_vmap_area_lazy: start=0xffffc9000004d000 end=0xffffc900007e7000 num_purged=17"


def line(event: str, prefix: str = "          <idle>-0       [000] d..1.     1.000000: ") -> bytes:
    return f"{prefix}{event}\n".encode()


def stop(data: bytes) -> tuple[int, Any]:
    """Parses until the parser stops; gives the code and the parser."""
    parser = LineParser(EventTable())
    return parser.scan(data, 0), parser


def rows(data: bytes) -> list[dict[str, int]]:
    """Parses lines that must all be hot events."""
    table = EventTable()
    parser = LineParser(table)
    assert parser.scan(data, 0) == stops.END
    parser.finish()
    return [{name: getattr(table, name)[row] for name in COLUMNS} for row in range(len(table))]


def row(event: str, **changes: str) -> dict[str, int]:
    (only,) = rows(line(event, **changes))
    return only


# -- the declarations ------------------------------------------------------------------------------------------------


def test_pxd_mirrors_the_constants() -> None:
    pxd = Path(stops.__file__).with_name("lines.pxd").read_text(encoding="utf-8")
    mirrored = {name: int(value) for name, value in re.findall(r"^    ([A-Z_0-9]+) = (\d+)$", pxd, re.MULTILINE)}
    codes = {name: value for name, value in vars(stops).items() if name.isupper() and isinstance(value, int)}
    codes.pop("FIRST_FAULT")
    for name, value in codes.items():
        assert mirrored.pop(name) == value
    for name in ("ALLOC", "ALLOC_FAILED", "FREE", "PURGE"):
        assert mirrored.pop(name) == getattr(events, name)
    names = ["NEWLINE", "RETURN", "SPACE", "OPEN", "CLOSE", "DASH", "DOT", "SLASH", "COLON", "EQUALS", "UNDERSCORE"]
    names += ["BRACKET", "BRACKET_END", "DIGIT_0", "DIGIT_9", *(f"LETTER_{letter}" for letter in "AFPVXZ")]
    characters = dict(zip(names, "\n\r ()-./:=_[]09afpvxz", strict=True))
    assert mirrored == {name: ord(char) for name, char in characters.items()}


def test_every_fault_has_a_sentence() -> None:
    codes = {value for name, value in vars(stops).items() if name.isupper() and isinstance(value, int)}
    assert set(stops.FAULTS) == {code for code in codes if code >= stops.FIRST_FAULT}


# -- the hot events --------------------------------------------------------------------------------------------------


def test_alloc_fills_its_columns() -> None:
    assert row(ALLOC_TEXT) == {
        "kind": ALLOC, "cpu": 0, "pid": 0, "timestamp": 1_000_000_000, "va_start": 18446683600570023936,
        "va_end": 18446683600570023936 + 20480, "count": 0, "align": 16384, "window": 0, "line": 1,
    }  # fmt: skip


def test_failed_alloc_keeps_the_value_printed_and_the_size() -> None:
    text = ALLOC_TEXT.replace("18446683600570023936", str(MAX - 33)).replace("failed=0", "failed=1")
    found = row(text)
    assert (found["kind"], found["va_start"], found["va_end"]) == (ALLOC_FAILED, MAX - 33, 20480)


def test_free_and_purge_fill_their_columns() -> None:
    table = EventTable()
    parser = LineParser(table)
    assert parser.scan(line(FREE_TEXT) + line(PURGE_TEXT), 0) == stops.END
    parser.finish()
    assert table.kind.tolist() == [FREE, PURGE]
    assert table.va_start.tolist() == [0xFFFFC9000600C000, 0xFFFFC9000004D000]
    assert table.va_end.tolist() == [0, 0xFFFFC900007E7000]
    assert table.count.tolist() == [4950, 17]
    assert table.line.tolist() == [1, 2]
    assert (parser.nr_lazy_max, parser.hot_events) == (16384, 2)


def test_the_empty_hull_of_a_purge_is_legal() -> None:
    found = row("purge_vmap_area_lazy: start=0xffffffffffffffff end=0x0 num_purged=0")
    assert (found["va_start"], found["va_end"], found["count"]) == (MAX, 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        ALLOC_TEXT.replace("va_start: ", "addr="),
        ALLOC_TEXT.replace("va_start: ", "va_start="),
        ALLOC_TEXT.replace("alloc_vmap_area: ", "alloc_vmap_area:       "),
        ALLOC_TEXT.replace("18446683600570023936", hex(18446683600570023936)),
        ALLOC_TEXT.replace("0xffffc90000000000", str(0xFFFFC90000000000)).replace("20480", "0x5000"),
        "vmalloc:" + ALLOC_TEXT,
        "vmalloc/" + ALLOC_TEXT,
        ALLOC_TEXT + "\r",
        ALLOC_TEXT + "   ",
        ALLOC_TEXT + " node=-1 gfp_mask=GFP_KERNEL",
    ],
)
def test_spellings_of_one_event_give_one_row(text: str) -> None:
    assert row(text) == row(ALLOC_TEXT)


def test_windows_are_numbered_in_order_of_first_use() -> None:
    other = ALLOC_TEXT.replace("vend=0xffffe8ffffffffff", "vend=0xffffe90000000000")
    third = ALLOC_TEXT.replace("vstart=0xffffc90000000000", "vstart=0x0").replace("vend=0xffffe8ffffffffff", "vend=0x0")
    table = EventTable()
    parser = LineParser(table)
    texts = [ALLOC_TEXT, other, other, ALLOC_TEXT, third, other]
    assert parser.scan(b"".join(map(line, texts)), 0) == stops.END
    parser.finish()
    assert table.window.tolist() == [0, 1, 1, 0, 2, 1]
    assert list(parser.windows) == [
        (0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF), (0xFFFFC90000000000, 0xFFFFE90000000000), (0, 0),
    ]  # fmt: skip


# -- prefixes --------------------------------------------------------------------------------------------------------

TASKS = [
    ("<idle>", 0),
    ("<...>", 2),
    ("kworker/R-inet_", 50),
    ("kworker/u8:2-ev", 37),
    ("Web Content", 123),
    ("a-1 [000] x-2", 77),
    ("evil [003]: 1.2:", 5),
    ("-", 1),
    ("task\xff\xfe", 2147483647),
]
FLAGS = ["d..1.", "dN.4.", "...2.", "....", "dNh3", ".n...1", "d..11", ""]


@pytest.mark.parametrize(("comm", "pid"), TASKS)
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("tgid", ["", "(    123) ", "(-------) "])
def test_prefixes_in_the_columns_of_the_kernel(comm: str, pid: int, flags: str, tgid: str) -> None:
    prefix = f"{comm[:15]:>16}-{pid:<7} {tgid}[013] {flags}{' ' if flags else ''}  1466.005118: "
    found = row(FREE_TEXT, prefix=prefix)
    assert (found["cpu"], found["pid"], found["timestamp"]) == (13, pid, 1_466_005_118_000)


def test_text_that_lost_its_columns_is_still_read() -> None:
    found = row(FREE_TEXT, prefix="kworker/u8:2-37 [001] d..11 12.5: ")
    assert (found["cpu"], found["pid"], found["timestamp"]) == (1, 37, 12_500_000_000)


@pytest.mark.parametrize(
    ("clock", "timestamp"),
    [
        ("0.000000", 0),
        ("9.400496", 9_400_496_000),
        ("9.400496123", 9_400_496_123),
        ("123456789.999999999", 123_456_789_999_999_999),
        ("4711", 4711),
        (str((1 << 63) - 1), (1 << 63) - 1),
    ],
)
def test_clocks_in_microseconds_nanoseconds_and_counts(clock: str, timestamp: int) -> None:
    assert row(FREE_TEXT, prefix=f"              wl-157   [001] {clock}: ")["timestamp"] == timestamp


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "     ",
        "hello-world ",
        "              wl-157   [001] 12.: ",
        "              wl-157   [001] 12.0000000001: ",
        "              wl-157   [001] 9223372036.000000: ",
        f"              wl-157   [001] {1 << 63}: ",
        "              wl-157   [001] d..1. 12.000000 ",
        "              wl-157   [65536] 12.000000: ",
        "              wl-2147483648 [001] 12.000000: ",
        "              wl-157   [] 12.000000: ",
        "              wl-157   [001]12.000000: ",
        "              wl-157   (  12 [001] 12.000000: ",
        "              wl       [001] 12.000000: ",
    ],
)
def test_lines_without_the_prefix_are_handed_over(prefix: str) -> None:
    code, parser = stop(line(FREE_TEXT, prefix) + line(FREE_TEXT))
    assert (code, parser.rows, parser.line_start) == (stops.ODD, 0, 0)
    assert parser.line_end + 1 == parser.pos == len(line(FREE_TEXT, prefix))
    assert parser.line == 2


def test_other_events_are_handed_over_with_their_prefix() -> None:
    data = line(FREE_TEXT) + line("percpu_create_chunk: base_addr=ffffe8ffffc00000", "   init-1  [002] 3.5: ")
    code, parser = stop(data)
    assert code == stops.OTHER
    assert data[parser.name_start :].startswith(b"percpu_create_chunk:")
    assert (parser.rows, parser.cpu, parser.pid, parser.timestamp) == (1, 2, 1, 3_500_000_000)
    assert parser.scan(data, parser.pos) == stops.END


# -- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ALLOC_TEXT.replace(" size=20480", ""), stops.NO_FIELD),
        (ALLOC_TEXT.replace("size=20480", "size="), stops.NO_NUMBER),
        (ALLOC_TEXT.replace("size=20480", "size=-1"), stops.NO_NUMBER),
        (ALLOC_TEXT.replace("size=20480", "size=0"), stops.SIZE_ZERO),
        (ALLOC_TEXT.replace("size=20480", "size=20481"), stops.SIZE_UNALIGNED),
        (ALLOC_TEXT.replace("align=16384", "align=0"), stops.ALIGN_ODD),
        (ALLOC_TEXT.replace("align=16384", "align=12288"), stops.ALIGN_ODD),
        (ALLOC_TEXT.replace("failed=0", "failed=2"), stops.FAILED_ODD),
        (ALLOC_TEXT.replace("failed=0", "failed=0x"), stops.NO_NUMBER),
        (ALLOC_TEXT.replace("18446683600570023936", "18446683600570023937"), stops.START_UNALIGNED),
        (ALLOC_TEXT.replace("18446683600570023936", str(MAX + 1 - 4096)), stops.END_OVERFLOWS),
        (ALLOC_TEXT.replace("18446683600570023936", str(MAX + 1)), stops.TOO_BIG),
        (ALLOC_TEXT.replace("18446683600570023936", "184466836005700239360"), stops.TOO_BIG),
        (ALLOC_TEXT.replace("0xffffc90000000000", "0x10000000000000000"), stops.TOO_BIG),
        (ALLOC_TEXT + "y", stops.TRAILING),
        (ALLOC_TEXT + " and more", stops.TRAILING),
        (ALLOC_TEXT[:40], stops.NO_FIELD),
        (FREE_TEXT.replace("c000 ", "c001 "), stops.START_UNALIGNED),
        (FREE_TEXT.replace("nr_lazy=", "nr_lasy="), stops.NO_FIELD),
        (FREE_TEXT + ",", stops.TRAILING),
        (PURGE_TEXT.replace("end=0x", "end=0xg"), stops.NO_NUMBER),
        (PURGE_TEXT.replace("num_purged=17", ""), stops.NO_FIELD),
    ],
)
def test_damage_of_a_hot_event_is_told_apart(text: str, code: int) -> None:
    found, parser = stop(line(FREE_TEXT) + line(text) + line(FREE_TEXT))
    assert (found, parser.rows, parser.line) == (code, 1, 3)
    assert parser.line_start <= parser.fault_at <= parser.line_end


def test_time_that_goes_backwards_is_told() -> None:
    prefix = "              wl-157   [001] {}: "
    data = line(FREE_TEXT, prefix.format("2.000000")) * 2 + line(FREE_TEXT, prefix.format("1.999999"))
    code, parser = stop(data)
    assert (code, parser.rows) == (stops.BACKWARDS, 2)
    assert (parser.last_timestamp, parser.timestamp) == (2_000_000_000, 1_999_999_000)


@given(st.integers(0, 1 << 66))
def test_decimal_numbers_are_exact_or_refused(value: int) -> None:
    code, parser = stop(line(f"purge_vmap_area_lazy: start=0x1 end=0x2 num_purged={value}"))
    if value > MAX:
        assert code == stops.TOO_BIG
    else:
        assert code == stops.END
        assert parser.table.count[0] == value


@pytest.mark.parametrize("value", [MAX - 1, MAX, MAX + 1, MAX + 4, MAX + 5, 10**19 - 1, 10**19, 10**20 - 1, 10**20])
def test_decimal_numbers_around_the_largest(value: int) -> None:
    code, _ = stop(line(f"purge_vmap_area_lazy: start=0x1 end=0x2 num_purged={value}"))
    assert code == (stops.END if value <= MAX else stops.TOO_BIG)


@pytest.mark.parametrize(("data", "pos"), [(b"", 0), (b"no newline", 0), (b"x\n", 3), (b"x\n", -1)])
def test_only_whole_lines_are_taken(data: bytes, pos: int) -> None:
    with pytest.raises(ValueError, match="whole lines"):
        LineParser(EventTable()).scan(data, pos)


# -- columns ---------------------------------------------------------------------------------------------------------


def test_columns_grow_and_are_trimmed() -> None:
    count = 40_000  # several times the room of a new table
    table = EventTable()
    parser = LineParser(table)
    data = line(FREE_TEXT) * 1000
    for _ in range(count // 1000):
        assert parser.scan(data, 0) == stops.END
    parser.add(ALLOC, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    parser.finish()
    assert {len(getattr(table, name)) for name in COLUMNS} == {count + 1}
    assert table.line[count - 1] == count
    assert [getattr(table, name)[count] for name in COLUMNS] == [ALLOC, 1, 2, 3, 4, 5, 6, 7, 8, 9]


# -- the naive twin --------------------------------------------------------------------------------------------------

TWIN = re.compile(
    r".{16}-(?P<pid>\d+) +\[(?P<cpu>\d+)\](?: \S+)? +(?P<time>\d+\.\d+): +(?:"
    r"alloc_vmap_area: +va_start: (?P<va_start>\d+) size=(?P<size>\d+) align=(?P<align>\d+) "
    r"vstart=(?P<vstart>\S+) vend=(?P<vend>\S+) failed=(?P<failed>[01])|"
    r"free_vmap_area_noflush: +va_start=(?P<freed>\S+) nr_lazy=(?P<lazy>\d+) nr_lazy_max=\d+|"
    r"purge_vmap_area_lazy: +start=(?P<start>\S+) end=(?P<end>\S+) num_purged=(?P<purged>\d+))"
)


def twin_row(text: str, number: int, windows: dict[tuple[str, str], int]) -> dict[str, int] | None:
    """Reads a line of a good recording the short and slow way."""
    found = TWIN.fullmatch(text)
    if not found:
        return None
    same = dict.fromkeys(COLUMNS, 0)
    same |= {"cpu": int(found["cpu"]), "pid": int(found["pid"]), "line": number}
    same["timestamp"] = int(found["time"].replace(".", "")) * 10 ** (9 - len(found["time"].split(".")[1]))
    if found["freed"]:
        return same | {"kind": FREE, "va_start": int(found["freed"], 16), "count": int(found["lazy"])}
    if found["start"]:
        hull = {"va_start": int(found["start"], 16), "va_end": int(found["end"], 16)}
        return same | {"kind": PURGE, "count": int(found["purged"])} | hull
    failed, size, start = int(found["failed"]), int(found["size"]), int(found["va_start"])
    window = windows.setdefault((found["vstart"], found["vend"]), len(windows))
    kind, end = (ALLOC_FAILED, size) if failed else (ALLOC, start + size)
    return same | {"kind": kind, "va_start": start, "va_end": end, "align": int(found["align"]), "window": window}


@pytest.mark.parametrize("name", ["since_boot.trace", "two_cpus.trace", "report.txt"])
def test_rows_of_recordings_equal_the_naive_twin(name: str) -> None:
    data = (DATA / name).read_bytes()
    table = EventTable()
    parser = LineParser(table)
    pos = 0
    while parser.scan(data, pos) != stops.END:
        pos = parser.pos
    parser.finish()
    windows: dict[tuple[str, str], int] = {}
    twins = [twin_row(text, number, windows) for number, text in enumerate(data.decode().splitlines(), 1)]
    expected = [twin for twin in twins if twin]
    assert len(expected) > 30
    assert [{name: getattr(table, name)[row] for name in COLUMNS} for row in range(len(table))] == expected
