"""What frames hold: lazily, across their whole life, and within their borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.errors import BadFrame
from vmalloc.machine.simulated.frames.memory import PhysicalMemory
from vmalloc.machine.simulated.frames.states import BAD_RANGE, FOREIGN, NEVER, STORED, ZEROED

pytestmark = pytest.mark.both_builds

PAGE = 64


def machine(fill: int = 0xAA, **more: int) -> PhysicalMemory:
    return PhysicalMemory([2100], page_shift=6, dma32_limit=0, fill=fill, **more)


def kind(memory: PhysicalMemory, pfn: int) -> int:
    """``NEVER``, ``ZEROED`` or ``STORED``, as the record says."""
    memory.validate()
    contents: int = memory.frames.table.rows(pfn >> 10)[pfn % 1024][5]
    return contents


# -- by the life of the frame ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0, 0xAA])
def test_what_was_never_stored_reads_the_fill_byte_and_takes_no_memory(fill: int) -> None:
    memory = machine(fill)
    pfn = memory.allocate()
    for frame in (pfn, 1500, 2099):
        assert memory.contents.load(frame) == bytes([fill]) * PAGE
    assert memory.frames.table.nr_pages == 0


def test_the_rest_of_a_stored_frame_reads_the_fill_byte() -> None:
    memory = machine()
    pfn = memory.allocate()
    memory.contents.store(pfn, 10, b"hello")
    assert memory.contents.load(pfn) == b"\xaa" * 10 + b"hello" + b"\xaa" * (PAGE - 15)
    assert memory.frames.table.nr_pages == 1


@pytest.mark.parametrize("order", [0, 3, 10])
def test_a_freed_frame_reads_its_old_contents_until_it_is_handed_out_again(order: int) -> None:
    memory = machine()
    pfn = memory.allocate(order)
    last = pfn + (1 << order) - 1
    memory.contents.store(last, 0, b"old")
    memory.release(pfn, order)
    assert memory.contents.load(last, 0, 3) == b"old"
    memory.drain()
    assert memory.contents.load(last, 0, 3) == b"old"
    assert memory.allocate(order) == pfn
    assert memory.contents.load(last, 0, 3) == b"\xaa" * 3
    memory.contents.store(last, 1, b"new")
    assert memory.contents.load(last, 0, 5) == b"\xaanew\xaa"


@pytest.mark.parametrize("order", [0, 4])
def test_zeros_are_forgotten_like_bytes(order: int) -> None:
    memory = machine()
    pfn = memory.allocate(order)
    memory.contents.zero(pfn + (1 << order) - 1)
    memory.release(pfn, order)
    assert memory.contents.load(pfn + (1 << order) - 1, 0, 2) == b"\0\0"
    assert memory.allocate(order) == pfn
    assert memory.contents.load(pfn + (1 << order) - 1, 0, 2) == b"\xaa\xaa"


def test_a_refill_of_a_list_hands_nothing_out() -> None:
    memory = machine(batch=4, high=8)
    pfn = memory.allocate(2)
    memory.contents.store(pfn + 1, 0, b"old")
    memory.release(pfn, 2)
    assert memory.allocate() == pfn
    assert memory.contents.load(pfn + 1, 0, 3) == b"old"
    assert memory.allocate() == pfn + 1
    assert memory.contents.load(pfn + 1, 0, 3) == b"\xaa" * 3


def test_a_batch_forgets_old_contents() -> None:
    memory = machine()
    pfns = memory.allocate_bulk(5)
    for pfn in pfns:
        memory.contents.store(pfn, 0, b"old")
    memory.release_bulk(pfns)
    assert sorted(memory.allocate_bulk(5)) == sorted(pfns)
    assert {memory.contents.load(pfn, 0, 1) for pfn in pfns} == {b"\xaa"}


def test_a_split_keeps_contents() -> None:
    memory = machine()
    pfn = memory.allocate(2)
    memory.contents.store(pfn + 2, 0, b"kept")
    memory.split(pfn, 2)
    assert memory.contents.load(pfn + 2, 0, 4) == b"kept"


def test_a_stale_store_to_a_freed_frame_is_read_back_and_then_forgotten() -> None:
    memory = machine()
    pfn = memory.allocate()
    memory.release(pfn)
    memory.contents.store(pfn, 0, b"stale")
    assert memory.contents.load(pfn, 0, 5) == b"stale"
    assert memory.allocate() == pfn
    assert memory.contents.load(pfn, 0, 5) == b"\xaa" * 5


def test_frames_that_were_never_handed_out_can_be_stored_to() -> None:
    memory = machine()
    memory.contents.store(1030, 0, b"early")
    memory.contents.zero(2099)
    assert memory.contents.load(1030, 0, 5) == b"early"
    assert memory.contents.load(2099, 0, 5) == bytes(5)
    memory.validate()
    taken = [memory.allocate(10), memory.allocate(10)]
    assert taken == [0, 1024]
    assert memory.contents.load(1030, 0, 5) == b"\xaa" * 5


# -- zeros, copies, trimming -----------------------------------------------------------------------------------------


def test_zeroing_a_whole_frame_takes_no_memory() -> None:
    memory = machine()
    pfn = memory.allocate()
    memory.contents.zero(pfn)
    assert memory.contents.load(pfn) == bytes(PAGE)
    assert (kind(memory, pfn), memory.frames.table.nr_pages) == (ZEROED, 0)
    memory.contents.store(pfn, 5, b"x")
    assert memory.contents.load(pfn) == bytes(5) + b"x" + bytes(PAGE - 6)


def test_zeroing_a_part_keeps_the_rest() -> None:
    memory = machine()
    pfn = memory.allocate()
    memory.contents.zero(pfn, 4, 4)
    assert memory.contents.load(pfn, 0, 12) == b"\xaa" * 4 + bytes(4) + b"\xaa" * 4
    memory.contents.zero(pfn, 60)
    assert memory.contents.load(pfn, 56) == b"\xaa" * 4 + bytes(4)


@pytest.mark.parametrize(("source_kind", "byte"), [(NEVER, 0xAA), (ZEROED, 0), (STORED, 0x55)])
def test_a_copy_of_a_whole_frame_is_as_lazy_as_its_source(source_kind: int, byte: int) -> None:
    memory = machine()
    source, target = memory.allocate(), memory.allocate()
    memory.contents.store(target, 0, b"before")
    if source_kind == ZEROED:
        memory.contents.zero(source)
    elif source_kind == STORED:
        memory.contents.store(source, 0, b"\x55" * PAGE)
    memory.contents.copy(target, 0, source, 0, PAGE)
    assert memory.contents.load(target) == bytes([byte]) * PAGE
    assert kind(memory, target) == source_kind


@pytest.mark.parametrize(("to", "start"), [(0, 4), (4, 0), (3, 3)])
def test_ranges_of_one_frame_may_overlap(to: int, start: int) -> None:
    memory = machine()
    pfn = memory.allocate()
    text = bytes(range(PAGE))
    memory.contents.store(pfn, 0, text)
    memory.contents.copy(pfn, to, pfn, start, 32)
    expected = bytearray(text)
    expected[to : to + 32] = text[start : start + 32]
    assert memory.contents.load(pfn) == bytes(expected)


def test_a_part_of_an_unwritten_frame_copied_onto_itself_stays_as_it_reads() -> None:
    memory = machine()
    pfn = memory.allocate()
    memory.contents.copy(pfn, 0, pfn, 32, 32)
    assert memory.contents.load(pfn) == b"\xaa" * PAGE


def test_trimming_forgets_what_nobody_holds_and_nothing_else() -> None:
    memory = machine()
    kept, freed, reused, zeroed = (memory.allocate() for _ in range(4))
    block = memory.allocate(3)
    for pfn in (kept, freed, reused, zeroed, block + 7, 1300):
        memory.contents.store(pfn, 0, b"data")
    memory.contents.zero(zeroed)
    memory.release(reused)
    assert memory.allocate() == reused
    memory.release(freed)
    assert memory.contents.trim() == 4  # freed, reused, zeroed, 1300
    memory.validate()
    assert memory.frames.table.nr_pages == 2
    assert {pfn: memory.contents.load(pfn, 0, 4) for pfn in (kept, freed, reused, zeroed, block + 7, 1300)} == {
        kept: b"data",
        freed: b"\xaa" * 4,
        reused: b"\xaa" * 4,
        zeroed: bytes(4),
        block + 7: b"data",
        1300: b"\xaa" * 4,
    }
    assert memory.contents.trim() == 0


# -- borders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 65), (64, 1), (65, 0), (60, 5), (-1, 1), (0, -1), (1 << 64, 0), (1, (1 << 64) - 1)]
)
def test_a_range_that_leaves_the_frame_is_refused(offset: int, size: int) -> None:
    memory = machine()
    pfn, other = memory.allocate(), memory.allocate()
    calls = [
        lambda: memory.contents.load(pfn, offset, size),
        lambda: memory.contents.zero(pfn, offset, size),
        lambda: memory.contents.copy(pfn, offset, other, 0, size),
        lambda: memory.contents.copy(other, 0, pfn, offset, size),
    ]
    if 0 <= size <= 65:
        calls.append(lambda: memory.contents.store(pfn, offset, bytes(size)))
        calls.append(lambda: memory.contents.load_into(pfn, offset, bytearray(size)))
    for call in calls:
        with pytest.raises(BadFrame, match="reaches beyond the frame") as complaint:
            call()
        assert (complaint.value.code, memory.frames.table.nr_pages) == (BAD_RANGE, 0)


@pytest.mark.parametrize("pfn", [2100, 3071, 3072, 1 << 40, (1 << 64) - 1, 1 << 64, -1])
def test_a_frame_that_no_node_has_is_refused(pfn: int) -> None:
    memory = machine()
    for call in (
        lambda: memory.contents.load(pfn),
        lambda: memory.contents.store(pfn, 0, b"x"),
        lambda: memory.contents.zero(pfn),
        lambda: memory.contents.copy(pfn, 0, 0, 0, 1),
        lambda: memory.contents.copy(0, 0, pfn, 0, 1),
    ):
        with pytest.raises(BadFrame, match="no node has this frame") as complaint:
            call()
        assert complaint.value.code == FOREIGN


@pytest.mark.parametrize("offset", [0, 64])
def test_nothing_is_stored_and_loaded_at_any_place(offset: int) -> None:
    memory = machine()
    memory.contents.store(0, offset, b"")
    memory.contents.zero(0, offset, 0)
    memory.contents.copy(1, offset, 0, offset, 0)
    assert memory.contents.load(0, offset, 0) == b""
    assert (memory.frames.table.nr_pages, memory.frames.table.made) == (0, 1)  # made: the ragged end


def test_any_contiguous_buffer_will_do() -> None:
    memory = machine()
    memory.contents.store(0, 0, memoryview(bytes(range(16))).cast("I"))
    memory.contents.store(0, 16, bytearray(b"array"))
    out = bytearray(24)
    memory.contents.load_into(0, 0, memoryview(out)[:22])
    assert bytes(out) == bytes(range(16)) + b"array\xaa\0\0"
    with pytest.raises((TypeError, ValueError)):
        memory.contents.store(0, 0, memoryview(bytes(8))[::2])
    with pytest.raises((TypeError, BufferError)):
        memory.contents.load_into(0, 0, b"read only")


RANGES = st.tuples(st.integers(0, PAGE), st.integers(0, PAGE)).map(sorted)


@given(st.lists(st.tuples(st.sampled_from(["store", "zero", "copy"]), RANGES, st.integers(0, 2), st.integers(0, 2))))
def test_a_few_frames_are_a_few_bytearrays(steps: list[tuple[str, list[int], int, int]]) -> None:
    memory = machine()
    twin = [bytearray(b"\xaa" * PAGE) for _ in range(3)]
    for number, (verb, (start, end), pfn, source) in enumerate(steps):
        if verb == "store":
            memory.contents.store(pfn, start, bytes([number % 256]) * (end - start))
            twin[pfn][start:end] = bytes([number % 256]) * (end - start)
        elif verb == "zero":
            memory.contents.zero(pfn, start, end - start)
            twin[pfn][start:end] = bytes(end - start)
        else:
            memory.contents.copy(pfn, 0, source, start, end - start)
            twin[pfn][: end - start] = twin[source][start:end]
        assert [memory.contents.load(pfn) for pfn in range(3)] == twin
    memory.validate()
