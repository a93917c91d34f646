"""A machine of frames, page tables and an MMU, and nothing else: what the tests of this folder run on."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch, TableCare, TableSync
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.mmu.mmu import Mmu
from vmalloc.machine.simulated.mmu.sizes import TlbSize, default_sizes, make_tlbs
from vmalloc.machine.simulated.page_tables.tables import PageTables
from vmalloc.units import align_up

R, RW, SPECIAL = 1, 3, 8

#: No architecture of the table has the fault handler alone; riscv32, mips and others have (section 8.4).
FAULT_32 = replace(
    ARCHITECTURES["x86_32"],
    name="fault_32",
    table_syncs=(TableSync(TableCare.FAULT, vmalloc_faults=True),),
)
ARCHES = {**ARCHITECTURES, "fault_32": FAULT_32}


def small_sizes(arch: Arch) -> tuple[TlbSize, ...]:
    """TLBs that are soon full."""
    return tuple(TlbSize(size.shift, 8, 2) for size in default_sizes(arch))


class Rig:
    """A machine; CPU ``k`` has root ``k + 1`` of the page tables, and runs on root 0 until it is switched."""

    def __init__(
        self,
        arch: str = "x86_64",
        kernel: str = "6.19",
        *,
        cpus: int = 2,
        sizes: Iterable[TlbSize] | None = None,
        policy: str = "lru",
        nr_frames: int = 1 << 14,
        changes: dict[str, object] | None = None,
    ) -> None:
        self.arch = replace(ARCHES[arch], **(changes or {}))
        self.kernel = PROFILES[kernel]
        self.memory = PhysicalMemory([nr_frames], page_shift=self.arch.page_shift, cpus=cpus, fill=0xEE)
        self.tables = PageTables(self.memory.frames, self.memory.contents, self.arch, self.kernel, cpus + 1)
        self.tlbs = make_tlbs(self.arch, cpus, sizes, policy)
        self.mmu = Mmu(self.tables, self.memory.contents, self.tlbs)
        self.page = self.arch.page_size
        #: What had to be flushed after the last ``map_range``.
        self.owed = (0, 0)
        #: Where the tests map: aligned for the largest leaves that are mapped here.
        self.base = align_up(self.arch.vmalloc_start, 1 << self.arch.level("pmd").shift)

    def at(self, page: int, offset: int = 0) -> int:
        """The address of a page of the area, counted from ``base``."""
        return self.base + page * self.page + offset

    def map(self, page: int, pfns: list[int], prot: int = RW) -> int:
        return self.tables.do_map_pages(self.at(page), array("Q", pfns), prot)

    def map_new(self, page: int, count: int = 1, prot: int = RW) -> list[int]:
        """Maps fresh frames, as memory is handed out."""
        pfns = [self.memory.allocate() for _ in range(count)]
        assert self.map(page, pfns, prot) == 0
        return pfns

    def map_range(self, page: int, pfn: int, nr_pages: int, max_shift: int, prot: int = RW) -> int:
        code = self.tables.do_map_range(self.at(page), pfn, nr_pages * self.page, max_shift, prot)
        self.owed = (self.tables.owed_flush_start, self.tables.owed_flush_end)
        if self.owed != (0, 0):  # a table made room for a leaf
            self.mmu.do_flush(*self.owed)
            self.tables.do_settle_flush()
        return code

    def unmap(self, page: int, count: int = 1) -> int:
        return self.tables.do_unmap(self.at(page), self.at(page + count))

    def flush(self, page: int, count: int = 1) -> int:
        return self.mmu.do_flush(self.at(page), self.at(page + count))

    def outcome(self, page: int, *, cpu: int = 0, write: bool = False) -> int:
        return self.mmu.do_translate(cpu, self.at(page), write)[0]

    def frame(self, page: int, *, cpu: int = 0, write: bool = False) -> int:
        return self.mmu.do_translate(cpu, self.at(page), write)[1]
