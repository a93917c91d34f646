"""The recordings of the repository: where they are, and how one is replayed together with its snapshots."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from vmalloc.trace.events import Trace
from vmalloc.trace.ftrace import read_trace
from vmalloc.trace.replay.replay import replay
from vmalloc.trace.replay.result import ReplayResult
from vmalloc.trace.shipped import shipped_snapshots, shipped_trace
from vmalloc.trace.vmallocinfo import Snapshot, read_snapshot

RECORDED = Path(__file__).resolve().parents[2] / "recorded"
SHIPPED = "g612_1cpu_cont"
#: Its snapshots were not taken around the trace.
APART = "g612_2cpu_td_bpfmap"


def names() -> list[str]:
    """All recordings, the shipped one included."""
    files = [*RECORDED.glob("*.trace.zst"), *RECORDED.glob("*.report.txt.zst")]
    return sorted([SHIPPED, *(path.name.split(".")[0] for path in files)])


def trace_file(name: str) -> Path:
    """The trace of a recording."""
    if name == SHIPPED:
        return shipped_trace()
    path = RECORDED / f"{name}.trace.zst"
    return path if path.exists() else RECORDED / f"{name}.report.txt.zst"


def before_file(name: str) -> Path | None:
    """The snapshot it starts from, if there is one."""
    path = RECORDED / f"{name}.before.vmallocinfo.zst"
    return path if path.exists() else None


def after_files(name: str) -> list[Path]:
    """The snapshots to compare with."""
    if name == SHIPPED:
        return shipped_snapshots()
    after = RECORDED / f"{name}.after.vmallocinfo.zst"
    return sorted(RECORDED.glob(f"{name}.snap-*")) + ([after] if after.exists() else [])


def load(name: str) -> tuple[Trace, Snapshot | None, list[Snapshot]]:
    """Reads a recording: its trace, its snapshot before, its snapshots after."""
    before = before_file(name)
    return read_trace(trace_file(name)), read_snapshot(before) if before else None, [
        read_snapshot(path) for path in after_files(name)
    ]


def replayed(name: str, *, open_loop: bool = False, **settings: object) -> ReplayResult:
    """Replays a recording with its snapshots."""
    trace, before, after = load(name)
    return replay(trace, before=before, after=after, open_loop=open_loop, **settings)  # type: ignore[arg-type]


@cache
def known(name: str, *, open_loop: bool = False) -> ReplayResult:
    """``replayed``, once per test run: for tests that only look."""
    return replayed(name, open_loop=open_loop)


def cut(trace: Trace, length: int) -> Trace:
    """The first events of a trace, as a trace."""
    for name in vars(trace.events):
        column = getattr(trace.events, name)
        del column[length:]
    return trace


def fingerprint(name: str, length: int | None = None) -> str:
    """Replays a recording and hashes every placement and every verdict, the start state and the counts."""
    from vmalloc.trace.replay import replay as module

    trace, before, after = load(name)
    if length is not None:
        trace, after = cut(trace, length), []
    setting = module._setting(trace, before, after, None, False, module.SLACK, module.SHAPES)
    version, setting, _ = module._identify(trace, setting, None, False)
    shape = module._shape(trace, setting, version)
    engine, plan = module._engine(trace, setting, version, shape)
    engine.run(0, len(trace))
    counts = [setting.cpus, shape, engine.peak_busy_bytes, *plan.counter]
    found = hashlib.sha256(f"{version.name} {counts}".encode())
    for column in (plan.placed, plan.verdict, plan.done):
        found.update(column.tobytes())
    found.update(repr(engine.allocator.free.blocks()).encode())
    return found.hexdigest()
