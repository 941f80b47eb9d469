"""The market as a whole: size, dominance, concentration, movers, and exchanges through a day. Pure functions of frames.

Shares and indices are doubles between 0 and 1. The Herfindahl-Hirschman index is the sum of squared shares
(Hirschman 1964; bands .10 and .18 in the US Merger Guidelines of 2023); CR4 is the share of the four largest.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import polars as pl

from crypto_assets.analytics import exact
from crypto_assets.analytics.preference import HOUR, preferred

# Tokens that stand for another listed asset: counting both would count one market cap twice.
WRAPPED = frozenset(
    {
        "wrapped-bitcoin",
        "wrapped-ethereum",
        "weth",
        "staked-ether",
        "steth",
        "lido-staked-ether",
        "wrapped-steth",
        "wrapped-beacon-eth",
        "coinbase-wrapped-btc",
        "bitcoin-bep2",
        "huobi-btc",
        "rocket-pool-eth",
    }
)
# Below these a price is moved by pocket money, and a list of movers is a list of accidents.
MIN_VOLUME_USD_24H = Decimal(1_000_000)
MIN_MARKET_CAP_USD = Decimal(10_000_000)
# An asset refused in the day's last pull still moves; one that was not seen for an hour has left.
LAST_SEEN_WITHIN = timedelta(hours=1)


def overview(assets: pl.LazyFrame, exchanges: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.market_overview``: each asset's and each exchange's last good snapshot of the hour.

    Not the hour's last pull: an asset whose record was refused in it would be missing from every total. All of an
    hour's assets are of its one preferred provider; exchanges are those of the same provider.
    """
    universe = _last_of_hour(preferred(assets, [HOUR]), "asset_id").filter(
        ~pl.col("asset_id").is_in(list(WRAPPED)) & pl.col("market_cap_usd").is_not_null()
    )
    cap = pl.col("market_cap_usd")
    total = cap.sum().cast(pl.Float64)
    sizes = universe.group_by("provider", "opened_at").agg(
        observed_at=pl.col("observed_at").max(),
        n_assets=pl.len().cast(pl.Int32),
        total_market_cap_usd=pl.col("market_cap_usd").sum(),
        total_volume_usd_24h=pl.col("volume_usd_24h").sum(),
        btc_dominance=cap.filter(pl.col("asset_id") == "bitcoin").first().cast(pl.Float64) / total,
        eth_dominance=cap.filter(pl.col("asset_id") == "ethereum").first().cast(pl.Float64) / total,
        top10_share=cap.top_k(10).sum().cast(pl.Float64) / total,
        asset_hhi=_hhi(cap),
        available_at=pl.col("ingested_at").max(),
    )
    reporting = _last_of_hour(exchanges, "exchange_id").filter(pl.col("volume_usd_24h") > 0)
    volume = pl.col("volume_usd_24h")
    venues = reporting.group_by("provider", "opened_at").agg(
        n_exchanges=pl.len().cast(pl.Int32),
        exchange_hhi=_hhi(volume),
        exchange_cr4=volume.top_k(4).sum().cast(pl.Float64) / volume.sum().cast(pl.Float64),
        venues_available_at=pl.col("ingested_at").max(),
    )
    return (
        sizes.filter(pl.col("total_market_cap_usd") > 0)
        .join(venues, ["provider", "opened_at"], "left")
        .with_columns(
            # Sums of shares that are 1 by definition may end a rounding above it.
            pl.col("top10_share", "asset_hhi", "exchange_hhi", "exchange_cr4").clip(upper_bound=1.0),
            available_at=pl.max_horizontal("available_at", "venues_available_at"),
            date=pl.col("opened_at").dt.date(),
        )
    )


def movers(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.movers``: each asset's last good snapshot in the last hour of a day's observations, ranked.

    Only assets with a 24-hour volume of at least ``MIN_VOLUME_USD_24H`` and a market cap of at least
    ``MIN_MARKET_CAP_USD``, all of a day's one preferred provider in that hour. Ties are ordered by asset id, so that
    ranks are the same on every run.
    """
    newest = pl.col("observed_at").max().over("date")
    liquid = (
        preferred(snapshots.filter(pl.col("observed_at") > newest - LAST_SEEN_WITHIN), [pl.col("date")])
        .sort("observed_at")
        .unique(["asset_id", "date"], keep="last", maintain_order=True)
        .filter(
            pl.col("change_pct_24h").is_not_null(),
            pl.col("volume_usd_24h") >= MIN_VOLUME_USD_24H,
            pl.col("market_cap_usd") >= MIN_MARKET_CAP_USD,
        )
        .sort("asset_id")
    )
    return liquid.with_columns(
        gainer_rank=pl.col("change_pct_24h").rank("ordinal", descending=True).over("date").cast(pl.Int32),
        loser_rank=pl.col("change_pct_24h").rank("ordinal").over("date").cast(pl.Int32),
        volume_rank=pl.col("volume_usd_24h").rank("ordinal", descending=True).over("date").cast(pl.Int32),
        available_at="ingested_at",
    )


def exchange_days(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.exchange_daily`` from rows of ``trusted.exchange_snapshots``."""
    last = ("name", "rank", "volume_share_pct", "volume_usd_24h", "n_trading_pairs", "observed_at")
    return (
        snapshots.sort("observed_at")
        .group_by("provider", "exchange_id", "date", maintain_order=True)
        .agg(
            **{name: pl.col(name).last() for name in last},
            mean_share_pct=exact.mean(pl.col("volume_share_pct")),
            n_obs=pl.len().cast(pl.Int32),
            available_at=pl.col("ingested_at").max(),
        )
    )


def latest(snapshots: pl.LazyFrame, entity: str) -> pl.LazyFrame:
    """The newest row of each ``entity``, of the preferred provider in its newest hour; its arrival is ``available_at``.

    Hours, not moments: two providers that are asked together answer seconds apart, and the later one is no news.
    """
    return (
        preferred(snapshots, [pl.col(entity), HOUR])
        .sort("observed_at")
        .unique(entity, keep="last", maintain_order=True)
        .with_columns(available_at="ingested_at")
    )


def _last_of_hour(snapshots: pl.LazyFrame, entity: str) -> pl.LazyFrame:
    return (
        snapshots.with_columns(opened_at=HOUR)
        .sort("observed_at")
        .unique(["provider", entity, "opened_at"], keep="last", maintain_order=True)
    )


def _hhi(size: pl.Expr) -> pl.Expr:
    return exact.total((size.cast(pl.Float64) / size.sum().cast(pl.Float64)) ** 2)
