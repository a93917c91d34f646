"""The module's parameters, as its users give them (section 11.1)."""

from __future__ import annotations

import pytest

from vmalloc.errors import BadRequest
from vmalloc.workloads.parameters import ALL_CASES, PRESETS, Parameters, parse_parameters, preset


def test_defaults_are_the_modules() -> None:
    """Section 11.1."""
    found = Parameters()
    assert (found.nr_threads, found.sequential_test_order, found.test_repeat_count) == (1, False, 1)
    assert (found.test_loop_count, found.nr_pages, found.use_huge) == (1_000_000, 0, False)
    assert (found.nr_pcpu_objects, found.size_pages, found.run_test_mask) == (35_000, 1, ALL_CASES)


@pytest.mark.parametrize(("given", "clamped"), [(0, 1), (1, 1), (64, 64), (65_535, 65_535), (1 << 20, 65_535)])
def test_threads_are_clamped(given: int, clamped: int) -> None:
    assert Parameters(nr_threads=given).nr_threads == clamped


def test_presets_are_those_of_the_script() -> None:
    """Section 11.1: performance, smoke, stress."""
    performance, smoke, stress = (preset(name, 16) for name in PRESETS)
    assert performance == Parameters(sequential_test_order=True, test_repeat_count=3)
    assert smoke == Parameters(test_loop_count=10_000, test_repeat_count=10)
    assert stress == Parameters(nr_threads=16, test_repeat_count=20)
    with pytest.raises(BadRequest, match="preset 'quick': one of performance, smoke, stress"):
        preset("quick", 1)


def test_texts_are_read_as_the_module_reads_them() -> None:
    texts = ["nr_threads=0x10", "use_huge=y", "sequential_test_order=0", "run_test_mask=0b101", "nr_pages=16"]
    found = parse_parameters(texts, Parameters(sequential_test_order=True, test_repeat_count=7))
    assert found == Parameters(
        nr_threads=16, use_huge=True, sequential_test_order=False, run_test_mask=5, nr_pages=16, test_repeat_count=7
    )
    assert parse_parameters([], found) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nr_thread=1", "'nr_thread=1' is no parameter; .* one of nr_threads, "),
        ("nr_threads", "'nr_threads' is no parameter"),
        ("nr_threads=many", "'nr_threads=many': a whole number"),
        ("use_huge=2", "'use_huge=2': y or n"),
        ("nr_pages=-1", "nr_pages=-1: at least 0"),
        ("setup_divisor=0", "setup_divisor=0: at least 1"),
    ],
)
def test_what_is_no_parameter_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_parameters([text], Parameters())
