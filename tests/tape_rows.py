"""Rows of trusted trades and candles made straight from the sandbox's tape, without a provider in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from crypto_assets.sandbox.events import Events
from crypto_assets.sandbox.market import Market
from crypto_assets.sandbox.tape import Tape, tape_of
from crypto_assets.tables import trusted
from crypto_assets.tables.contract import Contract, polars_schema


def tape() -> Tape:
    return tape_of(Market(7), Events())


def day(number: int, hour: int = 0, minute: int = 0, month: int = 1) -> datetime:
    """A moment of 2025; its first of January is a Wednesday."""
    return datetime(2025, month, number, hour, minute, tzinfo=UTC)


def trades_of(market_id: str, start: datetime, end: datetime, **facts: Any) -> pl.DataFrame:
    """The market's trades as they would be in ``trusted.trades``, arrived an hour after the end."""
    return frame(trusted.Trades, market_id, tape().trades(market_id, start, end).records(), end, facts)


def candles_of(
    market_id: str, interval: str, start: datetime, end: datetime, *, is_filled: bool = False, **facts: Any
) -> pl.DataFrame:
    """The market's candles as they would be in ``trusted.candles``, arrived an hour after the end."""
    found = tape().candles(market_id, interval, start, end, until=end, is_filled=is_filled)
    return frame(trusted.Candles, market_id, found.records(), end, {"interval": interval, **facts})


def frame(
    contract: type[Contract],
    market_id: str,
    records: Iterable[Mapping[str, Any]],
    end: datetime,
    facts: Mapping[str, Any],
) -> pl.DataFrame:
    schema = polars_schema(contract)
    venue, symbols = market_id.split(":")
    base, quote = symbols.split("/")
    plain = dict.fromkeys(schema) | {
        "venue": venue,
        "market_id": market_id,
        "base_symbol": base,
        "quote_symbol": quote,
        "provider": "tape",
        "ingested_at": end + timedelta(hours=1),
        "pull_id": "tape",
        "n_duplicates": 0,
    }
    rows = []
    for record in records:
        row = plain | {name: value for name, value in record.items() if name in schema} | facts
        at = row.get("opened_at") or row["traded_at"]
        row |= {"date": at.date(), "month": at.date().replace(day=1)}
        if contract is trusted.Trades:
            # Clocks hold milliseconds; traded_us has the rest.
            cut = at.replace(microsecond=at.microsecond // 1000 * 1000)
            row |= {"trade_id": str(record["trade_id"]), "traded_at": cut}
        rows.append({name: row[name] for name in schema})
    return pl.DataFrame(rows, schema=schema)
