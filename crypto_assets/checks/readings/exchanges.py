"""Spot venues' answers, read a second time.

Binance, Kraken and Coinbase are read here by the places of their fields, without ccxt. Any other venue has no second
account of its shapes: its records are found by ccxt both times, and only the counts, times and digits that became of
them are looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from crypto_assets.checks.readings.reading import Answer, Reading, inside, milliseconds
from crypto_assets.providers.exchange_records import candles_in, ticker_in, trades_in
from crypto_assets.tables import raw
from crypto_assets.tables.contract import Contract
from crypto_assets.tables.trusted import CLOCK_SKEW, GENESIS

_CANDLES: Mapping[str, Sequence[str]] = {
    "binance": ("ms", "open", "high", "low", "close", "base", "_", "quote", "n", "taker base", "taker quote", "__"),
    "kraken": ("s", "open", "high", "low", "close", "vwap", "base", "n"),
    "coinbase": ("s", "low", "high", "open", "close", "base"),
}
_TRADES: Mapping[str, Mapping[str, Any]] = {
    "binance": {"id": "a", "price": "p", "amount": "q", "ms": "T"},
    "kraken": {"id": 6, "price": 0, "amount": 1, "s": 2},
    "coinbase": {"id": "trade_id", "price": "price", "amount": "size", "iso": "time"},
}
_TICKERS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "binance": {"last": ["lastPrice"], "bid": ["bidPrice"], "ask": ["askPrice"], "ms": ["closeTime"]},
    "kraken": {"last": ["c", 0], "bid": ["b", 0], "ask": ["a", 0]},
    "coinbase": {"last": ["price"], "bid": ["bid"], "ask": ["ask"], "iso": ["time"]},
}


def _told(answer: Answer) -> Any:
    """What the venue sent: of Kraken the one thing under its name of the pair."""
    told = json.loads(answer["body"].decode(errors="replace"), parse_float=str, parse_int=str)
    if _venue(answer) == "kraken" and isinstance(told, dict) and isinstance(told.get("result"), dict):
        return next((value for name, value in told["result"].items() if name != "last"), None)
    return told


def _venue(answer: Answer) -> str:
    return str(answer["subject"]).partition(":")[0]


def _ms(record: Any) -> int | None:
    """The record's time in milliseconds, however it is told."""
    if not isinstance(record, dict):
        return None
    if "ms" in record:
        return milliseconds(record["ms"])
    try:
        if "iso" in record:
            moment = datetime.fromisoformat(str(record["iso"]))
            return None if moment.tzinfo is None else int(Decimal(str(moment.timestamp())) * 1000)
        return int(Decimal(str(record.get("s"))) * 1000)
    except (ValueError, InvalidOperation, OverflowError):
        return None


def _is_counted(record: Any, answer: Answer) -> bool:
    """Whether it is of the answer's window, or of a time that cannot be: pages reach over their ends."""
    told = _ms(record)
    try:
        moment = None if told is None else datetime.fromtimestamp(told / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return True
    is_possible = moment is not None and GENESIS <= moment <= answer["ingested_at"] + CLOCK_SKEW
    return moment is None or not is_possible or answer["window_start_at"] <= moment < answer["window_end_at"]


def _candles(answer: Answer) -> Iterator[Any]:
    names = _CANDLES.get(_venue(answer))
    if names is None:
        by_ccxt = candles_in(answer["subject"], answer["body"])
        found: Iterator[Any] = (dict(zip(("ms", *_OHLCV), map(str, made), strict=False)) for _, made in by_ccxt if made)
    else:
        found = (dict(zip(names, sent, strict=False)) if isinstance(sent, list) else sent for sent in _told(answer))
    yield from (record for record in found if _is_counted(record, answer))


_OHLCV = ("open", "high", "low", "close", "base")


def _trades(answer: Answer) -> Iterator[Any]:
    places = _TRADES.get(_venue(answer))
    if places is None:
        by_ccxt = trades_in(answer["subject"], answer["body"])
        found: Iterator[Any] = ({**made, "ms": str(made["timestamp"])} for _, made in by_ccxt if made)
    else:
        found = ({name: _at(sent, [place]) for name, place in places.items()} for sent in _told(answer))
    yield from (record for record in found if _is_counted(record, answer))


def _tickers(answer: Answer) -> Iterator[Any]:
    places = _TICKERS.get(_venue(answer))
    if places is None:
        made = ticker_in(answer["subject"], answer["body"])
        yield {**made, "ms": str(made["timestamp"])}
    else:
        yield {name: _at(_told(answer), path) for name, path in places.items()}


def _at(sent: Any, path: Sequence[Any]) -> Any:
    for place in path:
        try:
            sent = sent[place]
        except (LookupError, TypeError):
            return None
    return sent


def _moment(record: Any, answer: Answer) -> datetime:
    return inside(_ms(record), answer)


def _refreshed(record: Any, answer: Answer) -> datetime:
    """A ticker's own time, or the answer's: raw is stamped with the former where it can be."""
    del record
    moment: datetime = answer["observed_at"]
    return moment


def _by(name: str) -> Callable[[Mapping[str, Any], Answer], tuple[str | None, ...]]:
    return lambda record, _: (None if record.get(name) is None else str(record[name]),)


READINGS: Mapping[type[Contract], Reading] = {
    raw.RawExchangeCandles: Reading(
        _candles,
        _moment,
        {
            "open": "open",
            "high": "high",
            "low": "low",
            "close": "close",
            "volume_base": "base",
            "volume_quote": "quote",
            "taker_buy_base": "taker base",
            "taker_buy_quote": "taker quote",
        },
        ("opened_at",),
        lambda record, _: (str(_ms(record)),),
    ),
    raw.RawExchangeTrades: Reading(
        _trades, _moment, {"price": "price", "quantity": "amount"}, ("trade_id",), _by("id")
    ),
    raw.RawExchangeTickers: Reading(
        _tickers,
        _refreshed,
        {"exchange_rate": "last", "bid_price": "bid", "ask_price": "ask"},
        ("market_id",),
        lambda _, answer: (answer["subject"],),
    ),
}
