"""Flags and small numbers that all floors share: areas, allocation requests, protections, contexts.

The kernel's names and values where it has them: ``VM_*`` of ``vm_struct.flags`` (specification section 1.3), ``GFP_*``
(section 2.3; the values of 6.x).  Plain integers: they are combined millions of times a second.  Compiled modules
mirror the ones they need in an ``enum`` of their ``.pxd``; ``tests/test_flags.py`` holds the two against each other.
"""

from __future__ import annotations

from vmalloc.errors import BadRequest

__all__ = [
    "CONTEXT_NAMES",
    "GFP_ATOMIC",
    "GFP_DMA32",
    "GFP_KERNEL",
    "GFP_NAMES",
    "GFP_NOFS",
    "GFP_NOIO",
    "GFP_NOWAIT",
    "GFP_USER",
    "GFP_ZERO",
    "HARDIRQ",
    "NMI",
    "NUMA_NO_NODE",
    "PROT_EXEC",
    "PROT_NAMES",
    "PROT_READ",
    "PROT_SPECIAL",
    "PROT_WRITE",
    "SOFTIRQ",
    "TAKE_DMA32",
    "TAKE_INTERLEAVED",
    "TAKE_MAY_DRAIN",
    "TAKE_STRICT",
    "TAKE_ZERO",
    "TASK",
    "VM_ALLOC",
    "VM_ALLOW_HUGE_VMAP",
    "VM_DEFER_KMEMLEAK",
    "VM_DMA_COHERENT",
    "VM_FLAG_NAMES",
    "VM_FLUSH_RESET_PERMS",
    "VM_IOREMAP",
    "VM_KASAN",
    "VM_MAP",
    "VM_MAP_PUT_PAGES",
    "VM_NO_GUARD",
    "VM_SPARSE",
    "VM_UNINITIALIZED",
    "VM_USERMAP",
    "format_gfp",
    "format_vm_flags",
    "parse_prot",
]

# -- vm_struct.flags (section 1.3) -------------------------------------------------------------------------------------

VM_IOREMAP = 0x0001
VM_ALLOC = 0x0002
VM_MAP = 0x0004
VM_USERMAP = 0x0008
VM_DMA_COHERENT = 0x0010
VM_UNINITIALIZED = 0x0020
VM_NO_GUARD = 0x0040
VM_KASAN = 0x0080
VM_FLUSH_RESET_PERMS = 0x0100
VM_MAP_PUT_PAGES = 0x0200
VM_ALLOW_HUGE_VMAP = 0x0400
VM_DEFER_KMEMLEAK = 0x0800
VM_SPARSE = 0x1000

VM_FLAG_NAMES = {
    VM_IOREMAP: "VM_IOREMAP",
    VM_ALLOC: "VM_ALLOC",
    VM_MAP: "VM_MAP",
    VM_USERMAP: "VM_USERMAP",
    VM_DMA_COHERENT: "VM_DMA_COHERENT",
    VM_UNINITIALIZED: "VM_UNINITIALIZED",
    VM_NO_GUARD: "VM_NO_GUARD",
    VM_KASAN: "VM_KASAN",
    VM_FLUSH_RESET_PERMS: "VM_FLUSH_RESET_PERMS",
    VM_MAP_PUT_PAGES: "VM_MAP_PUT_PAGES",
    VM_ALLOW_HUGE_VMAP: "VM_ALLOW_HUGE_VMAP",
    VM_DEFER_KMEMLEAK: "VM_DEFER_KMEMLEAK",
    VM_SPARSE: "VM_SPARSE",
}

# -- gfp (section 2.3) -------------------------------------------------------------------------------------------------

GFP_DMA = 0x01
GFP_HIGHMEM = 0x02
GFP_DMA32 = 0x04
GFP_HIGH = 0x20
GFP_IO = 0x40
GFP_FS = 0x80
GFP_ZERO = 0x100
GFP_DIRECT_RECLAIM = 0x400
GFP_KSWAPD_RECLAIM = 0x800
GFP_NOWARN = 0x2000
GFP_RETRY_MAYFAIL = 0x4000
GFP_NOFAIL = 0x8000
GFP_NORETRY = 0x10000
GFP_HARDWALL = 0x100000
GFP_THISNODE = 0x200000
GFP_ACCOUNT = 0x400000
GFP_NOLOCKDEP = 0x1000000

GFP_RECLAIM = GFP_DIRECT_RECLAIM | GFP_KSWAPD_RECLAIM
GFP_ATOMIC = GFP_HIGH | GFP_KSWAPD_RECLAIM
GFP_NOWAIT = GFP_KSWAPD_RECLAIM | GFP_NOWARN
GFP_NOIO = GFP_RECLAIM
GFP_NOFS = GFP_RECLAIM | GFP_IO
GFP_KERNEL = GFP_RECLAIM | GFP_IO | GFP_FS
GFP_KERNEL_ACCOUNT = GFP_KERNEL | GFP_ACCOUNT
GFP_USER = GFP_KERNEL | GFP_HARDWALL

