"""What a benchmark says at its end: a table, the goals judged or not, and both in files.

``results.jsonl`` holds every run as measured, ``report.md`` what is printed. Where the base of a ratio itself swings
by more than ``MAX_SWING`` between rounds, nothing is judged by it: another round would say something else.
"""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.pair import Run, Spread, Status, spreads

MAX_SWING = 1.5
GOALS = Path(__file__).with_name("goals.toml")
_PACKAGES = ("polars", "deltalake", "msgspec", "dataframely")


@dataclass(frozen=True)
class Goal:
    """``variant`` may take at most so many times the ``metric`` (cpu, wall, disk or bytes) of ``against``."""

    case: str
    variant: str
    against: str
    metric: str
    at_most: float
    reason: str


@dataclass(frozen=True)
class Verdict:
    """A goal, what was measured (None where it could not be) and what that means."""

    goal: Goal
    ratio: float | None
    said: str


def goals() -> list[Goal]:
    """The goals of ``goals.toml``."""
    return [Goal(**entry) for entry in tomllib.loads(GOALS.read_text())["goal"]]


def judge(goal: Goal, runs: Sequence[Run]) -> Verdict:
    """Whether the runs meet the goal. Wrong, missing or noisy measurements are never a pass."""
    metric = "disk_mb" if goal.metric == "disk" else f"{goal.metric}_s"
    measured = {}
    for name in (goal.variant, goal.against):
        of_one = [run for run in runs if (run.case, run.variant) == (goal.case, name)]
        spread = spreads(of_one, metric)
        if spread is None:
            status = next((run.status for run in of_one if run.status is not Status.OK), "not run")
            return Verdict(goal, None, f"not judged: {name} is {status}")
        measured[name] = spread
    base = measured[goal.against]
    ratio = measured[goal.variant].median / base.median
    if len(of_one) < 2:
        return Verdict(goal, ratio, "not judged: one round shows no noise")
    if base.swing > MAX_SWING:
        return Verdict(goal, ratio, f"not judged: {goal.against} itself swings by {base.swing:.2f}")
    return Verdict(goal, ratio, "met" if ratio <= goal.at_most else "NOT met")


def machine(rounds: int, loads: Iterable[float]) -> list[str]:
    """Facts of the run, one a line: without them the figures mean nothing."""
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    system = f"{platform.system()} {platform.machine()}, {_cpu_model()}, {os.cpu_count()} cores"
    return [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {rounds} interleaved rounds",
        f"{system}, Python {platform.python_version()}",
        f"load average {' -> '.join(f'{load:.1f}' for load in loads)} at the start and after each case",
        versions,
    ]


def show(console: Console, case: Case, size: str, runs: Sequence[Run]) -> None:
    """Print a case's table."""
    table = Table(title=f"{case.name} ({size}): {case.title}", title_justify="left")
    for name in _HEADINGS:
        table.add_column(name, justify="left" if name in ("variant", "same work?") else "right", overflow="fold")
    for row in _rows(case, runs):
        table.add_row(*row)
    console.print(table)


def write(
    home: Path,
    facts: Sequence[str],
    cases: Sequence[tuple[Case, str]],
    runs: Sequence[Run],
    verdicts: Sequence[Verdict],
) -> Path:
    """Write both files; returns the report's path."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "results.jsonl").write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    lines = ["# Benchmark report", "", *(f"- {fact}" for fact in facts), ""]
    for case, size in cases:
        lines += [f"## {case.name} ({size})", "", f"{case.title[0].upper()}{case.title[1:]}.", ""]
        lines += [f"| {' | '.join(_HEADINGS)} |", "|---|" + "---:|" * (len(_HEADINGS) - 2) + "---|"]
        of_case = [run for run in runs if run.case == case.name]
        lines += [f"| {' | '.join(row)} |" for row in _rows(case, of_case)] + [""]
    lines += ["## Goals", "", "| goal | ratio | limit | | why |", "|---|---:|---:|---|---|"]
    lines += [
        f"| {' | '.join((*row, verdict.goal.reason))} |" for verdict in verdicts for row in [verdict_row(verdict)]
    ]
    report = home / "report.md"
    report.write_text("\n".join(lines) + "\n")
    return report


def verdict_row(verdict: Verdict) -> tuple[str, str, str, str]:
    """A verdict as text: what, ratio, limit, meaning."""
    goal = verdict.goal
    ratio = "-" if verdict.ratio is None else f"{verdict.ratio:.2f}"
    return f"{goal.case}: {goal.variant} / {goal.against}, {goal.metric}", ratio, f"{goal.at_most:.2f}", verdict.said


_HEADINGS = ("variant", "wall s (min-max)", "cpu s (min-max)", "wall x", "cpu x", "peak MB", "disk MB", "same work?")


def _rows(case: Case, runs: Sequence[Run]) -> list[tuple[str, ...]]:
    by_variant = {v.name: [run for run in runs if run.variant == v.name] for v in case.variants}
    base = by_variant[case.variants[0].name]
    return [_row(name, of_one, base) for name, of_one in by_variant.items() if of_one]


def _row(name: str, runs: list[Run], base: list[Run]) -> tuple[str, ...]:
    worst = next((run for run in runs if run.status is not Status.OK), None)
    detail = "yes" if worst is None else f"{worst.status}: {worst.detail}"
    if worst is not None:
        # Its time does not count: it is not even shown.
        return (name, *["-"] * 6, detail)
    wall, cpu, peak, disk = (
        Spread.of([getattr(r, m) for r in runs]) for m in ("wall_s", "cpu_s", "peak_mb", "disk_mb")
    )
    ratios = [_ratio(spread, spreads(base, metric)) for spread, metric in ((wall, "wall_s"), (cpu, "cpu_s"))]
    return (
        name,
        _text(wall),
        _text(cpu),
        *ratios,
        f"{peak.median:.0f}",
        f"{disk.median:.1f}" if disk.high else "-",
        detail,
    )


def _ratio(spread: Spread, base: Spread | None) -> str:
    if base is None:
        return "-"
    return "noisy" if base.swing > MAX_SWING else f"{spread.median / base.median:.2f}"


def _text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
