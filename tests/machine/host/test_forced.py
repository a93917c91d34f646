"""Answers that are given: what the two variables may say."""

from __future__ import annotations

import pytest

from vmalloc.errors import BadRequest
from vmalloc.machine.host.forced import Forced, read_forced
from vmalloc.units import GIB


@pytest.mark.parametrize(
    ("environment", "forced"),
    [
        ({}, Forced()),
        ({"VMALLOC_HOST_WITHOUT": "", "VMALLOC_HOST_LIMITS": " , "}, Forced()),
        ({"VMALLOC_HOST_WITHOUT": "guard, collapse,,guard"}, Forced(frozenset({"guard", "collapse"}))),
        ({"VMALLOC_HOST_LIMITS": "maps=5000, data = 4GiB"}, Forced(limits={"maps": 5000, "data": 4 * GIB})),
    ],
)
def test_lists_with_commas_are_read(environment: dict[str, str], forced: Forced) -> None:
    assert read_forced(environment) == forced


@pytest.mark.parametrize("text", ["maps", "maps=", "maps=many", "maps=-1", "=5", "maps=1.5GiB"])
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"VMALLOC_HOST_LIMITS: "):
        read_forced({"VMALLOC_HOST_LIMITS": text}).check([], ["maps"])


def test_names_are_checked_against_those_there_are() -> None:
    forced = Forced(frozenset({"b", "a"}), {"maps": 1})
    forced.check(["a", "b", "c"], ["maps"])
    with pytest.raises(BadRequest, match=r"^VMALLOC_HOST_WITHOUT: no capability 'a', 'b'; there are c, d$"):
        forced.check(["d", "c"], ["maps"])
    with pytest.raises(BadRequest, match=r"^VMALLOC_HOST_LIMITS: no limit 'maps'; there are files$"):
        forced.check(["a", "b"], ["files"])
