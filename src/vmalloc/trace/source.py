"""Where the bytes of a recording come from: files or standard input, compressed or not.

``Source`` turns one path, or several read one after the other, into an iterator of large chunks of plain bytes.  The
parts of a recording may be split anywhere, even in the middle of a line: recorders that rotate their output do that.

A thread reads and decompresses ahead of the parser.  All decompressors and the compiled parser let go of the
interpreter lock, so the two overlap; the queue between them is bounded, so a slow consumer holds at most a few chunks.
Leaving the ``with`` block stops the thread, also in the middle of a file.

Which file a chunk is from is told by ``Source.file`` at the moment the chunk is handed out, for messages.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

from vmalloc.errors import TraceError
from vmalloc.trace.decompress import STDIN, Input, chunks, reason_of

__all__ = ["STDIN", "Paths", "Source"]

#: Chunks read ahead of the consumer.
QUEUE_CHUNKS = 4

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Source:
    """The bytes of one or more files, decompressed, as an iterator of chunks.

    A context manager: the thread runs from ``__enter__`` to ``__exit__``.  Iterate once.

    Attributes:
        name: what the user called it: paths joined by ``" + "``.
        file: the file the chunk handed out last is from.
        bytes_read: bytes of the (compressed) files that went into the chunks handed out so far.
        bytes_total: their number in all, or ``None`` when an input has no size (a pipe).
    """

    def __init__(self, paths: Paths) -> None:
        """Looks at every input, so that a missing part is found before the first one is read.

        Raises:
            TraceError: there is no path, or one is missing, a directory, or not readable.
        """
        several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        self.files = [os.fspath(path) for path in several]
        self.name = " + ".join(self.files)
        if not self.files:
            raise TraceError("(no file)", 0, "no input was given")
        self.file = self.files[0]
        self.bytes_read = 0
        sizes = [_size_of(file) for file in self.files]
        self.bytes_total = None if None in sizes else sum(size for size in sizes if size is not None)
        self._queue: queue.Queue[tuple[str, bytes, int] | BaseException | None] = queue.Queue(QUEUE_CHUNKS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read_ahead, name="vmalloc trace reader", daemon=True)

    def __enter__(self) -> Source:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        # A regular file answers at once.  A silent pipe may never answer: its thread is left to the end of the process.
        self._thread.join(timeout=None if self.bytes_total is not None else 0.2)

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            self.file, chunk, self.bytes_read = item
            yield chunk

    def _read_ahead(self) -> None:
        """Runs in the thread: puts chunks, then the error that ended them or ``None``."""
        done = 0
        last: BaseException | None = None
        try:
            for file in self.files:
                with Input(file) as raw:
                    for chunk in chunks(raw):
                        if not self._put((file, chunk, done + raw.count)):
                            return
                    done += raw.count
        except BaseException as error:  # whatever it is, the consumer must see it instead of waiting for ever
            last = error
        self._put(last)

    def _put(self, item: tuple[str, bytes, int] | BaseException | None) -> bool:
        """Puts ``item`` as soon as there is room; gives ``False`` when the consumer has left."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False


def _size_of(file: str) -> int | None:
    """Gives the size of a file that can be opened, ``None`` for standard input, pipes and files of /proc and /sys."""
    if file == STDIN:
        return None
    try:
        status = os.stat(file)
        if stat.S_ISDIR(status.st_mode):
            raise TraceError(file, 0, "is a directory, not a recording")
        if not stat.S_ISREG(status.st_mode):
            return None  # opening a pipe twice would end its writer
        with open(file, "rb"):
            return status.st_size or None
    except OSError as error:
        raise TraceError(file, 0, reason_of(error)) from None
    except TraceError:
        raise
    except ValueError as error:  # a path with a NUL byte
        raise TraceError(file, 0, str(error)) from None
