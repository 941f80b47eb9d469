"""Bars of venues' markets: of a minute from trades and candles, and longer ones from shorter ones. Pure functions.

A bar covers ``[opened_at, opened_at + length)`` in UTC, weeks begin on Monday, months are the calendar's; a bar exists
only where something was observed. Prices and amounts are exact Decimals; ``volume_quote`` of trades is the sum of price
times quantity, each product exact up to 18 fractional digits (venues' steps together have 8).

Everything that is said of a bar follows from what lies inside it: a day computed alone, an hour at a time or within a
year gives the same rows. So also the choice of its source, which is made for each bar and not for each day.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple

import polars as pl

from crypto_assets.analytics.exact import quotient
from crypto_assets.analytics.preference import of_venues
from crypto_assets.tables.contract import MONEY, UTC_TIME
from crypto_assets.tables.trusted import INTERVALS


class Step(NamedTuple):
    """What bars of one length are made of: the next shorter bars, and candles of these intervals, finest first."""

    finer: str | None
    candles: tuple[str, ...]


# Every interval that a venue may state enters where the first bars are that hold it whole.
STEPS: Mapping[str, Step] = {
    "1m": Step(None, ("1m",)),
    "5m": Step("1m", ("5m",)),
    "15m": Step("5m", ("3m", "15m")),
    "1h": Step("15m", ("30m", "1h")),
    "4h": Step("1h", ("2h", "4h")),
    "1d": Step("4h", ("6h", "8h", "12h", "1d")),
    "1w": Step("1d", ("1w",)),
    "1mo": Step("1d", ("1mo",)),
}
KINDS = ("trades", *(f"candles_{interval}" for interval in INTERVALS))
"""Kinds of sources, finest first."""
# Some venues add up a candle's volume in doubles; no trade is a billionth of its minute.
_SAME_VOLUME = Decimal("1e-9")
_KEYS = ("venue", "market_id", "opened_at")
_PRICES = ("open", "high", "low", "close")
_COLUMNS = (
    *_KEYS,
    *_PRICES,
    *("volume_base", "volume_quote", "n_trades", "taker_buy_base"),
    *("is_closed", "source_kind", "n_obs", "n_expected", "observed_at", "available_at"),
)


def minutes(trades: pl.LazyFrame, candles: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.ohlcv_1m`` from rows of ``trusted.trades`` and ``trusted.candles`` of whole minutes.

    A minute's trades are complete where they add up to the volume of the venue's own candle, or where it has none;
    elsewhere (a stream that was joined in mid-minute) the candle is what happened. The trades of a market are all
    single ones or all aggregates: both together would count everything twice.
    """
    stated = _stated(candles, "1m")
    said = stated.select(*_KEYS, said="volume_base")
    off = (pl.col("said") - pl.col("volume_base")).abs()
    agree = (off <= pl.col("said") * pl.lit(_SAME_VOLUME, MONEY)).fill_null(value=True)
    complete = _of_trades(trades).join(said, _KEYS, "left").filter(agree).select(_COLUMNS)
    others = stated.join(complete.select(_KEYS), _KEYS, "anti")
    return _finished(pl.concat([complete, others]))


def rolled(interval: str, finer: pl.LazyFrame, candles: pl.LazyFrame) -> pl.LazyFrame:
    """Rows of ``refined.ohlcv_<interval>`` from the next shorter bars and ``trusted.candles`` of whole buckets.

    Of the sources of a bar the finest that covers every minute is taken; where none does, the one that covers most.
    """
    sources = [_rolled(finer.select(_COLUMNS), interval)]
    for stated in STEPS[interval].candles:
        bars = _stated(candles, stated)
        sources.append(bars if stated == interval else _rolled(bars, interval))
    ordered = [bars.with_columns(place=pl.lit(place, pl.Int32)) for place, bars in enumerate(sources)]
    best = (
        pl.concat(ordered)
        .sort("n_obs", "place", descending=[True, False])
        .unique(_KEYS, keep="first", maintain_order=True)
    )
    return _finished(best)


def in_order(trades: pl.LazyFrame) -> pl.LazyFrame:
    """Trades in the order of their time and, within one moment, of their ids (by number where numbers)."""
    fine = pl.col("traded_us").fill_null(pl.col("traded_at").dt.epoch("us"))
    number = pl.col("trade_id").cast(pl.Int64, strict=False)
    return trades.sort(fine, number, "trade_id", nulls_last=True)


