"""The host machine: real memory of this process, on Linux.

``syscalls`` is the one module that makes system calls. ``capabilities`` says what may be found here and what serves
instead where it is not; ``probe`` finds out, once per process, by doing each thing on a scratch mapping and looking at
the result, never by the kernel's version. ``maps`` reads what the kernel says about mappings, ``limits`` and ``cgroup``
what bounds them.

System calls exist on Linux only, and only compiled. Whoever wants this machine asks ``require`` first; importing this
folder, or the modules of it that only read text, works anywhere.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from vmalloc import _build
from vmalloc.errors import MachineUnavailable

__all__ = ["require", "why_unavailable"]


def why_unavailable() -> str | None:
    """Says why there is no host machine in this process, and what to change; None when there is one."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}; vmalloc.simulated() works here"
    if _build.PURE:
        return "it exists only compiled, and VMALLOC_PURE asks for the uncompiled build; unset VMALLOC_PURE"
    if find_spec("vmalloc.machine.host.syscalls") is None:
        return "it exists only compiled, and this installation was built without compiling; build it with a C compiler"
    return None


def require() -> None:
    """Makes sure that there is a host machine in this process.

    Raises:
        MachineUnavailable: there is none; the message says why, and what to change.
    """
    reason = why_unavailable()
    if reason is not None:
        raise MachineUnavailable(f"no host machine: {reason}")
