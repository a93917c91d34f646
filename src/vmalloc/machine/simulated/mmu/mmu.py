"""The MMU of the simulated machine: bytes and arrays of addresses, as a CPU reaches them.

Idea: ``translator`` turns one access into a frame; here are the accesses people make.  ``load``, ``store`` and ``zero``
take any range, page by page.  A store is all or nothing: every page is translated before the first byte is written, and
one that cannot be written ends it.  ``access`` runs a whole array of addresses through a CPU's TLB, without bytes and
without the interpreter lock, and counts what they meet.

Where bytes are: in the frames of the machine (``FrameContents``), or for a mapping with ``PROT_SPECIAL`` in devices
(``DeviceMemory``), frame number or not.  A translation to a frame that no node has is a ``BUS_ERROR``.

A stale translation stops a load or a store (``STALE``, nothing transferred from that page on, nothing stored at all).
With ``follow_stale`` it goes on as in hardware, to whoever has the frame now, and says ``STALE`` in the end: for those
who want to see the damage.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

from array import array

import cython

from vmalloc.machine.simulated.mmu.device import DeviceMemory
from vmalloc.machine.simulated.mmu.records import AccessCounts
from vmalloc.machine.simulated.mmu.translator import Translator

if cython.compiled:
    from cython.cimports.libc.stdlib import free, realloc
else:
    from vmalloc.flags import PROT_SPECIAL
    from vmalloc.machine.simulated.mmu.plain import Translation
    from vmalloc.machine.simulated.mmu.states import BUS_ERROR, HOST_MEMORY, OK, READONLY, STALE, UNMAPPED
    from vmalloc.units import ADDRESS_MAX

__all__ = ["Mmu"]


class Mmu(Translator):
    """The MMUs of all CPUs of a machine.

    Args:
        tables: the page tables; they say which architecture and kernel this is.
        contents: what is in the frames.
        tlbs: one per CPU (``sizes.make_tlbs``).
        device: where stores to devices go; None for a new one.

    Raises:
        BadRequest: no TLB, one TLB twice, or one for another page size.
    """

    def __cinit__(self, tables, contents, tlbs, device=None):
        self.contents = contents
        self.device = DeviceMemory(tables.arch.page_shift) if device is None else device
        self.page_size = 1 << tables.arch.page_shift
        self.follow_stale = False
        self.failed_address = 0
        self.stale_uses = 0
        self.plan_size = 0
        if not cython.compiled:
            self.plan = []
        self.set_up(tables, tlbs, tables.arch, tables.arch.table_sync(tables.kernel))
        if self.reserve(16) != 0:
            raise MemoryError("no memory for the plan of a store")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            free(self.plan)

    def reserve(self, nr_pages):
        """Makes room for the pages of a store; 0, or ``HOST_MEMORY``."""
        if nr_pages <= self.plan_size:
            return 0
        if cython.compiled:
            grown = cython.cast(
                cython.pointer(translation), realloc(self.plan, nr_pages * cython.sizeof(translation))
            )
            if grown == cython.NULL:
                return HOST_MEMORY
            self.plan = grown
        else:
            self.plan += [Translation() for _ in range(nr_pages - self.plan_size)]
        self.plan_size = nr_pages
        return 0

    def planned(self, k):
        """Page ``k`` of the plan."""
        if cython.compiled:
            return self.plan + k
        else:
            return self.plan[k]

    # The simulation's side: bytes.

    def load(self, cpu, address, size, out):
        """Copies ``[address, address + size)`` to ``out``; an outcome."""
        outcome = OK
        at = address
        left = size
        while left != 0:
            code = self.reach(cpu, at, False, self.planned(0))
            if code != OK and not (code == STALE and self.follow_stale):
                self.failed_address = at
                return code
            if code == STALE and outcome == OK:
                self.failed_address = at
                outcome = STALE
            piece = self.piece_at(at, left)
            self.get(
                self.planned(0),
                at & (self.page_size - 1),
                piece,
                out + (size - left) if cython.compiled else memoryview(out)[size - left :],
            )
            at = self.behind(at, piece)
            left -= piece
        return outcome

    def store(self, cpu, address, size, data):
        """Copies ``data`` to ``[address, address + size)``, all of it or nothing; an outcome."""
        outcome = self.plan_store(cpu, address, size)
        if outcome != OK and not (outcome == STALE and self.follow_stale):
            return outcome
        done = 0
        k = 0
        while done < size:
            piece = self.piece_at(address + done, size - done)
            code = self.put(
                self.planned(k),
                (address + done) & (self.page_size - 1),
                piece,
                data + done if cython.compiled else data[done : done + piece],
            )
            if code != 0:
                self.failed_address = address + done
                return HOST_MEMORY
            done += piece
            k += 1
        return outcome

    def zero(self, cpu, address, size):
        """Zeroes ``[address, address + size)``, all of it or nothing; an outcome."""
        outcome = self.plan_store(cpu, address, size)
        if outcome != OK and not (outcome == STALE and self.follow_stale):
            return outcome
        done = 0
        k = 0
        while done < size:
            piece = self.piece_at(address + done, size - done)
            code = self.clear(self.planned(k), (address + done) & (self.page_size - 1), piece)
            if code != 0:
                self.failed_address = address + done
                return HOST_MEMORY
            done += piece
            k += 1
        return outcome

    def plan_store(self, cpu, address, size):
        """Translates every page of a store; an outcome: the first that forbids it, else the first ``STALE``."""
        outcome = OK
        at = address
        left = size
        k = 0
        while left != 0:
            if k == self.plan_size and self.reserve(2 * k) != 0:
                self.failed_address = at
                return HOST_MEMORY
            code = self.reach(cpu, at, True, self.planned(k))
            if code != OK and not (code == STALE and self.follow_stale):
                self.failed_address = at
                return code
            if code == STALE and outcome == OK:
                self.failed_address = at
                outcome = STALE
            piece = self.piece_at(at, left)
            at = self.behind(at, piece)
            left -= piece
            k += 1
        return outcome

    def piece_at(self, address, left):
        """Bytes up to the end of the page, or of the range."""
        piece = self.page_size - (address & (self.page_size - 1))
        return piece if piece < left else left

    def behind(self, address, size):
        """The address behind a piece; behind the last of all addresses comes 0, which no kernel maps there."""
        return address + size if cython.compiled else (address + size) & ADDRESS_MAX

    def reach(self, cpu, address, write, t):
        """``translate`` for an access to bytes: there must be memory behind the translation."""
        outcome = self.translate(cpu, address, write, t)
        if (outcome == OK or outcome == STALE) and (t.prot & PROT_SPECIAL) == 0:
            if self.contents.bad_range(t.pfn, 0, 0) != 0:
                return BUS_ERROR
        if outcome == STALE and self.follow_stale:
            self.stale_uses += 1
        return outcome

    def get(self, t, offset, size, out):
        """Copies bytes of a page to ``out``; always 0."""
        if (t.prot & PROT_SPECIAL) != 0:
            return self.device.get(t.pfn, offset, size, out)
        return self.contents.get(t.pfn, offset, size, out)

    def put(self, t, offset, size, data):
        """Copies ``data`` to bytes of a page; 0, or the host has no memory."""
        if (t.prot & PROT_SPECIAL) != 0:
            return self.device.put(t.pfn, offset, size, data)
        return self.contents.put(t.pfn, offset, size, data)

    def clear(self, t, offset, size):
        """Zeroes bytes of a page; 0, or the host has no memory."""
        if (t.prot & PROT_SPECIAL) != 0:
            return self.device.clear(t.pfn, offset, size)
        return self.contents.clear(t.pfn, offset, size)

    def run(self, cpu, addresses, count, write):
        """Translates ``count`` addresses, failing or not; the index of the first that fails, or -1."""
        first = -1
        for i in range(count):
            if self.translate(cpu, addresses[i], write, self.planned(0)) != OK and first < 0:
                first = i
        return first

    # Python's side.

    def access(self, addresses, write=False, cpu=0):
        """Runs an array of addresses through a CPU's TLB and page tables, without touching bytes.

        Args:
            addresses: a contiguous buffer of 8-byte integers: a NumPy array of uint64 or int64, an ``array("Q")``.
            write: whether these are stores.
            cpu: who makes them.

        Returns:
            ``records.AccessCounts``; an access that fails is counted and ends nothing.

        Raises:
            BadRequest: there is no such CPU.
            TypeError: not such a buffer.
        """
        self.expect_cpu(cpu)
        view = memoryview(addresses)
        if view.itemsize != 8 or view.format.lstrip("@=<") not in ("Q", "q", "L", "l") or not view.c_contiguous:
            raise TypeError("addresses must be a contiguous buffer of 8-byte integers: a NumPy array of uint64")
        tlb = self.tlbs[cpu]
        before = self.met_by(tlb)
        first = self.run_buffer(cpu, view, bool(write))
        met = [now - then for then, now in zip(before, self.met_by(tlb), strict=True)]
        return AccessCounts(view.nbytes // 8, *met, None if first < 0 else first)

    def met_by(self, tlb):
        """The counters that ``AccessCounts`` has the changes of, in its order."""
        return (
            tlb.hits,
            tlb.misses,
            self.walks,
            self.vmalloc_faults,
            self.spurious_faults,
            self.outcomes[UNMAPPED],
            self.outcomes[READONLY],
            self.outcomes[STALE],
        )

    def run_buffer(self, cpu, addresses, write):
        """``run`` over a buffer."""
        if not cython.compiled:
            numbers = array("Q", addresses.tobytes())
            return self.run(cpu, numbers, len(numbers), write)
        PyObject_GetBuffer(addresses, cython.address(view), PyBUF_SIMPLE)
        buffer = cython.cast("const uint64_t*", view.buf)
        count = view.len // 8
        with cython.nogil:
            first = self.run(cpu, buffer, count, write)
        PyBuffer_Release(cython.address(view))
        return first

    def faults(self):
        """What accesses met besides translations that are right, by name."""
        return {
            "unmapped": self.outcomes[UNMAPPED],
            "readonly": self.outcomes[READONLY],
            "stale_tlb": self.outcomes[STALE],
            "vmalloc_faults": self.vmalloc_faults,
            "spurious_faults": self.spurious_faults,
        }

    def do_translate(self, cpu, address, write=False):
        """``translate`` as ``(outcome, pfn, shift, prot)``; the last three are None when ``UNMAPPED``.

        Raises:
            BadRequest: there is no such CPU.
        """
        outcome = self.translate(self.expect_cpu(cpu), address, write, self.planned(0))
        if outcome == UNMAPPED:
            return (outcome, None, None, None)
        return (outcome, self.plan[0].pfn, self.plan[0].shift, self.plan[0].prot)

    def do_load(self, cpu, address, size):
        """``load`` as ``(outcome, bytes)``: all of them, or those before the failure; raises BadRequest."""
        self.expect_cpu(cpu)
        out = bytearray(size)
        outcome = self.load_into(cpu, address, size, out)
        if outcome != OK and not (outcome == STALE and self.follow_stale):
            del out[(self.failed_address - address) % (1 << 64) :]
        return (outcome, bytes(out))

    def do_store(self, cpu, address, data):
        """``store`` of any contiguous buffer; an outcome. Raises BadRequest."""
        view = memoryview(data).cast("B")
        return self.store_from(self.expect_cpu(cpu), address, len(view), view)

    def do_zero(self, cpu, address, size):
        """``zero``; an outcome. Raises BadRequest."""
        return self.zero(self.expect_cpu(cpu), address, size)

    def load_into(self, cpu, address, size, out):
        if not cython.compiled:
            return self.load(cpu, address, size, out)
        PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
        code = self.load(cpu, address, size, cython.cast("uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return code

    def store_from(self, cpu, address, size, data):
        if not cython.compiled:
            return self.store(cpu, address, size, data)
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        code = self.store(cpu, address, size, cython.cast("const uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return code

    def __repr__(self):
        return f"<Mmu: {self.nr_cpus} CPUs, {sum(self.outcome_counts())} translations, {self.flushes} flushes>"
