"""What the providers cost and how they answered, from the raw rows. Pure functions of frames."""

from __future__ import annotations

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
