"""``PerCpu``: a user's hold on a per-CPU object.

As ``Area`` is for areas: the object belongs to its handle and is freed with it, whenever that is collected; ``detach``
ends that.  The copy of CPU ``c`` is at ``base + unit_offset[c]``, and these offsets are the same for all objects of a
machine - which is what lets a kernel reach a copy with one addition.
"""

from vmalloc.errors import BadAddress, BadRequest, BadSize

__all__ = ["PerCpu"]


class PerCpu:
    """An object of which every CPU has a copy.

    Args:
        space: the space it is in.
        found: its record.
        owner: whether it is freed with this handle.

    Attributes:
        space, found, owner: as above.
    """

    def __init__(self, space, found, owner=True):
        self.space = space
        self.found = found
        self.owner = owner

    def __del__(self):
        if self.owner and self.found is not None and self.found.live:
            self.space.drop(self.found)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def base(self):
        """The per-CPU pointer: a copy's address without the offset of its CPU."""
        return self.found.chunk.base + self.found.offset

    def __int__(self):
        return self.base

    def __index__(self):
        return self.base

    @property
    def size(self):
        """Bytes of each copy, as asked for."""
        return self.found.size

    def __len__(self):
        return self.found.size

    @property
    def caller(self):
        """Who asked for it, as the kernel prints it."""
        return "" if self.found.caller is None else str(self.found.caller)

    @property
    def alive(self):
        """False once it was freed."""
        return self.found.live

    def address(self, cpu=None):
        """The address of a CPU's copy; of the running CPU's by default (``this_cpu_ptr``).

        Raises:
            BadRequest: there is no such CPU.
        """
        offsets = self.space.percpu.unit_offsets
        number = self.space.machine.running.cpu if cpu is None else cpu
        if not 0 <= number < len(offsets):
            raise BadRequest(f"CPU {number} of a machine whose CPUs are 0 to {self.space.machine.info.cpus - 1}")
        return self.base + offsets[number]

    # -- bytes -----------------------------------------------------------------------------------------------------

    def read(self, cpu=None, offset=0, n=None):
        """Reads ``n`` bytes of a CPU's copy from ``offset`` on, by default all; the running CPU makes the access.

        Raises:
            BadAddress: it was freed. BadRequest: no such CPU. BadSize: not within its bytes.
        """
        count = max(self.found.size - offset, 0) if n is None else n
        self.expect(offset, count)
        return self.space.load(self.address(cpu) + offset, count)

    def write(self, cpu, offset, data):
        """Writes ``data`` to a CPU's copy, None for the running one's, from ``offset`` on. Raises as ``read``."""
        data = memoryview(data).cast("B")
        self.expect(offset, len(data))
        self.space.store(self.address(cpu) + offset, data)

    def expect(self, offset, n):
        """Raises unless ``[offset, offset + n)`` are bytes of a live object."""
        if not self.found.live:
            raise BadAddress(self.base, "this per-CPU object was freed")
        if offset < 0 or n < 0 or offset + n > self.found.size:
            raise BadSize(f"bytes {offset} to {offset + n} of a per-CPU object of {self.found.size} bytes")

    # -- the end ---------------------------------------------------------------------------------------------------

    def free(self):
        """Frees it. Raises BadAddress when it was freed already."""
        self.space.free_percpu(self)

    def detach(self):
        """Lets the object live on without this handle; its base, for ``free_percpu``."""
        self.owner = False
        return self.base

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.found.live:
            self.space.free_percpu(self)

    def __copy__(self):
        """A second handle, which does not own: the object goes with the first."""
        return PerCpu(self.space, self.found, False)

    def __deepcopy__(self, memo):
        return PerCpu(self.space, self.found, False)

    def __repr__(self):
        state = "" if self.found.live else " freed"
        return f"<PerCpu {self.base:#x}: {self.found.size} bytes on {self.space.machine.info.cpus} CPUs{state}>"

    def __eq__(self, other):
        if not isinstance(other, PerCpu):
            return NotImplemented
        return self.found is other.found

    def __hash__(self):
        return id(self.found)
