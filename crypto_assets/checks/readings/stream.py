"""Streams' trades, read a second time: by what was sent, without the parser's code."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from crypto_assets.checks.readings.reading import RowReading
from crypto_assets.tables import stream
from crypto_assets.tables.contract import UTC_TIME, Contract
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_SENT_MS = pl.col("traded_us") // 1000
_LATEST_MS = (pl.col("ingested_at") + CLOCK_SKEW).dt.epoch("ms")
_CAN_BE = _SENT_MS.is_between(int(GENESIS.timestamp() * 1000), _LATEST_MS)
# A trade without an id is known by what it says and by how many equal ones stood before it.
_SAID = [pl.col(name).cast(pl.String) for name in ("traded_us", "price", "quantity", "repeat")]

READINGS: Mapping[type[Contract], RowReading] = {
    stream.RawTrades: RowReading(
        moment=pl.when(_CAN_BE).then(pl.from_epoch(_SENT_MS, "ms").cast(UTC_TIME)).otherwise("ingested_at"),
        decimals={"price": "price", "quantity": "quantity"},
        found_by=("market_id", "trade_id"),
        key=(pl.col("subject"), pl.coalesce("trade_id", pl.concat_str(_SAID, separator="-"))),
    )
}
