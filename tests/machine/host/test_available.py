"""Asking for the host machine where there is none: one clear error. The other tests here run where there is one."""

from __future__ import annotations

import sys

import pytest

from vmalloc.errors import MachineUnavailable
from vmalloc.machine import host


@pytest.mark.both_builds
def test_compiled_there_is_a_host_machine_and_uncompiled_there_is_none(compiled: bool) -> None:
    if compiled:
        host.require()
        assert host.why_unavailable() is None
    else:
        with pytest.raises(MachineUnavailable, match=r"^no host machine: .* unset VMALLOC_PURE$"):
            host.require()


def test_elsewhere_the_error_names_the_platform(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MachineUnavailable, match=r"^no host machine: it needs Linux, and this is darwin; "):
        host.require()


def test_a_build_without_compiling_says_so(monkeypatch) -> None:
    monkeypatch.setattr(host._build, "PURE", False)
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    with pytest.raises(MachineUnavailable, match=r"built without compiling; build it with a C compiler$"):
        host.require()


def test_the_folder_can_be_read_without_making_a_system_call(run_pure) -> None:
    code = "import vmalloc.machine.host.maps, vmalloc.machine.host.cgroup, vmalloc.machine.host.forced; print('fine')"
    assert run_pure("-c", code).stdout == "fine\n"
