"""Price bars from snapshots, and roll-ups of bars. Pure functions of frames; no I/O.

A bar covers ``[opened_at, opened_at + length)`` and is labelled by its start. Bars exist only where something was
observed: an hour without a snapshot has no row, never a filled one. 24-hour volumes are rolling and are carried as
the last value, never summed.
"""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import exact

_LAST_SNAPSHOT = ("market_cap_usd", "supply", "volume_usd_24h", "rank")


def hourly(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.asset_hourly`` from rows of ``trusted.asset_snapshots``."""
    return (
        snapshots.sort("observed_at")
        .group_by("provider", "asset_id", opened_at=pl.col("observed_at").dt.truncate("1h"), maintain_order=True)
        .agg(
            open_usd=pl.col("price_usd").first(),
            high_usd=pl.col("price_usd").max(),
            low_usd=pl.col("price_usd").min(),
            close_usd=pl.col("price_usd").last(),
            mean_usd=exact.mean(pl.col("price_usd")),
            n_obs=pl.len().cast(pl.Int32),
            observed_at=pl.col("observed_at").last(),
            available_at=pl.col("ingested_at").max(),
            **{name: pl.col(name).last() for name in _LAST_SNAPSHOT},
        )
        .with_columns(date=pl.col("opened_at").dt.date())
    )


def daily(hours: pl.LazyFrame, history: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.asset_daily`` from ``refined.asset_hourly``, and from ``trusted.asset_history`` (interval d1)
    where a day has no snapshot. ``mean_usd`` weighs each snapshot alike."""
    observed = (
        hours.sort("opened_at")
        .group_by("provider", "asset_id", "date", maintain_order=True)
        .agg(
            source_kind=pl.lit("snapshots"),
            open_usd=pl.col("open_usd").first(),
            high_usd=pl.col("high_usd").max(),
            low_usd=pl.col("low_usd").min(),
            close_usd=pl.col("close_usd").last(),
            mean_usd=exact.total(pl.col("mean_usd") * pl.col("n_obs")) / pl.col("n_obs").sum(),
            n_obs=pl.col("n_obs").sum().cast(pl.Int32),
            n_hours=pl.len().cast(pl.Int32),
            available_at=pl.col("available_at").max(),
            **{name: pl.col(name).last() for name in _LAST_SNAPSHOT},
        )
    )
    price = pl.col("price_usd")
    stated = history.filter(interval="d1").select(
        "provider",
        "asset_id",
        "date",
        source_kind=pl.lit("history"),
        open_usd=price,
        high_usd=price,
        low_usd=price,
        close_usd=price,
        mean_usd=price.cast(pl.Float64),
        n_obs=pl.lit(1, pl.Int32),
        n_hours=pl.lit(0, pl.Int32),
        available_at="ingested_at",
        market_cap_usd=pl.lit(None, pl.Decimal(38, 18)),
        supply="circulating_supply",
        volume_usd_24h=pl.lit(None, pl.Decimal(38, 18)),
        rank=pl.lit(None, pl.Int32),
    )
    unobserved = stated.join(observed, ["provider", "asset_id", "date"], "anti")
    return pl.concat([observed, unobserved.select(observed.collect_schema().names())])
