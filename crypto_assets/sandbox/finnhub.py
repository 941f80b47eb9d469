"""Finnhub's websocket of trades (ws.finnhub.io), from the tapes of the venues: single trades without ids.

Source: finnhub.io/docs/api/websocket-trades, recorded messages, and its clients' reports. ``c`` is null, ``p`` and
``v`` are numbers, ``t`` is milliseconds; a message holds several trades of several symbols, not by time. Subscriptions
are not acknowledged. The 51st symbol is refused. A second connection with a token ends both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.websockets import WebSocket

from crypto_assets.sandbox import binance, coinbase, kraken
from crypto_assets.sandbox.coinbase_stream import traded
from crypto_assets.sandbox.ledger import Held, Traded
from crypto_assets.sandbox.replies import json_reply
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.streams import Connection, Message, Stream
from crypto_assets.sandbox.tape import SECOND_US, microseconds

MAX_SYMBOLS = 50
# A message gathers what happened in a tenth of a second, at most a dozen trades.
_WINDOW_US = SECOND_US // 10
_MOST_TRADES = 12
_NAMES = {"binance": binance.symbol_of, "coinbase": coinbase.product_of, "kraken": kraken.pair_of}


class _Trade(msgspec.Struct):
    c: None
    p: float
    s: str
    t: int
    v: float


class _Frame(msgspec.Struct):
    data: list[_Trade]
    type: str = "trade"


class _Asked(msgspec.Struct):
    type: str
    symbol: str = ""


# A trade before it is sent: its microsecond, symbol, price, quantity, market, number.
_Row = tuple[int, str, float, float, str, int]


def _error(msg: str) -> bytes:
    return msgspec.json.encode({"msg": msg, "type": "error"})


def symbol_of(spot: SpotMarket) -> str:
    """Finnhub's name of a market, e.g. BINANCE:BTCUSDT."""
    return f"{spot.venue.upper()}:{_NAMES[spot.venue](spot)}"


class FinnhubStream(Stream):
    """Single trades of all venues; symbols are Finnhub's."""

    error = _error("Internal error")
    plain = b"upstream connect error or disconnect/reset before headers"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._holders: dict[str, set[Connection]] = {}

    def spots(self) -> Mapping[str, SpotMarket]:
        us = microseconds(self.state.now())
        return {symbol_of(spot): spot for venue in _NAMES for spot in self.tape.begun(venue, us)}

    def window_us(self, speed: float) -> int:
        return int(_WINDOW_US * max(1.0, speed))

    def messages(self, symbols: Sequence[str], start: int, end: int) -> list[Message]:
        spots = self.spots()
        rows: list[_Row] = []
        for symbol in symbols:
            spot = spots[symbol]
            raw = self.trades(spot, start, end).split()
            # Dividing whole numbers by a power of ten gives the double whose shortest text is the decimal.
            prices = (raw.price / 10.0**spot.price_places).tolist()
            amounts = (raw.amount / 10.0**spot.amount_places).tolist()
            names = [symbol] * len(raw), [spot.market_id] * len(raw)
            rows += zip(raw.time_us.tolist(), names[0], prices, amounts, names[1], raw.first_id.tolist(), strict=True)
        rows.sort(key=lambda row: row[0])
        window = self.window_us(self.state.speed)
        encode = msgspec.json.Encoder().encode
        return [
            Message(frame[0][0], encode(_Frame([_trade(row) for row in _mixed(frame)])), frame[0][1], _holds(frame))
            for frame in _frames(rows, window)
        ]

    def with_update(self, message: Message) -> Message:
        frame = msgspec.json.decode(message.payload, type=_Frame)
        frame.data.append(msgspec.structs.replace(frame.data[-1], v=0.0))
        return message._replace(payload=msgspec.json.encode(frame))

    def truth(self, market_id: str, start: int, end: int) -> list[Traded]:
        spot = self.tape.markets[market_id]
        return traded(spot, symbol_of(spot), self.tape.trades_us(market_id, start, end))

    def refused(self, socket: WebSocket) -> Response | None:
        token = socket.query_params.get("token", "")
        if not token:
            return json_reply(401, {"error": "Please use an API key."})
        if self.state.keys is not None and token not in self.state.keys:
            return json_reply(401, {"error": "Invalid API key"})
        return None

    async def greet(self, connection: Connection) -> None:
        holders = self._holders.setdefault(connection.socket.query_params["token"], set())
        holders.add(connection)
        if len(holders) > 1:
            for each in list(holders):
                each.abort("its key was used by another connection")

    def left(self, connection: Connection) -> None:
        self._holders.get(connection.socket.query_params["token"], set()).discard(connection)

    def pulse(self, connection: Connection) -> list[bytes]:
        return [b'{"type":"ping"}']

    async def heard(self, connection: Connection, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Asked)
        except msgspec.DecodeError:
            connection.say(_error("Invalid message"))
            return
        if asked.type == "unsubscribe":
            await connection.unsubscribe([asked.symbol])
        elif asked.type != "subscribe":
            connection.say(_error(f"Unknown type {asked.type}"))
        elif asked.symbol not in self.spots() or connection.is_refused(asked.symbol):
            connection.say(_error(f"Invalid symbol {asked.symbol}"))
        elif asked.symbol not in connection.symbols and len(connection.symbols) >= MAX_SYMBOLS:
            connection.say(_error("Subscribing to too many symbols"))
        else:
            await connection.subscribe([asked.symbol])


def _frames(rows: Sequence[_Row], window: int) -> list[list[_Row]]:
    """The trades of each message. Those of one moment stay together: equal ones are told apart by their place."""
    found: list[list[_Row]] = []
    frame: list[_Row] = []
    most = 0
    for row in rows:
        us = row[0]
        if frame and us != frame[-1][0] and (len(frame) >= most or us // window != frame[0][0] // window):
            found.append(frame)
            frame = []
        if not frame:
            most = 1 + row[5] % _MOST_TRADES
        frame.append(row)
    if frame:
        found.append(frame)
    return found


def _mixed(frame: list[_Row]) -> list[_Row]:
    """Not by time: by symbol, and the last trade first now and then."""
    if len(frame) == 1:
        return frame
    mixed = sorted(frame, key=lambda row: row[1])
    return mixed[-1:] + mixed[:-1] if frame[0][5] % 2 else mixed


def _trade(row: _Row) -> _Trade:
    us, symbol, price, amount, _, _ = row
    return _Trade(None, price, symbol, us // 1000, amount)


def _holds(frame: list[_Row]) -> tuple[Held, ...]:
    if len(frame) == 1:
        return ((frame[0][4], frame[0][5], frame[0][5]),)
    found: list[Held] = []
    for market_id, number in sorted((row[4], row[5]) for row in frame):
        if found and found[-1][0] == market_id and found[-1][2] + 1 == number:
            found[-1] = (market_id, found[-1][1], number)
        else:
            found.append((market_id, number, number))
    return tuple(found)
