"""Typed facts from raw answers, and the daily digests of their slow parts. One function a table."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import dimensions
from crypto_assets.assets.lake_asset import lake_asset, settled_asset
from crypto_assets.providers import coincap
from crypto_assets.tables import raw, trusted
from crypto_assets.tables.conform import Records


@settled_asset(trusted.AssetSnapshots, raw.RawCoincapAssets)
def asset_snapshots(answers: pl.DataFrame) -> Records:
    return coincap.parse_assets(answers)


@settled_asset(trusted.ExchangeSnapshots, raw.RawCoincapExchanges)
def exchange_snapshots(answers: pl.DataFrame) -> Records:
    return coincap.parse_exchanges(answers)


@settled_asset(trusted.MarketSnapshots, raw.RawCoincapMarkets)
def market_snapshots(answers: pl.DataFrame) -> Records:
    return coincap.parse_markets(answers)


@settled_asset(trusted.FxRates, raw.RawCoincapRates)
def fx_rates(answers: pl.DataFrame) -> Records:
    return coincap.parse_rates(answers)


@settled_asset(trusted.AssetHistory, raw.RawCoincapHistory)
def asset_history(answers: pl.DataFrame) -> Records:
    return coincap.parse_history(answers)


@lake_asset(trusted.AssetAttributes, trusted.AssetSnapshots)
def asset_attributes(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.attribute_runs(snapshots, "asset_id", dimensions.ASSET_FACTS)


@lake_asset(trusted.ExchangeAttributes, trusted.ExchangeSnapshots)
def exchange_attributes(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.attribute_runs(snapshots, "exchange_id", dimensions.EXCHANGE_FACTS)
