"""What is in page frames: bytes, kept from the first store on.

Idea: a frame has no memory behind it until something is stored there.  Before, it reads as one byte value, the
machine's choice: zeros, or a poison that shows who reads what nobody wrote.  Zeroing a whole frame needs no memory
either.

What exactly a load reads, by the life of the frame:

* handed out and not stored to since: the fill byte, whatever the frame held for its last owner.  (A real frame would
  still show that; here the second owner's data and the first one's can be told apart.)
* stored to: what was stored; the rest of the frame is fill bytes, or zeros where it was zeroed as a whole;
* freed: the same as before it was freed, for as long as nobody is given the frame again.  Whether it is on a CPU's list
  or merged into a larger free block makes no difference.  A store through a stale translation is read back, too;
* handed out again: the fill byte again, then what its new owner stores - also by a stale translation of the old one;
* never handed out: the fill byte.  A store is possible, as to any memory that is there.

So an access is never refused because of who owns the frame: memory does not know.  Refused are frames that no node has
and ranges that leave the frame.  ``trim`` is the one exception to the list: it forgets what freed frames hold.

Shape: ``row.contents`` says which of the three kinds it is (``states``), ``section.page`` has the bytes.
Handing a frame out only resets the word; its page stays for the next store.

Protected by the lock of whoever owns the machine; nothing here locks.
"""

import cython

from vmalloc.machine.simulated.frames.states import bad_frame

if cython.compiled:
    from cython.cimports.libc.stdlib import calloc, free, malloc
    from cython.cimports.libc.string import memcpy, memmove, memset
else:
    from vmalloc.machine.simulated.frames.states import (
        BAD_RANGE,
        FOREIGN,
        NEVER,
        NO_MEMORY,
        NO_ZONE,
        SECTION_FRAMES,
        SECTION_MASK,
        SECTION_SHIFT,
        STORED,
        USED,
        ZEROED,
    )

__all__ = ["FrameContents"]