#: What ``__vmalloc`` passes on since 6.19; other bits are taken off with a warning (section 2.3).
GFP_VMALLOC_SUPPORTED = (
    GFP_KERNEL | GFP_ATOMIC | GFP_NOWAIT | GFP_NOFS | GFP_NOIO | GFP_USER | GFP_KERNEL_ACCOUNT
    | GFP_NOFAIL | GFP_ZERO | GFP_NORETRY | GFP_NOLOCKDEP
)  # fmt: skip

#: Whole sets first, so that ``format_gfp`` says GFP_KERNEL and not its four bits.
GFP_NAMES = {
    GFP_USER: "GFP_USER",
    GFP_KERNEL: "GFP_KERNEL",
    GFP_NOFS: "GFP_NOFS",
    GFP_ATOMIC: "GFP_ATOMIC",
    GFP_NOIO: "GFP_NOIO",
    GFP_NOWAIT: "GFP_NOWAIT",
    GFP_DMA: "GFP_DMA",
    GFP_HIGHMEM: "__GFP_HIGHMEM",
    GFP_DMA32: "GFP_DMA32",
    GFP_HIGH: "__GFP_HIGH",
    GFP_IO: "__GFP_IO",
    GFP_FS: "__GFP_FS",
    GFP_ZERO: "__GFP_ZERO",
    GFP_DIRECT_RECLAIM: "__GFP_DIRECT_RECLAIM",
    GFP_KSWAPD_RECLAIM: "__GFP_KSWAPD_RECLAIM",
    GFP_NOWARN: "__GFP_NOWARN",
    GFP_RETRY_MAYFAIL: "__GFP_RETRY_MAYFAIL",
    GFP_NOFAIL: "__GFP_NOFAIL",
    GFP_NORETRY: "__GFP_NORETRY",
    GFP_HARDWALL: "__GFP_HARDWALL",
    GFP_THISNODE: "__GFP_THISNODE",
    GFP_ACCOUNT: "__GFP_ACCOUNT",
    GFP_NOLOCKDEP: "__GFP_NOLOCKDEP",
}

#: No NUMA node asked for.
NUMA_NO_NODE = -1

# -- protections of a mapping ------------------------------------------------------------------------------------------

PROT_READ = 1
PROT_WRITE = 2
PROT_EXEC = 4
#: Device memory: there is no page frame behind it.
PROT_SPECIAL = 8

PROT_NAMES = {"r": PROT_READ, "rw": PROT_READ | PROT_WRITE, "rx": PROT_READ | PROT_EXEC, "rwx": 7}

# -- what a machine is asked for
# ----------------------------------------------------------------------------------------

# How frames are taken: a sum of these.
#: From the node asked for, or not at all.
TAKE_STRICT = 1
#: Such that a device with 32 address lines reaches them.
TAKE_DMA32 = 2
#: Frames that other CPUs keep ready may be collected: the caller can wait.
TAKE_MAY_DRAIN = 4
#: Of a batch without a node, as the memory policy of the running task divides it.
TAKE_INTERLEAVED = 8
#: Filled with zeros.
TAKE_ZERO = 16

# -- execution contexts ------------------------------------------------------------------------------------------------

TASK, SOFTIRQ, HARDIRQ, NMI = range(4)
CONTEXT_NAMES = ("task", "softirq", "hardirq", "nmi")


def parse_prot(prot: str) -> int:
    """Reads a protection such as ``"rw"``.

    Raises:
        BadRequest: not one of ``PROT_NAMES``.
    """
    try:
        return PROT_NAMES[prot]
    except (KeyError, TypeError):
        raise BadRequest(f"protection {prot!r}: write one of {', '.join(PROT_NAMES)}") from None


def format_gfp(gfp: int) -> str:
    """Prints a gfp mask as the kernel does: ``GFP_KERNEL|__GFP_ZERO``.

    >>> format_gfp(GFP_KERNEL | GFP_ZERO)
    'GFP_KERNEL|__GFP_ZERO'
    """
    names = []
    for value, name in GFP_NAMES.items():
        if value and gfp & value == value:
            names.append(name)
            gfp &= ~value
    if gfp:
        names.append(f"{gfp:#x}")
    return "|".join(names) or "0"


def format_vm_flags(flags: int) -> str:
    """Prints the flags of an area: ``VM_ALLOC|VM_USERMAP``."""
    names = [name for value, name in VM_FLAG_NAMES.items() if flags & value]
    rest = flags & ~sum(VM_FLAG_NAMES)
    if rest:
        names.append(f"{rest:#x}")
    return "|".join(names) or "0"