def _of_trades(trades: pl.LazyFrame) -> pl.LazyFrame:
    """Minutes of trades."""
    is_buy = pl.col("taker_side") == "buy"
    price, quantity = pl.col("price"), pl.col("quantity")
    end = pl.col("opened_at").dt.offset_by("1m")
    return (
        in_order(of_venues(trades))
        .with_columns(value=price * quantity, bought=pl.when(is_buy).then(quantity).otherwise(pl.lit(0, MONEY)))
        .group_by("venue", "market_id", opened_at=pl.col("traded_at").dt.truncate("1m"))
        .agg(
            open=price.first(),
            high=price.max(),
            low=price.min(),
            close=price.last(),
            volume_base=quantity.sum(),
            volume_quote=pl.col("value").sum(),
            n_trades=pl.col("n_trades").cast(pl.Int64).sum(),
            taker_buy_base=pl.when(pl.col("taker_side").null_count() == 0).then(pl.col("bought").sum()),
            arrived_at=pl.col("ingested_at").max(),
        )
        .with_columns(
            is_closed=pl.col("arrived_at") >= end,
            source_kind=pl.lit("trades"),
            n_obs=pl.lit(1, pl.Int32),
            n_expected=pl.lit(1, pl.Int32),
            observed_at=end,
            available_at=pl.max_horizontal("arrived_at", end),
        )
        .select(_COLUMNS)
    )


def _stated(candles: pl.LazyFrame, interval: str) -> pl.LazyFrame:
    """Candles of an interval as bars of that length; one that begins elsewhere than such a bar does is none."""
    end = pl.col("opened_at").dt.offset_by(interval)
    length = (end - pl.col("opened_at")).dt.total_minutes().cast(pl.Int32)
    return (
        candles.filter(pl.col("interval") == interval, pl.col("opened_at") == pl.col("opened_at").dt.truncate(interval))
        .with_columns(
            # The provider's word that it is over is held against our clock.
            is_closed=pl.col("ingested_at") >= end,
            source_kind=pl.lit(f"candles_{interval}"),
            n_trades=pl.col("n_trades").cast(pl.Int64),
            n_obs=length,
            n_expected=length,
            observed_at=end,
            available_at=pl.max_horizontal("ingested_at", end),
        )
        .select(_COLUMNS)
    )


def _rolled(bars: pl.LazyFrame, interval: str) -> pl.LazyFrame:
    """Shorter bars as bars of the interval: sums of sums, prices of what was traded."""
    kinds = dict(zip(KINDS, range(len(KINDS)), strict=True))
    # A bar without volume repeats the price before it, which was none of this bucket's.
    prices = [pl.when(pl.col("volume_base") > 0).then(name).alias(f"traded_{name}") for name in _PRICES]
    end = pl.col("opened_at").dt.offset_by(interval)
    return (
        bars.sort("opened_at")
        .with_columns(
            *prices,
            arrived_at=pl.when("is_closed").then("available_at"),
            source_kind=pl.col("source_kind").replace_strict(kinds, return_dtype=pl.Int8),
            opened_at=pl.col("opened_at").dt.truncate(interval),
        )
        .group_by(_KEYS)
        .agg(
            pl.col("traded_open", "open").first(ignore_nulls=True),
            pl.col("traded_high", "high").max(),
            pl.col("traded_low", "low").min(),
            pl.col("traded_close", "close").last(ignore_nulls=True),
            volume_base=pl.col("volume_base").sum(),
            volume_quote=_whole_sum("volume_quote"),
            n_trades=_whole_sum("n_trades"),
            taker_buy_base=_whole_sum("taker_buy_base"),
            arrived_at=pl.col("arrived_at").max(),
            source_kind=pl.col("source_kind").max(),
            n_obs=pl.col("n_obs").sum().cast(pl.Int32),
            observed_at=pl.col("observed_at").max(),
            available_at=pl.col("available_at").max(),
        )
        .with_columns(
            *[pl.coalesce(f"traded_{name}", name).alias(name) for name in _PRICES],
            is_closed=(pl.col("arrived_at") >= end).fill_null(value=False),
            source_kind=pl.col("source_kind").replace_strict(
                {place: kind for kind, place in kinds.items()}, return_dtype=pl.String
            ),
            n_expected=(end - pl.col("opened_at")).dt.total_minutes().cast(pl.Int32),
            available_at=pl.max_horizontal("available_at", end),
        )
        .select(_COLUMNS)
    )


def _whole_sum(name: str) -> pl.Expr:
    """The sum, or null where a part is unknown: the sum of the others would look like all."""
    return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).sum())


def _finished(bars: pl.LazyFrame) -> pl.LazyFrame:
    """The columns that follow from the others."""
    return bars.with_columns(
        vwap=quotient("volume_quote", "volume_base"),
        completeness=pl.col("n_obs") / pl.col("n_expected"),
        date=pl.col("opened_at").dt.date(),
        month=pl.col("opened_at").dt.date().dt.truncate("1mo"),
        year=pl.col("opened_at").dt.date().dt.truncate("1y"),
        opened_at=pl.col("opened_at").cast(UTC_TIME),
    )
