"""The compiled line parser: bytes of a recording in, rows of an event table out.

A recording is read at the speed of the disk or not at all: a storm of a minute has a million lines.  So the lines that
make up nearly all of it are parsed here, byte by byte, without objects and without the interpreter lock:

* the **prefix** that every event line has, whatever the event (task, CPU, flags, time),
* the three **hot events** of the ``vmalloc`` system, complete with all their checks.

Everything else is handed over *by offset*: ``scan`` stops with a code of ``stops.py``, the attributes say where the
line is, and ``ftrace.py`` treats it in Python.  Each event thus has exactly one reader.

Three conventions keep the inner loops free of bounds checks:

* ``scan`` is given whole lines only: the last byte is a newline, and no loop walks past a newline;
* a position that is returned is where parsing goes on, and -1 says "does not match" or, when ``fault`` is set, "is
  damaged", with ``fault_at`` the offset of the damage;
* a line that needs help (a new window, more room) is left unread and read again: nothing is half done.

The file is plain Python and gives the same rows uncompiled; ``lines.pxd`` gives the C types.  Uncompiled integers do
not wrap, compiled ones do, so every number is checked before it could pass 64 bits.
"""

import cython

from vmalloc.trace.events import COLUMNS
from vmalloc.units import ADDRESS_MAX

if not cython.compiled:
    from vmalloc.trace.events import ALLOC, ALLOC_FAILED, FREE, PURGE
    from vmalloc.trace.stops import (
        ALIGN_ODD,
        BACKWARDS,
        END,
        END_OVERFLOWS,
        FAILED_ODD,
        FULL,
        NO_FIELD,
        NO_NUMBER,
        ODD,
        OTHER,
        SIZE_UNALIGNED,
        SIZE_ZERO,
        START_UNALIGNED,
        TOO_BIG,
        TRAILING,
        WINDOW,
        WINDOWS_FULL,
    )

    NEWLINE, RETURN, SPACE, DASH, DOT, SLASH, COLON, EQUALS, UNDERSCORE = b"\n\r -./:=_"
    OPEN, CLOSE, BRACKET, BRACKET_END = b"()[]"
    DIGIT_0, DIGIT_9, LETTER_A, LETTER_F, LETTER_P, LETTER_V, LETTER_X, LETTER_Z = b"09afpvxz"

#: Rows the columns grow by at least; growing by a half keeps the number of copies logarithmic.
MIN_GROWTH = 1 << 14
#: ``EventTable.window`` has 16 bits.
MAX_WINDOWS = 1 << 16


