"""Bars of a second and of a minute from trades alone, with how long the trades took to reach us. Pure functions.

A bar covers ``[opened_at, opened_at + length)`` in UTC and exists only where something was traded. Over its n trades
(an aggregate of one taker's trades at one price is one of them) with prices p and quantities q, in their order:

* open, high, low, close: p of the first, highest, lowest, p of the last;
* avg_price: sum(p) / n, the simple mean of AVG_PRICE in the per-second views that this replaces;
* volume_base, volume_quote: sum(q), sum(p * q);
* vwap: sum(p * q) / sum(q) (Berkowitz, Logue and Noser, "The Total Cost of Transactions on the NYSE", 1988);
* latency: our clock at a trade's arrival minus the venue's clock at the trade, of the trades that a stream brought; its
  median and its highest. The two clocks are not the same: it may be below zero.

All of it is exact (``exact.py``): quotients are rounded to 18 digits. What is said of a bar follows from the trades of
its hour, so that hours in any order give one table. Bars that include candles are in ``candles.py``.
"""

from __future__ import annotations

import polars as pl

from crypto_assets.analytics.candles import in_order
from crypto_assets.analytics.exact import quotient
from crypto_assets.analytics.preference import of_venues
from crypto_assets.tables.contract import MONEY, UTC_TIME
from crypto_assets.tables.trusted import TRADE_STREAMS


def trade_bars(trades: pl.LazyFrame, length: str) -> pl.LazyFrame:
    """Rows of ``refined.trade_bars_1s`` (``length`` 1s) or ``_1m`` (1m) from rows of ``trusted.trades`` of whole hours.

    A market's trades of an hour are its venue's; a relay's only where the venue itself was not heard in that hour.
    """
    price, quantity = pl.col("price"), pl.col("quantity")
    is_streamed = pl.col("provider").is_in(TRADE_STREAMS)
    late = (pl.col("ingested_at") - pl.col("traded_at")).dt.total_milliseconds()
    end = pl.col("opened_at").dt.offset_by(length)
    return (
        in_order(of_venues(trades))
        .with_columns(value=price * quantity, late=pl.when(is_streamed).then(late))
        .group_by("venue", "market_id", opened_at=pl.col("traded_at").dt.truncate(length))
        .agg(
            # Of several ways by which a bar's trades came, the first by name: the others said the same.
            provider=pl.col("provider").min(),
            open=price.first(),
            high=price.max(),
            low=price.min(),
            close=price.last(),
            prices=price.sum(),
            n_prices=pl.len().cast(MONEY),
            volume_base=quantity.sum(),
            volume_quote=pl.col("value").sum(),
            n_trades=pl.col("n_trades").cast(pl.Int64).sum(),
            first_traded_at=pl.col("traded_at").min(),
            last_traded_at=pl.col("traded_at").max(),
            first_ingested_at=pl.col("ingested_at").min(),
            latency_p50_ms=pl.col("late").median(),
            latency_max_ms=pl.col("late").max(),
            arrived_at=pl.col("ingested_at").max(),
        )
        .with_columns(
            avg_price=quotient("prices", "n_prices"),
            vwap=quotient("volume_quote", "volume_base"),
            available_at=pl.max_horizontal("arrived_at", end),
            date=pl.col("opened_at").dt.date(),
            opened_at=pl.col("opened_at").cast(UTC_TIME),
        )
        .drop("prices", "n_prices", "arrived_at")
    )
