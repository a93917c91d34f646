"""Linux's vmalloc as a Python package: buffers contiguous in virtual addresses, built from any free page frames.

One allocator, written once, agrees with Linux address by address and runs over interchangeable *machines*: real memory
of this process on Linux, or the frames, page tables, TLBs and CPUs of a modelled computer anywhere.  *Areas* decide
which addresses; a *machine* knows what memory is; *calls* are the only place where the two meet.

``vmalloc.simulated()`` makes an allocator over a modelled computer: the whole family of calls, observable.

``vmalloc replay`` on the command line runs a recording of a real kernel through the allocator and reports where the two
agree.  Every error derives from ``VmallocError``; addresses are printed in hexadecimal and sizes carry their unit.

The hot modules are compiled; ``VMALLOC_PURE=1`` in the environment runs the same sources uncompiled (see ``_build``).
"""

from typing import TYPE_CHECKING, Any

from vmalloc import _build as _build  # first: it decides whether the modules below come compiled
from vmalloc.errors import (
    BadAddress,
    BadContext,
    BadFrame,
    BadRequest,
    BadSize,
    ExceedsMemory,
    Fault,
    MachineUnavailable,
    OutOfAddresses,
    OutOfFrames,
    TraceError,
    ValidationError,
    VmallocError,
)

__all__ = [
    "Area",
    "BadAddress",
    "BadContext",
    "BadFrame",
    "BadRequest",
    "BadSize",
    "EarlyAreas",
    "ExceedsMemory",
    "Fault",
    "MachineUnavailable",
    "OutOfAddresses",
    "OutOfFrames",
    "Pages",
    "Policy",
    "TraceError",
    "UserMapping",
    "ValidationError",
    "VmallocError",
    "VmallocSpace",
    "__version__",
    "simulated",
]

#: Where what is not an error comes from. It is loaded when it is asked for: the command line needs none of it, and
#: importing a machine costs more than everything else here together.
_LAZY = {
    "Area": "vmalloc.space.area",
    "EarlyAreas": "vmalloc.calls.early",
    "Pages": "vmalloc.pages",
    "Policy": "vmalloc.policy",
    "UserMapping": "vmalloc.calls.remap",
    "VmallocSpace": "vmalloc.space.space",
    "simulated": "vmalloc.space.simulated",
}

if TYPE_CHECKING:
    from vmalloc.calls.early import EarlyAreas
    from vmalloc.calls.remap import UserMapping
    from vmalloc.pages import Pages
    from vmalloc.policy import Policy
    from vmalloc.space.area import Area
    from vmalloc.space.simulated import simulated
    from vmalloc.space.space import VmallocSpace

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            from importlib import import_module

            # Kept: the next one who asks finds it, and `vmalloc.simulated` stays the function it is.
            found = globals()[name] = getattr(import_module(_LAZY[name]), name)
            return found
        # Looked up when asked for: importlib.metadata costs more than the rest of this import together.
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("vmalloc")
        except PackageNotFoundError:
            return "0+unknown"  # run from a source tree that was never installed


def __dir__() -> list[str]:
    return sorted(__all__)
