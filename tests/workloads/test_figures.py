"""The figures of real kernels: named after cases that exist, and as they were recorded."""

from __future__ import annotations

import pytest

from vmalloc.workloads.cases import CASES
from vmalloc.workloads.figures import GUESTS, NATIVE, guest_figure


def test_each_figure_is_of_a_case_and_stands_there_once() -> None:
    assert {figure.case for figure in GUESTS + NATIVE} <= {case.name for case in CASES}
    keys = [(figure.case, figure.kernel, figure.cpus, figure.nr_pages) for figure in GUESTS]
    assert len(set(keys)) == len(keys) == 61
    assert all(0 < figure.best_ns <= figure.mean_ns for figure in GUESTS + NATIVE)


@pytest.mark.parametrize(
    ("key", "best", "mean"),
    [
        (("fix_size_alloc", "6.12", 1, 1), 9214, 9330),
        (("fix_size_alloc", "6.1", 16, 16), 788680, 1264419),
        (("long_busy_list_alloc", "6.12", 4, 1), 4093690, 5354996),
        (("vm_map_ram", "6.12", 16, 1), 1327, 2078),
    ],
)
def test_figures_are_as_recorded(key: tuple[str, str, int, int], best: int, mean: int) -> None:
    found = guest_figure(*key)
    assert found is not None
    assert (found.best_ns, found.mean_ns) == (best, mean)


def test_what_was_not_measured_has_none() -> None:
    assert guest_figure("vm_map_ram", "6.1", 1) is None
    assert guest_figure("full_fit_alloc", "6.12", 16) is None
    assert guest_figure("fix_size_alloc", "6.12", 64) is None


def test_the_whole_per_cpu_case_grows_with_the_cpus() -> None:
    one, four = (guest_figure("pcpu_alloc", "6.12", cpus) for cpus in (1, 4))
    assert one is not None
    assert four is not None
    assert (round(one.best_ns / 35_000), round(four.best_ns / 35_000)) == (14666, 67445)


def test_rates_of_hardware_are_the_published_ones() -> None:
    """Section 11.3, derived rates: 0.73, 0.98 and 1.31 us."""
    arm = [figure for figure in NATIVE if "arm64" in figure.machine]
    assert [(figure.case, figure.nr_pages, round(figure.best_ns / 1000, 2)) for figure in arm] == [
        ("fix_size_alloc", 1, 0.73), ("fix_size_alloc", 4, 0.98), ("fix_align_alloc", 1, 1.31),
    ]  # fmt: skip
