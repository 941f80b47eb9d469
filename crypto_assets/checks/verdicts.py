"""What a check is and what it says: plain functions of a table's rows, testable without Dagster.

Which checks a table has is in ``suites.py`` (Great Expectations), ``rules.py`` (our own) and ``reconciliation.py`` (a
trusted table against raw); how they become Dagster asset checks and rows of ``quality.check_results`` is in
``asset_checks.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import polars as pl

from crypto_assets.resources.lake import Lake
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.window import Window


class Severity(StrEnum):
    """An error misleads a reader and stops what is downstream; a warning is for a person to look at.

    A check that cries wolf is ignored, so errors are what can be decided for certain from the rows themselves.
    """

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Verdict:
    """One check of one day: what was found, what was expected, how many rows failed, and up to 20 of them."""

    check: str
    suite: str
    severity: Severity
    passed: bool
    observed: str
    expected: str
    n_failed: int = 0
    failing_rows: str | None = None

    @property
    def is_blocking(self) -> bool:
        return self.severity is Severity.ERROR


@dataclass(frozen=True)
class Case:
    """What a check looks at: the table's rows of a window, the lake beside them, the time, and what the table's Great
    Expectations suite found in the rows. ``hours`` are all that was computed of the window, where that was not all."""

    lake: Lake
    contract: type[Contract]
    window: Window
    rows: pl.DataFrame
    now: datetime
    validation: Any = None
    hours: tuple[Window, ...] = ()


class Finding(NamedTuple):
    """What one rule of ours found in a case. ``failing`` are the rows that broke it, which a tolerance may forgive."""

    passed: bool
    observed: str
    expected: str
    failing: pl.DataFrame


@dataclass(frozen=True)
class Check:
    """A named check of a table. ``judge`` gives the verdicts of a case, one or (for a suite) many.

    A range of days is judged at once first: a check must fail on it wherever it would fail on one of its days, so
    tolerances are applied to each day or pull, never to the range. ``reads`` are tables that must be up to date first.
    """

    name: str
    severity: Severity
    description: str
    judge: Callable[[Case], list[Verdict]]
    reads: tuple[type[Contract], ...] = ()


# What a rule raises on rows that nobody foresaw. The lake's own errors (a store out of reach) are no verdict.
_UNFORESEEN = (ArithmeticError, LookupError, RecursionError, TypeError, ValueError, pl.exceptions.PolarsError)


def rule(
    name: str,
    suite: str,
    severity: Severity,
    description: str,
    judge: Callable[[Case], Finding],
    *,
    reads: tuple[type[Contract], ...] = (),
) -> Check:
    """A check of one verdict. Where ``judge`` itself fails, that is a failed verdict and not the end of the run."""

    def verdicts(case: Case) -> list[Verdict]:
        try:
            found = judge(case)
        except _UNFORESEEN as error:
            told = f"the check itself failed: {type(error).__name__}: {one_line(str(error))}"
            found = Finding(False, told, "rows that the check can read", pl.DataFrame())
        failing = found.failing
        return [
            Verdict(name, suite, severity, found.passed, found.observed, found.expected, len(failing), sample(failing))
        ]

    return Check(name, severity, description, verdicts, reads)


def one_line(text: str) -> str:
    """The text without line breaks, cut where it grows long."""
    return " ".join(text.split())[:300]


def sample(rows: pl.DataFrame) -> str | None:
    """Up to 20 rows as JSON, or None where there is none."""
    return json.dumps(rows.head(20).to_dicts(), default=_plain) if len(rows) else None


def _plain(value: object) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else repr(value)
