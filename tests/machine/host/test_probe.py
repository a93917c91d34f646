"""The probe as a whole: asked once, forced answers, lesser processes, no traces left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from machine.host.kernel import Kernel
from vmalloc.errors import BadRequest, MachineUnavailable
from vmalloc.machine.host import probe as module
from vmalloc.machine.host.capabilities import HostCapabilities
from vmalloc.machine.host.forced import Forced
from vmalloc.machine.host.limits import LIMIT_NAMES
from vmalloc.machine.host.probe import CAPABILITY_NAMES, QUESTIONS, probe, read_facts
from vmalloc.units import GIB, MIB

ROOT = Path(__file__).resolve().parents[3]
TELL = "import json; from vmalloc.machine.host.probe import probe; print(json.dumps(probe().as_json()))"


def told(before: str = "", **environment: str) -> tuple[dict[str, dict], dict[str, dict], dict]:
    """Probes in another process, after some statements; the capabilities and limits by name, and the facts."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json\nfrom vmalloc.machine.host import probe, syscalls\n{before}\n{TELL}"],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    return ({c["name"]: c for c in answer["capabilities"]}, {c["name"]: c for c in answer["limits"]}, answer["facts"])


@pytest.fixture(scope="module")
def here() -> HostCapabilities:
    return probe()


def test_every_question_has_an_answer_with_words_for_people(here: HostCapabilities) -> None:
    assert tuple(here.capabilities) == CAPABILITY_NAMES
    assert len(set(CAPABILITY_NAMES)) == len(CAPABILITY_NAMES)
    for capability in here.capabilities.values():
        assert capability.group and capability.title and capability.how and capability.fallback  # noqa: PT018
        assert not (capability.available and capability.remedy)
        assert not capability.forced
        assert re.fullmatch(r"[a-z_]+", capability.name)
    assert tuple(here.limits) == LIMIT_NAMES


def test_what_a_question_needs_is_asked_before_it() -> None:
    asked: set[str] = set()
    for question in QUESTIONS:
        assert set(question.needs) <= asked
        asked.add(question.name)


def test_what_every_linux_has_is_found(here: HostCapabilities) -> None:
    for name in ("memfd", "punch_hole", "protect", "dont_fork"):
        assert here.has(name), here[name].how
    assert here.facts.page_size == os.sysconf("SC_PAGE_SIZE")
    assert 0 < here.facts.cpus_allowed <= here.facts.cpus_online <= here.facts.cpus_possible
    assert set(here.facts.nodes_allowed) <= set(here.facts.nodes)
    assert all(len(distances) == len(here.facts.nodes) for distances in here.facts.nodes.values())
    assert here.room("maps") in range(1, here.limits["maps"].value)


def test_all_of_it_is_plain_data(here: HostCapabilities) -> None:
    answer = json.loads(json.dumps(here.as_json()))
    assert [c["name"] for c in answer["capabilities"]] == list(CAPABILITY_NAMES)
    assert answer["facts"]["page_size"] == here.facts.page_size
    assert set(answer["limits"][0]) == {
        "name", "title", "unit", "value", "used", "how", "remedy", "forced", "room",
    }  # fmt: skip


def test_a_process_asks_once_and_its_children_inherit(monkeypatch) -> None:
    asked = []

    def count(forced: Forced) -> HostCapabilities:
        asked.append(forced)
        return HostCapabilities({}, {}, read_facts())

    monkeypatch.setattr(module, "probe", count)
    monkeypatch.setattr(module, "_found", [])
    monkeypatch.setenv("VMALLOC_HOST_WITHOUT", "guard")
    first = module.host_capabilities()
    assert module.host_capabilities() is first
    assert asked == [Forced(frozenset({"guard"}), {})]
    child = os.fork()
    if child == 0:
        os._exit(0 if module.host_capabilities() is first and len(asked) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_that_ask_together_get_the_same_answers(here: HostCapabilities) -> None:
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: probe(), range(8)):
            assert {n for n in CAPABILITY_NAMES if found.has(n)} == {n for n in CAPABILITY_NAMES if here.has(n)}


# -- forced answers ----------------------------------------------------------------------------------------------------


