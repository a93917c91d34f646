cimport cython

# Mirror of vmalloc.trace.events and vmalloc.trace.stops; tests/trace/test_lines.py holds them equal.
cdef enum:
    ALLOC = 1
    ALLOC_FAILED = 2
    FREE = 3
    PURGE = 4

cdef enum:
    END = 0
    FULL = 1
    WINDOW = 2
    OTHER = 3
    ODD = 4
    BACKWARDS = 5
    NO_FIELD = 6
    NO_NUMBER = 7
    TOO_BIG = 8
    TRAILING = 9
    SIZE_ZERO = 10
    SIZE_UNALIGNED = 11
    ALIGN_ODD = 12
    END_OVERFLOWS = 13
    FAILED_ODD = 14
    START_UNALIGNED = 15
    WINDOWS_FULL = 16

# Mirror of the characters lines.py looks for.
cdef enum:
    NEWLINE = 10
    RETURN = 13
    SPACE = 32
    OPEN = 40
    CLOSE = 41
    DASH = 45
    DOT = 46
    DIGIT_0 = 48
    DIGIT_9 = 57
    COLON = 58
    EQUALS = 61
    LETTER_A = 97
    LETTER_F = 102
    LETTER_P = 112
    LETTER_V = 118
    LETTER_X = 120
    LETTER_Z = 122
    SLASH = 47
    BRACKET = 91
    BRACKET_END = 93
    UNDERSCORE = 95


cdef void *address_of(object column)

@cython.locals(index="Py_ssize_t")
cdef Py_ssize_t after_word(const unsigned char *text, Py_ssize_t pos, const unsigned char *word, Py_ssize_t size) noexcept nogil

cdef Py_ssize_t after_spaces(const unsigned char *text, Py_ssize_t pos) noexcept nogil

cdef int hex_digit(unsigned char char) noexcept nogil


cdef class LineParser:
    cdef readonly object table
    cdef readonly dict windows
    # The columns of the table: pointers into its arrays.
    cdef unsigned char *kind
    cdef unsigned short *cpu_column
    cdef int *pid_column
    cdef long long *timestamp_column
    cdef unsigned long long *va_start
    cdef unsigned long long *va_end
    cdef unsigned long long *count
    cdef unsigned long long *align
    cdef unsigned short *window
    cdef unsigned int *line_column
    cdef readonly Py_ssize_t rows
    cdef Py_ssize_t room
    # The current line.
    cdef public unsigned int line
    cdef readonly Py_ssize_t pos
    cdef readonly Py_ssize_t line_start
    cdef readonly Py_ssize_t line_end
    cdef readonly Py_ssize_t name_start
    cdef readonly Py_ssize_t fault_at
    cdef readonly int cpu
    cdef readonly int pid
    cdef readonly long long timestamp
    cdef readonly long long last_timestamp
    # The last number parsed, or why it was not.
    cdef unsigned long long value
    cdef int fault
    # The window of the last allocation, and what else the hot events say.
    cdef readonly unsigned long long vstart
    cdef readonly unsigned long long vend
    cdef unsigned long long window_start
    cdef unsigned long long window_end
    cdef int window_index
    cdef readonly unsigned long long nr_lazy_max
    cdef readonly Py_ssize_t hot_events
    # Constants that have no C literal.
    cdef unsigned long long address_max
    cdef unsigned long long address_tenth
    cdef unsigned long long seconds_max

    cdef _bind(self)
    cdef _grow(self)
    cdef _choose_window(self)

    @cython.locals(data=bytes, text="const unsigned char *", end="Py_ssize_t", code="int")
    cpdef int scan(self, data, Py_ssize_t pos) except -1

    @cython.locals(row="Py_ssize_t")
    cpdef add(self, kind, cpu, pid, timestamp, va_start, va_end, count, align, window, line)

    @cython.locals(pos="Py_ssize_t", code="int")
    cdef int _scan(self, const unsigned char *text, Py_ssize_t end) noexcept nogil

    @cython.locals(pos="Py_ssize_t")
    cdef int _leave_line(self, const unsigned char *text, int code) noexcept nogil

    @cython.locals(char="unsigned char")
    cdef int _hot_event(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(pos="Py_ssize_t", after="Py_ssize_t")
    cdef Py_ssize_t _prefix(self, const unsigned char *text, Py_ssize_t start) noexcept nogil

    cdef Py_ssize_t _task(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(seconds="unsigned long long", digits="Py_ssize_t", fraction="long long")
    cdef Py_ssize_t _time(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(va_start="unsigned long long", size="unsigned long long", align="unsigned long long", failed="unsigned long long", row="Py_ssize_t")
    cdef int _alloc(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(va_start="unsigned long long", nr_lazy="unsigned long long", row="Py_ssize_t")
    cdef int _free(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(start="unsigned long long", end="unsigned long long", row="Py_ssize_t")
    cdef int _purge(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(row="Py_ssize_t")
    cdef Py_ssize_t _row(self, int kind) noexcept nogil

    cdef Py_ssize_t _field(self, const unsigned char *text, Py_ssize_t pos, const unsigned char *word, Py_ssize_t size) noexcept nogil

    @cython.locals(first="Py_ssize_t", char="unsigned char", value="unsigned long long")
    cdef Py_ssize_t _decimal(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    @cython.locals(first="Py_ssize_t", digit="int", value="unsigned long long")
    cdef Py_ssize_t _hexadecimal(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil

    cdef int _finish_line(self, const unsigned char *text, Py_ssize_t pos) noexcept nogil
