"""CoinCap's websocket of prices (wss.coincap.io/prices), from the market: the assets whose price changed, each second.

Source: its v2 and v3 contracts, and its clients. A message is a map of asset to price in text. A key that is refused is
a line of plain text that begins with ``Unauthorized``, and the end. An asset that does not exist is no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from crypto_assets.sandbox.digits import shortest
from crypto_assets.sandbox.ledger import Traded
from crypto_assets.sandbox.noise import digest, scrambled_at
from crypto_assets.sandbox.replies import key_of
from crypto_assets.sandbox.spot import SpotMarket
from crypto_assets.sandbox.streams import Connection, Message, Stream
from crypto_assets.sandbox.tape import SECOND_US

# An asset's price changes in one second of so many.
_EVERY = 3
UNAUTHORIZED = b"Unauthorized: a paid plan and its API key are needed for websockets"


class CoincapStream(Stream):
    """Prices; symbols and market ids are CoinCap's assets. A price's number is its second."""

    paths = ("/ws/prices",)
    error = b'{"error":"Internal server error"}'

    def spots(self) -> Mapping[str, SpotMarket]:
        return {}

    def markets(self, symbols: Iterable[str]) -> list[str]:
        return list(symbols)

    def window_us(self, speed: float) -> int:
        return SECOND_US

    def messages(self, symbols: Sequence[str], start: int, end: int) -> list[Message]:
        changed: dict[int, dict[str, str]] = {}
        for asset in symbols:
            for row in self.truth(asset, start, end):
                changed.setdefault(row.number, {})[asset] = row.price
        return [
            Message(
                second * SECOND_US,
                msgspec.json.encode(prices),
                next(iter(prices)),
                tuple((asset, second, second) for asset in prices),
            )
            for second, prices in sorted(changed.items())
        ]

    def truth(self, market_id: str, start: int, end: int) -> list[Traded]:
        seconds = np.arange(-(-start // SECOND_US), -(-end // SECOND_US), dtype=np.int64)
        key = digest(self.market.seed, "prices", market_id)
        seconds = seconds[scrambled_at(key, seconds) % np.uint64(_EVERY) == 0]
        prices = self.market.prices(market_id, seconds.astype(np.float64))
        return [
            Traded(market_id, market_id, second, second * SECOND_US, shortest(price, "v3"))
            for second, price in zip(seconds.tolist(), prices.tolist(), strict=True)
        ]

    async def greet(self, connection: Connection) -> None:
        if self.state.keys is not None and key_of(connection.socket) not in self.state.keys:
            connection.say(UNAUTHORIZED)
            await connection.close(1008, "no key")
            return
        asked = connection.socket.query_params.get("assets", "")
        names = [row["id"] for row in self.market.assets(self.state.now())] if asked == "ALL" else asked.split(",")
        known = [name for name in names if self.market.base_price(name) is not None]
        await connection.subscribe([name for name in known if not connection.is_refused(name)])

    async def heard(self, connection: Connection, text: str) -> None:
        """It listens to nothing."""
