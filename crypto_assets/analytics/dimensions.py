"""Slow facts through time: digests of a day, and dimensions made of all days. Pure functions of frames.

A dimension is computed from the digests of all days, not from its own former state, so that days may be processed in
any order, and again, with one result (Kimball's slowly changing dimension, type 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import polars as pl

from crypto_assets.analytics.preference import speaking

# An entity refused in the first pull after midnight has not left: it must be missing from a whole day as well.
_GRACE = "-1d"
ASSET_FACTS = ("symbol", "name", "explorer_url", "max_supply")
EXCHANGE_FACTS = ("name", "exchange_url", "has_socket")


def attribute_runs(snapshots: pl.LazyFrame, entity: str, facts: Sequence[str]) -> pl.LazyFrame:
    """One row for each stretch of a day in which an entity's facts stayed the same.

    ``observed_at`` and ``last_observed_at`` are the stretch's first and last observation.
    """
    who = ["provider", entity, "date"]
    changes = pl.any_horizontal([pl.col(f).ne_missing(pl.col(f).shift(1)).over(who) for f in facts])
    is_first = pl.int_range(pl.len()).over(who) == 0
    return (
        snapshots.select("provider", entity, "date", "observed_at", *facts)
        .sort(*who, "observed_at")
        .with_columns(stretch=(changes | is_first).cum_sum().over(who))
        .group_by(*who, "stretch", maintain_order=True)
        .agg(
            last_observed_at=pl.col("observed_at").max(),
            observed_at=pl.col("observed_at").min(),
            **{f: pl.col(f).first() for f in facts},
        )
    )


def versions(runs: pl.LazyFrame, entity: str, facts: Sequence[str]) -> pl.LazyFrame:
    """An SCD2 dimension from the stretches of all days.

    Versions of an entity neither overlap nor leave a gap: each is valid from its first observation until the first
    one of the next, and exactly one is current. Equal facts on consecutive stretches are one version. The facts are of
    one provider at a time (``preference.speaking``), so that providers who name an entity differently make no versions.

    First and last sight are anybody's. The status is ``delisted`` where the entity is missing from the newest day and
    the one before of every provider that listed it: one that is no longer asked has not delisted anything.
    """
    changes = pl.any_horizontal([pl.col(f).ne_missing(pl.col(f).shift(1)).over(entity) for f in facts])
    is_first = pl.int_range(pl.len()).over(entity) == 0
    newest_day = pl.col("last_observed_at").max().over("provider").dt.date()
    seen_by_each = pl.col("last_observed_at").max().over(entity, "provider").dt.date()
    starts = (
        speaking(
            runs.with_columns(
                first_seen_on=pl.col("observed_at").min().over(entity).dt.date(),
                last_seen_on=pl.col("last_observed_at").max().over(entity).dt.date(),
                is_listed=(seen_by_each >= newest_day.dt.offset_by(_GRACE)),
            ).with_columns(pl.col("is_listed").any().over(entity)),
            entity,
        )
        .sort(entity, "observed_at")
        .with_columns(is_start=changes | is_first)
        .filter("is_start")
    )
    return starts.with_columns(
        version=(pl.int_range(pl.len()).over(entity) + 1).cast(pl.Int32),
        valid_from="observed_at",
        valid_to=pl.col("observed_at").shift(-1).over(entity),
        status=pl.when("is_listed").then(pl.lit("active")).otherwise(pl.lit("delisted")),
        row_hash=pl.struct(pl.col(f).cast(pl.String) for f in facts).map_elements(_row_hash, return_dtype=pl.String),
    ).with_columns(is_current=pl.col("valid_to").is_null())


def venue_days(markets: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.asset_venues_daily`` from rows of ``trusted.market_snapshots``."""
    newest = pl.col("observed_at").max().over("provider", "date")
    volume_now = pl.when(pl.col("observed_at") == newest).then("volume_usd_24h")
    return (
        markets.with_columns(volume_now=volume_now)
        .group_by("provider", "exchange_id", "date", asset_id="base_id")
        .agg(
            n_markets=pl.col("quote_id").n_unique().cast(pl.Int32),
            # A sum of nothing is 0 in Polars, and would claim that nothing was traded.
            volume_usd_24h=pl.when(pl.col("volume_now").count() > 0).then(pl.col("volume_now").sum()),
            first_seen_at=pl.col("observed_at").min(),
            last_seen_at=pl.col("observed_at").max(),
            available_at=pl.col("ingested_at").max(),
        )
    )


def availability(venues: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.asset_availability`` from all days of ``refined.asset_venues_daily``."""
    return (
        venues.with_columns(newest_day=pl.col("date").max())
        .sort("date")
        .group_by("provider", "asset_id", "exchange_id", maintain_order=True)
        .agg(
            first_seen_on=pl.col("date").first(),
            last_seen_on=pl.col("date").last(),
            n_days=pl.col("date").n_unique().cast(pl.Int32),
            n_markets=pl.col("n_markets").last(),
            volume_usd_24h=pl.col("volume_usd_24h").last(),
            is_listed=pl.col("date").last() >= pl.col("newest_day").last().dt.offset_by(_GRACE),
        )
    )


def _row_hash(facts: dict[str, str | None]) -> str:
    told = "\x1f".join("\x00" if value is None else value for value in facts.values())
    return hashlib.sha256(told.encode()).hexdigest()[:16]
