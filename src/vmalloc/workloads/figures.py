"""What real kernels needed for the same cases, each figure with where it comes from.

Two sources, which must not be mixed:

* ``GUESTS``: the module itself in guests of qemu 7.2 that *emulates* the processor (TCG, ``-cpu max``, q35), on two
  host cores that other work shared; tracing off, N workers at once on N virtual CPUs.  Compare columns and rows with
  each other, not with hardware: noise is about 30 %, and with 16 virtual CPUs the means are the host's scheduling.
  Loops per worker were 20,000 with 1 CPU, 2,000 with 4 and 300 with 16 (``full_fit_alloc`` a quarter of that,
  ``long_busy_list_alloc`` a twentieth, 256 pages a tenth).
* ``NATIVE``: rates on hardware under 6.18: 500,000 loops on an arm64 server, computed from what developers published
  (specification section 11.3); and a virtual machine with two CPUs of AMD EPYC, the self times of vmalloc's own
  functions per pair of one page, page allocator and slab left out.

Nothing is estimated; a case without a figure has none.

``full_fit_alloc`` and ``long_busy_list_alloc`` were measured with their set-up in it, divided by few loops.
``pcpu_alloc`` has no inner loop: its figures are of the whole case, 35,000 objects (recorded as if divided by 1,000
loops with one CPU and 100 with four, which is undone here; otherwise an object would take 15 ns with one CPU and 670 ns
with four).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GUESTS", "NATIVE", "Figure", "guest_figure"]


@dataclass(frozen=True)
class Figure:
    """One figure of a real kernel.

    Attributes:
        case: its name. kernel: release. cpus: of the machine, with a worker on each; 0: not known.
        best_ns, mean_ns: nanoseconds per loop, of the quickest worker and on average.
        nr_pages: the parameter.
        machine: what it was measured on, where ``GUESTS`` does not say.
    """

    case: str
    kernel: str
    cpus: int
    best_ns: float
    mean_ns: float
    nr_pages: int = 1
    machine: str = ""


def _row(case: str, *pairs: tuple[int, int] | None, nr_pages: int = 1, times: tuple[int, int] = (1, 1)) -> list[Figure]:
    """A row of the table: 6.12 and 6.1 with 1, 4 and 16 CPUs each; ``times`` undoes a division."""
    columns = [(kernel, cpus) for kernel in ("6.12", "6.1") for cpus in (1, 4, 16)]
    found = []
    for (kernel, cpus), pair in zip(columns, pairs, strict=True):
        if pair is not None:
            factor = times[0] if cpus == 1 else times[1]
            found.append(Figure(case, kernel, cpus, pair[0] * factor, pair[1] * factor, nr_pages))
    return found


GUESTS: tuple[Figure, ...] = (
    *_row("fix_size_alloc", (9214, 9330), (15202, 18815), (9513, 88732), (8941, 9158), (23304, 31955), (9623, 58065)),
    *_row(
        "fix_size_alloc", (130871, 159517), (178794, 188018), (1072733, 1830319), (84801, 87252), (157928, 200963),
        (788680, 1264419), nr_pages=16,
    ),
    *_row(
        "fix_size_alloc", (2492371, 2663838), (2378910, 2838428), None, (1308490, 1322600), (3010265, 3241216), None,
        nr_pages=256,
    ),
    *_row("full_fit_alloc", (45468, 56545), (2716930, 3880253), None, (46992, 54637), (3222378, 4617434), None),
    *_row(
        "long_busy_list_alloc", (713526, 722090), (4093690, 5354996), None, (677067, 681214), (5300720, 6491882), None,
    ),
    *_row(
        "random_size_alloc", (310232, 327695), (571756, 599555), (2330490, 2779304), (280737, 364558), (589382, 631851),
        (2659453, 3391804),
    ),
    *_row(
        "fix_align_alloc", (32433, 34463), (32866, 59329), (185713, 352957), (31754, 42770), (80098, 95899),
        (363937, 734498),
    ),
    *_row(
        "random_size_align_alloc", (36585, 46603), (66680, 70522), (74240, 273947), (60911, 64035), (76282, 92031),
        (357107, 785842),
    ),
    *_row(
        "pcpu_alloc", (513324, 516226), (23605590, 26316059), None, (945104, 953036), (28723200, 30835515), None,
        times=(1000, 100),
    ),
    *_row(
        "kvfree_rcu_1_arg", (16020, 16780), (16919, 20414), (9323, 117980), (19743, 21002), (19048, 22084),
        (9720, 228594),
    ),
    *_row(
        "kvfree_rcu_2_arg", (16244, 21744), (9216, 17227), (9880, 33367), (11520, 11758), (16539, 22573), (9057, 40528),
    ),
    *_row("vm_map_ram", (1878, 2011), (1244, 2512), (1327, 2078), None, None, None),
)  # fmt: skip

_ARM64 = "arm64 server, 500,000 loops"

NATIVE: tuple[Figure, ...] = (
    Figure("fix_size_alloc", "6.18", 0, 366_167_000 / 500_000, 366_167_000 / 500_000, 1, _ARM64),
    Figure("fix_size_alloc", "6.18", 0, 489_484_000 / 500_000, 489_484_000 / 500_000, 4, _ARM64),
    Figure("fix_align_alloc", "6.18", 0, 653_643_000 / 500_000, 653_643_000 / 500_000, 1, _ARM64),
    Figure("fix_size_alloc", "6.18", 2, 1280, 1280, 1, "AMD EPYC virtual machine, vmalloc's own functions only"),
)


def guest_figure(case: str, kernel: str, cpus: int, nr_pages: int = 1) -> Figure | None:
    """The figure of a guest, or None."""
    for figure in GUESTS:
        if (figure.case, figure.kernel, figure.cpus, figure.nr_pages) == (case, kernel, cpus, nr_pages):
            return figure
    return None
