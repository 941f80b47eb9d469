"""One price of an asset a day, agreed on by independent sources, and the newest quotes. Pure functions of frames.

The median of the sources' prices resists up to half of them being wrong; its spread is the median absolute deviation
(MAD), times 1.4826 for the deviation of a normal distribution (Hampel 1974). Prices are exact Decimals throughout.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from crypto_assets.analytics.identity import USD, pair, valid_on
from crypto_assets.tables.contract import MONEY, UTC_TIME

# Closes are compared at the end of the day; bars and snapshots come at least hourly, and one may be missing.
FRESH_WITHIN = timedelta(hours=2)
# Venues' prices of one coin lie some basis points apart; half a percent is another coin, another unit or a dead market.
OUTLIER_MADS = 5
OUTLIER_BPS = 50
NORMAL = 1.4826
# Coins that promise to be worth one USD: prices in them are converted all the same, by what they were worth.
STABLECOINS = (
    *("tether", "usd-coin", "multi-collateral-dai", "dai", "first-digital-usd", "binance-usd", "trueusd", "usds"),
    *("paypal-usd", "pax-dollar", "paxos-standard", "gemini-dollar", "ethena-usde", "frax", "usdd", "terrausd"),
)

_BY = ["asset_id", "date"]
_PRICE = pl.col("price_usd")


def latest_quotes(quotes: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.latest_quotes``: the newest row of ``trusted.quotes`` of each provider and market."""
    bid, ask = pl.col("bid_price"), pl.col("ask_price")
    twice_mid = (bid + ask).cast(pl.Float64)
    return (
        quotes.sort("observed_at")
        .unique(["provider", "market_id"], keep="last", maintain_order=True)
        .with_columns(
            mid_price=(bid + ask) / pl.lit(2, MONEY),
            spread_bps=pl.when(twice_mid > 0).then(2e4 * (ask - bid).cast(pl.Float64) / twice_mid),
            available_at="ingested_at",
        )
    )


