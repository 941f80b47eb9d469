"""Assets, exchanges and venues through time, each computed from the digests of all days. One function a table."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import dimensions
from crypto_assets.assets.lake_asset import lake_asset, whole
from crypto_assets.tables import refined, trusted


@lake_asset(refined.DimAsset, whole(trusted.AssetAttributes))
def dim_asset(runs: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.versions(runs, "asset_id", dimensions.ASSET_FACTS)


@lake_asset(refined.DimExchange, whole(trusted.ExchangeAttributes))
def dim_exchange(runs: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.versions(runs, "exchange_id", dimensions.EXCHANGE_FACTS)


@lake_asset(refined.AssetVenuesDaily, trusted.MarketSnapshots)
def asset_venues_daily(markets: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.venue_days(markets)


@lake_asset(refined.AssetAvailability, whole(refined.AssetVenuesDaily))
def asset_availability(venues: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.availability(venues)
