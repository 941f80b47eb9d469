"""Coinbase Exchange's websocket (ws-feed.exchange.coinbase.com), channels ``matches`` and ``heartbeat``, from the tape.

Source: docs.cdp.coinbase.com, Exchange websocket overview and channels; its maintainers on refused products
(coinbase/coinbase-pro-node issue 174): a subscription that names one that does not exist is ignored as a whole. Who
subscribes to nothing for five seconds is disconnected. Ids and times are those of ``coinbase.py``; ``side`` is the
maker's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from crypto_assets.sandbox.coinbase import VENUE, product_of
from crypto_assets.sandbox.ledger import Traded
from crypto_assets.sandbox.noise import scrambled
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.streams import Connection, Message, Stream
from crypto_assets.sandbox.tape import Trades, microseconds
from crypto_assets.sandbox.texts import iso_us, texts

_PATIENCE_S = 5.0
_CHANNELS = ("matches", "heartbeat")
# Orders come and go between trades; their messages are not sent here, and count.
_STEPS = 16


class _Match(msgspec.Struct):
    type: str
    trade_id: int
    maker_order_id: str
    taker_order_id: str
    side: str
    size: str
    price: str
    product_id: str
    sequence: int
    time: str


class _Channel(msgspec.Struct):
    name: str
    product_ids: list[str] = []


class _Asked(msgspec.Struct):
    type: str
    product_ids: list[str] = []
    channels: list[str | _Channel] = []


def _error(reason: str, message: str = "Failed to subscribe") -> bytes:
    return msgspec.json.encode({"type": "error", "message": message, "reason": reason})


class CoinbaseStream(Stream):
    """Single trades; symbols are Coinbase's products."""

    venue = VENUE
    pulse_s = 1.0
    error = _error("please try again later", "Internal error")

    def spots(self) -> Mapping[str, SpotMarket]:
        return {product_of(spot): spot for spot in self.tape.begun(VENUE, microseconds(self.state.now()))}

    def messages(self, symbols: Sequence[str], start: int, end: int) -> list[Message]:
        spots = self.spots()
        found = [
            message
            for product in symbols
            if product in spots
            for message in _matches("match", spots[product], self.trades(spots[product], start, end))
        ]
        found.sort(key=lambda message: message.due_us)
        return found

    def truth(self, market_id: str, start: int, end: int) -> list[Traded]:
        spot = self.tape.markets[market_id]
        return traded(spot, product_of(spot), self.tape.trades_us(market_id, start, end))

    async def greet(self, connection: Connection) -> None:
        connection.soon(self._lose_patience(connection))

    async def _lose_patience(self, connection: Connection) -> None:
        await asyncio.sleep(_PATIENCE_S)
        if not connection.symbols:
            await connection.close(1000, "nothing was subscribed to")

    async def heard(self, connection: Connection, text: str) -> None:
        try:
            asked = msgspec.json.decode(text, type=_Asked)
        except msgspec.DecodeError:
            connection.say(_error("", "Malformed JSON"))
            return
        channels = [_Channel(each, asked.product_ids) if isinstance(each, str) else each for each in asked.channels]
        products = list(dict.fromkeys(name for each in channels for name in each.product_ids or asked.product_ids))
        if asked.type == "unsubscribe":
            await connection.unsubscribe(products)
            connection.say(self._subscriptions(connection))
            return
        if asked.type != "subscribe":
            connection.say(_error(f"{asked.type} is not a valid type", "Invalid message"))
            return
        wrong = [each.name for each in channels if each.name not in _CHANNELS]
        if wrong or not channels:
            connection.say(_error(f"{wrong[0]} is not a valid channel" if wrong else "No channels provided"))
            return
        spots = self.spots()
        refused = [name for name in products if name not in spots or connection.is_refused(name)]
        if refused:
            connection.say(*(_error(f"{name} is not a valid product") for name in refused))
            return
        new = [name for name in products if name not in connection.symbols]
        await connection.subscribe(new)
        connection.say(self._subscriptions(connection))
        connection.send(self._last(connection, new))

    def _subscriptions(self, connection: Connection) -> bytes:
        channels = [{"name": name, "product_ids": list(connection.symbols)} for name in _CHANNELS]
        return msgspec.json.encode({"type": "subscriptions", "channels": channels if connection.symbols else []})

    def _last(self, connection: Connection, products: Sequence[str]) -> list[Message]:
        """The last trade of each product before the subscription."""
        spots = self.spots()
        found: list[Message] = []
        for product in products:
            trades = self.tape.last_trades(spots[product].market_id, 1, connection.sent_us)
            found += _matches("last_match", spots[product], trades)[-1:]
        return found

    def pulse(self, connection: Connection) -> list[bytes]:
        spots = self.spots()
        us = microseconds(self.state.now())
        found = []
        for product in connection.symbols:
            quote = self.tape.quote(spots[product].market_id, us) if product in spots else None
            last = 0 if quote is None else quote.last_id
            found.append(
                msgspec.json.encode(
                    {
                        "type": "heartbeat",
                        "last_trade_id": last,
                        "product_id": product,
                        "sequence": last * _STEPS + 1,
                        "time": iso_us(us),
                    }
                )
            )
        return found


def traded(spot: SpotMarket, symbol: str, trades: Trades) -> list[Traded]:
    """The single trades in these, as the ledger has them."""
    raw = trades.split()
    return [
        Traded(spot.market_id, symbol, number, us, price, amount, "sell" if is_buyer_maker else "buy")
        for number, us, price, amount, is_buyer_maker in zip(
            raw.first_id.tolist(),
            raw.time_us.tolist(),
            texts(raw.price, spot.price_places),
            texts(raw.amount, spot.amount_places),
            raw.is_buyer_maker.tolist(),
            strict=True,
        )
    ]


def _matches(kind: str, spot: SpotMarket, trades: Trades) -> list[Message]:
    encode = msgspec.json.Encoder().encode
    product, found = product_of(spot), []
    for row in traded(spot, product, trades):
        match = _Match(
            kind,
            row.number,
            _order(spot.key + 2 * row.number),
            _order(spot.key + 2 * row.number + 1),
            "buy" if row.taker_side == "sell" else "sell",
            row.quantity or "",
            row.price,
            product,
            row.number * _STEPS,
            iso_us(row.traded_us),
        )
        found.append(Message(row.traded_us, encode(match), product, ((spot.market_id, row.number, row.number),)))
    return found


def _order(seed: int) -> str:
    return str(UUID(int=scrambled(seed) << 64 | scrambled(seed + 1)))
