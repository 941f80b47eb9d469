"""Answers about venues' markets: bars of every length, the newest quotes, whose names mean what, one price a day."""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics import candles, consensus, identity
from crypto_assets.assets.lake_asset import current, lake_asset, newest_days, whole
from crypto_assets.tables import refined, trusted


@lake_asset(refined.Ohlcv1m, trusted.Trades, trusted.Candles)
def ohlcv_1m(trades: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.minutes(trades, stated)


@lake_asset(refined.Ohlcv5m, refined.Ohlcv1m, trusted.Candles)
def ohlcv_5m(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("5m", finer, stated)


@lake_asset(refined.Ohlcv15m, refined.Ohlcv5m, trusted.Candles)
def ohlcv_15m(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("15m", finer, stated)


@lake_asset(refined.Ohlcv1h, refined.Ohlcv15m, trusted.Candles)
def ohlcv_1h(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("1h", finer, stated)


@lake_asset(refined.Ohlcv4h, refined.Ohlcv1h, trusted.Candles)
def ohlcv_4h(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("4h", finer, stated)


@lake_asset(refined.Ohlcv1d, refined.Ohlcv4h, trusted.Candles)
def ohlcv_1d(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("1d", finer, stated)


@lake_asset(refined.Ohlcv1w, refined.Ohlcv1d, trusted.Candles)
def ohlcv_1w(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("1w", finer, stated)


@lake_asset(refined.Ohlcv1mo, refined.Ohlcv1d, trusted.Candles)
def ohlcv_1mo(finer: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.rolled("1mo", finer, stated)


# Two days: just after midnight a market's newest quote is of the day before.
@lake_asset(refined.LatestQuotes, newest_days(trusted.Quotes, 2))
def latest_quotes(quotes: pl.LazyFrame) -> pl.LazyFrame:
    return consensus.latest_quotes(quotes)


@lake_asset(refined.AssetSymbolsDaily, trusted.AssetSnapshots)
def asset_symbols_daily(snapshots: pl.LazyFrame) -> pl.LazyFrame:
    return identity.symbol_days(snapshots)


@lake_asset(refined.SymbolMap, whole(refined.AssetSymbolsDaily), whole(refined.Ohlcv1d), whole(trusted.Quotes))
def symbol_map(symbols: pl.LazyFrame, bars: pl.LazyFrame, quotes: pl.LazyFrame) -> pl.LazyFrame:
    return identity.symbol_map(symbols, bars, quotes)


@lake_asset(refined.DimMarket, whole(refined.Ohlcv1d), whole(trusted.Quotes), current(refined.SymbolMap))
def dim_market(bars: pl.LazyFrame, quotes: pl.LazyFrame, names: pl.LazyFrame) -> pl.LazyFrame:
    return identity.markets(bars, quotes, names)


@lake_asset(refined.PriceDaily, refined.Ohlcv1d, refined.AssetHourly, refined.AssetDaily, current(refined.SymbolMap))
def price_daily(bars: pl.LazyFrame, hours: pl.LazyFrame, days: pl.LazyFrame, names: pl.LazyFrame) -> pl.LazyFrame:
    return consensus.price_daily(bars, hours, days, names)
