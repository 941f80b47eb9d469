"""ccxt's parser, a pandas frame and a parquet file a market: how most scripts keep candles; and once more exactly.

ccxt makes doubles of every number. Told to leave them as text (``number = str``), its candles can be exact.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import ccxt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_NAMES = ["opened_at", "open", "high", "low", "close", "volume_base"]
_MONEY = pa.decimal128(38, 18)


def candle_ingest(data: Path, out: Path, number: str = "double") -> None:
    exchange = ccxt.binance()
    if number == "decimal":
        exchange.number = str
    for first in sorted((data / "rest").glob("*-0000.json")):
        symbol = first.name.removesuffix("-0000.json")
        base = symbol.removesuffix("USDT")
        candles = []
        for page in sorted((data / "rest").glob(f"{symbol}-*.json")):
            candles += exchange.parse_ohlcvs(json.loads(page.read_bytes()))
        frame = pd.DataFrame(candles, columns=_NAMES)
        frame["opened_at"] = pd.to_datetime(frame["opened_at"], unit="ms", utc=True)
        if number == "decimal":
            for name in _NAMES[1:]:
                frame[name] = frame[name].map(Decimal)
        frame["venue"] = "binance"
        frame["market_id"] = f"binance:{base}/USDT"
        frame["interval"] = "1m"
        frame = frame.drop_duplicates(["market_id", "opened_at"], keep="last")
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if number == "decimal":
            money = [f.with_type(_MONEY) if pa.types.is_decimal(f.type) else f for f in table.schema]
            table = table.cast(pa.schema(money))
        pq.write_table(table, out / f"{symbol}.parquet")
