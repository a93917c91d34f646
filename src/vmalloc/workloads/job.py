"""``Job``: what a case is given - a space to work on, sizes, random numbers - and what it says back.

A case is a generator of steps: it allocates, touches or frees once, and yields; other CPUs go on then.  It says where
its loops begin and end, so that its set-up is not counted with them.  It fails by raising ``CaseFailed`` or any error
of the space.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from vmalloc.errors import VmallocError

if TYPE_CHECKING:
    from vmalloc.workloads.parameters import Parameters

__all__ = ["TOUCH", "CaseFailed", "Job"]

#: What a touch stores in the first byte of an area.
TOUCH = b"\0"

#: Bytes that ``THREAD_ALIGN`` has on x86-64: kernel stacks are aligned to their size.
_THREAD_ALIGN = 16 << 10

_LAZY_BYTES_PER_FLS = 32 << 20


class CaseFailed(VmallocError):
    """A case found something other than it must find."""


@dataclass
class Job:
    """One worker's work on one case.

    Attributes:
        space: where to allocate. Anything that has the calls of ``VmallocSpace``.
        parameters: how much.
        random: this worker's numbers.
        clock: nanoseconds that this worker has run.
        page_size: bytes. online_cpus: of the machine.
    """

    space: Any
    parameters: Parameters
    random: Random
    clock: Callable[[], int]
    page_size: int
    online_cpus: int
    loops_began: int | None = None
    loops_ended: int | None = None

    @property
    def loops(self) -> range:
        """The inner loops; asking for them ends the set-up."""
        self.loops_began = self.clock()
        return range(self.parameters.test_loop_count)

    def end_loops(self) -> None:
        """The rest takes down what the set-up built."""
        self.loops_ended = self.clock()

    @property
    def size(self) -> int:
        """``nr_pages`` in bytes."""
        return self.parameters.size_pages * self.page_size

    @property
    def junk_pairs(self) -> int:
        """Pairs of areas that fragment the address space: ``fls(CPUs) * 32 MiB`` in pages."""
        pages = self.online_cpus.bit_length() * _LAZY_BYTES_PER_FLS // self.page_size
        return max(1, pages // self.parameters.setup_divisor)

    @property
    def busy_areas(self) -> int:
        """Areas that make the busy set long."""
        return max(1, 15_000 // self.parameters.setup_divisor)

    @property
    def stack_align(self) -> int:
        """Twice the alignment of a kernel stack, bytes."""
        return 2 * max(_THREAD_ALIGN, self.page_size)

    def below(self, limit: int) -> int:
        """A random number from 0 to ``limit - 1``."""
        return int(self.random.random() * limit)