class LineParser:
    """Parses lines into the columns of one event table.

    While it works, the columns are longer than the table: only the first ``rows`` rows count.  ``finish`` trims them.

    Attributes:
        table: the ``EventTable`` that is filled.
        windows: ``(vstart, vend)`` to index, in order of first use.
        rows: rows written so far.
        line: number of the current line; the owner sets it to 1 where a file begins.
        pos: where the next line begins, in the chunk given to ``scan``.
        line_start, line_end, name_start: the line ``scan`` stopped at, and where its event name begins.
        cpu, pid, timestamp: its prefix (codes ``OTHER`` and above, but not ``ODD``).
        fault_at: offset of the damage.
        nr_lazy_max: the last one seen.
        hot_events: number of events of the ``vmalloc`` system.
    """

    def __init__(self, table):
        self.table = table
        self.windows = {}
        self.rows = self.room = self.hot_events = 0
        self.line = 1
        self.pos = self.line_start = self.line_end = self.name_start = self.fault_at = 0
        self.cpu = self.pid = 0
        self.timestamp = self.last_timestamp = 0
        self.value = self.nr_lazy_max = 0
        self.fault = END
        self.vstart = self.vend = 0
        self.window_start = self.window_end = 0
        self.window_index = -1
        self.address_max = ADDRESS_MAX
        self.address_tenth = ADDRESS_MAX // 10
        self.seconds_max = ((1 << 63) - 1) // 1_000_000_000 - 1

    def scan(self, data, pos):
        """Parses lines from ``pos`` on until the chunk ends or a line needs Python.

        Args:
            data: bytes; the last one is a newline.
            pos: where a line begins; ``len(data)`` is allowed.

        Returns:
            A code of ``stops.py``: ``END``, ``OTHER``, ``ODD`` or a fault, never ``FULL`` or ``WINDOW``.

        Raises:
            ValueError: the last byte is no newline, or ``pos`` is outside of the data.
        """
        end = len(data)
        if pos < 0 or pos > end or not data.endswith(b"\n"):
            raise ValueError("scan takes whole lines and a position in them")
        self.pos = pos
        text = data
        while True:
            with cython.nogil:
                code = self._scan(text, end)
            if code == FULL:
                self._grow()
            elif code == WINDOW and len(self.windows) < MAX_WINDOWS:
                self._choose_window()
            else:
                return WINDOWS_FULL if code == WINDOW else code

    def add(self, kind, cpu, pid, timestamp, va_start, va_end, count, align, window, line):
        """Appends one row: for the events that Python reads."""
        if self.rows == self.room:
            self._grow()
        row = self.rows
        self.kind[row] = kind
        self.cpu_column[row] = cpu
        self.pid_column[row] = pid
        self.timestamp_column[row] = timestamp
        self.va_start[row] = va_start
        self.va_end[row] = va_end
        self.count[row] = count
        self.align[row] = align
        self.window[row] = window
        self.line_column[row] = line
        self.rows = row + 1

    def window_of(self, vstart, vend):
        """Gives the index of the window ``(vstart, vend)``, new or known; -1 when there are too many."""
        if (vstart, vend) not in self.windows and len(self.windows) == MAX_WINDOWS:
            return -1
        return self.windows.setdefault((vstart, vend), len(self.windows))

    def finish(self):
        """Cuts the columns of the table to the rows written; the parser is not used afterwards."""
        for name in COLUMNS:
            del getattr(self.table, name)[self.rows :]
        self.room = self.rows

    # -- storage: the only place where a column is a pointer in one build and an array in the other -----------------

    def _grow(self):
        """Makes room for more rows; the new ones are all zero."""
        more = max(MIN_GROWTH, self.room // 2)
        for name in COLUMNS:
            column = getattr(self.table, name)
            column.frombytes(bytes(more * column.itemsize))
        self.room += more
        self._bind()

    def _bind(self):
        table = self.table
        if cython.compiled:
            self.kind = cython.cast("unsigned char *", address_of(table.kind))
            self.cpu_column = cython.cast("unsigned short *", address_of(table.cpu))
            self.pid_column = cython.cast("int *", address_of(table.pid))
            self.timestamp_column = cython.cast("long long *", address_of(table.timestamp))
            self.va_start = cython.cast("unsigned long long *", address_of(table.va_start))
            self.va_end = cython.cast("unsigned long long *", address_of(table.va_end))
            self.count = cython.cast("unsigned long long *", address_of(table.count))
            self.align = cython.cast("unsigned long long *", address_of(table.align))
            self.window = cython.cast("unsigned short *", address_of(table.window))
            self.line_column = cython.cast("unsigned int *", address_of(table.line))
        else:
            self.kind, self.cpu_column, self.pid_column = table.kind, table.cpu, table.pid
            self.timestamp_column, self.va_start, self.va_end = table.timestamp, table.va_start, table.va_end
            self.count, self.align, self.window, self.line_column = table.count, table.align, table.window, table.line

    def _choose_window(self):
        """Makes the window ``_alloc`` stopped at the current one."""
        self.window_index = self.window_of(self.vstart, self.vend)
        self.window_start = self.vstart
        self.window_end = self.vend

    # -- lines ------------------------------------------------------------------------------------------------------

    def _scan(self, text, end):
        while self.pos < end:
            if self.rows == self.room:
                return FULL
            self.line_start = self.pos
            pos = self._prefix(text, self.pos)
            if pos < 0:
                return self._leave_line(text, ODD)
            self.name_start = pos
            if self.timestamp < self.last_timestamp:
                self.fault_at = pos
                return self._leave_line(text, BACKWARDS)
            code = self._hot_event(text, pos)
            if code == WINDOW:
                self.pos = self.line_start
                return WINDOW
            if code != END:
                return self._leave_line(text, code)
            self.last_timestamp = self.timestamp
            self.line += 1
        return END

    def _leave_line(self, text, code):
        """Steps over the current line and hands it to Python."""
        pos = self.line_start
        while text[pos] != NEWLINE:
            pos += 1
        self.line_end = pos
        self.pos = pos + 1
        self.line += 1
        if code == OTHER:
            self.last_timestamp = self.timestamp
        return code

    def _hot_event(self, text, pos):
        """Parses the event at ``pos``, if it is hot, and the end of its line."""
        if text[pos] == LETTER_V and after_word(text, pos, b"vmalloc", 7) > 0:
            if text[pos + 7] == COLON or text[pos + 7] == SLASH:
                pos += 8
        char = text[pos]
        if char == LETTER_A:
            return self._alloc(text, after_word(text, pos, b"alloc_vmap_area:", 16))
        if char == LETTER_F:
            return self._free(text, after_word(text, pos, b"free_vmap_area_noflush:", 23))
        if char == LETTER_P:
            return self._purge(text, after_word(text, pos, b"purge_vmap_area_lazy:", 21))
        return OTHER

    # -- the prefix: `          task-PID     [CPU] flags   SECONDS.FRACTION: ` --------------------------------------

    def _prefix(self, text, start):
        """Parses the prefix of an event line; gives the position of the event's name, or -1.

        A task name is at most 15 bytes, may hold anything, and is printed right-aligned in 16 columns, so the dash
        before the PID is in column 16.  Only text that lost its columns is searched for a dash that fits.
        """
        pos = start
        while text[pos] != NEWLINE and pos - start < 16:
            pos += 1
        if pos - start == 16 and text[pos] == DASH:
            after = self._task(text, pos + 1)
            if after > 0:
                return after
        pos = start
        while text[pos] != NEWLINE:
            if text[pos] == DASH:
                after = self._task(text, pos + 1)
                if after > 0:
                    return after
            pos += 1
        return -1

    def _task(self, text, pos):
        """Parses ``PID (TGID) [CPU] flags``, TGID and flags optional, and what follows them."""
        pos = self._decimal(text, pos)
        if pos < 0 or self.value > 0x7FFFFFFF or text[pos] != SPACE:
            return -1
        self.pid = self.value
        pos = after_spaces(text, pos)
        if text[pos] == OPEN:
            while text[pos] != CLOSE:
                if text[pos] == NEWLINE:
                    return -1
                pos += 1
            pos = after_spaces(text, pos + 1)
        if text[pos] != BRACKET:
            return -1
        pos = self._decimal(text, pos + 1)
        if pos < 0 or self.value > 0xFFFF or text[pos] != BRACKET_END or text[pos + 1] != SPACE:
            return -1
        self.cpu = self.value
        pos = after_spaces(text, pos + 1)
        if text[pos] < DIGIT_0 or text[pos] > DIGIT_9:
            while text[pos] != SPACE:
                if text[pos] == NEWLINE:
                    return -1
                pos += 1
            pos = after_spaces(text, pos)
        return self._time(text, pos)

    def _time(self, text, pos):
        """Parses ``SECONDS.FRACTION: ``, or ``COUNT: `` of a clock that counts, as nanoseconds or as the count."""
        pos = self._decimal(text, pos)
        if pos < 0:
            return -1
        seconds = self.value
        if text[pos] == DOT:
            if seconds > self.seconds_max:
                return -1
            digits = 0
            fraction = 0
            pos += 1
            while DIGIT_0 <= text[pos] <= DIGIT_9 and digits < 9:
                fraction = fraction * 10 + (text[pos] - DIGIT_0)
                digits += 1
                pos += 1
            if digits == 0:
                return -1
            while digits < 9:
                fraction *= 10
                digits += 1
            self.timestamp = seconds * 1000000000 + fraction
        else:
            if seconds > self.address_max // 2:
                return -1
            self.timestamp = seconds
        if text[pos] != COLON or text[pos + 1] != SPACE:
            return -1
        return after_spaces(text, pos + 1)

    # -- the three hot events; each begins behind the colon of its name, or at -1 when the name is another ----------

    def _alloc(self, text, pos):
        if pos < 0:
            return OTHER
        pos = after_spaces(text, pos)
        if after_word(text, pos, b"va_start: ", 10) > 0:
            pos = self._field(text, pos, b"va_start: ", 10)
        elif after_word(text, pos, b"addr=", 5) > 0:
            pos = self._field(text, pos, b"addr=", 5)
        else:
            pos = self._field(text, pos, b"va_start=", 9)
        va_start = self.value
        pos = self._field(text, pos, b" size=", 6)
        size = self.value
        pos = self._field(text, pos, b" align=", 7)
        align = self.value
        pos = self._field(text, pos, b" vstart=", 8)
        self.vstart = self.value
        pos = self._field(text, pos, b" vend=", 6)
        self.vend = self.value
        pos = self._field(text, pos, b" failed=", 8)
        if pos < 0:
            return self.fault
        failed = self.value
        self.fault_at = pos
        if size == 0:
            return SIZE_ZERO
        if size & 4095:
            return SIZE_UNALIGNED
        if align == 0 or align & (align - 1):
            return ALIGN_ODD
        if failed > 1:
            return FAILED_ODD
        if failed == 0:
            if va_start & 4095:
                return START_UNALIGNED
            if va_start > self.address_max - size:
                return END_OVERFLOWS
        if self.vstart != self.window_start or self.vend != self.window_end or self.window_index < 0:
            return WINDOW
        if not self._finish_line(text, pos):
            return TRAILING
        row = self._row(ALLOC_FAILED if failed else ALLOC)
        self.va_start[row] = va_start
        self.va_end[row] = size if failed else va_start + size
        self.align[row] = align
        self.window[row] = self.window_index
        return END

    def _free(self, text, pos):
        if pos < 0:
            return OTHER
        pos = self._field(text, after_spaces(text, pos), b"va_start=", 9)
        va_start = self.value
        pos = self._field(text, pos, b" nr_lazy=", 9)
        nr_lazy = self.value
        pos = self._field(text, pos, b" nr_lazy_max=", 13)
        if pos < 0:
            return self.fault
        self.fault_at = pos
        if va_start & 4095:
            return START_UNALIGNED
        if not self._finish_line(text, pos):
            return TRAILING
        self.nr_lazy_max = self.value
        row = self._row(FREE)
        self.va_start[row] = va_start
        self.count[row] = nr_lazy
        return END

    def _purge(self, text, pos):
        if pos < 0:
            return OTHER
        pos = self._field(text, after_spaces(text, pos), b"start=", 6)
        start = self.value
        pos = self._field(text, pos, b" end=", 5)
        end = self.value
        pos = self._field(text, pos, b" num_purged=", 12)
        if pos < 0:
            return self.fault
        if not self._finish_line(text, pos):
            return TRAILING
        row = self._row(PURGE)
        self.va_start[row] = start
        self.va_end[row] = end
        self.count[row] = self.value
        return END

    def _row(self, kind):
        """Begins a row with what every row has."""
        row = self.rows
        self.kind[row] = kind
        self.cpu_column[row] = self.cpu
        self.pid_column[row] = self.pid
        self.timestamp_column[row] = self.timestamp
        self.line_column[row] = self.line
        self.rows = row + 1
        self.hot_events += 1
        return row

    # -- words and numbers ------------------------------------------------------------------------------------------

    def _field(self, text, pos, word, size):
        """Parses ``word`` and the number behind it into ``value``; a ``pos`` of -1 is passed on."""
        if pos < 0:
            return -1
        self.fault_at = pos
        pos = after_word(text, pos, word, size)
        if pos < 0:
            self.fault = NO_FIELD
            return -1
        if text[pos] == DIGIT_0 and text[pos + 1] == LETTER_X:
            return self._hexadecimal(text, pos + 2)
        return self._decimal(text, pos)

    def _decimal(self, text, pos):
        """Parses digits into ``value``; gives the position behind them, or -1 with ``fault``."""
        first = pos
        value = 0
        char = text[pos]
        while DIGIT_0 <= char <= DIGIT_9:
            # 18 digits always fit; from the 19th on each step is checked before it is taken.
            if pos - first >= 18 and (
                value > self.address_tenth or (value == self.address_tenth and char > DIGIT_0 + 5)
            ):
                self.fault = TOO_BIG
                return -1
            value = value * 10 + (char - DIGIT_0)
            pos += 1
            char = text[pos]
        if pos == first:
            self.fault = NO_NUMBER
            return -1
        self.value = value
        return pos

    def _hexadecimal(self, text, pos):
        """Parses hexadecimal digits into ``value``, like ``_decimal``."""
        first = pos
        value = 0
        digit = hex_digit(text[pos])
        while digit >= 0:
            if pos - first == 16:
                self.fault = TOO_BIG
                return -1
            value = value * 16 + digit
            pos += 1
            digit = hex_digit(text[pos])
        if pos == first:
            self.fault = NO_NUMBER
            return -1
        self.value = value
        return pos

    def _finish_line(self, text, pos):
        """Ends a line of a hot event: only blanks follow, or fields that a newer kernel has added.

        Returns:
            1, with ``self.pos`` at the next line, or 0 when something else follows.
        """
        pos = after_spaces(text, pos)
        if text[pos] == RETURN:
            pos += 1
        if text[pos] != NEWLINE:
            if text[pos - 1] != SPACE:
                return 0
            while LETTER_A <= text[pos] <= LETTER_Z or text[pos] == UNDERSCORE:
                pos += 1
            if text[pos] != EQUALS:
                return 0
            while text[pos] != NEWLINE:
                pos += 1
        self.pos = pos + 1
        return 1


def after_word(text, pos, word, size):
    """Gives the position behind ``word``, ``size`` bytes long, when it stands at ``pos``, else -1."""
    index = 0
    while index < size:
        if text[pos + index] != word[index]:
            return -1
        index += 1
    return pos + size


def after_spaces(text, pos):
    """Gives the position of the first byte at or behind ``pos`` that is no space."""
    while text[pos] == SPACE:
        pos += 1
    return pos


def hex_digit(char):
    """Gives the value of a hexadecimal digit as the kernel prints it (lower case), else -1."""
    if DIGIT_0 <= char <= DIGIT_9:
        return char - DIGIT_0
    if LETTER_A <= char <= LETTER_F:
        return char - LETTER_A + 10
    return -1


def address_of(column):
    """Gives the address of an array's first element: what makes a column a pointer in the compiled build."""
    return cython.cast("void *", cython.cast("size_t", column.buffer_info()[0]))