def test_everything_can_be_taken_away_and_is_then_not_tried(monkeypatch) -> None:
    kernel = Kernel().install(monkeypatch)
    read_facts()
    for_facts = kernel.calls
    found = probe(Forced(frozenset(CAPABILITY_NAMES)))
    assert kernel.calls == 2 * for_facts  # reading the facts again, and nothing else
    for capability in found.capabilities.values():
        assert (capability.available, capability.forced) == (False, True)
        assert capability.how == "not tried: VMALLOC_HOST_WITHOUT"
        assert capability.remedy == f"take {capability.name} out of VMALLOC_HOST_WITHOUT"


@pytest.mark.parametrize("name", CAPABILITY_NAMES)
def test_one_taken_away_takes_only_those_that_need_it(here: HostCapabilities, name: str) -> None:
    found = probe(Forced(frozenset({name})))
    needing = {question.name for question in QUESTIONS if name in question.needs}
    for other in set(CAPABILITY_NAMES) - {name} - needing:
        assert found.has(other) == here.has(other), found[other].how
    for other in needing:
        assert (found.has(other), found[other].forced, found[other].remedy) == (False, False, f"get {name}")


def test_limits_can_be_lowered_but_not_raised(here: HostCapabilities) -> None:
    real = here.limits["maps"].value
    lowered = probe(Forced(limits={"maps": 5000, "address_space": 4 * GIB})).limits
    assert (lowered["maps"].value, lowered["maps"].forced) == (5000, True)
    assert lowered["maps"].room == 5000 - lowered["maps"].used
    assert lowered["address_space"].remedy == "take address_space out of VMALLOC_HOST_LIMITS"
    assert not lowered["files"].forced
    same = probe(Forced(limits={"maps": real + 1})).limits["maps"]
    assert (same.value, same.forced) == (real, False)


def test_lowered_limits_change_answers_as_real_ones_do() -> None:
    found = probe(Forced(limits={"address_space": 4 * GIB, "maps": 1}))
    assert not found.has("reserve")
    assert 3 * GIB < found["reserve"].numbers["largest_bytes"] < 4 * GIB
    assert found["protect"].numbers["guards_possible"] == found.room("maps") == 0


@pytest.mark.parametrize(
    ("forced", "message"),
    [
        (Forced(frozenset({"gaurd"})), r"VMALLOC_HOST_WITHOUT: no capability 'gaurd'; there are asan, "),
        (Forced(limits={"mapps": 1}), r"VMALLOC_HOST_LIMITS: no limit 'mapps'; there are address_space, "),
    ],
)
def test_names_that_there_are_not_are_refused_before_anything_is_tried(monkeypatch, forced, message) -> None:
    kernel = Kernel().install(monkeypatch)
    with pytest.raises(BadRequest, match=message):
        probe(forced)
    assert kernel.calls == 0


# -- lesser processes --------------------------------------------------------------------------------------------------


def test_under_a_limit_of_addresses_smaller_reserves_are_said() -> None:
    found, limits, _ = told(f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({4 * GIB}, {4 * GIB}))")
    assert limits["address_space"]["value"] == 4 * GIB
    assert (found["reserve"]["available"], found["noreserve"]["available"]) == (False, False)
    assert 2 * GIB < found["reserve"]["numbers"]["largest_bytes"] < 4 * GIB
    assert found["reserve"]["remedy"] == "ulimit -v unlimited"
    assert found["memfd"]["available"]


def test_under_a_limit_of_data_writable_reserves_are_none() -> None:
    found, limits, _ = told(f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({GIB}, {GIB}))")
    assert (limits["data"]["value"], found["noreserve"]["available"]) == (GIB, False)
    assert found["memfd"]["available"]


def test_a_process_without_huge_pages_is_told_what_forbids_them(here: HostCapabilities) -> None:
    if here.facts.huge_size is None:
        pytest.skip("the kernel has no huge pages")
    found, _, facts = told("syscalls.prctl(syscalls.PR_SET_THP_DISABLE, 1)")
    assert facts["thp_disabled"]
    for name in ("huge", "collapse", "huge_shared"):
        assert not found[name]["available"]
        assert found[name]["remedy"] == "start the process without PR_SET_THP_DISABLE (prctl)"
    assert found["guard"]["available"] == here.has("guard")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_nobody_has_what_root_has(here: HostCapabilities) -> None:
    found, _, _ = told("import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)")
    assert {name for name in found if found[name]["available"]} == {n for n in CAPABILITY_NAMES if here.has(n)}


