"""``meminfo``: the lines about vmalloc in ``/proc/meminfo`` (specification section 10.2), and the one behind them.

``VmallocUsed`` counts frames that areas own, and nothing else: not addresses, not guard pages, not what ``vmap`` or
``ioremap`` map.  ``VmallocChunk`` is 0: finding the largest free range was too slow to be asked for by every reader of
the file, and the line stayed (``stats()["largest_free"]`` has the number).  ``Percpu`` counts frames of per-CPU
objects, those of all CPUs.
"""

from __future__ import annotations

from vmalloc.calls.state import VmallocState

__all__ = ["meminfo"]


def meminfo(state: VmallocState) -> str:
    """The lines ``VmallocTotal``, ``VmallocUsed``, ``VmallocChunk`` and ``Percpu``, in kB as the file prints them."""
    numbers = {
        "VmallocTotal": (state.vmalloc_end - state.vmalloc_start) >> 10,
        "VmallocUsed": (state.nr_vmalloc_pages << state.page_shift) >> 10,
        "VmallocChunk": 0,
        "Percpu": (state.percpu_pages << state.page_shift) >> 10,
    }
    return "".join([f"{name + ':':16}{kb:8d} kB\n" for name, kb in numbers.items()])
