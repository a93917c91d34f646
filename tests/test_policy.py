"""Policy knobs: what can be set, in which forms, and what is said about what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmalloc.errors import BadRequest
from vmalloc.kernels import lazy_max_pages, nr_vmap_nodes, profile
from vmalloc.policy import KNOBS, Policy, knob_table, parse_knobs, policy_of

pytestmark = pytest.mark.both_builds

THRESHOLDS = st.one_of(st.none(), st.integers(0, 1 << 40), st.sampled_from(["1MiB", "513KiB", "4097B", "2GiB"]))
POLICIES = st.builds(
    Policy,
    lazy_max_pages=THRESHOLDS,
    vmap_nodes=st.one_of(st.none(), st.integers(1, 128)),
    decay=st.one_of(st.sampled_from(["none", "all", "half", "quarter"]), st.integers(1, 99).map("1/{}".format)),
    pools=st.booleans(),
    fit=st.sampled_from(["kernel", "lowest"]),
    guard=st.booleans(),
    huge=st.booleans(),
)


@given(policy=POLICIES)
def test_what_a_policy_says_of_itself_makes_it_again(policy: Policy) -> None:
    assert parse_knobs(f"{name}={value}" for name, value in policy.knobs().items()) == policy
    assert policy_of(policy.changed()) == policy
    said = policy.describe()
    assert parse_knobs([] if said == "the kernel's rules" else said.split()) == policy


@pytest.mark.parametrize("cpus", [1, 2, 4, 64, 200])
@pytest.mark.parametrize("kernel", ["6.1", "6.12", "6.19"])
def test_without_settings_the_rules_are_the_kernels(kernel: str, cpus: int) -> None:
    policy, version = Policy(), profile(kernel)
    assert policy.threshold(cpus, 4096) == lazy_max_pages(cpus)
    assert policy.threshold(cpus, 65536) == lazy_max_pages(cpus, 65536)
    for bits in (32, 64):
        assert policy.nr_nodes(version, cpus, word_bits=bits) == nr_vmap_nodes(version, cpus, word_bits=bits)
    assert (policy.decay_divisor, policy.decay_is_kernels, policy.lowest_fit) == (4, True, False)
    assert (policy.pools, policy.guard, policy.huge, policy.changed()) == (True, True, True, {})
    assert policy_of(None) == policy_of({}) == policy_of([]) == policy


def test_a_threshold_is_pages_or_bytes() -> None:
    assert parse_knobs(["lazy_max_pages=8192"]).threshold(1, 4096) == 8192
    assert parse_knobs(["lazy_max_pages=64MiB"]).threshold(1, 4096) == 16384
    assert parse_knobs(["lazy_max_pages=64MiB"]).threshold(1, 65536) == 1024
    assert parse_knobs(["lazy_max_pages=0"]).threshold(1, 4096) == 0
    assert parse_knobs(["lazy_max_pages=kernel"]) == Policy()


@pytest.mark.parametrize(
    ("text", "divisor", "kernels"),
    [("none", 0, False), ("all", 1, False), ("half", 2, False), ("quarter", 4, True), ("1/4", 4, False),
     ("1/7", 7, False)],
)  # fmt: skip
def test_decay_is_one_part_in_so_many(text: str, divisor: int, kernels: bool) -> None:
    policy = Policy(decay=text)
    assert (policy.decay_divisor, policy.decay_is_kernels) == (divisor, kernels)


def test_a_later_setting_replaces_an_earlier_one() -> None:
    assert parse_knobs(["guard=off", " fit = lowest ", "guard=on"]) == Policy(fit="lowest")


@pytest.mark.parametrize("name", [knob.name for knob in KNOBS])
@pytest.mark.parametrize(
    "value", ["", "maybe", "-1", "1/0", "2/3", "1/", "1.5MiB", "1/-2", "129x", str(1 << 64), "1/1048577"]
)
def test_a_value_that_a_knob_does_not_have_is_refused_with_those_it_has(name: str, value: str) -> None:
    knob = next(knob for knob in KNOBS if knob.name == name)
    with pytest.raises(BadRequest) as caught:
        parse_knobs([f"{name}={value}"])
    assert f"{name}={value}: it can be {knob.values} (default: {knob.kernel})" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("lazy_max_pages", True), ("lazy_max_pages", 1.5), ("vmap_nodes", 0), ("vmap_nodes", 129), ("decay", 4),
     ("decay", None), ("pools", 1), ("guard", None), ("huge", "yes"), ("fit", True), ("fit", "best")],
)  # fmt: skip
def test_python_values_are_checked_too(name: str, value: object) -> None:
    with pytest.raises(BadRequest, match=name):
        policy_of({name: value})


@pytest.mark.parametrize("setting", ["speed=fast", "guard", "=on", ""])
def test_what_is_no_knob_is_refused_with_a_list_of_all(setting: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_knobs([setting])
    for knob in KNOBS:
        assert f"{knob.name} ({knob.values})" in str(caught.value)


def test_nodes_need_a_kernel_that_has_them() -> None:
    assert Policy(vmap_nodes=1).nr_nodes(profile("6.1"), 4) == 1
    assert Policy(vmap_nodes=7).nr_nodes(profile("6.12"), 4) == 7
    with pytest.raises(BadRequest, match=r"nodes came with 6\.9"):
        Policy(vmap_nodes=2).nr_nodes(profile("6.1"), 4)


def test_the_help_has_every_knob_with_its_values_and_default() -> None:
    words = " ".join(knob_table().split())
    for knob in KNOBS:
        assert f"{knob.name}={{{knob.values}}} {knob.meaning}; default: {knob.kernel}" in words
    assert max(map(len, knob_table().split("\n"))) <= 120


def test_the_documents_have_the_same_table() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "replay.md").read_text(encoding="utf-8")
    rows = [line for line in page.partition("### Knobs")[2].partition("###")[0].split("\n") if line.startswith("| `")]
    assert rows == [f"| `{k.name}` | {k.values} | {k.kernel} | {k.meaning} | {k.section} |" for k in KNOBS]
