"""The command ``vmalloc replay``, run as users run it: another process, its output, its exit status."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

RECORDED = Path(__file__).resolve().parent.parent / "recorded"
BOOT = RECORDED / "g612_4cpu_la57_boot.trace.zst"
MODS = RECORDED / "g612_4cpu_la57_mods"
MISSES = RECORDED / "h08_kvm_packet_pipe_fd"
KEYS = [
    "trace", "kernel", "cpus", "events", "allocations", "frees", "purges", "agreed", "agreement", "reordered",
    "corrected", "unexplained", "first_mismatch", "after_snapshot_differences", "seconds", "events_per_second",
    "peak_busy_bytes", "largest_hole", "fragmentation",
]  # fmt: skip


def vmalloc(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Runs the command with pipes for its standard streams, in UTF-8 and with wide lines."""
    command = [sys.executable, "-m", "vmalloc", *map(str, arguments)]
    environment = os.environ | {"PYTHONUTF8": "1", "COLUMNS": "1000"}
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def answer(*arguments: str | Path, status: int = 0, stdin: bytes = b"") -> dict[str, object]:
    """What ``vmalloc replay --json`` prints."""
    done = vmalloc("replay", "--json", *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def complaint(*arguments: str | Path, stdin: bytes = b"") -> str:
    """The one line of a request that is refused, without ``vmalloc: `` in front."""
    done = vmalloc("replay", *arguments, stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"vmalloc: .+\n", done.stderr), done.stderr
    return done.stderr.removeprefix("vmalloc: ").rstrip("\n")


def plain(path: Path) -> bytes:
    """A recording, decompressed."""
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(file).read()


def with_snapshots(stem: Path) -> list[str]:
    """The arguments that replay a recording between its snapshots."""
    return [
        f"{stem}.trace.zst", "--before", f"{stem}.before.vmallocinfo.zst", "--after", f"{stem}.after.vmallocinfo.zst",
    ]  # fmt: skip


# -- what it prints --------------------------------------------------------------------------------------------------


def test_without_arguments_the_shipped_recording_is_replayed_with_its_snapshots() -> None:
    done = vmalloc("replay")
    assert (done.returncode, done.stderr) == (0, "")
    assert "159,867  of 159,867 allocations at the kernel's address, 100 %" in done.stdout
    assert "159,863 placements, 4 failed attempts" in done.stdout
    assert len(re.findall(r"^snapshot g612_1cpu_cont\.snap-\d.*: 0 differences$", done.stdout, re.MULTILINE)) == 7


def test_open_loop_says_so() -> None:
    assert "starts from  an empty space at boot; open loop" in vmalloc("replay", "--open-loop", BOOT).stdout
    assert "open loop" not in vmalloc("replay", BOOT).stdout
    assert answer("--open-loop", BOOT)["open_loop"] is True


def test_json_has_every_promised_key_and_nothing_is_left_out() -> None:
    found = answer(BOOT)
    assert set(KEYS) <= set(found)
    assert {key: found[key] for key in KEYS[:12]} == {
        "trace": str(BOOT), "kernel": "6.12", "cpus": 4, "events": 243, "allocations": 165, "frees": 57, "purges": 17,
        "agreed": 165, "agreement": 1.0, "reordered": 0, "corrected": 0, "unexplained": 0,
    }  # fmt: skip
    assert found["first_mismatch"] is None
    assert found["after_snapshot_differences"] is None
    assert found["seconds"] > 0
    assert found["events_per_second"] > 0
    assert 0 < found["peak_busy_bytes"] < 1 << 40
    assert 0 < found["largest_hole"] <= 0xFFD1FFFFFFFFFFFF - 0xFFA0000000000000
    assert 0 <= found["fragmentation"] < 1


def test_json_tells_the_first_mismatch() -> None:
    found = answer(*with_snapshots(MISSES))
    first = found["first_mismatch"]
    assert found["agreed"] < found["allocations"]
    assert set(first) == {
        "event", "line", "timestamp", "cpu", "pid", "size", "align", "recorded", "modelled", "cause"
    }  # fmt: skip
    line = plain(MISSES.with_name(MISSES.name + ".trace.zst")).splitlines()[first["line"] - 1].decode()
    assert f"va_start: {int(first['recorded'], 16)} size={first['size']} align={first['align']}" in line
    assert f"-{first['pid']} " in line
    assert int(first["modelled"], 16) != int(first["recorded"], 16)
    assert first["cause"] in found["mismatches"]
    assert found["after_snapshot_differences"] == 0


def test_the_report_tells_misses_by_cause_and_the_first_one() -> None:
    done = vmalloc("replay", *with_snapshots(MISSES))
    assert done.returncode == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "2,112  of 2,115 allocations at the kernel's address, 99.8582 %" in lines
    assert "3  elsewhere: pool state unknown" in lines
    first = re.compile(r"first  line \d+, CPU \d, pid \d+: .* at 0x[0-9a-f]+, here 0x[0-9a-f]+")
    assert any(first.fullmatch(line) for line in lines)
    assert "snapshot h08_kvm_packet_pipe_fd.after.vmallocinfo.zst: 0 differences" in done.stdout


def test_version_and_help() -> None:
    assert re.fullmatch(r"vmalloc \d+\.\d+\S*\n", vmalloc("--version").stdout)
    help_text = vmalloc("replay", "--help").stdout
    for option in ("--before", "--after", "--kernel", "--cpus", "--machine", "--open-loop", "--json"):
        assert option in help_text
    assert "replay" in vmalloc("--help").stdout


def test_the_script_and_the_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("vmalloc")
    if not script.exists():
        pytest.skip("the package is not installed")
    command = [str(script), "replay", "--json", str(BOOT)]
    done = subprocess.run(command, capture_output=True, check=False)
    times = ("seconds", "read_seconds", "events_per_second")
    here, there = answer(BOOT), json.loads(done.stdout)
    for found in (here, there):
        for key in times:
            del found[key]
    assert here == there


# -- where it reads from ---------------------------------------------------------------------------------------------


def test_standard_input_plain_and_compressed() -> None:
    for stdin in (plain(BOOT), BOOT.read_bytes(), gzip.compress(plain(BOOT)), lzma.compress(plain(BOOT))):
        found = answer("-", stdin=stdin)
        assert (found["trace"], found["agreed"]) == ("-", 165)


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress), ("", bytes)])
def test_copies_in_other_formats_are_the_same_recording(tmp_path: Path, suffix: str, compress) -> None:
    arguments = []
    for kind in ("trace", "before.vmallocinfo", "after.vmallocinfo"):
        copy = tmp_path / f"{MODS.name}.{kind}{suffix}"
        copy.write_bytes(compress(plain(MODS.with_name(f"{MODS.name}.{kind}.zst"))))
        arguments += [*([] if kind == "trace" else [f"--{kind.split('.')[0]}"]), str(copy)]
    found = answer(*arguments)
    assert (found["agreed"], found["allocations"], found["after_snapshot_differences"]) == (280, 280, 0)


