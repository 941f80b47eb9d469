"""Answers about venues' markets: bars of every length, the newest quotes, whose names mean what, one price a day."""

from __future__ import annotations

import dagster as dg
import polars as pl

from crypto_assets.analytics import candles, consensus, identity
from crypto_assets.analytics.trade_bars import trade_bars
from crypto_assets.assets.lake_asset import current, lake_asset, newest_days, whole
from crypto_assets.tables import refined, trusted


@lake_asset(refined.Ohlcv1m, trusted.Trades, trusted.Candles)
def ohlcv_1m(trades: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
    return candles.minutes(trades, stated)


def _rolled(interval: str, finer: str) -> dg.AssetsDefinition:
    """The asset of the bars of one length, of the bars of a finer one and the candles that venues state."""

    def bars(shorter: pl.LazyFrame, stated: pl.LazyFrame) -> pl.LazyFrame:
        return candles.rolled(interval, shorter, stated)

    return lake_asset(refined.BARS[interval], refined.BARS[finer], trusted.Candles)(bars)


ohlcv = [_rolled(interval, step.finer) for interval, step in candles.STEPS.items() if step.finer]


@lake_asset(refined.TradeBars1s, trusted.Trades)
def trade_bars_1s(trades: pl.LazyFrame) -> pl.LazyFrame:
    return trade_bars(trades, "1s")


@lake_asset(refined.TradeBars1m, trusted.Trades)
def trade_bars_1m(trades: pl.LazyFrame) -> pl.LazyFrame:
    return trade_bars(trades, "1m")


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
