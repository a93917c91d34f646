"""Chunks of plain bytes, whatever the files are compressed with and however they end."""

from __future__ import annotations

import gzip
import lzma
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmalloc.errors import TraceError
from vmalloc.trace.source import Paths, Source

zstandard = pytest.importorskip("zstandard")

#: About 5 MB, and not the same anywhere: a chunk lost, doubled or swapped shows.
TEXT = b"".join(b"%d line of a recording\n" % number for number in range(180_000))


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": zst,
}
every_format = pytest.mark.parametrize("name", COMPRESSORS)


def read(paths: Paths) -> bytes:
    with Source(paths) as source:
        return b"".join(source)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "vmalloc trace reader"]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not readers()


def test_plain_text_comes_in_order_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.trace"
    path.write_bytes(TEXT)
    assert read(path) == TEXT


@every_format
def test_compression_is_recognised_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(COMPRESSORS[name](TEXT))
    assert read(str(path)) == TEXT


@every_format
def test_members_streams_and_frames_follow_each_other_in_one_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"".join(COMPRESSORS[name](TEXT[part::3]) for part in range(3)))
    assert read(path) == b"".join(TEXT[part::3] for part in range(3))


def test_a_skippable_zstd_frame_may_come_first(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd" + zst(TEXT))
    assert read(path) == TEXT


def test_a_zstd_window_of_long_mode_is_accepted(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path = tmp_path / "x"
    path.write_bytes(stream.compress(TEXT) + stream.flush())  # the size is not in the header: the window counts
    assert read(path) == TEXT


def test_parts_are_read_one_after_the_other_each_with_its_own_compression(tmp_path: Path) -> None:
    cuts = [TEXT[:1_000_001], TEXT[1_000_001:3_000_005], b"", TEXT[3_000_005:]]
    packers = [bytes, *COMPRESSORS.values()]
    parts = []
    for number, (cut, pack) in enumerate(zip(cuts, packers, strict=True)):
        parts.append(tmp_path / f"part{number}")
        parts[-1].write_bytes(pack(cut))
    assert read(parts) == TEXT


def test_source_tells_the_file_of_each_chunk_and_how_far_it_is(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    parts[0].write_bytes(TEXT)
    parts[1].write_bytes(zst(TEXT))
    seen: dict[str, int] = {}
    progress = [0]
    with Source(parts) as source:
        assert source.name == f"{parts[0]} + {parts[1]}"
        for chunk in source:
            seen[source.file] = seen.get(source.file, 0) + len(chunk)
            progress.append(source.bytes_read)
        assert source.bytes_total == source.bytes_read == sum(part.stat().st_size for part in parts)
    assert seen == {str(part): len(TEXT) for part in parts}
    assert progress == sorted(progress)


@every_format
def test_a_compressed_file_that_ends_early_is_an_error_not_a_short_read(tmp_path: Path, name: str) -> None:
    whole = COMPRESSORS[name](TEXT)
    path = tmp_path / "x"
    for size in (len(whole) // 2, len(whole) - 1, 20):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError, match="truncated") as caught:
            read(path)
        assert caught.value.file == str(path)


@every_format
def test_damaged_compressed_data_are_an_error(tmp_path: Path, name: str) -> None:
    damaged = bytearray(COMPRESSORS[name](TEXT))
    damaged[len(damaged) // 2 :] = bytes(255 - byte for byte in damaged[len(damaged) // 2 :])
    path = tmp_path / "x"
    path.write_bytes(damaged)
    with pytest.raises(TraceError, match=r"damaged|truncated"):
        read(path)


@every_format
def test_garbage_behind_compressed_data_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(COMPRESSORS[name](TEXT) + b"garbage" * 10)
    with pytest.raises(TraceError, match="damaged"):
        read(path)


@pytest.mark.parametrize(
    ("magic", "name"), [(b"BZh91AY&SY", "bzip2"), (b"PK\x03\x04xxxx", "zip"), (b"\x04\x22\x4d\x18xxxx", "lz4")]
)
def test_a_compression_that_cannot_be_read_is_named(tmp_path: Path, magic: bytes, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(magic)
    with pytest.raises(TraceError, match=name):
        read(path)


def test_a_missing_zstd_library_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(zst(TEXT))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TraceError, match="pip install zstandard"):
        read(path)


def test_a_missing_part_is_found_before_the_first_is_read(tmp_path: Path) -> None:
    first = tmp_path / "a"
    first.write_bytes(TEXT)
    with pytest.raises(TraceError, match="no such file") as caught:
        Source([first, tmp_path / "b"])
    assert caught.value.file == str(tmp_path / "b")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="directory"):
        Source(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(TEXT)
    path.chmod(0)
    with pytest.raises(TraceError, match="permission denied"):
        Source(path)


@pytest.mark.parametrize("paths", [[], "a\0b"])
def test_no_path_and_an_impossible_path_are_refused(paths: Paths) -> None:
    with pytest.raises(TraceError):
        Source(paths)


@pytest.mark.parametrize("name", ["plain", *COMPRESSORS])
def test_a_consumer_that_stops_early_leaves_no_thread(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(COMPRESSORS.get(name, bytes)(TEXT * 4))
    with Source(path) as source:
        next(iter(source))
        assert readers()
    assert not readers()


def test_an_error_of_the_consumer_passes_and_leaves_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(TEXT)
    with pytest.raises(ZeroDivisionError), Source(path) as source:
        1 // (next(iter(source)) == b"")
    assert not readers()


@pytest.fixture
def stdin_pipe() -> Iterator[int]:
    """Makes standard input a pipe, and gives its writing end."""
    saved = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    try:
        yield writing
    finally:
        os.dup2(saved, 0)
        os.close(saved)


@pytest.mark.parametrize("name", ["plain", *COMPRESSORS])
def test_a_dash_is_standard_input(stdin_pipe: int, name: str) -> None:
    def write() -> None:
        with os.fdopen(stdin_pipe, "wb") as stream:
            stream.write(COMPRESSORS.get(name, bytes)(TEXT))

    writer = threading.Thread(target=write)
    writer.start()
    with Source("-") as source:
        assert source.name == "-"
        assert source.bytes_total is None
        assert b"".join(source) == TEXT
    writer.join()


def test_leaving_a_silent_pipe_does_not_wait_for_it(stdin_pipe: int) -> None:
    begun = time.monotonic()
    with Source("-"):
        pass
    assert time.monotonic() - begun < 5
    os.close(stdin_pipe)  # ends the thread that still waits
    for thread in readers():
        thread.join(5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_opened_once(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(TEXT,))
    writer.start()
    assert read(path) == TEXT
    writer.join()
