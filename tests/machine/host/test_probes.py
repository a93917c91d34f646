"""Each probe against a kernel that says yes and does nothing, does half, or refuses: the answer is no, and says why."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from machine.host.kernel import Kernel, refusing
from vmalloc.machine.host import scratch, syscalls
from vmalloc.machine.host.capabilities import Capability, HostCapabilities
from vmalloc.machine.host.maps import Mapping
from vmalloc.machine.host.probe import QUESTIONS, probe
from vmalloc.machine.host.probes import addresses, watching
from vmalloc.machine.host.probes.question import Ground
from vmalloc.units import GIB, MIB, TIB

BY_NAME = {question.name: question for question in QUESTIONS}


@pytest.fixture(scope="module")
def here() -> HostCapabilities:
    return probe()


def ask(name: str, here: HostCapabilities, monkeypatch: Any, facts: Any = None, **lies: Any) -> Capability:
    """The answer to one question by a kernel that lies, perhaps with other facts."""
    kernel = Kernel(lies).install(monkeypatch)
    answer = BY_NAME[name].answered(Ground(replace(here.facts, **(facts or {})), here.limits))
    assert kernel.kept == {}
    return answer


def nothing(*arguments: Any) -> int:
    """A call that says it was done."""
    return 0


def except_advice(*advices: int, then: Callable[[int, int], Any] | None = None) -> Callable[..., Any]:
    """A madvise that does nothing, or something else, for some advices."""

    def madvise(address: int, size: int, advice: int) -> None:
        if advice not in advices:
            syscalls.madvise(address, size, advice)
        elif then is not None:
            then(address, size)

    return madvise


def drop(address: int, size: int) -> None:
    syscalls.madvise(address, size, syscalls.MADV_DONTNEED)


def forbid(address: int, size: int) -> None:
    syscalls.mprotect(address, size, syscalls.PROT_NONE)


def private_instead(address: int, size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """A mmap that maps private memory where a file was asked for."""
    if flags & syscalls.MAP_SHARED:
        flags = flags & ~syscalls.MAP_SHARED | syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS
    return syscalls.mmap(address, size, prot, flags)


def unmapping(address: int, old_size: int, new_size: int, flags: int, target: int) -> int:
    """A mremap that knows no DONTUNMAP."""
    return syscalls.mremap(address, old_size, new_size, flags & ~syscalls.MREMAP_DONTUNMAP, target)


LIES = [
    ("huge", {"madvise": except_advice(syscalls.MADV_HUGEPAGE)}),
    ("populate", {"madvise": except_advice(syscalls.MADV_POPULATE_WRITE)}),
    ("lazy_free", {"madvise": except_advice(syscalls.MADV_FREE)}),
    ("lazy_free", {"madvise": except_advice(syscalls.MADV_FREE, then=drop)}),
    ("dont_fork", {"madvise": except_advice(syscalls.MADV_DONTFORK)}),
    ("wipe_on_fork", {"madvise": except_advice(syscalls.MADV_WIPEONFORK)}),
    ("memfd", {"mmap": private_instead}),
    ("punch_hole", {"fallocate": nothing}),
    ("collapse", {"madvise": except_advice(syscalls.MADV_COLLAPSE)}),
    ("huge_shared", {"madvise": except_advice(syscalls.MADV_HUGEPAGE)}),
    ("guard", {"madvise": except_advice(syscalls.MADV_GUARD_INSTALL)}),
    ("guard", {"madvise": except_advice(syscalls.MADV_GUARD_REMOVE)}),
    ("guard", {"madvise": except_advice(syscalls.MADV_GUARD_INSTALL, then=forbid)}),
    ("guard_shared", {"madvise": except_advice(syscalls.MADV_GUARD_INSTALL)}),
    ("guard_shared", {"madvise": except_advice(syscalls.MADV_GUARD_REMOVE)}),
    ("protect", {"mprotect": nothing}),
    ("dontunmap", {"mremap": unmapping}),
    ("dontunmap", {"mremap": nothing}),
    ("vectored", {"process_madvise": lambda pidfd, spans, advice: sum(end - start for start, end in spans)}),
    ("vectored", {"process_madvise": lambda pidfd, spans, advice: syscalls.process_madvise(pidfd, spans[:1], advice)}),
    ("uffd_move", {"uffd_move": lambda fd, target, source, size: size}),
    ("mbind", {"get_mempolicy": lambda address, flags: (1 << 9, ())}),
    ("page_nodes", {"page_nodes": lambda addresses: [-errno.ENOENT for _ in addresses]}),
    ("page_nodes", {"page_nodes": lambda addresses: [0 for _ in addresses]}),
    ("rseq", {"rseq_cpu": lambda: -errno.ENOSYS}),
    ("rseq", {"rseq_cpu": lambda: 1 << 20}),
    ("names", {"name_range": nothing}),
    ("asan", {"symbol": lambda name: 0}),
]


@pytest.mark.parametrize(("name", "lies"), LIES, ids=[f"{n}-{name}" for n, (name, _) in enumerate(LIES)])
def test_a_kernel_that_says_yes_and_does_nothing_is_found_out(here, monkeypatch, name: str, lies: Any) -> None:
    if name == "huge" and here.facts.thp == "always":
        pytest.skip("huge pages come unasked")
    if name in ("collapse", "huge_shared") and here.facts.thp_shared not in ("never", "advise", ""):
        pytest.skip("huge pages come unasked")
    answer = ask(name, here, monkeypatch, **lies)
    assert (answer.available, answer.forced) == (False, False)
    assert answer.how


REFUSALS = [
    ("populate", "madvise"), ("lazy_free", "madvise"), ("dont_fork", "madvise"), ("wipe_on_fork", "madvise"),
    ("huge", "madvise"), ("huge_shared", "madvise"), ("collapse", "madvise"), ("memfd", "memfd_create"),
    ("punch_hole", "fallocate"), ("guard", "madvise"), ("guard_shared", "madvise"), ("protect", "mprotect"),
    ("dontunmap", "mremap"), ("vectored", "pidfd_open"), ("vectored", "process_madvise"),
    ("userfaultfd", "userfaultfd"), ("userfaultfd", "uffd_features"), ("uffd_move", "uffd_move"), ("mbind", "mbind"),
    ("page_nodes", "page_nodes"), ("names", "name_range"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call"), REFUSALS)
def test_a_refusal_tells_lacking_from_forbidding_from_running_short(here, monkeypatch, name: str, call: str) -> None:
    lacking = ask(name, here, monkeypatch, **{call: refusing(errno.ENOSYS)})
    forbidden = ask(name, here, monkeypatch, **{call: refusing(errno.EPERM)})
    assert (lacking.available, forbidden.available) == (False, False)
    assert lacking.how == forbidden.how == "refused for the test"
    assert lacking.remedy == BY_NAME[name].remedy
    assert forbidden.remedy.startswith("allow the call: ")
    full = ask(name, here, monkeypatch, **{call: refusing(errno.ENOMEM)})
    assert (full.available, full.remedy) == (False, "the process had no room left to try: see the limits")


def test_a_collapse_that_is_busy_is_tried_again(here: HostCapabilities, monkeypatch) -> None:
    if not here.has("collapse"):
        pytest.skip("no collapse here")
    busy = [errno.EAGAIN, errno.EAGAIN]

    def madvise(address: int, size: int, advice: int) -> None:
        if advice == syscalls.MADV_COLLAPSE and busy:
            raise OSError(busy.pop(), "busy for the test")
        syscalls.madvise(address, size, advice)

    assert ask("collapse", here, monkeypatch, madvise=madvise).available
    busy[:] = [errno.EAGAIN] * 9
    assert ask("collapse", here, monkeypatch, madvise=madvise).how == "busy for the test"


@pytest.mark.parametrize("name", ["huge", "collapse", "huge_shared"])
def test_huge_pages_are_not_tried_where_there_are_none_or_enormous_ones(here, monkeypatch, name: str) -> None:
    none = ask(name, here, monkeypatch, {"huge_size": None})
    assert (none.available, none.remedy) == (False, "a kernel with CONFIG_TRANSPARENT_HUGEPAGE")
    enormous = ask(name, here, monkeypatch, {"huge_size": 512 * MIB})
    assert (enormous.available, enormous.how) == (False, "not tried: a huge page has 512 MiB")


def test_huge_pages_that_are_switched_off_say_how_to_switch_them_on(here: HostCapabilities, monkeypatch) -> None:
    if here.facts.thp == "always" or here.facts.huge_size is None:
        pytest.skip("huge pages come unasked, or never")
    lie = except_advice(syscalls.MADV_HUGEPAGE)
    answer = ask("huge", here, monkeypatch, {"thp": "never"}, madvise=lie)
    assert answer.remedy == "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    answer = ask("huge", here, monkeypatch, madvise=lie)
    assert "compact_memory" in answer.remedy


# -- addresses ---------------------------------------------------------------------------------------------------------


def only_below(largest: int) -> Callable[..., int]:
    """A mmap that refuses what is larger."""

    def mmap(address: int, size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        if size > largest:
            raise OSError(errno.ENOMEM, "too large for the test")
        return syscalls.mmap(address, size, prot, flags, fd, offset)

    return mmap


@pytest.mark.parametrize("largest", [16 * MIB, 100 * MIB, GIB, 5 * GIB, 60 * GIB, 3 * TIB, 64 * TIB])
def test_the_largest_reserve_is_found_to_a_sixteenth(monkeypatch, largest: int) -> None:
    Kernel({"mmap": only_below(largest)}).install(monkeypatch)
    found = addresses.largest_reserve()
    assert found <= largest
    assert largest - found <= max(largest // 16, addresses.LEAST)


def test_where_nothing_can_be_reserved_the_largest_is_0(here: HostCapabilities, monkeypatch) -> None:
    answer = ask("reserve", here, monkeypatch, mmap=only_below(MIB))
    assert (answer.available, answer.numbers["largest_bytes"]) == (False, 0)
    assert not ask("noreserve", here, monkeypatch, mmap=only_below(MIB)).available


def test_a_kernel_that_never_overcommits_has_no_writable_reserve(here: HostCapabilities, monkeypatch) -> None:
    def strict(address: int, size: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
        if prot & syscalls.PROT_WRITE and size > GIB:
            raise OSError(errno.ENOMEM, "more than was promised")
        return syscalls.mmap(address, size, prot, flags, fd, offset)

    answer = ask("noreserve", here, monkeypatch, mmap=strict)
    assert (answer.available, answer.remedy) == (False, "sysctl -w vm.overcommit_memory=0")
    assert ask("reserve", here, monkeypatch, mmap=strict).available == here.has("reserve")


# -- what cannot be had here, had by other means -----------------------------------------------------------------------


def test_a_name_that_shows_is_an_answer_yes(here: HostCapabilities, monkeypatch) -> None:
    shown = [Mapping(0, 4096, "rw-p", 0, 0, "[anon:vmalloc probe]")]
    monkeypatch.setattr(watching, "mappings_in", lambda start, end: shown)
    assert ask("names", here, monkeypatch, name_range=nothing).available


def test_pressure_is_what_can_be_read(here: HostCapabilities, monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "memory"
    monkeypatch.setattr(watching, "PRESSURE", file)
    missing = ask("pressure", here, monkeypatch)
    assert (missing.available, missing.how) == (False, "No such file or directory")
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00\n", encoding="ascii")
    assert ask("pressure", here, monkeypatch).available
    file.write_text("something else\n", encoding="ascii")
    assert not ask("pressure", here, monkeypatch).available


def test_address_sanitizer_is_found_when_it_is_there() -> None:
    asked = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    library = asked.stdout.strip()
    if not os.path.isabs(library):
        pytest.skip("no libasan")
    code = "from vmalloc.machine.host.probe import probe; found = probe(); print(found.has('asan'), found.has('memfd'))"
    environment = os.environ | {"LD_PRELOAD": os.path.realpath(library), "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr


# -- scratch memory ----------------------------------------------------------------------------------------------------


def test_a_piece_is_a_mapping_of_its_own_between_pages_that_nobody_may_touch() -> None:
    size = 4 * scratch.PAGE_SIZE
    with scratch.private(size, 2 * MIB) as address, scratch.private(size) as other:
        assert address % (2 * MIB) == 0
        for start in (address, other):
            assert scratch.mappings_of(start, size) == 1
            assert not syscalls.readable(start - 1)
            assert not syscalls.readable(start + size)
            assert scratch.bytes_of("Size", start, size) == size


def test_a_piece_is_taken_back_when_its_user_fails() -> None:
    with pytest.raises(ZeroDivisionError), scratch.private(scratch.PAGE_SIZE) as address:
        raise ZeroDivisionError
    assert scratch.mappings_of(address, scratch.PAGE_SIZE) == 0


def test_a_kernel_that_knows_no_promise_not_to_execute_gives_a_file_all_the_same(monkeypatch) -> None:
    asked = []

    def memfd_create(name: str, flags: int) -> int:
        asked.append(flags)
        if flags & syscalls.MFD_NOEXEC_SEAL:
            raise OSError(errno.EINVAL, "what is that")
        return syscalls.memfd_create(name, flags)

    Kernel({"memfd_create": memfd_create}).install(monkeypatch)
    fd = scratch.shared_file("vmalloc test")
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert len(asked) == 2


def test_every_probe_is_lied_to_and_refused() -> None:
    by_hand = {"reserve", "noreserve", "pressure"}
    assert {name for name, _ in LIES} | by_hand | {"userfaultfd"} == set(BY_NAME)
    assert {name for name, _ in REFUSALS} | by_hand | {"asan", "rseq"} == set(BY_NAME)
