"""Finnhub's websocket: trades of crypto markets, several a message, in JSON numbers and without ids.

Source: finnhub.io/docs/api/websocket-trades, and recorded messages. A key has one connection: a second one ends both.
A free key subscribes to some fifty symbols. Nothing is acknowledged; a refusal does not always name its symbol. A trade
without an amount is a price update and becomes a row of ``raw.stream_prices``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import msgspec
import polars as pl

from crypto_assets.providers.feed import UNREADABLE, Control, Decoded, Feed, Messages, Sign, printable
from crypto_assets.providers.ticks import Milliseconds, arrivals, decoded, prices, read, trades

NAME = "finnhub"
_US_PER_MS = 1000
# How its symbols name a venue's markets. Kraken's are its old pair names, which follow no rule.
_SYMBOLS = {
    "binance": "BINANCE:{base}{quote}",
    "coinbase": "COINBASE:{base}-{quote}",
    "bitfinex": "BITFINEX:{base}{quote}",
}
_NAMED = re.compile(r"[A-Z0-9_]+:[\w.-]+")


class _Trade(msgspec.Struct, gc=False):
    p: float
    s: str
    t: Milliseconds
    v: float
    c: list[str] | None = None


class _Message(msgspec.Struct, gc=False):
    data: list[_Trade]


class _Parts(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


class _Said(msgspec.Struct):
    type: str
    msg: str = ""


def symbol(market: str) -> str | None:
    """``binance:BTC/USDT`` is ``BINANCE:BTCUSDT``."""
    venue, _, pair = market.partition(":")
    base, _, told = pair.partition("/")
    return _SYMBOLS[venue].format(base=base, quote=told) if venue in _SYMBOLS and told else None


def _address(base: str, _: Sequence[str], key: str | None) -> str:
    return f"{base}?token={quote(key or '', safe='')}"


def _opening(symbols: Sequence[str]) -> list[str]:
    return [msgspec.json.encode({"type": "subscribe", "symbol": name}).decode() for name in symbols]


def _is_data(message: bytes) -> bool:
    return b'"trade"' in message[-20:] or message.startswith(b'{"data":[') or b'"trade"' in message[:24]


def _control(message: bytes) -> Control:
    try:
        said = msgspec.json.decode(message, type=_Said)
    except UNREADABLE:
        plain = printable(message)
        if "token" in plain.lower() or "api key" in plain.lower() or "limit" in plain.lower():
            return Control(Sign.DENIED, plain)
        return Control(Sign.BAD, f"unreadable: {plain}")
    if said.type == "ping":
        return Control(Sign.ALIVE)
    told = printable(said.msg.encode())
    if said.type != "error":
        return Control(Sign.BAD, f"unknown type {printable(said.type.encode())}")
    if "symbol" in told.lower():
        named = _NAMED.search(told)
        return Control(Sign.REFUSED, told, named.group() if named else None)
    if "api key" in told.lower() or "token" in told.lower() or "limit" in told.lower():
        return Control(Sign.DENIED, told)
    return Control(Sign.ERROR, told)


def _rest_of(message: bytes) -> _Message | None:
    """Those trades of a message that can be read, where one of them cannot."""
    found = []
    try:
        parts = msgspec.json.decode(message, type=_Parts).data
    except UNREADABLE:
        return None
    for part in parts:
        with suppress(*UNREADABLE):
            found.append(msgspec.json.decode(part, type=_Trade))
    return _Message(found)


def decode(messages: Messages) -> Decoded:
    """Rows of trade messages; numbers as the shortest text of their doubles, conditions as a JSON list."""
    found, places, bad = read(messages, _Message, _rest_of)
    told = [trade for message in found for trade in message.data]
    columns: dict[str, Any] = {
        "symbol": [trade.s for trade in told],
        "price": [trade.p for trade in told],
        "quantity": [trade.v for trade in told],
        "traded_us": [trade.t * _US_PER_MS for trade in told],
    }
    conditions = [trade.c for trade in told]
    if any(conditions):
        columns["conditions"] = [msgspec.json.encode(each).decode() if each else None for each in conditions]
    arrived = arrivals(messages, places, [len(message.data) for message in found])
    if all(columns["quantity"]):
        return decoded(trades(messages, arrived, columns), None, bad)
    is_trade = pl.Series([amount != 0 for amount in columns["quantity"]])
    kept = {name: [v for v, here in zip(values, is_trade, strict=True) if here] for name, values in columns.items()}
    updates = {
        "symbol": [trade.s for trade in told if trade.v == 0],
        "price": [trade.p for trade in told if trade.v == 0],
        "quoted_us": [trade.t * _US_PER_MS for trade in told if trade.v == 0],
    }
    return decoded(
        trades(messages, arrived.filter(is_trade), kept), prices(messages, arrived.filter(~is_trade), updates), bad
    )


FEED = Feed(
    name=NAME,
    service="finnhub",
    url="wss://ws.finnhub.io",
    symbol=symbol,
    address=_address,
    opening=_opening,
    is_data=_is_data,
    control=_control,
    decode=decode,
    key_name="FINNHUB_API_KEY",
    needs_key=True,
    is_exclusive=True,
    max_symbols=50,
    # It pings about once a minute.
    silent_after=150.0,
)
