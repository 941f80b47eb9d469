"""Binance's websocket of aggregated trades as data-stream.binance.vision sends it, from the tape.

Source: binance-spot-api-docs of 2026-07, web-socket-streams. What is subscribed to stands in the address
(``/ws/stream?streams=a/b`` is the combined stream, ``/ws/ws/a/b`` the raw one) or in SUBSCRIBE messages. A stream that
does not exist is no error and says nothing. Ids and times are those of ``binance.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.routing import WebSocketRoute

from crypto_assets.sandbox.binance import VENUE, symbol_of
from crypto_assets.sandbox.ledger import Traded
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.streams import Connection, Message, Stream
from crypto_assets.sandbox.tape import microseconds
from crypto_assets.sandbox.texts import texts

_KIND = "@aggTrade"


class _AggTrade(msgspec.Struct):
    e: str
    E: int
    s: str
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741 - Binance's name
    T: int
    m: bool
    M: bool


class _Combined(msgspec.Struct):
    stream: str
    data: _AggTrade


class _Asked(msgspec.Struct):
    method: str
    id: int | str | None = None
    params: list[str] = []


def _refusal(code: int, msg: str, asked: object = None) -> bytes:
    return msgspec.json.encode({"error": {"code": code, "msg": msg}, "id": asked})


class BinanceStream(Stream):
    """Aggregated trades; symbols are Binance's, in capitals."""

    paths = ("/ws/stream",)
    venue = VENUE
    is_raw = False
    error = _refusal(1, "Invalid value type: expected Boolean")

    def routes(self) -> list[WebSocketRoute]:
        raw = () if self.is_raw else _Raw(self.service, self.market, self.state).routes()
        return [*super().routes(), *raw]

    def spots(self) -> Mapping[str, SpotMarket]:
        return {symbol_of(spot): spot for spot in self.tape.begun(VENUE, microseconds(self.state.now()))}

    def messages(self, symbols: Sequence[str], start: int, end: int) -> list[Message]:
        encode = msgspec.json.Encoder().encode
        spots = self.spots()
        found: list[Message] = []
        for symbol in symbols:
            if symbol not in spots:
                continue
            spot = spots[symbol]
            trades = self.trades(spot, start, end)
            stream = symbol.lower() + _KIND
            for a, us, p, q, f, last, m in zip(
                trades.agg_id.tolist(),
                trades.time_us.tolist(),
                texts(trades.price, spot.price_places),
                texts(trades.amount, spot.amount_places),
                trades.first_id.tolist(),
                trades.last_id.tolist(),
                trades.is_buyer_maker.tolist(),
                strict=True,
            ):
                ms = us // 1000
                trade = _AggTrade("aggTrade", ms, symbol, a, p, q, f, last, ms, m, True)
                payload = encode(trade if self.is_raw else _Combined(stream, trade))
                found.append(Message(us, payload, symbol, ((spot.market_id, a, a),)))
        found.sort(key=lambda message: message.due_us)
        return found

    def truth(self, market_id: str, start: int, end: int) -> list[Traded]:
        spot = self.tape.markets[market_id]
        trades = self.tape.trades_us(market_id, start, end)
        return [
            Traded(market_id, symbol_of(spot), a, us, p, q, "sell" if m else "buy")
            for a, us, p, q, m in zip(
                trades.agg_id.tolist(),
                trades.time_us.tolist(),
                texts(trades.price, spot.price_places),
                texts(trades.amount, spot.amount_places),
                trades.is_buyer_maker.tolist(),
                strict=True,
            )
        ]

    async def greet(self, connection: Connection) -> None:
        names = {**connection.socket.query_params, **connection.socket.path_params}.get("streams", "")
        await connection.subscribe(_wanted(connection, names.split("/")))

    async def heard(self, connection: Connection, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Asked)
        except msgspec.DecodeError as wrong:
            connection.say(_refusal(3, f"Invalid JSON: {wrong}"))
            return
        if asked.method == "SUBSCRIBE":
            connection.say(msgspec.json.encode({"result": None, "id": asked.id}))
            await connection.subscribe(_wanted(connection, asked.params))
        elif asked.method == "UNSUBSCRIBE":
            await connection.unsubscribe(_symbols(asked.params))
            connection.say(msgspec.json.encode({"result": None, "id": asked.id}))
        elif asked.method == "LIST_SUBSCRIPTIONS":
            names = [name.lower() + _KIND for name in connection.symbols]
            connection.say(msgspec.json.encode({"result": names, "id": asked.id}))
        else:
            connection.say(_refusal(2, "Invalid request: unknown method", asked.id))


class _Raw(BinanceStream):
    """As the combined stream, without saying which stream a trade is of."""

    paths = ("/ws/ws/{streams:path}",)
    is_raw = True


def _symbols(names: Sequence[str]) -> list[str]:
    return [name.removesuffix(_KIND).upper() for name in names if name.endswith(_KIND)]


def _wanted(connection: Connection, names: Sequence[str]) -> list[str]:
    return [symbol for symbol in _symbols(names) if not connection.is_refused(symbol)]
