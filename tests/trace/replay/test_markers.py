"""Where in a trace a snapshot was read."""

from __future__ import annotations

import pytest
from scripted_kernel import ScriptedKernel

from vmalloc.trace.replay.markers import Reading, in_flight, locate


def marked(*texts: str) -> ScriptedKernel:
    kernel = ScriptedKernel()
    for text in texts:
        kernel.allocs(1)
        kernel.mark(text)
    return kernel


@pytest.mark.parametrize(
    "file", ["x.snap-3-bpfmap.vmallocinfo.zst", "/some/where/3-bpfmap", "3-bpfmap.txt", "a_3-bpfmap_b"]
)
def test_a_file_belongs_to_the_marker_its_name_contains(file: str) -> None:
    kernel = marked("KT snapshot-3-bpfmap begin", "KT snapshot-3-bpfmap end")
    assert locate(kernel.trace, file, "after") == Reading(1, 3)


def test_the_longest_name_that_fits_wins() -> None:
    kernel = marked("snapshot-1 begin", "snapshot-1 end", "snapshot-1-mods begin", "snapshot-1-mods end")
    assert locate(kernel.trace, "snap-1-mods.vmallocinfo", "after") == Reading(5, 7)
    assert locate(kernel.trace, "snap-1.vmallocinfo", "after") == Reading(1, 3)


def test_a_name_inside_another_word_does_not_fit() -> None:
    kernel = marked("snapshot-end begin", "snapshot-end end")
    assert locate(kernel.trace, "weekend.vmallocinfo", "after") == Reading(4, 4)


def test_a_marker_named_like_the_role_is_the_next_best() -> None:
    kernel = marked("snapshot-before begin", "snapshot-before end", "snapshot-after begin", "snapshot-after end")
    assert locate(kernel.trace, "mine.txt", "before") == Reading(1, 3)
    assert locate(kernel.trace, "mine.txt", "after") == Reading(5, 7)


def test_without_markers_before_is_the_beginning_and_after_the_end() -> None:
    kernel = marked("something else", "snapshot-", "snapshot-x begin")
    assert locate(kernel.trace, "x", "before") == Reading(0, 0)
    assert locate(kernel.trace, "x", "after") == Reading(6, 6)


def test_a_marker_that_begins_twice_counts_from_the_last_time() -> None:
    kernel = marked("snapshot-x begin", "snapshot-x begin", "snapshot-x end")
    assert locate(kernel.trace, "x", "after") == Reading(3, 5)


def test_in_flight_is_what_was_made_or_freed_during_the_reading() -> None:
    kernel = ScriptedKernel()
    old, older = kernel.allocs(1, 1)
    kernel.mark("snapshot-x begin")
    (new,) = kernel.allocs(2)
    kernel.frees(old)
    kernel.mark("snapshot-x end")
    kernel.frees(older)
    assert in_flight(kernel.trace, locate(kernel.trace, "x", "after"), 0) == ({old.va_start, new.va_start}, False)
