"""Device memory: bytes at physical addresses that no page frame stands for.

Idea: an I/O mapping translates to numbers beyond the frames of the machine (``PROT_SPECIAL``).  There is no device in
this model, so what is kept is what was stored, as in a frame buffer; where nothing was ever stored, a load reads ones,
as from a bus where nobody answers.

Shape: frame numbers to pages, an open-addressed table with linear probing, at most half full.  Pages are never given
back before the machine ends: devices do not forget.

Why not the frames' own table: that is an array over all frames of the machine; device numbers can be anywhere.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.errors import BadRequest

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free, malloc
    from cython.cimports.libc.string import memcpy, memset
else:
    from vmalloc.machine.simulated.mmu.states import EMPTY, HOST_MEMORY

__all__ = ["DeviceMemory"]


class DeviceMemory:
    """What was stored to devices.

    Args:
        page_shift: log2 of the page size.
    """

    def __cinit__(self, page_shift):
        self.page_size = 1 << page_shift
        self.nr_pages = 0
        if self.reserve(16) != 0:
            raise MemoryError("no memory for the table of device pages")

    if not cython.compiled:
        __init__ = __cinit__

    def __dealloc__(self):
        if cython.compiled:
            if self.page != cython.NULL:
                for i in range(self.mask + 1):
                    free(self.page[i])
            free(self.page)
            free(self.number)

    def reserve(self, nr_places):
        """Makes both tables, empty; 0, or ``HOST_MEMORY``, and then they are as before."""
        if cython.compiled:
            number = cython.cast("uint64_t*", malloc(nr_places * 8))
            page = cython.cast("uint8_t**", calloc(nr_places, cython.sizeof(cython.p_void)))
            if number == cython.NULL or page == cython.NULL:
                free(number)
                free(page)
                return HOST_MEMORY
            memset(number, 255, nr_places * 8)
            self.number = number
            self.page = page
        else:
            self.number = [EMPTY] * nr_places
            self.page = [None] * nr_places
        self.mask = nr_places - 1
        return 0

    def place_of(self, pfn):
        """Where a page is, or where it would go."""
        i = ((pfn * 1640531527) >> 16) & self.mask  # mixes the bits, so that strides do not meet in one place
        while self.number[i] != EMPTY and self.number[i] != pfn:
            i = (i + 1) & self.mask
        return i

    def grow(self):
        """Doubles the tables; 0, or ``HOST_MEMORY``."""
        number = self.number
        page = self.page
        places = self.mask + 1
        if self.reserve(2 * places) != 0:
            return HOST_MEMORY
        for k in range(places):
            if number[k] != EMPTY:
                i = self.place_of(number[k])
                self.number[i] = number[k]
                self.page[i] = page[k]
        if cython.compiled:
            free(number)
            free(page)
        return 0

    def page_to_store(self, pfn):
        """The bytes of a page, made of ones if it was never stored to; NULL (None) without memory."""
        i = self.place_of(pfn)
        if self.number[i] == pfn:
            return self.page[i]
        if 2 * (self.nr_pages + 1) > self.mask:
            if self.grow() != 0:
                return cython.NULL if cython.compiled else None
            i = self.place_of(pfn)
        if cython.compiled:
            page = cython.cast("uint8_t*", malloc(self.page_size))
            if page == cython.NULL:
                return cython.NULL
            memset(page, 255, self.page_size)
        else:
            page = bytearray(b"\xff" * self.page_size)
        self.number[i] = pfn
        self.page[i] = page
        self.nr_pages += 1
        return page

    # The simulation's side.

    def get(self, pfn, offset, size, out):
        """Copies bytes ``[offset, offset + size)`` of a page to ``out``; always 0."""
        i = self.place_of(pfn)
        if cython.compiled:
            if self.number[i] == pfn:
                memcpy(out, self.page[i] + offset, size)
            else:
                memset(out, 255, size)
        else:
            out[:size] = self.page[i][offset : offset + size] if self.number[i] == pfn else b"\xff" * size
        return 0

    def put(self, pfn, offset, size, data):
        """Copies ``data`` to bytes ``[offset, offset + size)`` of a page; 0, or ``HOST_MEMORY``."""
        page = self.page_to_store(pfn)
        if not page:
            return HOST_MEMORY
        if cython.compiled:
            memcpy(page + offset, data, size)
        else:
            page[offset : offset + size] = data[:size]
        return 0

    def clear(self, pfn, offset, size):
        """Makes bytes ``[offset, offset + size)`` of a page zero; 0, or ``HOST_MEMORY``."""
        page = self.page_to_store(pfn)
        if not page:
            return HOST_MEMORY
        if cython.compiled:
            memset(page + offset, 0, size)
        else:
            page[offset : offset + size] = bytes(size)
        return 0

    # Python's side.

    def load(self, pfn, offset=0, size=None):
        """Returns bytes ``[offset, offset + size)`` of a page, by default up to its end.

        Raises:
            BadRequest: the range leaves the page, or no page has this number.
        """
        size = self.expect_range(pfn, offset, size)
        out = bytearray(size)
        self.get_into(out, pfn, offset, size)
        return bytes(out)

    def store(self, pfn, offset, data):
        """Copies ``data``, any contiguous buffer, to a page from ``offset`` on.

        Raises:
            BadRequest: as ``load``.
            MemoryError: the host has no memory for the page.
        """
        view = memoryview(data).cast("B")
        self.expect_range(pfn, offset, len(view))
        if self.put_from(view, pfn, offset, len(view)) != 0:
            raise MemoryError(f"no memory for device page {pfn:#x}")

    def pages(self):
        """Numbers of the pages that something was stored to, ascending."""
        return sorted([self.number[i] for i in range(self.mask + 1) if self.number[i] != EMPTY])

    def __len__(self):
        return self.nr_pages

    def __repr__(self):
        return f"<DeviceMemory: {self.nr_pages} pages>"

    def get_into(self, out, pfn, offset, size):
        if not cython.compiled:
            return self.get(pfn, offset, size, out)
        PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
        self.get(pfn, offset, size, cython.cast("uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return 0

    def put_from(self, data, pfn, offset, size):
        if not cython.compiled:
            return self.put(pfn, offset, size, data)
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        code = self.put(pfn, offset, size, cython.cast("const uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return code

    def expect_range(self, pfn, offset, size):
        """The size, where None is the rest of the page."""
        wanted = self.page_size - offset if size is None else size
        if not (0 <= pfn < (1 << 64) - 1 and 0 <= offset <= self.page_size and 0 <= wanted <= self.page_size - offset):
            raise BadRequest(f"{wanted} bytes at offset {offset:#x} of device page {pfn:#x}, of {self.page_size:#x}")
        return wanted
