"""The boundary itself: what is declared, and what every machine has without doing anything for it."""

from __future__ import annotations

import inspect
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from vmalloc.machine import base
from vmalloc.machine.base import Machine, MachineInfo, Running
from vmalloc.machine.wrappers.wrapper import OPERATIONS
from vmalloc.pages import Pages

pytestmark = pytest.mark.both_builds

FOLDER = Path(base.__file__).parent
DECLARED = re.compile(r"^    cpdef \w+ (\w+)\(self(?:, )?(.*?)\)(?: except.*)?$", re.MULTILINE)


def declared(file: str) -> dict[str, list[str]]:
    """The operations of a declaration file, with the names of their arguments."""
    text = (FOLDER / file).read_text(encoding="utf-8")
    return {name: [a.split()[-1] for a in args.split(", ") if a] for name, args in DECLARED.findall(text)}


def written(file: str, class_name: str) -> dict[str, list[str]]:
    """The operations of a class, as its source has them: compiled methods do not tell the names of arguments."""
    text = (FOLDER / file).read_text(encoding="utf-8").split(f"class {class_name}")[1].split("\nclass ")[0]
    found = re.findall(r"^    def (\w+)\(self(?:, )?(.*)\):$", text, re.MULTILINE)
    return {name: [a for a in args.split(", ") if a] for name, args in found if name in OPERATIONS}


def test_the_operations_are_what_is_declared() -> None:
    assert tuple(declared("base.pxd")) == OPERATIONS
    assert declared("base.pxd") == written("base.py", "Machine:")


@pytest.mark.parametrize(
    ("pxd", "py", "class_name"),
    [
        ("wrappers/wrapper.pxd", "wrappers/wrapper.py", "Wrapper(Machine)"),
        ("simulated/machine.pxd", "simulated/machine.py", "SimulatedMachine(Machine)"),
    ],
)
def test_a_machine_declares_each_of_them_in_the_same_way(pxd: str, py: str, class_name: str) -> None:
    assert declared(pxd) == declared("base.pxd")
    assert written(py, class_name) == declared("base.pxd")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_done_by_a_machine_that_says_nothing(operation: str) -> None:
    values = {
        "pages": Pages([1]), "data": b"", "what": "", "work": print, "valid": True, "reclaim": True,
    }  # fmt: skip
    arguments = [values.get(name, 0) for name in declared("base.pxd")[operation]]
    with pytest.raises(NotImplementedError):
        getattr(Machine(), operation)(*arguments)


def test_every_operation_says_what_it_does() -> None:
    assert all(inspect.getdoc(getattr(Machine, operation)) for operation in OPERATIONS)


def test_every_machine_has_somebody_running_whatever_its_constructor_does() -> None:
    class Own(Machine):
        def __init__(self, name: str, *, size: int) -> None:
            self.seen = (name, size, self.cpu, self.context)

    assert Own("own", size=3).seen == ("own", 3, 0, 0)
    assert Machine().running is not Machine().running


def test_who_runs_can_be_said_on_the_machine_or_beside_it() -> None:
    machine = Machine()
    machine.cpu, machine.context = 5, 2
    assert (machine.running.cpu, machine.running.context) == (5, 2)
    machine.running = Running()
    assert (machine.cpu, machine.context) == (0, 0)


def test_what_a_machine_is_cannot_be_changed() -> None:
    info = MachineInfo(**{field.name: 0 for field in fields(MachineInfo)})
    with pytest.raises(FrozenInstanceError):
        info.cpus = 1