def test_a_process_that_locks_its_memory_is_not_made_to_lock_a_reserve(here: HostCapabilities) -> None:
    lock = "import ctypes; locked = ctypes.CDLL(None).mlockall(2); assert locked == 0"
    done = subprocess.run([sys.executable, "-c", lock], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this process may not lock its memory")
    found, _, facts = told(lock)
    assert facts["future_locked"]
    assert found["noreserve"]["how"].startswith("not tried: mlockall")
    assert not found["guard"]["available"]
    assert found["protect"]["available"]


def test_with_hardly_a_mapping_left_it_answers_and_says_why(here: HostCapabilities) -> None:
    if here.limits["maps"].value > 200_000:
        pytest.skip("vm.max_map_count is too large to be used up quickly")
    use_up = """
page, n = 4096 * 16, 0
size = 2 * page * 200_000
address = syscalls.mmap(0, size, 1, syscalls.MAP_PRIVATE | syscalls.MAP_ANONYMOUS | syscalls.MAP_NORESERVE)
try:
    while True:
        syscalls.mprotect(address + (2 * n + 1) * page, page, syscalls.PROT_NONE)
        n += 1
except OSError:
    for back in range(10):
        n -= 1
        syscalls.mprotect(address + (2 * n + 1) * page, page, syscalls.PROT_READ)
"""
    found, limits, _ = told(use_up)
    assert limits["maps"]["room"] <= 30
    assert found["protect"]["available"]
    assert found["protect"]["numbers"]["guards_possible"] <= 15


def test_the_variables_are_read(here: HostCapabilities) -> None:
    tell = TELL.replace("import probe; ", "import host_capabilities as probe; ")
    done = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, check=True,
        env=os.environ | {"VMALLOC_HOST_WITHOUT": "guard, collapse", "VMALLOC_HOST_LIMITS": f"memory={64 * MIB}"},
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert [c["name"] for c in answer["capabilities"] if c["forced"]] == ["collapse", "guard"]
    assert [limit["name"] for limit in answer["limits"] if limit["forced"]] == ["memory"]


def test_without_proc_there_is_no_host_machine(monkeypatch) -> None:
    def unreadable(*arguments: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/self/status")

    monkeypatch.setattr(module, "read_limits", unreadable)
    with pytest.raises(MachineUnavailable, match=r"^no host machine: /proc cannot be read: .*'/proc/self/status'$"):
        probe()


# -- no traces ---------------------------------------------------------------------------------------------------------


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_probe_leaves_no_mapping_and_no_descriptor(monkeypatch) -> None:
    kernel, before = Kernel().install(monkeypatch), open_files()
    probe()
    assert kernel.kept == {}
    assert open_files() == before
    assert kernel.calls > 50


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_whatever_call_fails_the_answer_is_no_and_nothing_is_left(monkeypatch, here, question) -> None:
    from vmalloc.machine.host.probes.question import Ground

    ground, before = Ground(here.facts, here.limits), open_files()
    for fail_at in range(1, 1000):
        with monkeypatch.context() as patch:
            kernel = Kernel(fail_at=fail_at).install(patch)
            answer = question.answered(ground)
        assert kernel.kept == {}, fail_at
        assert open_files() == before, fail_at
        if kernel.calls < fail_at:
            assert answer.available == here.has(question.name)
            break
        # A reserve that is refused is no failure: a smaller one is tried. So with a memfd that must promise more.
        if question.name not in ("reserve", "noreserve") and "memfd" not in (question.name, *question.needs):
            assert not answer.available, fail_at
    else:
        pytest.fail("it never ends")


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_lists_every_capability_and_every_limit() -> None:
    text = (ROOT / "docs/host.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", text, re.MULTILINE)
    wanted = [(q.name, q.title, q.fallback) for q in QUESTIONS]
    assert [tuple(cell.strip() for cell in row) for row in rows[: len(wanted)]] == wanted
    assert [name for name, _, _ in rows[len(wanted) :]] == list(LIMIT_NAMES)
