"""``areas_table``: all areas as one NumPy table, for who wants to compute with them.

Rows are in the order of ``/proc/vmallocinfo``, with the pooled ranges, which that file does not show, at the end.  One
row is one ``vmap_area``: what only a ``vm_struct`` knows is 0, -1 or empty where there is none, as for ``vm_map_ram``
ranges, early memory and everything that was freed.

NumPy is imported when a table is asked for: whoever asks for none need not have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmalloc.areas.address_space import VmapArea
from vmalloc.calls.state import VmallocState
from vmalloc.flags import NUMA_NO_NODE
from vmalloc.views.callers import CallerTexts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FIELDS", "areas_table"]

#: The fields of a row, and NumPy's names of their types. ``caller`` is a Python string: most are the same few.
FIELDS = (
    ("start", "u8"),
    ("end", "u8"),
    ("size", "u8"),
    ("requested_size", "u8"),
    ("flags", "u4"),
    ("nr_pages", "u8"),
    ("node", "i4"),
    ("state", "U6"),
    ("caller", "O"),
)


def areas_table(state: VmallocState) -> NDArray[np.void]:
    """All areas: busy, lazy and pooled ones.

    Returns:
        A structured array of ``FIELDS``: ``start``, ``end``, ``size`` in bytes, the guard page included;
        ``requested_size`` in bytes; ``flags``, ``VM_*``; ``nr_pages``, frames that the area knows; ``node``, the NUMA
        node of the first of them, or -1; ``state``, ``"busy"``, ``"lazy"`` or ``"pooled"``; ``caller`` in words.

    Raises:
        ImportError: there is no NumPy.
    """
    import numpy as np

    callers = CallerTexts()
    rows = [_row(state, area, callers) for area in state.space.busy()]
    rows += [_row_of_freed(area) for area in state.space.lazy() + state.space.pooled()]
    return np.array(rows, dtype=list(FIELDS))


def _row(state: VmallocState, area: VmapArea, callers: CallerTexts) -> tuple[Any, ...]:
    vm = state.areas.get(area.start)
    if vm is None:
        return _row_of_freed(area)
    node = state.machine.node_of(vm.pages[0]) if vm.nr_pages else NUMA_NO_NODE
    caller = callers.text(vm.caller)
    return (area.start, area.end, area.size, vm.requested_size, vm.flags, vm.nr_pages, node, area.state, caller)


def _row_of_freed(area: VmapArea) -> tuple[Any, ...]:
    """A row for a range that nothing but its addresses is known of."""
    return (area.start, area.end, area.size, 0, 0, 0, NUMA_NO_NODE, area.state, "")
