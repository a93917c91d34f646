"""What a run of the workloads found, as values: per case, per worker, and of the space at the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from vmalloc.workloads.cases import Case
from vmalloc.workloads.parameters import Parameters

__all__ = ["CaseResult", "RunResult", "WorkerResult"]


@dataclass
class WorkerResult:
    """One worker's runs of one case.

    Attributes:
        worker, cpu: who, and where.
        passed, failed, xfailed: repetitions; the last failed as they should.
        loops: inner loops of a repetition.
        nanoseconds: of this worker's own steps in all repetitions, set-up included.
        loop_nanoseconds: of those, in the loops.
    """

    worker: int
    cpu: int
    passed: int = 0
    failed: int = 0
    xfailed: int = 0
    loops: int = 1
    nanoseconds: int = 0
    loop_nanoseconds: int = 0

    @property
    def repeat(self) -> int:
        """Repetitions that were run."""
        return self.passed + self.failed + self.xfailed

    @property
    def avg_usec(self) -> int:
        """Microseconds of one repetition, as the module prints it."""
        return self.nanoseconds // 1000 // max(self.repeat, 1)

    @property
    def ns_per_loop(self) -> float:
        """Nanoseconds of one loop, the set-up left out."""
        return self.loop_nanoseconds / max(self.repeat * self.loops, 1)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"repeat": self.repeat, "avg_usec": self.avg_usec, "ns_per_loop": self.ns_per_loop}


@dataclass
class CaseResult:
    """A case, over all workers.

    Attributes:
        case: which.
        workers: what each of them found.
        costs: what the machine counted while a worker was in this case, by the names of ``stats``.
        reasons: why repetitions failed; each reason once, the first few.
        missing: calls that the space has not: the case was not run.
    """

    case: Case
    workers: list[WorkerResult] = field(default_factory=list)
    costs: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """The sum of a field of all workers."""
        return sum(getattr(worker, name) for worker in self.workers)

    @property
    def best_ns_per_loop(self) -> float:
        """Nanoseconds of a loop, of the quickest worker."""
        return min((worker.ns_per_loop for worker in self.workers), default=0.0)

    @property
    def mean_ns_per_loop(self) -> float:
        """Nanoseconds of a loop, on average over the workers."""
        return sum(worker.ns_per_loop for worker in self.workers) / max(len(self.workers), 1)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.case.name,
            "bit": self.case.bit,
            "missing_calls": self.missing,
            **{name: self.total(name) for name in ("passed", "failed", "xfailed", "repeat")},
            "best_ns_per_loop": self.best_ns_per_loop,
            "mean_ns_per_loop": self.mean_ns_per_loop,
            "costs": self.costs,
            "reasons": self.reasons,
            "workers": [worker.as_json() for worker in self.workers],
        }


@dataclass
class RunResult:
    """A run.

    Attributes:
        machine: what it ran on, in words and numbers.
        parameters, seed: how.
        cases: what was found, in the order of the bits.
        total_nanoseconds: per worker, of all its steps.
        outside: what the machine counted while no worker was in a case: what was left to free.
        end: the space afterwards, before anything more is purged, by the names of ``stats``.
        seconds: of the whole run.
    """

    machine: dict[str, Any]
    parameters: Parameters
    seed: int
    cases: list[CaseResult] = field(default_factory=list)
    total_nanoseconds: list[int] = field(default_factory=list)
    outside: dict[str, int] = field(default_factory=dict)
    end: dict[str, int | float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Repetitions that failed and should not have."""
        return sum(case.total("failed") for case in self.cases)

    def summary_lines(self) -> list[str]:
        """What the module prints: a line per case and worker, then one per worker (section 11.1).

        A kernel counts the cycles of a worker; here they are the nanoseconds of its steps.
        """
        lines = []
        counts_xfailed = self.machine.get("kernel") not in ("6.1", "6.12")  # since 6.17
        for number, total in enumerate(self.total_nanoseconds):
            for case in self.cases:
                lines += [
                    f"Summary: {case.case.name} passed: {found.passed} failed: {found.failed} "
                    + (f"xfailed: {found.xfailed} " if counts_xfailed else "")
                    + f"repeat: {found.repeat} loops: {found.loops} avg: {found.avg_usec} usec"
                    for found in case.workers
                    if found.worker == number
                ]
            lines.append(f"All test took worker{number}={total} ns")
        return lines

    def as_json(self) -> dict[str, Any]:
        """One object of plain values."""
        return {
            "machine": self.machine,
            "parameters": asdict(self.parameters),
            "seed": self.seed,
            "seconds": self.seconds,
            "failed": self.failed,
            "workloads": [case.as_json() for case in self.cases],
            "outside": self.outside,
            "end": self.end,
            "summary": self.summary_lines(),
        }
