"""Running a case: every variant once a round, each in a fresh process, the order turned around every other round.

Variants so share whatever else the machine does. A run's result is compared with the right rows before its time
counts; a wrong one is kept in the table with how it differs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import median

from benchmarks.case import Case, Variant
from benchmarks.checks import Result, all_differences
from benchmarks.data import CACHE, ROOT, Size

# The slowest right variant of the largest size takes about two minutes on two busy cores.
_TIMEOUT_S = 900


class Status(StrEnum):
    """What became of a run; only the time of one that is ok counts."""

    OK = "ok"
    NOT_THE_SAME_WORK = "not the same work"
    FAILED = "failed"
    NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Run:
    """One run of one variant. Times in s, memory and disk in MB; ``detail`` says what is wrong, where something is."""

    case: str
    variant: str
    size: str
    round: int
    status: Status
    detail: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    disk_mb: float = 0.0


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of a metric over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    @property
    def swing(self) -> float:
        """Greatest over least: 1.0 is perfectly quiet."""
        return self.high / self.low if self.low > 0 else float("inf")


def interpreter(variant: Variant) -> Path:
    """The Python that runs a variant; it is not there where its peer is not installed."""
    return Path(sys.executable) if variant.peer is None else peer_home(variant.peer) / "bin" / "python"


def peer_home(peer: str) -> Path:
    """The optional environment of a peer."""
    return ROOT / f".venv-bench-{peer}"


def run_case(case: Case, size: Size, rounds: int) -> Iterator[Run]:
    """Every run of the case, as soon as it is over: a time limit must not cost the ones before."""
    data = case.prepare(size)
    for number in range(1, rounds + 1):
        order = case.variants if number % 2 else case.variants[::-1]
        for variant in order:
            yield run_once(case, variant, size, data, number)


def run_once(case: Case, variant: Variant, size: Size, data: Path, number: int) -> Run:
    """One run in a fresh process, checked."""

    def ended(status: Status, detail: str = "", **measured: float) -> Run:
        return Run(case.name, variant.name, size.name, number, status, detail, **measured)

    python = interpreter(variant)
    if not python.exists():
        return ended(
            Status.NOT_INSTALLED, f"python -m benchmarks --install-peers makes {peer_home(str(variant.peer)).name}"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    # Beside the data: tables are shared by hard links, which do not cross file systems.
    out = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
    try:
        order = {"work": variant.work, "setup": variant.setup, "data": str(data), "out": str(out)}
        done = subprocess.run(
            [str(python), "-m", "benchmarks.child"],
            input=json.dumps({**order, "arguments": variant.arguments}),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=_environment(),
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or [f"ended with {done.returncode}"]
            return ended(Status.FAILED, said[0][:300])
        wrong = _wrong(case, variant, data, out)
        status = Status.NOT_THE_SAME_WORK if wrong else Status.OK
        return ended(status, "; ".join(wrong), **json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        return ended(Status.FAILED, f"not done after {_TIMEOUT_S} s")
    finally:
        shutil.rmtree(out, ignore_errors=True)


def spreads(runs: list[Run], metric: str) -> Spread | None:
    """The metric over the runs of one variant; None unless every one did the same work."""
    if not runs or any(run.status is not Status.OK for run in runs):
        return None
    return Spread.of([float(getattr(run, metric)) for run in runs])


def _wrong(case: Case, variant: Variant, data: Path, out: Path) -> list[str]:
    expected: Result = case.expected(data, variant)
    return all_differences(expected, case.read(out, variant))


def _environment() -> dict[str, str]:
    # Without bytecode every process compiles its imports again; the timed part may import, too.
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
