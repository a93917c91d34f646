"""Who asked: a place in a Python program, kept cheaply and printed as the kernel prints one (``%pS``).

Each allocation notes its caller.  Kept are the code object and the offset of the instruction, two references; the words
are made when somebody looks.  ``%pS`` prints ``symbol+0xoffset/0xsize [module]``: of Python code that is the function,
the offset and the size of its byte code, and the module.
"""

import sys
from pathlib import PurePath

import cython

__all__ = ["Caller", "caller_of"]


class Caller:
    """A place in a program: ``str()`` is in the form of ``%pS``.

    Attributes:
        code: the code object. offset: of the instruction in it, bytes.
    """

    def __init__(self, code, offset):
        self.code = code
        self.offset = offset

    @property
    def filename(self):
        """The source file."""
        return self.code.co_filename

    @property
    def line(self):
        """The line, or None when the code does not know it."""
        for start, end, line in self.code.co_lines():
            if start <= self.offset < end:
                return line
        return None

    def __str__(self):
        name = "".join([c if c.isalnum() or c in "_.<>" else "_" for c in self.code.co_name])
        module = "".join([c if c.isalnum() or c == "_" else "_" for c in PurePath(self.code.co_filename).stem])
        return f"{name}+{max(self.offset, 0):#x}/{len(self.code.co_code):#x} [{module}]"

    def __repr__(self):
        return f"<Caller {self.filename}:{self.line} in {self.code.co_name}>"


def caller_of(depth):
    """The Python code that called a public method.

    Args:
        depth: how many Python functions of this package lie between, where it is not compiled; compiled functions leave
            no frame, and the caller's is the topmost.
    """
    frame = sys._getframe(0 if cython.compiled else depth)
    return Caller(frame.f_code, frame.f_lasti)
