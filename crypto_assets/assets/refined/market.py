"""Answers about assets and the market: bars, the newest state, size and concentration, movers. One function a table."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import bars, market
from crypto_assets.assets.lake_asset import lake_asset, newest_days
from crypto_assets.tables import refined, trusted


@lake_asset(refined.AssetHourly, trusted.AssetSnapshots)
def asset_hourly(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return bars.hourly(snapshots)


@lake_asset(refined.AssetDaily, refined.AssetHourly, trusted.AssetHistory)
def asset_daily(hours: pl.LazyFrame, history: pl.LazyFrame) -> pl.LazyFrame:
    return bars.daily(hours, history)


@lake_asset(refined.ExchangeDaily, trusted.ExchangeSnapshots)
def exchange_daily(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return market.exchange_days(snapshots)


@lake_asset(refined.MarketOverview, trusted.AssetSnapshots, trusted.ExchangeSnapshots)
def market_overview(assets: pl.LazyFrame, exchanges: pl.LazyFrame) -> pl.LazyFrame:
    return market.overview(assets, exchanges)


@lake_asset(refined.Movers, trusted.AssetSnapshots)
def movers(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return market.movers(snapshots)


# Two days: just after midnight the newest day may hold one broken pull, and an asset's newest row may be quarantined.
@lake_asset(refined.LatestAssets, newest_days(trusted.AssetSnapshots, 2))
def latest_assets(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return market.latest(snapshots, "asset_id")


@lake_asset(refined.LatestExchanges, newest_days(trusted.ExchangeSnapshots, 2))
def latest_exchanges(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return market.latest(snapshots, "exchange_id")
