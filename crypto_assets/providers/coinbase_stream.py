"""Coinbase Exchange's stream of trades (channel ``matches``), without a key.

Source: docs.cdp.coinbase.com, Exchange websocket channels. Its ids are those of its REST interface. ``side`` is the
maker's. The last trade before the subscription is sent again as ``last_match``, which is a trade like others.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from crypto_assets.providers.feed import UNREADABLE, Control, Decoded, Feed, Messages, Sign, printable
from crypto_assets.providers.ticks import of_single_trades, read

NAME = "coinbase_stream"
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_TAKER = {"buy": "sell", "sell": "buy"}


class _Trade(msgspec.Struct, gc=False):
    trade_id: int
    product_id: str
    price: str
    size: str
    side: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]


class _Said(msgspec.Struct):
    type: str
    message: str = ""
    reason: str = ""


def symbol(market: str) -> str | None:
    """``coinbase:BTC/USD`` is ``BTC-USD``."""
    venue, _, pair = market.partition(":")
    return pair.replace("/", "-") if venue == "coinbase" and "/" in pair else None


def _opening(symbols: Sequence[str]) -> list[str]:
    """A message a product: one that names a product which does not exist is ignored as a whole."""
    channels = ["matches", "heartbeat"]
    return [
        msgspec.json.encode({"type": "subscribe", "product_ids": [name], "channels": channels}).decode()
        for name in symbols
    ]


def _is_data(message: bytes) -> bool:
    return message.startswith((b'{"type":"match"', b'{"type":"last_match"'))


def _control(message: bytes) -> Control:
    try:
        said = msgspec.json.decode(message, type=_Said)
    except UNREADABLE:
        return Control(Sign.BAD, f"unreadable: {printable(message)}")
    if said.type in {"subscriptions", "heartbeat"}:
        return Control(Sign.ALIVE)
    if said.type == "error":
        told = printable(f"{said.message}: {said.reason}".strip(": ").encode())
        named = told.split(" is not a valid product")[0].split()[-1:] if "not a valid product" in told else []
        return Control(Sign.REFUSED, told, named[0]) if named else Control(Sign.ERROR, told)
    return Control(Sign.BAD, f"unknown type {printable(said.type.encode())}")


def decode(messages: Messages) -> Decoded:
    """Rows of matches; ``traded_us`` as fine as Coinbase says it."""
    told, places, bad = read(messages, _Trade)
    columns: dict[str, list[Any]] = {
        "symbol": [trade.product_id for trade in told],
        "trade_id": [str(trade.trade_id) for trade in told],
        "price": [trade.price for trade in told],
        "quantity": [trade.size for trade in told],
        "n_trades": [1] * len(told),
        "taker_side": [_TAKER.get(trade.side) for trade in told],
        "traded_us": [_microseconds(trade.time) for trade in told],
    }
    return of_single_trades(messages, places, columns, bad)


def _microseconds(moment: datetime) -> int:
    past = moment - _EPOCH
    return (past.days * 86_400 + past.seconds) * 1_000_000 + past.microseconds


FEED = Feed(
    name=NAME,
    service="coinbase",
    url="wss://ws-feed.exchange.coinbase.com",
    symbol=symbol,
    address=lambda base, _symbols, _key: base,
    opening=_opening,
    is_data=_is_data,
    control=_control,
    decode=decode,
    # A message a product, and a client may send a hundred a second: opening twice in one must fit.
    max_symbols=50,
)
