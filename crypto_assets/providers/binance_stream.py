"""Binance's stream of aggregated trades, from its market-data host, without a key.

Source: binance-spot-api-docs, web-socket-streams (2026-07). What is subscribed to stands in the address. Ids and times
are those of its REST interface and of its archive, so that a trade is one whichever way it came. A connection ends
after a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from crypto_assets.providers.feed import UNREADABLE, Control, Decoded, Feed, Messages, Sign, printable
from crypto_assets.providers.ticks import Milliseconds, few, of_single_trades, read

NAME = "binance_stream"
_US_PER_MS = 1000


_ABSENT = msgspec.Raw()


class _Trade(msgspec.Struct, gc=False):
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - Binance's name
    T: Milliseconds
    m: bool


class _Message(msgspec.Struct, gc=False):
    data: _Trade


class _Error(msgspec.Struct):
    code: int | None = None
    msg: str = "no reason"


class _Said(msgspec.Struct):
    error: _Error | None = None
    result: msgspec.Raw = _ABSENT
    id: msgspec.Raw = _ABSENT


def symbol(market: str) -> str | None:
    """``binance:BTC/USDT`` is ``BTCUSDT``."""
    venue, _, pair = market.partition(":")
    return pair.replace("/", "") if venue == "binance" and "/" in pair else None


def _address(base: str, symbols: Sequence[str], _: str | None) -> str:
    return f"{base}/stream?streams=" + "/".join(f"{name.lower()}@aggTrade" for name in symbols)


def _control(message: bytes) -> Control:
    try:
        said = msgspec.json.decode(message, type=_Said)
    except UNREADABLE:
        return Control(Sign.BAD, f"unreadable: {printable(message)}")
    if said.error is not None:
        return Control(Sign.ERROR, printable(f"{said.error.msg} ({said.error.code})".encode()))
    return Control(Sign.ALIVE) if bytes(said.id) else Control(Sign.BAD, f"unknown message: {printable(message)}")


def decode(messages: Messages) -> Decoded:
    """Rows of aggregated trades: one taker's trades at one price."""
    found, places, bad = read(messages, _Message)
    told = [message.data for message in found]
    columns: dict[str, list[Any]] = {
        "symbol": [trade.s for trade in told],
        "trade_id": [str(trade.a) for trade in told],
        "price": [trade.p for trade in told],
        "quantity": [trade.q for trade in told],
        "n_trades": [few(trade.l - trade.f + 1) for trade in told],
        "taker_side": ["sell" if trade.m else "buy" for trade in told],
        "traded_us": [trade.T * _US_PER_MS for trade in told],
    }
    return of_single_trades(messages, places, columns, bad)


FEED = Feed(
    name=NAME,
    service="binance",
    url="wss://data-stream.binance.vision",
    symbol=symbol,
    address=_address,
    opening=lambda _: (),
    is_data=lambda message: b"@aggTrade" in message[:64],
    control=_control,
    decode=decode,
    max_symbols=200,
)
