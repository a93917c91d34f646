"""What the tests of ``vm_map_ram`` share: spaces whose flushes are counted and traced, and the numbers of blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vmalloc.kernels import PROFILES
from vmalloc.machine.simulated.arch import ARCHITECTURES, Arch
from vmalloc.machine.simulated.machine import SimulatedMachine
from vmalloc.machine.wrappers import CountingMachine, FailingMachine
from vmalloc.space.simulated import SimulatedSpace

PAGE = 4096
MAPPED = 0x10000000
BLOCK = 1024 * PAGE

#: An x86-64 whose vmalloc range is that of appendix A.11: 64 MiB from 0x10000000.
LOW = replace(
    ARCHITECTURES["x86_64"],
    kernel_start=0,
    kernel_end=1 << 47,
    vmalloc_start=MAPPED,
    vmalloc_end=0x14000000,
    direct_map_start=1 << 46,
)


class Watched:
    """A space, the flushes that reach its machine, and what the kernel would trace."""

    def __init__(self, kernel: str = "6.19", cpus: int = 2, arch: Arch | str = LOW) -> None:
        found = ARCHITECTURES[arch] if isinstance(arch, str) else arch
        self.machine = CountingMachine(
            FailingMachine(SimulatedMachine(found, PROFILES[kernel], cpus=cpus, nodes=(1 << 14,)))
        )
        self.trace: list[tuple[str, dict[str, Any]]] = []
        self.space = SimulatedSpace(self.machine, PROFILES[kernel], (), self.tell)
        self.frames = self.space.alloc_pages(200)

    def tell(self, event: str, /, **fields: Any) -> None:
        self.trace.append((event, fields))

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """The trace since the last time."""
        found, self.trace = self.trace, []
        return found

    def flushes(self) -> list[tuple[int, int]]:
        """The flushes since the last time."""
        found = list(self.machine.flush_hulls)
        self.machine.flush_hulls.clear()
        return found

    def map(self, count: int, cpu: int = 0) -> int:
        with self.space.on_cpu(cpu):
            address: int = self.space.vm_map_ram(self.frames[:count])
        return address

    def unmap(self, address: int, count: int, cpu: int = 0) -> None:
        with self.space.on_cpu(cpu):
            self.space.vm_unmap_ram(address, count)

    def block(self, start: int) -> tuple[int, int, tuple[int, int] | None]:
        """``(free, dirty, dirty range)`` of the block at ``start``, as appendix A.11 writes them."""
        blocks = self.space.state.blocks
        fields = blocks.get(blocks.at(start))
        assert fields["va_start"] == start
        low, high = fields["dirty_min"], fields["dirty_max"]
        return fields["free"], fields["dirty"], (low, high) if low < high else None
