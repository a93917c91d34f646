"""One input as chunks of plain bytes, whatever it is compressed with.

Compression is recognised by content, by the first bytes, never by name: recordings are renamed, piped and downloaded.
gzip members, xz streams and zstd frames may follow each other in one file.

Damage is an error, never a short read.  That is why two of the three formats are decompressed by hand here: the
stream reader of the zstd library takes a frame that ends early for the end of the data, and the one of ``lzma`` takes
a damaged second stream for garbage that may be ignored.
"""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, cast

from vmalloc.errors import TraceError

__all__ = ["STDIN", "Input", "chunks", "reason_of"]

#: The path that means standard input.
STDIN = "-"
#: Plain bytes handed out at once, about.
CHUNK_SIZE = 1 << 20
#: Compressed bytes given to the zstd decompressor at once: its answer is not bounded, a thousandfold is possible.
ZSTD_STEP = 1 << 12
XZ_STEP = 1 << 16

_UNREADABLE = {
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
}


def reason_of(error: OSError) -> str:
    """Gives what the operating system has to say, without the file name."""
    return (error.strerror or str(error)).lower()


class Input:
    """An open input that counts what was read from it and can be looked into without reading.

    Attributes:
        file: its path, ``"-"`` for standard input.
        count: bytes read.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        try:
            # Standard input gets a file object of its own: sys.stdin's lock would be held by a thread left waiting.
            self._raw: IO[bytes] = open(  # noqa: SIM115 - closed in __exit__
                0 if file == STDIN else file, "rb", buffering=0, closefd=file != STDIN
            )
        except OSError as error:
            raise TraceError(file, 0, reason_of(error)) from None
        self._ahead = b""
        self.count = 0

    def __enter__(self) -> Input:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def peek(self, size: int) -> bytes:
        """Gives the first ``size`` bytes, fewer only at the end of the input."""
        while len(self._ahead) < size and (more := self._raw.read(CHUNK_SIZE)):
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int = CHUNK_SIZE) -> bytes:
        """Reads at most ``size`` bytes, none only at the end of the input."""
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._raw.read(size)
        self.count += len(data)
        return data


def chunks(raw: Input) -> Iterator[bytes]:
    """Reads an input to its end, decompressed as its first bytes tell.

    Raises:
        TraceError: it cannot be read, the compressed data are damaged or end early, or nothing can decompress them.
    """
    magic = raw.peek(16)
    for prefix, name in _UNREADABLE.items():
        if magic.startswith(prefix):
            raise TraceError(raw.file, 0, f"is compressed with {name}; gzip, xz, zstd and plain text can be read")
    decompress: Callable[[Input], Iterator[bytes]] = _plain
    if magic.startswith(b"\x1f\x8b"):
        decompress = _gzip
    elif magic.startswith(b"\xfd7zXZ\x00"):
        decompress = _xz
    elif magic.startswith(b"\x28\xb5\x2f\xfd") or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5):
        decompress = _zstd  # the second magic is a skippable frame, with which some tools begin
    try:
        yield from decompress(raw)
    except EOFError:
        raise TraceError(raw.file, 0, "truncated: the compressed data end in the middle") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise TraceError(raw.file, 0, f"damaged compressed data: {error}") from None
    except OSError as error:
        raise TraceError(raw.file, 0, reason_of(error)) from None


def _plain(raw: Input) -> Iterator[bytes]:
    while data := raw.read():
        yield data


def _gzip(raw: Input) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=cast(IO[bytes], raw), mode="rb") as plain:
        while data := plain.read(CHUNK_SIZE):
            yield data


def _xz(raw: Input) -> Iterator[bytes]:
    stream, inside, data = lzma.LZMADecompressor(lzma.FORMAT_XZ), False, b""
    while data or (data := raw.read(XZ_STEP)):
        if not inside:
            data = data.lstrip(b"\0")  # padding between streams
            if not data:
                continue
            inside = True
        more = True
        while more:
            if plain := stream.decompress(data, CHUNK_SIZE):
                yield plain
            data = b""
            more = not stream.eof and not stream.needs_input
        if stream.eof:
            data, stream, inside = stream.unused_data, lzma.LZMADecompressor(lzma.FORMAT_XZ), False
    if inside:
        raise EOFError


def _zstd(raw: Input) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise TraceError(raw.file, 0, "is compressed with zstd; to read it: pip install zstandard") from None
    context = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, inside, data = context.decompressobj(), False, b""
    ready: list[bytes] = []
    try:
        while data or (data := raw.read(ZSTD_STEP)):
            inside = True
            ready.append(frame.decompress(data))
            data = b""
            if frame.eof:
                data, frame, inside = frame.unused_data, context.decompressobj(), False
            if sum(map(len, ready)) >= CHUNK_SIZE:
                yield b"".join(ready)
                ready.clear()
    except zstandard.ZstdError as error:
        raise TraceError(raw.file, 0, f"damaged compressed data: {error}") from None
    if inside:
        raise EOFError
    if plain := b"".join(ready):
        yield plain