class FrameContents:
    """The bytes in the frames of a machine.

    Args:
        table: the frames.
        page_shift: exponent of the page size.
        fill: the byte that is read where nothing was stored.
    """

    def __cinit__(self, table, page_shift, fill=0):
        self.table = table
        self.page_size = 1 << page_shift
        self.unwritten = fill

    if not cython.compiled:
        __init__ = __cinit__

    def bad_range(self, pfn, offset, size):
        """0, or the error code of a range that is not in a frame."""
        if (pfn >> SECTION_SHIFT) >= self.table.nr_sections or self.table.zone_of(pfn) == NO_ZONE:
            return FOREIGN
        if offset > self.page_size or size > self.page_size - offset:
            return BAD_RANGE
        return 0

    def page_of(self, pfn):
        """The bytes that were stored in a frame; NULL (None) when it reads as one byte value."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        i = pfn & SECTION_MASK
        if s and s.row[i].contents == STORED:
            return s.page[i]
        return cython.NULL if cython.compiled else None

    def contents_of(self, pfn):
        """``NEVER``, ``ZEROED`` or ``STORED``."""
        s = self.table.section[pfn >> SECTION_SHIFT]
        return s.row[pfn & SECTION_MASK].contents if s else NEVER

    def plain_byte(self, pfn):
        """What a frame without stored bytes reads as."""
        return 0 if self.contents_of(pfn) == ZEROED else self.unwritten

    def set_plain(self, pfn, contents):
        """Makes a frame read as one byte value again; 0, or ``NO_MEMORY``."""
        s = self.table.make(pfn >> SECTION_SHIFT)
        if not s:
            return NO_MEMORY
        s.row[pfn & SECTION_MASK].contents = contents
        s.touched = True
        return 0

    def page_to_store(self, pfn):
        """The bytes of a frame, made to say what the frame reads now; NULL (None) when memory is exhausted."""
        s = self.table.make(pfn >> SECTION_SHIFT)
        i = pfn & SECTION_MASK
        if cython.compiled:
            if not s:
                return cython.NULL
            if not s.page:
                s.page = cython.cast("uint8_t**", calloc(SECTION_FRAMES, cython.sizeof(cython.p_void)))
                if not s.page:
                    return cython.NULL
            if not s.page[i]:
                page = cython.cast("uint8_t*", malloc(self.page_size))
                if not page:
                    return cython.NULL
                s.page[i] = page
                self.table.nr_pages += 1
        else:
            if not s.page:
                s.page = [None] * SECTION_FRAMES
            if not s.page[i]:
                s.page[i] = bytearray(self.page_size)
                self.table.nr_pages += 1
        page = s.page[i]
        if s.row[i].contents != STORED:
            if cython.compiled:
                memset(page, self.plain_byte(pfn), self.page_size)
            else:
                page[:] = bytes([self.plain_byte(pfn)]) * self.page_size
            s.row[i].contents = STORED
            s.touched = True
        return page

    # The simulation's side.

    def get(self, pfn, offset, size, out):
        """Copies bytes ``[offset, offset + size)`` of a frame to ``out``; 0, or an error code."""
        code = self.bad_range(pfn, offset, size)
        if code != 0:
            return code
        page = self.page_of(pfn)
        if cython.compiled:
            if page:
                memcpy(out, page + offset, size)
            else:
                memset(out, self.plain_byte(pfn), size)
        else:
            out[:size] = page[offset : offset + size] if page else bytes([self.plain_byte(pfn)]) * size
        return 0

    def put(self, pfn, offset, size, data):
        """Copies ``data`` to bytes ``[offset, offset + size)`` of a frame; 0, or an error code."""
        code = self.bad_range(pfn, offset, size)
        if code != 0 or size == 0:
            return code
        page = self.page_to_store(pfn)
        if not page:
            return NO_MEMORY
        if cython.compiled:
            memcpy(page + offset, data, size)
        else:
            page[offset : offset + size] = data[:size]
        return 0

    def clear(self, pfn, offset, size):
        """Makes bytes ``[offset, offset + size)`` of a frame zero; 0, or an error code."""
        code = self.bad_range(pfn, offset, size)
        if code != 0 or size == 0:
            return code
        if size == self.page_size:
            return self.set_plain(pfn, ZEROED)
        page = self.page_to_store(pfn)
        if not page:
            return NO_MEMORY
        if cython.compiled:
            memset(page + offset, 0, size)
        else:
            page[offset : offset + size] = bytes(size)
        return 0

    def move(self, pfn, offset, source, source_offset, size):
        """Copies ``size`` bytes of frame ``source`` to frame ``pfn``, perhaps the same one; 0, or an error code."""
        code = self.bad_range(source, source_offset, size)
        if code != 0:
            return code
        code = self.bad_range(pfn, offset, size)
        if code != 0 or size == 0:
            return code
        source_page = self.page_of(source)
        if size == self.page_size and not source_page:
            return self.set_plain(pfn, self.contents_of(source))
        page = self.page_to_store(pfn)
        if not page:
            return NO_MEMORY
        source_page = self.page_of(source)  # once more: it may be the same frame
        if cython.compiled:
            if source_page:
                memmove(page + offset, source_page + source_offset, size)
            else:
                memset(page + offset, self.plain_byte(source), size)
        elif source_page:
            page[offset : offset + size] = source_page[source_offset : source_offset + size]
        else:
            page[offset : offset + size] = bytes([self.plain_byte(source)]) * size
        return 0

    def trim(self):
        """Forgets what frames hold that nobody has, and drops pages that hold nothing; the number of pages dropped."""
        dropped = 0
        for k in range(self.table.nr_sections):
            if self.table.section[k] and self.table.section[k].page:
                dropped += self.trim_section(k)
        return dropped

    def trim_section(self, k):
        s = self.table.section[k]
        dropped = 0
        end = 0
        held = False
        for i in range(SECTION_FRAMES):
            if i >= end:  # a block begins here, or it is a frame of a section that was never handed out
                end = i + (1 << s.row[i].order)
                held = s.row[i].state == USED
            if not held:
                s.row[i].contents = NEVER
            if s.page[i] and s.row[i].contents != STORED:
                if cython.compiled:
                    free(s.page[i])
                    s.page[i] = cython.NULL
                else:
                    s.page[i] = None
                dropped += 1
        self.table.nr_pages -= dropped
        return dropped

    # Python's side.

    def load(self, pfn, offset=0, size=None):
        """Returns bytes ``[offset, offset + size)`` of a frame, by default up to its end.

        Raises:
            BadFrame: no node has the frame, or the range leaves it.
        """
        size = self.expect_range(pfn, offset, size)
        out = bytearray(size)
        self.expect(self.get_into(out, pfn, offset, size), pfn)
        return bytes(out)

    def load_into(self, pfn, offset, out):
        """Copies the bytes of a frame from ``offset`` on to ``out``, a writable buffer, until it is full.

        Raises: as ``load``.
        """
        view = memoryview(out).cast("B")
        self.expect_range(pfn, offset, len(view))
        self.expect(self.get_into(view, pfn, offset, len(view)), pfn)

    def store(self, pfn, offset, data):
        """Copies ``data``, any contiguous buffer, to a frame from ``offset`` on.

        Raises:
            BadFrame: no node has the frame, or the range leaves it.
            MemoryError: the host has no memory for the frame's page.
        """
        view = memoryview(data).cast("B")
        self.expect_range(pfn, offset, len(view))
        self.expect(self.put_from(view, pfn, offset, len(view)), pfn)

    def zero(self, pfn, offset=0, size=None):
        """Makes bytes ``[offset, offset + size)`` of a frame zero, by default all from ``offset`` on.

        Raises: as ``store``.
        """
        size = self.expect_range(pfn, offset, size)
        self.expect(self.clear(pfn, offset, size), pfn)

    def copy(self, pfn, offset, source, source_offset, size):
        """Copies ``size`` bytes of frame ``source`` to frame ``pfn``; in one frame the ranges may overlap.

        Raises: as ``store``.
        """
        self.expect_range(source, source_offset, size)
        self.expect_range(pfn, offset, size)
        self.expect(self.move(pfn, offset, source, source_offset, size), pfn)

    def get_into(self, out, pfn, offset, size):
        if not cython.compiled:
            return self.get(pfn, offset, size, out)
        PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
        code = self.get(pfn, offset, size, cython.cast("uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return code

    def put_from(self, data, pfn, offset, size):
        if not cython.compiled:
            return self.put(pfn, offset, size, data)
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        code = self.put(pfn, offset, size, cython.cast("const uint8_t*", view.buf))
        PyBuffer_Release(cython.address(view))
        return code

    def expect_range(self, pfn, offset, size):
        """The size, where None is the rest of the frame; raises what ``bad_range`` finds."""
        if not 0 <= pfn < 1 << 64 or self.bad_range(pfn, 0, 0) != 0:
            raise bad_frame(pfn, FOREIGN)
        wanted = self.page_size - offset if size is None else size
        if not (0 <= offset <= self.page_size and 0 <= wanted <= self.page_size - offset):
            where = f"{wanted} bytes at offset {offset:#x}, page of {self.page_size:#x}"
            raise bad_frame(pfn, BAD_RANGE, f": {where}")
        return wanted

    def expect(self, code, pfn):
        if code == NO_MEMORY:
            raise MemoryError(f"no memory for the contents of frame {pfn:#x}")
        if code != 0:
            raise bad_frame(pfn, code)
