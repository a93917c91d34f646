"""Who asked (section 1.2, ``%pS``)."""

from __future__ import annotations

import re

import pytest

from calls.watch import make
from vmalloc.calls.where import Caller

pytestmark = pytest.mark.both_builds


def test_the_caller_is_the_function_that_asked_in_the_form_of_a_symbol() -> None:
    space = make()

    def inner() -> object:
        return space.vmalloc(1)

    areas = [space.vmalloc(1), inner(), space.vzalloc(1), space.get_vm_area(1), space.kvmalloc(1), space.vmap([1])]
    areas += [space.ioremap(1 << 40, 1), space.vmalloc_node(1, 0), space.vmalloc_user(1), space.vmalloc_huge(1)]
    for area in areas:
        name = "inner" if area is areas[1] else "test_the_caller_is_the_function_that_asked_in_the_form_of_a_symbol"
        assert re.fullmatch(rf"{name}\+0x[0-9a-f]+/0x[0-9a-f]+ \[test_where\]", area.caller)


def test_place_and_line() -> None:
    caller = make().vmalloc(1).vm.caller
    assert isinstance(caller, Caller)
    assert caller.filename == __file__
    assert caller.line == test_place_and_line.__code__.co_firstlineno + 1
    assert "test_place_and_line" in repr(caller)


def test_an_odd_name_is_made_one_word() -> None:
    code = compile("1", "my file.py", "eval")
    assert str(Caller(code, -1)) == f"<module>+0x0/{len(code.co_code):#x} [my_file]"
