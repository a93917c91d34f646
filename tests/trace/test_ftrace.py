"""Whole recordings: every kind of event, everything around them, and every way to be wrong."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmalloc.errors import TraceError
from vmalloc.trace import ftrace
from vmalloc.trace.events import (
    ALLOC,
    ALLOC_FAILED,
    COLUMNS,
    FLUSH,
    FREE,
    LOST,
    MARK,
    PCPU_CREATE,
    PCPU_DESTROY,
    PURGE,
    PURGE_BEGIN,
    PURGE_WORK_END,
    QUEUE_DRAIN,
    Trace,
)
from vmalloc.trace.ftrace import read_trace

pytestmark = pytest.mark.both_builds

DATA = Path(__file__).parent / "data"
RECORDINGS = ["since_boot.trace", "two_cpus.trace", "kprobes_6.1.trace", "report.txt"]
MAX = (1 << 64) - 1
WINDOW = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff"
FREE_EVENT = "free_vmap_area_noflush: va_start=0xffffc9000600c000 nr_lazy=5 nr_lazy_max=16384"


def event(text: str, time: str = "1.000000", cpu: int = 0, pid: int = 7) -> str:
    return f"{'task':>16}-{pid:<7} [{cpu:03d}] ..... {time:>12}: {text}\n"


def read(*chunks: bytes | str, name: str = "x.trace", ends: bool = True) -> Trace:
    """Reads chunks of one file without a file; ``ends`` adds a good event, so that there is one."""
    reader = ftrace._Reader(name)
    for chunk in [*chunks, event(FREE_EVENT, "9999.0")] if ends else chunks:
        reader.feed(name, chunk.encode() if isinstance(chunk, str) else chunk)
    return reader.finish()


def error(*chunks: bytes | str, ends: bool = True) -> TraceError:
    with pytest.raises(TraceError) as caught:
        read(*chunks, ends=ends)
    return caught.value


def trace_or_error(data: bytes) -> Trace | TraceError:
    """Reads data that may be damaged; any exception but ``TraceError`` passes and fails the test."""
    try:
        return read(data, ends=False)
    except TraceError as failure:
        return failure


def kinds(trace: Trace) -> list[int]:
    return trace.events.kind.tolist()


def column(trace: Trace, name: str, kind: int) -> list[int]:
    values = getattr(trace.events, name)
    return [values[row] for row in range(len(trace)) if trace.events.kind[row] == kind]


def content(trace: Trace) -> tuple[object, ...]:
    """Everything in a trace but its name, to compare two."""
    columns = [getattr(trace.events, name).tolist() for name in COLUMNS]
    rest = {key: value for key, value in vars(trace).items() if key not in ("name", "events")}
    return columns, rest


# -- recordings ------------------------------------------------------------------------------------------------------

NAMES = {
    "alloc_vmap_area": (ALLOC, ALLOC_FAILED),
    "free_vmap_area_noflush": (FREE,),
    "purge_vmap_area_lazy": (PURGE,),
    "percpu_create_chunk": (PCPU_CREATE,),
    "percpu_destroy_chunk": (PCPU_DESTROY,),
    "tracing_mark_write": (MARK,),
    "csd_queue_cpu": (FLUSH,),
    "workqueue_queue_work": (QUEUE_DRAIN,),
    "workqueue_execute_start": (PURGE_BEGIN,),
    "workqueue_execute_end": (PURGE_WORK_END,),
}


@pytest.mark.parametrize("name", ["since_boot.trace", "two_cpus.trace", "report.txt"])
def test_every_event_of_a_recording_is_a_row_or_counted_as_skipped(name: str) -> None:
    trace = read_trace(DATA / name)
    lines = Counter(re.findall(r"^.+\[\d{3}\].* \d+\.\d+: (\w+): ", (DATA / name).read_text(), re.MULTILINE))
    counts = Counter(kinds(trace))
    for event_name, number in lines.items():
        rows = sum(counts[kind] for kind in NAMES[event_name])
        assert rows + trace.skipped.get(event_name, 0) == number
    assert sum(counts.values()) + sum(trace.skipped.values()) == sum(lines.values())
    assert trace.source == "tracepoints"


def test_since_boot_reads_as_recorded() -> None:
    trace = read_trace(DATA / "since_boot.trace")
    assert (trace.cpus, trace.nr_lazy_max, trace.overwritten, trace.lost_events) == (1, 8192, 0, 0)
    assert trace.windows == [(0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF), (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000)]
    assert trace.marks == ["KT snapshot-6-end begin", "KT snapshot-6-end end"]
    assert trace.skipped == {"workqueue_execute_start": 2}
    assert column(trace, "va_start", ALLOC_FAILED) == [0xFFFFE8FFFFFFFFFF] * 2
    assert column(trace, "align", ALLOC_FAILED) == [1 << 45] * 2
    assert column(trace, "va_start", PCPU_CREATE)[:2] == [0xFFFFE8FFFFC00000, 0xFFFFE8FFFFA00000]
    assert column(trace, "count", PCPU_CREATE) == [0] * 17


def test_a_purge_on_two_cpus_reads_as_begin_flush_purge_end() -> None:
    trace = read_trace(DATA / "two_cpus.trace")
    around = [kind for kind in kinds(trace) if kind in (QUEUE_DRAIN, PURGE_BEGIN, FLUSH, PURGE, PURGE_WORK_END)]
    assert around == [QUEUE_DRAIN, PURGE_BEGIN, FLUSH, PURGE, PURGE_WORK_END] * 2
    assert column(trace, "cpu", FLUSH) == [1, 1]  # the CPU that asked for the flush


def test_probes_of_6_1_are_paired() -> None:
    trace = read_trace(DATA / "kprobes_6.1.trace")
    text = (DATA / "kprobes_6.1.trace").read_text()
    starts = [int(start, 16) for start in re.findall(r"alloc_ret: .*va_start=(\S+)", text)]
    ends = [int(end, 16) for end in re.findall(r"alloc_ret: .*va_end=(\S+)", text)]
    aligns = [int(align) for align in re.findall(r" alloc: .*align=(\d+)", text)]
    lines = [number for number, line in enumerate(text.splitlines(), 1) if " alloc_ret: " in line]
    for name, expected in {"va_start": starts, "va_end": ends, "align": aligns, "line": lines}.items():
        assert column(trace, name, ALLOC) == expected
    assert (trace.source, trace.unpaired, trace.skipped, trace.cpus) == ("kprobes", 0, {}, 1)
    assert trace.pcpu_groups == [([0], [2097152], 2097152)]
    assert column(trace, "va_start", PCPU_CREATE) == [0xFFFFE8FFFFC00000]
    assert column(trace, "count", PCPU_CREATE) == [1]
    purges = list(zip(*(column(trace, name, PURGE) for name in ("va_start", "va_end", "count")), strict=True))
    assert purges[0] == (0xFFFFC9000004D000, 0xFFFFC900007E7000, 1)
    assert purges[1] == (MAX, 0, 0)


def test_a_pipe_a_list_and_a_file_read_the_same(tmp_path: Path) -> None:
    data = (DATA / "two_cpus.trace").read_bytes()
    parts = [tmp_path / "a", tmp_path / "b.gz", tmp_path / "c"]
    parts[0].write_bytes(data[:5000])
    parts[1].write_bytes(gzip.compress(data[5000:9999]))
    parts[2].write_bytes(data[9999:])
    trace = read_trace(parts)
    whole = read_trace(DATA / "two_cpus.trace")
    assert trace.name == " + ".join(map(str, parts))
    for name in COLUMNS:
        if name != "line":
            assert getattr(trace.events, name) == getattr(whole.events, name)


def test_progress_is_told_to_the_end() -> None:
    calls: list[tuple[int, int | None]] = []
    read_trace([DATA / "report.txt"], progress=lambda done, total: calls.append((done, total)))
    size = (DATA / "report.txt").stat().st_size
    assert calls[-1] == (size, size)


@pytest.mark.parametrize("name", RECORDINGS)
@given(cuts=st.lists(st.integers(0, 30_000), max_size=12))
def test_chunks_cut_anywhere_give_the_same_trace(name: str, cuts: list[int]) -> None:
    data = (DATA / name).read_bytes()[:14_000]
    data = data[: data.rfind(b"\n") + 1]
    points = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(points)]
    assert content(read(*pieces, ends=False)) == content(read(data, ends=False))


@pytest.mark.parametrize("name", RECORDINGS)
@given(changes=st.lists(st.tuples(st.integers(0, 8_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_bytes_give_a_trace_or_a_trace_error(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray((DATA / name).read_bytes()[:8_000])
    for offset, byte in changes:
        data[min(offset, len(data) - 1)] = byte
    found = trace_or_error(bytes(data))
    if isinstance(found, TraceError):
        assert found.file == "x.trace"
        assert found.line <= data.count(b"\n") + 1
    else:
        assert len(found) > 0


@pytest.mark.parametrize("name", RECORDINGS)
@given(size=st.integers(0, 8_000))
def test_a_recording_cut_anywhere_gives_a_trace_or_a_trace_error(name: str, size: int) -> None:
    data = (DATA / name).read_bytes()[:size]
    found = trace_or_error(data)
    if isinstance(found, TraceError):
        assert found.line in (0, data.count(b"\n") + 1)
        assert re.search("truncated|empty|has no vmalloc event", found.reason)


# -- written and read again ------------------------------------------------------------------------------------------

PAGES = st.integers(1, 1 << 20).map(lambda pages: pages * 4096)
ADDRESSES = st.integers(0, (1 << 50) - 1).map(lambda page: page << 12)
WINDOWS = st.sampled_from([(0xFFFFC90000000000, 0xFFFFE8FFFFFFFFFF), (0xFFFFFFFFC0000000, 0xFFFFFFFFFF000000)])
U64 = st.integers(0, MAX)
ALIGNS = st.integers(0, 63).map(lambda shift: 1 << shift)

# Each strategy gives the text of an event and the columns it must fill.
EVENTS = st.one_of(
    st.builds(
        lambda start, size, align, window: (
            f"alloc_vmap_area: va_start: {start} size={size} align={align} vstart={window[0]:#x} vend={window[1]:#x} "
            "failed=0",
            {"kind": ALLOC, "va_start": start, "va_end": start + size, "align": align, "window": window},
        ),
        ADDRESSES, PAGES, ALIGNS, WINDOWS,
    ),
    st.builds(
        lambda value, size, align, window: (
            f"alloc_vmap_area: va_start: {value} size={size} align={align} vstart={window[0]:#x} vend={window[1]:#x} "
            "failed=1",
            {"kind": ALLOC_FAILED, "va_start": value, "va_end": size, "align": align, "window": window},
        ),
        U64, PAGES, ALIGNS, WINDOWS,
    ),
    st.builds(
        lambda start, lazy: (
            f"free_vmap_area_noflush: va_start={start:#x} nr_lazy={lazy} nr_lazy_max=16384",
            {"kind": FREE, "va_start": start, "count": lazy},
        ),
        ADDRESSES, U64,
    ),
    st.builds(
        lambda start, end, purged: (
            f"purge_vmap_area_lazy: start={start:#x} end={end:#x} num_purged={purged}",
            {"kind": PURGE, "va_start": start, "va_end": end, "count": purged},
        ),
        U64, U64, st.integers(0, (1 << 32) - 1),
    ),
    st.builds(
        lambda base: (f"percpu_create_chunk: base_addr={base:016x}", {"kind": PCPU_CREATE, "va_start": base}),
        st.integers(1 << 20, (1 << 52) - 1).map(lambda page: page << 12),
    ),
    st.just(("sched_wakeup: comm=init pid=1", {"kind": 0})),
)  # fmt: skip
COMMS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=15)
LINES = st.tuples(
    EVENTS, COMMS, st.integers(0, (1 << 31) - 1), st.integers(0, 65535), st.integers(0, 10**9),
    st.sampled_from(["..... ", "d..1. ", "dNh4 ", ""]),
)  # fmt: skip


@given(st.lists(LINES, min_size=1, max_size=30), st.sampled_from([6, 9]))
def test_events_written_in_the_formats_of_the_kernel_are_read_back(lines: list[tuple], digits: int) -> None:  # type: ignore[type-arg]
    text, expected, time = "", [], 0
    for number, ((fields, row), comm, pid, cpu, step, flags) in enumerate(lines, 1):
        time += step - step % 10 ** (9 - digits)
        clock = f"{time // 10**9:5d}.{time % 10**9 // 10 ** (9 - digits):0{digits}d}"
        text += f"{comm:>16}-{pid:<7} [{cpu:03d}] {flags}{clock}: {fields}\n"
        if row["kind"]:
            expected.append(
                dict.fromkeys(COLUMNS, 0) | row | {"cpu": cpu, "pid": pid, "timestamp": time, "line": number}
            )
    trace = read(text, event(FREE_EVENT, "99999.0"), ends=False)
    found = [{name: getattr(trace.events, name)[row] for name in COLUMNS} for row in range(len(trace) - 1)]
    for row in found:
        row["window"] = trace.windows[row["window"]] if row["kind"] in (ALLOC, ALLOC_FAILED) else 0  # type: ignore[assignment]
    assert found == expected


# -- around the events -----------------------------------------------------------------------------------------------


def test_the_header_tells_cpus_and_overwritten_events() -> None:
    trace = read("# tracer: nop\n#\n# entries-in-buffer/entries-written: 40/1040   #P:16\n#\n")
    assert (trace.cpus, trace.overwritten) == (16, 1000)


def test_headers_of_trace_cmd_are_known() -> None:
    assert read("version = 7\nCPU 3 is empty\ncpus=8\n\n").cpus == 8


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("CPU:2 [LOST 123 EVENTS]\n", 123),
        ("CPU:2 [LOST EVENTS]\n", 0),
        ("CPU:2 [123 EVENTS DROPPED]\n", 123),
        ("CPU:2 [EVENTS DROPPED]\n", 0),
    ],
)
def test_losses_are_rows_where_they_happened(text: str, count: int) -> None:
    trace = read(event(FREE_EVENT, "3.5"), text)
    assert kinds(trace) == [FREE, LOST, FREE]
    assert trace.lost_events == max(count, 1)
    row = {name: getattr(trace.events, name)[1] for name in COLUMNS}
    expected = {"kind": LOST, "cpu": 2, "timestamp": 3_500_000_000, "count": count, "line": 2}
    assert row == dict.fromkeys(COLUMNS, 0) | expected


def test_lines_that_are_not_ours_are_counted_by_name() -> None:
    trace = read(
        "##### CPU 2 buffer started ####\n",
        event("sched_switch: prev_comm=a"),
        event("sched_switch: prev_comm=b"),
        event("f2fs:f2fs_iget: dev = (8,1)"),
        event("<stack trace>"),
        " => alloc_vmap_area\n => __get_vm_area_node\n",
        event("vfs_read <-ksys_read"),
        event("csd_queue_cpu: cpu=2 callsite=x+0x24/0x40 func=do_sync_core csd=ffff88817bd3d1a0"),
        event("workqueue_execute_start: work struct 00000000d5c3901a: function flush_cpu_slab"),
        event("workqueue_execute_end: work struct 00000000d5c3901a: function flush_cpu_slab"),
        event("workqueue_queue_work: work struct=0000000012345678 function=vmstat_update workqueue=mm cpu=1"),
    )
    assert trace.skipped == {
        "CPU buffer started": 1, "sched_switch": 2, "f2fs_iget": 1, "stack trace": 3, "function": 1, "csd_queue_cpu": 1,
        "workqueue_execute_start": 1, "workqueue_execute_end": 1, "workqueue_queue_work": 1,
    }  # fmt: skip


def test_names_of_skipped_events_are_not_kept_without_limit() -> None:
    trace = read(*(event(f"text{number}: x") for number in range(2000)))
    assert len(trace.skipped) <= 1001
    assert sum(trace.skipped.values()) == 2000


def test_marks_of_ftrace_and_of_trace_cmd() -> None:
    trace = read(
        event("tracing_mark_write: KT phase begin: 1"),
        event("print:                tracing_mark_write: from trace-cmd"),
        event("print: 0xffffffff8116a3c9: unresolved"),
        event("tracing_mark_write: two"),
        "lines\n",
    )
    assert trace.marks == ["KT phase begin: 1", "from trace-cmd", "unresolved", "two"]
    assert column(trace, "count", MARK) == [0, 1, 2, 3]
    assert trace.skipped == {"further lines of a mark": 1}


def test_per_cpu_chunks_with_hashed_addresses_have_no_address_and_are_counted() -> None:
    trace = read(
        event("percpu_create_chunk: base_addr=00000000233690c5"),
        event("percpu_create_chunk: base_addr=(____ptrval____)"),
        event("percpu_destroy_chunk: base_addr=0000000023369000"),
        event("percpu_create_chunk: base_addr=0xffffe8ffffc00000"),
        event("percpu_destroy_chunk: base_addr=ffffe8ffffc00000"),
    )
    assert trace.skipped == {"percpu_create_chunk (hashed address)": 2, "percpu_destroy_chunk (hashed address)": 1}
    assert kinds(trace) == [PCPU_CREATE, PCPU_CREATE, PCPU_DESTROY, PCPU_CREATE, PCPU_DESTROY, FREE]
    assert list(trace.events.va_start)[:3] == [0, 0, 0]  # the chunk was made all the same, at an address not known


def test_the_end_of_a_drain_is_known_by_its_work_struct_in_old_kernels() -> None:
    trace = read(
        event("workqueue_execute_start: work struct ffffffff82d68340: function drain_vmap_area_work", pid=5),
        event("workqueue_execute_end: work struct ffffffff82d68340", pid=6),
        event("workqueue_execute_end: work struct ffffffff82d68340", pid=5),
        event("workqueue_execute_end: work struct ffffffff82d68340", pid=5),
    )
    assert kinds(trace) == [PURGE_BEGIN, PURGE_WORK_END, FREE]
    assert trace.skipped == {"workqueue_execute_end": 2}


def test_the_other_flush_function_counts_too() -> None:
    trace = read(event("csd_queue_cpu: cpu=0 callsite=x+0x20/0x60 func=do_kernel_range_flush csd=ffff888627c2f720"))
    assert kinds(trace) == [FLUSH, FREE]


# -- the probes of 6.1 -----------------------------------------------------------------------------------------------

ENTRY = f"alloc: (alloc_vmap_area+0x0/0x880) size=8192 align=4096 {WINDOW} node=-1"
RETURN = (
    "alloc_ret: (__get_vm_area_node+0xb1/0x150 <- alloc_vmap_area) va=0xffff8881008171c0 "
    "va_start=0xffffc90000128000 va_end=0xffffc9000012a000"
)
PROBE_FREE = "free: (free_vmap_area_noflush+0x0/0x340) va_start=0xffffc90000128000 va_end=0xffffc9000012a000"


def probes(*lines: str) -> Trace:
    return read(*lines, event(PROBE_FREE, "9999.0"), ends=False)


@pytest.mark.parametrize("spell", [str, lambda text: f"kt:{text}", lambda text: f"kt/{text}"])
def test_groups_before_probe_names_are_accepted(spell: Callable[[str], str]) -> None:
    trace = probes(event(spell(ENTRY)), event(spell(RETURN)))
    assert kinds(trace) == [ALLOC, FREE]
    assert column(trace, "va_end", FREE) == [0xFFFFC9000012A000]


def test_probes_printed_by_trace_cmd_have_bare_addresses() -> None:
    trace = probes(
        event(f"alloc:                (ffffffff812a0000) size=8192 align=0x1000 {WINDOW} node=-1"),
        event(
            RETURN.replace("__get_vm_area_node+0xb1/0x150 <- alloc_vmap_area", "ffffffff81280c51 <- ffffffff812a0000")
        ),
    )
    assert kinds(trace) == [ALLOC, FREE]


def test_returns_belong_to_the_task_and_the_idle_task_to_its_cpu() -> None:
    other = RETURN.replace("128000", "228000").replace("12a000", "22a000")
    trace = probes(
        event(ENTRY, pid=5),
        event(ENTRY.replace("align=4096", "align=1"), pid=6),
        event(RETURN, pid=5),
        event(other, pid=6),
        event(ENTRY, pid=0, cpu=1),
        event(ENTRY.replace("align=4096", "align=1"), pid=0, cpu=2),
        event(other, pid=0, cpu=2),
        event(RETURN, pid=0, cpu=1),
    )
    assert column(trace, "align", ALLOC) == [4096, 1, 1, 4096]
    assert column(trace, "pid", ALLOC) == [5, 6, 0, 0]
    assert trace.unpaired == 0


@pytest.mark.parametrize(
    "answer",
    [
        "va=0xfffffffffffffff0 va_start=(fault) va_end=(fault)",
        "va=0xffffffffffffffde va_start=0x0 va_end=0x0",
        "va=0x0 va_start=(fault) va_end=(fault)",
    ],
)
def test_a_return_that_is_an_error_is_a_failed_allocation(answer: str) -> None:
    trace = probes(event(ENTRY), event(f"alloc_ret: (a+0x0/0x1 <- alloc_vmap_area) {answer}"))
    assert kinds(trace) == [ALLOC_FAILED, FREE]
    assert column(trace, "va_start", ALLOC_FAILED) == [int(answer.split()[0][3:], 16)]
    assert column(trace, "va_end", ALLOC_FAILED) == [8192]


def test_entries_without_return_and_returns_without_entry_are_counted() -> None:
    trace = probes(event(RETURN), event(ENTRY), event(ENTRY), event(RETURN), event(ENTRY, pid=8))
    assert kinds(trace) == [ALLOC, FREE]
    assert trace.unpaired == 2
    assert trace.skipped == {"alloc_ret without alloc": 1}


def test_a_return_of_another_call_is_damage_unless_events_were_lost() -> None:
    other = event(RETURN.replace("12a000", "12b000"))
    assert "0xffffc90000128000-0xffffc9000012b000" in error(event(ENTRY), other, ends=False).reason
    trace = probes(event(ENTRY), "CPU:0 [LOST 3 EVENTS]\n", other)
    assert (kinds(trace), trace.unpaired) == ([LOST, FREE], 1)


def test_flushes_outside_of_a_purge_are_skipped() -> None:
    flush = "flush: (flush_tlb_kernel_range+0x0/0xc0) start=0xffffc90000128000 end=0xffffc9000012a000"
    begin = "purge: (__purge_vmap_area_lazy+0x0/0x750) start=0xffffffffffffffff end=0x0"
    end = "purge_ret: (_vm_unmap_aliases.part.0+0xf4/0x130 <- __purge_vmap_area_lazy) ret=1"
    trace = probes(event(flush), event(begin), event(flush), event(end), event(end), event(begin))
    assert kinds(trace) == [PURGE_BEGIN, FLUSH, PURGE, PURGE_BEGIN, FREE]
    assert column(trace, "va_start", PURGE_BEGIN) == [MAX, MAX]
    assert column(trace, "va_end", PURGE) == [0xFFFFC9000012A000]
    assert trace.skipped == {"flush outside of a purge": 1, "purge_ret without purge": 1}
    assert trace.unpaired == 1


def test_per_cpu_chunks_of_6_1_begin_below_their_first_area() -> None:
    entry = "pcpu_get: (pcpu_get_vm_areas+0x0/0x1080) nr_vms={} align=2097152 off0=4194304 sz0=2097152"
    answer = "pcpu_get_ret: (pcpu_create_chunk+0xdd/0x1b0 <- pcpu_get_vm_areas) addr0={}"
    trace = probes(
        event(entry.format(1)), event(answer.format("0xffffe8ffffc00000")),
        event(entry.format(2)), event(answer.format("0xffffe8fffec00000")),
        event(entry.format(1)), event(answer.format("(fault)")),
        event(answer.format("0xffffe8ffffc00000")),
    )  # fmt: skip
    assert column(trace, "va_start", PCPU_CREATE) == [0xFFFFE8FFFF800000, 0xFFFFE8FFFE800000]
    assert column(trace, "count", PCPU_CREATE) == [1, 2]
    assert trace.pcpu_groups == [([4194304], [2097152], 2097152)] * 2
    assert trace.skipped == {
        "further groups of pcpu_get (not recorded)": 1, "pcpu_get_ret of a failure": 1,
        "pcpu_get_ret without pcpu_get": 1,
    }  # fmt: skip


def test_probes_of_others_with_the_same_names_are_skipped() -> None:
    trace = probes(event("alloc: (kmem_cache_alloc+0x0/0x880) size=3"), event("free: ptr=0x3"), event("flush: all"))
    assert trace.skipped == {"alloc": 1, "free": 1, "flush": 1}


@pytest.mark.parametrize(
    "text",
    [
        ENTRY.replace("size=8192", "size=0"),
        ENTRY.replace("size=8192", "size=100"),
        ENTRY.replace("size=8192 ", ""),
        ENTRY.replace("align=4096", "align=3"),
        ENTRY.replace("align=4096", "align=x"),
        ENTRY.replace("0xffffe8ffffffffff", "0x1ffffe8ffffffffff"),
        ENTRY.replace("size=8192", "size=(fault)"),
        PROBE_FREE.replace("128000", "128001"),
        PROBE_FREE.replace("12a000", "128000"),
        "purge_ret: (a+0x0/0x1 <- __purge_vmap_area_lazy) ret=",
    ],
)
def test_damaged_probes_are_errors(text: str) -> None:
    failure = error(event(PROBE_FREE), event(text), ends=False)
    assert (failure.file, failure.line) == ("x.trace", 2)


# -- every way to be wrong -------------------------------------------------------------------------------------------

ALLOC_EVENT = f"alloc_vmap_area: va_start: 18446683600570023936 size=20480 align=1 {WINDOW} failed=0"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (event(ALLOC_EVENT.replace("size=20480", "size=0")), "size is 0"),
        (event(ALLOC_EVENT.replace("size=20480", "size=100")), "not a multiple of 4096"),
        (event(ALLOC_EVENT.replace("align=1", "align=6")), "power of two"),
        (event(ALLOC_EVENT.replace("failed=0", "failed=7")), "neither 0 nor 1"),
        (event(ALLOC_EVENT.replace("570023936", "570023936570023936")), "64 bits"),
        (event(ALLOC_EVENT.replace(" align=1", "")), "missing or garbled"),
        (event("free_vmap_area_noflush: va_start=0x00000000d5c3901a nr_lazy=5 nr_lazy_max=16384"), "nohash-ptr"),
        (event("csd_queue_cpu: cpu=2 callsite=x"), "func"),
        (event("percpu_create_chunk: base_addr="), "base_addr"),
        (event("workqueue_execute_start: function drain_vmap_area_work"), "work struct"),
        ("int main(void) { return 0; }\n", "no line of ftrace"),
        ("# nop latency trace v1.1.5 on 6.12.95\n", "nolatency-format"),
        ("0xffffc90000000000-0xffffc90000005000   20480 irq_init+0xf4/0x130 vmap\n", "snapshot"),
        (event(FREE_EVENT) + "x" * 100_000, "no line ends within"),
        ("a\nb\0c\n", "binary"),
    ],
)
def test_wrong_lines_are_named_with_their_place(text: str, reason: str) -> None:
    failure = error("# tracer: nop\n", event(FREE_EVENT, "0.5"), text, ends=False)
    assert reason in failure.reason
    assert failure.file == "x.trace"
    assert failure.line >= 3
    assert len(str(failure)) < 400


def test_time_that_goes_backwards_is_out_of_order() -> None:
    failure = error(event(FREE_EVENT, "2.0"), event("sched_switch: x", "3.0"), event(FREE_EVENT, "2.5"))
    assert failure.line == 3
    assert "out of order" in failure.reason
    assert "2500000000 after 3000000000" in failure.reason


def test_binary_input_names_trace_cmd_report() -> None:
    failure = error(b"\x17\x08\x44tracing7\0\0\x08\0\x10", ends=False)
    assert "trace-cmd report -t" in failure.reason


@pytest.mark.parametrize(
    "tail",
    [
        event(ALLOC_EVENT)[:-4],
        event(ALLOC_EVENT)[:70],
        event(ALLOC_EVENT)[:60],
        event(ALLOC_EVENT)[:20],
        event("percpu_create_chunk: base_addr=ffff")[:-6],
        event("tracing_mark_write: x")[:55],
    ],
)
def test_a_last_line_that_is_cut_is_told_as_truncated(tail: str) -> None:
    failure = error(event(FREE_EVENT), tail, ends=False)
    assert failure.line == 2
    assert failure.reason.startswith("truncated")


def test_a_last_line_that_only_lacks_its_newline_is_read() -> None:
    assert kinds(read(event(FREE_EVENT), event(ALLOC_EVENT)[:-1], ends=False)) == [FREE, ALLOC]


@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0), b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"])
def test_empty_input_is_an_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.trace"
    path.write_bytes(data)
    with pytest.raises(TraceError, match="is empty") as caught:
        read_trace(path)
    assert caught.value.file == str(path)


def test_a_recording_without_vmalloc_events_tells_what_it_has() -> None:
    failure = error("# tracer: nop\n", event("sched_switch: x"), event("sched_switch: y"), ends=False)
    assert "no vmalloc event (it has 2 sched_switch)" in failure.reason


def test_tracepoints_and_probes_together_are_refused() -> None:
    assert "both tracepoints and kprobes" in error(event(PROBE_FREE)).reason


def test_lines_are_counted_per_file(tmp_path: Path) -> None:
    good = event(FREE_EVENT)
    bad = event(ALLOC_EVENT.replace("size=20480", "size=1"))
    middle = 30
    parts = {"a": good + good[:middle], "b": good[middle:] + good + bad, "c": good}
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(TraceError) as caught:
        read_trace([tmp_path / name for name in parts])
    assert (caught.value.file, caught.value.line) == (str(tmp_path / "b"), 3)
    (tmp_path / "b").write_text(good[middle:] + good)
    trace = read_trace([tmp_path / name for name in parts])
    assert trace.events.line.tolist() == [1, 2, 2, 1]


def test_a_damaged_line_across_two_files_is_named_where_it_begins(tmp_path: Path) -> None:
    bad = event(ALLOC_EVENT.replace("size=20480", "size=1"))
    (tmp_path / "a").write_text(event(FREE_EVENT) + bad[:50])
    (tmp_path / "b").write_text(bad[50:])
    with pytest.raises(TraceError) as caught:
        read_trace([tmp_path / "a", tmp_path / "b"])
    assert (caught.value.file, caught.value.line) == (str(tmp_path / "a"), 2)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_give_a_trace_error(data: bytes) -> None:
    error(data, ends=False)
