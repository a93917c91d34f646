"""The data: frozen, plain, and asked by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from vmalloc.machine.host.capabilities import Capability, HostCapabilities, Limit
from vmalloc.machine.host.probe import read_facts

GUARD = Capability("guard", "guards", "guard pages", False, "refused", "mprotect", "Linux 6.13", {"mappings_each": 2})
MAPS = Limit("maps", "mappings", "mappings", 1000, 990, "vm.max_map_count", "sysctl")


def test_questions_are_answered_by_name() -> None:
    found = HostCapabilities({"guard": GUARD}, {"maps": MAPS}, read_facts())
    assert found["guard"] is GUARD
    assert not found.has("guard")
    assert found.room("maps") == 10
    with pytest.raises(KeyError):
        found.has("gaurd")


def test_nobody_can_change_an_answer() -> None:
    mine = {"guard": GUARD}
    found = HostCapabilities(mine, {}, read_facts())
    mine.clear()
    assert list(found.capabilities) == ["guard"]
    with pytest.raises(TypeError):
        found.capabilities["guard"] = GUARD  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        GUARD.available = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "used", "room"), [(None, 5, None), (10, 4, 6), (10, None, 10), (10, 12, 0), (0, 0, 0)]
)
def test_room_is_what_is_left(value: int | None, used: int | None, room: int | None) -> None:
    assert Limit("x", "x", "bytes", value, used, "", "").room == room


def test_a_limit_is_lowered_only() -> None:
    lower = MAPS.lowered(5, "VARIABLE")
    assert (lower.value, lower.forced, lower.how, lower.remedy) == (5, True, "VARIABLE", "take maps out of VARIABLE")
    assert MAPS.lowered(1000, "VARIABLE") is MAPS
    assert Limit("x", "x", "bytes", None, 1, "", "").lowered(7, "VARIABLE").value == 7


def test_as_json_nothing_is_lost() -> None:
    answer = HostCapabilities({"guard": GUARD}, {"maps": MAPS}, read_facts()).as_json()
    assert answer["capabilities"] == [
        {
            "name": "guard", "group": "guards", "title": "guard pages", "available": False, "how": "refused",
            "fallback": "mprotect", "remedy": "Linux 6.13", "numbers": {"mappings_each": 2}, "forced": False,
        }
    ]  # fmt: skip
    assert answer["limits"][0]["room"] == 10
    assert answer["facts"]["nodes_allowed"]