def price_daily(bars: pl.LazyFrame, hours: pl.LazyFrame, days: pl.LazyFrame, names: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.price_daily`` from ``ohlcv_1d``, ``asset_hourly``, ``asset_daily`` and the symbol map.

    Prices in anything but USD are converted by the day's consensus on what that was worth, made from prices that need
    no conversion; one step, so that nothing is converted by itself. Stablecoins are no exception: pegs break.
    """
    # Each is read more than once: as lazy plans they would be read, and planned, anew every time.
    closes, snapshots, history = pl.collect_all([_closes(bars, names), _snapshots(hours), _history(days)])
    in_usd = closes.filter(pl.col("quote_asset_id") == USD).with_columns(price_usd="close", peg_bps=_NO_NUMBER)
    direct = _fresh(pl.concat([in_usd.select(_SOURCE), snapshots]))
    rates = _agreed(direct.filter("is_fresh")).select(
        "date",
        quote_asset_id="asset_id",
        rate_usd="price_usd",
        rate_available_at="available_at",
        peg_bps=_off_peg("asset_id", "price_usd"),
    )
    others = closes.filter(pl.col("quote_asset_id").ne_missing(USD)).join(rates, ["date", "quote_asset_id"], "left")
    converted = others.with_columns(
        price_usd=pl.col("close") * pl.col("rate_usd"),
        available_at=pl.max_horizontal("available_at", "rate_available_at"),
    )
    told = pl.concat([in_usd.select(*_SOURCE, "volume_base"), converted.select(*_SOURCE, "volume_base")])
    unweighed = pl.concat([snapshots, history]).with_columns(volume_base=pl.lit(None, MONEY))
    # One vote a venue, by the market where most of the asset was traded; not by one that stopped in mid-day, if another
    # went on.
    sources = (
        _fresh(pl.concat([told.filter(_PRICE.is_not_null()), unweighed]))
        .sort("is_fresh", "volume_base", "market_id", descending=[True, True, False], nulls_last=True)
        .unique([*_BY, "source"], keep="first", maintain_order=True)
        .drop("volume_base")
    )
    fresh = sources.filter("is_fresh")
    stale = sources.join(fresh, _BY, "anti")
    priced = pl.concat(
        [_agreed(fresh).with_columns(status=_status()), _agreed(stale).with_columns(status=pl.lit("stale"))]
    )
    unpriced = _unpriced(told.join(priced, _BY, "anti")).select(priced.columns)
    own = _off_peg("asset_id", "price_usd")
    return pl.concat([priced, unpriced]).with_columns(depeg_bps=pl.coalesce(own, "peg_bps")).lazy()


_SOURCE = ("asset_id", "date", "source", "market_id", "price_usd", "peg_bps", "is_close", "observed_at", "available_at")
_NO_NUMBER = pl.lit(None, pl.Float64)
_NO_TEXT = pl.lit(None, pl.String)


def _closes(bars: pl.LazyFrame, names: pl.LazyFrame) -> pl.LazyFrame:
    """The day's close of each market with the assets that its tickers meant on that day."""
    meant = valid_on(names, bars)
    base = meant.select("date", venue="source", base_symbol="source_id", asset_id="asset_id")
    quote = meant.select("date", venue="source", quote_symbol="source_id", quote_asset_id="asset_id")
    return (
        bars.filter(pl.col("close") > 0)
        .with_columns(**{name: symbol for name, symbol in pair(pl.col("market_id")).items() if name != "venue"})
        .join(base, ["date", "venue", "base_symbol"])
        .join(quote, ["date", "venue", "quote_symbol"], "left")
        .with_columns(source="venue", is_close=pl.lit(value=True))
    )


def _snapshots(hours: pl.LazyFrame) -> pl.LazyFrame:
    """Each provider's last snapshot price of the day."""
    last = (
        hours.filter(pl.col("close_usd") > 0)
        .sort("observed_at")
        .unique(["provider", "asset_id", "date"], keep="last", maintain_order=True)
    )
    return _of_providers(last, is_close=True)


def _history(days: pl.LazyFrame) -> pl.LazyFrame:
    """A history's price of the day, which is not one of its end."""
    stated = days.filter(pl.col("source_kind") == "history", pl.col("close_usd") > 0)
    return _of_providers(stated.with_columns(observed_at=pl.col("date").cast(UTC_TIME)), is_close=False)


def _of_providers(rows: pl.LazyFrame, *, is_close: bool) -> pl.LazyFrame:
    """Providers' own prices in USD as sources: of no market, and converted from nothing."""
    told = rows.with_columns(source="provider", market_id=_NO_TEXT, price_usd="close_usd", peg_bps=_NO_NUMBER)
    return told.with_columns(is_close=pl.lit(is_close)).select(_SOURCE)


def _fresh(sources: pl.DataFrame) -> pl.DataFrame:
    """With ``is_fresh``: whether the price is of the end of the day, or of the newest moment of one in progress."""
    newest = pl.col("observed_at").filter("is_close").max().over("date")
    is_recent = pl.col("observed_at") >= newest - FRESH_WITHIN
    return sources.with_columns(is_fresh=(pl.col("is_close") & is_recent).fill_null(value=False))


def _agreed(sources: pl.DataFrame) -> pl.DataFrame:
    """The median of each asset's and day's sources without outliers, and how far all of them lie apart."""
    deviation = (_PRICE - pl.col("median")).abs()
    limit = pl.max_horizontal(
        pl.col("mad") * pl.lit(OUTLIER_MADS, MONEY),
        pl.col("median") * pl.lit(OUTLIER_BPS, MONEY) / pl.lit(10_000, MONEY),
    )
    spread = (
        sources.join(sources.group_by(_BY).agg(median=_median(_PRICE)), _BY)
        .with_columns(deviation=deviation)
        .with_columns(n_all=pl.len().over(_BY))
    )
    mads = spread.group_by(_BY).agg(mad=_median(pl.col("deviation")))
    judged = spread.join(mads, _BY).with_columns(is_outlier=pl.col("deviation") > limit)
    spread_bps = NORMAL * 1e4 * pl.col("mad").first().cast(pl.Float64) / pl.col("median").first().cast(pl.Float64)
    return (
        judged.filter(~pl.col("is_outlier"))
        .group_by(_BY)
        .agg(
            price_usd=_median(_PRICE),
            n_sources=pl.len().cast(pl.Int32),
            n_outliers=(pl.col("n_all").first() - pl.len()).cast(pl.Int32),
            mad_bps=pl.when(pl.col("n_all").first() > 1).then(spread_bps),
            peg_bps=pl.col("peg_bps").sort_by(pl.col("peg_bps").abs(), nulls_last=True).drop_nulls().last(),
            sources=pl.col("source").sort().str.join(", "),
            observed_at=pl.col("observed_at").max(),
            available_at=pl.col("available_at").max(),
        )
    )


def _median(values: pl.Expr) -> pl.Expr:
    """The exact median; of an even number the mean of the two in the middle, rounded to 18 digits."""
    ordered = values.sort()
    return (ordered.get((pl.len() - 1) // 2) + ordered.get(pl.len() // 2)) / pl.lit(2, MONEY)


def _status() -> pl.Expr:
    # Half of the sources further than the limit of an outlier from the median: there is no agreement to speak of.
    is_disputed = pl.col("mad_bps") > NORMAL * OUTLIER_BPS
    return (
        pl.when(pl.col("n_sources") + pl.col("n_outliers") == 1)
        .then(pl.lit("single_source"))
        .when(is_disputed)
        .then(pl.lit("disputed"))
        .otherwise(pl.lit("ok"))
    )


def _unpriced(closes: pl.DataFrame) -> pl.DataFrame:
    return closes.group_by(_BY).agg(
        price_usd=pl.lit(None, MONEY),
        n_sources=pl.lit(0, pl.Int32),
        n_outliers=pl.lit(0, pl.Int32),
        mad_bps=_NO_NUMBER,
        peg_bps=_NO_NUMBER,
        sources=pl.lit(""),
        observed_at=pl.col("observed_at").max(),
        available_at=pl.col("available_at").max(),
        status=pl.lit("unpriced"),
    )


def _off_peg(asset_id: str, price: str) -> pl.Expr:
    """How far a stablecoin's price is from 1 USD, in basis points; null for what promises nothing."""
    off = 1e4 * (pl.col(price).cast(pl.Float64) - 1)
    return pl.when(pl.col(asset_id).is_in(STABLECOINS)).then(off)
