"""Linux's vmalloc as a Python package: buffers contiguous in virtual addresses, built from any free page frames.

One allocator, written once, agrees with Linux address by address and runs over interchangeable *machines*: real memory
of this process on Linux, or the frames, page tables, TLBs and CPUs of a modelled computer anywhere.  *Areas* decide
which addresses; a *machine* knows what memory is; *calls* are the only place where the two meet.

``vmalloc replay`` on the command line runs a recording of a real kernel through the allocator and reports where the two
agree.  Every error derives from ``VmallocError``; addresses are printed in hexadecimal and sizes carry their unit.

The hot modules are compiled; ``VMALLOC_PURE=1`` in the environment runs the same sources uncompiled (see ``_build``).
"""

from typing import TYPE_CHECKING

from vmalloc import _build as _build  # first: it decides whether the modules below come compiled
from vmalloc.errors import (
    BadAddress,
    BadContext,
    BadFrame,
    BadRequest,
    BadSize,
    Fault,
    MachineUnavailable,
    OutOfAddresses,
    OutOfFrames,
    TraceError,
    ValidationError,
    VmallocError,
)

__all__ = [
    "BadAddress",
    "BadContext",
    "BadFrame",
    "BadRequest",
    "BadSize",
    "Fault",
    "MachineUnavailable",
    "OutOfAddresses",
    "OutOfFrames",
    "TraceError",
    "ValidationError",
    "VmallocError",
    "__version__",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        # Looked up when asked for: importlib.metadata costs more than the rest of this import together.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vmalloc")
        except PackageNotFoundError:
            return "0+unknown"  # run from a source tree that was never installed