def test_several_parts_are_one_recording(tmp_path: Path) -> None:
    data = plain(BOOT)
    middle = len(data) // 2  # in the middle of a line
    (tmp_path / "part00").write_bytes(data[:middle])
    (tmp_path / "part01.gz").write_bytes(gzip.compress(data[middle:]))
    found = answer(tmp_path / "part00", tmp_path / "part01.gz")
    assert found["trace"] == f"{tmp_path}/part00 + {tmp_path}/part01.gz"
    assert (found["events"], found["agreed"]) == (243, 165)


@pytest.mark.parametrize("name", ["a[old].trace", "a[/b].trace", ":bug:.trace", "[red]é b.trace"])
def test_the_report_prints_file_names_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BOOT.read_bytes())
    done = vmalloc("replay", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(path) in done.stdout


# -- exit status -----------------------------------------------------------------------------------------------------


def test_status_1_when_a_snapshot_differs(tmp_path: Path) -> None:
    wrong = tmp_path / "after.vmallocinfo"
    lines = plain(MODS.with_name(MODS.name + ".after.vmallocinfo.zst")).splitlines(keepends=True)
    wrong.write_bytes(b"".join(lines[1:]))
    arguments = [f"{MODS}.trace.zst", "--before", f"{MODS}.before.vmallocinfo.zst", "--after", wrong]
    assert answer(*arguments, status=1)["after_snapshot_differences"] == 1
    done = vmalloc("replay", *arguments)
    assert done.returncode == 1
    assert re.search(r"\nsnapshot after\.vmallocinfo: 1 busy extra \(first 0x[0-9a-f]+-0x[0-9a-f]+\)", done.stdout)


def test_status_1_when_an_address_is_unexplained(tmp_path: Path) -> None:
    lines = plain(BOOT).decode().splitlines(keepends=True)
    target = [number for number, line in enumerate(lines) if "alloc_vmap_area" in line][20]
    lines[target] = re.sub(r"va_start: (\d+)", lambda m: f"va_start: {int(m[1]) + (1 << 30)}", lines[target])
    found = answer("-", stdin="".join(lines).encode(), status=1)
    assert found["unexplained"] >= 1
    assert found["first_mismatch"]["line"] == target + 1


def test_status_2_when_the_request_is_bad() -> None:
    assert vmalloc().returncode == 2
    assert vmalloc("replay", "--machine", "abacus").returncode == 2
    assert vmalloc("replay", "--cpus", "many").returncode == 2
    assert vmalloc("relay").returncode == 2
    assert complaint("--cpus", "0", BOOT) == "a machine needs at least one CPU, got 0"
    assert complaint("--cpus", "-3", BOOT) == "a machine needs at least one CPU, got -3"
    old = "no profile for kernels older than 6.1, got 5.10; known: 6.1, 6.12, 6.19"
    assert complaint("--kernel", "5.10", BOOT) == old
    assert complaint("--kernel", "banana", BOOT) == "not a kernel version: 'banana'; write for example 6.12"


def test_any_release_maps_to_a_profile() -> None:
    assert answer("--kernel", "6.11.3", BOOT)["kernel"] == "6.12"
    assert answer("--kernel", "6.12", "--cpus", "4", BOOT)["kernel_from"] == "given"


# -- damaged and foreign input ---------------------------------------------------------------------------------------


def test_missing_file_is_named() -> None:
    assert complaint("/nonexistent/x.trace") == "/nonexistent/x.trace: no such file or directory"
    assert complaint(BOOT, "--before", "/nonexistent/x").startswith("/nonexistent/x: ")
    assert complaint(BOOT, RECORDED / "nothing").startswith(f"{RECORDED / 'nothing'}: ")


def test_a_directory_is_named_once() -> None:
    assert complaint(RECORDED) == f"{RECORDED}: is a directory, not a recording"


def test_empty_input_is_refused(tmp_path: Path) -> None:
    assert complaint("-") == "-: is empty"
    (tmp_path / "empty").touch()
    assert complaint(tmp_path / "empty") == f"{tmp_path / 'empty'}: is empty"
    assert complaint(BOOT, "--after", tmp_path / "empty") == f"{tmp_path / 'empty'}: is empty"


def test_a_snapshot_is_no_trace_and_a_trace_is_no_snapshot() -> None:
    snapshot = MODS.with_name(MODS.name + ".before.vmallocinfo.zst")
    assert complaint(snapshot).startswith(f"{snapshot}:1: this is a snapshot (/proc/vmallocinfo), not a recording: ")
    for option in ("--before", "--after"):
        assert complaint(BOOT, option, BOOT).startswith(f"{BOOT}:1: this is a recording of ftrace, not a snapshot: ")


def test_a_hashed_snapshot_says_how_to_record_real_addresses(tmp_path: Path) -> None:
    hashed = tmp_path / "hashed"
    hashed.write_text(
        "0x00000000c0ffee11-0x00000000deadbe42    8192 irq_init+0x1/0x2 pages=1 vmalloc\n"
        "0x000000001a2b3c4d-0x0000000099887766   20480 dup_task+0x1/0x2 pages=4 vmalloc\n"
    )
    text = complaint(BOOT, "--before", hashed)
    assert text.startswith(f"{hashed}:1: the addresses are hashed or zeroed: record as root")


def test_a_damaged_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    lines = plain(BOOT).decode().splitlines(keepends=True)
    target = [number for number, line in enumerate(lines) if "alloc_vmap_area" in line][9]
    lines[target] = lines[target].replace("size=", "size=x")
    damaged = tmp_path / "damaged.trace"
    damaged.write_text("".join(lines))
    assert complaint(damaged).startswith(f"{damaged}:{target + 1}: ")
    assert complaint("-", stdin="".join(lines).encode()).startswith(f"-:{target + 1}: ")
    # In the second of two parts, lines count from that file's beginning.
    parts = [tmp_path / "part00", tmp_path / "part01"]
    parts[0].write_text("".join(lines[: target - 3]))
    parts[1].write_text("".join(lines[target - 3 :]))
    assert complaint(*parts).startswith(f"{parts[1]}:4: ")


@pytest.mark.parametrize(("suffix", "compress"), [(".zst", None), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_a_truncated_stream_is_refused(tmp_path: Path, suffix: str, compress) -> None:
    data = compress(plain(BOOT)) if compress else BOOT.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: len(data) // 2])
    assert complaint(cut).startswith(f"{cut}: ")
    assert "Traceback" not in vmalloc("replay", cut).stderr


def test_binary_input_is_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(bytes(range(256)) * 10)
    assert complaint(noise).startswith(f"{noise}:")


def test_overlapping_areas_are_refused(tmp_path: Path) -> None:
    before = plain(MODS.with_name(MODS.name + ".before.vmallocinfo.zst")).decode()
    doubled = tmp_path / "doubled"
    doubled.write_text(before + before.splitlines()[3] + "\n")
    assert "overlap" in complaint(f"{MODS}.trace.zst", "--before", doubled)


# -- the whole machine -----------------------------------------------------------------------------------------------


def test_on_the_simulated_machine_the_report_tells_what_it_met() -> None:
    done = vmalloc("replay", "--machine", "simulated", "--nodes", "2", BOOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^simulated +x86_64_la57, 4 CPUs, 2 NUMA nodes, .* of memory *$", done.stdout, re.MULTILINE)
    assert re.search(r"^page tables +[\d.]+ KiB: 5 pgd, \d+ p4d,.*, \d+ pte *$", done.stdout, re.MULTILINE)
    assert re.search(r"^mappings +[\d,]+ of 4 KiB, [\d,]+ of 2 MiB; 0 areas without", done.stdout, re.MULTILINE)
    assert re.search(r"^TLB flushes +\d+: \d+ of a range .*, \d+ full; \d+ interrupts *$", done.stdout, re.MULTILINE)
    assert re.search(r"^accesses +\d+: \d+ missed the TLB, 0 through stale translations *$", done.stdout, re.MULTILINE)
    assert re.search(r"in use at the peak [\d,]+ on node 0, [\d,]+ on node 1 *$", done.stdout, re.MULTILINE)
    assert re.search(r"^read in .* replayed in .* and [\d.]+ s on the machine", done.stdout, re.MULTILINE)


def test_json_has_the_machine_and_null_without_one() -> None:
    found = answer("--machine", "simulated", "--arch", "riscv64_sv57", BOOT)
    machine = found["machine"]
    assert isinstance(machine, dict)
    assert (machine["arch"], machine["stale_accesses"], machine["failed_accesses"]) == ("riscv64_sv57", 0, 0)
    assert machine["page_table_bytes"] > 0
    areas = answer(BOOT)
    assert areas["machine"] is None
    assert found["agreed"] == areas["agreed"] == found["allocations"]


def test_a_machine_that_does_not_fit_is_refused() -> None:
    assert complaint("--machine", "simulated", "--arch", "x86_64", BOOT).startswith(
        "the trace cannot be replayed on x86_64: the recorded range 0xffa0000000000000-0xffd1ffffffffffff is not within"
    )
    assert complaint("--machine", "simulated", "--arch", "vax", BOOT).startswith("no architecture 'vax'; there are ")
    assert complaint("--nodes", "2", BOOT).startswith("an architecture and NUMA nodes are those of the simulated")


# -- terminals and pipes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_gone_is_no_error(options: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "vmalloc", "replay", str(BOOT), *options]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_head_takes_what_it_wants() -> None:
    command = f"set -o pipefail; '{sys.executable}' -m vmalloc replay '{BOOT}' --json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")


def test_a_pipe_gets_whole_lines_however_narrow_the_terminal(tmp_path: Path) -> None:
    trace = tmp_path / ("a" * 120) / BOOT.name
    trace.parent.mkdir()
    trace.symlink_to(BOOT)
    command = [sys.executable, "-m", "vmalloc", "replay", str(trace), "--open-loop"]
    environment = os.environ | {"COLUMNS": "40"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert f"trace        {trace}\n" in done.stdout


def on_terminal(*arguments: str | Path) -> tuple[int, str, str]:
    """Runs the command with standard error on a terminal; gives status, standard output, and what the terminal saw."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "vmalloc", *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env=environment) as process:
        os.close(follower)
        seen = b""
        try:
            while block := os.read(leader, 65536):
                seen += block
        except OSError:  # the other end is closed
            pass
        assert process.stdout is not None
        output = process.stdout.read().decode()
    os.close(leader)
    return process.returncode, output, seen.decode()


def test_on_a_terminal_bars_show_the_progress_and_go_away() -> None:
    status, output, terminal = on_terminal("replay", "--json")
    assert status == 0
    assert json.loads(output)["agreed"] == 159_867
    assert "reading" in terminal
    assert "replaying" in terminal
    assert "\x1b[" in terminal


def test_on_a_terminal_an_error_is_still_one_line() -> None:
    status, output, terminal = on_terminal("replay", "/nonexistent")
    assert (status, output) == (2, "")
    assert "vmalloc: /nonexistent: no such file or directory\r\n" in terminal
    assert "Traceback" not in terminal


def test_without_a_terminal_there_is_no_bar() -> None:
    done = vmalloc("replay", "--json")
    assert (done.returncode, done.stderr) == (0, "")
