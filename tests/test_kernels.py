"""Version profiles: which release behaves like which, and the numbers that depend on CPUs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from vmalloc.kernels import PROFILES, lazy_max_pages, nr_vmap_nodes, profile


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("6.1", "6.1"),
        ("6.1.176", "6.1"),
        ("6.8", "6.1"),
        ("6.8.12", "6.1"),
        ("6.9", "6.12"),
        ("6.12.101", "6.12"),
        ("6.16", "6.12"),
        ("6.17", "6.19"),
        ("6.18.44", "6.19"),
        ("6.19", "6.19"),
        ("7.2.8", "6.19"),
        ("10.0", "6.19"),
    ],
)
def test_each_release_has_a_profile(version: str, name: str) -> None:
    assert profile(version) is PROFILES[name]


@pytest.mark.parametrize("version", ["5.15", "6.0", "2.6.28"])
def test_older_releases_have_none(version: str) -> None:
    with pytest.raises(ValueError, match=r"older than 6\.1.*6\.12"):
        profile(version)


@pytest.mark.parametrize("version", ["", "6", "six.one", "v6.12", "6.x", "6.12-rc1"])
def test_text_that_is_no_version(version: str) -> None:
    with pytest.raises(ValueError, match="not a kernel version"):
        profile(version)


def test_a_profile_is_named_after_its_release_and_cannot_be_changed() -> None:
    for name, kernel in PROFILES.items():
        assert kernel.name == name
        with pytest.raises(FrozenInstanceError):
            kernel.has_nodes = True  # type: ignore[misc]


def test_the_table_of_differences() -> None:
    old, middle, new = PROFILES["6.1"], PROFILES["6.12"], PROFILES["6.19"]
    assert [k.has_nodes for k in (old, middle, new)] == [False, True, True]
    assert [k.merges_lazy for k in (old, middle, new)] == [True, False, False]
    assert [k.returns_ascending for k in (old, middle, new)] == [True, False, False]
    assert [k.small_pools_drain for k in (old, middle, new)] == [False, True, False]
    assert [k.walk_step for k in (middle, new)] == [1, -1]
    assert [k.drain_repeats for k in (old, middle, new)] == [True, False, False]
    assert [k.failure_is_errno for k in (old, middle, new)] == [False, False, True]


def test_the_overflow_messages() -> None:
    facts = {"size": 8192, "start": 0x118000, "end": 0x11A000}
    assert PROFILES["6.1"].overflow_message.format(**facts) == (
        "vmap allocation for size 8192 failed: use vmalloc=<size> to increase size"
    )
    for name in ("6.12", "6.19"):
        assert PROFILES[name].overflow_message.format(**facts) == (
            "vmalloc_node_range for size 8192 failed: Address range restricted to 0x118000 - 0x11a000"
        )


@pytest.mark.parametrize(
    ("first", "last", "pages"),
    [
        (1, 1, 8192),
        (2, 3, 16384),
        (4, 7, 24576),
        (8, 15, 32768),
        (16, 31, 40960),
        (32, 63, 49152),
        (64, 127, 57344),
        (128, 255, 65536),
    ],
)
def test_the_threshold_table(first: int, last: int, pages: int) -> None:
    assert lazy_max_pages(first) == lazy_max_pages(last) == pages
    assert lazy_max_pages(first, 65536) == pages // 16


@pytest.mark.parametrize(("cpus", "nodes"), [(0, 1), (1, 1), (2, 2), (128, 128), (129, 128), (4096, 128)])
def test_nodes_are_cpus_up_to_128(cpus: int, nodes: int) -> None:
    assert nr_vmap_nodes(PROFILES["6.19"], cpus) == nodes
    assert nr_vmap_nodes(PROFILES["6.19"], cpus, word_bits=32) == 1
    assert nr_vmap_nodes(PROFILES["6.1"], cpus) == 1
