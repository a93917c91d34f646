"""The one home of the line format of ``/proc/vmallocinfo``: an area to text, and text to an area.

::

    0xffffc90000005000-0xffffc90000007000    8192 acpi_os_map_iomem+0x1a9/0x1e0 phys=0x000000007ffe2000 ioremap
    0xffffc90000200000-0xffffc90000a01000 8392704 alloc_large_system_hash+0x15c/0x2c0 pages=2048 vmalloc vpages N0=2048
    0xffffc90002c00000-0xffffc90003000000 4194304 vm_map_ram
    0xffffc90000138000-0xffffc9000013d000   20480 unpurged vm_area

Specification section 10.1 has the items, their order and when each is there.  What is written can be read, because both
directions stand here: ``views.vmallocinfo`` writes the lines of a live allocator, ``trace.vmallocinfo`` reads recorded
files of them.  ``parse_line(format_line(area)) == area`` for every area that a kernel can have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

__all__ = ["AREA", "UNPURGED", "VM_MAP_RAM", "WORDS", "SnapshotArea", "format_line", "parse_line", "symbol_of"]

AREA = "area"
VM_MAP_RAM = "vm_map_ram"
UNPURGED = "unpurged"

#: The flag words in the order the kernel prints them.
WORDS = ("ioremap", "sparse", "vmalloc", "vmap", "user", "dma-coherent", "vpages")

_WORD = "|".join(WORDS)
_CALLER = r"(?:\S+\+0x[0-9a-f]+/0x[0-9a-f]+|0x[0-9a-f]+)"
_MODULE = r"[^\]\s]+"
_LINE = re.compile(
    r"0x(?P<start>[0-9a-f]{1,16})-0x(?P<end>[0-9a-f]{1,16}) +(?P<size>[0-9]{1,20})"
    r"(?:(?P<ram> vm_map_ram)|(?P<unpurged> unpurged vm_area)|"
    rf"(?P<caller> {_CALLER}(?: \[(?P<module>{_MODULE})\])?)?"
    r"(?: pages=(?P<pages>[0-9]{1,20}))?(?: phys=0x(?P<phys>[0-9a-f]{1,16}))?"
    rf"(?P<words>(?: (?:{_WORD}))*)(?P<nodes>(?: N[0-9]{{1,4}}=[0-9]{{1,20}})*))\s*",
    re.ASCII,
)
_SYMBOL = re.compile(rf"(?P<caller>{_CALLER})(?: \[(?P<module>{_MODULE})\])?", re.ASCII)
_NOT_IN_A_SYMBOL = re.compile(r"[^\w.<>$@-]")


@dataclass(frozen=True, slots=True)
class SnapshotArea:
    """One line.

    Attributes:
        start, end: the range ``[start, end)``, guard page included.
        size: ``end - start`` in bytes, as the line says.
        caller: who asked for the area, as ``symbol+0xoffset/0xsize``; empty when not recorded.
        module: the module ``caller`` is in, or empty.
        pages: number of pages behind the area, 0 when not printed.
        phys: physical address of an ``ioremap``, or ``None``.
        words: the flags printed, in the kernel's order.
        nodes: pages per memory node.
        kind: ``"area"``, ``"vm_map_ram"`` or ``"unpurged"``.
    """

    start: int
    end: int
    size: int
    caller: str = ""
    module: str = ""
    pages: int = 0
    phys: int | None = None
    words: tuple[str, ...] = ()
    nodes: dict[int, int] = field(default_factory=dict)
    kind: str = AREA


def format_line(area: SnapshotArea, *, pointer_digits: int = 16, phys_digits: int = 16) -> str:
    """Writes an area as ``/proc/vmallocinfo`` does, without the newline.

    Args:
        pointer_digits: hexadecimal digits of an address (``%pK``): 8 on 32 bits.
        phys_digits: those of a physical address (``%pa``): 8 where physical addresses have 32 bits, too.
    """
    words = [f"0x{area.start:0{pointer_digits}x}-0x{area.end:0{pointer_digits}x} {area.size:7d}"]
    if area.kind == VM_MAP_RAM:
        words.append("vm_map_ram")
    elif area.kind == UNPURGED:
        words.append("unpurged vm_area")
    else:
        words += [area.caller] if area.caller else []
        words += [f"[{area.module}]"] if area.module else []
        words += [f"pages={area.pages}"] if area.pages else []
        words += [f"phys=0x{area.phys:0{phys_digits}x}"] if area.phys is not None else []
        words += area.words
        words += [f"N{node}={pages}" for node, pages in area.nodes.items()]
    return " ".join(words)


def parse_line(text: str) -> SnapshotArea | None:
    """Reads a line without its newline; None when it has another format. Whether its numbers agree is not looked at."""
    found = _LINE.fullmatch(text)
    if not found:
        return None
    nodes = (word[1:].split("=") for word in (found["nodes"] or "").split())
    return SnapshotArea(
        start=int(found["start"], 16),
        end=int(found["end"], 16),
        size=int(found["size"]),
        caller=(found["caller"] or "").lstrip().partition(" ")[0],
        module=found["module"] or "",
        pages=int(found["pages"] or 0),
        phys=int(found["phys"], 16) if found["phys"] else None,
        words=tuple((found["words"] or "").split()),
        nodes={int(node): int(pages) for node, pages in nodes},
        kind=VM_MAP_RAM if found["ram"] else UNPURGED if found["unpurged"] else AREA,
    )


@lru_cache(maxsize=1024)
def symbol_of(text: str) -> tuple[str, str]:
    """A caller as the kernel could print it (``%pS``): its symbol with offset and size, and its module or nothing.

    The kernel's callers are return addresses, which always have an offset in a symbol of some size.  Free text, which a
    user of this package may give instead, becomes a symbol of its own, of no size.  Cached: callers repeat.

    >>> symbol_of("load_module+0x4d3/0x2e00 [kernel]")
    ('load_module+0x4d3/0x2e00', 'kernel')
    >>> symbol_of("my driver")
    ('my_driver+0x0/0x0', '')
    """
    if not text:
        return "", ""
    found = _SYMBOL.fullmatch(text)
    if found:
        return found["caller"], found["module"] or ""
    return f"{_NOT_IN_A_SYMBOL.sub('_', text)}+0x0/0x0", ""
