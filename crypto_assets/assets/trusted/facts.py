"""Typed facts from raw answers, and the daily digests of their slow parts. One function a table."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from crypto_assets.analytics import dimensions
from crypto_assets.assets.lake_asset import Parse, lake_asset, settled_asset
from crypto_assets.providers import alpha_vantage, binance_archive, coincap, coingecko, exchange_records, mempool, ticks
from crypto_assets.tables import raw, stream, trusted
from crypto_assets.tables.contract import Contract

# The answers that each table is read from, and by which parser. A provider is a line here.
PARSERS: Mapping[type[Contract], Mapping[type[Contract], Parse]] = {
    trusted.AssetSnapshots: {
        raw.RawCoincapAssets: coincap.parse_assets,
        raw.RawCoingeckoMarkets: coingecko.parse_markets,
    },
    trusted.ExchangeSnapshots: {raw.RawCoincapExchanges: coincap.parse_exchanges},
    trusted.MarketSnapshots: {raw.RawCoincapMarkets: coincap.parse_markets},
    trusted.FxRates: {raw.RawCoincapRates: coincap.parse_rates},
    trusted.AssetHistory: {raw.RawCoincapHistory: coincap.parse_history},
    trusted.Quotes: {
        raw.RawAlphaVantageRates: alpha_vantage.parse_rates,
        raw.RawExchangeTickers: exchange_records.parse_tickers,
    },
    trusted.Candles: {
        raw.RawAlphaVantageSeries: alpha_vantage.parse_series,
        raw.RawBinanceKlines: binance_archive.parse_klines,
        raw.RawExchangeCandles: exchange_records.parse_candles,
    },
    trusted.Trades: {
        raw.RawBinanceTrades: binance_archive.parse_trades,
        raw.RawExchangeTrades: exchange_records.parse_trades,
        stream.RawTrades: ticks.parse_trades,
    },
    trusted.OnchainStats: {raw.RawMempool: mempool.parse},
    trusted.ExchangeScores: {raw.RawCoingeckoExchanges: coingecko.parse_exchanges},
}

asset_snapshots = settled_asset(trusted.AssetSnapshots, PARSERS[trusted.AssetSnapshots])
exchange_snapshots = settled_asset(trusted.ExchangeSnapshots, PARSERS[trusted.ExchangeSnapshots])
market_snapshots = settled_asset(trusted.MarketSnapshots, PARSERS[trusted.MarketSnapshots])
fx_rates = settled_asset(trusted.FxRates, PARSERS[trusted.FxRates])
asset_history = settled_asset(trusted.AssetHistory, PARSERS[trusted.AssetHistory])
quotes = settled_asset(trusted.Quotes, PARSERS[trusted.Quotes])
candles = settled_asset(trusted.Candles, PARSERS[trusted.Candles])
trades = settled_asset(trusted.Trades, PARSERS[trusted.Trades])
onchain_stats = settled_asset(trusted.OnchainStats, PARSERS[trusted.OnchainStats])
exchange_scores = settled_asset(trusted.ExchangeScores, PARSERS[trusted.ExchangeScores])


@lake_asset(trusted.AssetAttributes, trusted.AssetSnapshots)
def asset_attributes(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.attribute_runs(snapshots, "asset_id", dimensions.ASSET_FACTS)


@lake_asset(trusted.ExchangeAttributes, trusted.ExchangeSnapshots)
def exchange_attributes(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return dimensions.attribute_runs(snapshots, "exchange_id", dimensions.EXCHANGE_FACTS)
