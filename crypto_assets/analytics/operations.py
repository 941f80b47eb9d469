"""What the providers cost and how they answered, from the raw rows. Pure functions of frames."""

from __future__ import annotations

import math
from datetime import timedelta

import polars as pl

_LIMITED = ("rate_limited", "quota_exhausted")
_GOOD = ("ok", "empty", "not_modified")


def source_health(answers: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``quality.source_health`` from raw rows of any endpoints, by day of arrival."""
    outcome = pl.col("outcome")
    return (
        answers.group_by("provider", "endpoint", date=pl.col("ingested_at").dt.date())
        .agg(
            n_calls=pl.len().cast(pl.Int64),
            n_ok=outcome.is_in(_GOOD).sum().cast(pl.Int64),
            n_limited=outcome.is_in(_LIMITED).sum().cast(pl.Int64),
            n_bytes=pl.col("n_bytes").sum(),
            last_ok_at=pl.col("ingested_at").filter(outcome.is_in(_GOOD)).max(),
        )
        .with_columns(
            n_failed=pl.col("n_calls") - pl.col("n_ok") - pl.col("n_limited"),
            score=pl.col("n_ok") / pl.col("n_calls"),
        )
    )


def credit_ledger(answers: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``quality.credit_ledger`` from the raw rows of whole calendar months, by day of arrival."""
    month = pl.col("date").dt.truncate("1mo")
    return (
        answers.group_by("provider", date=pl.col("ingested_at").dt.date())
        .agg(n_calls=pl.len().cast(pl.Int64), credits=pl.col("credits").sum().cast(pl.Int64))
        .sort("provider", "date")
        .with_columns(credits_month=pl.col("credits").cum_sum().over("provider", month))
        .with_columns(
            forecast_month_end=pl.col("credits_month")
            / pl.col("date").dt.day()
            * pl.col("date").dt.month_end().dt.day()
        )
    )


# A fact that arrived later than this was backfilled: it says how far we look back, not how late the provider is.
BACKFILLED_AFTER = timedelta(days=7)
_SHARES = {"p50_s": 0.5, "p99_s": 0.99, "p999_s": 0.999, "highest_s": 1.0}


def lateness(facts: pl.LazyFrame) -> pl.LazyFrame:
    """How long after its time each fact arrived, by table, provider and day.

    ``facts`` has ``table_name, provider, known_at, ingested_at, date``; ``known_at`` is the earliest moment at which
    the fact could be known (the end of a candle). Gives the columns of ``quality.lateness``, in seconds.
    """
    late = (pl.col("ingested_at") - pl.col("known_at")).dt.total_milliseconds().clip(0) / 1000
    quantiles = {name: pl.col("late").quantile(share, "higher") for name, share in _SHARES.items()}
    return (
        facts.with_columns(late=late)
        .filter(pl.col("ingested_at") - pl.col("known_at") <= BACKFILLED_AFTER)
        .group_by("table_name", "provider", "date")
        .agg(n_rows=pl.len().cast(pl.Int64), **quantiles)
    )


def look_back(lateness: pl.DataFrame) -> int:
    """How many days before today are worth computing again, by the latest 999 of 1000 of the measured facts; 1 to 7."""
    if lateness.is_empty():
        return 1
    worst = lateness["p999_s"].max()
    days = math.ceil(float(worst) / 86_400) if isinstance(worst, float | int) else 1
    return max(1, min(BACKFILLED_AFTER.days, days))
