"""Sizes, addresses and ranges: the arithmetic every floor shares.

Conventions of the whole package (style rule *units-in-names*):

* a plain ``size``, ``start``, ``end`` or address is **bytes**; page counts say ``nr_pages``, exponents say ``order``
  or ``shift``;
* every range is half open, ``[start, end)``, and is passed as two numbers;
* the machine word has 64 bits; addresses are unsigned and wrap modulo 2**64 (specification section 0.2).
"""

from __future__ import annotations

__all__ = [
    "ADDRESS_MAX",
    "KIB",
    "MIB",
    "GIB",
    "TIB",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "align_down",
    "align_up",
    "format_address",
    "format_range",
    "format_size",
    "is_power_of_two",
    "parse_size",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

#: Base page of the reference machine (x86-64); other page sizes are passed explicitly.
PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

#: The largest address, ``2**64 - 1``; also the exclusive end of the initial free space (specification section 1.5).
ADDRESS_MAX = (1 << 64) - 1

_SUFFIXES = (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB))


def is_power_of_two(value: int) -> bool:
    """Tells whether ``value`` is a positive power of two."""
    return value > 0 and value & (value - 1) == 0


def align_down(value: int, alignment: int) -> int:
    """Rounds ``value`` down to a multiple of ``alignment``, a power of two."""
    return value & ~(alignment - 1)


def align_up(value: int, alignment: int) -> int:
    """Rounds ``value`` up to a multiple of ``alignment``, a power of two."""
    return (value + alignment - 1) & ~(alignment - 1)


def format_address(address: int) -> str:
    """Prints an address the way the kernel does: ``0xffffc90000000000``."""
    return f"{address:#018x}" if address >= 1 << 32 else f"{address:#x}"


def format_range(start: int, end: int) -> str:
    """Prints the half-open range ``[start, end)`` as ``0x...-0x...``."""
    return f"{format_address(start)}-{format_address(end)}"


def format_size(size: int) -> str:
    """Prints a byte count with its unit: exact when it is a whole number of a binary unit, else with one decimal."""
    for suffix, unit in _SUFFIXES:
        if size >= unit:
            return f"{size // unit} {suffix}" if size % unit == 0 else f"{size / unit:.1f} {suffix}"
    return f"{size} B"


def parse_size(text: str) -> int:
    """Reads ``"4GiB"``, ``"64 KiB"``, ``"4096"`` or ``"2M"`` as bytes (binary units only).

    Raises:
        ValueError: the text is not a non-negative whole number with an optional unit.
    """
    words = text.strip()
    digits = words.rstrip("KMGTiBkmgtb ")
    unit = words[len(digits) :].strip().upper().rstrip("B").rstrip("I")
    factor = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}.get(unit)
    if factor is None or not digits.isdigit():
        raise ValueError(f"not a size: {text!r}; write a whole number and perhaps a unit: 4096, 64KiB, 4GiB")
    return int(digits) * factor
