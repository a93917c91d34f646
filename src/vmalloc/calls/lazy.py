"""The lazy stage: a range whose mappings are gone waits for a flush (specification section 4.2).

What follows when a range has become lazy is the same for areas and for what ``vm_map_ram`` had: the kernel's trace
event, and drain work when there are more lazy pages than the threshold.
"""

from vmalloc.units import format_address

__all__ = ["Drain", "became_lazy", "free_vmap_area_noflush"]


def free_vmap_area_noflush(state, address):
    """Makes the busy range that contains ``address`` lazy; nothing is mapped in it any more.

    Raises:
        MemoryError: no memory to note it; nothing was changed.
    """
    if state.allocator.make_lazy(address) != 0:
        raise MemoryError(f"no memory to note that the range at {format_address(address)} is lazy")
    became_lazy(state, address)


def became_lazy(state, address):
    """Traces a range that is lazy now, and has work queued when there are more lazy pages than the threshold."""
    lazy = state.allocator.nodes.nr_lazy
    if state.observer is not None:
        state.observer("free_vmap_area_noflush", va_start=address, nr_lazy=lazy, nr_lazy_max=state.lazy_max)
    if lazy > state.lazy_max and not state.drain_queued:
        state.drain_queued = True
        state.machine.defer(Drain(state), state.machine.running.cpu)


class Drain:
    """The drain work: one purge, up to 6.8 repeated until the lazy pages are below the threshold (section 4.4)."""

    def __init__(self, state):
        self.state = state

    def __call__(self):
        state = self.state
        state.drain_queued = False
        state.space.purge()
        while state.kernel.drain_repeats and state.space.nr_lazy > state.lazy_max:
            state.space.purge()
