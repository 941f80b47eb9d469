"""What a check is and what it says: plain functions of a table's rows, testable without Dagster.

Which checks a table has is in ``suites.py`` (Great Expectations) and ``rules.py`` (our own); how they become Dagster
asset checks and rows of ``quality.check_results`` is in ``asset_checks.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

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
    Expectations suite found in the rows."""

    lake: Lake
    contract: type[Contract]
    window: Window
    rows: pl.DataFrame
    now: datetime
    validation: Any = None


@dataclass(frozen=True)
class Check:
    """A named check of a table. ``judge`` gives the verdicts of a case, one or (for a suite) many."""

    name: str
    severity: Severity
    description: str
    judge: Callable[[Case], list[Verdict]]


def sample(rows: pl.DataFrame) -> str | None:
    """Up to 20 rows as JSON, or None where there is none."""
    return json.dumps(rows.head(20).to_dicts(), default=_plain) if len(rows) else None


def _plain(value: object) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else repr(value)
