"""What the sandbox's streams sent, and what happened at the venues meanwhile: the lists that a collector is held to.

Belongs here: the records. Who sends is ``streams.py``, how a test asks is ``server.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

Held = tuple[str, int, int]
"""A run of trades: market, first and last number, all numbers in between included."""


class Opened(msgspec.Struct):
    """A websocket that was opened: its number, when in the market's time, what it subscribed to, how it ended.

    Where a fault has ended it for its client but not as a connection, ``ended`` says ``frozen`` or ``silent`` already.
    """

    number: int
    service: str
    opened_at: datetime
    symbols: list[str] = []
    n_messages: int = 0
    n_trades: int = 0
    closed_at: datetime | None = None
    ended: str = ""


class Sent(msgspec.Struct):
    """Trades that were sent on a connection one after the other, ``first_id`` to ``last_id`` without a gap.

    The numbers are those of ``Traded``. They were handed to the operating system; what a connection that was cut off
    had not delivered by then is among them.
    """

    connection: int
    service: str
    market_id: str
    first_id: int
    last_id: int

    def ids(self) -> range:
        """The numbers."""
        return range(self.first_id, self.last_id + 1)


class Traded(msgspec.Struct, frozen=True):
    """A trade as it was; numbers as exact decimal text, ``taker_side`` buy or sell.

    ``number`` is the trade's id where the stream has ids: aggregated trades' at Binance, single ones' at Coinbase. At
    Finnhub it is the single trade's at the venue, which is not sent. At CoinCap the row is an asset's price, without
    an amount or a side, and the number is its second.
    """

    market_id: str
    symbol: str
    number: int
    traded_us: int
    price: str
    quantity: str | None = None
    taker_side: str | None = None


class Ledger:
    """Connections and what they sent, from one event loop; others may read copies of the lists."""

    def __init__(self) -> None:
        self.connections: list[Opened] = []
        self.sent: list[Sent] = []
        self.markets: dict[str, dict[str, None]] = {}
        self._last: dict[tuple[int, str], Sent] = {}

    def opened(self, service: str, at: datetime) -> Opened:
        """Note a connection."""
        opened = Opened(len(self.connections) + 1, service, at)
        self.connections.append(opened)
        return opened

    def subscribed(self, opened: Opened, symbols: Iterable[str], markets: Iterable[str]) -> None:
        """Note what a connection is subscribed to now, as the provider and as the tape call it."""
        opened.symbols = list(symbols)
        self.markets.setdefault(opened.service, {}).update(dict.fromkeys(markets))

    def add(self, opened: Opened, held: Held) -> None:
        """Note a run of trades that was sent; one that continues the connection's last run of that market joins it."""
        market_id, first, last = held
        key = (opened.number, market_id)
        run = self._last.get(key)
        opened.n_trades += last - first + 1
        if run is not None and run.last_id + 1 == first:
            run.last_id = last
            return
        run = Sent(opened.number, opened.service, market_id, first, last)
        self._last[key] = run
        self.sent.append(run)
